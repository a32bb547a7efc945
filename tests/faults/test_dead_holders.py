"""Holders and waiters that die or hang without a word."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from tenacity import stop_after_delay, wait_fixed

from sessionlock import LeasePolicy, SessionGuard, WaitPolicy
from tests.harness.commands import CommandCounter
from tests.harness.deployments import MakeGuard
from tests.harness.stored import Look, Stored
from tests.harness.workers import Worker

pytestmark = pytest.mark.anyio

PROMISED = 100_000  # microseconds after the lease's end
SCHEDULING = 250_000  # what a busy machine may add
# Looks at the lease's end, if it does that by itself: the policy's own look comes much too late.
PATIENT = WaitPolicy(stop=stop_after_delay(15), wait=wait_fixed(60))
LONG = LeasePolicy(ttl=30, claim=30)
CLAIM = 1.2  # seconds: longer than the default policy's longest pause, so that a waiter hears of it while it runs


async def grant_us(guard: SessionGuard, sid: str, wait: WaitPolicy = PATIENT, lease: LeasePolicy = LONG) -> int:
    """Wait for the lock, then give it up; when it was granted by the server's clock (fences are that)."""
    async with guard.lock(sid, wait=wait, lease=lease) as held:
        return held.fencing_token


def lateness(granted: int, ended: int) -> int:
    """Microseconds between a lease's end and the next grant, which must not come before it."""
    assert granted >= ended - 1_000, f"granted {(ended - granted) / 1e3:.0f} ms before the lease's end"
    return granted - ended


