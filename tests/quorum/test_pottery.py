"""The lock by pottery's AIORedlock, with its traps; and everybody who uses that key excludes everybody else."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
import redis.asyncio

from sessionlock import QuorumNotReached, SessionGuard, WaitTimedOut
from tests.harness.choice import by_default
from tests.harness.quorums import KEYS, QUICK, SID, Place, count, nobody_gets_in, until

pytestmark = pytest.mark.anyio
pytest.importorskip("pottery")


def by_pottery(place: Place, **options: Any) -> SessionGuard:
    return place.guard(place.quorum(engine="pottery"), **options)


async def plain_lock(place: Place, stack: AsyncExitStack) -> Any:
    """As an application uses pottery by itself, with the session's key."""
    from sessionlock.quorum.pottery import _redlock

    clients = []
    for master in place.masters:
        client = redis.asyncio.Redis.from_url(master.tcp_url, socket_timeout=1, **by_default(master))
        stack.push_async_callback(client.aclose)
        clients.append(client)
    return _redlock("sl")(key=KEYS.lock.decode().removeprefix("sl:"), masters=clients, auto_release_time=30)


async def test_a_cycle(three: Place) -> None:
    """The same token at the masters and at the store; counters as the native engine's; nothing is left."""
    guard = by_pottery(three)
    assert await count(guard, 3) == 3
    async with guard.session_lock(SID) as session:
        assert session.lease is not None
        assert three.holders() == [session.lease.token] * 3
        assert three.stored.lock == session.lease.token
        assert all(three.at(number).fence > 0 for number in range(3))
        seen = await guard.inspect(SID)
        assert seen.holder is not None
        assert seen.holder.age is not None
    await until(three.is_free)
    assert three.stored.data == {"n": 3}


async def test_counting_by_both_engines(three: Place) -> None:
    """Native waiters and pottery's, on one session: nothing is lost."""
    guards = [by_pottery(three), three.guard(), by_pottery(three), three.guard()]
    done = await asyncio.gather(*(count(guard, 8, wait=15) for guard in guards for _ in range(2)))
    assert sum(done) == 64
    assert three.stored.data == {"n": 64}
    await until(three.is_free)


@pytest.mark.parametrize("engine", ["native", "pottery"])
async def test_plain_pottery_on_the_same_key(three: Place, engine: Any) -> None:
    """It excludes us, and is excluded by us."""
    guard = three.guard(three.quorum(engine=engine))
    async with AsyncExitStack() as stack:
        lock = await plain_lock(three, stack)
        assert await lock.acquire(blocking=False)
        with pytest.raises(WaitTimedOut) as caught:
            async with guard.session_lock(SID, wait=0.3):
                pass
        assert caught.value.holder == "another client"
        await lock.release()
        async with guard.session_lock(SID, wait=5):
            assert not await lock.acquire(blocking=False)
        await until(three.is_free)
        assert await lock.acquire(blocking=False)
        await lock.release()


@pytest.mark.slow
async def test_a_long_body(three: Place) -> None:
    """Renewed, and more often than pottery's three extensions."""
    guard, other = by_pottery(three, lease=QUICK), by_pottery(three, lease=QUICK)
    async with guard.session_lock(SID) as session:
        await nobody_gets_in(other, seconds=2.5)
        session["n"] = 1
    assert three.stored.data == {"n": 1}


@pytest.mark.slow
@pytest.mark.once
async def test_one_hangs(three: Place) -> None:
    """pottery would wait for it for ever; here once, for as long as one reply may take, then it is left out."""
    guard = by_pottery(three)
    await count(guard, 1)
    three.masters[1].pause()
    try:
        assert await count(guard, 3, wait=5) == 3
        began = time.monotonic()
        assert await count(guard, 1) == 1
        assert time.monotonic() - began < 1.5
    finally:
        three.masters[1].resume()
    await until(three.is_free)


async def test_two_dead(three: Place) -> None:
    guard = by_pottery(three)
    three.masters[0].kill()
    three.masters[1].kill()
    with pytest.raises(QuorumNotReached) as caught:
        async with guard.session_lock(SID, wait=0.5):
            pass
    assert sum("cannot be reached" in said for said in caught.value.answers.values()) == 2
    await until(lambda: three.is_free([2]))


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.0, 0.0005, 0.001, 0.002, 0.005, 0.02])
async def test_cancelled(three: Place, after: float) -> None:
    """Also in the middle of pottery's own calls."""
    guard = by_pottery(three)
    for _ in range(3):
        with anyio.move_on_after(after):
            async with guard.session_lock(SID):
                await asyncio.sleep(after)
        await until(three.is_free, within=3)


@pytest.mark.server
def test_json_stays_as_it_is() -> None:
    """Importing pottery replaces ``json.dumps`` for the whole process; using our engine does not."""
    program = (
        "import json; before = json.dumps\n"
        "from sessionlock.quorum.pottery import _redlock\n"
        "import sys; assert 'pottery' not in sys.modules\n"
        "assert _redlock('sl')._KEY_PREFIX == 'sl'\n"
        "assert 'pottery' in sys.modules and json.dumps is before"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert json.dumps({}) == "{}"
