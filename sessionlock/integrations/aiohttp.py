"""Sessions for aiohttp's servers.

::

    app = web.Application()
    setup(app, "redis://localhost:6379/0")

    async def add(request):                              # POST: locked when the handler asks for the session
        session = await get_session(request)
        session.setdefault("cart", []).append("A")       # deep changes are noticed
        return web.Response()

A handler that does not ask costs nothing. GET, HEAD and OPTIONS do not wait; what they change all the same is committed
and merged at the end. Before the answer begins the session is saved and the lock released: streams and websockets never
hold it. A request that fails (an exception, a status of 500 and above) saves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from aiohttp import web

from ..default import default_guard
from ..errors import ConfigurationError, LeaseLost, LockNotAcquired, SessionLockError
from ..guard import SessionGuard
from ..peers import client_of_transport
from ..policies import LeasePolicy, WaitPolicy
from ..session import Session
from .marks import lease_of, policy_of, session_lock, session_lock_exempt, session_readonly
from .rules import Mode
from .web import CookieSettings, Held, Problems, RoutePolicy, Rules, Visit, usable_sid

__all__ = [
    "get_session",
    "locked_session",
    "session_lock",
    "session_lock_exempt",
    "session_readonly",
    "setup",
    "visit_of",
]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
GUARD = web.AppKey("sessionlock.guard", SessionGuard)
LOOK_FOR_CLIENT = 0.1  # seconds between two looks whether the client of a waiting request is still there
CLIENT_GONE = 499  # the status that access logs have for it, for want of one in HTTP


def setup(
    app: web.Application,
    guard: SessionGuard | str | None = None,
    *,
    cookie: CookieSettings | str | None = None,
    mode: Mode = "auto",
    routes: Mapping[str, RoutePolicy | Mode] | None = None,
    wait: WaitPolicy | float | None = None,
    lease: LeasePolicy | float | None = None,
    save_on_error: bool = False,
    problems: Problems | None = None,
) -> None:
    """Give every request of ``app`` and its sub-applications a session. Call it once, on the outermost application.

    ``guard``: a guard, or a URL for one of its own, which is closed with the application; None: that of
    :func:`sessionlock.configure`. ``cookie``: settings, or just the name. ``mode``, ``wait``, ``lease`` (policy or
    seconds), ``save_on_error``: for all requests that neither a decorator nor ``routes`` (see
    :class:`.rules.Rules`) says anything else about. ``problems``: what errors of the session become.

    Raises:
        ConfigurationError: a value that makes no sense.
    """
    if GUARD in app:
        raise ConfigurationError("this application has its sessions already: call setup() once")
    kept = app[GUARD] = SessionGuard.from_url(guard) if isinstance(guard, str) else guard or default_guard()
    settings = CookieSettings(cookie) if isinstance(cookie, str) else cookie or CookieSettings()
    rules = Rules(RoutePolicy(mode, wait, lease_of(lease), save_on_error), routes)
    how = _Settings(kept, settings, rules, problems or Problems())
    app.middlewares.insert(0, _middleware(how))
    app.on_response_prepare.append(_as_it_begins)
    if isinstance(guard, str):
        app.on_cleanup.append(_close)


async def get_session(request: web.BaseRequest) -> Session:
    """The session of this request. The first call locks and loads it; what it costs, the others have for nothing.

    After the answer has begun (in a stream or a websocket) it is a snapshot for reading.

    Raises:
        WaitTimedOut, QueueFull, ReentrantLock, RedisUnavailable, CodecError: left alone they become the answer.
        ConfigurationError: :func:`setup` was not called.
    """
    return await _of(request).session()


def locked_session(request: web.BaseRequest) -> Any:
    """``async with locked_session(request) as session``: hold the lock in this block, in a request that otherwise does
    not (a GET); saved and released at its end. Raises what opening and saving a locked session raises.
    """
    return _of(request).locked()


def visit_of(request: web.BaseRequest) -> Visit | None:
    """The visit that :func:`get_session` has opened for this request, if it was called."""
    return _of(request).visit


class _Settings:
    def __init__(self, guard: SessionGuard, cookie: CookieSettings, rules: Rules, problems: Problems) -> None:
        self.guard = guard
        self.cookie = cookie
        self.rules = rules
        self.problems = problems


class _ClientGone(ConnectionResetError):
    """Ends a handler whose answer nobody would read. That happens, so it is no error in the server's log."""


