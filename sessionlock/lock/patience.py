"""A waiting policy being followed: tenacity's ``stop``, ``wait`` and ``before_sleep``, asked as tenacity asks them.

``AsyncRetrying`` itself builds a chain of wrapped functions for every call, which costs a waiter more time than all the
rest of its wait; so the three questions are put here, in the same order and on the same :class:`RetryCallState`.
"""

from __future__ import annotations

import inspect
from typing import Any

from tenacity import AsyncRetrying, Future, RetryAction, RetryCallState

from ..clock import monotonic
from ..errors import SessionLockError
from ..policies import seconds_until_stop
from .request import LockRequest

__all__ = ["Patience", "StillWaiting"]


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
    """One waiter's use of its policy. An attempt is a look, or a pause that ended without one."""

    def __init__(self, request: LockRequest) -> None:
        self._policy = request.wait
        self._state = _State(_NO_RETRYING, StillWaiting(f"session {request.digest} is locked"))
        self._started = monotonic()

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
