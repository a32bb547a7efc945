"""Redis forgets: a crash without fsync, a restart with nothing or with an old state, fences deleted or flushed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest

from sessionlock import LeaseLost, LeasePolicy, SessionGuard, SessionNotFound, StaleFencingToken
from tests.harness.commands import connect, set_fence
from tests.harness.deployments import MakeGuard
from tests.harness.faulty import FaultyServer
from tests.harness.stored import Look, Stored

pytestmark = pytest.mark.anyio

OwnServer = Callable[..., FaultyServer]

LONG = LeasePolicy(ttl=30, claim=30, renew=False, on_lost="flag")


async def one_save(guard: SessionGuard, key: str, sid: str = "s") -> int:
    """Hold the free lock and save one key; the fencing token."""
    async with guard.session_lock(sid, wait=5, lease=LONG) as session:
        session[key] = 1
        assert session.lease is not None
        return session.lease.fencing_token


async def crash(server: FaultyServer, *, empty: bool) -> None:
    await asyncio.to_thread(server.kill)
    await asyncio.to_thread(server.restart, empty)


# --- a crash without fsync


async def test_restarted_empty(own_server: OwnServer, node: MakeGuard) -> None:
    """Attack 10: Redis crashes and comes back with nothing while a request holds; another one is granted and saves:
    its fencing token is higher all the same, and the first one's late save is refused."""
    server = own_server()
    first, second = node(server.url), node(server.url)
    with pytest.raises(StaleFencingToken) as refused:
        async with first.session_lock("s", lease=LONG) as late:
            late["late"] = 1
            await crash(server, empty=True)
            current = await one_save(second, "theirs")
            assert late.lease is not None
            ours = late.lease.fencing_token
            assert current > ours
    assert (refused.value.ours, refused.value.current) == (ours, current)
    with Stored(server.url, "s") as session:
        assert session.data == {"theirs": 1}
        assert session.free


async def test_restarted_empty_and_nobody_came(own_server: OwnServer, node: MakeGuard) -> None:
    """Attack 10: the same without another request: the lock is not there any more, so nothing is saved, no part of the
    session revived."""
    server = own_server()
    guard = node(server.url)
    await one_save(guard, "before")
    with pytest.raises(LeaseLost):
        async with guard.session_lock("s", lease=LONG) as session:
            session["late"] = 1
            await crash(server, empty=True)
    with Stored(server.url, "s") as stored:
        assert stored.data == {}
        assert stored.free


async def test_the_holder_learns_of_it(own_server: OwnServer, node: MakeGuard) -> None:
    """Attack 10: the next renewal finds the lock gone and cancels the body, long before its lease would have ended."""
    server = own_server()
    renewed = LeasePolicy(ttl=1.5)
    with pytest.raises(LeaseLost, match="Redis does not know it any more"):
        async with node(server.url).session_lock("s", lease=renewed):
            await crash(server, empty=True)
            await asyncio.sleep(4)
            pytest.fail("the body was not told that its lock is gone")


async def test_waiters_survive_it(own_server: OwnServer, node: MakeGuard) -> None:
    """Attack 10: those who waited when Redis lost its queue get their turns soon, none waits for the end of the lease
    (30 s) that nobody remembers."""
    server = own_server()
    holder, waiters = node(server.url), [node(server.url) for _ in range(3)]

    async def add(guard: SessionGuard) -> None:
        async with guard.session_lock("s", wait=15, lease=LONG) as session:
            session["n"] = session.get("n", 0) + 1

    with pytest.raises(LeaseLost):
        async with holder.session_lock("s", lease=LONG) as late:
            late["late"] = 1
            tasks = [asyncio.ensure_future(add(guard)) for guard in waiters for _ in range(2)]
            with Stored(server.url, "s") as session:
                await session.until(lambda s: len(s.waiting) == 6)
            await crash(server, empty=True)
            await asyncio.wait_for(asyncio.gather(*tasks), 5)
    with Stored(server.url, "s") as session:
        assert session.data == {"n": 6}
        assert session.free


@pytest.mark.slow
async def test_restarted_with_an_old_state(own_server: OwnServer, node: MakeGuard) -> None:
    """Attack 10: Redis comes back as it was some grants ago, with an earlier holder in the lock and a lower fence. New
    fences are higher than those which that state has forgotten; who held at the crash is refused."""
    server = own_server()
    guard, other = node(server.url), node(server.url)
    async with guard.session_lock("s", lease=LeasePolicy(ttl=2, renew=False)) as session:
        session["n"] = 1
        await session.save()
        with connect(server.url) as client:
            client.save()  # what the disk has: this request holds
    forgotten = await one_save(other, "forgotten")
    fences: list[int] = []
    holding, go_on = asyncio.Event(), asyncio.Event()

    async def is_late() -> None:
        async with guard.session_lock("s", lease=LONG) as late:
            assert late.lease is not None
            fences.append(late.lease.fencing_token)
            late["late"] = 1
            holding.set()
            await go_on.wait()

    task = asyncio.ensure_future(is_late())
    await holding.wait()
    await crash(server, empty=False)
    with Stored(server.url, "s") as stored:
        assert stored.lock is not None  # the ghost of the first request; its lease ends it
        assert stored.fence < forgotten
    current = await one_save(other, "theirs")
    assert forgotten < fences[0] < current
    go_on.set()
    with pytest.raises(StaleFencingToken):
        await task
    with Stored(server.url, "s") as stored:
        assert stored.data == {"n": 1, "theirs": 1}
        assert stored.free


