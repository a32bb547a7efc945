"""A lock object keeps what people who come from other locks expect of one: both faces, one contract.

What they expect is what redis-py's, pottery's and python-redis-lock's own tests ask of their locks.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sessionlock import (
    ConfigurationError,
    LeaseLost,
    LeasePolicy,
    LockNotHeld,
    QueueFull,
    ReentrantLock,
    SessionGuard,
    WaitPolicy,
    WaitTimedOut,
)
from sessionlock.protocol.record_calls import Inspect
from tests.harness.polling import eventually
from tests.harness.stored import Look
from tests.harness.two_faces import NAME, MakeLock

pytestmark = pytest.mark.anyio

# --- taking it and giving it back


async def test_by_hand(make: MakeLock, stored: Look) -> None:
    lock = make()
    assert await lock.acquire() is True
    lease = await lock.lease_of_caller()
    assert lease is not None
    assert stored(NAME).lock == lease.token
    assert 0 < stored(NAME).client.pttl(stored(NAME).keys.lock) <= 10_000  # it never lasts for ever
    await lock.release()
    assert stored(NAME).free
    assert lease.released
    assert await lock.lease_of_caller() is None


async def test_it_is_used_as_often_as_wanted(make: MakeLock, stored: Look) -> None:
    """By hand and as a block; each time it is another acquisition, with a higher fencing token."""
    lock = make()
    fences, tokens = [], set()
    for _ in range(3):
        async with lock as lease:
            fences.append(lease.fencing_token)
            tokens.add(lease.token)
            assert await lock.lease_of_caller() is lease
        assert stored(NAME).free
        assert await lock.acquire()
        held = await lock.lease_of_caller()
        assert held is not None
        fences.append(held.fencing_token)
        tokens.add(held.token)
        await lock.release()
        assert stored(NAME).free
    assert fences == sorted(set(fences))
    assert len(tokens) == 6


async def test_a_block_lets_errors_through(make: MakeLock, stored: Look) -> None:
    lock = make()
    with pytest.raises(ZeroDivisionError):
        async with lock:
            raise ZeroDivisionError
    assert stored(NAME).free
    async with lock:
        pass


async def test_one_excludes_the_other(make: MakeLock) -> None:
    first, second = make(), make(node=2)
    assert await first.acquire(blocking=False)
    assert not await second.acquire(blocking=False)
    assert not await second.acquire(timeout=0)
    assert not await second.acquire(timeout=0.05)
    await first.release()
    assert await second.acquire(blocking=False)
    assert not await first.acquire(blocking=False)
    await second.release()


async def test_the_same_task_may_ask_with_a_limit(make: MakeLock) -> None:
    """Who says for how long is told False, whoever holds it; it need not be a mistake, for others may release it."""
    lock, same_name = make(), make()
    async with lock:
        for asked in (lock, same_name):
            assert await asked.acquire(blocking=False) is False
            assert await asked.acquire(timeout=0.05) is False
    assert await same_name.acquire(blocking=False)
    await same_name.release()


async def test_without_a_limit_nobody_goes_on_without_it(make: MakeLock) -> None:
    """``lock.acquire()`` as a statement: nobody looks at what it returned."""
    async with make(node=2, label="nightly"):
        with pytest.raises(WaitTimedOut, match="nightly"):
            await make(wait=0.05).acquire()
        with pytest.raises(WaitTimedOut, match="nightly"):
            async with make(wait=0.05):
                pytest.fail("entered")


async def test_a_full_queue(make: MakeLock, stored: Look) -> None:
    policy = WaitPolicy(max_waiters=0)
    async with make(node=2):
        with pytest.raises(QueueFull):
            await make(wait=policy).acquire()
        assert await make(wait=policy).acquire(timeout=5) is False


async def test_who_holds_it_already_is_told_at_once(make: MakeLock) -> None:
    lock = make()
    assert await lock.acquire()
    for again in (lock, make()):
        with pytest.raises(ReentrantLock):
            await again.acquire()
        with pytest.raises(ReentrantLock):
            await again.acquire(timeout=-1)
        with pytest.raises(ReentrantLock):
            async with again:
                pytest.fail("entered")
    await lock.release()


@pytest.mark.parametrize("timeout", [-1, 10])
async def test_it_is_waited_for(make: MakeLock, stored: Look, timeout: float) -> None:
    """It comes when it is released; with -1 however long the lock's own policy would have waited."""
    first, second = make(), make(node=2, wait=0.01)
    assert await first.acquire()
    waiting = asyncio.create_task(second.acquire(timeout=timeout))
    await stored(NAME).until(lambda seen: len(seen.waiting) == 1)
    await first.release()
    assert await waiting is True
    assert await second.locked()
    await second.release()  # not by the task that took it


