"""Calls that arrive when their acquisition is over: delayed by the network, or replayed."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from copy import deepcopy
from typing import Any

import pytest

from sessionlock import LeaseLost, LeasePolicy, RedisUnavailable, SessionGuard, SessionPolicy, StaleFencingToken
from sessionlock.lease import Lease
from sessionlock.protocol.calls import Call
from sessionlock.transport.executor import RedisExecutor
from tests.harness.deployments import MakeGuard
from tests.harness.polling import eventually
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look, Stored

pytestmark = pytest.mark.anyio

BRIEF = LeasePolicy(ttl=0.5, renew=False, claim=0.5, on_lost="flag")


async def nothing_but_theirs(proxy: FaultyProxy, guard: SessionGuard, session: Stored) -> None:
    """Another node holds when the parked calls arrive: its lock, its time and its data stay as they are."""
    async with guard.session_lock("s", wait=5, lease=LeasePolicy(ttl=5, renew=False)) as theirs:
        assert theirs.lease is not None
        theirs["theirs"] = 1
        until = session.lease_end_us
        assert await proxy.let_go() >= 1
        assert session.lock == theirs.lease.token
        assert session.waiting == []
        assert abs(session.lease_end_us - until) < 50_000
    assert session.data == {"theirs": 1}
    assert session.free


async def test_a_delayed_release(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 3: save+release is on its way for longer than the lease; the next holder's work is not touched by it."""
    slow = node(proxy.url, reply_within=0.2, retry_for=0.05)
    with pytest.raises(RedisUnavailable):
        async with slow.session_lock("s", lease=BRIEF) as session:
            session["late"] = 1
            proxy.hold_requests(calls_of("release"))
            proxy.refuse()
    await nothing_but_theirs(proxy, node(), stored("s"))


