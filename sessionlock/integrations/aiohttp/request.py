"""One request of an aiohttp application: its session, opened when it is asked for, and settled as the answer begins.

A safe request that changed the session without the lock, and finds at the end that somebody else did too, is *run
again*: the first run is abandoned before a byte of its answer was sent, and the handler is called once more, with the
request as it came and under the lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from aiohttp import web
from aiohttp.http import StreamWriter

from ...errors import LeaseLost, LockNotAcquired, RedisUnavailable, SessionConflict, SessionLockError
from ...selfcalls.nesting import Held
from ...selfcalls.sockets import client_of_transport
from ...views.cookies import usable_sid
from ..web.mapping import WebSession
from ..web.problems import stays, tell
from ..web.request_session import RunAgain, Visit
from ..web.rules import BODY_LIMIT, SAFE_METHODS, RoutePolicy, label_of
from .body import Body
from .settings import Life, Settings, route_of

__all__ = ["Handler", "SessionOfRequest", "of_request", "run"]

log = logging.getLogger("sessionlock.web")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LOOK_FOR_CLIENT = 0.1  # seconds between two looks whether the client of a waiting request is still there
CLIENT_GONE = 499  # the status that access logs have for it, for want of one in HTTP
LATE = "belongs to an answer that has begun"


class _ClientGone(ConnectionResetError):
    """Ends a handler whose answer nobody would read. That happens, so it is no error in the server's log."""


