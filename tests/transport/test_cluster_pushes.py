"""Sharded pub/sub of a Cluster from Redis 7.0 on: a session's channel is heard as long as somebody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
import redis.asyncio

from sessionlock import LeasePolicy, SessionGuard
from sessionlock.embedded import find_server
from sessionlock.protocol.calls import Acquire
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.replies import Queued
from sessionlock.transport import cluster_pushes
from sessionlock.transport.cluster import Address, ClusterRoute, slot_of
from sessionlock.transport.cluster_pushes import ShardChannels
from sessionlock.transport.pushes import Rounds
from tests.harness.cluster import Cluster, Node
from tests.harness.deployments import SID, MakeGuard, fence_of, lock_of
from tests.harness.polling import eventually

pytestmark = pytest.mark.anyio
KEYS = keys_for("sl", SID)


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

    from sessionlock import WaitPolicy

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


# --- where it is subscribed


class Hearing:
    """The subscriptions of a process, and the map of slots that leads them."""

    def __init__(self, cluster: Cluster, client: Any) -> None:
        self.gaps = 0
        self.route = ClusterRoute(client, reply_within=10, on_break=lambda: None)
        self.channels = ShardChannels(self.route, "sl", reply_within=10, on_message=lambda _: None, on_gap=self._gap)
        self._cluster = cluster

    def _gap(self) -> None:
        self.gaps += 1

    async def listen(self) -> bool:
        return await self.channels.listen(KEYS, "t", 10)

    async def led_to(self, node: Node) -> None:
        """By a map that is out of date."""
        await self.route.owner(KEYS)
        self.route.map.redirected(["MOVED", str(slot_of(KEYS)), f"127.0.0.1:{node.announced}"], Address("", 0))

    def at(self, node: Node) -> int:
        raw: Any = node.raw
        told = raw.execute_command("PUBSUB", "SHARDNUMSUB", self.channels.channel(KEYS))
        return int(told[1])


@pytest.fixture
async def hearing(cluster: Cluster) -> AsyncIterator[Hearing]:
    host, port = cluster.startup_nodes[0]
    client: Any = redis.asyncio.RedisCluster(host=host, port=port)
    hearing = Hearing(cluster, client)
    yield hearing
    await hearing.channels.aclose()
    await hearing.route.aclose()
    await client.aclose()


async def test_a_replica_is_not_subscribed_to(cluster: Cluster, hearing: Hearing) -> None:
    """It would accept that, and its master would count nobody. The map is asked for anew."""
    master = cluster.master_of(KEYS.lock)
    replica = cluster.replica_of(master)
    await hearing.led_to(replica)
    assert not await hearing.listen()
    assert (hearing.gaps, hearing.at(replica)) == (0, 0)
    assert await hearing.listen()
    assert (hearing.at(master), hearing.at(replica)) == (1, 0)


async def test_it_moves_to_where_the_slot_is_served(
    cluster: Cluster, hearing: Hearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover of which the node that is listened to has told nothing."""
    master = cluster.master_of(KEYS.lock)
    replica = cluster.replica_of(master)

    async def was_a_master(role: Any) -> None:
        await role

    with monkeypatch.context() as patch:
        patch.setattr(cluster_pushes, "at_a_master", was_a_master)
        await hearing.led_to(replica)
        assert await hearing.listen()
    assert (hearing.at(master), hearing.at(replica)) == (0, 1)
    hearing.channels.check()
    assert hearing.channels.hears(KEYS)
    hearing.route.mistrust()
    await hearing.route.owner(KEYS)
    gaps = hearing.gaps
    hearing.channels.check()
    assert (hearing.channels.hears(KEYS), hearing.gaps) == (False, gaps + 1)
    assert await hearing.listen()
    await eventually(lambda: (hearing.at(master), hearing.at(replica)) == (1, 0), "it has moved")


