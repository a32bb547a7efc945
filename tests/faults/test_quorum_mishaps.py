"""What happens at the wrong moment to a lock on a quorum: a connection that is being opened, a late answer, an end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from sessionlock import Lease, LeaseLost, LeasePolicy, Quorum, QuorumNotReached, RedisUnavailable, SessionGuard
from sessionlock.embedded import find_server
from sessionlock.protocol.record_calls import ForceRelease
from tests.harness.commands import connect
from tests.harness.proxy import FaultyProxy
from tests.harness.quorums import KEYS, SID, Place, opened, until
from tests.harness.scripts import calls_of, load_scripts

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(180)]

LONG = LeasePolicy(ttl=60)
SHORT = LeasePolicy(ttl=1.0, claim=0.5, on_lost="flag")


@pytest.fixture
async def proxy(three: Place) -> AsyncIterator[FaultyProxy]:
    """Before the last of three masters."""
    async with FaultyProxy(three.masters[2].tcp_url) as before:
        yield before


def behind(three: Place, proxy: FaultyProxy, **options: Any) -> SessionGuard:
    """A guard that has the last master behind the proxy."""
    addresses = [three.masters[0].tcp_url, three.masters[1].tcp_url, proxy.url]
    return three.guard(Quorum(addresses, rejoin_after=0, reply_within=0.3), **options)


def masters_of(guard: SessionGuard) -> Any:
    return guard.runtime().executor.masters  # type: ignore[attr-defined]


async def warmed(guard: SessionGuard, three: Place) -> SessionGuard:
    """With its connections open."""
    async with guard.lock(SID):
        pass
    await until(three.is_free)
    await opened(guard)
    return guard


def elsewhere(three: Place, *numbers: int) -> None:
    """Another client has the lock at these masters."""
    for number in numbers:
        three.at(number).client.set(KEYS.lock, "foreign", px=60_000)


async def test_given_up_while_a_lost_connection_is_opened_again(three: Place, proxy: FaultyProxy) -> None:
    """The vote waits for the connection; what gives it up must wait behind it, and not find the master out of reach."""
    guard = await warmed(behind(three, proxy, lease=LONG), three)
    master = masters_of(guard).all[2]
    # Nothing is to be given up there: who comes back for that would open the connection before the next vote.
    await until(lambda: not master.debts.perhaps_here)
    proxy.refuse()
    proxy.cut_all()
    await until(lambda: master.connection.last.closed)
    async with guard.lock(SID):  # it notices
        await until(lambda: not master.available)
    proxy.accept()
    proxy.delay(0.03)  # longer than the vote of the others and the body
    await until(lambda: time.monotonic() >= master.connection.back_off.not_before)
    async with guard.lock(SID):
        pass
    await until(lambda: master.available)
    await until(three.is_free)
    await until(lambda: not master.debts.perhaps_here)


async def test_renewed_while_it_is_given_up(three: Place, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two masters say that they do not have it (any more), before the third one has answered the end: it was held."""
    guard = await warmed(behind(three, proxy, lease=LONG), three)
    elsewhere(three, 0)
    executor: Any = guard.runtime().executor
    watchdog: Any = guard.runtime().watchdog
    give_up = executor.give_up

    def and_renew(*args: Any) -> Any:
        giving_up = give_up(*args)
        for watched in watchdog._known().values():
            watched.due = 0.0
            watchdog._agenda.put(watched)
        watchdog._look()
        return giving_up

    monkeypatch.setattr(executor, "give_up", and_renew)
    async with guard.lock(SID) as lease:
        await until(lambda: three.holders()[1:] == [lease.token] * 2)
        proxy.delay(0.1)
    assert lease.released
    assert not lease.is_lost


@pytest.mark.slow
async def test_the_store_goes_while_sessions_are_renewed(three: Place) -> None:
    """With a session of the same guard, whose renewals wait for the store: the lock goes on."""
    guard = three.guard(lease=SHORT)
    async with guard.lock(SID) as lease:
        with pytest.raises((LeaseLost, RedisUnavailable)):
            async with guard.session_lock("another") as session:
                session["n"] = 1
                three.store.kill()
                began = time.monotonic()
                while time.monotonic() < began + 3:
                    assert lease.remaining() > 0
                    await asyncio.sleep(0.02)
    three.store.start()


