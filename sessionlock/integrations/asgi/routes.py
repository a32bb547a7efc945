"""By which route an ASGI application will answer, asked before it has looked for itself."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

from ..web.rules import NO_ROUTE

__all__ = ["route_of_scope"]

DEEP = 16  # mounts within each other


def route_of_scope(scope: MutableMapping[str, Any]) -> str | None:
    """The pattern, ``/cart/{id}``; None: this application has no router that we know (Starlette's, Litestar's)."""
    template = scope.get("path_template")  # Litestar has looked already
    if isinstance(template, str):
        return template or NO_ROUTE
    routes = getattr(getattr(scope.get("app"), "router", None), "routes", None)
    if routes is None:
        return None
    try:
        return _found(routes, scope, DEEP) or NO_ROUTE
    except Exception:  # somebody's own kind of route, which looks for what is not there yet
        return None


def _found(routes: Iterable[Any], scope: MutableMapping[str, Any], deep: int) -> str | None:
    """As Starlette's router chooses: the first that fits, else the first that would with another method."""
    partly = None
    for route in routes:
        match, more = route.matches(scope)
        if match.name == "NONE":
            continue
        template = _template(route, {**scope, **more}, deep)
        if match.name == "FULL":
            return template
        partly = partly or template
    return partly


def _template(route: Any, scope: MutableMapping[str, Any], deep: int) -> str:
    included = getattr(route, "effective_candidates", None)  # FastAPI's included routers, in later versions
    below = getattr(route, "routes", None) if included is None else included()
    path = str(getattr(route, "path", None) or "")
    if not below or deep == 0:
        return path
    return path + (_found(below, scope, deep - 1) or "/**")
