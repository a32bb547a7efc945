"""A request of Quart's that may run twice, and a body that is received before its session is locked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from typing import Any, TypeVar, cast

from quart import Quart
from quart.globals import _cv_request
from quart.wrappers import Request
from quart.wrappers.request import Body

from ...clock import monotonic
from ...errors import LeaseLost, SessionConflict, SessionLockError
from ..flask_family.application import mix_in
from ..web.cancelling import Cancels
from ..web.request_session import RequestSession, RunAgain
from ..web.rules import RoutePolicy
from .session import QuartUse

__all__ = ["QuartRun", "twice_if_need_be"]

T = TypeVar("T")
RUN = "sessionlock.run"  # in a request's scope
LOOK_AGAIN = 0.05  # seconds after which it is seen whether a body without a length has become too long


class QuartRun:
    """One run of a request, or a websocket. ``before``: what the run before did, for the second one.

    It is made in the task that runs it.
    """

    def __init__(self, request: Any, before: RequestSession | None = None) -> None:
        self.request = request
        self.before = before
        self.use: QuartUse | None = None
        self._cancels = Cancels()

    @classmethod
    def of(cls, request: Any) -> QuartRun | None:
        """None: this request cannot be run again (a request context of a test's own, say)."""
        run = request.scope.get(RUN)
        return run if isinstance(run, QuartRun) and run.request is request else None

    def begin(self, use: QuartUse) -> None:
        self.use = use

    @property
    def visit(self) -> RequestSession | None:
        return self.use.visit if self.use is not None else None

    async def handled(self, handle: Callable[[Any], Awaitable[T]]) -> T:
        """What ``handle`` answers. Raises :class:`.visit.RunAgain` when nothing of it is to be sent."""
        scope: Any = self.request.scope
        scope[RUN] = self
        failure: BaseException | None = None
        try:
            return await handle(self.request)
        except RunAgain as error:
            await self._forget_context(error)
            raise
        except BaseException as error:
            failure = error
            if isinstance(error, Exception):
                await self._failed()
            raise
        finally:
            scope.pop(RUN, None)
            if self.use is not None:
                await self.use.leave(failure)

    async def _failed(self) -> None:
        """By its own exception, which may come of a conflict. Raises :class:`.visit.RunAgain` if so."""
        if self.use is not None:
            try:
                await self.use.finish(failed=True, live=lambda: None)
            except RunAgain as again:
                await self.repeat(again)
            except SessionLockError:
                pass  # the application's own error comes first

    async def _forget_context(self, error: BaseException) -> None:
        """A test client in an ``async with`` block keeps the request's context: only that of the run that counts."""
        context: Any = _cv_request.get(None)
        if context is not None and context.preserved and context.request is self.request:
            await context.pop(error)

    # --- the lease

    def lease_is_lost(self) -> None:
        """And with it what the view has changed: it is ended."""
        self._cancels.cancel()

    def loss(self, error: asyncio.CancelledError) -> LeaseLost | None:
        """What that cancellation means, if it is ours."""
        return self._cancels.loss(error, None if self.visit is None else self.visit.session.lease)

    # --- the body

    async def receive(self, policy: RoutePolicy) -> None:
        """Before the session is opened: have the body here where it would be waited for under the lock, and keep what
        a second run will ask for.
        """
        limit = policy.body_ahead
        if policy.may_run_again(self.request.method):
            body = self.request.body
            mix_in(body, KeptBody)
            body.kept, body.limit = bytearray(body._data), limit
        elif policy.mode_for(self.request.method) == "lock":
            await _received(self.request, limit)

    async def repeat(self, again: RunAgain) -> SessionConflict:
        """Raises ``again``; what became of the request where its body, whose rest is waited for, is too long."""
        body = self.request.body
        if await _received(self.request, body.limit) and len(body.kept) <= body.limit:
            raise again
        return SessionConflict(
            "another request changed the session meanwhile, and this one cannot be run again: its body is too long"
        )


class KeptBody(Body):
    """A request's body that can be had once more, up to ``limit`` bytes, however it is read."""

    kept: bytearray
    limit: int

    def append(self, data: bytes) -> None:
        if len(self.kept) <= self.limit:
            self.kept += data
        super().append(data)


async def twice_if_need_be(app: Quart, handle: Callable[[Any], Awaitable[T]], request: Request) -> T:
    """Handle the request. When that raises :class:`.visit.RunAgain`, once more, as it came."""
    before = copy_context()
    run = QuartRun(request)
    try:
        return await run.handled(handle)
    except RunAgain:
        visit = run.visit
    assert visit is not None
    _take_back(before)
    return await QuartRun(_as_it_came(app, request), visit).handled(handle)


def _take_back(before: Context) -> None:
    """What the first run put into its context."""
    for variable, value in before.items():
        if variable.get(None) is not value:
            variable.set(value)


def _as_it_came(app: Quart, request: Request) -> Request:
    fresh = app.request_class(
        request.method,
        request.scheme,
        request.path,
        request.query_string,
        request.headers,
        request.root_path,
        request.http_version,
        cast(Any, request.scope),
        max_content_length=app.config["MAX_CONTENT_LENGTH"],
        body_timeout=app.config["BODY_TIMEOUT"],
        send_push_promise=request._send_push_promise,
    )
    fresh.body.set_result(bytes(cast(KeptBody, request.body).kept))
    return fresh


async def _received(request: Request, limit: int) -> bool:
    """Wait until the body is here, as long as Quart would wait for it; whether it is, or will not be waited for.

    Quart receives it in a task of its own, and refuses one that is longer than it takes: then there is nothing to wait
    for.
    """
    body: Any = request.body
    if (request.content_length or 0) > limit:
        return body._must_raise is not None
    if body._must_raise is not None or body._complete.is_set():
        return True
    waiting = asyncio.ensure_future(body._complete.wait())
    until = None if request.body_timeout is None else monotonic() + request.body_timeout
    try:
        while body._must_raise is None and not body._complete.is_set():
            if len(body._data) > limit or (until is not None and monotonic() > until):
                return False
            await asyncio.wait([waiting], timeout=LOOK_AGAIN)  # nobody tells how much there is
        return True
    finally:
        waiting.cancel()
