"""The package's clock counts a machine's sleep, and does not stand still where a test stops the functions of `time`."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest

from sessionlock import LeasePolicy, SessionGuard, WaitTimedOut, clock
from sessionlock.blocking import SessionGuard as BlockingGuard


@contextmanager
def stopped() -> Iterator[None]:
    """As freezegun does it: wherever a module keeps a function of `time`, another stands in its place."""
    real, changed = time.monotonic, []
    for module in list(sys.modules.values()):
        for name, value in list(vars(module).items()):
            if value is real:
                changed.append((module, name))
                setattr(module, name, lambda: 1_700_000_000.0)
    try:
        yield
    finally:
        for module, name in changed:
            setattr(module, name, real)


@contextmanager
def frozen() -> Iterator[None]:
    freezegun = pytest.importorskip("freezegun")
    with freezegun.freeze_time("2031-05-05"):
        yield


ways = pytest.mark.parametrize("stop", [stopped, frozen])


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="this system has no such clock")
def test_it_counts_the_machines_sleep() -> None:
    assert isinstance(clock.monotonic, partial)
    assert clock.monotonic.args == (time.CLOCK_BOOTTIME,)
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= clock.monotonic() <= time.clock_gettime(time.CLOCK_BOOTTIME)


@ways
def test_a_wait_ends_while_the_clock_stands(redis_url: str, stop: Any) -> None:
    gave_up: list[bool] = []

    def ask() -> None:
        with pytest.raises(WaitTimedOut):
            other.session_lock("s", wait=0.3).__enter__()
        gave_up.append(True)

    with BlockingGuard.from_url(redis_url) as guard, BlockingGuard.from_url(redis_url) as other:
        with stop(), guard.session_lock("s"):
            refused = threading.Thread(target=ask, daemon=True)
            refused.start()
            refused.join(20)
        assert gave_up


@ways
def test_no_lease_is_lost_when_the_clock_is_set(redis_url: str, stop: Any) -> None:
    """And it is renewed meanwhile."""
    with BlockingGuard.from_url(redis_url, lease=LeasePolicy(ttl=0.4)) as guard:
        with guard.session_lock("s") as session:
            lease = session.lease
            assert lease is not None
            with stop():
                give_up = clock.monotonic() + 10
                for _ in range(2):  # the first may have been on its way before
                    lease.check()
                    ends = lease.ends
                    while lease.ends == ends:
                        assert clock.monotonic() < give_up
                        time.sleep(0.01)
            lease.check()
            session["n"] = 1
        assert guard.read("s")["n"] == 1


@ways
def test_a_wait_ends_in_an_event_loop_that_stands(redis_url: str, stop: Any) -> None:
    """An event loop goes by the clock that was stopped; who waits for a lock gives up all the same."""
    ended: list[bool] = []
    if stop is frozen:
        pytest.importorskip("freezegun")

    async def wait() -> None:
        async with SessionGuard.from_url(redis_url) as guard, SessionGuard.from_url(redis_url) as other:
            async with guard.session_lock("s") as session:
                with stop():
                    with pytest.raises(WaitTimedOut):
                        await other.session_lock("s", wait=0.3).__aenter__()
                    session["n"] = 1
            assert (await guard.read("s"))["n"] == 1
        ended.append(True)

    waiting = threading.Thread(target=asyncio.run, args=(wait(),), daemon=True)
    waiting.start()
    waiting.join(20)
    assert ended


@pytest.mark.anyio
async def test_in_an_event_loop_whose_own_clock_is_left_alone(redis_url: str) -> None:
    """`real_asyncio` is freezegun's word for that."""
    freezegun = pytest.importorskip("freezegun")
    async with SessionGuard.from_url(redis_url) as guard, SessionGuard.from_url(redis_url) as other:
        with freezegun.freeze_time("2031-05-05", real_asyncio=True):
            async with guard.session_lock("s") as session:
                with pytest.raises(WaitTimedOut):
                    await other.session_lock("s", wait=0.3).__aenter__()
                session["n"] = 1


# --- another machine's

SECOND = 1_000_000


def test_it_is_never_earlier_than_the_clock_and_no_later_than_the_best_reading() -> None:
    dice, other, best = random.Random(1), clock.OtherClock(), float("inf")
    ahead, now = 1_795_000_000 * SECOND + 123, 50_000.0
    for _ in range(200):
        asked = now
        took = dice.choice((0.001, 0.01, 2.5)) * dice.random()
        read = asked + took * dice.random()
        now = asked + took
        other.saw(int(read * SECOND) + ahead, asked, now)
        best = min(best, read - asked)
        now += dice.random() * 0.01
        error = other.latest(now) - (int(now * SECOND) + ahead)
        assert -2 <= error <= best * SECOND + clock.DRIFT * 200 * 2.6 * SECOND
    assert error < 0.01 * SECOND


def test_a_slow_reply_does_not_make_it_worse() -> None:
    other = clock.OtherClock()
    other.saw(1000 * SECOND, 10.0, 10.001)
    other.saw(1003 * SECOND, 10.5, 13.0)  # read at 12.99 or so; by itself it would allow for 2.5 s more
    assert 1003 * SECOND <= other.latest(13.0) < 1003.02 * SECOND


def test_a_clock_that_was_set_is_taken_as_it_is_now() -> None:
    for step in (-30, -4, 4, 30):
        other = clock.OtherClock()
        other.saw(1000 * SECOND, 10.0, 10.001)
        other.saw((1001 + step) * SECOND, 11.0, 11.001)
        assert (1001 + step) * SECOND <= other.latest(11.0) <= (1001.01 + step) * SECOND


def test_it_was_never_read() -> None:
    other = clock.OtherClock()
    other.saw(1000 * SECOND, 10.0, 10.001)
    assert 1000 * SECOND <= other.latest(10.0) < 1000.1 * SECOND
