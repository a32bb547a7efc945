"""A session at a master that Sentinels watch: it dies, stands still, or comes back and does not know yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio
from redis.asyncio.sentinel import Sentinel

from sessionlock import LeaseLost, LeasePolicy, SessionGuard
from sessionlock.protocol.keys import keys_for
from tests.harness.choice import by_default
from tests.harness.commands import confirmed_by, keys_without_ttl
from tests.harness.deployments import (
    FOR_A_WHILE,
    SID,
    SIDS,
    MakeGuard,
    Tell,
    held_and_waited_for,
    only_the_second_saves,
)
from tests.harness.ordeal import Ordeal
from tests.harness.placed import PlacedServer
from tests.harness.polling import eventually
from tests.harness.proof import Fault, longest_pause, stored
from tests.harness.sentinels import NAME, Sentinels

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(180), pytest.mark.server, pytest.mark.slow]


@pytest.fixture
def sentinels() -> Iterator[Sentinels]:
    """A master, two replicas, three Sentinels; they start in a fraction of a second, and do not heal as fast."""
    with Sentinels() as sentinels:
        yield sentinels


async def queued(sentinels: Sentinels, sid: str, count: int = 1) -> None:
    await eventually(lambda: sentinels.master.raw.zcard(keys_for("sl", sid).queue) == count, f"{count} wait")


async def nothing_is_left(sentinels: Sentinels, sids: tuple[str, ...]) -> None:
    """Neither lock nor queue nor waiter, and no key that would stay for ever."""
    keys = [key for sid in sids for key in (keys_for("sl", sid).lock, keys_for("sl", sid).queue)]
    await eventually(lambda: not sentinels.master.raw.exists(*keys), "nothing is held or waited for")
    assert keys_without_ttl(sentinels.master.unix_url) == []


def replicated(sentinels: Sentinels) -> None:
    confirmed_by(sentinels.master.raw, len(sentinels.replicas))


# --- one session ------------------------------------------------------------------------------------------------------


async def test_the_master_dies_while_it_is_held_and_waited_for(
    sentinels: Sentinels, node: MakeGuard, tell: Tell
) -> None:
    """What the replicas have got by then goes on there: the holder may save, the waiter comes next, nobody hangs."""
    holder = node(sentinels.url, retry_for=20.0, lease=LeasePolicy(ttl=10.0))
    waiter = node(sentinels.url, retry_for=20.0, wait=40.0)
    async with held_and_waited_for(holder, waiter):
        await queued(sentinels, SID)
        replicated(sentinels)
        died = time.monotonic()
        sentinels.kill_master()
        await sentinels.new_master()
    tell(f"the waiter had it {time.monotonic() - died:.1f} s after the master's death")
    await nothing_is_left(sentinels, (SID,))


async def test_the_master_dies_while_a_save_is_under_way(sentinels: Sentinels, node: MakeGuard) -> None:
    """The save comes through at the next master, under the same token: once."""
    guard = node(sentinels.url, retry_for=20.0)
    async with guard.session_lock(SID, lease=LeasePolicy(ttl=30.0)) as session:
        session["n"] = session.get("n", 0) + 1
        replicated(sentinels)
        sentinels.kill_master()
    await sentinels.new_master()
    assert (await guard.read(SID))["n"] == 1
    await nothing_is_left(sentinels, (SID,))


async def test_the_master_and_the_first_sentinel_die_together(sentinels: Sentinels, node: MakeGuard) -> None:
    """They ran on one machine. The others elect a master, and a guard that was at work finds it."""
    guard = node(sentinels.url, retry_for=20.0)
    async with guard.session_lock(SID) as session:
        session["n"] = 1
    replicated(sentinels)
    sentinels.sentinels[0].kill()
    sentinels.kill_master()
    await sentinels.new_master()
    async with guard.session_lock(SID) as session:
        session["n"] += 1
    assert (await guard.read(SID))["n"] == 2


async def test_a_lock_that_was_not_replicated_is_lost_and_its_late_save_refused(
    sentinels: Sentinels, node: MakeGuard
) -> None:
    """The replicas stand still while the lock is taken, and one is promoted without it: at most one save commits."""
    first, second = node(sentinels.url), node(sentinels.url, wait=20.0)
    await first.create({"by": ["nobody"]}, sid=SID)
    replicated(sentinels)
    replicas = sentinels.replicas
    for replica in replicas:
        replica.pause()
    sentinels.master.cut_off_replicas()

    async def replace_the_master() -> None:
        sentinels.kill_master()
        for replica in replicas:
            replica.resume()
        await sentinels.new_master()

    await only_the_second_saves(first, second, replace_the_master)
    await nothing_is_left(sentinels, (SID,))


async def test_a_holder_at_the_old_master_cannot_save_at_the_new_one(sentinels: Sentinels, node: MakeGuard) -> None:
    """It is paused with the lock, replaced, and thawed; its lease ran out, somebody else's save came first."""
    first, second = node(sentinels.url, reply_within=0.5), node(sentinels.url, wait=30.0, reply_within=0.5)
    await first.create({"by": ["nobody"]}, sid=SID)
    with pytest.raises(LeaseLost):
        async with first.session_lock(SID, lease=LeasePolicy(ttl=1.0, renew=False, on_lost="flag")) as session:
            session["by"] = [*session["by"], "first"]
            replicated(sentinels)
            old = sentinels.pause_master()
            await sentinels.new_master()
            async with second.session_lock(SID) as other:
                other["by"] = [*other["by"], "second"]
            sentinels.resume(old)
    assert (await second.read(SID))["by"] == ["nobody", "second"]


