"""ASGI middlewares that stand in each other's way, and what goes around an answer: found by looking at the application.

Several middlewares that each put a session into the scope are the commonest mistake of a set-up: the innermost one's is
the session that the application sees, and the others guard nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

__all__ = ["around", "is_mounted", "layers", "misplaced", "outside", "taken_by_another"]

App = Callable[[Any, Any, Any], Awaitable[Any]]

# Packages whose class SessionMiddleware puts a session into the scope. A name alone proves nothing: there are database
# sessions, too.
PACKAGES = ("starlette", "starsessions", "starlette_session", "starlette_securecookie", "asgi_sessions", "litestar")
ORDER = "The order, outermost first: CORSMiddleware, SessionLockMiddleware, whatever uses request.session"
DEEP = 100  # middlewares; more than any application has


def misplaced(ours: object, app: App, scope_app: object) -> list[str]:
    """What is wrong with the middlewares around ``ours``, whose inner application is ``app``, in sentences.

    ``scope_app``: the Starlette application that is being called, if it is one.
    """
    kind = type(ours)
    listed = _listed(scope_app)
    at = next((index for index, cls in enumerate(listed) if _is(cls, kind)), None)
    before = [] if at is None else [cls for cls in listed[:at] if _keeps_sessions(cls)]
    inside = [cls for cls in _inside(app) if _keeps_sessions(cls)]
    return [
        *(
            f"{_name(cls)} stands outside {kind.__name__}: its session never reaches the application."
            f" Remove it. {ORDER}"
            for cls in before
        ),
        *(
            f"{_name(cls)} stands inside {kind.__name__} and takes its place: request.session is not locked, and"
            f" is kept elsewhere. Remove it. {ORDER}"
            for cls in inside
        ),
        *(
            f"{_name(cls)} stands inside {kind.__name__}: quart.session is not what a middleware puts into the scope,"
            " so nothing is locked. Use sessionlock.integrations.quart.SessionLock(app, guard) instead"
            for cls in map(type, map(_owner, layers(app)))
            if any(base.__name__ == "Quart" and base.__module__.split(".")[0] == "quart" for base in cls.__mro__)
        ),
    ]


def taken_by_another(found: object) -> str:
    """Something inside has put a session of its own where ours was, for the whole application."""
    return (
        f"something inside SessionLockMiddleware has put a {_name(type(found))} into scope['session']: the application"
        " uses that instead, which is not locked and not saved by us. Is there another session middleware inside?"
        f" {ORDER}; one for a part of the application belongs into a mounted application of its own"
    )


def outside(found: object) -> str:
    """Something outside has put a session of its own into the scope, which the application will not see."""
    return (
        f"a {_name(type(found))} stands in scope['session'] already where SessionLockMiddleware begins: another session"
        f" middleware stands outside, and its session never reaches the application. Remove it. {ORDER}"
    )


def is_mounted(scope: Any) -> bool:
    """Whether Starlette has mounted what is called with this scope below another application."""
    return "app_root_path" in scope and scope["app_root_path"] != scope.get("root_path", "")


def around(app: App) -> Callable[[App], App]:
    """What gives an answer of ours the headers that browsers need from anybody: the CORS middlewares inside."""
    found = [layer for layer in layers(app) if _is_cors(type(layer))]

    def wrapped(answer: App) -> App:
        for layer in reversed(found):
            twin: Any = copy.copy(layer)
            twin.app = answer
            answer = twin
        return answer

    return wrapped


def layers(app: Any) -> Iterator[Any]:
    """An application, the one inside it, and so on, as far as that can be seen; not what a router leads to."""
    for _ in range(DEEP):
        if app is None:
            return
        yield app
        app = getattr(app, "middleware_stack", None) or getattr(app, "app", None)


def _inside(app: Any) -> Iterator[type]:
    """The classes of what stands inside, also where an application has not made its middlewares yet."""
    for layer in layers(app):
        yield type(layer)
        if getattr(layer, "middleware_stack", None) is None:
            yield from _listed(layer)


def _listed(app: Any) -> list[type]:
    """The classes of a Starlette application's middlewares, outermost first."""
    found = getattr(app, "user_middleware", None)
    return [entry.cls for entry in found if isinstance(getattr(entry, "cls", None), type)] if found else []


def _is(cls: type, kind: type) -> bool:
    return issubclass(cls, kind) or issubclass(kind, cls)


def _owner(app: Any) -> Any:
    """``quart_app.asgi_app`` is the application, too."""
    return getattr(app, "__self__", app)


def _keeps_sessions(cls: type) -> bool:
    return _descends(cls, "SessionMiddleware")


def _is_cors(cls: type) -> bool:
    return _descends(cls, "CORSMiddleware")


def _descends(cls: type, name: str) -> bool:
    return any(base.__name__ == name and base.__module__.split(".")[0] in PACKAGES for base in cls.__mro__)


def _name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
