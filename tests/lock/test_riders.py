"""Riders: of many waiters of one process most are not in the queue; the release of the one before grants each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Literal

import pytest
from tenacity import stop_after_delay, wait_fixed

from sessionlock import (
    LeaseLost,
    LeasePolicy,
    QueueFull,
    SessionDestroyed,
    SessionGuard,
    SessionInfo,
    SessionNotFound,
    WaitPolicy,
    WaitTimedOut,
)
from sessionlock.lock.waiting import FIRST_RIDER
from sessionlock.protocol.replies import Handover
from tests.harness.commands import CommandCounter
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look, Stored

pytestmark = pytest.mark.anyio

# Nobody looks by itself for long, so a grant that comes soon was handed over.
MANY = WaitPolicy(stop=stop_after_delay(20), wait=wait_fixed(60), max_waiters=500)
LEASE = LeasePolicy(ttl=30, claim=20)


class Crowd:
    """Requests for session ``s`` that each count, and the order in which they were granted."""

    def __init__(self, session: Stored) -> None:
        self.order: list[str] = []
        self.fences: list[int] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.on_grant: Callable[[], Awaitable[SessionInfo]] | None = None
        self.seen: list[SessionInfo] = []
        self.missing: Literal["create", "reject"] = "create"
        self._session = session

    def enter(self, guard: SessionGuard, *names: str, wait: WaitPolicy | float = MANY) -> None:
        for name in names:
            self.tasks[name] = asyncio.ensure_future(self._enter(guard, name, wait))

    async def queue(self, guard: SessionGuard, *names: str) -> None:
        """Return when they are in the queue; in this order."""
        for name in names:
            here, before = guard.runtime().wakeup.waiting, len(self._session.waiting)
            self.enter(guard, name)
            await self._session.until(lambda s, n=before: len(s.waiting) == n + 1)  # type: ignore[misc]
            while guard.runtime().wakeup.waiting == here:
                await asyncio.sleep(0)

    async def ride(self, guard: SessionGuard, *names: str) -> None:
        """Return when they wait and Redis does not know of it."""
        queued, waiting = self._session.waiting, guard.runtime().wakeup.waiting
        self.enter(guard, *names)
        while guard.runtime().wakeup.waiting < waiting + len(names):
            await asyncio.sleep(0)
        assert self._session.waiting == queued

    async def over(self, within: float = 8) -> list[str]:
        """The order, when all have ended. Sooner than anybody looks by itself."""
        await asyncio.wait_for(asyncio.gather(*self.tasks.values()), within)
        assert self.fences == sorted(set(self.fences))
        return self.order

    async def ended(self, within: float = 8) -> set[type[BaseException] | None]:
        """How, when all have."""
        ended = await asyncio.wait_for(asyncio.gather(*self.tasks.values(), return_exceptions=True), within)
        self.tasks.clear()
        return {None if error is None else type(error) for error in ended}

    async def end(self) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def _enter(self, guard: SessionGuard, name: str, wait: WaitPolicy | float) -> None:
        async with guard.session_lock("s", wait=wait, lease=LEASE, missing=self.missing) as session:
            self.order.append(name)
            if self.on_grant is not None:
                self.seen.append(await self.on_grant())
            assert session.lease is not None
            self.fences.append(session.lease.fencing_token)
            session["n"] = session.get("n", 0) + 1


@pytest.fixture
async def crowd(stored: Look) -> AsyncIterator[Crowd]:
    crowd = Crowd(stored("s"))
    yield crowd
    await crowd.end()


QUEUED = [f"q{n}" for n in range(FIRST_RIDER)]


async def test_a_crowd_costs_one_call_each(redis_url: str, node: MakeGuard, stored: Look, crowd: Crowd) -> None:
    """Forty requests wait in one process: each is one call, which saves, hands on and loads; in order."""
    guard, riders = node(), [f"r{n}" for n in range(40)]
    async with guard.session_lock("s", lease=LEASE):
        await crowd.queue(guard, *QUEUED)
        await crowd.ride(guard, *riders)
    with CommandCounter(redis_url) as ran:
        assert await crowd.over() == [*QUEUED, *riders]
    assert ran.script_calls <= len(QUEUED) + len(riders)
    assert stored("s").data == {"n": len(QUEUED) + len(riders)}
    assert stored("s").free


async def test_nobody_is_passed_by(node: MakeGuard, crowd: Crowd) -> None:
    """Riders of two processes, and waiters of a third: who came first is first, in the queue or not."""
    one, other, third = node(), node(), node()
    async with one.session_lock("s", lease=LEASE):
        await crowd.queue(one, *QUEUED)
        await crowd.ride(one, "r0", "r1")
        await crowd.queue(third, "third")
        await crowd.ride(one, "r2", "r3")
        await crowd.queue(other, "other")
        await crowd.ride(one, "r4")
    assert await crowd.over() == [*QUEUED, "r0", "r1", "third", "r2", "r3", "other", "r4"]


async def test_the_holder_is_elsewhere(node: MakeGuard, crowd: Crowd) -> None:
    """While another process holds, somebody of this one stands in the queue, and is handed the lock."""
    one, other = node(), node()
    async with AsyncExitStack() as held:
        await held.enter_async_context(other.session_lock("s", lease=LEASE))
        await crowd.queue(one, *QUEUED)
        await crowd.ride(one, *[f"r{n}" for n in range(5)])
        await crowd.queue(other, "other")
    assert await crowd.over() == [*QUEUED, *[f"r{n}" for n in range(5)], "other"]


async def test_all_that_stood_in_the_queue_leave(node: MakeGuard, stored: Look, crowd: Crowd) -> None:
    """Another process holds, and all of this one that were in the queue give up: the first rider takes a place."""
    one, other = node(), node()
    async with other.session_lock("s", lease=LEASE):
        await crowd.queue(one, *QUEUED)
        await crowd.ride(one, "r0", "r1")
        for name in QUEUED:
            crowd.tasks.pop(name).cancel()
        await stored("s").until(lambda s: len(s.waiting) == 1)
    assert await crowd.over() == ["r0", "r1"]


@pytest.mark.parametrize("steps", range(4))
async def test_a_rider_that_is_to_ask_leaves(node: MakeGuard, crowd: Crowd, steps: int) -> None:
    """Before it has asked, or while it does: the next one asks, so that the lock is handed to this process."""
    one, other = node(), node()
    async with other.session_lock("s", lease=LEASE):
        await crowd.queue(one, *QUEUED)
        await crowd.ride(one, "r0", "r1", "r2")
        for name in QUEUED:
            crowd.tasks.pop(name).cancel()
        while one.runtime().wakeup.waiting > 3:
            await asyncio.sleep(0)
        for _ in range(steps):
            await asyncio.sleep(0)
        crowd.tasks.pop("r0").cancel()
    assert await crowd.over() == ["r1", "r2"]


async def test_a_rider_gives_up(redis_url: str, node: MakeGuard, stored: Look, crowd: Crowd) -> None:
    """A rider whose time is over, or that is cancelled, leaves without a word to Redis; the others keep their order."""
    guard = node()
    async with guard.session_lock("s", lease=LEASE):
        await crowd.queue(guard, *QUEUED)
        await crowd.ride(guard, "r0", "r1", "r2")
        with CommandCounter(redis_url) as ran:
            crowd.tasks.pop("r1").cancel()
            crowd.enter(guard, "late", wait=WaitPolicy.seconds(0.05, max_waiters=500))
            with pytest.raises(WaitTimedOut, match="still held after"):
                await crowd.tasks.pop("late")
        assert ran.script_calls == 0
    assert await crowd.over() == [*QUEUED, "r0", "r2"]


async def test_a_rider_is_cancelled_when_it_was_named(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, crowd: Crowd
) -> None:
    """The release that names it is under way: what it is granted goes on to the next one."""
    guard = node(proxy.url)
    async with guard.session_lock("s", lease=LEASE) as session:
        session["n"] = 0
        await crowd.queue(guard, *QUEUED)
        await crowd.ride(guard, "r0", "r1", "r2")
        for name in QUEUED:
            crowd.tasks.pop(name).cancel()
        await stored("s").until(lambda s: not s.waiting)
        under_way = proxy.hold_requests(calls_of("release"))
        leaving = asyncio.ensure_future(session.release())
        await under_way.wait()
        crowd.tasks.pop("r0").cancel()
        await asyncio.sleep(0)
        await proxy.let_go()
        await leaving
    assert await crowd.over() == ["r1", "r2"]
    assert stored("s").free


async def test_the_reply_that_names_it_is_lost(proxy: FaultyProxy, node: MakeGuard, stored: Look, crowd: Crowd) -> None:
    """The release was done and its reply lost: the rider that it granted finds out by asking, at once."""
    guard = node(proxy.url)
    async with guard.session_lock("s", lease=LEASE) as session:
        await crowd.queue(guard, *QUEUED)
        await crowd.ride(guard, "r0", "r1")
        for name in QUEUED:
            crowd.tasks.pop(name).cancel()
        await stored("s").until(lambda s: not s.waiting)
        dropped = proxy.drop_next_reply(calls_of("release"))
        session["n"] = 10
    await dropped.wait()
    assert await crowd.over() == ["r0", "r1"]
    assert stored("s").data == {"n": 12}


async def test_the_holders_lease_is_lost(node: MakeGuard, stored: Look, crowd: Crowd) -> None:
    """Its release names a rider and is refused: the rider asks for itself, which sets the queue going, too."""
    guard, session = node(), stored("s")
    held = guard.session_lock("s", lease=LEASE)
    await held.__aenter__()
    await crowd.queue(guard, *QUEUED)
    await crowd.ride(guard, "r0", "r1")
    session.client.delete(session.keys.lock)
    with pytest.raises(LeaseLost):
        await held.__aexit__(None, None, None)
    assert await crowd.over() == [*QUEUED, "r0", "r1"]


@pytest.mark.parametrize("how", ["cut", "closed"])
async def test_no_push_can_be_heard(proxy: FaultyProxy, node: MakeGuard, stored: Look, crowd: Crowd, how: str) -> None:
    """The push connection is cut and does not come back, or the guard is closed: the releases of this process go on
    naming its riders, and nobody who comes later is before them.
    """
    guard, session, riders = node(proxy.url), stored("s"), [f"r{n}" for n in range(20)]
    async with guard.session_lock("s", lease=LEASE):
        pushes = guard.runtime().wakeup.pushes
        await crowd.queue(guard, *QUEUED)
        await crowd.ride(guard, *riders)
        for name in QUEUED:
            crowd.tasks.pop(name).cancel()
        await session.until(lambda s: not s.waiting)
        if how == "cut":
            proxy.refuse()
            session.client.client_kill_filter(_type="pubsub")
            while pushes.hears(session.keys):
                await asyncio.sleep(0.001)
            crowd.enter(guard, "later")
        else:
            await guard.aclose()
    assert await crowd.over() == [*riders, *(["later"] if how == "cut" else [])]


@pytest.mark.parametrize("who", ["the holder", "another process"])
async def test_the_session_is_destroyed(node: MakeGuard, crowd: Crowd, who: str) -> None:
    """All are told at once, those that ride, too: some in the queue by a push, and each tells the others."""
    guard, riders = node(), [f"r{n}" for n in range(6)]
    async with guard.session_lock("s", lease=LEASE) as session:
        session["n"] = 1
        await session.save()
        await crowd.queue(guard, *QUEUED)
        await crowd.ride(guard, *riders)
        await (session.destroy() if who == "the holder" else node().destroy("s"))
        with suppress(SessionDestroyed):
            await session.release()
    assert await crowd.ended() == {SessionDestroyed}


async def test_the_session_is_gone(node: MakeGuard, stored: Look, crowd: Crowd) -> None:
    """Nobody tells those that wait for a session that has expired: who finds out lets the next one look."""
    guard, session = node(), stored("s")
    crowd.missing = "reject"
    async with guard.session_lock("s", lease=LEASE) as session_here:
        session_here["n"] = 1
        await session_here.save()
        await crowd.queue(guard, *QUEUED)
        await crowd.ride(guard, *[f"r{n}" for n in range(6)])
        session.client.delete(session.keys.session)
    assert await crowd.ended() == {SessionNotFound}


async def test_a_push_overtakes_the_place_in_the_queue(node: MakeGuard, stored: Look, crowd: Crowd) -> None:
    """A rider has asked for a place, and a push comes for it before the reply: that says nothing about the clock. Who
    takes a seat afterwards is not behind those that come later.
    """
    one, other, session = node(), node(), stored("s")
    async with other.session_lock("s", lease=LEASE):
        await crowd.queue(one, *QUEUED)
        await crowd.ride(one, "r0", "r1")
        wakeup = one.runtime().wakeup
        first = wakeup.rider(session.keys)
        assert first is not None
        seconds, us = session.client.time()
        wakeup.dispatch(Handover("M", first.token, server_us=seconds * 1_000_000 + us))
        crowd.enter(one, "then")  # takes its seat before any reply can come
        await session.until(lambda s: len(s.waiting) == len(QUEUED) + 1)
        await crowd.queue(other, "and then")
        await crowd.ride(one, "last")
    assert await crowd.over() == [*QUEUED, "r0", "r1", "then", "and then", "last"]


async def test_how_many_ride(node: MakeGuard, stored: Look, crowd: Crowd) -> None:
    """Half of those that may wait; the others stand in the queue. ``max_waiters`` counts both."""
    guard, most = node(), 2 * FIRST_RIDER + 4
    few = WaitPolicy.seconds(20, max_waiters=most)
    async with guard.session_lock("s", lease=LEASE):
        await crowd.queue(guard, *QUEUED)
        crowd.enter(guard, *[f"r{n}" for n in range(most - FIRST_RIDER)], wait=few)
        await stored("s").until(lambda s: len(s.waiting) == most // 2)
        while guard.runtime().wakeup.waiting < most:
            await asyncio.sleep(0)
        crowd.enter(guard, "one too many", wait=few)
        with pytest.raises(QueueFull):
            await crowd.tasks.pop("one too many")
    assert len(await crowd.over()) == most


async def test_who_came_first_elsewhere_is_first(node: MakeGuard, stored: Look, crowd: Crowd) -> None:
    """Another process holds, and who of this one stood in the queue leaves: riders that came before others' waiters are
    before them all the same."""
    one, other = node(), node()
    async with other.session_lock("s", lease=LEASE):
        await crowd.queue(one, *QUEUED)
        await crowd.ride(one, "r0", "r1")
        await crowd.queue(other, "other")
        await crowd.queue(node(), "last")
        for name in QUEUED:
            crowd.tasks.pop(name).cancel()
        await stored("s").until(lambda s: len(s.waiting) == 3)
    assert await crowd.over() == ["r0", "r1", "other", "last"]


async def test_inspect_tells_of_riders(node: MakeGuard, crowd: Crowd) -> None:
    guard = node()
    async with guard.session_lock("s", lease=LEASE):
        await crowd.queue(guard, *QUEUED)
        await crowd.ride(guard, "r0", "r1", "r2")
        crowd.on_grant = lambda: guard.inspect("s")
    await crowd.over()
    assert [(len(seen.waiters), seen.riders) for seen in crowd.seen[-4:]] == [(0, 0), (0, 2), (0, 1), (0, 0)]