async def test_it_comes_when_the_lease_ends(make: MakeLock) -> None:
    """A holder that renews nothing and releases nothing is in nobody's way, not even in its own: its lease ends."""
    lock = make(lease=LeasePolicy(ttl=0.2, renew=False))
    for timeout in (None, 10, -1):
        assert await lock.acquire(timeout=timeout)
    other = make(node=2)
    assert await other.acquire()
    assert not await lock.owned()
    await other.release()


async def test_it_is_renewed_while_it_is_held(make: MakeLock) -> None:
    lock = make(lease=LeasePolicy(ttl=0.5))
    assert await lock.acquire()
    lease = await lock.lease_of_caller()
    assert lease is not None
    await eventually(lambda: lease.trusted_until > lease.since + 1.5, "it outlives its ttl")
    assert await lock.owned()
    await lock.release()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"blocking": False, "timeout": 1}, "does not wait"),
        ({"timeout": -2}, "timeout"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": "1"}, "timeout"),
    ],
)
async def test_what_makes_no_sense(make: MakeLock, stored: Look, options: dict[str, Any], what: str) -> None:
    """Told as other locks do, by a ValueError, and nothing is asked of Redis."""
    lock = make()
    with pytest.raises(ConfigurationError, match=what) as error:
        await lock.acquire(**options)
    assert isinstance(error.value, ValueError)
    assert stored(NAME).fence == 0


async def test_what_the_standard_library_allows(make: MakeLock) -> None:
    """``threading.Lock().acquire(False, -1)``."""
    lock = make()
    assert await lock.acquire(False, -1)
    assert not await lock.acquire(False, -1)
    await lock.release()


# --- asking


async def test_locked_and_owned(make: MakeLock) -> None:
    first, second = make(), make(node=2)
    for lock in (first, second):
        assert not await lock.locked()
        assert not await lock.owned()
    async with first:
        assert [await lock.locked() for lock in (first, second)] == [True, True]
        assert [await lock.owned() for lock in (first, second)] == [True, False]
    async with second:
        assert [await lock.owned() for lock in (first, second)] == [False, True]
    assert not await first.locked()


async def test_redis_is_asked(make: MakeLock, stored: Look) -> None:
    """And not the memory of this process."""
    lock = make()
    assert await lock.acquire()
    stored(NAME).client.set(stored(NAME).keys.lock, "somebody else's", keepttl=True)
    assert await lock.locked()
    assert not await lock.owned()
    stored(NAME).client.delete(stored(NAME).keys.lock)
    assert not await lock.locked()
    with pytest.raises(LeaseLost):
        await lock.release()


async def test_it_is_asked_without_looking_at_the_queue(guard: SessionGuard, stored: Look) -> None:
    """Which may be long: what that takes must not grow with those who wait."""
    keys, executor = guard.keys_of(NAME), guard.runtime().executor
    async with guard.lock(NAME):
        waiting = asyncio.create_task(guard.lock(NAME).acquire(timeout=60))
        await stored(NAME).until(lambda seen: len(seen.waiting) == 1)
        told = [await executor.run(Inspect(keys, waiters=waiters)) for waiters in (True, False)]
        assert [len(seen.waiters) for seen in told] == [1, 0]
        assert told[0].token == told[1].token is not None
    assert await waiting


async def test_what_it_calls_itself(make: MakeLock) -> None:
    """By its name, which is no secret."""
    lock = make()
    assert lock.lock.name == NAME
    assert repr(lock.lock) == f"<Lock {NAME!r} not held>"
    async with lock:
        assert repr(lock.lock) == f"<Lock {NAME!r} held>"
    with pytest.raises(LockNotHeld, match=f"lock {NAME!r} cannot be released"):
        await lock.release()


# --- what is not held


async def test_to_release_what_is_not_held(make: MakeLock) -> None:
    lock = make()
    with pytest.raises(LockNotHeld, match="does not hold it"):
        await lock.release()
    assert await lock.acquire()
    await lock.release()
    with pytest.raises(LockNotHeld) as error:
        await lock.release()
    assert isinstance(error.value, RuntimeError)  # as threading.Lock and asyncio.Lock have it
    async with make(node=2):
        with pytest.raises(LockNotHeld):
            await lock.release()


async def test_released_within_its_block(make: MakeLock, stored: Look) -> None:
    """The rest of the block ran without the lock: that is said, but not over the body's own error."""
    lock = make()
    with pytest.raises(LockNotHeld, match="at the end of its block"):
        async with lock:
            await lock.release()
            assert stored(NAME).free
    with pytest.raises(ZeroDivisionError):
        async with lock:
            await lock.release()
            raise ZeroDivisionError
    assert stored(NAME).free


async def test_a_block_ends_its_own_acquisition(make: MakeLock, stored: Look) -> None:
    """Not one that was made by hand within it."""
    lock = make()
    with pytest.raises(LockNotHeld):
        async with lock:
            await lock.release()
            assert await lock.acquire()
    assert await lock.owned()
    await lock.release()
    assert stored(NAME).free