class _Request:
    """One request: its visit once the handler has asked for the session."""

    def __init__(self, how: _Settings, request: web.Request) -> None:
        self._how = how
        self._request = request
        self._task = asyncio.current_task()
        self._opening = asyncio.Lock()
        self._held: Held | None = None
        self._answered = False
        self._cancels = True
        self._failed: SessionLockError | None = None
        self.ended_by_loss = False
        self.visit: Visit | None = None

    # --- for the handler

    async def session(self) -> Session:
        if self.visit is None:
            async with self._opening:
                if self.visit is None:
                    await self._open()
        assert self.visit is not None
        return self.visit.session

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[Session]:
        await self.session()
        assert self.visit is not None
        async with self.visit.locked() as session:
            self._hold(self.visit)
            yield session

    async def _open(self) -> None:
        if self._failed is not None and not isinstance(self._failed, LockNotAcquired):
            raise self._failed
        # Once the lock was refused, an error page may still read, but must not wait again.
        visit = self._begin(self._answered or self._failed is not None)
        try:
            await self._open_while_the_client_is_there(visit)
        except SessionLockError as error:
            self._failed = error
            raise
        self.visit = visit
        self._hold(visit)

    def _begin(self, only_reading: bool) -> Visit:
        how, request = self._how, self._request
        policy = _policy(how.rules, request)
        mode = "read" if only_reading or policy.mode == "off" else policy.mode
        # The handler may ask for its session anywhere, also in a task or a cancel scope of its own, so the end by
        # the loss of the lease is not left to the guard's scope but done here.
        lease = policy.lease or how.guard.lease_policy
        self._cancels = lease.on_lost == "cancel"
        return Visit(
            how.guard,
            how.cookie,
            replace(policy, mode=mode, lease=replace(lease, on_lost="flag")),
            None if policy.mode == "off" else usable_sid(request.cookies.get(how.cookie.name)),
            method=request.method,
            path=request.path,
            https=request.secure,
            client=partial(client_of_transport, request),
        )

    async def _open_while_the_client_is_there(self, visit: Visit) -> None:
        """aiohttp does not tell a handler that its client has gone; who only waits for the lock should leave then."""
        opening = asyncio.get_running_loop().create_task(visit.open())
        try:
            while not opening.done():
                await asyncio.wait([opening], timeout=LOOK_FOR_CLIENT)
                transport = self._request.transport
                if transport is None or transport.is_closing():
                    break
        finally:
            if not opening.done():
                opening.cancel()
                await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                self.visit = visit  # open, so it will be closed, whatever ends this task
        if opening.cancelled():
            raise _ClientGone("the client went away while its request waited for the session")
        opening.result()

    def _hold(self, visit: Visit) -> None:
        """Let calls to the own application know (they carry this context), and let the loss of the lease be heard."""
        lease = visit.session.lease
        if lease is None or self._held is not None:
            return
        self._held = Held(visit.guard, visit.session.sid, lambda: not lease.released, "this handler")
        self._held.enter()
        if self._cancels:
            lease.when_lost(self._lost)

    def _lost(self) -> None:
        if self._task is not None and not self._answered:
            self.ended_by_loss = True
            self._task.cancel("the lease was lost")

    # --- for the middleware

    async def settle(self, response: web.StreamResponse) -> None:
        """The answer is about to begin: save, release, and tell the headers. Once.

        Raises what saving raises; the lock is released then, too.
        """
        if self._answered:
            return
        self._answered = True
        visit = self.visit
        if visit is not None:
            await visit.finish(failed=response.status >= 500)
            self.tell(response)

    def tell(self, response: web.StreamResponse) -> None:
        """The headers. aiohttp has written its cookies among them already when it says that the answer begins."""
        visit = self.visit
        if visit is None or not visit.is_open:
            return
        if visit.set_cookie is not None:
            response.headers.add("Set-Cookie", visit.set_cookie)
        varies = ",".join(response.headers.getall("Vary", ())).lower()
        if visit.vary and "cookie" not in varies and "*" not in varies:
            response.headers.add("Vary", "Cookie")

    def problem(self, error: SessionLockError) -> web.Response | None:
        """The answer that ``error`` is, if it can still be given."""
        problem = self._how.problems.answer(error)
        writer: Any = self._request.writer
        if problem is None or (writer is not None and writer.output_size > 0):
            return None
        if writer is not None:  # an answer that was about to begin may have prepared it for its own kind of body
            writer.chunked, writer.length = False, None
        self._answered = True
        answer = web.Response(body=problem.content(), status=problem.status, headers=dict(problem.headers()))
        self.tell(answer)
        return answer

    def loss(self) -> LeaseLost | None:
        """The error for a handler that was cancelled because its lease was lost, and for no other reason."""
        if not self.ended_by_loss or self._task is None or self.visit is None or self.visit.session.lease is None:
            return None
        uncancel = getattr(self._task, "uncancel", None)  # Python 3.11
        if uncancel is not None and uncancel() > 0:
            return None
        return LeaseLost(self.visit.session.lease.why_lost())

    async def leave(self, error: BaseException | None) -> None:
        """The request is over, whatever became of it."""
        self._answered = True
        if self._held is not None:
            self._held.leave()
        if self.visit is not None:
            await self.visit.aclose(error)