class SessionOfRequest:
    """One run of one request: its visit once the handler has asked for the session.

    ``outer``: that of the application around this one, if it has sessions, too. ``second``: the visit of a second run.
    """

    def __init__(
        self,
        how: Settings,
        request: web.Request,
        body: Body | None = None,
        outer: SessionOfRequest | None = None,
        second: Visit | None = None,
    ) -> None:
        self.how = how
        self.outer = outer
        self._request = request
        self._body = body
        self._second = second
        self._task = asyncio.current_task()
        self._opening = asyncio.Lock()
        self._held: Held | None = None
        self._answered = self._over = False
        self._failed: SessionLockError | None = None
        self._told: SessionLockError | None = None
        self._life: Life | None = None
        self._unsent: web.StreamResponse | None = None
        self.ended_by_loss = False
        self.abandoned = False
        """Nothing of this run may be sent; there will be another one."""
        self.refused: SessionLockError | None = None
        """Why the answer that the handler was about to begin is not the request's, whatever the handler makes of it."""
        self.visit: Visit | None = None

    # --- for the handler

    async def session(self) -> WebSession:
        if self.visit is None:
            async with self._opening:
                if self.visit is None:
                    await self._open()
        assert self.visit is not None
        return self.visit.mapping

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[WebSession]:
        await self.session()
        visit = self.visit
        assert visit is not None
        async with visit.locked():
            self._hold(visit)
            yield visit.mapping

    async def _open(self) -> None:
        if self._failed is not None and not isinstance(self._failed, LockNotAcquired):
            if self._over:
                return await self._show_nothing()
            raise self._failed
        # Once the lock was refused, an error page may still read, but must not wait again.
        late = self._answered or self._failed is not None
        visit = self._begin(late)
        try:
            await self._receive_the_body(visit)
            await self._open_while_the_client_is_there(visit)
        except RedisUnavailable as error:
            self._failed = error
            self._tell(error)
            if self._over:
                return await self._show_nothing()
            raise
        except SessionLockError as error:
            self._failed = error
            self._tell(error)
            raise
        self.visit = visit
        if late:
            visit.settle_as_snapshot(LATE)
        self._hold(visit)

    async def _show_nothing(self) -> None:
        """To what looks at the session after the answer is settled (a signal): an error would break the connection."""
        log.warning("a session was asked for after its request had failed, and looks empty there: %s", self._failed)
        how = self.how
        visit = Visit(how.guard, how.cookie, RoutePolicy("read"), None)
        await visit.open()
        visit.settle_as_snapshot(LATE)
        self.visit = visit

    def _begin(self, only_reading: bool) -> Visit:
        visit = self._first_visit(only_reading) if self._second is None or only_reading else self._second
        # The handler may ask for its session anywhere, also in a task or a cancel scope of its own, so the end by
        # the loss of the lease is done here, to the task of the request.
        visit.on_loss = self._lost
        return visit

    def _first_visit(self, only_reading: bool) -> Visit:
        how, request = self.how, self._request
        policy = how.face.rules.policy_for(request.method, request.path, request.match_info.handler)
        origin = None if policy.mode == "off" else how.face.origin
        return Visit(
            how.guard,
            how.cookie,
            replace(policy, mode="read") if only_reading or policy.mode == "off" else policy,
            None if policy.mode == "off" else usable_sid(request.cookies.get(how.cookie.name)),
            method=request.method,
            path=route_of(request),
            https=request.secure,
            client=partial(client_of_transport, request),
            rules=how.face.rules,
            identity=how.face.identity,
            codec=how.codec,
            lifetime=how.lifetime,
            origin=origin,
            old_cookie=request.cookies.get(origin.cookie or how.cookie.name) if origin is not None else None,
        )

    async def _receive_the_body(self, visit: Visit) -> None:
        if self._body is not None and visit.mode == "lock":
            limit = visit.policy.body_limit
            await self._body.receive(BODY_LIMIT if limit is None else limit)
            self._see_whether_the_client_is_there()

    def _see_whether_the_client_is_there(self) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise _ClientGone("the client went away while its request waited for the session")

    async def _open_while_the_client_is_there(self, visit: Visit) -> None:
        """aiohttp does not tell a handler that its client has gone; who only waits for the lock should leave then."""
        opening = asyncio.get_running_loop().create_task(visit.open())
        try:
            while not opening.done():
                await asyncio.wait([opening], timeout=LOOK_FOR_CLIENT)
                if not opening.done():
                    self._see_whether_the_client_is_there()
        finally:
            if not opening.done():
                opening.cancel()
                await asyncio.wait([opening])
            if not opening.cancelled() and opening.exception() is None:
                self.visit = visit  # open, so it will be closed, whatever ends this task
        opening.result()

    def _hold(self, visit: Visit) -> None:
        """Let calls to the own application know: they carry this context."""
        lease = visit.session.lease
        if lease is None or self._held is not None:
            return
        self._held = Held(visit.guard, visit.session.sid, lambda: not lease.released, visit.label)
        self._held.enter()

    def _lost(self) -> None:
        if self._task is not None and not self._answered:
            self.ended_by_loss = True
            self._task.cancel("the lease was lost")

    # --- the answer begins

    async def settle(self, response: web.StreamResponse) -> None:
        """The answer is about to begin: save, release, and tell the headers. Once.

        Raises what saving raises; the lock is released then, too.
        """
        if self.abandoned:
            raise RunAgain
        if self._answered:
            return
        self._unsent = response
        failed = response.status >= 500
        try:
            if not failed:
                self._life = await self.how.before_saving(self._request, self)
            self._answered = True
            if self.visit is not None:
                await self._finish(self.visit, failed, None if self._life is None else self._life.seconds)
        except BaseException as error:
            self.refused = error if isinstance(error, SessionLockError) else None
            self._forget_the_answer()
            raise
        self.tell(response)

    async def _finish(self, visit: Visit, failed: bool, live: float | None = None) -> None:
        try:
            await visit.finish(failed=failed, live=live)
        except RunAgain:
            self.see_whether_it_can_run_again()
            self.abandoned = True
            raise

    def see_whether_it_can_run_again(self) -> None:
        """Raises SessionConflict if it cannot."""
        if _has_begun(self._request) or not (self._body is None or self._body.can_rewind):
            raise SessionConflict(
                "another request changed the session meanwhile, and this one cannot be run again: its body was too"
                " long to be kept, or its answer has begun"
            )

    async def failed(self) -> None:
        """The handler raised. Raises RunAgain if that was because of a conflict."""
        if self.visit is None or self._answered:
            return
        try:
            await self._finish(self.visit, failed=True)
        except SessionLockError:
            pass  # the handler's own error comes first

    def tell(self, response: web.StreamResponse) -> None:
        """The headers. aiohttp has written its cookies among them already when it says that the answer begins."""
        visit = self.visit
        if visit is None or not visit.is_open:
            return
        cookie = self._set_cookie(visit)
        if cookie is not None:
            response.headers.add("Set-Cookie", cookie)
        varies = ",".join(response.headers.getall("Vary", ())).lower()
        if (visit.vary or cookie is not None) and "cookie" not in varies and "*" not in varies:
            response.headers.add("Vary", "Cookie")

    def _set_cookie(self, visit: Visit) -> str | None:
        if self._life is None or visit.clears_cookie:
            return visit.set_cookie
        seconds = self._life.seconds
        sid = visit.new_sid
        if sid is None and visit.rolled and visit.saved and not visit.by_old_id:
            sid = visit.session.sid  # the record's life began anew, so the cookie's does
        if sid is None:
            return None
        cookie = replace(self.how.cookie, max_age=None if seconds is None else max(1, round(seconds)))
        return cookie.render(sid, https=self._request.secure)

    def problem(self, error: SessionLockError) -> web.Response | None:
        """The answer that ``error`` is, if it can still be given."""
        request = self._request
        problem = self.how.face.problems.answer(error, accept=request.headers.get("Accept"))
        if problem is None or _has_begun(request):
            return None
        self._tell(error)
        self._answered = True
        answer = web.Response(body=problem.content(), status=problem.status, headers=dict(problem.headers()))
        self._take_over(answer)
        self.tell(answer)
        return answer

    def _tell(self, error: SessionLockError) -> None:
        """In the log, also where the application makes an answer of its own of it."""
        if error is not self._told:
            self._told = error
            tell(error, label_of(self._request.method, route_of(self._request)))

    def _take_over(self, answer: web.Response) -> None:
        """The headers and cookies that others have put into the answer which is not sent. What was prepared has been
        through the application's signals, which will come again.
        """
        unsent = self._unsent
        if unsent is None or unsent.prepared:
            return
        for name, value in unsent.headers.items():
            if stays(name) and name not in answer.headers:
                answer.headers.add(name, value)
        for cookie in unsent.cookies.values():
            answer.headers.add("Set-Cookie", cookie.OutputString())

    def _forget_the_answer(self) -> None:
        """One that was about to begin has prepared the writer for its own kind of body: there comes another one. Who
        still holds the old one can write nothing any more.
        """
        request = self._request
        writer: Any = request.writer
        if self._unsent is not None and self._unsent.prepared and type(writer) is StreamWriter:
            request._payload_writer = StreamWriter(writer._protocol, request._loop)
            nobody: Any = SimpleNamespace(transport=None, connected=False)
            writer._protocol = nobody

    def loss(self) -> LeaseLost | None:
        """The error for a handler that was cancelled because its lease was lost, and for no other reason."""
        if not self.ended_by_loss or self._task is None or self.visit is None or self.visit.session.lease is None:
            return None
        uncancel = getattr(self._task, "uncancel", None)  # Python 3.11
        if uncancel is not None and uncancel() > 0:
            return None
        return LeaseLost(self.visit.session.lease.why_lost())

    async def leave(self, error: BaseException | None) -> None:
        """The run is over, whatever became of it."""
        self._answered = self._over = True
        if self._held is not None:
            self._held.leave()
        if self.visit is not None:
            await self.visit.aclose(error)


