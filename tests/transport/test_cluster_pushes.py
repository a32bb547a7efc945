"""Sharded pub/sub of a Cluster from Redis 7.0 on: a session's channel is heard as long as somebody waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from sessionlock import SessionGuard
from sessionlock.embedded import find_server
from tests.harness.cluster import Cluster
from tests.harness.deployments import SID, MakeGuard, fence_of
from tests.harness.polling import eventually

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def sharded() -> None:
    if find_server().version < (7, 0):
        pytest.skip("this server knows no sharded pub/sub (7.0)")


def channels(cluster: Cluster) -> int:
    """How many are subscribed to, at all masters."""
    every: list[Any] = [master.raw for master in cluster.masters]
    return sum(len(raw.execute_command("PUBSUB", "SHARDCHANNELS")) for raw in every)


async def wait_in_vain(guard: SessionGuard) -> None:
    async with guard.session_lock(SID, wait=60):
        raise AssertionError("entered")


async def subscribing(guard: SessionGuard) -> None:
    """Its first waiter has asked for the channel, and has no answer yet."""
    pushes: Any = guard.runtime().wakeup.pushes
    with anyio.fail_after(10):
        while not any(shard.asked for shard in pushes._sharded._shards.values()):
            await asyncio.sleep(0)  # the answer comes faster than any pause ends


async def test_who_is_cancelled_while_it_subscribes(cluster: Cluster, node: MakeGuard) -> None:
    """Nothing stays subscribed, neither at the server nor in this process."""
    holder, guard = node(cluster.url), node(cluster.url)
    async with holder.session_lock(SID):
        for _ in range(5):
            waiting = asyncio.create_task(wait_in_vain(guard))
            await subscribing(guard)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await eventually(lambda: channels(cluster) == 0, "nothing is subscribed")
    pushes: Any = guard.runtime().wakeup.pushes
    assert (pushes._sharded._wanted, pushes._sharded._where) == ({}, {})


async def test_who_comes_while_another_is_cancelled(cluster: Cluster, node: MakeGuard) -> None:
    """It hears of its grant, whatever of the two subscriptions is under way: a look would come in a minute only."""
    from tenacity import stop_after_delay, wait_fixed

    from sessionlock import LeasePolicy, WaitPolicy

    patient = WaitPolicy(stop=stop_after_delay(120), wait=wait_fixed(60))
    holder, guard = node(cluster.url, lease=LeasePolicy(ttl=60)), node(cluster.url)

    async def get() -> int:
        async with guard.session_lock(SID, wait=patient) as session:
            return fence_of(session)

    for pause in range(4):
        async with holder.session_lock(SID) as session:
            first = asyncio.create_task(wait_in_vain(guard))
            await subscribing(guard)
            first.cancel()
            for _ in range(pause):
                await asyncio.sleep(0)
            second = asyncio.create_task(get())
            await eventually(lambda: channels(cluster) == 1, "the second one is subscribed")
            await asyncio.wait([first])
            ours = fence_of(session)
        with anyio.fail_after(20):
            assert await second > ours
        await eventually(lambda: channels(cluster) == 0, "nothing is subscribed")