async def test_a_client_that_the_application_got_from_sentinel(sentinels: Sentinels) -> None:
    """``SessionGuard(sentinel.master_for(...))`` follows the master as an URL does."""
    protocol = by_default(sentinels.master)
    watched: Sentinel = Sentinel(sentinels.addresses, sentinel_kwargs=protocol)  # type: ignore[no-untyped-call]
    client: redis.asyncio.Redis = watched.master_for(NAME, **protocol)
    async with SessionGuard(client, retry_for=20.0) as guard:
        async with guard.session_lock(SID) as session:
            session["n"] = 1
        replicated(sentinels)
        sentinels.kill_master()
        await sentinels.new_master()
        async with guard.session_lock(SID) as session:
            session["n"] += 1
        assert (await guard.read(SID))["n"] == 2
    await client.aclose()
    for sentinel in watched.sentinels:
        await sentinel.aclose()


# --- processes that count ---------------------------------------------------------------------------------------------


async def kill(ordeal: Ordeal, sentinels: Sentinels) -> tuple[Fault, PlacedServer]:
    with ordeal.nemesis.fault("kill", sentinels.master) as fault:
        old = sentinels.kill_master()
        fault.showed(await sentinels.new_master())
    await ordeal.progress()
    return fault, old


async def count_through(sentinels: Sentinels, folder: Path, tell: Tell, *, durable: int, seconds: float) -> None:
    """Four processes count; the master is killed, and comes back as a replica, until the time is over."""
    until = time.monotonic() + seconds
    lossy: list[Fault] = []
    async with Ordeal(sentinels.url, folder, SIDS) as ordeal:
        await ordeal.begin(4, durable=durable)
        while True:
            fault, old = await kill(ordeal, sentinels)
            lossy.append(fault)
            if time.monotonic() >= until:
                break
            promoted = sentinels.master
            sentinels.restart(old)
            await sentinels.settled()
            assert sentinels.master is promoted, f"the Sentinels replaced {promoted}, which nobody had killed"
            await ordeal.progress()
        await ordeal.end()
    accounts = ordeal.accounts(lambda sid: stored(sentinels.master.raw, sid), lossy)
    tell(f"{ordeal.balance(accounts, lossy, lossless=bool(durable))}")
    await nothing_is_left(sentinels, SIDS)


@FOR_A_WHILE
async def test_nothing_is_lost_that_a_replica_had(
    sentinels: Sentinels, tmp_path: Path, tell: Tell, durable: int, seconds: float
) -> None:
    await count_through(sentinels, tmp_path, tell, durable=durable, seconds=seconds)


@pytest.mark.once
@pytest.mark.parametrize("min_replicas", [0, 1])
async def test_an_old_master_that_does_not_know_yet(tmp_path: Path, tell: Tell, min_replicas: int) -> None:
    """Thawed after the failover it takes writes from those who cling to it; they are lost, and get among nothing."""
    with Sentinels(min_replicas_to_write=min_replicas) as sentinels:
        old = sentinels.master
        async with Ordeal(sentinels.url, tmp_path, [SID]) as ordeal:
            for _ in range(2):  # they know nothing of Sentinels
                ordeal.fleet.start(url=old.tcp_url, sids=(SID,), tasks=3, pause=0.002, ttl=1.0, reply_within=0.5)
            followers = await ordeal.begin(2, ttl=1.0, reply_within=0.5)
            with ordeal.nemesis.fault("pause", old) as fault:
                sentinels.pause_master()
                new = await sentinels.new_master()
                fault.showed(new)
                # One that still waits for the old master's reply would get it as soon as that is thawed.
                await ordeal.found_the_way(followers)
                thawed = time.monotonic()
                sentinels.resume(old)
                await eventually(lambda: old.info("replication")["role"] == "slave", "the old master learns", 40.0)
                knew = time.monotonic()
            await ordeal.progress()
            await ordeal.end()
        (account,) = ordeal.accounts(lambda sid: stored(new.raw, sid), [fault], two_masters=True)
        late = [one for one in account.missing if one.ended is not None and one.ended > thawed]
        tell(
            f"{len(late)} acknowledged by the old master in the {knew - thawed:.1f} s until it knew,"
            f" {len(account.kept)} kept, {account.given_twice}"
            f" fences given by both; the others went on after {longest_pause(account.kept, fault):.2f} s"
        )
        assert account.problems == []
        assert {one.name.split("-")[0] for one in late} <= {"0", "1"}, "only those who clung to it were deceived"
        if min_replicas:
            # It counts its replicas once a second, and what its sockets held when it was thawed comes before.
            assert [one for one in late if one.ended is None or one.ended > thawed + 2] == []
        else:
            assert late, "nothing was lost, so this test shows nothing"
        await nothing_is_left(sentinels, (SID,))
