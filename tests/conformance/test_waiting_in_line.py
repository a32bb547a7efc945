"""First come, first served; how long, how many, and what tenacity's objects decide."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tenacity import (
    RetryCallState,
    stop_after_attempt,
    stop_after_delay,
    stop_all,
    stop_any,
    stop_never,
    stop_when_event_set,
    wait_fixed,
    wait_none,
)
from tenacity.wait import wait_base

from sessionlock import ConfigurationError, LeasePolicy, QueueFull, SessionGuard, WaitPolicy, WaitTimedOut
from tests.conformance.topologies import Node, Record

pytestmark = pytest.mark.anyio

Look = Callable[[str], Record]
HELD = 60.0  # seconds; longer than any test
ASLEEP = wait_fixed(HELD)  # with UNHURRIED, a waiter that would not look by itself in the time of any test
UNHURRIED = LeasePolicy(ttl=HELD, claim=HELD)  # a waiter looks at least once in every claim


def queue_a_dead_one(stored: Record, claimed_us: int) -> None:
    """Whose claim runs for so many microseconds; nobody hears pushes to it."""
    now = stored.now_us
    stored.client.zadd(stored.keys.queue, {"dead": now})
    stored.client.hset(stored.keys.waiters, "dead", f"{now + claimed_us} 10000 2000 sl:push:nobody dead")


class InLine:
    """Requests that queue one after the other; ``served`` tells in which order they were served."""

    def __init__(self, record: Record) -> None:
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._record = record

    async def add(self, guard: SessionGuard, name: str, **options: Any) -> asyncio.Task[None]:
        """Returns when it is queued."""
        before = len(self._record.waiting)
        task = asyncio.create_task(self._request(guard, name, options))
        self.tasks.append(task)
        await self._record.until(lambda stored: len(stored.waiting) == before + 1)
        return task

    async def _request(self, guard: SessionGuard, name: str, options: dict[str, Any]) -> None:
        async with guard.session_lock("s", label=name, **{"wait": WaitPolicy.seconds(HELD), **options}) as session:
            self.served.append(name)
            session["served"] = [*session.get("served", []), name]


@pytest.fixture
async def line(record: Look) -> AsyncIterator[InLine]:
    made = InLine(record("s"))
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


@asynccontextmanager
async def held(guard: SessionGuard, name: str = "holder") -> AsyncIterator[None]:
    async with guard.session_lock("s", label=name):
        yield


# --- the order


@pytest.mark.needs("queue")
async def test_first_come_first_served(node: Node, record: Look, line: InLine) -> None:
    nodes = [node(), node()]
    names = [f"request {i}" for i in range(8)]
    async with held(node()):
        for i, name in enumerate(names):
            await line.add(nodes[i // 2 % 2], name)
    await asyncio.gather(*line.tasks)
    assert line.served == names
    assert record("s").data == {"served": names}
    assert record("s").free


@pytest.mark.needs("queue")
async def test_who_asks_again_goes_last(node: Node, line: InLine) -> None:
    guard = node()
    async with held(guard):
        await line.add(node(), "first")
        await line.add(guard, "second")
    # Asked for in the very tick in which it was released.
    async with guard.session_lock("s", label="again", wait=HELD):
        line.served.append("again")
    await asyncio.gather(*line.tasks)
    assert line.served == ["first", "second", "again"]


@pytest.mark.needs("queue")
async def test_who_leaves_is_passed_over(node: Node, record: Look, line: InLine) -> None:
    async with held(node()):
        for name in ("a", "b", "c"):
            await line.add(node(), name)
        line.tasks[1].cancel()
        with pytest.raises(asyncio.CancelledError):
            await line.tasks[1]
        assert len(record("s").waiting) == 2
    await asyncio.gather(line.tasks[0], line.tasks[2])
    assert line.served == ["a", "c"]


@pytest.mark.needs("queue")
async def test_a_dead_waiter_is_passed_over(node: Node, record: Look, line: InLine) -> None:
    """Its process is gone: nobody hears the push on its channel."""
    async with held(node()):
        stored = record("s")
        queue_a_dead_one(stored, 10**8)
        await line.add(node(), "alive")
        assert len(record("s").waiting) == 2
    await asyncio.wait_for(asyncio.gather(*line.tasks), 5)
    assert line.served == ["alive"]
    assert record("s").free


@pytest.mark.needs("queue")
async def test_the_next_one_starts_without_looking(node: Node, line: InLine) -> None:
    """The push alone wakes it: this waiter never asks by itself."""
    async with held(node()):
        task = await line.add(node(), "pushed", wait=WaitPolicy(stop=stop_never, wait=ASLEEP), lease=UNHURRIED)
    await asyncio.wait_for(task, 5)


# --- not waiting, giving up


async def test_trying_does_not_queue(node: Node, record: Look) -> None:
    other = node()
    for wait in (0, WaitPolicy.never(), WaitPolicy(stop=stop_after_attempt(1))):
        async with other.session_lock("s", wait=wait):
            pass
        async with held(node(), "h"):
            with pytest.raises(WaitTimedOut) as caught:
                async with other.session_lock("s", wait=wait):
                    pytest.fail("entered")
            assert record("s").waiting == []
        assert caught.value.holder is not None
        assert caught.value.holder.endswith(" h")
        assert caught.value.holder_age is not None
        assert 0 <= caught.value.holder_age < 10
        assert caught.value.position is None


@pytest.mark.needs("queue")
async def test_trying_does_not_jump_the_queue(node: Node, record: Look, line: InLine) -> None:
    """The lock is free, but somebody waits for it: what kept it free of us lapsed just now."""
    stored = record("s")
    stored.client.set(stored.keys.lock, "foreign")
    await line.add(node(), "waits", wait=WaitPolicy(stop=stop_never, wait=ASLEEP), lease=UNHURRIED)
    stored.client.delete(stored.keys.lock)
    with pytest.raises(WaitTimedOut):
        async with node().session_lock("s", wait=0):
            pytest.fail("entered")
    await asyncio.wait_for(asyncio.gather(*line.tasks), 5)


@pytest.mark.needs("queue")
async def test_giving_up_tells_for_whom_and_where(node: Node, record: Look, line: InLine) -> None:
    async with held(node(label="node"), "checkout"):
        await line.add(node(), "ahead")
        with pytest.raises(WaitTimedOut) as caught:
            async with node().session_lock("s", wait=0.1):
                pytest.fail("entered")
        assert len(record("s").waiting) == 1  # nothing is left of the one who gave up
    error = caught.value
    assert (error.holder, error.position) == ("node checkout", 1)
    assert error.holder_age is not None
    assert 0 <= error.holder_age < 10
    assert "node checkout" in str(error)
    await asyncio.gather(*line.tasks)


@pytest.mark.needs("queue")
async def test_a_full_queue_refuses_at_once(node: Node, record: Look, line: InLine) -> None:
    async with held(node(label="node"), "checkout"):
        await line.add(node(), "a")
        await line.add(node(), "b")
        began = time.monotonic()
        with pytest.raises(QueueFull) as caught:
            async with node().session_lock("s", wait=WaitPolicy.seconds(HELD, max_waiters=2)):
                pytest.fail("entered")
        assert time.monotonic() - began < HELD / 10
        assert (caught.value.holder, caught.value.position) == ("node checkout", 2)
        assert caught.value.holder_age is not None
        assert 0 <= caught.value.holder_age < 10
        assert len(record("s").waiting) == 2
        await line.add(node(), "c", wait=WaitPolicy.seconds(HELD, max_waiters=3))
    await asyncio.gather(*line.tasks)
    assert line.served == ["a", "b", "c"]


@pytest.mark.needs("queue")
async def test_no_waiters_at_all(node: Node, record: Look) -> None:
    nobody = WaitPolicy(max_waiters=0)
    async with node().session_lock("s", wait=nobody):
        with pytest.raises(QueueFull):
            async with node().session_lock("s", wait=nobody):
                pytest.fail("entered")
    assert record("s").free


@pytest.mark.needs("queue")
async def test_the_dead_do_not_fill_the_queue(node: Node, record: Look, line: InLine) -> None:
    async with held(node()):
        stored = record("s")
        queue_a_dead_one(stored, -1)
        await line.add(node(), "alive", wait=WaitPolicy.seconds(HELD, max_waiters=2))
        stored.client.expire(stored.keys.queue, 60)
        task = asyncio.create_task(_request(node(), WaitPolicy.seconds(HELD, max_waiters=2)))
        await record("s").until(lambda stored: len(stored.waiting) == 2 and "dead" not in stored.waiting)
    await asyncio.gather(task, *line.tasks)


async def _request(guard: SessionGuard, wait: WaitPolicy) -> None:
    async with guard.session_lock("s", wait=wait):
        pass


async def test_a_dead_holder_costs_its_lease_and_no_more(node: Node, record: Look) -> None:
    """The lease of a holder that died ends; this waiter would not look by itself before."""
    stored = record("s")
    stored.client.set(stored.keys.lock, "died", px=400)
    began = time.monotonic()
    async with node().session_lock("s", wait=WaitPolicy(stop=stop_never, wait=ASLEEP), lease=UNHURRIED):
        waited = time.monotonic() - began
    assert 0.39 < waited < 2  # 0.5 at the most on a machine with nothing else to do


# --- tenacity's objects


class Watched(wait_base):
    """A custom wait that writes down when it was asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.attempts: list[int] = []

    def __call__(self, retry_state: RetryCallState) -> float:
        self.attempts.append(retry_state.attempt_number)
        return self.seconds


