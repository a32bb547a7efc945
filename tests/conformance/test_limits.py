"""Sessions that are too large, and large ones that are not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

import pytest

from sessionlock import SessionConflict, SessionGuard, SessionPolicy, SessionTooLarge
from tests.conformance.topologies import Node, Record, Topology

pytestmark = pytest.mark.anyio

Look = Callable[[str], Record]
MB = 2**20
ROOMY = SessionPolicy(max_field=8 * MB, max_session=16 * MB)


def received(topology: Topology) -> int:
    """Bytes that the server has read from all its clients."""
    return int(topology.raw.info("stats")["total_net_input_bytes"])


TOO_LARGE: list[Callable[[], dict[str, object]]] = [
    lambda: {"one": "x" * (10 * MB)},
    lambda: {"one": ["x" * 1000] * 10_000},
    lambda: {f"key {i}": "x" * (MB - 10) for i in range(10)},
]


@pytest.mark.parametrize("make", TOO_LARGE, ids=["a text of 10 MB", "a list of 10 MB", "ten keys of 1 MB"])
async def test_too_large_is_refused(guard: SessionGuard, record: Look, make: Callable[[], dict[str, object]]) -> None:
    await guard.create({"n": 1}, sid="s")
    before = record("s").data_and_version
    with pytest.raises(SessionTooLarge):
        async with guard.session_lock("s") as session:
            session["n"] = 2
            session.update(make())
    with pytest.raises(SessionTooLarge):
        await guard.create(make(), sid="t")
    with pytest.raises(SessionTooLarge):
        async with guard.session_lock("s", mode="optimistic") as session:
            session.update(make())
    assert record("s").data_and_version == before
    assert not record("t").raw
    assert record("s").free  # the lock was given up all the same


@pytest.mark.needs("statistics")
async def test_too_large_is_found_before_anything_is_sent(guard: SessionGuard, topology: Topology) -> None:
    with pytest.raises(SessionTooLarge):
        async with guard.session_lock("s") as session:
            before = received(topology)
            session["n"] = "x" * (10 * MB)
            with pytest.raises(SessionTooLarge):
                await session.save()
    assert received(topology) - before < 100_000  # the release is sent, with its script's text at the most


async def test_after_a_refused_save_the_block_may_go_on(guard: SessionGuard, record: Look) -> None:
    async with guard.session_lock("s") as session:
        session["n"] = "x" * (2 * MB)
        with pytest.raises(SessionTooLarge):
            await session.save()
        session["n"] = 1
    assert record("s").data == {"n": 1}


async def test_many_small_saves_make_no_large_session(node: Node, record: Look) -> None:
    guard = node(session=SessionPolicy(max_session=1000))
    with pytest.raises(SessionTooLarge):
        async with guard.session_lock("s") as session:
            for i in range(11):
                session[f"key {i}"] = "x" * 90
                await session.save()
    assert len(record("s").data) == 10


async def test_a_large_value_may_be_replaced_by_another(node: Node, record: Look) -> None:
    guard = node(session=SessionPolicy(max_session=1000))
    for letter in "abc":
        async with guard.session_lock("s") as session:
            session["n"] = letter * 900
    assert record("s").data == {"n": "c" * 900}


async def test_six_megabytes_with_room_for_them(node: Node, record: Look) -> None:
    guard = node(session=ROOMY)
    async with guard.session_lock("s") as session:
        session["large"] = "x" * (6 * MB)
        session["list"] = list(range(100_000))
    async with guard.session_lock("s") as session:
        assert len(session["large"]) == 6 * MB
        assert session["list"][-1] == 99_999
        session["list"].append(1)
    assert len((await guard.read("s"))["list"]) == 100_001
    assert record("s").version == 2


@pytest.mark.parametrize("mode", ["lock", "optimistic"])
async def test_thousands_of_keys_at_once(
    guard: SessionGuard, record: Look, mode: Literal["lock", "optimistic"]
) -> None:
    """More words than some servers take in a request, all or nothing: a new record, all changed, most deleted."""
    named = {f"key {i}": i for i in range(1500)}
    await guard.create(named, sid="s")
    assert record("s").data == named
    async with guard.session_lock("s", mode=mode) as session:
        for key in named:
            session[key] = f"now: {session[key]}"
    assert record("s").data == {key: f"now: {number}" for key, number in named.items()}
    with pytest.raises(SessionConflict) as clash:
        async with guard.session_lock("s", mode=mode) as session:
            for key in named:
                session[key] += "!"
            record("s").write("key 7", b'"theirs"')
    assert clash.value.keys == ("key 7",)
    assert record("s").data["key 8"] == "now: 8"
    async with guard.session_lock("s", mode=mode) as session:
        for key in list(named)[:-1]:
            del session[key]
    assert record("s").data == {"key 1499": "now: 1499"}


@pytest.mark.needs("queue")
async def test_a_handover_that_is_too_large_to_be_pushed(node: Node, record: Look) -> None:
    """The waiter is told that it is its turn, and loads."""
    first, second = node(session=ROOMY), node(session=ROOMY)
    await first.create({"large": "x" * (6 * MB), "n": 0}, sid="s")

    async def request(guard: SessionGuard) -> int:
        async with guard.session_lock("s", wait=60) as session:
            session["n"] += 1
            return len(session["large"])

    async with first.session_lock("s") as session:
        waiters = [asyncio.create_task(request(guard)) for guard in (first, second, first, second)]
        await record("s").until(lambda stored: len(stored.waiting) == 4)
        session["n"] += 1
    assert await asyncio.wait_for(asyncio.gather(*waiters), 10) == [6 * MB] * 4
    assert record("s").data["n"] == 5
    assert record("s").free


@pytest.mark.parametrize("limit", [0, 10, 100_000])
@pytest.mark.needs("queue")
async def test_any_push_limit_does(node: Node, record: Look, limit: int) -> None:
    first, second = node(push_limit=limit), node(push_limit=limit)

    async def request(guard: SessionGuard) -> None:
        async with guard.session_lock("s", wait=60) as session:
            session["n"] = session.get("n", 0) + 1

    async with first.session_lock("s"):
        waiters = [asyncio.create_task(request(guard)) for guard in (first, second)]
        await record("s").until(lambda stored: len(stored.waiting) == 2)
    await asyncio.wait_for(asyncio.gather(*waiters), 10)
    assert record("s").data == {"n": 2}
