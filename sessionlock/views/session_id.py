"""Where a request carries its session id: ``cookie("session_id")``, ``header("x-session")``. A cookie is given, too.

They find the request among a view's arguments (Starlette, FastAPI, Litestar, Django, aiohttp, Sanic), in
``self.request`` of a class-based view, or in the context (Flask, Quart). A request is known by what it looks like; no
framework is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ConfigurationError, SessionNotFound
from .cookies import CookieSettings, usable_sid

__all__ = ["SidCookie", "SidFrom", "cookie", "find_request", "header", "serving"]

# What a view is called with -> the session id. An async view's may be async.
SidFrom = Callable[..., "str | Awaitable[str]"]


@dataclass(frozen=True, slots=True)
class SidCookie:
    """What :func:`cookie` makes: the source of ids, which also knows how the answer's cookie is written."""

    settings: CookieSettings

    def __call__(self, *args: Any, **kwargs: Any) -> str:
        request = find_request(args, kwargs)
        cookies = request.COOKIES if hasattr(request, "COOKIES") else request.cookies
        sid = usable_sid(cookies.get(self.settings.name))
        return _present(sid, f"cookie {self.settings.name!r}")


def cookie(
    name: str,
    *,
    max_age: int | Literal["idle"] | None = "idle",
    path: str = "/",
    domain: str | None = None,
    secure: bool | Literal["auto"] = "auto",
    httponly: bool = True,
    samesite: Literal["lax", "strict", "none"] | None = "lax",
) -> SidCookie:
    """The session id is the value of the cookie ``name``, which ``@session_locked`` also sets and clears.

    The other options say how it is set. ``max_age``: seconds for which the browser keeps it, None until it is closed;
    ``"idle"``: for as long as the session lives without a request. ``secure``: True, False, or ``"auto"``: when the
    request came by https. ``samesite`` None: no such attribute. ``domain`` None: this host only.

    Raises:
        ConfigurationError: no such cookie can be set.
    Raises (when called):
        SessionNotFound: the request has no such cookie. ConfigurationError: no request was found.
    """
    return SidCookie(
        CookieSettings(
            name, max_age=max_age, path=path, domain=domain, secure=secure, httponly=httponly, samesite=samesite
        )
    )


def header(name: str) -> Callable[..., str]:
    """The session id is the value of the header ``name`` (of any case).

    Raises (when called):
        SessionNotFound: the request has no such header. ConfigurationError: no request was found.
    """

    def sid_from_header(*args: Any, **kwargs: Any) -> str:
        return _present(find_request(args, kwargs).headers.get(name), f"header {name!r}")

    return sid_from_header


def find_request(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The request (or websocket) that a view was called for.

    Raises:
        ConfigurationError: there is none.
    """
    for argument in (*args, *kwargs.values()):
        if _looks_like_request(argument):
            return argument
    request = _of_context()
    if request is not None:
        return request
    own = getattr(args[0], "request", None) if args else None
    if _looks_like_request(own):
        return own
    raise ConfigurationError(
        "no request was found among the view's arguments. Give the view a parameter for it (`request: Request`), or use"
        " a callable of your own: @session_locked(lambda *args, **kwargs: sid)"
    )


def _looks_like_request(thing: Any) -> bool:
    return (
        hasattr(thing, "headers")
        and (hasattr(thing, "cookies") or hasattr(thing, "COOKIES"))
        and (hasattr(thing, "method") or hasattr(thing, "scope"))
    )


def _of_context() -> Any:
    for kind in ("request", "websocket"):
        module = serving(kind)
        if module is not None:
            return getattr(module, kind)
    return None


def serving(kind: str = "request") -> Any:
    """The framework, of those that keep the request (or websocket) in the context, that is handling one here; or None.

    If none of them is imported, none is serving.
    """
    for framework in ("quart", "flask"):
        module = sys.modules.get(framework)
        if getattr(module, f"has_{kind}_context", bool)():
            return module
    return None


def _present(sid: str | None, where: str) -> str:
    if not sid:
        raise SessionNotFound(f"the request has no session id: its {where} is missing")
    return sid
