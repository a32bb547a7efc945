"""A limited wait ends when it says, whatever it waits for: the lock, a reply, a connection, a subscription."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tenacity import stop_after_attempt, stop_after_delay, stop_all, stop_any, wait_fixed

import sessionlock.blocking
from sessionlock import (
    LeasePolicy,
    QuorumNotReached,
    RedisUnavailable,
    SessionGuard,
    WaitPolicy,
    WaitTimedOut,
    session_locked,
)
from sessionlock.errors import SessionLockError
from sessionlock.lock.patience import GRACE
from sessionlock.protocol.keys import keys_for
from tests.harness.deployments import MakeGuard
from tests.harness.faulty import FaultyServer
from tests.harness.polling import eventually
from tests.harness.proxy import FaultyProxy
from tests.harness.quorums import Place
from tests.harness.stored import Look, Stored

pytestmark = pytest.mark.anyio

WAIT = 0.5
AT_MOST = WAIT + GRACE + 1.0  # what a busy machine may add; without the protection it takes 4.5 s and more
LIMITS: list[Any] = [
    WAIT,
    WaitPolicy(stop=stop_after_delay(WAIT), wait=wait_fixed(60)),
    WaitPolicy(stop=stop_any(stop_after_delay(WAIT), stop_after_attempt(1000))),
    WaitPolicy(stop=stop_all(stop_after_delay(WAIT), stop_after_delay(WAIT / 2))),
]


@contextmanager
def ends_in_time(kind: type[SessionLockError]) -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        yield
    took = time.monotonic() - began
    assert type(caught.value) is kind
    assert took < AT_MOST, caught.value


async def enter(guard: SessionGuard, wait: Any = WAIT) -> None:
    async with guard.session_lock("s", wait=wait):
        pass


@pytest.fixture
def server_of_ours(own_server: Callable[..., FaultyServer]) -> Iterator[FaultyServer]:
    server = own_server(tcp=True)
    yield server
    server.resume()


@pytest.mark.parametrize("wait", LIMITS)
async def test_redis_hangs(server_of_ours: FaultyServer, node: MakeGuard, wait: Any) -> None:
    """It has not answered at all. When it goes on and grants the lock, that is given back at once: a lease is 10 s."""
    guard = node(server_of_ours.url)
    await enter(guard)
    server_of_ours.pause()
    with ends_in_time(RedisUnavailable):
        await enter(guard, wait)
    server_of_ours.resume()
    with Stored(server_of_ours.url, "s") as session:
        await session.until(lambda s: s.free, within=LeasePolicy().ttl / 2)


@pytest.mark.parametrize("connected", [True, False])
async def test_redis_hangs_and_nobody_waits(server_of_ours: FaultyServer, node: MakeGuard, connected: bool) -> None:
    """Who does not queue gives Redis the time of one reply, not that of a repetition."""
    guard = node(server_of_ours.url, reply_within=WAIT)
    if connected:
        await enter(guard)
    server_of_ours.pause()
    with ends_in_time(RedisUnavailable):
        await enter(guard, 0)
    server_of_ours.resume()
    with Stored(server_of_ours.url, "s") as session:
        await session.until(lambda s: s.free, within=LeasePolicy().ttl / 2)


async def test_redis_hangs_before_there_is_a_connection(tcp_url: str, node: MakeGuard) -> None:
    async with FaultyProxy(tcp_url) as proxy:
        proxy.blackhole()
        with ends_in_time(RedisUnavailable):
            await enter(node(proxy.url))


async def test_redis_hangs_later_on(server_of_ours: FaultyServer, node: MakeGuard) -> None:
    """It has told who holds the lock: that is what the waiter says. Its place is given back when Redis goes on."""
    holder, waiter = node(server_of_ours.url), node(server_of_ours.url)
    with Stored(server_of_ours.url, "s") as session:
        async with holder.session_lock("s", lease=LeasePolicy(ttl=60, renew=False)):
            with ends_in_time(WaitTimedOut):
                waiting = asyncio.ensure_future(enter(waiter))
                await session.until(lambda s: len(s.waiting) == 1)
                server_of_ours.pause()
                await waiting
            server_of_ours.resume()
            await session.until(lambda s: not s.waiting)


async def test_subscribing_is_not_answered(proxy: FaultyProxy, node: MakeGuard) -> None:
    holder, waiter = node(), node(proxy.url)
    async with holder.session_lock("s"):
        await waiter.inspect("s")
        proxy.hold_requests(b"SUBSCRIBE")
        with ends_in_time(WaitTimedOut):
            await enter(waiter)
        assert proxy.held.is_set()


async def test_no_connection_to_subscribe_on(proxy: FaultyProxy, node: MakeGuard) -> None:
    """Nor does it keep a waiter from its turn: it looks by itself meanwhile."""
    holder, waiter = node(), node(proxy.url)
    async with holder.session_lock("s"):
        await waiter.inspect("s")
        proxy.hold_requests(b"HELLO", times=100)
        proxy.hold_requests(b"CLIENT", times=100)
        proxy.hold_requests(b"SUBSCRIBE", times=100)
        with ends_in_time(WaitTimedOut):
            await enter(waiter)
        waiting = asyncio.ensure_future(enter(waiter, 20))
        await asyncio.sleep(0)
    await asyncio.wait_for(waiting, 5)


async def test_giving_the_place_back_is_not_answered(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wait ends in time, and the place is given back behind it."""
    session, holder, waiter = stored("s"), node(), node(proxy.url, reply_within=5)
    async with holder.session_lock("s"):
        with ends_in_time(WaitTimedOut):
            waiting = asyncio.ensure_future(enter(waiter))
            await session.until(lambda s: len(s.waiting) == 1)
            proxy.delay(GRACE * 5, "replies")
            await waiting
        await session.until(lambda s: not s.waiting)