# aiohttp 3.14 warns of plain strings as keys; before it there was nothing else.
REQUEST: Any = web.RequestKey("sessionlock.request", _Request) if hasattr(web, "RequestKey") else "sessionlock.request"


def _middleware(how: _Settings) -> Any:
    @web.middleware
    async def session_lock_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if REQUEST in request:
            return await handler(request)
        own = _Request(how, request)
        request[REQUEST] = own
        try:
            return await _handle(own, request, handler)
        except _ClientGone:
            return web.Response(status=CLIENT_GONE)
        except SessionLockError as error:
            answer = own.problem(error)
            if answer is None:
                raise
            return answer

    return session_lock_middleware


async def _handle(own: _Request, request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        try:
            response = await handler(request)
        except web.HTTPException as answer:  # a redirect, say: an answer like any other
            if not answer.prepared:
                await own.settle(answer)
            raise
        if not response.prepared:
            await own.settle(response)
    except asyncio.CancelledError as cancelled:
        await own.leave(cancelled)
        loss = own.loss()
        if loss is not None:
            raise loss from None
        raise
    except BaseException as error:
        await own.leave(error)
        raise
    await own.leave(None)
    return response


async def _as_it_begins(request: web.Request, response: web.StreamResponse) -> None:
    """For streams and websockets, whose handlers begin the answer themselves."""
    own = request.get(REQUEST)
    if own is not None:
        await own.settle(response)


async def _close(app: web.Application) -> None:
    await app[GUARD].aclose()


def _of(request: web.BaseRequest) -> _Request:
    own = request.get(REQUEST)
    if not isinstance(own, _Request):
        raise ConfigurationError("no session here: call sessionlock.integrations.aiohttp.setup(app, guard) first")
    return own


def _policy(rules: Rules, request: web.Request) -> RoutePolicy:
    by_rule = rules.policy_for(request.method, request.path)
    own = policy_of(request.match_info.handler, request.method)
    if own is None:
        return by_rule
    return replace(
        own,
        wait=by_rule.wait if own.wait is None else own.wait,
        lease=by_rule.lease if own.lease is None else own.lease,
        save_on_error=by_rule.save_on_error if own.save_on_error is None else own.save_on_error,
    )