@pytest.mark.slow
async def test_a_delayed_release_when_nobody_holds(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 3: the same when the lock is free again: what was reported as failed is not saved later."""
    slow, session = node(proxy.url, reply_within=0.2, retry_for=0.05), stored("s")
    with pytest.raises(RedisUnavailable):
        async with slow.session_lock("s", lease=BRIEF) as held:
            held["late"] = 1
            proxy.hold_requests(calls_of("release"))
            proxy.refuse()
    await session.until(lambda s: s.lock is None)
    assert await proxy.let_go() >= 1
    assert session.data == {}
    assert session.free


async def test_a_duplicated_release(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 3: the release was repeated and succeeded; the first one arrives during the next hold."""
    slow = node(proxy.url, reply_within=0.1)
    async with slow.session_lock("s"):
        proxy.hold_requests(calls_of("release"))
    await nothing_but_theirs(proxy, node(), stored("s"))


@pytest.mark.slow
async def test_a_delayed_immediate_save(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 3: the same with a save in the middle of the block."""
    slow = node(proxy.url, reply_within=0.2, retry_for=0.05)
    with pytest.raises((RedisUnavailable, LeaseLost)):
        async with slow.session_lock("s", lease=BRIEF) as session:
            session["late"] = 1
            proxy.hold_requests(calls_of("save"))
            proxy.refuse()
            await session.save()
    await nothing_but_theirs(proxy, node(), stored("s"))


@pytest.mark.slow
async def test_a_delayed_renewal(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 3: a renewal arrives when somebody else holds."""
    slow, session = node(proxy.url), stored("s")
    proxy.hold_requests(calls_of("renew"))

    async def holds_too_long() -> None:
        async with slow.session_lock("s", lease=LeasePolicy(ttl=0.9)):
            await asyncio.sleep(60)

    # The loss cancels the body; its release then waits behind the parked renewal, on the same connection.
    holder = asyncio.ensure_future(holds_too_long())
    await proxy.held.wait()
    await nothing_but_theirs(proxy, node(), session)
    with pytest.raises(LeaseLost):
        await holder


async def test_a_delayed_abandon(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 3: a cancelled waiter's leave-taking arrives when the grant it had meanwhile is long over."""
    slow, session = node(proxy.url, reply_within=0.2, retry_for=0.05), stored("s")
    async with node().session_lock("s"):
        waiter = asyncio.ensure_future(_enter(slow, BRIEF))
        await session.until(lambda s: len(s.waiting) == 1)
        proxy.hold_requests(calls_of("abandon"))
        proxy.refuse()
        waiter.cancel()
        await proxy.held.wait()
    with suppress(asyncio.CancelledError):
        await waiter
    await nothing_but_theirs(proxy, node(), session)


@pytest.mark.parametrize("held_meanwhile", [True, False])
async def test_a_delayed_acquire(proxy: FaultyProxy, node: MakeGuard, stored: Look, held_meanwhile: bool) -> None:
    """Attack 3: the acquire was repeated, granted and finished; then its first copy arrives."""
    slow, session = node(proxy.url, reply_within=0.1), stored("s")
    proxy.hold_requests(calls_of("acquire"))
    async with slow.session_lock("s"):
        pass
    if held_meanwhile:
        await nothing_but_theirs(proxy, node(), session)
    else:
        assert await proxy.let_go() == 2  # and what was sent behind it
        assert session.free


async def _enter(guard: SessionGuard, lease: LeasePolicy) -> None:
    async with guard.session_lock("s", lease=lease, wait=10):
        pass


async def test_a_creation_that_comes_when_its_session_has_expired(
    proxy: FaultyProxy, node: MakeGuard, stored: Look
) -> None:
    """It was repeated and done, and all that knew of it is gone: the first try begins nothing."""
    slow, session = node(proxy.url, reply_within=0.1, session=SessionPolicy(idle=0.5)), stored("s")
    await slow.create({}, sid="before")  # so the clock is known
    proxy.hold_requests(calls_of("create"))
    await slow.create({"n": 1}, sid="s")
    await session.until(lambda s: not s.client.exists(s.keys.session))
    assert await proxy.let_go() >= 1
    assert session.data == {}


async def test_copies_of_one_process(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Two machines are restored from one image. Each finds its connection dead, and counts under a name of its own."""
    guards, session = (node(proxy.url), node(proxy.url)), stored("s")
    await guards[0].create({"n": 0}, sid="s")
    await guards[1].ready()
    executors: list[Any] = [guard.runtime().executor for guard in guards]
    executors[1].numbers = deepcopy(executors[0].numbers)
    proxy.cut_all()
    await eventually(lambda: not any(executor.route.link.leads_to for executor in executors), "they notice")
    for guard in guards * 2:
        await guard.incr("s", "n")
    assert session.data == {"n": 4}


async def test_an_older_acquisition_is_replayed(node: MakeGuard, stored: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 4: the same task of the same node holds again, and every call of its former acquisition comes once more,
    in every order: also while it is free, and after it was saved."""
    calls: list[Call[Any]] = []
    once = RedisExecutor.run

    async def recorded(self: RedisExecutor, call: Call[Any], *limit: float) -> object:
        calls.append(call)
        return await once(self, call, *limit)

    # Nothing but lock and fence is in the way of these keys.
    guard, session = node(session=SessionPolicy(merge=dict.fromkeys(("n", "old"), "last_write_wins"))), stored("s")
    monkeypatch.setattr(RedisExecutor, "run", recorded)
    async with guard.session_lock("s", lease=LeasePolicy(ttl=0.9)) as older:
        older["n"] = 1
        await older.save()
        older["old"] = 1
        while "renew" not in [call.script for call in calls]:
            await asyncio.sleep(0.005)
    monkeypatch.undo()
    former = {call.script: call for call in calls}
    assert former.keys() == {"acquire", "save", "renew", "release"}
    run = guard.runtime().executor.run

    async def replay_all() -> None:
        for order in itertools.permutations(former.values()):
            for call in order:
                await run(call)

    await replay_all()
    assert session.free
    assert session.data == {"n": 1, "old": 1}

    async with guard.session_lock("s", lease=LeasePolicy(ttl=5, renew=False)) as newer:
        assert newer.lease is not None
        until, fence = session.lease_end_us, session.fence
        newer["n"], newer["old"] = 2, 2
        await newer.save()
        await replay_all()
        assert (session.lock, session.fence) == (newer.lease.token, fence)
        assert abs(session.lease_end_us - until) < 50_000
        assert session.waiting == []
        assert session.data == {"n": 2, "old": 2}
        newer["n"] = 3
    await replay_all()
    assert session.free
    assert session.data == {"n": 3, "old": 2}


async def test_an_older_acquisition_that_was_lost_is_replayed(
    node: MakeGuard, stored: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack 4: the former acquisition of the same task had lost its lock, without noticing; its late saves change
    nothing in the next one."""
    monkeypatch.setattr(Lease, "mark_lost", lambda *_: None)
    guard, session = node(), stored("s")
    older = guard.session_lock("s", lease=BRIEF)
    late = await older.__aenter__()
    late["late"] = 1
    await session.until(lambda s: s.lock is None)

    async def newer() -> None:
        async with guard.session_lock("s", lease=LeasePolicy(ttl=5)) as held:
            assert held.lease is not None
            held["theirs"] = 1
            with pytest.raises(StaleFencingToken):
                await late.save()
            with pytest.raises(StaleFencingToken):
                await older.__aexit__(None, None, None)
            assert session.lock == held.lease.token

    await asyncio.ensure_future(newer())  # a task of its own: this one counts as a holder until it has left
    assert session.data == {"theirs": 1}
