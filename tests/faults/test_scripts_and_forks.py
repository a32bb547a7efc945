"""The server forgets the scripts; the process forks."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import subprocess
import sys
from typing import Any

import anyio.to_thread
import pytest

import sessionlock
from sessionlock import LeasePolicy, SessionDestroyed, SessionGuard, WaitPolicy
from sessionlock.transport.one_server import ServerRoute
from tests.harness import forking, import_path
from tests.harness.commands import connect
from tests.harness.deployments import MakeGuard
from tests.harness.scripts import forget_scripts
from tests.harness.stored import Look, Stored

pytestmark = pytest.mark.anyio


async def add_one(guard: SessionGuard, sid: str) -> None:
    async with guard.session_lock(sid, wait=WaitPolicy.seconds(15, max_waiters=1000)) as session:
        session["n"] = session.get("n", 0) + 1


# --- forgotten


async def test_scripts_are_forgotten_before_every_call(redis_url: str, node: MakeGuard) -> None:
    """Attack 20: SCRIPT and FUNCTION FLUSH before each step of all that a guard does; each works at the first try."""
    guard, other = node(), node()
    with connect(redis_url) as redis:
        forget_scripts(redis)
        async with guard.session_lock("s", lease=LeasePolicy(ttl=0.15)) as session:
            assert session.lease is not None
            session["a"] = 1
            forget_scripts(redis)
            await session.save()
            trusted_until = session.lease.trusted_until
            forget_scripts(redis)
            while session.lease.trusted_until == trusted_until:
                await asyncio.sleep(0.003)
            waiting = asyncio.ensure_future(add_one(other, "s"))
            while not (await guard.inspect("s")).waiters:
                forget_scripts(redis)
            cancelled = asyncio.ensure_future(add_one(other, "s"))
            while len((await guard.inspect("s")).waiters) < 2:
                forget_scripts(redis)
            forget_scripts(redis)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            session["b"] = 2
            forget_scripts(redis)
        forget_scripts(redis)
        await waiting
        forget_scripts(redis)
        assert dict(await guard.read("s")) == {"a": 1, "b": 2, "n": 1}
        forget_scripts(redis)
        await guard.transaction("s", lambda session: session.update(n=2))
        forget_scripts(redis)
        assert await guard.incr("s", "n") == 3
        forget_scripts(redis)
        created = await guard.create({"c": 3})
        forget_scripts(redis)
        assert await guard.destroy(created.sid)
        forget_scripts(redis)
        with pytest.raises(SessionDestroyed):
            await add_one(guard, created.sid)
        async with guard.session_lock("s") as session:
            assert session.lease is not None
            forget_scripts(redis)
            assert await guard.force_release("s", session.lease.token)
            forget_scripts(redis)
            with pytest.raises(sessionlock.LeaseLost):
                await session.release()


async def test_scripts_are_forgotten_amid_a_pipeline(node: MakeGuard, stored: Look) -> None:
    """Attack 20: 200 calls of one tick travel together, and the scripts are forgotten twice amid them: each call is
    done once, for a session of its own or for one that all want."""
    guard, shared = node(), stored("shared")
    await add_one(guard, "warm")
    route = guard.runtime().executor.route  # type: ignore[attr-defined]
    assert isinstance(route, ServerRoute)
    wire = await route.link.wire()

    async def forget() -> None:
        functions = wire.call(("FUNCTION", "FLUSH"))  # there are none before 7.0
        assert await wire.call(("SCRIPT", "FLUSH")) == b"OK"
        await functions

    for round_ in (1, 2):
        work: list[Any] = []
        for number in range(100):
            work += [add_one(guard, f"own {number}"), add_one(guard, "shared")]
            if number in (33, 66):
                work.append(forget())
        await asyncio.gather(*work)
        assert shared.data == {"n": 100 * round_}
        for number in range(100):
            assert stored(f"own {number}").data == {"n": round_}


async def test_scripts_are_forgotten_all_the_time(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 20: somebody forgets them again and again while two nodes contend."""
    nodes, flushes = (node(), node()), 0
    with connect(redis_url) as redis:
        work = asyncio.gather(*(add_one(nodes[number % 2], "s") for number in range(100)))
        while not work.done():
            forget_scripts(redis)
            flushes += 1
            await asyncio.sleep(0)
        await work
    assert flushes > 10
    assert stored("s").data == {"n": 100}
    assert stored("s").free


