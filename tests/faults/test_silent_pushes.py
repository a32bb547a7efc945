"""A connection for pushes that is dead without either side having been told: a firewall, a NAT, a proxy forgot it.

It is found out within two seconds while somebody waits, is replaced, and costs no more than that, once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import anyio
import pytest
from redis.asyncio import RedisCluster
from tenacity import stop_after_delay, wait_fixed

from sessionlock import LeasePolicy, SessionGuard, WaitPolicy
from sessionlock.embedded import find_server
from sessionlock.protocol.keys import keys_for
from sessionlock.transport.pushes import Rounds
from tests.harness.cluster import Cluster
from tests.harness.deployments import SID, MakeGuard, lock_of
from tests.harness.polling import eventually
from tests.harness.proxy import Direction, FaultyProxy
from tests.harness.stored import Look

pytestmark = pytest.mark.anyio

FOUND_OUT = 2.0  # seconds, as is promised
SCHEDULING = 1.0  # what a busy machine may add; without the protection it takes half a minute
PATIENT = WaitPolicy(stop=stop_after_delay(25), wait=wait_fixed(60))  # it does not look by itself
LONG = LeasePolicy(ttl=30, claim=30, renew=False)


async def take(guard: SessionGuard, **options: Any) -> float:
    """Add one; when it was its turn."""
    async with guard.session_lock("s", **{"lease": LONG, "wait": PATIENT, **options}) as session:
        began = time.monotonic()
        session["n"] = session.get("n", 0) + 1
    return began


async def handed_over(holder: SessionGuard, waiter: SessionGuard, session: Any) -> float:
    """Seconds from the holder's release to the waiter's turn."""
    async with holder.session_lock("s", lease=LONG):
        task = asyncio.ensure_future(take(waiter))
        await session.until(lambda s: len(s.waiting) == 1)
    released = time.monotonic()
    return await task - released


@pytest.mark.parametrize("dropped", [False, True], ids=["the server keeps it", "the server has dropped it"])
@pytest.mark.parametrize("direction", ["both", "requests", "replies"])
async def test_it_died_while_nobody_waited(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, direction: Direction, dropped: bool
) -> None:
    session, holder, waiter = stored("s"), node(), node(proxy.url)
    await handed_over(holder, waiter, session)
    assert proxy.forget_listeners(direction) == 1
    if dropped:
        assert session.client.client_kill_filter(_type="pubsub") == 1
    assert await handed_over(holder, waiter, session) < FOUND_OUT + SCHEDULING
    pushed = proxy.pushes_seen
    await handed_over(holder, waiter, session)
    assert proxy.pushes_seen > pushed, "there is a new one, and it works"


@pytest.mark.parametrize("dropped", [False, True])
async def test_it_dies_while_somebody_waits(proxy: FaultyProxy, node: MakeGuard, stored: Look, dropped: bool) -> None:
    session, holder, waiter = stored("s"), node(), node(proxy.url)
    async with holder.session_lock("s", lease=LONG):
        task = asyncio.ensure_future(take(waiter))
        await session.until(lambda s: len(s.waiting) == 1 and len(s.client.client_list(_type="pubsub")) == 1)
        await proxy.until(lambda p: p.forget_listeners() == 1)
        if dropped:
            session.client.client_kill_filter(_type="pubsub")
    released = time.monotonic()
    assert await task - released < FOUND_OUT + SCHEDULING


async def test_everybody_behind_it_has_a_turn(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """The server has dropped it, so their places are given to others, who come again and again: eight of eight wait
    less than five seconds all the same."""
    session, rival, waiter = stored("s"), node(), node(proxy.url)
    await handed_over(rival, waiter, session)
    proxy.forget_listeners()
    session.client.client_kill_filter(_type="pubsub")
    done = asyncio.Event()

    async def come_again() -> None:
        while not done.is_set():
            async with rival.session_lock("s", wait=30):
                await asyncio.sleep(0.01)

    rivals = [asyncio.ensure_future(come_again()) for _ in range(4)]
    await session.until(lambda s: len(s.waiting) >= 2)
    await asyncio.gather(
        *(take(waiter, wait=WaitPolicy(stop=stop_after_delay(5), wait=wait_fixed(60))) for _ in range(8))
    )
    done.set()
    await asyncio.gather(*rivals)
    assert session.data == {"n": 9}


async def test_a_grant_that_was_not_pushed_casts_doubt_on_it(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing else would show it: the waiter finds by its own look that it has been the holder for long."""
    monkeypatch.setattr(Rounds, "begin", lambda self: None)
    session, holder, waiter = stored("s"), node(), node(proxy.url)
    await handed_over(holder, waiter, session)
    proxy.forget_listeners()
    async with holder.session_lock("s", lease=LONG):
        task = asyncio.ensure_future(take(waiter, wait=WaitPolicy(stop=stop_after_delay(20), wait=wait_fixed(0.5))))
        await session.until(lambda s: len(s.waiting) == 1)
    await task
    pushes = waiter.runtime().wakeup.pushes
    await eventually(lambda: not pushes.hears(keys_for("sl", "s")), "it is given up")
    pushed = proxy.pushes_seen
    await handed_over(holder, waiter, session)
    assert proxy.pushes_seen > pushed


