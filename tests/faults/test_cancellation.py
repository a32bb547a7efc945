"""Cancelled at every await: neither a lock nor a place in the queue is left."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, get_args

import anyio
import pytest
from tenacity import stop_after_delay, wait_fixed

from sessionlock import LeasePolicy, SessionGuard, SessionPolicy, WaitPolicy
from sessionlock.protocol.keys import keys_for
from tests.harness.cutting import Cut, How, When
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look, Stored

pytestmark = pytest.mark.anyio


# Whatever is left behind would stay for half a minute ...
LONG = LeasePolicy(ttl=30, claim=30, renew=False)
PATIENT = WaitPolicy(stop=stop_after_delay(15), wait=wait_fixed(60))
# ... and must be gone in the time of a round trip, with room for a busy machine.
SOON = 2.0

everywhere = pytest.mark.parametrize("how", get_args(How))
ready_or_not = pytest.mark.parametrize("when", get_args(When))


async def cycle(guard: SessionGuard, sid: str) -> None:
    """Every await that a request has: acquire, a save in the middle, something of its own, save and release."""
    async with guard.session_lock(sid, lease=LONG, wait=PATIENT) as session:
        session["middle"] = 1
        await session.save()
        await asyncio.sleep(0)
        session["end"] = 1


async def nothing_left(session: Stored, other: SessionGuard, sid: str) -> None:
    """Lock and queue are empty soon, and the next request gets the lock at once."""
    await session.until(lambda s: s.free, within=SOON)
    async with other.session_lock(sid, wait=0):
        pass
    # All or nothing of each save.
    assert session.data in ({}, {"middle": 1}, {"middle": 1, "end": 1})


async def ended(task: asyncio.Task[None], cut: Cut, how: How) -> None:
    """The task has ended soon; a cancelled one as cancelled, and not in any other way."""
    finished, _ = await asyncio.wait([task], timeout=SOON)
    assert finished, f"still running after it was cancelled at suspension {cut.suspended}"
    if task.cancelled():
        assert cut.done
        assert how != "scope", "the scope's own cancellation left it"
    else:
        task.result()
        assert not cut.done or how == "scope", "a cancellation was swallowed"


@everywhere
@ready_or_not
@pytest.mark.parametrize("warm", [True, False])
async def test_uncontended(redis_url: str, node: MakeGuard, when: When, how: How, warm: bool) -> None:
    """Attack 7: an acquire that gets the lock at once is cancelled at each of its awaits, and (attack 8) so are body,
    save and release."""
    other, guard = node(), node()
    await guard.inspect("s")
    for at in range(1, 100):
        sid = f"s{at}"
        if not warm:
            guard = node()
        with Stored(redis_url, sid) as session:
            cut = Cut(at, when, how)
            task = cut.start(cycle(guard, sid))
            await ended(task, cut, how)
            await nothing_left(session, other, sid)
            if not cut.done:
                assert session.data == {"middle": 1, "end": 1}
                break
    assert cut.suspended == at - 1 >= 4


@everywhere
@ready_or_not
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("neighbour", [True, False])
async def test_queued_and_handed_over(
    redis_url: str, node: MakeGuard, when: When, how: How, warm: bool, neighbour: bool
) -> None:
    """Attack 7: a waiter is cancelled at each of its awaits: while it asks, subscribes and waits, at the very moment in
    which the lock is handed to it, and after. The one behind it, in the same process or in another, gets it soon."""
    other, guard = node(), node()
    behind = guard if neighbour else node()
    await subscribed(guard)
    await subscribed(behind)
    for at in range(1, 100):
        sid = f"s{at}"
        if not warm:
            guard = node()
            behind = guard if neighbour else behind
        with Stored(redis_url, sid) as session:
            cut = Cut(at, when, how)
            async with other.session_lock(sid, lease=LONG) as held:
                held["other"] = 1
                task = cut.start(cycle(guard, sid))
                await session.until(lambda s, t=task: t.done() or len(s.waiting) == 1)  # type: ignore[misc]
                successor = asyncio.ensure_future(cycle(behind, sid))
                await session.until(lambda s, c=cut: len(s.waiting) == 2 or (c.done and len(s.waiting) == 1))  # type: ignore[misc]
                if cut.done:
                    await ended(task, cut, how)
                    await session.until(lambda s: len(s.waiting) == 1, within=SOON)
            await ended(task, cut, how)
            await asyncio.wait_for(successor, SOON)
            await session.until(lambda s: s.free, within=SOON)
            assert session.data == {"other": 1, "middle": 1, "end": 1}
        if not cut.done:
            break
    assert cut.suspended == at - 1 >= 5


def behind_waits(guard: SessionGuard) -> bool:
    return guard.runtime().wakeup.waiting == 1


async def subscribed(guard: SessionGuard) -> None:
    await guard.inspect("s")
    assert await guard.runtime().wakeup.pushes.listen(keys_for("sl", "s"), "t", 5)


@pytest.mark.parametrize("neighbour", [True, False])
@ready_or_not
@everywhere
async def test_the_holder_is_cancelled_while_it_hands_over(
    redis_url: str, node: MakeGuard, when: When, how: How, neighbour: bool
) -> None:
    """Attack 8: the holder is cancelled at each of its awaits, in its release, too: who waits for it, in the same
    process or in another one, has the lock soon."""
    guard = node()
    behind = guard if neighbour else node()
    await subscribed(behind)
    for at in range(1, 100):
        sid = f"s{at}"
        with Stored(redis_url, sid) as session:
            inside = asyncio.Event()
            cut = Cut(at, when, how)
            task = cut.start(body(guard, sid, inside))
            entered = asyncio.ensure_future(inside.wait())
            await asyncio.wait([task, entered], return_when=asyncio.FIRST_COMPLETED)
            entered.cancel()
            successor = asyncio.ensure_future(cycle(behind, sid))
            await ended(task, cut, how)
            await asyncio.wait_for(successor, SOON)
            await session.until(lambda s: s.free, within=SOON)
            assert session.data == {"middle": 1, "end": 1}
        if not cut.done:
            break
    assert at >= 4


async def body(guard: SessionGuard, sid: str, inside: asyncio.Event) -> None:
    """Holds until somebody waits."""
    async with guard.session_lock(sid, lease=LONG):
        inside.set()
        while not (await guard.inspect(sid)).waiters:
            await asyncio.sleep(0)


@everywhere
@ready_or_not
async def test_a_conflict_at_the_release(redis_url: str, node: MakeGuard, when: When, how: How) -> None:
    """Attack 8: somebody without a lock changed the same key, so the release is refused, merged and sent again;
    cancelled at any await of that, the lock is given back, and the other one's change is there."""
    guard, counting = node(), SessionPolicy(merge={"n": "counter"})
    await guard.inspect("s")

    async def request(session: Stored, sid: str) -> None:
        async with guard.session_lock(sid, lease=LONG, session=counting) as held:
            held["n"] = held.get("n", 0) + 1
            session.client.hset(session.keys.session, "n", 10)

    for at in range(1, 100):
        sid = f"s{at}"
        await guard.create({"m": 1}, sid=sid)
        with Stored(redis_url, sid) as session:
            cut = Cut(at, when, how)
            task = cut.start(request(session, sid))
            await ended(task, cut, how)
            await session.until(lambda s: s.free, within=SOON)
            assert session.data in ({"m": 1}, {"m": 1, "n": 10}, {"m": 1, "n": 11})
            if not cut.done:
                assert session.data == {"m": 1, "n": 11}
                break
    assert at >= 4


