"""One ASGI request and its answer: opened, handled by the application, once more where that is needed, answered.

A safe request that changed the session without the lock, and finds at the end that somebody else did too, is *run
again*: the first run is abandoned before a byte of its answer was sent, as if its client had gone, and the application
is called once more, with the request as it came and under the lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextvars import copy_context
from typing import Any

from ...errors import RedisUnavailable, SessionConflict, SessionLockError
from ..web.cancelling import OURS, Cancels
from ..web.headers import stays, varies_by_cookie
from ..web.mapping import UnavailableSession
from ..web.problems import Problem, Problems, tell
from ..web.request_session import RequestSession, RunAgain
from ..web.rules import SAFE_METHODS
from .ahead import Ahead

__all__ = ["RUN", "VISIT", "Exchange", "conflict", "header_of"]

# Every framework has types of its own for these.
Scope = Any
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[Any]]
Headers = list[tuple[bytes, bytes]]

log: logging.Logger = logging.getLogger("sessionlock.web")

VISIT = "sessionlock.visit"
RUN = "sessionlock.run"
PATIENCE = 0.02  # seconds of waiting after which it is worth a task to see whether the client is still there

OF_A_BODY = (b"content-length", b"transfer-encoding")


class Exchange:
    """One request and its answer.

    ``around``: what an answer of ours is passed through, that the application's own would pass (CORS headers).
    ``comes_back``: its visitor seems to have a session, whose lock may have to be waited for.
    """

    def __init__(
        self,
        visit: RequestSession,
        problems: Problems,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        around: Callable[[App], App] = lambda app: app,
        settling: Callable[[Scope, RequestSession], None] = lambda scope, visit: None,
        comes_back: bool = True,
    ) -> None:
        self._visit = visit
        self._problems = problems
        self._scope = scope
        self._around = around
        self._settling = settling
        self._comes_back = comes_back
        self._may_run_again = visit.mode != "lock" and visit.policy.may_run_again(scope["method"])
        self._receive = Ahead(receive, again=self._may_run_again)
        self._send = send
        self._begun = False

    async def run(self, app: App) -> None:
        try:
            before = _Before(self._scope) if self._may_run_again else None
            try:
                if not await self._opened():
                    return
            except RedisUnavailable as error:
                await _Without(self, self._scope, error).handle(app)
                return
            if await _Run(self, self._visit, self._scope).handle(app):
                return
            assert before is not None
            self._visit = self._visit.again()
            self._receive.rewind()
            if await self._opened():
                await _Run(self, self._visit, before.restored()).handle(app)
        except SessionLockError as error:
            if not await self.answered(error):
                raise
        finally:
            await self._receive.aclose()

    # --- before the application

    async def _opened(self) -> bool:
        """Receive the body, then open the session. False: the client has gone meanwhile, nobody wants an answer."""
        receives = self._visit.mode == "lock" and self._comes_back and _may_have_body(self._scope)
        if receives and not await self._receive.fill(self._visit.policy.body_ahead):
            return False
        cancels = Cancels()

        timer = asyncio.get_running_loop().call_later(PATIENCE, self._receive.start, cancels.cancel)
        try:
            await self._visit.open()
        except asyncio.CancelledError as error:
            if cancels.own and cancels.only_ours(error):
                return False
            raise
        finally:
            timer.cancel()
            self._receive.stop()
        return True

    def reader(self) -> Receive:
        return self._receive.reader()

    @property
    def can_run_again(self) -> bool:
        return self._receive.can_rewind and not self._begun

    # --- the answer

    async def begin(self, message: Message, scope: Scope) -> None:
        """The answer that the application has begun, with what is to be told of the session."""
        self._begun = True
        self._publish(scope)
        present = message.get("headers", ())
        await self._send({**message, "headers": [*present, *self._headers(present)]})

    async def send(self, message: Message) -> None:
        await self._send(message)

    def _publish(self, scope: Scope) -> None:
        """What stands around sees in its scope what the run whose answer it gets has put there (the route, say)."""
        if scope is not self._scope:
            self._scope.update(scope)

    def settle(self, scope: Scope) -> None:
        self._settling(scope, self._visit)

    def _headers(self, present: Iterable[tuple[bytes, bytes]]) -> Headers:
        visit, headers = self._visit, []
        varies = (value.decode("latin-1") for name, value in present if name.lower() == b"vary")
        if visit.answer.vary and not varies_by_cookie(varies):
            headers.append((b"vary", b"Cookie"))
        if visit.answer.set_cookie is not None:
            headers.append((b"set-cookie", visit.answer.set_cookie.encode("latin-1")))
        return headers

    async def answered(self, error: SessionLockError, instead_of: Message | None = None) -> bool:
        """Send what became of the request instead of the application's answer; False: that is not possible."""
        problem = None if self._begun else self._problems.answer(error, header_of(self._scope, b"accept", ", "))
        if problem is None:
            return False
        self._begun = True
        tell(error, self._visit.label)
        answer = _answering(problem, self._scope["method"] == "HEAD", self._own_headers(instead_of))
        if instead_of is None:  # the application has not answered, so nothing in it could add its headers
            answer = self._around(answer)
        await answer(self._scope, self._receive, self._send)
        return True

    def _own_headers(self, instead_of: Message | None) -> Headers:
        """Those of the application's answer that are not about its body, and the session's."""
        found = instead_of.get("headers", ()) if instead_of is not None else ()
        kept = [(name, value) for name, value in found if stays(name.decode("latin-1"))]
        # The session may have a new id already, or be destroyed.
        return [*kept, *self._headers(kept)] if self._visit.is_open else kept