async def gives_up(guard: SessionGuard, wait: WaitPolicy) -> float:
    """Seconds until it gave up."""
    began = time.monotonic()
    with pytest.raises(WaitTimedOut):
        async with guard.session_lock("s", wait=wait, lease=UNHURRIED):
            pytest.fail("entered")
    return time.monotonic() - began


async def test_stop_after_attempt_and_a_custom_wait(node: Node, record: Look) -> None:
    wait = Watched(0.05)
    async with held(node()):
        took = await gives_up(node(), WaitPolicy(stop=stop_after_attempt(4), wait=wait))
        assert record("s").waiting == []
    assert wait.attempts[:3] == [1, 2, 3]
    assert 0.15 <= took < 2


async def test_a_wait_may_be_a_function(node: Node) -> None:
    async with held(node()):
        policy = WaitPolicy(stop=lambda state: state.attempt_number >= 3, wait=lambda state: 0.05)
        assert 0.1 <= await gives_up(node(), policy) < 2


@pytest.mark.needs("queue")
async def test_a_waiter_that_looks_finds_a_lock_that_nobody_pushed(node: Node, record: Look) -> None:
    """Deleted by hand, without a push: that is what ``wait`` is for."""
    stored = record("s")
    stored.client.set(stored.keys.lock, "foreign")  # without an end, so that only looking helps
    wait = Watched(0.05)
    task = asyncio.create_task(_request(node(), WaitPolicy(stop=stop_never, wait=wait)))
    await stored.until(lambda s: len(s.waiting) == 1)
    stored.client.delete(stored.keys.lock)
    await asyncio.wait_for(task, 2)
    assert wait.attempts


