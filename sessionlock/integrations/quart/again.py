"""A request of Quart's that may run twice, and a body that is received before its session is locked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from dataclasses import replace
from typing import Any, TypeVar, cast

from quart import Quart
from quart.globals import _cv_request
from quart.wrappers import Request

from ...errors import LeaseLost, SessionLockError
from ..rules import BODY_LIMIT, RoutePolicy
from ..web import SAFE_METHODS, RunAgain, Visit
from .session import Use

__all__ = ["Run", "run_of", "twice_if_need_be"]

T = TypeVar("T")
RUN = "sessionlock.run"  # in a request's scope
LOOK_AGAIN = 0.05  # seconds after which it is seen whether a body without a length has become too long


class Run:
    """One run of a request, or a websocket. ``before``: what the run before did, for the second one.

    It is made in the task that runs it.
    """

    def __init__(self, request: Any, before: Visit | None = None) -> None:
        self.request = request
        self.before = before
        self.use: Use | None = None
        self.body: bytes | None = b""
        """What a second run would get; None: it cannot be had again."""
        self._task: Any = asyncio.current_task()
        self._lost = False

    @property
    def visit(self) -> Visit | None:
        return self.use.visit if self.use is not None else None

    async def handled(self, handle: Callable[[Any], Awaitable[T]]) -> T:
        """What ``handle`` answers. Raises :class:`.visit.RunAgain` when nothing of it is to be sent."""
        scope: Any = self.request.scope
        outer, scope[RUN] = scope.get(RUN), self
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
            scope[RUN] = outer
            if self.use is not None:
                await self.use.leave(failure)

    async def _failed(self) -> None:
        """By its own exception, which may come of a conflict. Raises :class:`.visit.RunAgain` if so."""
        if self.use is not None:
            try:
                await self.use.finish(failed=True, live=lambda: None)
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
        self._lost = self._task.cancel()

    def take_loss(self) -> LeaseLost | None:
        """Whether the task was cancelled for that, and by nobody else; once."""
        lost, self._lost = self._lost, False
        visit = self.visit
        if not lost or visit is None or visit.session.lease is None:
            return None
        if hasattr(self._task, "uncancel") and self._task.uncancel():
            return None
        return LeaseLost(visit.session.lease.why_lost())

    # --- the body

    async def receive(self, policy: RoutePolicy) -> RoutePolicy:
        """Before the session is opened: have the body here where it would be waited for under the lock.

        The policy: one whose body is too long to be kept cannot run again.
        """
        request, safe = self.request, self.request.method.upper() in SAFE_METHODS
        if safe and not request.content_length and "transfer-encoding" not in request.headers:
            return policy
        if not safe and policy.mode_for(request.method) != "lock":
            return policy
        whole = await _received(request, BODY_LIMIT if policy.body_limit is None else policy.body_limit)
        if not safe:
            return policy
        self.body = await request.body if whole else None
        return policy if whole else replace(policy, on_conflict="answer")


def run_of(request: Any) -> Run | None:
    """None: this request cannot be run again (a request context of a test's own, say)."""
    run = request.scope.get(RUN)
    return run if isinstance(run, Run) and run.request is request else None


async def twice_if_need_be(app: Quart, handle: Callable[[Any], Awaitable[T]], request: Request) -> T:
    """Handle the request. When that raises :class:`.visit.RunAgain`, once more, as it came."""
    before = copy_context()
    run = Run(request)
    try:
        return await run.handled(handle)
    except RunAgain:
        visit = run.visit
    assert visit is not None
    _take_back(before)
    return await Run(_as_it_came(app, request, run.body or b""), visit).handled(handle)


def _take_back(before: Context) -> None:
    """What the first run put into its context."""
    for variable, value in before.items():
        if variable.get(None) is not value:
            variable.set(value)


def _as_it_came(app: Quart, request: Request, body: bytes) -> Request:
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
    fresh.body.set_result(body)
    return fresh


async def _received(request: Request, limit: int) -> bool:
    """Wait until the body is here, as long as Quart would wait for it; whether it is, and may be asked for."""
    if (request.content_length or 0) > limit or not limit:
        return False
    try:
        return await asyncio.wait_for(_filled(request.body, limit), request.body_timeout)
    except asyncio.TimeoutError:
        return False


async def _filled(body: Any, limit: int) -> bool:
    """Quart receives it in a task of its own; nobody is told how much there is."""
    complete = body._complete
    while body._must_raise is None and not complete.is_set():
        if len(body._data) > limit:
            return False
        await asyncio.wait([waiting := asyncio.ensure_future(complete.wait())], timeout=LOOK_AGAIN)
        waiting.cancel()
    return body._must_raise is None