class _Run:
    """The application, called once. Of a run that is abandoned nothing is sent, whoever goes on in it."""

    def __init__(self, exchange: Exchange, visit: RequestSession, scope: Scope) -> None:
        self._exchange = exchange
        self._visit = visit
        self._scope = scope
        self._cancels = Cancels()
        self._over = self._abandoned = self._lost = self._replaced = self._begun = False
        visit.when_lost(self._end_it)
        self._early: list[Message] = []

    async def handle(self, app: App) -> bool:
        """False: it was abandoned, and its visit is over; the request is to be run again."""
        visit, scope = self._visit, self._scope
        scope["session"], scope[VISIT], scope[RUN] = visit.mapping, visit, self
        try:
            await app(scope, self._exchange.reader(), self.send)
        except BaseException as error:
            meant = await self._meant_by(error)
            if meant is not None:
                await visit.aclose(meant)
                if meant is error:
                    raise
                raise meant from None
        finally:
            self._over = True
            self._cancels.take_back()
            visit.when_lost(None)
            scope.pop(RUN, None)
        await visit.aclose()
        return not self._abandoned

    async def _meant_by(self, error: BaseException) -> BaseException | None:
        """What the request ends with, where the application has ended with ``error``; None: it is run again."""
        if self._abandoned:
            return self._left_over(error)
        if self._lost and self._cancels.only_ours(error):
            return await self._finished(failed=False) or error
        if isinstance(error, Exception) and not self._begun:
            self._abandoned = isinstance(await self._finished(failed=True), RunAgain) and self._exchange.can_run_again
        elif isinstance(error, RunAgain):
            self._abandoned = self._exchange.can_run_again
            error = conflict()
        return None if self._abandoned else error

    def _left_over(self, error: BaseException) -> BaseException | None:
        """Whether an abandoned run's error is somebody's who wants the request itself to end."""
        if isinstance(error, asyncio.CancelledError):
            return None if self._cancels.only_ours(error) else error
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            return error
        log.warning("a run that was abandoned, to be run again, ended with an error", exc_info=error)
        return None

    async def _finished(self, *, failed: bool) -> BaseException | None:
        """What finishing comes to. The application's own error goes before one of that."""
        try:
            await self._visit.finish(failed=failed)
        except (RunAgain, SessionLockError) as error:
            return error
        return None

    def _end_it(self) -> None:
        """The lease was lost, and with it what the handler has changed."""
        if not self._over:
            self._lost = True
            self._cancels.cancel()

    # --- for the application

    async def send(self, message: Message) -> None:
        if self._abandoned:
            raise asyncio.CancelledError(OURS)
        if self._replaced:
            return  # what follows an answer that was replaced by a problem goes nowhere
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif self._begun or not self._exchange.can_run_again:
            await self._exchange.send(message)
        else:
            self._early.append(message)  # this answer may not be the one that the client gets

    async def _begin(self, message: Message) -> None:
        """Save and release before anything is sent."""
        try:
            self._exchange.settle(self._scope)
            await self._visit.finish(failed=message["status"] >= 500)
        except RunAgain:
            self.abandon()
            await self._replace(conflict(), message)
            return
        except SessionLockError as error:
            await self._replace(error, message)
            return
        self._begun = True
        early, self._early = self._early, []
        for one in early:
            await self._exchange.send(one)
        await self._exchange.begin(message, self._scope)

    def abandon(self) -> None:
        """End what runs, as if the client had gone: exit code runs, background tasks do not. Any task may call it.

        Returns if the request cannot be run again.

        Raises:
            asyncio.CancelledError
        """
        if self._over or not self._exchange.can_run_again:
            return
        self._abandoned = True
        self._cancels.cancel()
        raise asyncio.CancelledError(OURS)

    async def _replace(self, error: SessionLockError, message: Message) -> None:
        self._replaced = True
        if not await self._exchange.answered(error, message):
            self._replaced = False
            raise error


