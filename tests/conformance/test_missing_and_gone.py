"""Sessions that do not exist, exist already, are destroyed, or vanish while they are held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from sessionlock import SessionGuard, SessionPolicy
from sessionlock.errors import ConfigurationError, ReadOnlySession, SessionConflict, SessionDestroyed, SessionNotFound
from tests.conformance.topologies import Node, Record, Topology

pytestmark = pytest.mark.anyio

Look = Callable[[str], Record]


# --- missing


async def test_reject_adopts_no_unknown_id(guard: SessionGuard, topology: Topology) -> None:
    with pytest.raises(SessionNotFound):
        async with guard.session_lock("s", missing="reject"):
            pytest.fail("entered")
    with pytest.raises(SessionNotFound):
        await guard.read("s")
    with pytest.raises(SessionNotFound):
        await guard.incr("s", "n")
    assert topology.all_keys() == []


async def test_reject_lets_a_known_id_in(guard: SessionGuard) -> None:
    session = await guard.create({"n": 1})
    async with guard.session_lock(session.sid, missing="reject") as session:
        assert dict(session) == {"n": 1}


@pytest.mark.needs("queue")
async def test_reject_when_it_went_while_waiting(node: Node, record: Look) -> None:
    """The waiter was queued when the session existed; the grant finds none."""
    first, second = node(), node()
    await first.create({"n": 1}, sid="s")

    async def late() -> None:
        async with second.session_lock("s", missing="reject"):
            pytest.fail("entered")

    async with first.session_lock("s"):
        waiter = asyncio.create_task(late())
        await record("s").until(lambda stored: len(stored.waiting) == 1)
        record("s").client.delete(record("s").keys.session)
    with pytest.raises(SessionNotFound):
        await waiter
    await record("s").until(lambda stored: stored.free)


async def test_missing_is_checked(guard: SessionGuard) -> None:
    with pytest.raises(ConfigurationError):
        guard.session_lock("s", missing="maybe")  # type: ignore[call-overload]


# --- create and read


async def test_create_gives_a_secret_id(guard: SessionGuard, record: Look) -> None:
    first, second = await guard.create({"n": 1}), await guard.create()
    assert first.sid != second.sid
    assert len(first.sid) >= 32  # 160 bits
    assert record(first.sid).data == {"n": 1}
    assert dict(await guard.read(second.sid)) == {}


async def test_create_never_overwrites(node: Node, record: Look) -> None:
    await node().create({"n": 1}, sid="s")
    before = record("s").raw
    with pytest.raises(SessionConflict):
        await node().create({"n": 2, "m": 2}, sid="s")
    with pytest.raises(SessionConflict):
        await node().create(sid="s")
    assert record("s").raw == before


async def test_of_many_creators_one_wins(node: Node, record: Look) -> None:
    nodes = [node() for _ in range(3)]
    results = await asyncio.gather(*(nodes[i % 3].create({"by": i}, sid="s") for i in range(9)), return_exceptions=True)
    won = [i for i, result in enumerate(results) if not isinstance(result, BaseException)]
    assert len(won) == 1
    assert all(isinstance(result, SessionConflict) for i, result in enumerate(results) if i not in won)
    assert record("s").data == {"by": won[0]}


async def test_a_created_session_is_not_saved_any_more(guard: SessionGuard, record: Look) -> None:
    session = await guard.create({"n": 1})
    with pytest.raises(ReadOnlySession):
        session["n"] = 2
    assert record(session.sid).data == {"n": 1}


async def test_read_takes_no_lock_and_waits_for_none(node: Node, record: Look) -> None:
    await node().create({"n": 1, "list": []}, sid="s")
    async with node().session_lock("s") as session:
        session["n"] = 2
        seen = await node().read("s")
        assert (dict(seen), seen.version, seen.lease) == ({"n": 1, "list": []}, 1, None)
        with pytest.raises(ReadOnlySession):
            seen["n"] = 3
        with pytest.raises(ReadOnlySession):
            await seen.save()
    assert record("s").data["n"] == 2


async def test_a_deep_change_of_what_is_only_read_is_told(guard: SessionGuard, record: Look) -> None:
    await guard.create({"list": []}, sid="s")
    with pytest.raises(ReadOnlySession):
        async with guard.session_lock("s", mode="read") as session:
            session["list"].append(1)
    assert record("s").data == {"list": []}


# --- destroy


async def test_destroy(guard: SessionGuard, record: Look) -> None:
    await guard.create({"n": 1}, sid="s")
    assert await guard.destroy("s")
    assert record("s").data == {}
    assert (await guard.inspect("s")).destroyed
    with pytest.raises(SessionDestroyed):
        await guard.read("s")
    with pytest.raises(SessionDestroyed):
        async with guard.session_lock("s"):
            pytest.fail("entered")
    with pytest.raises(SessionConflict):
        await guard.create({"n": 2}, sid="s")
    with pytest.raises(SessionDestroyed):
        await guard.incr("s", "n")
    with pytest.raises(SessionDestroyed):
        await guard.transaction("s", lambda session: session.update(n=3))
    assert record("s").data == {}
    assert record("s").free


async def test_destroying_what_does_not_exist(guard: SessionGuard) -> None:
    assert not await guard.destroy("s")


async def test_a_late_save_does_not_resurrect(node: Node, record: Look) -> None:
    await node().create({"n": 1}, sid="s")
    with pytest.raises(SessionDestroyed):
        async with node().session_lock("s") as session:
            await node().destroy("s")
            session["n"] = 2
    assert record("s").data == {}
    assert record("s").free


async def test_a_save_in_passing_does_not_resurrect(node: Node, record: Look) -> None:
    await node().create({"n": 1}, sid="s")
    async with node().session_lock("s") as session:
        await node().destroy("s")
        session["n"] = 2
        with pytest.raises(SessionDestroyed):
            await session.save()
        with pytest.raises(SessionDestroyed):
            await session.release()
    assert record("s").data == {}


async def test_a_clean_holder_hears_of_it_too(node: Node, record: Look) -> None:
    await node().create({"n": 1}, sid="s")
    with pytest.raises(SessionDestroyed):
        async with node().session_lock("s"):
            await node().destroy("s")
    assert record("s").free


@pytest.mark.needs("queue")
async def test_waiters_hear_of_it_at_once(node: Node, record: Look) -> None:
    first, second = node(), node()
    await first.create({"n": 1}, sid="s")

    async def wait() -> None:
        async with second.session_lock("s", wait=60):
            pytest.fail("entered")

    with pytest.raises(SessionDestroyed):
        async with first.session_lock("s") as session:
            waiters = [asyncio.create_task(wait()) for _ in range(3)]
            await record("s").until(lambda stored: len(stored.waiting) == 3)
            await node().destroy("s")
            results = await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), 5)
            assert [type(result) for result in results] == [SessionDestroyed] * 3
            assert record("s").lock == session.lease.token  # type: ignore[union-attr]
    assert record("s").free


async def test_destroy_by_its_own_holder(guard: SessionGuard, record: Look) -> None:
    await guard.create({"n": 1}, sid="s")
    async with guard.session_lock("s") as session:
        session["n"] = 2
        await session.destroy()
        assert record("s").free
        with pytest.raises(ReadOnlySession):
            session["n"] = 3
    assert record("s").data == {}


async def test_the_tombstone_ends(node: Node, topology: Topology) -> None:
    guard = node(session=SessionPolicy(tombstone=0.05))
    await guard.create({"n": 1}, sid="s")
    await guard.destroy("s")
    await topology.record("s").until(lambda stored: not stored.client.exists(stored.keys.session))
    async with guard.session_lock("s") as session:
        assert session.new


async def test_fences_outlive_a_destruction(node: Node, topology: Topology) -> None:
    guard = node(session=SessionPolicy(tombstone=0.05))
    async with guard.session_lock("s") as session:
        session["n"] = 1
        assert session.lease is not None
        before = session.lease.fencing_token
    await guard.destroy("s")
    await topology.record("s").until(lambda stored: not stored.client.exists(stored.keys.session))
    async with guard.session_lock("s") as session:
        assert session.lease is not None
        assert session.lease.fencing_token > before


# --- gone while held


async def test_a_record_evicted_while_held_is_not_revived_in_part(guard: SessionGuard, record: Look) -> None:
    await guard.create({"a": 1, "b": 1}, sid="s")
    with pytest.raises(SessionNotFound):
        async with guard.session_lock("s") as session:
            record("s").client.delete(record("s").keys.session)
            session["a"] = 2
    assert record("s").data == {}
    assert not (await guard.inspect("s")).exists
    assert record("s").free


async def test_a_save_in_passing_does_not_revive_it_either(guard: SessionGuard, record: Look) -> None:
    await guard.create({"a": 1, "b": 1}, sid="s")
    async with guard.session_lock("s") as session:
        record("s").client.delete(record("s").keys.session)
        session["a"] = 2
        with pytest.raises(SessionNotFound):
            await session.save()
        with pytest.raises(SessionNotFound):
            await session.incr("b")
        assert record("s").data == {}
        with pytest.raises(SessionNotFound):
            await session.release()
    assert record("s").data == {}
    assert record("s").free


async def test_a_clean_request_does_not_mind(guard: SessionGuard, record: Look) -> None:
    await guard.create({"a": 1}, sid="s")
    async with guard.session_lock("s") as session:
        record("s").client.delete(record("s").keys.session)
        assert session["a"] == 1
    assert record("s").data == {}
    await record("s").until(lambda stored: stored.free)  # a master of a quorum may hear of the end a moment later


async def test_a_record_that_was_replaced_while_held_is_left_alone(node: Node, record: Look) -> None:
    await node().create({"a": 1, "b": 1}, sid="s")
    with pytest.raises(SessionNotFound):
        async with node().session_lock("s") as session:
            record("s").client.delete(record("s").keys.session)
            await node().create({"a": 1, "theirs": 1}, sid="s")
            session["a"] = 2
    assert record("s").data == {"a": 1, "theirs": 1}
    assert record("s").free
