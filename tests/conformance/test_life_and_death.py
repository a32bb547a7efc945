"""How long things live: idle and absolute ends, touching, and that nothing is immortal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise

import pytest

from sessionlock import SessionConflict, SessionGuard, SessionNotFound, SessionPolicy, WaitPolicy
from tests.conformance.topologies import Node, Record, Topology
from tests.harness.commands import aged, older

pytestmark = pytest.mark.anyio

Look = Callable[[str], Record]
MOST_KEPT_MS = 120_000  # the highest fence of a record without data; what was done last


# --- touching


async def test_the_idle_time_starts_anew_only_when_little_is_left(node: Node, record: Look) -> None:
    guard = node(session=SessionPolicy(idle=1000, refresh_below=0.5))
    await guard.create({"n": 1}, sid="s")

    async def locked() -> None:
        async with guard.session_lock("s"):
            pass

    async def read() -> None:
        await guard.read("s")

    for use in (locked, read):
        aged(record("s").client, record("s").keys.session, 600_000)
        await use()
        assert 590_000 < record("s").ttl_ms <= 600_000  # not touched
        aged(record("s").client, record("s").keys.session, 400_000)
        await use()
        assert 990_000 < record("s").ttl_ms <= 1_000_000


@pytest.mark.parametrize(("share", "touched"), [(0, False), (1, True)])
async def test_touching_always_or_never(node: Node, record: Look, share: float, touched: bool) -> None:
    guard = node(session=SessionPolicy(idle=1000, refresh_below=share))
    await guard.create({"n": 1}, sid="s")
    aged(record("s").client, record("s").keys.session, 500_000)
    async with guard.session_lock("s"):
        pass
    assert (record("s").ttl_ms > 500_000) is touched


async def test_who_touches_always_does_so_whoever_was_here_before(node: Node, record: Look) -> None:
    """Others who touch it seldom have found that its life needs no look yet."""
    seldom, always = (node(session=SessionPolicy(idle=1000, refresh_below=share)) for share in (0.5, 1))
    await seldom.create({"n": 1}, sid="s")
    for _ in range(2):
        older(record("s").client, record("s").keys.session, 100_000)
        async with seldom.session_lock("s"):
            pass
        assert record("s").ttl_ms <= 900_000
        async with always.session_lock("s"):
            pass
        assert record("s").ttl_ms > 990_000


async def test_saving_does_not_prolong_by_itself(node: Node, record: Look) -> None:
    guard = node(session=SessionPolicy(idle=1000, refresh_below=0.5))
    await guard.create({"n": 1}, sid="s")
    aged(record("s").client, record("s").keys.session, 600_000)
    async with guard.session_lock("s") as session:
        session["n"] = 2
    assert record("s").ttl_ms <= 600_000


@pytest.mark.needs("queue")
async def test_a_handed_over_session_is_touched_too(node: Node, record: Look) -> None:
    guard = node(session=SessionPolicy(idle=1000))
    await guard.create({"n": 1}, sid="s")

    async def request() -> None:
        async with guard.session_lock("s"):
            pass

    async with guard.session_lock("s"):
        task = asyncio.create_task(request())
        await record("s").until(lambda stored: len(stored.waiting) == 1)
        aged(record("s").client, record("s").keys.session, 400_000)
    await task
    assert record("s").ttl_ms > 990_000


@pytest.mark.needs("queue")
async def test_a_new_session_that_is_handed_over_lives_as_long_as_any(node: Node, record: Look) -> None:
    guard = node(session=SessionPolicy(idle=1000))

    async def request(change: bool) -> None:
        async with guard.session_lock("s", wait=60) as session:
            if change:
                session["n"] = 1

    for change in (True, False):
        async with guard.session_lock("s") as session:
            task = asyncio.create_task(request(change))
            await record("s").until(lambda stored: len(stored.waiting) == 1)
            session["first"] = change
        await task
        assert 990_000 < record("s").ttl_ms <= 1_000_000
        record("s").client.flushall()


async def test_the_idle_end(node: Node, record: Look) -> None:
    guard = node(session=SessionPolicy(idle=0.05))
    await guard.create({"n": 1}, sid="s")
    await record("s").until(lambda stored: not stored.raw)
    with pytest.raises(SessionNotFound):
        await guard.read("s")
    async with guard.session_lock("s") as session:
        assert (session.new, dict(session)) == (True, {})


async def test_the_absolute_end_is_not_put_off(node: Node, record: Look) -> None:
    guard = node(session=SessionPolicy(idle=1000, absolute=20, refresh_below=1))
    await guard.create({"n": 0}, sid="s")
    lefts = [record("s").ttl_ms]
    for _ in range(3):
        async with guard.session_lock("s") as session:
            session["n"] = session.get("n", 0) + 1
        lefts.append(record("s").ttl_ms)
    assert all(0 < after <= before + 10 for before, after in pairwise(lefts)), lefts  # ms, which are rounded
    assert lefts[0] <= 20_000


async def test_the_absolute_end_comes_while_it_is_held(node: Node, record: Look) -> None:
    guard = node(session=SessionPolicy(absolute=0.5))
    await guard.create({"a": 1, "b": 1}, sid="s")
    with pytest.raises(SessionNotFound):
        async with guard.session_lock("s") as session:
            await record("s").until(lambda stored: not stored.raw)
            session["a"] = 2
    assert record("s").data == {}


async def test_an_absolute_end_shorter_than_the_idle_time(node: Node, record: Look) -> None:
    guard = node(session=SessionPolicy(idle=1000, absolute=500))
    async with guard.session_lock("s") as session:
        session["n"] = 1
    assert 490_000 < record("s").ttl_ms <= 500_000


# --- nothing is immortal


@pytest.mark.needs("queue")
async def test_every_key_has_an_end_at_every_moment(node: Node, topology: Topology) -> None:
    guard, other = node(), node()
    seen: set[bytes] = set()

    def check(moment: str) -> None:
        assert topology.immortal_keys() == [], moment
        seen.update(key.rpartition(b":")[2] for key in topology.all_keys())

    async def request() -> None:
        async with other.session_lock("s") as session:
            session["waited"] = True

    async with guard.session_lock("s") as session:
        check("granted, no record")
        session["n"] = 1
        await session.save()
        check("saved")
        await session.incr("n")
        check("counted")
        task = asyncio.create_task(request())
        await topology.record("s").until(lambda stored: len(stored.waiting) == 1)
        check("queued")
    await task
    check("handed over and released")
    async with guard.session_lock("none"):
        pass
    check("looked at, no record")
    async with guard.lock("name"):
        check("only the lock")
    check("the lock released")
    await guard.create({"n": 1}, sid="created")
    check("created")
    await guard.bind("created", "user")
    check("bound")
    await guard.incr("created", "n")
    await guard.transaction("created", lambda session: session.update(n=5))
    check("counted and committed without a lock")
    new_sid = await guard.regenerate("created", grace=0)
    check("regenerated")
    await guard.destroy(new_sid)
    check("destroyed")
    await guard.destroy("never there")
    check("destroyed what was not there")
    async with guard.session_lock("evicted") as session:
        topology.raw.delete(topology.record("evicted").keys.session)
        check("evicted")
    check("evicted and released")
    with pytest.raises(asyncio.CancelledError):
        await _cancelled_in_the_queue(guard, topology)
    check("left the queue")
    assert seen >= {b"lock", b"queue", b"waiters", b"session", b"receipts"}


async def _cancelled_in_the_queue(guard: SessionGuard, topology: Topology) -> None:
    async with guard.lock("cancelled"):
        task = asyncio.create_task(_wait(guard))
        await topology.record("cancelled").until(lambda stored: len(stored.waiting) == 1)
        task.cancel()
        await task


async def _wait(guard: SessionGuard) -> None:
    async with guard.lock("cancelled", wait=WaitPolicy.seconds(60)):
        pytest.fail("entered")


async def test_after_the_idle_end_nothing_is_left(node: Node, topology: Topology) -> None:
    guard = node(session=SessionPolicy(idle=0.05))
    for i in range(20):
        async with guard.session_lock(f"session {i}") as session:
            session["n"] = i
    await topology.record("any").until(lambda _: topology.all_keys() == [])


async def test_what_is_kept_beyond_a_session_is_bounded(node: Node, topology: Topology) -> None:
    """Of a session that ended, only its highest fence and the receipts of what was done last stay, for a while."""
    guard = node(session=SessionPolicy(idle=0.5, tombstone=0.5))
    for i in range(5):
        async with guard.session_lock("several cycles") as session:
            session["n"] = i
    async with guard.lock("a name"):
        pass
    async with guard.session_lock("nothing saved"):
        pass
    await topology.record("several cycles").until(lambda stored: not stored.data)
    for key in topology.all_keys():
        left = topology.raw.pttl(key)
        assert 0 < left <= MOST_KEPT_MS, key


async def test_a_create_that_is_refused_prolongs_nothing(guard: SessionGuard, record: Look) -> None:
    await guard.create({"n": 1}, sid="s")
    aged(record("s").client, record("s").keys.session, 1000)
    with pytest.raises(SessionConflict):
        await guard.create({"n": 2}, sid="s")
    assert record("s").ttl_ms <= 1000