class _Without:
    """The application, called in an outage: a request that does not use its session is not touched by it."""

    def __init__(self, exchange: Exchange, scope: Scope, error: RedisUnavailable) -> None:
        self._exchange = exchange
        self._scope = scope
        self._error = error
        self._session = UnavailableSession(error)
        self._replaced = self._begun = False

    async def handle(self, app: App) -> None:
        self._scope["session"] = self._session
        try:
            await app(self._scope, self._exchange.reader(), self.send)
        except Exception:
            if self._begun or self._replaced or not self._session.was_wanted:
                raise
            raise self._error from None

    async def send(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            # What the application made of the error is not what this request is to be answered.
            if self._session.was_wanted and message["status"] >= 500:
                self._replaced = await self._exchange.answered(self._error, message)
                if self._replaced:
                    return
            self._begun = True
        await self._exchange.send(message)


class _Before:
    """The request as it came, for its second run."""

    def __init__(self, scope: Scope) -> None:
        self._scope = {**scope, "headers": list(scope["headers"])}
        self._state = scope.get("state")
        self._state_then = dict(self._state) if isinstance(self._state, MutableMapping) else None
        self._context = copy_context()

    def restored(self) -> Scope:
        """A scope for the second run; what the first one put into the request's state and context is taken back.

        The state stays the same object, for the middleware around to see what the second run puts there.
        """
        for variable, value in self._context.items():
            if variable.get(None) is not value:
                variable.set(value)
        if self._state_then is not None and isinstance(self._state, MutableMapping):
            self._state.clear()
            self._state.update(self._state_then)
        return self._scope


def conflict() -> SessionConflict:
    return SessionConflict(
        "another request changed the session meanwhile, and this one cannot be run again: its body was too long to be"
        " kept"
    )


def _may_have_body(scope: Scope) -> bool:
    return scope["method"] not in SAFE_METHODS or any(name.lower() in OF_A_BODY for name, _ in scope["headers"])


def _answering(problem: Problem, head: bool, more: Headers) -> App:
    """An application that answers with ``problem``."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in problem.headers()]
        own = {name for name, _ in headers}
        headers += [header for header in more if header[0].lower() not in own]
        await send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else problem.content()})

    return answer


def header_of(scope: Scope, name: bytes, separator: str) -> str:
    """HTTP/2 may send the cookies in several headers."""
    return separator.join(value.decode("latin-1") for key, value in scope["headers"] if key.lower() == name)