async def test_scripts_are_forgotten_behind_a_client_of_another_kind() -> None:
    """Attack 20: the same where calls go through the client's own commands (here fakeredis)."""
    with pytest.warns(sessionlock.MemoryStoreWarning):
        guard = SessionGuard.from_url("memory://forgetful")
    async with guard:
        for _ in range(3):
            await add_one(guard, "s")
            await guard._client.script_flush()
        assert (await guard.read("s"))["n"] == 3


# --- fork


def program(scenario: str, url: str, *options: str) -> dict[str, Any]:
    """How to run a scenario of ``tests.harness.forking``, for ``subprocess``."""
    return {
        "args": [sys.executable, forking.__file__, scenario, url, *options],
        "env": {**os.environ, "PYTHONPATH": import_path()},
        "text": True,
    }


async def forked(scenario: str, url: str, *options: str) -> dict[str, Any]:
    """What parent and child said."""
    run = functools.partial(subprocess.run, capture_output=True, timeout=15, **program(scenario, url, *options))
    done = await anyio.to_thread.run_sync(run)
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    for who in ("parent", "child"):
        error = answers[who].get("error")
        assert error is None, f"{who}: {error}"
    assert answers["child"]["status"] == 0
    return answers


def both_counted(session: Stored) -> bool:
    rounds = forking.ROUNDS
    return session.data == {"n": 2 * rounds, "parent": rounds, "child": rounds}


@pytest.mark.parametrize("scenario", ["between turns", "between turns, the child ends with all finalizers"])
async def test_a_fork_after_the_guard_was_used(redis_url: str, stored: Look, scenario: str) -> None:
    """Attack 21: the guard was used, then the process forks; both go on with it, each gets the replies to its own
    calls, and the child's end does no harm to the parent's connections."""
    answers = await forked(scenario, redis_url)
    assert both_counted(stored("shared")), stored("shared").data
    assert answers["parent"]["unlocked"] == answers["child"]["unlocked"] == forking.ROUNDS


async def test_a_fork_while_the_loop_runs(redis_url: str, stored: Look) -> None:
    """Attack 21: the process forks while it holds a lease that must be renewed and has a waiter: both stay the
    parent's, the pushed grant reaches it, and the child has a life of its own."""
    answers = await forked("while the loop runs", redis_url)
    assert both_counted(stored("shared")), stored("shared").data
    assert answers["queued"] == {"read": {"parent": True}}
    assert stored("held").free


INSIDE = [
    ("session", "exits", "SystemExit: "),
    ("session", "fails", "ValueError: "),
    ("session", "leaves it", "LeaseLost: this process was forked"),
    ("lock", "fails", "ValueError: "),
    ("lock", "leaves it", "LockNotHeld: "),
]


@pytest.mark.parametrize(("kind", "end", "raised"), INSIDE)
async def test_a_fork_inside_a_block(redis_url: str, stored: Look, kind: str, end: str, raised: str) -> None:
    """Attack 21: the child leaves the block by its own exception, and holds nothing; the parent's lock is as it was."""
    answers = await forked(f"inside a block of a {kind}, the child {end}", redis_url)
    assert answers["child"]["raised"].startswith(raised)
    if kind == "session":
        assert stored("held").data == {"parent": True}
        assert stored("held").free


@pytest.mark.slow
@pytest.mark.parametrize("option", ["watch", "users"])
async def test_a_fork_and_the_clients_own_connections(redis_url: str, stored: Look, option: str) -> None:
    """Attack 21: the same for what the guard does without scripts, through the client that it made."""
    answers = await forked("between turns", redis_url, option)
    assert both_counted(stored("shared")), stored("shared").data
    assert answers["parent"]["unlocked"] == answers["child"]["unlocked"] == forking.ROUNDS


async def test_a_parent_that_dies_before_its_child(redis_url: str, stored: Look) -> None:
    """Attack 21: a forked child does not keep the connections of its dead parent open: Redis notices at once that
    nobody listens there any more, so no lock is handed to a dead process."""
    session = stored("s")
    own, channels = len(session.client.client_list()), session.client.pubsub_channels("sl:push:*")
    with subprocess.Popen(  # noqa: ASYNC220  (it returns at once)
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, **program("the parent dies first", redis_url)
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdin is not None
        child = json.loads(await anyio.to_thread.run_sync(parent.stdout.readline))["child"]
        await session.until(lambda s: len(s.client.client_list()) == own, within=2)
        assert set(session.client.pubsub_channels("sl:push:*")) <= set(channels)
        os.kill(child, 0)
        parent.stdin.close()
