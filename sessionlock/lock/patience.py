"""A waiting policy being followed: tenacity's ``stop``, ``wait`` and ``before_sleep``, asked as tenacity asks them.

``AsyncRetrying`` itself builds a chain of wrapped functions for every call, which costs a waiter more time than all the
rest of its wait; so the three questions are put here, in the same order and on the same :class:`RetryCallState`.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any, TypeVar

from tenacity import AsyncRetrying, Future, RetryAction, RetryCallState

from ..clock import monotonic
from ..errors import RedisUnavailable, SessionLockError, WaitTimedOut
from ..policies import seconds_until_stop
from ..protocol.replies import Queued
from ..transport.tasks import within
from .refusals import timed_out
from .request import LockRequest
from .runtime import CLEAN_UP_WITHIN

__all__ = ["GRACE", "Patience", "StillWaiting", "in_time", "leaves_within", "left_of"]

T = TypeVar("T")
GRACE = 0.2  # seconds beyond the end of a wait for a reply that is on its way, and for giving the place back
A_DAY = 86_400.0  # not every event loop has timers that never end


def left_of(request: LockRequest, began: float, most: float = A_DAY) -> float:
    """Seconds that are left of a wait that began then, with its grace."""
    return min(most, max(0.0, began + request.longest + GRACE - monotonic()))


async def in_time(answer: Awaitable[T], request: LockRequest, began: float, last: Queued | None) -> T:
    """What Redis answers in a wait that began then, if that comes before the end of the wait. ``last``: what it
    answered before.

    Raises:
        WaitTimedOut, RedisUnavailable: it has not; the latter where Redis never answered.
    """
    try:
        return await within(answer, left_of(request, began))
    except asyncio.TimeoutError:
        raise timed_out(request, last, monotonic() - began) from None


def leaves_within(error: BaseException, request: LockRequest, began: float) -> float:
    """Seconds for which a wait that ended like that waits for its place to be given back. That goes on behind."""
    if isinstance(error, RedisUnavailable):
        return 0.0  # a lock that comes late is handed on by it
    return left_of(request, began, CLEAN_UP_WITHIN) if isinstance(error, WaitTimedOut) else CLEAN_UP_WITHIN


class StillWaiting(SessionLockError):
    """What tenacity's callbacks find as the outcome of an attempt."""


class _State(RetryCallState):
    """``outcome`` is made when a policy asks for it; few do."""

    def __init__(self, retrying: AsyncRetrying, still_waiting: Exception) -> None:
        self._still_waiting = still_waiting
        self._outcome: Future | None = None
        super().__init__(retrying, None, (), {})
        self.start_time = monotonic()  # tenacity's own may be of a clock that a test has stopped

    @property
    def outcome(self) -> Future | None:
        if self._outcome is None:
            self._outcome = Future.construct(self.attempt_number, self._still_waiting, True)
        return self._outcome

    @outcome.setter
    def outcome(self, value: Future | None) -> None:
        self._outcome = value


class Patience:
    """One waiter's use of its policy. An attempt is a look, or a pause that ended without one.

    ``began``: when the wait did, by the monotonic clock; None: now.
    """

    def __init__(self, request: LockRequest, began: float | None = None) -> None:
        self._policy = request.wait
        self._state = _State(_NO_RETRYING, StillWaiting(f"{request.title} is locked"))
        self._started = monotonic() if began is None else began
        self._state.start_time = self._started

    def elapsed(self) -> float:
        return monotonic() - self._started

    def left(self) -> float:
        """Seconds until ``stop`` certainly says stop, inf when its kind does not tell."""
        return seconds_until_stop(self._policy.stop, self.elapsed())

    async def next_pause(self) -> float | None:
        """The attempt failed: seconds to pause before the next, None to give up."""
        state, policy = self._state, self._policy
        state.outcome_timestamp = monotonic()
        pause = float(await _value(policy.wait(state)))
        if not pause >= 0:
            pause = 0.0  # nan and negative pauses are none
        state.upcoming_sleep = pause
        if await _value(policy.stop(state)):
            return None
        state.next_action = RetryAction(pause)
        state.idle_for += pause
        if policy.before_sleep is not None:
            await _value(policy.before_sleep(state))
        state.attempt_number += 1
        state.outcome = None
        return pause


async def _value(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


_NO_RETRYING = AsyncRetrying()
