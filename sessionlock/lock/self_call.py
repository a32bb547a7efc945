"""A request that waits for itself: asked while it waits, where the faces have said how to find out.

The question is :mod:`sessionlock.selfcalls`'; here it is put, at the right moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import ReentrantLock
from ..protocol.replies import Holder
from .holders import LockBody, reentrant
from .request import LockRequest, OnWait, Question
from .runtime import Runtime

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SelfCallCheck"]

BRIEF_WAIT = 0.05  # seconds of waiting that are not worth asking whether it makes sense
LOOK_EVERY = 0.1  # seconds of waiting, whether who holds the lock waits for who wants it: he may come to it later
LOOKS_ELSEWHERE = 5  # after so many looks the holder may also be who asks, by another guard


class SelfCallCheck:
    """Checks, while a request waits, whether that is pointless. ``wake`` is called when it is.

    ``on_wait`` (None: nobody asks) says what the question is. It is put when the wait has lasted for
    :data:`BRIEF_WAIT`; what it costs where many wait is its own affair.
    """

    def __init__(
        self, runtime: Runtime, request: LockRequest, on_wait: OnWait | None, wake: Callable[[], object]
    ) -> None:
        self._runtime = runtime
        self._request = request
        self._on_wait = on_wait
        self._wake = wake
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None
        # Within a body that holds this very lock: it may come to wait for this task.
        self._doubts: list[LockBody] = []
        self._asker = asyncio.current_task()
        self._looking: asyncio.TimerHandle | None = None
        self._looks = 0
        self._found: ReentrantLock | None = None

    @property
    def untold(self) -> bool:
        """Whether somebody wants to know whom this wait is for, and has not been told."""
        return self._on_wait is not None

    def consider(self, holder: Holder) -> None:
        """This holder is waited for; only the first counts."""
        if self._looks == 0:
            self._doubts = self._runtime.holders.doubts(self._request)
            self._look_later()
        on_wait, self._on_wait = self._on_wait, None
        question = on_wait(self._request, holder) if on_wait is not None else None
        if question is not None:
            self._timer = self._runtime.loop.call_later(BRIEF_WAIT, self._ask, question)

    def check(self) -> None:
        """Raise what was found. To be called where no grant has come."""
        if self._found is not None:
            raise self._found
        if self._asking is not None and self._asking.done() and not self._asking.cancelled():
            self._asking.result()

    def _look(self) -> None:
        self._doubts = [body for body in self._doubts if not body.is_over]
        for body in self._doubts:
            if body.home is self._runtime.holders:
                waits = body.waits_for(self._asker)
            else:
                waits = body.has_begun_a_thread or (self._looks >= LOOKS_ELSEWHERE and body.is_run_by(self._asker))
            if waits:
                self._found = reentrant(self._request, body, self._asker)
                self._wake()
                return
        self._look_later()

    def _look_later(self) -> None:
        if self._doubts:
            self._looks += 1
            self._looking = self._runtime.loop.call_later(LOOK_EVERY, self._look)

    def _ask(self, question: Question) -> None:
        self._asking = self._runtime.background(question())
        self._asking.add_done_callback(self._answered)

    def _answered(self, asking: asyncio.Task[None]) -> None:
        if not asking.cancelled() and asking.exception() is not None:
            self._wake()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """The wait is over."""
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()
        if self._asking is not None:
            self._asking.cancel()
