"""Where a request carries its session id: ``cookie("session_id")``, ``header("x-session")``.

They find the request among a view's arguments (Starlette, FastAPI, Litestar, Django, aiohttp, Sanic), in
``self.request`` of a class-based view, or in the context (Flask, Quart). A request is known by what it looks like; no
framework is imported here.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

from .errors import ConfigurationError, SessionNotFound

__all__ = ["SidFrom", "cookie", "find_request", "header"]

# What a view is called with -> the session id. An async view's may be async.
SidFrom = Callable[..., "str | Awaitable[str]"]


def cookie(name: str) -> Callable[..., str]:
    """The session id is the value of the cookie ``name``.

    Raises (when called):
        SessionNotFound: the request has no such cookie. ConfigurationError: no request was found.
    """

    def sid_from_cookie(*args: Any, **kwargs: Any) -> str:
        request = find_request(args, kwargs)
        cookies = request.COOKIES if hasattr(request, "COOKIES") else request.cookies
        return _present(cookies.get(name), f"cookie {name!r}")

    return sid_from_cookie


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
    """The request of a framework that keeps it in the context. If none of them is imported, none is serving."""
    for framework in ("quart", "flask"):
        module = sys.modules.get(framework)
        for kind in ("request", "websocket"):
            if getattr(module, f"has_{kind}_context", bool)():
                return getattr(module, kind)
    return None


def _present(sid: str | None, where: str) -> str:
    if not sid:
        raise SessionNotFound(f"the request has no session id: its {where} is missing")
    return sid
