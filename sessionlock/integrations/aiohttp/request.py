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
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from aiohttp import web
from aiohttp.http import StreamWriter

from ...errors import LeaseLost, RedisUnavailable, SessionConflict, SessionLockError
from ...selfcalls.nesting import Held, hold_here
from ...selfcalls.sockets import client_of_transport
from ...views.cookies import usable_sid
from ..web.asked import Asked
from ..web.cancelling import Cancels
from ..web.headers import stays, varies_by_cookie
from ..web.mapping import WebSession
from ..web.naming import label_of
from ..web.problems import may_still_read, tell
from ..web.request_session import RequestSession, RunAgain
from ..web.rules import SAFE_METHODS, RoutePolicy
from .body import Body
from .settings import Life, Settings, template_of

__all__ = ["Handler", "SessionOfRequest", "of_request", "run"]

log: logging.Logger = logging.getLogger("sessionlock.web")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LOOK_FOR_CLIENT = 0.1  # seconds between two looks whether the client of a waiting request is still there
CLIENT_GONE = 499  # the status that access logs have for it, for want of one in HTTP
LATE = "belongs to an answer that has begun"


class _ClientGone(ConnectionResetError):
    """Ends a handler whose answer nobody would read. That happens, so it is no error in the server's log."""


@dataclass(slots=True)
class Answer:
    """What becomes of the answer of one run."""

    settled: bool = False
    """It has begun, or is about to: nothing is saved any more."""
    abandoned: bool = False
    """Nothing of this run may be sent; there will be another one."""
    unsent: web.StreamResponse | None = None
    """What the handler was about to begin."""
    refused: SessionLockError | None = None
    """Why that is not the request's answer, whatever the handler makes of it."""
    life: Life | None = None


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
        second: RequestSession | None = None,
    ) -> None:
        self.how = how
        self.outer = outer
        self._request = request
        self._body = body
        self._second = second
        # Opened by the first who asks; `failure`: why it could not be.
        self.visit: RequestSession | None = None
        self._opening = asyncio.Lock()
        self._failure: SessionLockError | None = None
        self._held: Held | None = None
        self._cancels = Cancels()
        # As it ends.
        self.answer: Answer = Answer()
        self._over = False

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
        if self._failure is not None and not may_still_read(self._failure):
            if self._over:
                return await self._show_nothing()
            raise self._failure
        reads = self.answer.settled or self._failure is not None
        # The handler may ask for its session anywhere, also in a task or a cancel scope of its own, so the end by the
        # loss of the lease is done here, to the task of the request.
        visit = self._first_visit(reads) if self._second is None or reads else self._second
        visit.when_lost(self._lost)
        try:
            await self._receive_the_body(visit)
            await self._open_while_the_client_is_there(visit)
        except SessionLockError as error:
            self._failure = error
            self._tell(error)
            if self._over and isinstance(error, RedisUnavailable):
                return await self._show_nothing()
            raise
        self.visit = visit
        if reads:
            visit.settle_as_snapshot(LATE)
        self._hold(visit)

    async def _show_nothing(self) -> None:
        """To what looks at the session after the answer is settled (a signal): an error would break the connection."""
        log.warning("a session was asked for after its request had failed, and looks empty there: %s", self._failure)
        visit = RequestSession(Asked.of(self.how.guard, self.how.cookie, RoutePolicy("read"), None))
        await visit.open()
        visit.settle_as_snapshot(LATE)
        self.visit = visit

    def _first_visit(self, reads: bool) -> RequestSession:
        how, request = self.how, self._request
        policy = how.face.rules.policy_for(request.method, request.path, request.match_info.handler)
        off = policy.mode == "off"
        origin = None if off else how.face.origin
        asked = Asked.of(
            how.guard,
            how.cookie,
            replace(policy, mode="read") if reads or off else policy,
            None if off else usable_sid(request.cookies.get(how.cookie.name)),
            method=request.method,
            path=template_of(request),
            route=partial(template_of, request),
            https=request.secure,
            client=partial(client_of_transport, request),
            rules=how.face.rules,
            identity=how.face.identity,
            codec=how.codec,
            lifetime=how.lifetime,
            origin=origin,
            old_cookie=request.cookies.get(origin.cookie or how.cookie.name) if origin is not None else None,
        )
        return RequestSession(asked)

    async def _receive_the_body(self, visit: RequestSession) -> None:
        if self._body is not None and visit.mode == "lock":
            await self._body.receive(visit.policy.body_ahead)
            self._see_whether_the_client_is_there()

    def _see_whether_the_client_is_there(self) -> None:
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise _ClientGone("the client went away while its request waited for the session")

    async def _open_while_the_client_is_there(self, visit: RequestSession) -> None:
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

    def _hold(self, visit: RequestSession) -> None:
        """Let calls to the own application know: they carry this context."""
        if self._held is None:
            self._held = hold_here(visit.guard, visit.session, visit.label)

    def _lost(self) -> None:
        if not self.answer.settled:
            self._cancels.cancel()

    # --- the answer begins

    async def settle(self, response: web.StreamResponse) -> None:
        """The answer is about to begin: save, release, and tell the headers. Once.

        Raises what saving raises; the lock is released then, too.
        """
        answer = self.answer
        if answer.abandoned:
            raise RunAgain
        if answer.settled:
            return
        answer.unsent = response
        failed = response.status >= 500
        try:
            if not failed:
                answer.life = await self.how.before_saving(self._request, self)
            answer.settled = True
            if self.visit is not None:
                await self._finish(self.visit, failed, None if answer.life is None else answer.life.seconds)
        except BaseException as error:
            answer.refused = error if isinstance(error, SessionLockError) else None
            self._forget_the_answer()
            raise
        self._tell_headers(response)

    async def _finish(self, visit: RequestSession, failed: bool, live: float | None = None) -> None:
        try:
            await visit.finish(failed=failed, live=live)
        except RunAgain:
            self.see_whether_it_can_run_again()
            self.answer.abandoned = True
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
        if self.visit is None or self.answer.settled:
            return
        try:
            await self._finish(self.visit, failed=True)
        except SessionLockError:
            pass  # the handler's own error comes first

    def _tell_headers(self, response: web.StreamResponse) -> None:
        """aiohttp has written its cookies among them already when it says that the answer begins."""
        visit = self.visit
        if visit is None or not visit.is_open:
            return
        cookie = self._set_cookie(visit)
        if cookie is not None:
            response.headers.add("Set-Cookie", cookie)
        if (visit.answer.vary or cookie is not None) and not varies_by_cookie(response.headers.getall("Vary", ())):
            response.headers.add("Vary", "Cookie")

    def _set_cookie(self, visit: RequestSession) -> str | None:
        life = self.answer.life
        if life is None or visit.answer.clears_cookie:
            return visit.answer.set_cookie
        sid = visit.answer.new_sid
        if sid is None and visit.answer.may_tell_again:
            sid = visit.session.sid  # the record's life began anew, so the cookie's does
        if sid is None:
            return None
        cookie = replace(self.how.cookie, max_age=None if life.seconds is None else max(1, round(life.seconds)))
        return cookie.render(sid, https=self._request.secure)

    def problem(self, error: SessionLockError) -> web.Response | None:
        """The answer that ``error`` is, if it can still be given."""
        request = self._request
        problem = self.how.face.problems.answer(error, accept=request.headers.get("Accept"))
        if problem is None or _has_begun(request):
            return None
        if error is not self._failure:
            self._tell(error)
        self.answer.settled = True
        answer = web.Response(body=problem.content(), status=problem.status, headers=dict(problem.headers()))
        self._take_over(answer)
        self._tell_headers(answer)
        return answer

    def _tell(self, error: SessionLockError) -> None:
        """In the log, also where the application makes an answer of its own of it."""
        tell(error, label_of(self._request.method, template_of(self._request)))

    def _take_over(self, answer: web.Response) -> None:
        """The headers and cookies that others have put into the answer which is not sent. What was prepared has been
        through the application's signals, which will come again.
        """
        unsent = self.answer.unsent
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
        request, unsent = self._request, self.answer.unsent
        writer: Any = request.writer
        if unsent is not None and unsent.prepared and type(writer) is StreamWriter:
            request._payload_writer = StreamWriter(writer._protocol, request._loop)
            nobody: Any = SimpleNamespace(transport=None, connected=False)
            writer._protocol = nobody

    # --- the run ends

    def loss(self, error: asyncio.CancelledError) -> LeaseLost | None:
        """The error for a handler that was cancelled because its lease was lost, and for no other reason."""
        return self._cancels.loss(error, None if self.visit is None else self.visit.session.lease)

    async def leave(self, error: BaseException | None) -> None:
        """The run is over, whatever became of it."""
        self.answer.settled = self._over = True
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
        response = await _handled(own, request, handler)
    except asyncio.CancelledError as cancelled:
        await own.leave(cancelled)
        loss = own.loss(cancelled)
        if loss is not None:
            raise loss from None
        raise
    except RunAgain:
        await own.leave(None)
        raise
    except BaseException as error:
        await own.leave(error)
        raise
    await own.leave(None)
    return response


async def _handled(own: SessionOfRequest, request: web.Request, handler: Handler) -> web.StreamResponse:
    answer = own.answer
    try:
        try:
            response = await handler(request)
        except web.HTTPException as told:  # a redirect, say: an answer like any other
            if not told.prepared or answer.abandoned:
                await own.settle(told)
            raise
        if answer.refused is not None:
            raise answer.refused
        if answer.abandoned or (isinstance(response, web.StreamResponse) and not response.prepared):
            await own.settle(response)
        return response
    except Exception as error:
        if answer.abandoned:
            log.warning("a run that was abandoned, to be run again, ended with an error", exc_info=error)
            raise RunAgain from error
        await own.failed()
        if answer.refused is not None and answer.refused is not error:
            raise answer.refused from error
        raise


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
