"""A lock object that lost its lease, wants more time, is shared, forked, dropped, or cut short."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from sessionlock import (
    ConfigurationError,
    LeaseLost,
    LeasePolicy,
    LockNotHeld,
    RedisUnavailable,
    SessionGuard,
    blocking,
)
from tests.harness.deployments import MakeGuard
from tests.harness.polling import eventually
from tests.harness.proxy import FaultyProxy
from tests.harness.stored import Look
from tests.harness.two_faces import NAME, AnyLock, MakeLock

pytestmark = pytest.mark.anyio

FIXED = LeasePolicy(ttl=30, renew=False)
LOSABLE = LeasePolicy(ttl=1.5, on_lost="flag")  # a loss is noticed by the next renewal


async def in_another_task(work: Any) -> Any:
    return await asyncio.create_task(work)


async def lost(lock: AnyLock, elsewhere: SessionGuard) -> None:
    """Its lease is taken away, and it knows."""
    lease = await lock.lease_of_caller()
    assert lease is not None
    assert await elsewhere.force_release(NAME, lease.token)
    await eventually(lambda: lease.is_lost, "the holder is told")


# --- losing it


async def test_a_lost_lease_is_told_by_the_release(make: MakeLock, elsewhere: SessionGuard, stored: Look) -> None:
    """Once; nothing is cancelled, and the next holder is not disturbed."""
    lock = make(lease=LOSABLE)
    assert await lock.acquire()
    await lost(lock, elsewhere)
    assert not await lock.owned()
    async with make(node=2) as theirs:
        with pytest.raises(LeaseLost):
            await lock.release()
        with pytest.raises(LockNotHeld):
            await lock.release()
        assert stored(NAME).lock == theirs.token
    assert await lock.acquire()
    await lock.release()


async def test_a_lost_lease_nobody_knew_of(make: MakeLock, stored: Look) -> None:
    lock = make()
    assert await lock.acquire()
    stored(NAME).client.delete(stored(NAME).keys.lock)
    with pytest.raises(LeaseLost):
        await lock.release()
    assert await lock.lease_of_caller() is None


async def test_who_takes_it_again_is_past_the_loss(make: MakeLock, elsewhere: SessionGuard, stored: Look) -> None:
    lock = make(lease=LOSABLE)
    assert await lock.acquire()
    await lost(lock, elsewhere)
    assert await lock.acquire()
    assert await lock.owned()
    await lock.release()
    assert stored(NAME).free
    with pytest.raises(LockNotHeld):
        await lock.release()


async def test_a_block_is_told_of_a_loss(make: MakeLock, elsewhere: SessionGuard) -> None:
    lock = make(lease=LOSABLE)
    with pytest.raises(LeaseLost):
        async with lock:
            await lost(lock, elsewhere)
    async with lock:
        pass


# --- more time


async def test_more_time_than_max_hold(make: MakeLock) -> None:
    lock = make(lease=LeasePolicy(ttl=1, max_hold=1))
    assert await lock.acquire()
    lease = await lock.lease_of_caller()
    assert lease is not None
    await lock.extend(60)
    assert lease.hold_until > time.monotonic() + 50
    await eventually(lambda: lease.trusted_until > lease.since + 2, "it is renewed beyond max_hold")
    assert await lock.owned()
    await lock.release()


async def test_as_much_time_as_at_first(make: MakeLock) -> None:
    lock = make(lease=LeasePolicy(ttl=5, max_hold=50))
    assert await lock.acquire()
    lease = await lock.lease_of_caller()
    assert lease is not None
    before = lease.hold_until
    await lock.extend()
    assert before < lease.hold_until <= time.monotonic() + 50
    await lock.extend(1)  # it never becomes shorter
    assert lease.hold_until > before
    await lock.release()


async def test_more_time_for_a_lease_that_is_not_renewed(make: MakeLock, stored: Look) -> None:
    """It is Redis' that becomes longer, and what its holder trusts."""
    lock = make(lease=FIXED)
    assert await lock.acquire()
    lease = await lock.lease_of_caller()
    assert lease is not None
    stored(NAME).client.pexpire(stored(NAME).keys.lock, 20_000)
    await lock.extend()
    assert stored(NAME).lease_end_us - stored(NAME).now_us > 25_000_000
    await lock.extend(300)
    assert stored(NAME).lease_end_us - stored(NAME).now_us > 290_000_000
    assert 290 < lease.remaining() < 300
    await lock.extend(1)
    assert stored(NAME).lease_end_us - stored(NAME).now_us > 290_000_000
    assert lease.remaining() > 280
    await lock.release()