@pytest.mark.slow
async def test_a_bare_majority_is_seen(three: Place, proxy: FaultyProxy) -> None:
    """Also when the master that has no vote of it answers first; and it can be taken by force."""
    holder, admin = three.guard(), await warmed(behind(three, proxy), three)
    elsewhere(three, 0)
    with pytest.raises(LeaseLost):
        async with holder.lock(SID, lease=LeasePolicy(on_lost="flag")) as lease:
            await until(lambda: three.holders()[1:] == [lease.token] * 2)
            three.at(0).client.delete(KEYS.lock)
            proxy.delay(0.1)
            seen = await admin.inspect(SID)
            assert seen.holder is not None
            assert seen.holder.token == lease.token
            assert await admin.force_release(SID, lease.token)


async def test_taken_out_once(three: Place) -> None:
    """The store has heard of it and the masters have not: who asks then has not done it."""
    holder, first, second = three.guard(), three.guard(), three.guard()
    with pytest.raises(LeaseLost):
        async with holder.session_lock(SID, lease=LeasePolicy(on_lost="flag")) as session:
            assert session.lease is not None
            token = session.lease.token
            await until(lambda: three.holders() == [token] * 3)
            await first.runtime().executor.store.run(ForceRelease(KEYS, token))  # type: ignore[attr-defined]
            assert three.holders() == [token] * 3
            assert not await second.force_release(SID, token)


async def test_a_lock_that_was_taken_is_known_as_lost(three: Place) -> None:
    """By its lease too, and not as one that was given up."""
    guard = three.guard()
    with pytest.raises(LeaseLost, match="Redis does not know it any more"):
        async with guard.lock(SID, lease=LeasePolicy(on_lost="flag")) as lease:
            await until(lambda: three.holders() == [lease.token] * 3)
            assert await three.guard().force_release(SID, lease.token)
    assert lease.is_lost


@pytest.mark.slow
async def test_closed_with_locks_held_and_waited_for(three: Place) -> None:
    """Whoever is inside ends well, whoever waits gets it still, and nothing is left."""
    guard = await warmed(three.guard(lease=LONG), three)
    inside = asyncio.Event()

    async def hold(name: str) -> str:
        async with guard.lock(name, wait=10):
            inside.set()
            await asyncio.sleep(0.02)
        return "held"

    tasks = [asyncio.create_task(hold(name)) for name in (SID, "another") * 3]
    await inside.wait()
    await guard.aclose()
    assert await asyncio.gather(*tasks) == ["held"] * 6
    await until(three.is_free)


async def test_a_master_that_refuses(three: Place) -> None:
    """It became a replica, say. It owes nothing, and is not asked again and again."""
    guard = await warmed(three.guard(lease=LONG), three)
    master = masters_of(guard).all[2]
    other = three.masters[0]
    raw = three.at(2).client
    raw.replicaof("127.0.0.1", str(other.port))
    for _ in range(20):
        async with guard.lock(SID):
            pass
    assert not master.debts.owed
    await until(lambda: not master.debts.perhaps_here)
    raw.replicaof("NO", "ONE")


@pytest.mark.slow
async def test_a_give_back_that_is_still_on_its_way(three: Place, proxy: FaultyProxy) -> None:
    """It may take the lock at that master at any time: a lease must not live by that master."""
    for number in range(3):
        with connect(three.masters[number].unix_url) as raw:
            load_scripts(raw)  # as after any give-back
    lease = LeasePolicy(ttl=3.0, claim=1.5, on_lost="flag")  # it is renewed each second
    guard = await warmed(behind(three, proxy, lease=lease, wait=20), three)
    master = masters_of(guard).all[2]
    elsewhere(three, 0, 1)
    on_its_way = proxy.hold_requests(calls_of("force_release"))
    leases: list[Lease] = []

    async def hold() -> None:
        async with guard.lock(SID) as lease:
            leases.append(lease)
            await lease.lost.wait()

    holding = asyncio.create_task(hold())
    await on_its_way.wait()
    await until(lambda: not master.available)
    for number in (0, 1):
        three.at(number).client.delete(KEYS.lock)
    await until(lambda: bool(leases))
    await until(lambda: three.at(2).lock == leases[0].token)
    three.masters[0].kill()
    with anyio.fail_after(8):
        await leases[0].lost.wait()
    holding.cancel()
    await asyncio.wait([holding])


async def test_masters_that_do_not_permit_scripts(three: Place) -> None:
    """It is said what to permit."""
    if find_server().version < (6, 0):
        pytest.skip("this server knows no ACL (6.0)")
    for number in (0, 1):
        three.at(number).client.execute_command("ACL", "SETUSER", "default", "-@scripting")  # type: ignore[no-untyped-call]
    with pytest.raises(QuorumNotReached, match=r"permit them \(ACL SETUSER <user> \+eval \+evalsha") as caught:
        async with three.guard(retry_for=0.2).lock(SID, wait=2):
            raise AssertionError("entered")
    assert sum("NOPERM" in said for said in caught.value.answers.values()) == 2
