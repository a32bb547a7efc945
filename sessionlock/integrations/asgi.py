"""Sessions for ASGI applications: Starlette, FastAPI, Litestar, and whatever else speaks ASGI.

::

    app = Starlette(routes=routes, middleware=[Middleware(SessionLockMiddleware, guard="redis://localhost:6379/0")])

    async def add(request):                            # POST: locked, loaded; saved and released as the answer begins
        request.session.setdefault("cart", []).append("A")

``scope["session"]`` (``request.session``) is a :class:`sessionlock.Session`. GET, HEAD and OPTIONS do not wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from enum import Enum
from functools import partial
from typing import Any

import anyio

from ..default import default_guard
from ..errors import CodecError, SessionLockError
from ..guard import SessionGuard
from ..peers import client_of_scope
from ..policies import LeasePolicy, WaitPolicy
from .ahead import Ahead
from .rules import Mode
from .web import CookieSettings, Problem, Problems, RoutePolicy, Rules, Visit

__all__ = ["SessionLockMiddleware", "visit_of"]

# Every framework has types of its own for these.
Scope = Any
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[Any]]

log = logging.getLogger("sessionlock.web")

VISIT = "sessionlock.visit"
PATIENCE = 0.02  # seconds of waiting after which it is worth a task to see whether the client is still there
TRY_AGAIN_LATER = 1013  # a websocket's close code


class SessionLockMiddleware:
    """Locks, loads, saves and releases the session of each request, around any ASGI application.

    ``guard``: a guard, or a URL for one of its own, which is closed as the application shuts down; None: that of
    :func:`sessionlock.configure`. ``cookie``: settings, or just the name. ``mode``, ``wait``, ``lease``,
    ``save_on_error``: for all requests that ``routes`` says nothing else about (see :class:`.rules.Rules`; the
    paths are those within the application). ``problems``: what errors of the session become.

    The session is saved and the lock released when the answer begins, before anything of it is sent: streams and
    server-sent events never hold it. A request that fails (an exception, or a status of 500 and above) saves nothing.
    A client that goes away while its request waits leaves the queue. Websockets get a snapshot for reading.
    """

    def __init__(
        self,
        app: App,
        guard: SessionGuard | str | None = None,
        *,
        cookie: CookieSettings | str | None = None,
        mode: Mode = "auto",
        routes: Mapping[str, RoutePolicy | Mode] | None = None,
        wait: WaitPolicy | float | None = None,
        lease: LeasePolicy | None = None,
        save_on_error: bool = False,
        problems: Problems | None = None,
    ) -> None:
        self.app = app
        self._own_guard = SessionGuard.from_url(guard) if isinstance(guard, str) else None
        self._guard = self._own_guard or guard
        self.cookie = CookieSettings(cookie) if isinstance(cookie, str) else cookie or CookieSettings()
        self.rules = Rules(RoutePolicy(mode, wait, lease, save_on_error), routes)
        self.problems = problems or Problems()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "lifespan" and self._own_guard is not None:
            await self.app(scope, receive, self._closing(self._own_guard, send))
        elif kind not in ("http", "websocket") or VISIT in scope:
            await self.app(scope, receive, send)  # VISIT: this middleware is outside already, too
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = scope["type"] == "http"
        method, path = scope["method"] if http else "WEBSOCKET", _path(scope)
        policy = self.rules.policy_for(method, path)
        if policy.mode == "off":
            await self.app(scope, receive, send)
            return
        visit = Visit(
            self.guard,
            self.cookie,
            policy if http else RoutePolicy("read"),
            self.cookie.find(_header(scope, b"cookie", "; ")),
            method=method,
            path=path,
            https=scope.get("scheme") in ("https", "wss"),
            client=partial(client_of_scope, scope),
        )
        if http:
            await _Exchange(visit, self.problems, scope, receive, send).run(self.app)
        else:
            await self._websocket(visit, scope, receive, send)

    @property
    def guard(self) -> SessionGuard:
        guard = self._guard
        assert not isinstance(guard, str)
        return guard or default_guard()

    async def _websocket(self, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
        """A websocket may live for hours: it gets the session as it stands, and no lock."""
        try:
            await visit.open()
        except SessionLockError as error:
            problem = self.problems.answer(error)
            if problem is None:
                raise
            return await _deny(problem, scope, send)
        session = visit.session
        if session.new:
            session.sid = ""  # nothing is stored, and there is no later moment to give the browser a cookie
        session.close(
            "is a snapshot for this websocket; change it in a short `async with guard.session_lock(session.sid)`"
        )
        scope["session"] = session
        await self.app(scope, receive, send)
        visit.tell_unsaved()

    def _closing(self, guard: SessionGuard, send: Send) -> Send:
        async def closing(message: Message) -> None:
            if message["type"] in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                await guard.aclose()
            await send(message)

        return closing


def visit_of(scope: Scope) -> Visit | None:
    """The visit that the middleware has opened for this request, if it has."""
    visit: Visit | None = scope.get(VISIT)
    return visit


class _Exchange:
    """One request and its answer."""

    def __init__(self, visit: Visit, problems: Problems, scope: Scope, receive: Receive, send: Send) -> None:
        self._visit = visit
        self._problems = problems
        self._scope = scope
        self._receive = Ahead(receive)
        self._send = send
        self._started = False
        self._replaced = False

    async def run(self, app: App) -> None:
        try:
            with anyio.CancelScope() as client_is_there:  # it may only end while open() waits
                await self._open(client_is_there)
                await self._handle(app)
        except SessionLockError as error:
            if not await self._answer(error):
                raise
        finally:
            await self._receive.aclose()

    async def _open(self, client_is_there: anyio.CancelScope) -> None:
        loop = asyncio.get_running_loop()
        timer = loop.call_later(PATIENCE, self._receive.start, client_is_there.cancel)
        try:
            await self._visit.open()
        finally:
            timer.cancel()
            self._receive.stop()

    async def _handle(self, app: App) -> None:
        visit, scope = self._visit, self._scope
        scope["session"], scope[VISIT] = visit.session, visit
        try:
            await app(scope, self._receive, self.send)
        except BaseException as error:
            await visit.aclose(error)
            raise
        await visit.aclose()

    async def send(self, message: Message) -> None:
        """For the application. What follows an answer that was replaced by a problem goes nowhere."""
        if message["type"] == "http.response.start" and not self._replaced:
            headers = await self._settled(message)
            if headers is not None:
                self._started = True
                await self._send({**message, "headers": headers})
        elif not self._replaced:
            await self._send(message)

    async def _settled(self, message: Message) -> list[tuple[bytes, bytes]] | None:
        """Save and release before anything is sent; the headers to send, None if a problem was sent instead."""
        try:
            self._take_what_was_put_there()
            await self._visit.finish(failed=message["status"] >= 500)
        except SessionLockError as error:
            if not await self._answer(error):
                raise
            return None
        return [*message.get("headers", ()), *self._headers(message.get("headers", ()))]

    def _take_what_was_put_there(self) -> None:
        """``scope["session"] = {...}`` is how some frameworks assign (Litestar's ``set_session``) or clear it."""
        session, found = self._visit.session, self._scope.get("session")
        if found is session:
            return
        if found is None or isinstance(found, Enum):  # Litestar's Empty
            self._visit.replace(None)
        elif isinstance(found, Mapping):
            self._visit.replace(found)
        else:
            raise CodecError(f"the session was replaced by a {type(found).__name__}; only a mapping can be stored")

    def _headers(self, present: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        visit, headers = self._visit, []
        varies = b",".join(value.lower() for name, value in present if name.lower() == b"vary")
        if visit.vary and b"cookie" not in varies and b"*" not in varies:
            headers.append((b"vary", b"Cookie"))
        if visit.set_cookie is not None:
            headers.append((b"set-cookie", visit.set_cookie.encode("latin-1")))
        return headers

    async def _answer(self, error: SessionLockError) -> bool:
        """Send what became of the request instead of the application's answer; False: that is not possible."""
        if self._replaced:
            return True
        problem = None if self._started else self._problems.answer(error)
        if problem is None:
            return False
        self._replaced = True
        log.info("answered %s: %s", problem.status, error)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in problem.headers()]
        if self._visit.is_open:  # it may have a new id already, or be destroyed
            headers += self._headers(headers)
        body = b"" if self._scope["method"] == "HEAD" else problem.content()
        await self._send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})
        return True


async def _deny(problem: Problem, scope: Scope, send: Send) -> None:
    """Refuse a websocket's handshake: with the problem where the server can send one, else with a code."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        return await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in problem.headers()]
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": problem.content()})
    return None


def _path(scope: Scope) -> str:
    """Within the application: without the root path, which servers leave in front of it."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path


def _header(scope: Scope, name: bytes, separator: str) -> str:
    """HTTP/2 may send the cookies in several headers."""
    return separator.join(value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name)
