"""Ending the task that handles a request, and telling that apart from somebody else's wish to end it."""

from __future__ import annotations

import asyncio
from typing import Any

from ...errors import LeaseLost
from ...lease import Lease

__all__ = ["OURS", "Cancels"]

OURS = "sessionlock: this run of the request is over"  # says a cancellation of ours


class Cancels:
    """Cancels the task that it was made in, and can tell such a cancellation from somebody else's."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task: Any = task
        self._before = self._number()
        self.own: int = 0

    def _number(self) -> int:
        """Of cancellations that were asked for. Before Python 3.11 nobody counts them: all are taken for ours."""
        return int(self._task.cancelling()) if hasattr(self._task, "cancelling") else 0

    def cancel(self) -> None:
        """For other tasks and callbacks; the task itself may just raise."""
        if asyncio.current_task() is not self._task and self._task.cancel(OURS):
            self.own += 1

    def take_back(self) -> None:
        """Our own, so that nobody around sees the task as cancelled."""
        for _ in range(self.own if hasattr(self._task, "uncancel") else 0):
            self._task.uncancel()
        self.own = 0

    def only_ours(self, error: BaseException) -> bool:
        """Take our own back. Whether ``error`` is a cancellation, and nobody else wants the task to end."""
        self.take_back()
        return isinstance(error, asyncio.CancelledError) and self._number() <= self._before

    def loss(self, error: asyncio.CancelledError, lease: Lease | None) -> LeaseLost | None:
        """What ``error`` means where the task is only cancelled when its lease is lost; None: somebody else's."""
        if not self.own or lease is None or not self.only_ours(error):
            return None
        return LeaseLost(lease.why_lost())
