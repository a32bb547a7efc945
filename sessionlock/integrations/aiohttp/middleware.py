"""Sessions for aiohttp's servers.

::

    app = web.Application()
    setup(app, "redis://localhost:6379/0")

    async def add(request):                              # POST: locked when the handler asks for the session
        session = await get_session(request)             # a dict; session.sessionlock is the sessionlock.Session behind
        session.setdefault("cart", []).append("A")       # deep changes are noticed
        return web.Response()

A handler that does not ask costs nothing. GET, HEAD and OPTIONS do not wait; one that changed the session and met a
conflict runs once more, under the lock. Before the answer begins the session is saved and the lock released: streams
and websockets never hold it. A request that fails (an exception, a status of 500 and above) saves nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ...default import default_guard
from ...errors import ConfigurationError
from ...guard import SessionGuard
from ...views.cookies import CookieSettings
from ..settings import check_arguments
from ..settings.options import FaceOptions, FaceSettings
from ..web.identity import IDENTITY
from ..web.mapping import WebSession
from ..web.request_session import RequestSession
from ..web.starting import look_at_start
from ..web.values import for_framework
from .request import Handler, SessionOfRequest, of_request, run
from .settings import Settings

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SETTINGS", "get_session", "locked_session", "setup", "visit_of"]

SETTINGS = web.AppKey("sessionlock.settings", Settings)
SECURITY = "AIOHTTP_SECURITY"  # where aiohttp-security keeps who is logged in
SESSIONS = "aiohttp_session"


def setup(
    app: web.Application,
    guard: SessionGuard | str | None = None,
    *,
    cookie: CookieSettings | str | None = None,
    **options: Unpack[FaceOptions],
) -> None:
    """Give every request of ``app`` and its sub-applications a session. Call it once, on the outermost application.

    ``guard``: a guard, or a URL for one of its own, which is closed with the application; None: that of
    :func:`sessionlock.configure`. ``cookie``: settings, or just the name. The rest: :class:`.FaceOptions`.

    What is wrong with the set-up is an error as the application starts; a store that cannot be reached is logged then.

    Raises:
        ConfigurationError: a value that makes no sense, or a second call.
    """
    check_arguments(guard=guard, cookie=cookie, **options)
    if SETTINGS in app:
        raise ConfigurationError("this application has its sessions already: call setup() once")
    kept = SessionGuard.from_url(guard) if isinstance(guard, str) else guard or default_guard()
    how = app[SETTINGS] = Settings(
        kept,
        CookieSettings(cookie) if isinstance(cookie, str) else cookie or CookieSettings(),
        FaceSettings.of(options, identity=(*IDENTITY, SECURITY)),
        for_framework(kept.codec, json.dumps, json.loads),
        guard if isinstance(guard, str) else None,
        cookie is not None,
    )
    app.middlewares.insert(0, _middleware(how))
    app.on_response_prepare.append(_as_it_begins)
    app.on_startup.append(_start)
    app.on_cleanup.append(_close)


async def get_session(request: web.BaseRequest) -> WebSession:
    """The session of this request, a dict. The first call locks and loads it; what it costs, the others have for
    nothing.

    After the answer has begun (in a stream or a websocket) it is a snapshot: what is written stays in it, and is logged
    once as not saved.

    Raises:
        WaitTimedOut, QueueFull, ReentrantLock, RedisUnavailable, CodecError: left alone they become the answer.
        ConfigurationError: :func:`setup` was not called.
    """
    return await _of(request).session()


def locked_session(request: web.BaseRequest) -> AbstractAsyncContextManager[WebSession]:
    """``async with locked_session(request) as session``: hold the lock in this block, in a request that otherwise does
    not (a GET); saved and released at its end. Raises what opening and saving a locked session raises.
    """
    return _of(request).locked()


def visit_of(request: web.BaseRequest) -> RequestSession | None:
    """The visit that :func:`get_session` has opened for this request, if it was called. ``visit.identity_changed()``
    gives the session a new id where somebody logged in and no key in the session tells.
    """
    return _of(request).visit


def _middleware(how: Settings) -> Any:
    @web.middleware
    async def session_lock_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        outer = of_request(request)
        if outer is not None and _is_the_same(how, outer.how):
            return await handler(request)
        return await run(how, request, handler)

    session_lock_middleware.is_sessionlock = True  # type: ignore[attr-defined]
    return session_lock_middleware


async def _as_it_begins(request: web.Request, response: web.StreamResponse) -> None:
    """For streams and websockets, whose handlers begin the answer themselves."""
    own = of_request(request)
    while own is not None:
        await own.settle(response)
        own = own.outer


async def _close(app: web.Application) -> None:
    how = app[SETTINGS]
    if how.url is not None:  # a guard of its own
        await how.guard.aclose()
    if how.face.origin is not None:
        await how.face.origin.aclose()


def _of(request: web.BaseRequest) -> SessionOfRequest:
    own = of_request(request)
    if own is None:
        raise ConfigurationError("no session here: call sessionlock.integrations.aiohttp.setup(app, guard) first")
    return own


# --- the set-up, seen as the application starts


async def _start(app: web.Application) -> None:
    how = app[SETTINGS]
    _see_other_sessions(app, how)
    for inner in _applications_in(app):
        if SETTINGS in inner and _is_the_same(inner[SETTINGS], how):
            how.tell_once(
                "setup() was called for an application and for one inside it: the outer one does all the work. Remove"
                " the inner call"
            )
    await look_at_start(how.guard)


def _is_the_same(inner: Settings, outer: Settings) -> bool:
    """Whether the outer one's session is the inner one's.

    Raises:
        ConfigurationError: it is not, but their cookies have the same name.
    """
    if inner.cookie.name != outer.cookie.name:
        return False
    same_store = inner.guard is outer.guard or (inner.url is not None and inner.url == outer.url)
    if inner.cookie == outer.cookie and same_store:
        return True
    raise ConfigurationError(
        "setup() was called for an application and for one inside it, with different settings: the inner session would"
        " take the outer one's place. Remove one of the calls, or give the inner one another cookie name"
    )


def _applications_in(app: web.Application) -> Iterator[web.Application]:
    for resource in app.router.resources():
        inner = resource.get_info().get("app")
        if inner is not None:
            yield inner
            yield from _applications_in(inner)


def _see_other_sessions(app: web.Application, how: Settings) -> None:
    """aiohttp-session's middlewares beside ours."""
    before = True
    for middleware in app.middlewares:
        before = before and not hasattr(middleware, "is_sessionlock")
        storage = _storage_of(middleware)
        if storage is None:
            continue
        meet = getattr(storage, "meet", None)  # ours
        if meet is None:
            how.tell_once(
                f"aiohttp_session keeps its sessions in a {type(storage).__name__} here: what"
                " aiohttp_session.get_session gives is neither locked nor saved by sessionlock. Use SessionLockStorage"
                " there, or remove it"
            )
        elif before:
            raise ConfigurationError(
                "aiohttp_session's middleware stands outside of sessionlock's: a session would be saved too late. Call"
                " sessionlock's setup(app) first, then aiohttp_session.setup(app, SessionLockStorage())"
            )
        else:
            meet(how)


def _storage_of(middleware: Any) -> Any:
    if getattr(middleware, "__module__", None) != SESSIONS:
        return None
    cells = zip(middleware.__code__.co_freevars, middleware.__closure__ or (), strict=True)
    return next((cell.cell_contents for name, cell in cells if name == "storage"), None)
