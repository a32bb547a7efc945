"""By which route an ASGI application will answer, asked before it has looked for itself."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

from ..web.naming import NO_ROUTE
from .checks import layers

__all__ = ["route_of_scope"]

DEEP = 16  # mounts within each other


def route_of_scope(scope: MutableMapping[str, Any], inside: Any = None) -> str | None:
    """The pattern, ``/cart/{id}``; None: this application has no router that we know (Starlette's, Litestar's).

    ``scope``: as it is before a router sees it, for those write into it. ``inside``: what it is going to be given to,
    where no application has put itself into it.
    """
    template = scope.get("path_template")  # Litestar has looked already
    if isinstance(template, str):
        return template or NO_ROUTE
    routers = (getattr(layer, "router", None) for layer in layers(scope.get("app", inside)))
    routes = next((found for router in routers if (found := getattr(router, "routes", None)) is not None), None)
    if routes is None:
        return None
    try:
        return _found(routes, scope, DEEP) or NO_ROUTE
    except Exception:  # somebody's own kind of route, which looks for what is not there yet
        return None


def _found(routes: Iterable[Any], scope: MutableMapping[str, Any], deep: int) -> str | None:
    """As Starlette's router chooses: the first that fits. One that would with another method is answered 405: it has no
    name of its own, or whoever sends methods makes names.
    """
    for route in routes:
        match, more = route.matches(scope)
        if match.name == "FULL":
            return _template(route, {**scope, **more}, deep)
    return None


def _template(route: Any, scope: MutableMapping[str, Any], deep: int) -> str:
    included = getattr(route, "effective_candidates", None)  # FastAPI's included routers, in later versions
    below = getattr(route, "routes", None) if included is None else included()
    path = str(getattr(route, "path", None) or "")
    if not below or deep == 0:
        return path
    return path + (_found(below, scope, deep - 1) or "/**")