@pytest.mark.parametrize(
    "stop",
    [
        stop_after_delay(0.1),
        stop_any(stop_after_delay(0.1), stop_after_attempt(1000)),
        stop_after_delay(HELD) | stop_after_delay(0.1),
        stop_any(stop_any(stop_after_delay(0.1), stop_never), stop_after_delay(HELD)),
    ],
)
async def test_a_delay_is_kept_to_though_the_pause_is_longer(node: Node, stop: Any) -> None:
    async with held(node()):
        assert 0.1 <= await gives_up(node(), WaitPolicy(stop=stop, wait=ASLEEP)) < 5


async def test_stop_all_waits_for_all(node: Node) -> None:
    stop = stop_all(stop_after_attempt(2), stop_after_delay(0.1))
    async with held(node()):
        assert 0.1 <= await gives_up(node(), WaitPolicy(stop=stop, wait=wait_fixed(0.01))) < 2


@pytest.mark.needs("queue")
async def test_stop_when_an_event_is_set(node: Node, record: Look) -> None:
    event = threading.Event()
    policy = WaitPolicy(stop=stop_when_event_set(event), wait=wait_fixed(0.01))
    async with held(node()):
        task = asyncio.create_task(gives_up(node(), policy))
        await record("s").until(lambda stored: len(stored.waiting) == 1)
        event.set()
        await asyncio.wait_for(task, 2)