async def test_no_more_time(make: MakeLock, elsewhere: SessionGuard) -> None:
    """For what is not held, was lost, or cannot be meant."""
    lock = make(lease=LOSABLE)
    with pytest.raises(LockNotHeld, match="extended"):
        await lock.extend(10)
    async with make(node=2):
        with pytest.raises(LockNotHeld):
            await lock.extend()
    assert await lock.acquire()
    for seconds in (0, -1, float("inf")):
        with pytest.raises(ConfigurationError):
            await lock.extend(seconds)
    await lost(lock, elsewhere)
    with pytest.raises(LeaseLost):
        await lock.extend(10)
    with pytest.raises(LeaseLost):
        await lock.release()


async def test_more_time_finds_out_what_nobody_knew(make: MakeLock, stored: Look) -> None:
    lock = make()
    assert await lock.acquire()
    stored(NAME).client.set(stored(NAME).keys.lock, "somebody else's", keepttl=True)
    with pytest.raises(LeaseLost):
        await lock.extend(10)
    lease = await lock.lease_of_caller()
    assert lease is not None
    assert lease.is_lost


# --- one object, several tasks or threads


async def test_one_object_is_shared(make: MakeLock) -> None:
    lock = make()
    inside = 0
    done: list[int] = []

    async def work(number: int) -> None:
        nonlocal inside
        for _ in range(5):
            if number % 2:
                assert await lock.acquire(timeout=60)
            else:
                await lock.__aenter__()
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            assert await lock.owned()
            inside -= 1
            if number % 2:
                await lock.release()
            else:
                await lock.__aexit__(None, None, None)
            done.append(number)

    await asyncio.gather(*(work(number) for number in range(4)))
    assert sorted(done) == sorted([*range(4)] * 5)


async def test_another_task_may_release_it(make: MakeLock, stored: Look) -> None:
    lock = make()
    assert await in_another_task(lock.acquire())
    assert await lock.owned()
    await lock.release()
    assert stored(NAME).free
    assert await lock.acquire()
    await in_another_task(lock.release())
    assert stored(NAME).free


async def test_nobody_releases_the_lock_of_the_next(make: MakeLock, elsewhere: SessionGuard, stored: Look) -> None:
    """The first lost it, the second has it by the same object: the first's late release is about his own."""
    lock = make(lease=LOSABLE)
    assert await lock.acquire()
    await lost(lock, elsewhere)
    go, held = asyncio.Event(), asyncio.Event()

    async def second() -> None:
        assert await lock.acquire(timeout=10)
        held.set()
        await go.wait()
        assert await lock.owned()
        await lock.release()

    next_one = asyncio.create_task(second())
    await held.wait()
    assert not await lock.owned()
    with pytest.raises(LeaseLost):
        await lock.release()
    assert stored(NAME).lock is not None
    go.set()
    await next_one
    assert stored(NAME).free


async def test_a_stranger_releases_the_oldest(make: MakeLock, elsewhere: SessionGuard, stored: Look) -> None:
    """Who took nothing himself cannot give back what is held while something that was lost is still to be told."""
    lock = make(lease=LOSABLE)
    taken = [asyncio.create_task(lock.acquire(timeout=10))]
    assert await taken[0]
    first = await lock.lease_of_caller()
    assert first is not None
    assert await elsewhere.force_release(NAME, first.token)
    taken.append(asyncio.create_task(lock.acquire(timeout=10)))
    assert await taken[1]
    with pytest.raises(LeaseLost):
        await lock.release()
    assert stored(NAME).lock is not None
    await lock.release()
    assert stored(NAME).free


# --- a Redis that does not answer


async def test_an_outage_is_not_told_as_a_no(node: MakeGuard, proxy: FaultyProxy) -> None:
    """Neither "others hold it" nor "nobody does" is known then. What was held is over once its release was tried."""
    guard = node(proxy.url, retry_for=0.1, reply_within=0.5)
    lock, free = guard.lock(NAME, lease=LOSABLE), guard.lock("another")
    assert await lock.acquire()
    proxy.refuse()
    proxy.cut_all()
    for asks in (free.acquire(blocking=False), free.acquire(timeout=0.05), lock.locked(), lock.owned(), lock.extend()):
        with pytest.raises(RedisUnavailable):
            await asks
    with pytest.raises(RedisUnavailable):
        await lock.release()
    proxy.accept()
    with pytest.raises(LockNotHeld):
        await lock.release()
    while not lock.lease:
        with suppress(RedisUnavailable):  # until it is seen to be back
            await lock.acquire(timeout=10)
        await asyncio.sleep(0.01)
    await lock.release()


