"""A body that does not let the event loop run, and one that never ends."""

from __future__ import annotations

import asyncio
import time
from typing import Literal

import anyio
import pytest
from tenacity import stop_after_delay, wait_fixed

from sessionlock import LeaseLost, LeasePolicy, SessionGuard, SessionPolicy, StaleFencingToken, WaitPolicy
from tests.harness.commands import CommandCounter
from tests.harness.deployments import MakeGuard
from tests.harness.stored import Look, Stored
from tests.harness.workers import Worker

pytestmark = pytest.mark.anyio

OnLost = Literal["cancel", "flag"]

SCHEDULING = 0.3  # seconds that a busy machine may add
TTL = 0.15


def block_until_free(session: Stored) -> None:
    """Hold the event loop up until the lease has run out in Redis, whoever has the lock then."""
    held = session.lock
    deadline = time.monotonic() + 10
    while session.lock == held:
        assert time.monotonic() < deadline
        time.sleep(0.003)


def refused(error: LeaseLost, *, stale: bool) -> bool:
    """It is the right error, and says by whom the lock was taken over, if by anybody."""
    if not stale:
        return type(error) is LeaseLost
    return isinstance(error, StaleFencingToken) and error.current > error.ours


@pytest.mark.parametrize("renew", [True, False])
@pytest.mark.parametrize("on_lost", ["cancel", "flag"])
async def test_the_loop_was_blocked_beyond_the_lease(
    node: MakeGuard, stored: Look, renew: bool, on_lost: OnLost
) -> None:
    """Attack 22: no renewal could be sent, and no timer could fire; the body ends without an await, nobody else has
    taken the lock: the late save is refused all the same."""
    session = stored("s")
    with pytest.raises(LeaseLost) as caught:
        async with node().session_lock("s", lease=LeasePolicy(ttl=TTL, renew=renew, on_lost=on_lost)) as held:
            block_until_free(session)
            held["late"] = 1
    assert refused(caught.value, stale=False)
    assert session.data == {}
    assert session.free