@pytest.mark.needs("queue")
async def test_before_sleep_is_called_before_each_pause(node: Node, record: Look) -> None:
    seen: list[tuple[int, float]] = []

    def note(state: RetryCallState) -> None:
        assert state.next_action is not None
        seen.append((state.attempt_number, state.next_action.sleep))

    async with held(node()):
        await gives_up(node(), WaitPolicy(stop=stop_after_attempt(4), wait=wait_fixed(0.01), before_sleep=note))
    assert seen == [(1, 0.01), (2, 0.01), (3, 0.01)]


async def test_before_sleep_may_be_asynchronous(node: Node) -> None:
    seen: list[int] = []

    async def note(state: RetryCallState) -> None:
        await asyncio.sleep(0)
        seen.append(state.attempt_number)

    async with held(node()):
        await gives_up(node(), WaitPolicy(stop=stop_after_attempt(3), wait=wait_none(), before_sleep=note))
    assert seen == [1, 2]


async def test_before_sleep_may_end_it(node: Node, record: Look) -> None:
    class Enough(Exception):
        pass

    def refuse(state: RetryCallState) -> None:
        raise Enough

    async with held(node()):
        with pytest.raises(Enough):
            async with node().session_lock("s", wait=WaitPolicy(before_sleep=refuse)):
                pytest.fail("entered")
        assert record("s").waiting == []


async def test_policies_of_the_guard_and_of_one_request(node: Node) -> None:
    impatient = node(wait=WaitPolicy.never())
    async with held(node()):
        began = time.monotonic()
        with pytest.raises(WaitTimedOut):
            async with impatient.session_lock("s"):
                pytest.fail("entered")
        assert time.monotonic() - began < 2
        assert await gives_up(impatient, WaitPolicy(stop=stop_after_delay(0.1))) >= 0.1
        with pytest.raises(WaitTimedOut):
            async with impatient.lock("s", wait=0.05):
                pytest.fail("entered")
        with pytest.raises(ConfigurationError):
            impatient.session_lock("s", wait=-1)


@pytest.mark.needs("queue")
async def test_every_guard_of_a_queue_may_have_its_own_lease(node: Node, record: Look, line: InLine) -> None:
    """A handed-over lease is the waiter's, not the releaser's."""
    async with node().session_lock("s", lease=LeasePolicy(ttl=60)):
        waiter = asyncio.create_task(_hold_until_confirmed(node(), record("s")))
        await record("s").until(lambda stored: len(stored.waiting) == 1)
    await waiter


async def _hold_until_confirmed(guard: SessionGuard, record: Record) -> None:
    async with guard.session_lock("s", lease=LeasePolicy(ttl=3, claim=0.3), wait=HELD):
        assert record.client.pttl(record.keys.lock) <= 300
        await record.until(lambda stored: stored.client.pttl(stored.keys.lock) > 1000)
        assert record.client.pttl(record.keys.lock) <= 3000