async def test_masters_and_replicas_change_places_while_somebody_waits(cluster: Cluster, node: MakeGuard) -> None:
    """Those who wait come one at a time, and long before the lease's end."""
    holder, waiters = node(cluster.url), [node(cluster.url, wait=40) for _ in range(3)]
    inside: list[SessionGuard] = []
    fences: list[int] = []

    async def turn(guard: SessionGuard) -> None:
        async with guard.session_lock(SID) as session:
            assert inside == []
            inside.append(guard)
            fences.append(fence_of(session))
            await asyncio.sleep(0.05)  # a body that another one could overlap
            inside.remove(guard)

    for _ in range(2):
        async with holder.session_lock(SID, lease=LeasePolicy(ttl=60)):
            turns = [asyncio.ensure_future(turn(guard)) for guard in waiters for _ in range(2)]
            await eventually(lambda: cluster.raw_for(KEYS.queue).zcard(KEYS.queue) == 6, "all wait")
            await cluster.failover(cluster.replica_of(cluster.master_of(lock_of(SID))))
        with anyio.fail_after(20):
            await asyncio.gather(*turns)
    assert fences == sorted(set(fences))
    assert len(fences) == 12


async def test_who_is_passed_over_hears_nothing(
    cluster: Cluster, node: MakeGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first in line listens at a replica, where nobody counts it but what the master publishes arrives. The second
    is granted the lock; only when it has ended is it the first one's turn."""
    holder, first, second = (node(cluster.url, wait=20) for _ in range(3))
    replica = cluster.replica_of(cluster.master_of(KEYS.lock))
    await first.inspect(SID)
    route: Any = first.runtime().executor.route  # type: ignore[attr-defined]

    async def out_of_date(keys: Any) -> Address:
        return Address("127.0.0.1", replica.announced)

    async def was_a_master(role: Any) -> None:
        await role

    monkeypatch.setattr(route, "owner", out_of_date)
    monkeypatch.setattr(cluster_pushes, "at_a_master", was_a_master)
    monkeypatch.setattr(Rounds, "begin", lambda self: None)
    inside: list[str] = []
    order: list[str] = []

    async def turn(guard: SessionGuard, name: str) -> None:
        async with guard.lock(SID):
            assert inside == []
            inside.append(name)
            order.append(name)
            await asyncio.sleep(0.3)  # a body that another one could overlap
            inside.remove(name)

    async with holder.lock(SID):
        turns = []
        for number, guard in enumerate((first, second)):
            turns.append(asyncio.ensure_future(turn(guard, "first" if guard is first else "second")))
            await eventually(lambda: cluster.raw_for(KEYS.queue).zcard(KEYS.queue) == len(turns), f"{number + 1} wait")
        pushes = first.runtime().wakeup.pushes
        await eventually(lambda: pushes.hears(KEYS), "it listens")
    await asyncio.gather(*turns)
    assert order == ["second", "first"]


async def test_a_dead_waiter_costs_no_claim(cluster: Cluster, node: MakeGuard) -> None:
    """Nobody listens to its channel at the slot's master: the lock goes to who waits behind it, at once."""
    holder, waiter = node(cluster.url), node(cluster.url, wait=60)
    lease = LeasePolicy(ttl=60, claim=60)
    runtime: Any = holder.runtime()

    async def turn() -> None:
        async with waiter.session_lock(SID):
            pass

    async with holder.session_lock(SID, lease=lease):
        dead = runtime.numbers.acquisitions.begin_token(KEYS.digest)
        call = Acquire(KEYS, dead, lease, None, channel=f"sl:{{{KEYS.digest}}}:push:dead")
        assert isinstance(await runtime.executor.run(call), Queued)
        waiting = asyncio.ensure_future(turn())
        await eventually(lambda: cluster.raw_for(KEYS.queue).zcard(KEYS.queue) == 2, "both wait")
        await eventually(lambda: waiter.runtime().wakeup.pushes.hears(KEYS), "it listens")
    with anyio.fail_after(20):
        await waiting