# --- copies, forks, and objects that nobody has any more


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
async def test_there_is_one_of_it(make: MakeLock, copied: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match=r"guard\.lock"):
        copied(make().lock)


async def test_a_dropped_one_gives_back_what_it_holds(make: MakeLock, stored: Look) -> None:
    lock = make()
    assert await lock.acquire()
    del lock
    gc.collect()
    await stored(NAME).until(lambda seen: seen.free)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_holds_nothing(redis_url: str, stored: Look) -> None:
    """It can neither release nor extend what its parent holds, and may take the lock when that is over."""
    with blocking.SessionGuard.from_url(redis_url) as guard:
        lock = guard.lock(NAME)
        assert lock.acquire()
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.write(write, b"yes" if _holds_nothing(lock) else b"no")
                os.write(write, b"got" if lock.acquire(timeout=20) else b"not")
                lock.release()
            finally:
                os._exit(0)
        os.close(write)
        assert os.read(read, 100) == b"yes"
        assert lock.owned()
        lock.release()
        assert os.read(read, 100) == b"got"
        os.waitpid(child, 0)
        os.close(read)
        assert lock.acquire(timeout=20)
        lock.release()
    assert stored(NAME).free


def _holds_nothing(lock: blocking.Lock) -> bool:
    for forbidden in (lock.release, lock.extend):
        with pytest.raises(LockNotHeld, match="process"):
            forbidden()
    return lock.lease is None and not lock.owned() and lock.locked()


def test_what_another_loop_took_is_not_held_here(redis_url: str) -> None:
    guard = SessionGuard.from_url(redis_url)
    lock = guard.lock(NAME, lease=LeasePolicy(ttl=0.2))

    async def take() -> None:
        assert await lock.acquire()

    async def try_again() -> None:
        assert lock.lease is None
        with pytest.raises(LockNotHeld, match="event loop"):
            await lock.release()
        assert await lock.acquire(timeout=10)
        assert await lock.owned()
        await lock.release()
        await guard.aclose()

    asyncio.run(take())
    asyncio.run(try_again())


def test_both_faces_tell_the_key(redis_url: str) -> None:
    guard = SessionGuard.from_url(redis_url)
    assert blocking.SessionGuard(guard).lock_key(NAME) == guard.lock_key(NAME)


# --- cut short


async def test_an_acquire_that_is_cancelled(guard: SessionGuard, elsewhere: SessionGuard, stored: Look) -> None:
    """It leaves nothing behind, and the object can be used."""
    lock = guard.lock(NAME)
    async with elsewhere.lock(NAME):
        waiting = asyncio.create_task(lock.acquire(timeout=-1))
        await stored(NAME).until(lambda seen: len(seen.waiting) == 1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await stored(NAME).until(lambda seen: not seen.waiting)
    assert stored(NAME).free
    async with lock:
        pass


async def test_cancelled_after_any_number_of_turns(guard: SessionGuard, stored: Look) -> None:
    """While it is taken or given back, by whichever call: it is done, or not, and the object knows which."""
    lock = guard.lock(NAME)
    await guard.lock("warm").locked()

    async def cycle() -> None:
        await lock.acquire()
        await lock.release()

    for turns in range(40):
        cycling = asyncio.create_task(cycle())
        for _ in range(turns):
            await asyncio.sleep(0)
        cycling.cancel()
        await asyncio.wait([cycling])
        held = lock.lease is not None
        assert await lock.locked() == held
        if held:
            assert await lock.owned()
            await lock.release()
        assert stored(NAME).free


async def test_nobody_is_cancelled_by_hand(guard: SessionGuard, elsewhere: SessionGuard) -> None:
    """There is no block whose body could be meant; it has the lease to ask."""
    lock = guard.lock(NAME, lease=LeasePolicy(ttl=1.5))
    assert await lock.acquire()
    lease = lock.lease
    assert lease is not None
    assert await elsewhere.force_release(NAME, lease.token)
    await lease.lost.wait()
    await asyncio.sleep(0)
    with pytest.raises(LeaseLost):
        lease.check()
    with pytest.raises(LeaseLost):
        await lock.release()


async def test_a_block_is_cancelled(guard: SessionGuard, elsewhere: SessionGuard) -> None:
    lock = guard.lock(NAME, lease=LeasePolicy(ttl=1.5))
    with pytest.raises(LeaseLost):
        async with lock as lease:
            assert await elsewhere.force_release(NAME, lease.token)
            await asyncio.Event().wait()
    async with lock:
        pass