async def test_a_short_wait_is_no_shorter_than_a_round_trip(proxy: FaultyProxy, node: MakeGuard) -> None:
    """The lock is free: that is found out, though the reply comes after the end of the wait."""
    waiter = node(proxy.url)
    await waiter.inspect("s")
    proxy.delay(GRACE / 4, "replies")
    await enter(waiter, wait=0.001)


async def test_who_waits_without_a_limit_waits_for_redis_as_ever(server_of_ours: FaultyServer, node: MakeGuard) -> None:
    guard = node(server_of_ours.url, retry_for=1.5, reply_within=1.0)
    await enter(guard)
    server_of_ours.pause()
    began = time.monotonic()
    with pytest.raises(RedisUnavailable):
        await enter(guard, WaitPolicy(stop=stop_after_attempt(3)))
    assert time.monotonic() - began > 1.0


async def test_an_outage_is_found_out_by_short_waits(server_of_ours: FaultyServer, node: MakeGuard) -> None:
    """None of them waits long enough to know, but all together: then none waits any more."""
    guard = node(server_of_ours.url, retry_for=1.5, reply_within=1.0)
    await enter(guard)
    server_of_ours.pause()
    with pytest.raises(RedisUnavailable):
        await enter(guard, 0.1)
    executor: Any = guard.runtime().executor
    await eventually(lambda: any(trouble.is_open for trouble in executor.circuit.troubles.values()), "it is found out")
    with pytest.raises(RedisUnavailable) as caught:
        await enter(guard, 5)
    assert caught.value.unsent


@pytest.mark.parametrize("how", ["a block", "a view"])
def test_threads_and_views(server_of_ours: FaultyServer, how: str) -> None:
    with sessionlock.blocking.SessionGuard.from_url(server_of_ours.url) as guard:

        @session_locked(lambda: "s", guard=guard, wait=WAIT, missing="create")
        def view(session: Any) -> None:
            pass

        def block() -> None:
            with guard.session_lock("s", wait=WAIT):
                pass

        run = block if how == "a block" else view
        run()
        server_of_ours.pause()
        with ends_in_time(RedisUnavailable):
            run()
        server_of_ours.resume()


async def test_several_sessions_are_waited_for_together(node: MakeGuard, stored: Look) -> None:
    """The first is given back late, and no time is left for the second."""
    holder, waiter = node(), node()
    first, second = sorted((stored("a"), stored("b")), key=lambda session: session.keys.digest)

    async def enter_both() -> None:
        async with waiter.session_lock("a", "b", wait=2):
            pass

    async with holder.session_lock("a" if second.keys == keys_for("sl", "a") else "b"):
        async with holder.session_lock("a" if first.keys == keys_for("sl", "a") else "b"):
            waiting = asyncio.ensure_future(enter_both())
            began = time.monotonic()
            await first.until(lambda s: len(s.waiting) == 1)
            await asyncio.sleep(1.5)  # how long it is held
        with pytest.raises(WaitTimedOut):
            await waiting
        assert time.monotonic() - began < 2 + GRACE + 0.8, "1.5 s and 2 s"
    await first.until(lambda s: s.free)


# --- a quorum


async def test_the_store_of_a_quorum_hangs(three: Place) -> None:
    guard = three.guard()
    await enter(guard)
    three.store.pause()
    try:
        with ends_in_time(RedisUnavailable):
            await enter(guard)
    finally:
        three.store.resume()
    await eventually(three.is_free, "what was granted late is given back")


async def test_the_masters_of_a_quorum_hang(three: Place) -> None:
    """However long one of them may take to answer."""
    guard = three.guard(three.quorum(reply_within=5))
    await enter(guard)
    for master in three.masters:
        master.pause()
    try:
        with ends_in_time(QuorumNotReached):
            await enter(guard)
    finally:
        for master in three.masters:
            master.resume()
    await eventually(three.is_free, "what was granted late is given back")
