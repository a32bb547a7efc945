"""Times that make no sense, networks slower than a lease, numbers at their end."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from typing import Any, Literal

import pytest
from tenacity import stop_after_delay, wait_fixed

from sessionlock import (
    ConfigurationError,
    LeaseLost,
    LeasePolicy,
    LockNotAcquired,
    RedisUnavailable,
    SessionGuard,
    SessionNotFound,
    SessionPolicy,
    WaitPolicy,
)
from tests.harness.commands import connect, keys_without_ttl, set_fence
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.stored import Look, Stored

pytestmark = pytest.mark.anyio

LARGEST = 2**53 - 1

NO_TIMES = [0, -1, -0.5, math.nan, math.inf, -math.inf, 1e-4, 1e-9, 5e-324, 1e12, 1e300, 10**400, True, "1", None, 1j]
DURATIONS = [
    (LeasePolicy, "ttl"),
    (LeasePolicy, "max_hold"),
    (LeasePolicy, "claim"),
    (SessionPolicy, "idle"),
    (SessionPolicy, "absolute"),
    (SessionPolicy, "tombstone"),
]


# --- durations


@pytest.mark.parametrize("value", NO_TIMES, ids=lambda value: repr(value)[:10])
@pytest.mark.parametrize(("policy", "name"), DURATIONS, ids=lambda part: getattr(part, "__name__", part))
def test_no_duration(policy: type[Any], name: str, value: object) -> None:
    """Attack 28: 0, negative, NaN, infinite, below a millisecond, above ten years, or no number at all."""
    if (name, value) == ("absolute", None):
        assert SessionPolicy(absolute=None).absolute_ms == 0, "None is said to mean: no absolute end"
        return
    if (name, value) == ("max_hold", None):
        assert LeasePolicy(max_hold=None).max_hold is None, "None is said to mean: by the kind of lock"
        return
    with pytest.raises(ConfigurationError, match=name):
        policy(**{name: value})
    with pytest.raises(ConfigurationError):
        dataclasses.replace(policy(), **{name: value})


@pytest.mark.parametrize("value", [-1, math.nan, math.inf, 1e-9, 1e300, True, "1"], ids=repr)
async def test_no_wait(node: MakeGuard, stored: Look, value: Any) -> None:
    """Attack 28: the same for ``wait``, before anything is asked of Redis."""
    with pytest.raises(ConfigurationError):
        WaitPolicy.seconds(value)
    with pytest.raises(ConfigurationError):
        node().session_lock("s", wait=value)
    assert stored("s").free


@pytest.mark.parametrize("value", [-0.001, 10.0, 11, math.nan, math.inf], ids=repr)
def test_no_safety_margin(value: float) -> None:
    """Attack 28: a margin that is negative, or leaves nothing of the lease."""
    with pytest.raises(ConfigurationError):
        LeasePolicy(ttl=10, safety_margin=value)


@pytest.mark.parametrize("ttl", [0.01, 0.0101, 3_660 * 86_400.0])
async def test_the_shortest_and_the_longest_lease(redis_url: str, node: MakeGuard, stored: Look, ttl: float) -> None:
    """Attack 28: what is accepted works: in whole milliseconds for Redis, never 0, never for ever."""
    session, policy = stored("s"), LeasePolicy(ttl=ttl, max_hold=ttl)
    assert policy.ttl_ms == math.ceil(ttl * 1000) >= 10
    assert 0 < policy.claim_ms <= policy.ttl_ms
    assert 0 < policy.margin < ttl
    try:
        async with node(lease=policy).session_lock("s") as held:
            left = session.client.pttl(session.keys.lock)
            assert left == -2 or 0 <= left <= policy.ttl_ms
            held["n"] = 1
    except LeaseLost:
        assert ttl < 0.02, "10 ms may well pass on a busy machine"
    assert keys_without_ttl(redis_url) == []


@pytest.mark.parametrize("idle", [0.01, 3_660 * 86_400.0])
async def test_the_shortest_and_the_longest_session(redis_url: str, node: MakeGuard, idle: float) -> None:
    """Attack 28: the same for the life of a session."""
    guard = node(session=SessionPolicy(idle=idle, absolute=idle, tombstone=idle))
    await guard.create({"n": 1})
    async with guard.session_lock("s") as held:
        held["n"] = 1
    await guard.destroy("s")
    assert keys_without_ttl(redis_url) == []


# --- round trips longer than the lease


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["requests", "replies", "both"])
@pytest.mark.parametrize("on_lost", ["cancel", "flag"])
async def test_a_round_trip_longer_than_the_lease(
    proxy: FaultyProxy,
    node: MakeGuard,
    stored: Look,
    slow: Literal["requests", "replies", "both"],
    on_lost: Literal["cancel", "flag"],
) -> None:
    """Attack 28: the reply to the acquire, or the release, arrives when the lease is over: never a silent success."""
    session = stored("s")
    guard = node(proxy.url, lease=LeasePolicy(ttl=0.1, on_lost=on_lost))
    await guard.inspect("s")
    proxy.delay(0.15, slow)
    with pytest.raises((LeaseLost, LockNotAcquired)):
        async with guard.session_lock("s") as held:
            held["late"] = 1
    assert session.data == {}
    assert session.free


@pytest.mark.slow
async def test_a_lease_shorter_than_its_renewal(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 28: the network becomes slower than the lease while the body runs: it is told, and nothing is saved."""
    session, guard = stored("s"), node(proxy.url, lease=LeasePolicy(ttl=0.2))
    with pytest.raises(LeaseLost):
        async with guard.session_lock("s") as held:
            began = time.monotonic()
            held["late"] = 1
            proxy.delay(0.3)
            try:
                await asyncio.sleep(5)
            finally:
                told = time.monotonic()
    assert told - began < 0.3, "by its own clock, not by the reply that says so"
    assert session.data == {}
    assert session.free