async def test_the_loop_was_blocked_while_another_process_saved(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 22: meanwhile another process got the lock and saved; the late save is refused and says so."""
    session = stored("s")
    async with Worker(redis_url) as other:
        with pytest.raises(LeaseLost) as caught:
            async with node().session_lock("s", lease=LeasePolicy(ttl=TTL)) as held:
                other.queue("s")
                await session.until(lambda s: len(s.waiting) == 1)
                held["n"] = -1
                block_until_free(session)
                await_data(session)
    assert refused(caught.value, stale=True)
    assert session.data == {"n": 1}
    assert session.free


def await_data(session: Stored) -> None:
    deadline = time.monotonic() + 10
    while not session.data:
        assert time.monotonic() < deadline
        time.sleep(0.003)


async def test_a_body_that_was_blocked_goes_no_further(node: MakeGuard, stored: Look) -> None:
    """Attack 22: at its next await after the blocking call it is cancelled."""
    session, further = stored("s"), False
    with pytest.raises(LeaseLost):
        async with node().session_lock("s", lease=LeasePolicy(ttl=TTL)) as held:
            assert held.lease is not None
            block_until_free(session)
            assert held.lease.remaining() == 0.0
            await asyncio.sleep(5)
            further = True
    assert not further


async def test_a_save_amid_a_body_that_was_blocked(node: MakeGuard, stored: Look) -> None:
    """Attack 22: the same with ``save()`` inside the body."""
    session = stored("s")
    with pytest.raises(LeaseLost):
        async with node().session_lock("s", lease=LeasePolicy(ttl=TTL, on_lost="flag")) as held:
            held["early"] = 1
            await held.save()
            block_until_free(session)
            held["late"] = 1
            await held.save()
    assert session.data == {"early": 1}


async def test_a_change_saved_at_once_after_blocking(node: MakeGuard, stored: Look) -> None:
    """Attack 22: the same with ``SessionPolicy(save="immediate")``."""
    session, at_once = stored("s"), SessionPolicy(save="immediate")
    with pytest.raises(LeaseLost):
        async with node(session=at_once).session_lock("s", lease=LeasePolicy(ttl=TTL, on_lost="flag")) as held:
            held["early"] = 1
            await held.save()
            block_until_free(session)
            held["late"] = 1
    assert session.data == {"early": 1}


async def test_a_lock_alone_tells_when_the_loop_was_blocked(node: MakeGuard, stored: Look) -> None:
    """Attack 22: ``guard.lock``: the lease does not claim to be trusted, and the end of the block is loud."""
    session = stored("s")
    with pytest.raises(LeaseLost):
        async with node().lock("s", lease=LeasePolicy(ttl=TTL)) as lease:
            block_until_free(session)
            assert lease.remaining() == 0.0


async def test_a_lease_can_be_asked_after_blocking(node: MakeGuard, stored: Look) -> None:
    """Attack 22: before the body touches a storage of its own it asks, and is told although no timer could fire."""
    session, touched = stored("s"), False
    with pytest.raises(LeaseLost):
        async with node().lock("s", lease=LeasePolicy(ttl=TTL)) as lease:
            block_until_free(session)
            lease.check()
            touched = True
    assert not touched


# --- max_hold


async def test_a_hung_body_is_ended(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 23: the body never ends, the watchdog renews; at ``max_hold`` it is cancelled, its save refused, and the
    waiter has the lock; no sooner and hardly later."""
    session, max_hold = stored("s"), 0.6
    stuck, other = node(lease=LeasePolicy(ttl=TTL, max_hold=max_hold)), node()
    began = time.monotonic()
    with CommandCounter(redis_url) as ran:
        waiting = asyncio.ensure_future(_after(session, other))
        with pytest.raises(LeaseLost, match=r"max_hold = 0\.6 s"):
            async with stuck.session_lock("s") as held:
                held["late"] = 1
                await anyio.sleep_forever()
        ended = time.monotonic() - began
        granted = await waiting - began
    assert max_hold - 0.1 <= ended <= max_hold + SCHEDULING
    assert max_hold - 0.1 <= granted <= max_hold + SCHEDULING + 0.05
    assert session.data == {"mine": 1}
    assert ran.script_calls <= 40


async def _after(session: Stored, guard: SessionGuard) -> float:
    """When the next one, who waits as long as the lock is held, got it."""
    await session.until(lambda s: s.lock is not None)
    seldom = WaitPolicy(stop_after_delay(15), wait_fixed(15))
    async with guard.session_lock("s", wait=seldom) as mine:
        granted = time.monotonic()
        mine["mine"] = 1
    return granted


async def test_the_last_renewals_before_max_hold_are_few(redis_url: str, node: MakeGuard) -> None:
    """Attack 23: a lease that cannot be extended any more is not renewed ever more often towards its end."""
    with CommandCounter(redis_url) as ran, pytest.raises(LeaseLost):
        async with node(lease=LeasePolicy(ttl=0.3, max_hold=0.6)).session_lock("s"):
            await anyio.sleep_forever()
    # Acquire, release, and a renewal every 0.1 s.
    assert ran.script_calls <= 2 + 6 + 3


async def test_a_hung_body_that_cannot_be_cancelled(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 23: the body shields itself (or catches the cancellation) and goes on after ``max_hold``: others get the
    lock, its late save is refused."""
    session = stored("s")
    with pytest.raises(LeaseLost) as caught:
        async with node(lease=LeasePolicy(ttl=TTL, max_hold=0.4)).session_lock("s") as held:
            assert held.lease is not None
            held["late"] = 1
            with anyio.CancelScope(shield=True):
                async with node().session_lock("s", wait=5) as mine:
                    mine["mine"] = 1
                assert held.lease.is_lost
                assert held.lease.lost.is_set()
    assert refused(caught.value, stale=True)
    assert session.data == {"mine": 1}


async def test_a_hung_body_that_is_only_told(node: MakeGuard, stored: Look) -> None:
    """Attack 23: with ``on_lost="flag"`` it is not cancelled, but ``lease.lost`` is set and the save refused."""
    session = stored("s")
    with pytest.raises(LeaseLost, match="max_hold"):
        async with node(lease=LeasePolicy(ttl=TTL, max_hold=0.4, on_lost="flag")).session_lock("s") as held:
            assert held.lease is not None
            await held.lease.lost.wait()
            held["late"] = 1
    assert session.data == {}
    assert session.free