@pytest.mark.parametrize("large", [True, False])
@ready_or_not
@everywhere
async def test_the_instant_of_handover(redis_url: str, node: MakeGuard, when: When, how: How, large: bool) -> None:
    """Attack 7: the lock is handed over in the same turn of the loop in which the waiter is cancelled: by whoever
    comes first, the lock goes on. Once with the session in the push, once with one that has to be loaded."""
    other, guard = node(), node(push_limit=10 if large else 65_536)
    holder = node(push_limit=10 if large else 65_536)
    await subscribed(guard)
    for at in range(1, 100):
        sid = f"s{at}"
        with Stored(redis_url, sid) as session:
            async with AsyncExitStack() as held:
                await held.enter_async_context(holder.session_lock(sid, lease=LONG))
                cut = Cut(at, when, how)
                task = cut.start(cycle(guard, sid))
                await session.until(lambda s, t=task: t.done() or behind_waits(guard))  # type: ignore[misc]
            await ended(task, cut, how)
            await nothing_left(session, other, sid)
        if not cut.done:
            break
    assert cut.suspended == at - 1 >= (5 if large else 4)


@everywhere
@ready_or_not
@pytest.mark.parametrize("cut_off", ["before", "inside"])
async def test_while_it_connects_again(
    proxy: FaultyProxy, redis_url: str, node: MakeGuard, when: When, how: How, cut_off: str
) -> None:
    """Attack 7: the connection has broken, before the acquire or in the body (attack 8): the call, and the clean-up of
    its cancellation, have to connect first, with awaits of their own."""
    other, guard = node(), node(proxy.url)

    async def request(sid: str) -> None:
        if cut_off == "before":
            proxy.cut_all()
        async with guard.session_lock(sid, lease=LONG) as session:
            session["end"] = session["middle"] = 1
            await asyncio.sleep(0)
            if cut_off == "inside":
                proxy.cut_all()
                await proxy.until(lambda p: p.connections_open == 0)

    for at in range(1, 100):
        sid = f"s{at}"
        await guard.inspect(sid)
        with Stored(redis_url, sid) as session:
            cut = Cut(at, when, how)
            task = cut.start(request(sid))
            await ended(task, cut, how)
            await nothing_left(session, other, sid)
        if not cut.done:
            break
    assert at >= 4


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_after_any_number_of_turns(redis_url: str, node: MakeGuard, how: How) -> None:
    """Attack 7: cancelled after k turns of the event loop, wherever its helpers (the task that connects, the one that
    subscribes) then are."""
    other = node()
    for turns in range(1, 60):
        sid, guard, scope = f"s{turns}", node(), anyio.CancelScope()
        with Stored(redis_url, sid) as session:
            async with AsyncExitStack() as held:
                if turns % 2:
                    await held.enter_async_context(other.session_lock(sid, lease=LONG))
                task = asyncio.ensure_future(_within(scope, cycle(guard, sid)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if how == "scope":
                    scope.cancel()
                else:
                    task.cancel()
                finished, _ = await asyncio.wait([task], timeout=SOON)
                assert finished
                if not task.cancelled():
                    task.result()
            await nothing_left(session, other, sid)
        await guard.aclose()


async def _within(scope: anyio.CancelScope, work: Coroutine[Any, Any, None]) -> None:
    with scope:
        await work


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_while_the_request_is_on_its_way(proxy: FaultyProxy, node: MakeGuard, stored: Look, how: How) -> None:
    """Attack 7: the acquire has been sent and arrives only after the cancellation; what it gets is given back."""
    guard, session = node(proxy.url), stored("s")
    await guard.inspect("s")
    parked = proxy.hold_requests(calls_of("acquire"))
    scope = anyio.CancelScope()
    task = asyncio.ensure_future(_within(scope, cycle(guard, "s")))
    await parked.wait()
    if how == "scope":
        scope.cancel()
    else:
        task.cancel()
    assert await proxy.let_go() >= 1
    await asyncio.wait([task], timeout=SOON)
    assert task.done()
    await nothing_left(session, node(), "s")


async def test_the_request_overtaken_by_its_own_cancellation(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 7: the acquire arrives on a connection of its own after the leave-taking: it takes nothing any more."""
    guard, session = node(proxy.url, reply_within=0.1), stored("s")
    await guard.inspect("s")
    parked = proxy.hold_requests(calls_of("acquire"))
    task = asyncio.ensure_future(cycle(guard, "s"))
    await parked.wait()
    proxy.refuse()
    await proxy.until(lambda p: p.connections_open == 0)  # the acquire is to be repeated on another one
    task.cancel()
    proxy.accept()
    await asyncio.wait([task], timeout=SOON)
    assert task.cancelled()
    assert await proxy.let_go() >= 1
    await nothing_left(session, node(), "s")


async def test_while_redis_does_not_answer(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 7: nobody answers the leave-taking: the cancelled request ends all the same, and the lease's end frees
    the lock."""
    guard, session = node(proxy.url, reply_within=0.3, retry_for=0.1), stored("s")
    lease = LeasePolicy(ttl=0.4, renew=False)
    await guard.inspect("s")
    proxy.blackhole("replies")
    task = asyncio.ensure_future(_enter(guard, lease))
    await session.until(lambda s: s.lock is not None)
    proxy.blackhole("requests")
    proxy.refuse()
    task.cancel()
    await asyncio.wait([task], timeout=3)
    assert task.cancelled()
    await session.until(lambda s: s.free, within=SOON)
    proxy.heal()


async def _enter(guard: SessionGuard, lease: LeasePolicy) -> None:
    async with guard.session_lock("s", lease=lease):
        pass


@pytest.mark.parametrize("cancelled_by", ["move_on_after", "outer scope", "task", "task group"])
async def test_a_cancelled_body_gives_the_lock_back(node: MakeGuard, stored: Look, cancelled_by: str) -> None:
    """Attack 8: the body is cancelled while it waits for something: nothing is saved, and the next one has the lock
    soon, though every await in a cancelled scope is cancelled, that of the release, too."""
    guard, session, scope = node(), stored("s"), anyio.CancelScope()
    inside = asyncio.Event()

    async def body() -> None:
        async with guard.session_lock("s", lease=LONG) as held:
            held["n"] = 1
            inside.set()
            await asyncio.sleep(60)

    async def request() -> None:
        if cancelled_by == "move_on_after":
            with anyio.move_on_after(0.05):
                await body()
        elif cancelled_by == "task group":
            async with anyio.create_task_group() as group:
                group.start_soon(body)
                await inside.wait()
                group.cancel_scope.cancel()
        else:
            with scope:
                await body()

    task = asyncio.ensure_future(request())
    await inside.wait()
    successor = asyncio.ensure_future(cycle(node(), "s"))
    if cancelled_by == "outer scope":
        scope.cancel()
    elif cancelled_by == "task":
        task.cancel()
    finished, _ = await asyncio.wait([task], timeout=SOON)
    assert finished
    assert task.cancelled() == (cancelled_by == "task")
    await asyncio.wait_for(successor, SOON)
    assert session.free
    assert session.data == {"middle": 1, "end": 1}


async def test_a_cancelled_body_of_a_plain_lock(node: MakeGuard, stored: Look) -> None:
    """Attack 8: the same for a lock without a session."""
    session = stored("s")
    with anyio.move_on_after(0.05) as scope:
        async with node().lock("s", lease=LONG):
            await asyncio.sleep(60)
    assert scope.cancelled_caught
    await session.until(lambda s: s.free, within=SOON)


@pytest.mark.parametrize("raises", [True, False])
async def test_what_the_body_does_about_its_cancellation_is_respected(
    node: MakeGuard, stored: Look, raises: bool
) -> None:
    """Attack 8: a body that turns its cancellation into an error is not saved, one that catches it and ends well is;
    the lock is given back."""
    guard, session, scope = node(), stored("s"), anyio.CancelScope()

    async def body() -> None:
        async with guard.session_lock("s", lease=LONG) as held:
            held["n"] = 1
            try:
                with anyio.move_on_after(0.02):
                    await asyncio.sleep(60)
                if raises:
                    raise ValueError("too slow")
            finally:
                held["m"] = 1

    with scope:
        try:
            await body()
        except ValueError:
            assert raises
    assert session.data == ({} if raises else {"n": 1, "m": 1})
    assert session.free