async def test_a_claim_shorter_than_the_push(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 28: a lock that is handed over takes longer to arrive than its claim holds: that waiter may get it later
    or not at all, but what is saved was never saved in vain, and the next one has its turn."""
    session, far, near = stored("s"), node(proxy.url, lease=LeasePolicy(ttl=0.1)), node()
    wait = WaitPolicy(stop_after_delay(1.0), wait_fixed(0.05))
    async with near.session_lock("s"):
        waiting = asyncio.ensure_future(_add_one(far, wait))
        await session.until(lambda s: len(s.waiting) == 1)
        proxy.delay(0.15)
    with pytest.raises((LeaseLost, LockNotAcquired)):
        await waiting
    assert session.data == {}
    await _add_one(near, WaitPolicy.seconds(5))
    assert session.data == {"n": 1}


async def _add_one(guard: SessionGuard, wait: WaitPolicy) -> int:
    async with guard.session_lock("s", wait=wait) as session:
        session["n"] = session.get("n", 0) + 1
        assert session.lease is not None
        return session.lease.fencing_token


# --- fences near 2^53


def seed(session: Stored, fence: int | str) -> None:
    set_fence(session.client, session.keys.session, fence)
    session.client.pexpire(session.keys.session, 60_000)


async def test_fences_up_to_their_end(node: MakeGuard, stored: Look) -> None:
    """Attack 29: the last fences are exact and strictly increasing; then comes an error, again and again, never the
    same fence twice; no lock is left behind, and what was saved stays."""
    guard, session = node(), stored("s")
    await guard.create({"n": 0}, sid="s")
    seed(session, LARGEST - 5)
    waiting = WaitPolicy.seconds(5)
    fences = [await _add_one(guard, waiting) for _ in range(4)]
    assert fences == [LARGEST - 4, LARGEST - 3, LARGEST - 2, LARGEST - 1]
    assert session.fence == LARGEST - 1
    for wait in (waiting, WaitPolicy.never(), waiting):
        with pytest.raises(RedisUnavailable, match="FENCE"):
            await _add_one(guard, wait)
        assert session.free
    assert session.fence == LARGEST - 1
    assert session.data == {"n": 4}


@pytest.mark.parametrize("fence", [LARGEST, LARGEST + 1, 10**16 - 1])
async def test_fences_beyond_their_end(node: MakeGuard, stored: Look, fence: int) -> None:
    """Attack 29: a damaged record, with a fence that no double can count up from."""
    guard, session = node(), stored("s")
    seed(session, fence)
    with pytest.raises(RedisUnavailable, match="FENCE"):
        await _add_one(guard, WaitPolicy.seconds(5))
    assert session.free
    assert session.fence == fence


@pytest.mark.parametrize("damaged", ["1e15", "-1", "nan", "inf", " " * 13 + "inf", "0x10", "", "1 2"])
async def test_a_fence_that_nobody_gave_out(node: MakeGuard, stored: Look, damaged: str) -> None:
    """Attack 29: what is no fence does not count; they go on from the server's time, and grow."""
    guard, session = node(), stored("s")
    began = session.now_us
    seed(session, damaged)
    fences = [await _add_one(guard, WaitPolicy.seconds(5)) for _ in range(2)]
    assert began <= fences[0] < fences[1] <= session.now_us
    assert session.data == {"n": 2}


@pytest.mark.parametrize("damaged", ["1" * 17, "9" * 400])
async def test_a_record_whose_state_has_another_length(node: MakeGuard, stored: Look, damaged: str) -> None:
    """What most calls look at is not as this library writes it: that is an error, and nothing is written."""
    guard, session = node(), stored("s")
    await guard.create({"n": 0}, sid="s")
    seed(session, damaged)
    with pytest.raises(SessionNotFound):
        await _add_one(guard, WaitPolicy.seconds(5))
    assert session.data == {"n": 0}
    assert session.free


@pytest.mark.slow
@pytest.mark.parametrize("end", ["release", "force-release", "cancelled"])
async def test_fences_run_out_in_a_hand_over(node: MakeGuard, stored: Look, end: str) -> None:
    """Attack 29: the holder has the last fence, others wait: its own end is not disturbed, and no waiter is left to
    hang, nor the lock left behind."""
    guard, other, session = node(), node(), stored("s")
    await guard.create({"n": 0}, sid="s")
    seed(session, LARGEST - 2)
    waiters: list[asyncio.Task[int]] = []

    async def hold() -> None:
        async with guard.session_lock("s") as held:
            assert held.lease is not None
            assert held.lease.fencing_token == LARGEST - 1
            held["n"] = 1
            for number in range(4):
                waiters.append(asyncio.ensure_future(_add_one((guard, other)[number % 2], WaitPolicy.seconds(3))))
                await session.until(lambda s: len(s.waiting) == len(waiters))
            if end == "force-release":
                assert await other.force_release("s", held.lease.token)
            elif end == "cancelled":
                raise ZeroDivisionError

    if end == "release":
        await hold()
    else:
        with pytest.raises(LeaseLost if end == "force-release" else ZeroDivisionError):
            await hold()
    ended = await asyncio.gather(*waiters, return_exceptions=True)
    assert [type(error) for error in ended] == [RedisUnavailable] * 4
    assert session.free
    assert session.data == {"n": int(end == "release")}
    assert session.fence == LARGEST - 1


async def test_tickets_run_out(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 29: the same for the numbers that order the queue: who cannot get one is told; the others keep theirs."""
    guard, session = node(), stored("s")
    async with guard.session_lock("s"):
        first = asyncio.ensure_future(_add_one(guard, WaitPolicy.seconds(5)))
        await session.until(lambda s: len(s.waiting) == 1)
        (token,) = session.waiting
        with connect(redis_url) as redis:
            redis.zadd(session.keys.queue, {token: LARGEST - 1}, xx=True)
        with pytest.raises(RedisUnavailable, match="TICKET"):
            await asyncio.create_task(_add_one(guard, WaitPolicy.seconds(5)))
        assert session.waiting == [token]
        assert session.client.hkeys(session.keys.waiters) == [token.encode()]
    await first
    assert session.data == {"n": 1}
    assert session.free