async def test_the_holder_dies(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 15: holders are killed: the next one of each session has the lock at its lease's end, not before, and no
    more than 100 ms later."""
    sids = [f"s{n}" for n in range(6)]
    guard = node()
    async with AsyncExitStack() as stack:
        worker = await stack.enter_async_context(Worker(redis_url, lease={"ttl": 1.0, "renew": False}))
        for sid in sids:
            await worker.hold(sid)
        waiting = [asyncio.ensure_future(grant_us(guard, sid)) for sid in sids]
        for sid in sids:
            await stored(sid).until(lambda s: len(s.waiting) == 1)
        ends = [stored(sid).lease_end_us for sid in sids]
        worker.kill()
        granted = await asyncio.gather(*waiting)
    for at, end in zip(granted, ends, strict=True):
        assert lateness(at, end) < PROMISED + SCHEDULING


@pytest.mark.slow
@pytest.mark.parametrize("wait", [PATIENT, WaitPolicy()])
async def test_the_holder_dies_after_it_has_renewed(
    redis_url: str, node: MakeGuard, stored: Look, wait: WaitPolicy
) -> None:
    """Attack 15: the lease was renewed several times since the waiter heard of it; it is the last end that counts."""
    session, guard = stored("s"), node()
    async with Worker(redis_url, lease={"ttl": 0.6}) as worker:
        await worker.hold("s")
        first_end = session.lease_end_us
        waiting = asyncio.ensure_future(grant_us(guard, "s", wait))
        await session.until(lambda s: s.lock is not None and s.lease_end_us > first_end + 500_000)
        worker.kill()
        end = session.lease_end_us
        assert lateness(await waiting, end) < PROMISED + SCHEDULING


@pytest.mark.slow
async def test_the_one_who_was_handed_the_lock_dies(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 15: a waiter hangs, is handed the lock, and dies: the next one has it when the claim ends."""
    session, guard, other = stored("s"), node(), node()
    async with Worker(redis_url, lease={"ttl": 30, "claim": CLAIM}) as worker:
        async with guard.lock("s"):
            worker.queue("s")
            await session.until(lambda s: len(s.waiting) == 1)
            token = session.waiting[0]
            waiting = asyncio.ensure_future(grant_us(other, "s", WaitPolicy()))
            await session.until(lambda s: len(s.waiting) == 2)
            worker.pause()
        assert session.lock == token
        end = session.lease_end_us
        assert end - session.now_us <= CLAIM * 1e6
        worker.kill()
        assert lateness(await waiting, end) < PROMISED + SCHEDULING


async def gone(session: Stored) -> None:
    """Redis has noticed that the killed process' subscription ended (ours is the other one)."""

    def one_subscriber(_: Stored) -> bool:
        return len(session.client.pubsub_channels()) == 1

    await session.until(one_subscriber)


@pytest.mark.parametrize("dead", [1, 50])
async def test_any_number_of_dead_waiters(redis_url: str, node: MakeGuard, stored: Look, dead: int) -> None:
    """Attack 16: the head of the queue is dead, or fifty waiters of a killed process stand first: one release passes
    them all and reaches the living."""
    session, guard, other = stored("s"), node(), node()
    async with guard.lock("s"):
        async with Worker(redis_url, lease={"ttl": 30, "claim": 30}) as worker:
            worker.queue("s", dead)
            await session.until(lambda s: len(s.waiting) == dead)
            waiting = asyncio.ensure_future(grant_us(other, "s"))
            await session.until(lambda s: len(s.waiting) == dead + 1)
        await gone(session)
        counter = CommandCounter(redis_url).__enter__()
        released = session.now_us
    granted = await asyncio.wait_for(waiting, 5)
    counter.__exit__(None, None, None)
    assert counter.script_calls == 2  # this release, and that of the one who was granted by it
    assert granted - released < SCHEDULING
    assert session.free


@pytest.mark.slow
async def test_fifty_hung_waiters_cost_one_claim(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 16: fifty waiters of a process that hangs (its subscription stands, so Redis cannot tell) stand first:
    they cost one claim together, not one each."""
    session, guard, other = stored("s"), node(), node()
    async with Worker(redis_url, lease={"ttl": 30, "claim": CLAIM}) as worker:
        async with guard.lock("s"):
            worker.queue("s", 50)
            await session.until(lambda s: len(s.waiting) == 50)
            waiting = asyncio.ensure_future(grant_us(other, "s", WaitPolicy()))
            await session.until(lambda s: len(s.waiting) == 51)
            worker.pause()
        end = session.lease_end_us
        with CommandCounter(redis_url) as ran:
            granted = await asyncio.wait_for(waiting, 10)
        assert lateness(granted, end) < PROMISED + SCHEDULING
        assert ran.script_calls <= 8
        worker.kill()
    assert session.free


async def test_a_claim_shorter_than_the_waiters_pauses(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 16: a hung waiter was handed the lock for a short claim; the next one, who looks by itself less often than
    that, still has it when the claim ends."""
    session, guard, other = stored("s"), node(), node()
    async with Worker(redis_url, lease={"ttl": 30, "claim": 0.4}) as worker:
        async with guard.lock("s", lease=LeasePolicy(ttl=5)):
            worker.queue("s")
            await session.until(lambda s: len(s.waiting) == 1)
            short = LeasePolicy(ttl=30, claim=0.4)
            waiting = asyncio.ensure_future(grant_us(other, "s", PATIENT, short))
            await session.until(lambda s: len(s.waiting) == 2)
            worker.pause()
        end = session.lease_end_us
        assert lateness(await waiting, end) < PROMISED + SCHEDULING


async def test_the_living_between_dead_ones(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 16: dead and living waiters take turns in the queue: the living are served in their order, all soon."""
    session, guard = stored("s"), node()
    order: list[int] = []

    async def enter(number: int) -> None:
        async with others[number % 2].lock("s", wait=PATIENT):
            order.append(number)

    others = [node(), node()]
    async with guard.lock("s"):
        async with Worker(redis_url, lease={"ttl": 30, "claim": 30}) as worker:
            tasks = []
            for number in range(4):
                worker.queue("s", 2)
                await session.until(lambda s, n=number: len(s.waiting) == 3 * n + 2)  # type: ignore[misc]
                tasks.append(asyncio.ensure_future(enter(number)))
                await session.until(lambda s, n=number: len(s.waiting) == 3 * n + 3)  # type: ignore[misc]
        await session.until(lambda s: len(s.client.pubsub_channels()) == 2)
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert order == [0, 1, 2, 3]
    assert session.free
