"""A session in a Redis Cluster whose masters die and whose slots move: while held, while waited for, while saved."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from sessionlock import LeaseLost, LeasePolicy, SessionGuard
from sessionlock.embedded import find_server
from sessionlock.protocol.keys import keys_for
from tests.harness.cluster import Cluster, Node, slot_of
from tests.harness.commands import confirmed_by, keys_without_ttl
from tests.harness.deployments import (
    FOR_A_WHILE,
    SID,
    SIDS,
    MakeGuard,
    Tell,
    fence_of,
    held_and_waited_for,
    lock_of,
    only_the_second_saves,
)
from tests.harness.ordeal import Ordeal
from tests.harness.polling import eventually
from tests.harness.proof import Fault, longest_pause, stored

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(180), pytest.mark.server]


def another(cluster: Cluster, than: Node) -> Node:
    return next(master for master in cluster.masters if master is not than)


async def queued(cluster: Cluster, sid: str, count: int = 1) -> None:
    keys = keys_for("sl", sid)
    await eventually(lambda: cluster.raw_for(keys.queue).zcard(keys.queue) == count, f"{count} wait")


async def nothing_is_left(cluster: Cluster, sids: tuple[str, ...]) -> None:
    """Neither lock nor queue nor waiter, and no key that would stay for ever."""

    def free() -> bool:
        return not any(
            cluster.raw_for(keys.lock).exists(keys.lock, keys.queue, keys.waiters)
            for keys in (keys_for("sl", sid) for sid in sids)
        )

    await eventually(free, "nothing is held or waited for")
    for master in cluster.masters:
        assert keys_without_ttl(master.unix_url) == []


@pytest.mark.slow
async def test_without_sharded_pubsub(node: MakeGuard) -> None:
    """As before 7.0. A holder that never waited has not found that out yet when its lock is taken away."""
    known = find_server().version >= (7, 0)
    gone = {f"rename-command {command}": '""' for command in ("SPUBLISH", "SSUBSCRIBE")} if known else {}
    with Cluster(masters=1, replicas=0, config=gone) as cluster:
        holder, waiter = node(cluster.url), node(cluster.url, wait=20.0)
        with pytest.raises(LeaseLost):
            async with holder.session_lock(SID, lease=LeasePolicy(on_lost="flag")) as session:
                assert session.lease is not None
                assert await waiter.force_release(SID, session.lease.token)
        await holder.create({"n": 0}, sid=SID)

        async def add(guard: SessionGuard) -> None:
            async with guard.session_lock(SID) as session:
                session["n"] += 1

        began = time.monotonic()
        async with anyio.create_task_group() as tasks:
            for guard in (holder, waiter) * 5:
                tasks.start_soon(add, guard)
        assert time.monotonic() - began < LeasePolicy().ttl / 2, "a waiter found out by the end of the lease only"
        assert (await holder.read(SID))["n"] == 10
        await nothing_is_left(cluster, (SID,))


# --- slots move -------------------------------------------------------------------------------------------------------


async def test_the_slot_moves_while_it_is_held(cluster: Cluster, node: MakeGuard) -> None:
    guard = node(cluster.url)
    async with guard.session_lock(SID) as session:
        session["seen"] = 1
        await cluster.migrate_slot(slot_of(lock_of(SID)), another(cluster, cluster.master_of(lock_of(SID))))
    assert (await guard.read(SID))["seen"] == 1
    await nothing_is_left(cluster, (SID,))


async def test_the_slot_moves_while_it_is_waited_for(cluster: Cluster, node: MakeGuard) -> None:
    """The waiter keeps its place and is told, or finds out, at the node where the session is now."""
    holder, waiter = node(cluster.url), node(cluster.url, wait=20.0)
    fences = []

    async def wait_for_it() -> None:
        async with waiter.session_lock(SID) as session:
            fences.append(fence_of(session))
            session["n"] += 1

    async with anyio.create_task_group() as tasks:
        async with holder.session_lock(SID) as session:
            fences.append(fence_of(session))
            session["n"] = 1
            tasks.start_soon(wait_for_it)
            await queued(cluster, SID)
            await cluster.migrate_slot(slot_of(lock_of(SID)), another(cluster, cluster.master_of(lock_of(SID))))
        released = time.monotonic()
    assert time.monotonic() - released < LeasePolicy().ttl / 2, "the waiter found out by the end of the lease only"
    assert (await holder.read(SID))["n"] == 2
    assert fences == sorted(set(fences))
    await nothing_is_left(cluster, (SID,))


async def test_a_save_while_the_slot_is_between_two_nodes(cluster: Cluster, node: MakeGuard) -> None:
    """Half here, half there: Redis answers TRYAGAIN or ASK. The save comes through when the slot has arrived."""
    guard = node(cluster.url)
    slot = slot_of(lock_of(SID))
    target = another(cluster, cluster.master_of(lock_of(SID)))
    leave = anyio.Event()

    async def hold() -> None:
        async with guard.session_lock(SID) as session:
            session["n"] = 1
            entered.set()
            await leave.wait()

    entered = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await entered.wait()
        source = await cluster.begin_migration(slot, target)
        assert cluster.move_keys(slot, source, target) >= 2
        leave.set()
        await refused_by(source, target)
        await cluster.finish_migration(slot, source, target)
    assert (await guard.read(SID))["n"] == 1
    await nothing_is_left(cluster, (SID,))


async def refused_by(*nodes: Node) -> None:
    """A script call has been sent on, or away: so the asking phase was met."""

    def met() -> bool:
        counted = {name for server in nodes for name in server.info("errorstats")}
        return bool(counted & {"errorstat_ASK", "errorstat_TRYAGAIN"})

    if nodes[0].version >= (6, 2):  # older ones do not count what they refuse
        await eventually(met, "the slot's two nodes refuse or pass on a call")


async def test_a_newcomer_while_the_slot_is_between_two_nodes(cluster: Cluster, node: MakeGuard) -> None:
    first, second = node(cluster.url), node(cluster.url)
    slot = slot_of(lock_of(SID))
    target = another(cluster, cluster.master_of(lock_of(SID)))
    await first.create({"n": 1}, sid=SID)
    source = await cluster.begin_migration(slot, target)
    cluster.move_keys(slot, source, target)

    async def add_one(guard: SessionGuard) -> None:
        async with guard.session_lock(SID) as session:
            session["n"] += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(add_one, first)
        tasks.start_soon(add_one, second)
        await refused_by(source, target)
        await cluster.finish_migration(slot, source, target)
    assert (await first.read(SID))["n"] == 3
    await nothing_is_left(cluster, (SID,))


# --- failovers --------------------------------------------------------------------------------------------------------


async def test_a_replica_takes_over_in_order_while_it_is_held_and_waited_for(cluster: Cluster, node: MakeGuard) -> None:
    """CLUSTER FAILOVER loses nothing: the holder saves, the waiter follows."""
    holder, waiter = node(cluster.url), node(cluster.url, wait=20.0)

    async def wait_for_it() -> None:
        async with waiter.session_lock(SID) as session:
            session["n"] += 1

    async with anyio.create_task_group() as tasks:
        async with holder.session_lock(SID) as session:
            session["n"] = 1
            tasks.start_soon(wait_for_it)
            await queued(cluster, SID)
            await cluster.failover(cluster.replica_of(cluster.master_of(lock_of(SID))))
        released = time.monotonic()
    assert time.monotonic() - released < LeasePolicy().ttl / 2, "the waiter found out by the end of the lease only"
    assert (await holder.read(SID))["n"] == 2
    await nothing_is_left(cluster, (SID,))


async def test_the_master_dies_while_it_is_held_and_waited_for(cluster: Cluster, node: MakeGuard, tell: Tell) -> None:
    """What the replica has got by then goes on there: the holder may save, the waiter comes next, nobody hangs."""
    holder = node(cluster.url, lease=LeasePolicy(ttl=10.0))
    waiter = node(cluster.url, wait=40.0)
    async with held_and_waited_for(holder, waiter):
        await queued(cluster, SID)
        master = cluster.master_of(lock_of(SID))
        confirmed_by(master.raw, 1, lock_of(SID))
        died = time.monotonic()
        cluster.kill(master)
        await cluster.promoted(master)
    tell(f"the waiter had it {time.monotonic() - died:.1f} s after the master's death")
    cluster.restart(master)
    await cluster.settled()
    await nothing_is_left(cluster, (SID,))


@pytest.mark.slow
async def test_a_lock_that_was_not_replicated_is_lost_and_its_late_save_refused(
    cluster: Cluster, node: MakeGuard
) -> None:
    """The replica stands still while the lock is taken, and is promoted without it: at most one save commits."""
    first, second = node(cluster.url), node(cluster.url, wait=20.0)
    await first.create({"by": ["nobody"]}, sid=SID)
    master = cluster.master_of(lock_of(SID))
    confirmed_by(master.raw, 1, lock_of(SID))
    replica = cluster.replica_of(master)
    cluster.pause(replica)
    master.cut_off_replicas()

    async def replace_the_master() -> None:
        cluster.kill(master)
        cluster.resume(replica)
        await cluster.promoted(master)

    await only_the_second_saves(first, second, replace_the_master)
    cluster.restart(master)
    await cluster.settled()
    await nothing_is_left(cluster, (SID,))


# --- connections ------------------------------------------------------------------------------------------------------


async def test_many_waiters_need_no_more_connections_than_one(cluster: Cluster, node: MakeGuard, tell: Tell) -> None:
    sids = [f"session {number}" for number in range(20)]
    holder, crowd = node(cluster.url), node(cluster.url, wait=60.0)

    async def add_one(sid: str) -> None:
        async with crowd.session_lock(sid) as session:
            session["n"] = session.get("n", 0) + 1

    def connections() -> dict[str, int]:
        return {master.name: len(master.raw.client_list()) for master in cluster.masters}

    async with anyio.create_task_group() as tasks, AsyncExitStack() as held:
        for sid in sids:
            await held.enter_async_context(holder.session_lock(sid))
        for sid in sids:
            tasks.start_soon(add_one, sid)
        for sid in sids:
            await queued(cluster, sid)
        one_each = connections()
        for sid in sids:
            for _ in range(9):
                tasks.start_soon(add_one, sid)
        for sid in sids:
            await queued(cluster, sid, 10)
        tell(f"connections per master with 20 waiters {one_each}, with 200 {connections()}")
        # Among the first ones may be some that were just being closed.
        assert all(number <= one_each[name] for name, number in connections().items())
    for sid in sids:
        assert (await holder.read(sid))["n"] == 10
    await nothing_is_left(cluster, tuple(sids))


# --- processes that count ---------------------------------------------------------------------------------------------


async def kill_and_restart(ordeal: Ordeal, cluster: Cluster, key: bytes) -> Fault:
    master = cluster.master_of(key)
    with ordeal.nemesis.fault("kill", master) as fault:
        cluster.kill(master)
        fault.showed(await cluster.promoted(master))
    cluster.restart(master)
    await cluster.settled()
    await ordeal.progress()
    return fault


async def migrate(ordeal: Ordeal, cluster: Cluster, key: bytes) -> Fault:
    slot, target = slot_of(key), another(cluster, cluster.master_of(key))
    with ordeal.nemesis.fault("migrate", f"slot {slot}") as fault:
        moved = await cluster.migrate_slot(slot, target)
        fault.showed(f"{moved} keys moved to {target}")
    await ordeal.progress()
    return fault


async def count_through(cluster: Cluster, folder: Path, tell: Tell, *, durable: int, seconds: float) -> None:
    """Four processes count; the master of the first session is killed, its slot moves, until the time is over."""
    key = lock_of(SIDS[0])
    until = time.monotonic() + seconds
    lossy: list[Fault] = []
    async with Ordeal(cluster.url, folder, SIDS) as ordeal:
        await ordeal.begin(4, durable=durable)
        while not lossy or time.monotonic() < until:
            await migrate(ordeal, cluster, key)
            lossy.append(await kill_and_restart(ordeal, cluster, key))
            await migrate(ordeal, cluster, key)
        await ordeal.end()
    accounts = ordeal.accounts(lambda sid: stored(cluster.raw_for(lock_of(sid)), sid), lossy)
    moves = [fault for fault in ordeal.nemesis.faults if fault.kind == "migrate"]
    longest = max(max(ordeal.pauses(fault)) for fault in moves)
    tell(
        f"{ordeal.balance(accounts, lossy, lossless=bool(durable))},"
        f" {len(moves)} moves of the slot with a pause of {longest:.2f} s at the most"
    )
    await nothing_is_left(cluster, SIDS)


@FOR_A_WHILE
async def test_nothing_is_lost_that_a_replica_had(
    cluster: Cluster, tmp_path: Path, tell: Tell, durable: int, seconds: float
) -> None:
    await count_through(cluster, tmp_path, tell, durable=durable, seconds=seconds)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("min_replicas", [0, 1])
async def test_a_master_cut_off_with_its_clients(tmp_path: Path, tell: Tell, min_replicas: int) -> None:
    """What it acknowledges alone is lost; no fence is given twice, and nothing of it gets among what counts.

    It serves for ``node_timeout_ms``: longer than it takes until a lease has ended that the other side held, and the
    claims of the two tasks there to which the lock may be handed. Then its own clients must have got through.
    """
    config = {"min-replicas-to-write": str(min_replicas), "min-replicas-max-lag": "1"}
    replicas = 1 + min_replicas  # the promoted one, too, needs some to be allowed to write
    with Cluster(replicas=replicas, node_timeout_ms=5000, partitionable=True, config=config) as cluster:
        key = lock_of(SID)
        async with Ordeal(cluster.url, tmp_path, [SID]) as ordeal:
            await ordeal.begin(4, tasks=1, ttl=1.0, reply_within=0.5)
            master = cluster.master_of(key)
            with ordeal.nemesis.fault("cut off", master) as fault:
                cluster.isolate(master, clients=tuple(adder.pid for adder in ordeal.fleet.adders[:2]))
                new = await cluster.promoted(master, within=40.0)
                fault.showed(new)
                await ordeal.progress()
                cluster.heal()
                await cluster.settled()
            await ordeal.progress()
            await ordeal.end()
        (account,) = ordeal.accounts(lambda sid: stored(cluster.raw_for(key), sid), [fault], two_masters=True)
        alone = [one for one in account.missing if one.ended is not None and one.ended > fault.start]
        last = max((one.ended or 0.0 for one in alone), default=fault.start) - fault.start
        tell(
            f"{len(alone)} acknowledged by the cut-off master alone, the last {last:.2f} s after the cut;"
            f" the other side went on after {longest_pause(account.kept, fault):.2f} s;"
            f" {len(account.kept)} kept, {account.given_twice} fences given by both"
        )
        assert account.problems == []
        assert min_replicas or alone, "nothing was lost, so this test shows nothing"
        assert {one.name.split("-")[0] for one in alone} <= {"0", "1"}, "only those cut off with it were deceived"
        await nothing_is_left(cluster, (SID,))
