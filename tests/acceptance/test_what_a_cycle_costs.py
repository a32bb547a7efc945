"""What a guarded cycle costs Redis and the event loop, counted by the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest

from sessionlock import LeasePolicy, SessionGuard, SessionNotFound, WaitTimedOut
from sessionlock.embedded import EmbeddedServer
from tests.harness import hot
from tests.harness.commands import CommandCounter, aged, connect
from tests.harness.scripts import COMMANDS
from tests.harness.stored import Stored

pytestmark = pytest.mark.anyio

PATIENCE = 60.0
CYCLE = ["script", "hgetall", "script"]  # the first two travel together


@pytest.fixture
async def guard(redis_url: str) -> AsyncIterator[SessionGuard]:
    """A guard that is connected, on a server that knows all scripts that will be used."""
    async with SessionGuard.from_url(redis_url) as guard:
        async with guard.session_lock("warm") as session:
            session["n"] = 1
            await session.save()
        async with guard.lock("warm"):
            pass
        await guard.read("warm")
        yield guard


class Seen:
    """The commands that clients sent, in lower case, "script" for what runs one; none that a script called."""

    def __init__(self) -> None:
        self.commands: list[str] = []


@contextmanager
def sent(url: str) -> Iterator[Seen]:
    """What arrives at the server during the block, complete after it."""
    seen = Seen()
    with connect(url) as client, connect(url) as teller:
        teller.ping()
        with client.monitor() as monitor:
            yield seen
            teller.echo("end of block")
            for command in monitor.listen():
                if command["command"] == "ECHO end of block":
                    return
                if command["client_type"] != "lua":
                    name = command["command"].split(" ")[0].lower()
                    seen.commands.append("script" if name in COMMANDS else name)


# --- without contention


async def test_a_guarded_cycle_is_two_script_calls_and_nothing_else(redis_url: str, guard: SessionGuard) -> None:
    with CommandCounter(redis_url) as ran, sent(redis_url) as seen:
        for i in range(10):
            async with guard.session_lock("s") as session:
                session["n"] = i
                session["list"] = [*session.get("list", []), i]
    assert seen.commands == CYCLE * 10
    assert ran.script_calls == 20
    assert ran["eval"] == ran["function|load"] == 0


async def test_a_clean_cycle_too(redis_url: str, guard: SessionGuard) -> None:
    await guard.create({"n": 1}, sid="s")
    with sent(redis_url) as seen:
        async with guard.session_lock("s") as session:
            assert session["n"] == 1
    assert seen.commands == CYCLE


async def test_a_cycle_whose_body_raised_too(redis_url: str, guard: SessionGuard) -> None:
    with sent(redis_url) as seen, pytest.raises(ZeroDivisionError):
        async with guard.session_lock("s") as session:
            session["n"] = 1
            raise ZeroDivisionError
    assert seen.commands == CYCLE


async def test_an_early_release_costs_nothing_more(redis_url: str, guard: SessionGuard) -> None:
    with sent(redis_url) as seen:
        async with guard.session_lock("s") as session:
            session["n"] = 1
            await session.release()
    assert seen.commands == CYCLE


async def test_each_save_is_one_call(redis_url: str, guard: SessionGuard) -> None:
    with sent(redis_url) as seen:
        async with guard.session_lock("s") as session:
            for i in range(3):
                session["n"] = i
                await session.save()
    assert seen.commands == ["script", "hgetall", *["script"] * 4]


async def test_a_touch_costs_nothing_more(redis_url: str, guard: SessionGuard) -> None:
    await guard.create({"n": 1}, sid="s")
    with Stored(redis_url, "s") as stored:
        aged(stored.client, stored.keys.session, 1000)
        with sent(redis_url) as seen:
            async with guard.session_lock("s"):
                pass
        assert seen.commands == CYCLE
        assert stored.client.pttl(stored.keys.session) > 1_000_000


async def test_only_the_lock_is_two_calls(redis_url: str, guard: SessionGuard) -> None:
    with sent(redis_url) as seen:
        async with guard.lock("name"):
            pass
    assert seen.commands == ["script"] * 2


async def test_reading_is_one_call(redis_url: str, guard: SessionGuard) -> None:
    await guard.create({"n": 1}, sid="s")
    with sent(redis_url) as seen:
        await guard.read("s")
        async with guard.session_lock("s", mode="read") as session:
            assert session["n"] == 1
        with pytest.raises(SessionNotFound):
            await guard.read("none")
    assert seen.commands == ["script"] * 3


async def test_trying_in_vain_is_one_call(redis_url: str, guard: SessionGuard) -> None:
    async with SessionGuard.from_url(redis_url) as other, other.session_lock("s"):
        with sent(redis_url) as seen, pytest.raises(WaitTimedOut):
            async with guard.session_lock("s", wait=0):
                pytest.fail("entered")
    assert seen.commands == ["script", "hgetall"]


async def test_no_task_is_started(redis_url: str, guard: SessionGuard) -> None:
    started: list[Any] = []
    loop = asyncio.get_running_loop()

    def note(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> asyncio.Task[Any]:
        started.append(work)
        return asyncio.Task(work, loop=loop, **more)

    before = asyncio.all_tasks()
    loop.set_task_factory(note)
    try:
        for _ in range(5):
            async with guard.session_lock("s") as session:
                session["n"] = 1
                assert asyncio.all_tasks() == before
            async with guard.lock("name"):
                assert asyncio.all_tasks() == before
            await guard.read("s")
    finally:
        loop.set_task_factory(None)
    assert started == []
    assert asyncio.all_tasks() == before


async def test_one_connection_is_enough(redis_url: str, guard: SessionGuard) -> None:
    """Also for many at once: there is none for pushes before somebody had to wait."""

    async def request(sid: str) -> None:
        async with guard.session_lock(sid) as session:
            session["n"] = 1
            await asyncio.sleep(0)

    with connect(redis_url) as client:
        before = len(client.client_list())
        await asyncio.gather(*(request(f"session {i}") for i in range(100)))
        assert len(client.client_list()) == before


@pytest.mark.slow
async def test_renewals_travel_together(redis_url: str, guard: SessionGuard) -> None:
    """Forty leases, held for two renewals: one call for all of them each time."""
    leave = asyncio.Event()

    async def hold(sid: str) -> None:
        async with guard.lock(sid, lease=LeasePolicy(ttl=1.5)):
            await leave.wait()

    tasks = [asyncio.create_task(hold(f"name {i}")) for i in range(40)]
    with Stored(redis_url, "name 39") as last:
        await last.until(lambda stored: stored.lock is not None)
        end = last.lease_end_us
        with sent(redis_url) as seen:
            await last.until(lambda stored: stored.lease_end_us > end + 700_000)
    leave.set()
    await asyncio.gather(*tasks)
    renewals = [command for command in seen.commands if command == "script"]
    assert 1 <= len(renewals) <= 20  # a handful, more on a busy machine; one by one it would be 80


# --- a hot session: 200 waiters, two processes


async def test_a_contended_cycle_is_at_most_three_calls(own_server: Any) -> None:
    server: EmbeddedServer = own_server()
    requests, cycles = 100, 5
    deadline = time.monotonic() + PATIENCE
    with CommandCounter(server.url) as ran, Stored(server.url, hot.SID) as stored:
        async with SessionGuard.from_url(server.url) as guard, guard.session_lock(hot.SID):
            processes = [hot.start(server.url, requests, cycles) for _ in range(2)]
            try:
                await stored.until(lambda stored: len(stored.waiting) == 2 * requests, PATIENCE)
                subscribers = stored.client.client_list(_type="pubsub")
                connections = stored.client.client_list()
                ran_until_queued = ran.script_calls
            except BaseException:
                _kill(processes)
                raise
        try:
            while any(process.poll() is None for process in processes):
                assert time.monotonic() < deadline
                await anyio.sleep(0.01)
        finally:
            _kill(processes)
        assert [process.returncode for process in processes] == [0, 0]
        done = 2 * requests * cycles
        assert stored.data == {"n": done}
        assert stored.free
        calls = ran.script_calls
    # The first requests of a process ask once before and once after it listens for pushes, and now and then again.
    assert ran_until_queued <= 3 * 2 * requests
    assert calls <= 3 * (done + 1)
    assert calls - ran_until_queued <= 2.2 * done  # handed over by push: a release, and the next acquire
    # However many wait: one connection for pushes per process, and one for calls.
    assert len(subscribers) == 2
    assert len(connections) <= 2 * 2 + 1 + 2  # and the guard's, the counter's, the onlooker's


def _kill(processes: list[Any]) -> None:
    for process in processes:
        process.kill()
        process.wait()