async def test_an_old_lock_with_a_newer_fence(node: MakeGuard, stored: Look) -> None:
    """Attack 10: a lock that names us although a newer holder has been seen (a replica that had the session, but an
    older lock, was promoted): the fence decides, in both kinds of save."""
    session = stored("s")
    for save in (True, False):
        with pytest.raises(StaleFencingToken):
            async with node().session_lock("s", lease=LONG) as late:
                late["late"] = 1
                set_fence(session.client, session.keys.session, session.fence + 1)
                if save:
                    await late.save()
        assert session.data == {}
        session.client.delete(session.keys.lock)


# --- the fence is lost


def expire(session: Stored) -> None:
    session.client.pexpire(session.keys.session, 1)
    while session.client.exists(session.keys.session):
        pass


def delete(session: Stored) -> None:
    session.client.delete(session.keys.session)


def delete_field(session: Stored) -> None:
    set_fence(session.client, session.keys.session, 0)


def flush(session: Stored) -> None:
    session.client.flushall()


def nothing(session: Stored) -> None:
    """For comparison."""


LOSSES = (expire, delete, delete_field, flush, nothing)


@pytest.mark.parametrize("lose", LOSSES)
async def test_the_fence_is_lost_between_requests(
    node: MakeGuard, stored: Look, lose: Callable[[Stored], None]
) -> None:
    """Attack 12: the fence expired, was deleted or flushed: the next one is higher than any before."""
    session, guard, highest = stored("s"), node(), 0
    for _ in range(20):
        fence = await one_save(guard, "n")
        assert fence > highest
        highest = fence
        lose(session)


@pytest.mark.parametrize("lose", LOSSES[:-1])
async def test_the_fence_is_lost_while_somebody_holds(
    node: MakeGuard, stored: Look, lose: Callable[[Stored], None]
) -> None:
    """Attack 12: the same in the middle of a request, whose lease then ends: its late save is refused, whether the
    record knows of a newer fence or not."""
    session = stored("s")
    first = node()
    lease = LeasePolicy(ttl=0.3, renew=False, on_lost="flag")
    with pytest.raises((StaleFencingToken, SessionNotFound)):
        async with first.session_lock("s", lease=lease) as late:
            late["late"] = 1
            lose(session)
            current = await one_save(node(), "theirs")
            assert late.lease is not None
            assert current > late.lease.fencing_token
    assert session.data == {"theirs": 1}
    assert session.free


@pytest.mark.parametrize("ends", ["by a save", "by leaving"])
@pytest.mark.parametrize("meanwhile", ["nothing", "it came and went", "it came to be"])
async def test_a_missing_session_is_evicted_while_it_is_held(
    node: MakeGuard, stored: Look, ends: str, meanwhile: str
) -> None:
    """There was no record, and what told so is gone: one may have come and been ended since, so none is begun."""
    session, other = stored("s"), node()
    with pytest.raises(SessionNotFound):
        async with node().session_lock("s", lease=LONG) as late:
            if meanwhile == "it came and went":
                await other.create({"theirs": 1}, sid="s")
                await other.destroy("s")
            delete(session)
            if meanwhile == "it came to be":
                await other.create({"theirs": 1}, sid="s")
            late["late"] = 1
            if ends == "by a save":
                await late.save()
    assert session.data == ({"theirs": 1} if meanwhile == "it came to be" else {})
    assert session.free


async def test_fences_only_grow_whatever_is_lost(node: MakeGuard, stored: Look) -> None:
    """Attack 12: several nodes, waiting for each other, while the fence is lost now and then."""
    session, highest = stored("s"), 0
    guards = [node() for _ in range(3)]
    chance = random.Random(12)

    async def worker(guard: SessionGuard) -> None:
        nonlocal highest
        for _ in range(30):
            async with guard.lock("s", wait=10) as lease:
                assert lease.fencing_token > highest
                highest = lease.fencing_token
                if chance.random() < 0.4:
                    chance.choice((delete, delete_field, expire))(session)

    await asyncio.gather(*map(worker, guards))
    assert session.client.ttl(session.keys.session) != -1


async def test_a_fence_ahead_of_the_clock_counts_on(node: MakeGuard, stored: Look) -> None:
    """Attack 12: where the stored fence is ahead of the server's clock, it is the fence that counts on."""
    session = stored("s")
    ahead = session.now_us + 3_600_000_000
    set_fence(session.client, session.keys.session, ahead)
    assert await one_save(node(), "n") == ahead + 1
    assert await one_save(node(), "n") == ahead + 2
