"""A guard that is made for a request and dropped, without being closed, leaves no connection behind."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
import redis.asyncio

from sessionlock import SessionGuard, WaitTimedOut
from sessionlock.blocking import SessionGuard as BlockingGuard
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer
from tests.harness.polling import eventually

pytestmark = pytest.mark.anyio

OwnServer = Callable[..., FaultyServer]
GUARDS = 200


@pytest.fixture
def connections(own_server: OwnServer) -> Iterator[tuple[str, Callable[[], int]]]:
    """A server's url, and how many connections it has beside the one that asks."""
    url = own_server().unix_url
    with connect(url) as client:
        yield url, lambda: len(client.client_list()) - 1


async def by_lock(guard: SessionGuard) -> None:
    async with guard.session_lock("s") as session:
        session["n"] = session.get("n", 0) + 1


async def by_waiting(guard: SessionGuard) -> None:
    """With a connection for pushes, too."""
    async with guard.lock("l"):
        with suppress(WaitTimedOut):
            async with SessionGuard(guard.runtime().topology.client).lock("l", wait=0.001):
                pass


async def without_lock(guard: SessionGuard) -> None:
    async with guard.session_lock("s", mode="optimistic") as session:
        session["n"] = session.get("n", 0) + 1
    await guard.read("s")


async def by_an_error(guard: SessionGuard) -> None:
    with suppress(ZeroDivisionError):
        async with guard.session_lock("s"):
            raise ZeroDivisionError


@pytest.mark.parametrize("request_", [by_lock, by_waiting, without_lock, by_an_error])
async def test_a_guard_for_each_request(
    connections: tuple[str, Callable[[], int]], request_: Callable[[SessionGuard], Any]
) -> None:
    url, count = connections
    client = redis.asyncio.Redis.from_url(url)
    for number in range(GUARDS):
        await request_(SessionGuard(client) if number % 2 else SessionGuard.from_url(url))
    gc.collect()
    await eventually(lambda: count() == 0, "all connections are closed")


async def test_it_does_not_take_the_garbage_collector(connections: tuple[str, Callable[[], int]]) -> None:
    url, count = connections
    gc.disable()
    try:
        for _ in range(5):
            await by_lock(SessionGuard.from_url(url))
        await eventually(lambda: count() == 0, "all connections are closed")
    finally:
        gc.enable()


async def test_a_session_that_is_kept_keeps_no_connection(connections: tuple[str, Callable[[], int]]) -> None:
    """It refers to its block, and is still to be read when that is over."""
    url, count = connections
    kept = []
    gc.disable()
    try:
        for _ in range(5):
            async with SessionGuard.from_url(url).session_lock("s") as session:
                session["n"] = 1
            kept.append(session)
        await eventually(lambda: count() == 0, "all connections are closed")
        assert [one["n"] for one in kept] == [1] * 5
    finally:
        gc.enable()


def test_a_blocking_guard_for_each_request(connections: tuple[str, Callable[[], int]]) -> None:
    url, count = connections

    def request(guard: BlockingGuard) -> None:
        with guard.session_lock("s") as session:
            session["n"] = session.get("n", 0) + 1

    for number in range(GUARDS):
        request(BlockingGuard(SessionGuard.from_url(url)) if number % 2 else BlockingGuard.from_url(url))
    gc.collect()

    async def closed() -> None:
        await eventually(lambda: count() == 0, "all connections are closed")

    asyncio.run(closed())


async def test_a_block_keeps_its_guard(connections: tuple[str, Callable[[], int]]) -> None:
    """Dropped while its lock is held: the lock is held on, saved and given back."""
    url, count = connections
    async with SessionGuard.from_url(url).session_lock("s") as session:
        gc.collect()
        await asyncio.sleep(0.05)  # a guard that is gone would be closed meanwhile
        session["n"] = 1
        await session.save()
        assert count() == 1
    async with SessionGuard.from_url(url) as other:
        assert (await other.read("s"))["n"] == 1
    del other, session
    gc.collect()
    await eventually(lambda: count() == 0, "all connections are closed")


async def test_a_child_does_not_close_what_is_its_parents(connections: tuple[str, Callable[[], int]]) -> None:
    url, count = connections
    guard = SessionGuard.from_url(url)
    await by_lock(guard)
    runtime = guard.runtime()
    child = os.fork()
    if child == 0:
        del guard
        gc.collect()
        asked = len(getattr(runtime.loop, "_ready", ()))  # of the parent's loop; uvloop does not show it
        os._exit(asked)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # noqa: ASYNC222
    await by_lock(guard)
    assert count() == 1
    await guard.aclose()


def test_without_an_event_loop_of_asyncio() -> None:
    """As under trio, or where a coroutine is driven by hand: told what is needed, and nothing else goes wrong."""
    guard = SessionGuard.from_url("redis://localhost:1/0")
    entering = by_lock(guard)
    with pytest.raises(RuntimeError, match=r"needs one of asyncio .* trio .* sessionlock\.blocking"):
        entering.send(None)


def test_under_trio_in_a_thread(redis_url: str) -> None:
    """What that error advises."""
    trio = pytest.importorskip("trio", reason="trio is no part of what tests need")

    def in_a_thread() -> None:
        with BlockingGuard.from_url(redis_url) as guard, guard.session_lock("s") as session:
            session["n"] = 1

    async def main() -> None:
        with pytest.raises(RuntimeError, match="needs one of asyncio"):
            await by_lock(SessionGuard.from_url(redis_url))
        await trio.to_thread.run_sync(in_a_thread)

    trio.run(main)