# aiohttp 3.14 warns of plain strings as keys; before it there was nothing else.
REQUEST: Any = (
    web.RequestKey("sessionlock.request", SessionOfRequest) if hasattr(web, "RequestKey") else "sessionlock.request"
)


def of_request(request: web.BaseRequest) -> SessionOfRequest | None:
    own = request.get(REQUEST)
    return own if isinstance(own, SessionOfRequest) else None


async def run(how: Settings, request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let ``handler`` answer ``request``, twice where that is needed; errors of its session become answers."""
    outer = of_request(request)
    safe = request.method in SAFE_METHODS
    body = Body.of(request, twice=safe)
    before = _Before(request, body) if safe else None
    own = SessionOfRequest(how, request, body, outer)
    try:
        try:
            return await _one_run(own, request, handler)
        except RunAgain:
            assert before is not None
            assert own.visit is not None
            own.see_whether_it_can_run_again()
            second, body_again = own.visit.again(), before.restore()

            async def again() -> web.StreamResponse:
                nonlocal own
                own = SessionOfRequest(how, request, body_again, outer, second)
                return await _one_run(own, request, handler)

            return await before.context.run(asyncio.get_running_loop().create_task, again())
    except _ClientGone:
        return web.Response(status=CLIENT_GONE)
    except SessionLockError as error:
        answer = own.problem(error)
        if answer is None:
            raise
        return answer
    finally:
        if outer is not None:
            request[REQUEST] = outer
        if body is not None:
            body.close()


async def _one_run(own: SessionOfRequest, request: web.Request, handler: Handler) -> web.StreamResponse:
    request[REQUEST] = own
    try:
        try:
            response = await handler(request)
        except web.HTTPException as answer:  # a redirect, say: an answer like any other
            if not answer.prepared or own.abandoned:
                await own.settle(answer)
            raise
        if own.refused is not None:
            raise own.refused
        if own.abandoned or (isinstance(response, web.StreamResponse) and not response.prepared):
            await own.settle(response)
    except asyncio.CancelledError as cancelled:
        await own.leave(cancelled)
        loss = own.loss()
        if loss is not None:
            raise loss from None
        raise
    except RunAgain:
        await own.leave(None)
        raise
    except BaseException as error:
        if isinstance(error, Exception):
            await _see_whether_it_was_a_conflict(own, error)
        await own.leave(error)
        raise
    await own.leave(None)
    return response


async def _see_whether_it_was_a_conflict(own: SessionOfRequest, error: Exception) -> None:
    """Raises RunAgain."""
    try:
        if own.abandoned:
            log.warning("a run that was abandoned, to be run again, ended with an error", exc_info=error)
            raise RunAgain
        await own.failed()
    except RunAgain:
        await own.leave(None)
        raise
    if own.refused is not None and own.refused is not error:
        await own.leave(error)
        raise own.refused


class _Before:
    """The request as it came, for its second run. The object stays the same: what stands around sees the second run."""

    def __init__(self, request: web.Request, body: Body | None) -> None:
        self._request = request
        self._body = body
        self._state = dict(request._state)
        self._match = dict(request.match_info)
        self.context = copy_context()

    def restore(self) -> Body | None:
        """Take back what the first run has put into the request; the body begins anew."""
        request = self._request
        request._state.clear()
        request._state.update(self._state)
        request.match_info.clear()
        request.match_info.update(self._match)
        request._post = request._read_bytes = None
        if self._body is None:
            return None
        request._payload = body = self._body.rewound()
        return body


def _has_begun(request: web.Request) -> bool:
    writer: Any = request.writer
    return writer is not None and writer.output_size > 0
