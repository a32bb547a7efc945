"""The one clock of this package: by it every lease is trusted, and every limit of time ends.

Seconds that never go backwards and, where the system has such a clock, that go on while the machine sleeps: Redis goes
on, too. Tools for tests that stop the functions of :mod:`time` (freezegun, time-machine) do not stop this one: a lease
would run out at once, and who waits would never give up.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import BuiltinFunctionType

__all__ = ["OtherClock", "call_later", "monotonic"]

DRIFT = 1e-3  # by which two clocks differ in their speed at the most

# Of Linux; of macOS, where CLOCK_MONOTONIC goes on in sleep and the function time.monotonic() stands still.
COUNT_SLEEP = ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC")


def _clock() -> Callable[[], float]:
    """A partial is not found by who replaces the functions of :mod:`time` wherever modules keep them."""
    for name in COUNT_SLEEP:
        number = getattr(time, name, None)
        if number is not None:
            try:
                time.clock_gettime(number)
            except OSError:
                continue  # a kernel, or a sandbox, without it
            return partial(time.clock_gettime, number)
    return partial(time.monotonic)


monotonic: Callable[[], float] = _clock()


def call_later(
    loop: asyncio.AbstractEventLoop, seconds: float, step: Callable[[], None]
) -> asyncio.TimerHandle | threading.Timer:
    """As the loop has it; but it is done also where a test has stopped the clock that the loop goes by."""
    if type(time.monotonic) is BuiltinFunctionType:
        return loop.call_later(seconds, step)
    timer = threading.Timer(seconds, _in_loop, (loop, step))
    timer.daemon = True
    timer.start()
    return timer


def _in_loop(loop: asyncio.AbstractEventLoop, step: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # it has been closed
        loop.call_soon_threadsafe(step)


class OtherClock:
    """What another machine's clock says now, as readings of it showed: a reading was taken at some instant between its
    question and its answer, and what all of them allow is narrower than what each does.

    After Cristian, "Probabilistic clock synchronization" (1989), and Marzullo's intersection of intervals (1984).
    """

    __slots__ = ("_at", "_earliest", "_latest")

    def __init__(self) -> None:
        self._at = 0.0  # when it was read last
        self._earliest = self._latest = 0.0  # how far it is ahead of ours, in microseconds

    def saw(self, us: int, asked: float, answered: float) -> None:
        """It said ``us`` microseconds, between these two instants of ours."""
        earliest, latest = us - answered * 1e6, us - asked * 1e6
        drift = (answered - self._at) * DRIFT * 1e6
        # If both cannot be true, it was set meanwhile.
        if self._earliest - drift <= latest and earliest <= self._latest + drift:
            earliest, latest = max(earliest, self._earliest - drift), min(latest, self._latest + drift)
        self._at, self._earliest, self._latest = answered, earliest, latest

    def latest(self, at: float) -> int:
        """The latest that it may have said at that instant, in microseconds."""
        return int(at * 1e6 + self._latest + abs(at - self._at) * DRIFT * 1e6)
