"""What each way of writing costs, counted by the server."""

from __future__ import annotations

from typing import Any

import pytest

from sessionlock import SessionGuard, SessionPolicy
from tests.harness.commands import CommandCounter
from tests.harness.deployments import MakeGuard

pytestmark = pytest.mark.anyio

MERGING = SessionPolicy(merge={"n": "counter"})


@pytest.fixture
async def warm(node: MakeGuard) -> SessionGuard:
    """A guard whose connection is open, and a session."""
    guard = node(session=MERGING, commit_by="script")
    await guard.create({"n": 5, "m": 1}, sid="s")
    return guard


async def test_a_commit_without_a_conflict(warm: SessionGuard, redis_url: str) -> None:
    async with warm.session_lock("s", mode="optimistic") as session:
        session["n"] += 1
        session["m"] = 2
        with CommandCounter(redis_url) as ran:
            await session.save()
    assert ran.script_calls == 1
    assert ran["eval"] == ran["script|load"] == 0


@pytest.mark.parametrize("mode", ["optimistic", "lock"])
async def test_a_conflict(warm: SessionGuard, redis_url: str, mode: Any) -> None:
    """The refusal carries the state, so the merge needs no second load: two calls in all."""
    context = warm.session_lock("s", mode=mode)
    session = await context.__aenter__()
    session["n"] += 1
    await warm.incr("s", "n")
    with CommandCounter(redis_url) as ran:
        await context.__aexit__(None, None, None)
    assert ran.script_calls == 2
    assert (await warm.read("s"))["n"] == 7


async def test_a_whole_optimistic_request(warm: SessionGuard, redis_url: str) -> None:
    with CommandCounter(redis_url) as ran:
        async with warm.session_lock("s", mode="optimistic") as session:
            session["n"] += 1
    assert ran.script_calls == 2, "load and commit"


async def test_a_whole_locked_request(warm: SessionGuard, redis_url: str) -> None:
    with CommandCounter(redis_url) as ran:
        async with warm.session_lock("s") as session:
            session["n"] += 1
    assert ran.script_calls == 2


async def test_a_transaction_that_conflicts_once(warm: SessionGuard, redis_url: str) -> None:
    tries = 0
    with CommandCounter(redis_url) as ran:
        async for attempt in warm.attempts("s"):
            async with attempt as session:
                tries += 1
                if tries == 1:
                    await warm.incr("s", "n")
                session["n"] += 1
    assert tries == 2
    assert ran.script_calls == 1 + 1 + 2, "load, the other's increment, commit refused, commit"


@pytest.mark.parametrize("mode", ["read", "optimistic", "last_write_wins"])
async def test_a_clean_request_writes_nothing(warm: SessionGuard, redis_url: str, mode: Any) -> None:
    with CommandCounter(redis_url) as ran:
        async with warm.session_lock("s", mode=mode) as session:
            assert session["n"] == 5
    assert ran.script_calls == 1
    assert ran["hset"] == ran["hincrby"] == ran["pexpire"] == 0


async def test_an_increment_is_one_call(warm: SessionGuard, redis_url: str) -> None:
    with CommandCounter(redis_url) as ran:
        await warm.incr("s", "n")
    assert ran.script_calls == 1
    async with warm.session_lock("s") as session:
        with CommandCounter(redis_url) as ran:
            await session.incr("n")
        assert ran.script_calls == 1


async def test_immediate_saves_of_one_tick_travel_together(warm: SessionGuard, redis_url: str) -> None:
    with CommandCounter(redis_url) as ran:
        async with warm.session_lock("s", session=SessionPolicy(save="immediate")) as session:
            for n in range(20):
                session[f"key {n}"] = n
    assert ran.script_calls == 3, "acquire, one save, release"


async def test_the_watch_engine_sends_no_script(node: MakeGuard, redis_url: str) -> None:
    guard = node(commit_by="watch", session=MERGING)
    await guard.create({"n": 5}, sid="s")
    with CommandCounter(redis_url) as ran:
        async with guard.session_lock("s", mode="optimistic") as session:
            session["n"] += 1
    assert ran.script_calls == 0
    assert (ran["watch"], ran["multi"], ran["exec"]) == (1, 1, 1)