async def test_nobody_is_asked_while_nobody_waits(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    session, holder, waiter = stored("s"), node(), node(proxy.url)
    await handed_over(holder, waiter, session)
    asked = proxy.requests_seen
    with anyio.move_on_after(2):
        await proxy.until(lambda p: p.requests_seen > asked)
        raise AssertionError("something was asked")
    assert waiter.runtime().wakeup._rounds._timer is None


# --- in a Cluster


@pytest.fixture
async def behind_doors(cluster: Cluster) -> AsyncIterator[tuple[SessionGuard, FaultyProxy]]:
    """A guard whose connections to the session's master go through a proxy."""
    if find_server().version < (7, 0):
        pytest.skip("sharded pub/sub came with 7.0")
    host, port = "127.0.0.1", cluster.master_of(keys_for("sl", SID).lock).announced
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(FaultyProxy(f"redis://{host}:{port}"))
        client: Any = RedisCluster.from_url(
            cluster.url.replace("redis+cluster", "redis").split(",")[0],
            address_remap=lambda address: (host, proxy.port) if address[1] == port else address,
        )
        stack.push_async_callback(client.aclose)
        guard = SessionGuard(client)
        stack.push_async_callback(guard.aclose)
        yield guard, proxy


@pytest.mark.server
@pytest.mark.parametrize("dropped", [False, True])
async def test_in_a_cluster(
    cluster: Cluster, behind_doors: tuple[SessionGuard, FaultyProxy], node: MakeGuard, dropped: bool
) -> None:
    """One connection per master hears for all sessions there, so it is there when the next one is waited for."""
    waiter, proxy = behind_doors
    holder = node(cluster.url)
    keys = keys_for("sl", SID)
    raw: Any = cluster.raw_for(keys.queue)

    async def turn() -> float:
        async with waiter.session_lock(SID, lease=LONG, wait=PATIENT):
            return time.monotonic()

    async def hand_over() -> float:
        async with holder.session_lock(SID, lease=LONG):
            task = asyncio.ensure_future(turn())
            await eventually(lambda: raw.zcard(keys.queue) == 1, "it waits")
        released = time.monotonic()
        return await task - released

    await hand_over()
    assert proxy.forget_listeners() == 1
    if dropped:
        raw.execute_command("CLIENT KILL TYPE pubsub")
    assert await hand_over() < FOUND_OUT + SCHEDULING
    assert await hand_over() < FOUND_OUT / 2


@pytest.mark.server
async def test_in_a_cluster_while_somebody_waits(
    cluster: Cluster, behind_doors: tuple[SessionGuard, FaultyProxy], node: MakeGuard
) -> None:
    waiter, proxy = behind_doors
    holder = node(cluster.url)
    raw: Any = cluster.raw_for(lock_of(SID))

    async def turn() -> float:
        async with waiter.session_lock(SID, lease=LONG, wait=PATIENT):
            return time.monotonic()

    async with holder.session_lock(SID, lease=LONG):
        task = asyncio.ensure_future(turn())
        await eventually(lambda: raw.zcard(keys_for("sl", SID).queue) == 1, "it waits")
        await proxy.until(lambda p: p.forget_listeners() == 1)
    released = time.monotonic()
    assert await task - released < FOUND_OUT + SCHEDULING
