"""One at a time: fences, owners, re-entry, locks without a session, looking at locks and taking them away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sessionlock import LeasePolicy, SessionGuard, WaitPolicy
from sessionlock.errors import (
    ConfigurationError,
    LeaseLost,
    LockNotHeld,
    ReentrantLock,
    StaleFencingToken,
    WaitTimedOut,
)
from tests.conformance.topologies import Node, Record, Topology
from tests.harness.commands import set_fence

pytestmark = pytest.mark.anyio

Look = Callable[[str], Record]
PATIENT = WaitPolicy.seconds(60, max_waiters=1000)


async def test_no_update_is_lost(node: Node, record: Look, topology: Topology) -> None:
    # Without a queue everybody tries again and again, which costs the more the slower the machine is.
    requests = 15 if "queue" in topology.lacks else 60
    nodes = [node(wait=PATIENT) for _ in range(3)]
    inside = 0

    async def add_one(guard: SessionGuard) -> None:
        nonlocal inside
        async with guard.session_lock("s") as session:
            inside += 1
            assert inside == 1
            count = session.get("n", 0)
            await asyncio.sleep(0)
            session["n"] = count + 1
            inside -= 1

    await asyncio.gather(*(add_one(nodes[i % 3]) for i in range(requests)))
    assert record("s").data == {"n": requests}
    assert record("s").free


async def test_sessions_do_not_wait_for_each_other(guard: SessionGuard) -> None:
    async with guard.session_lock("a", wait=0), guard.session_lock("b", wait=0), guard.lock("c", wait=0):
        pass


# --- fences


async def test_fences_grow(node: Node, record: Look) -> None:
    first, second = node(), node()
    fences = []
    for i in range(10):
        async with (first, second)[i % 2].session_lock("s") as session:
            assert session.lease is not None
            fences.append(session.lease.fencing_token)
            assert record("s").fence == fences[-1]
    assert fences == sorted(set(fences))
    assert fences[-1] < 2**53


async def test_fences_of_locks_grow(node: Node) -> None:
    first, second = node(), node()
    fences = []
    for i in range(20):
        async with (second, first)[i % 2].lock("s") as lease:
            fences.append(lease.fencing_token)
    assert fences == sorted(set(fences))
    assert fences[-1] < 2**53


@pytest.mark.needs("one counter")
async def test_fences_of_a_session_and_of_its_lock_grow(guard: SessionGuard) -> None:
    fences = []
    for _ in range(10):
        async with guard.session_lock("s") as session:
            assert session.lease is not None
            fences.append(session.lease.fencing_token)
        async with guard.lock("s") as lease:
            fences.append(lease.fencing_token)
    assert fences == sorted(set(fences))


async def test_fences_grow_though_everything_was_lost(guard: SessionGuard, topology: Topology) -> None:
    fences = []
    for _ in range(5):
        async with guard.lock("s") as lease:
            fences.append(lease.fencing_token)
        topology.raw.flushall()
    assert fences == sorted(set(fences))


async def test_fences_grow_though_the_clock_is_behind(guard: SessionGuard, topology: Topology) -> None:
    """The highest fence seen lies in the future: the next one is one more."""
    ahead = topology.record("s").now_us + 10**12
    await guard.create({"n": 1}, sid="s")
    set_fence(topology.record("s").client, topology.record("s").keys.session, ahead)
    for expected in (ahead + 1, ahead + 2):
        async with guard.session_lock("s") as session:
            assert session.lease is not None
            assert session.lease.fencing_token == expected
            session["n"] += 1


# --- the lease


async def test_a_lease_tells_what_it_is(guard: SessionGuard, record: Look) -> None:
    async with guard.lock("s", lease=LeasePolicy(ttl=5)) as lease:
        assert 4 < lease.remaining() < 5
        assert not lease.is_lost
        assert not lease.lost.is_set()
        assert record("s").lock == lease.token
        lease.check()
    assert lease.released
    assert lease.remaining() == 0


async def test_a_lease_is_renewed_while_the_body_runs(guard: SessionGuard, record: Look) -> None:
    async with guard.session_lock("s", lease=LeasePolicy(ttl=1)) as session:
        assert session.lease is not None
        begun = record("s").lease_end_us
        await record("s").until(lambda stored: stored.lease_end_us > begun + 400_000)
        session["n"] = 1
    assert record("s").data == {"n": 1}


async def test_a_lease_that_is_not_renewed_ends(guard: SessionGuard, record: Look) -> None:
    with pytest.raises(LeaseLost):
        async with guard.session_lock("s", lease=LeasePolicy(ttl=0.1, renew=False)) as session:
            session["n"] = 1
            await asyncio.Event().wait()
    assert record("s").data == {}


async def test_a_lost_lease_may_only_be_told(guard: SessionGuard, record: Look) -> None:
    with pytest.raises(LeaseLost):
        async with guard.session_lock("s", lease=LeasePolicy(ttl=0.1, renew=False, on_lost="flag")) as session:
            assert session.lease is not None
            session["n"] = 1
            await session.lease.lost.wait()
            await record("s").until(lambda stored: stored.lock is None)
    assert record("s").data == {}


async def test_max_hold_ends_all_renewals(guard: SessionGuard, record: Look) -> None:
    with pytest.raises(LeaseLost, match="max_hold"):
        async with guard.session_lock("s", lease=LeasePolicy(ttl=0.1, max_hold=0.25)):
            await asyncio.Event().wait()
    await record("s").until(lambda stored: stored.free)


async def test_the_body_comes_first(guard: SessionGuard, record: Look) -> None:
    """A lost lease does not hide what the body raised."""
    with pytest.raises(ZeroDivisionError):
        async with guard.session_lock("s") as session:
            session["n"] = 1
            record("s").client.delete(record("s").keys.lock)
            raise ZeroDivisionError
    assert record("s").data == {}


# --- re-entry


async def test_reentry_is_told_at_once(guard: SessionGuard, record: Look) -> None:
    async with guard.session_lock("s", wait=60) as session:
        for again in (guard.session_lock("s", wait=60), guard.lock("s", wait=60)):
            with pytest.raises(ReentrantLock):
                await again.__aenter__()
        assert record("s").lock == session.lease.token  # type: ignore[union-attr]
        assert record("s").waiting == []
        session["n"] = 1
    assert record("s").data == {"n": 1}
    async with guard.lock("s", wait=60):
        with pytest.raises(ReentrantLock):
            async with guard.lock("s", wait=60):
                pytest.fail("entered")


async def test_reentry_is_nothing_but_that(guard: SessionGuard) -> None:
    async def from_another_task() -> None:
        async with guard.session_lock("s", wait=0.05):
            pytest.fail("entered")

    async with guard.session_lock("s") as session:
        async with guard.session_lock("other", wait=0):
            pass
        assert (await guard.read("other") if (await guard.inspect("other")).exists else None) is None
        with pytest.raises(WaitTimedOut):
            await asyncio.create_task(from_another_task())
        await session.release()
        async with guard.session_lock("s", wait=0):
            pass


async def test_a_context_is_for_one_use(guard: SessionGuard) -> None:
    context = guard.session_lock("s")
    async with context:
        pass
    with pytest.raises(ConfigurationError):
        await context.__aenter__()


# --- only the lock


async def test_lock_by_name(node: Node, record: Look) -> None:
    async with node().lock("report") as lease:
        assert record("report").lock == lease.token
        with pytest.raises(WaitTimedOut):
            async with node().lock("report", wait=0):
                pytest.fail("entered")
        with pytest.raises(WaitTimedOut):  # one name, one lock
            async with node().session_lock("report", wait=0):
                pytest.fail("entered")
    assert record("report").free
    assert record("report").data == {}
    assert not (await node().inspect("report")).exists


async def test_lock_by_hand(node: Node, record: Look) -> None:
    """The object: taken, looked at from two nodes, extended, given back, and taken by the other."""
    mine, theirs = node().lock("report", lease=LeasePolicy(max_hold=20)), node().lock("report")
    assert not await mine.locked()
    assert await mine.acquire()
    assert await theirs.acquire(blocking=False) is False
    assert [await lock.locked() for lock in (mine, theirs)] == [True, True]
    assert [await lock.owned() for lock in (mine, theirs)] == [True, False]
    assert mine.lease is not None
    before = mine.lease.hold_until
    await mine.extend(300)
    assert mine.lease.hold_until > before + 200
    waiting = asyncio.create_task(theirs.acquire(timeout=-1))
    await mine.release()
    assert await waiting
    assert [await lock.owned() for lock in (mine, theirs)] == [False, True]
    with pytest.raises(LockNotHeld):
        await mine.extend()
    await theirs.release()
    assert record("report").free


async def test_more_time_for_a_lock_that_is_not_renewed(node: Node, record: Look) -> None:
    """It is longer wherever the lock is kept."""
    lock = node().lock("report", lease=LeasePolicy(ttl=10, renew=False))
    assert await lock.acquire()
    await lock.extend(300)
    assert record("report").client.pttl(record("report").keys.lock) > 290_000
    assert lock.lease is not None
    assert lock.lease.remaining() > 280
    await lock.release()


@pytest.mark.needs("queue")
async def test_lock_by_name_waits(node: Node, record: Look) -> None:
    async def wait(guard: SessionGuard) -> int:
        async with guard.lock("report") as lease:
            return lease.fencing_token

    async with node().lock("report") as lease:
        waiter = asyncio.create_task(wait(node()))
        await record("report").until(lambda stored: len(stored.waiting) == 1)
    assert await waiter > lease.fencing_token


async def test_a_lost_lock_is_told(guard: SessionGuard, record: Look) -> None:
    with pytest.raises(LeaseLost):
        async with guard.lock("report"):
            record("report").client.delete(record("report").keys.lock)


async def test_a_foreign_redlock_client_is_kept_out_and_keeps_out(guard: SessionGuard, record: Look) -> None:
    """The lock is a plain string key: ``SET key token NX PX`` of any client in any language excludes us."""
    stored = record("s")
    assert stored.client.set(stored.keys.lock, "foreign", nx=True, px=60_000)
    with pytest.raises(WaitTimedOut) as caught:
        async with guard.session_lock("s", wait=0.05):
            pytest.fail("entered")
    assert (caught.value.holder, caught.value.holder_age) == ("another client", None)
    assert stored.lock == "foreign"
    stored.client.delete(stored.keys.lock)
    async with guard.session_lock("s"):
        assert not stored.client.set(stored.keys.lock, "foreign", nx=True, px=60_000)


# --- inspect, force_release


@pytest.mark.needs("queue")
async def test_inspect(node: Node, record: Look) -> None:
    holder, waiting = node(label="holder"), node(label="waiting", wait=PATIENT)
    await holder.create({"n": 1}, sid="s")

    async def wait(name: str) -> None:
        async with waiting.session_lock("s", label=name):
            pass

    async with holder.session_lock("s", label="checkout") as session:
        tasks = []
        for name in ("a", "b", "c"):
            tasks.append(asyncio.create_task(wait(name)))
            await record("s").until(lambda stored: len(stored.waiting) == len(tasks))
        info = await node().inspect("s")
        before = record("s").raw
        assert session.lease is not None
        assert info.holder is not None
        assert info.holder.token == session.lease.token
        assert info.holder.label == "holder checkout"
        assert info.holder.age is not None
        assert 0 <= info.holder.age < 10
        assert info.holder.remaining is not None
        assert 0 < info.holder.remaining <= 10
        assert info.fencing_token == session.lease.fencing_token
        assert info.waiters == ("waiting a", "waiting b", "waiting c")
        assert (info.exists, info.destroyed, info.version) == (True, False, 1)
        assert info.expires_in is not None
        assert info.expires_in > 1e6
        assert info.name == session.name
        assert record("s").raw == before
    await asyncio.gather(*tasks)


async def test_inspect_what_is_not_there(guard: SessionGuard, topology: Topology) -> None:
    info = await guard.inspect("s")
    assert (info.holder, info.waiters, info.exists, info.destroyed) == (None, (), False, False)
    assert (info.version, info.fencing_token, info.expires_in) == (0, 0, None)
    assert topology.all_keys() == []


async def test_force_release(node: Node, record: Look) -> None:
    await node().create({"n": 1}, sid="s")
    with pytest.raises(LeaseLost):
        async with node().session_lock("s", lease=LeasePolicy(on_lost="flag")) as session:
            assert session.lease is not None
            token = session.lease.token
            assert not await node().force_release("s", "another token")
            results = await asyncio.gather(*(node().force_release("s", token) for _ in range(5)))
            assert sorted(results) == [False] * 4 + [True]
            assert record("s").lock is None
            session["n"] = 2
    assert record("s").data == {"n": 1}
    assert not await node().force_release("s", token)


@pytest.mark.needs("queue")
async def test_after_force_release_the_next_one_holds_and_the_late_save_is_refused(node: Node, record: Look) -> None:
    first, second = node(), node()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def wait() -> int:
        async with second.session_lock("s") as theirs:
            entered.set()
            await leave.wait()
            theirs["theirs"] = 1
            assert theirs.lease is not None
            return theirs.lease.fencing_token

    with pytest.raises(StaleFencingToken) as caught:
        async with first.session_lock("s", lease=LeasePolicy(on_lost="flag")) as ours:
            assert ours.lease is not None
            waiter = asyncio.create_task(wait())
            await record("s").until(lambda stored: len(stored.waiting) == 1)
            assert await node().force_release("s", ours.lease.token)
            await entered.wait()
            ours["ours"] = 1
            fence = ours.lease.fencing_token
    leave.set()
    assert (caught.value.ours, caught.value.current) == (fence, await waiter)
    assert record("s").data == {"theirs": 1}


@pytest.mark.needs("queue")
async def test_the_body_is_cancelled_by_force_release(node: Node, record: Look) -> None:
    """A holder that has waited once listens, and hears of it at once."""
    first, second = node(), node()

    async def wait() -> None:
        async with first.session_lock("s", wait=60):
            await asyncio.Event().wait()

    async with second.session_lock("s"):
        holder = asyncio.create_task(wait())
        await record("s").until(lambda stored: len(stored.waiting) == 1)
    await record("s").until(lambda stored: stored.lock is not None)
    token = record("s").lock
    assert token is not None
    assert await second.force_release("s", token)
    with pytest.raises(LeaseLost):
        await asyncio.wait_for(holder, 5)
