"""A lock alone, ``guard.lock("nightly-report")``: it is a job's, and called by its name."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sessionlock import (
    LeaseLost,
    LeasePolicy,
    LockNotAcquired,
    QueueFull,
    ReentrantLock,
    SessionGuard,
    SessionLockError,
    StaleFencingToken,
    WaitPolicy,
    WaitTimedOut,
)
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.lock import holders
from sessionlock.protocol.keys import keys_for
from tests.harness.quorums import Place

pytestmark = pytest.mark.anyio

NAME = "nightly-report"
DAY = 86_400


def record_of(name: str) -> str:
    return keys_for("sl", name).digest


def hold_of(lease: Any) -> float:
    """Seconds for which it may be renewed."""
    return round(lease._longest - lease.since, 3)  # type: ignore[no-any-return]


@pytest.mark.parametrize("policy", [None, LeasePolicy(ttl=5)])
async def test_it_is_held_for_a_day_and_a_session_for_a_minute(redis_url: str, policy: LeasePolicy | None) -> None:
    """Also where the guard's policy says how long a lease is, and nothing of how long it may be held."""
    async with SessionGuard.from_url(redis_url, lease=policy) as guard:
        async with guard.lock(NAME) as lease, guard.session_lock("s") as session:
            assert session.lease is not None
            assert (hold_of(lease), hold_of(session.lease)) == (DAY, 60)
        async with guard.lock(NAME, lease=policy) as lease:
            assert hold_of(lease) == DAY
        lock = guard.lock(NAME)
        await lock.acquire()
        assert lock.lease is not None
        assert hold_of(lock.lease) == DAY
        await lock.release()


async def test_who_says_for_how_long_is_believed(redis_url: str) -> None:
    policy = LeasePolicy(max_hold=7)
    async with SessionGuard.from_url(redis_url, lease=policy) as guard, guard.lock(NAME) as lease:
        assert hold_of(lease) == 7
    async with SessionGuard.from_url(redis_url) as guard, guard.lock(NAME, lease=policy) as lease:
        assert hold_of(lease) == 7


def test_for_threads(redis_url: str) -> None:
    with BlockingGuard.from_url(redis_url) as guard:
        with guard.lock(NAME) as lease:
            assert hold_of(lease) == DAY
        with guard.session_lock("s") as session:
            assert session.lease is not None
            assert hold_of(session.lease) == 60


def test_a_hundred_threads_at_once(redis_url: str) -> None:
    """Each gets its turn: nobody is told that the queue is full."""
    met: list[BaseException] = []
    done: list[int] = []
    with BlockingGuard.from_url(redis_url, wait=60) as guard:
        start = threading.Barrier(100)

        def work(number: int) -> None:
            start.wait()
            try:
                with guard.lock(NAME):
                    done.append(number)
            except SessionLockError as error:
                met.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not met
    assert sorted(done) == list(range(100))


def test_how_many_may_wait() -> None:
    assert WaitPolicy().most_waiters == 64
    assert WaitPolicy().of_a_lock.most_waiters == 10_000
    assert WaitPolicy.seconds(1).of_a_lock.most_waiters == 10_000
    assert WaitPolicy(max_waiters=3).of_a_lock.most_waiters == 3


async def told(work: Any) -> SessionLockError:
    with pytest.raises(SessionLockError) as caught:
        await work
    return caught.value


async def enter(block: Any) -> None:
    async with block:
        pass


async def test_messages_tell_its_name(guard: SessionGuard, elsewhere: SessionGuard) -> None:
    errors: list[SessionLockError] = []
    async with guard.lock(NAME):
        errors.append(await told(enter(guard.lock(NAME))))
        errors.append(await told(enter(elsewhere.lock(NAME, wait=0))))
        errors.append(await told(enter(elsewhere.lock(NAME, wait=0.02))))
        errors.append(await told(enter(elsewhere.lock(NAME, wait=WaitPolicy(max_waiters=0)))))
    with pytest.raises(LeaseLost) as lost:
        async with guard.lock(NAME, lease=LeasePolicy(on_lost="flag")) as lease:
            assert lease.name == NAME
            assert repr(lease).startswith(f"<Lease {NAME} ")
            assert await elsewhere.force_release(NAME, lease.token)
    errors.append(lost.value)
    errors.append(await told(guard.lock(NAME).release()))
    kinds = [ReentrantLock, WaitTimedOut, WaitTimedOut, QueueFull, LeaseLost]
    assert [type(error) for error in errors[:5]] == kinds
    for error in errors:
        assert f"lock {NAME!r}" in str(error)
        assert "session" not in str(error).lower()
        assert record_of(NAME) not in str(error)
        assert error.digest in (None, record_of(NAME))
    assert isinstance(errors[1], LockNotAcquired)
    assert errors[1].holder == holders.node_name()


async def test_a_loss_tells_its_name(guard: SessionGuard, elsewhere: SessionGuard) -> None:
    with pytest.raises(LeaseLost) as caught:
        async with guard.lock(NAME, lease=LeasePolicy(on_lost="flag")) as lease:
            assert await elsewhere.force_release(NAME, lease.token)
            async with elsewhere.lock(NAME):
                pass
    assert isinstance(caught.value, StaleFencingToken)
    assert f"the lock {NAME!r} was lost" in str(caught.value)
    assert "session" not in str(caught.value).lower()
    assert caught.value.digest == record_of(NAME)


async def test_a_sessions_id_stays_a_secret(guard: SessionGuard, elsewhere: SessionGuard) -> None:
    async with guard.session_lock("secret-id", lease=LeasePolicy(on_lost="flag")) as session:
        assert session.lease is not None
        assert session.lease.name == record_of("secret-id")
        for work in (elsewhere.session_lock("secret-id", wait=0), elsewhere.session_lock("secret-id", wait=0.02)):
            error = await told(enter(work))
            assert f"session {record_of('secret-id')}" in str(error)
            assert "secret-id" not in str(error)


@pytest.mark.parametrize("engine", ["native", "pottery"])
async def test_a_quorum_tells_its_name(three: Place, engine: Any) -> None:
    guard, other = (three.guard(three.quorum(engine=engine)) for _ in range(2))
    async with guard.lock(NAME):
        for wait in (0, 0.05):
            error = await told(enter(other.lock(NAME, wait=wait)))
            assert f"lock {NAME!r}" in str(error)
            assert "session" not in str(error).lower()
