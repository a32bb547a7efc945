"""A push is a hint: take every one away, and nothing is unsafe, and nobody waits for long after the lease's end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from tenacity import stop_after_delay, wait_fixed

from sessionlock import LeaseLost, LeasePolicy, SessionGuard, WaitPolicy
from sessionlock.embedded import EmbeddedServer
from sessionlock.lock.waiting import Waiter, Wakeup
from sessionlock.protocol.calls import Call
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.replies import Handover, Queued
from sessionlock.transport.executor import RedisExecutor
from tests.harness.commands import connect
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.stored import Look, Stored
from tests.harness.workers import Worker

pytestmark = pytest.mark.anyio

PROMISED = 0.1  # seconds after the lease's end
SCHEDULING = 0.3  # what a busy machine may add
# Looks at the lease's end, if it does that by itself: the policy's own look comes much too late.
PATIENT = WaitPolicy(stop=stop_after_delay(15), wait=wait_fixed(60))
LONG = LeasePolicy(ttl=30, claim=30, renew=False)


@pytest.fixture
def deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    """No push reaches any waiter, though Redis believes it does."""
    monkeypatch.setattr(Wakeup, "_on_message", lambda self, message: None)


class Turns:
    """Requests that add one to ``n`` in turns; when each ran, by the server's clock in seconds."""

    def __init__(self, session: Stored, lease: LeasePolicy, wait: WaitPolicy) -> None:
        self.session = session
        self.lease = lease
        self.wait = wait
        self.inside = 0
        self.began: list[float] = []
        self.ended: list[float] = []

    async def take(self, guard: SessionGuard) -> None:
        async with guard.session_lock("s", lease=self.lease, wait=self.wait) as session:
            assert self.inside == 0
            self.inside += 1
            self.began.append(self.session.now_us / 1e6)
            n = session.get("n", 0)
            await asyncio.sleep(0.01)
            session["n"] = n + 1
            self.inside -= 1
        self.ended.append(self.session.now_us / 1e6)

    def longest_gap(self) -> float:
        """Between one's end and the next one's beginning; an end is seen a moment after the release itself."""
        return max(began - ended for began, ended in zip(self.began[1:], self.ended, strict=False))


@pytest.mark.parametrize("wait", [PATIENT, WaitPolicy()])
async def test_every_push_is_lost(deaf: None, node: MakeGuard, stored: Look, wait: WaitPolicy) -> None:
    """Attack 14: no push arrives anywhere: the waiters of two nodes still come one at a time, no update is lost, and
    each has its turn no later than 100 ms after the end of the lease it waits for."""
    lease = LeasePolicy(ttl=0.6, claim=0.3, renew=False)
    turns = Turns(stored("s"), lease, wait)
    guards = [node(), node()]
    await asyncio.gather(*(turns.take(guard) for guard in guards for _ in range(4)))
    assert turns.session.data == {"n": 8}
    assert turns.longest_gap() < lease.ttl + PROMISED + SCHEDULING
    await turns.session.until(lambda s: s.free, within=2)


@pytest.mark.slow
async def test_the_only_push_is_lost(deaf: None, node: MakeGuard, stored: Look) -> None:
    """Attack 14: the holder releases early and its push is lost: the waiter comes at the end of that lease, although
    its own policy would let it sleep for a minute."""
    session, holder, waiter = stored("s"), node(), node()
    turns = Turns(session, LONG, PATIENT)
    async with holder.session_lock("s", lease=LeasePolicy(ttl=1, renew=False)):
        task = asyncio.ensure_future(turns.take(waiter))
        await session.until(lambda s: len(s.waiting) == 1)
        end = session.lease_end_us / 1e6
    await task
    assert turns.began[0] < end + PROMISED + SCHEDULING


async def test_the_policy_looks_sooner(deaf: None, node: MakeGuard, stored: Look) -> None:
    """Attack 14: the same with the default policy and a long lease: it looks every second or so."""
    session, holder, waiter = stored("s"), node(), node()
    turns = Turns(session, LONG, WaitPolicy())
    async with holder.session_lock("s", lease=LONG):
        task = asyncio.ensure_future(turns.take(waiter))
        await session.until(lambda s: len(s.waiting) == 1)
    released = session.now_us / 1e6
    await task
    assert turns.began[0] - released < 1.1 + SCHEDULING


@pytest.mark.slow
async def test_pushes_vanish_on_the_way(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 14: the same in the network, which swallows pushes and nothing else; the connection seems alive."""
    session, holder, waiter = stored("s"), node(), node(proxy.url)
    turns = Turns(session, LONG, PATIENT)
    lost = proxy.drop_pushes()
    async with holder.session_lock("s", lease=LeasePolicy(ttl=0.8, renew=False)):
        task = asyncio.ensure_future(turns.take(waiter))
        await session.until(lambda s: len(s.waiting) == 1)
        end = session.lease_end_us / 1e6
    await task
    assert lost.count == 1
    assert turns.began[0] < end + PROMISED + SCHEDULING


@pytest.mark.parametrize("kills", [1, 4])
async def test_the_push_connection_is_killed(node: MakeGuard, stored: Look, kills: int) -> None:
    """Attack 14: CLIENT KILL ends the push connection of a waiter, and the holder (30 s of lease left) releases before
    anybody has noticed: Redis reaches no one, so the waiter must look as soon as its connection ends."""
    session, holder, waiter = stored("s"), node(), node()
    turns = Turns(session, LONG, PATIENT)
    async with holder.session_lock("s", lease=LONG):
        tasks = [asyncio.ensure_future(turns.take(waiter)) for _ in range(3)]
        await session.until(lambda s: len(s.waiting) == 3)
        for _ in range(kills - 1):
            await kill_pushes(session)
        await session.until(lambda s: len(s.client.client_list(_type="pubsub")) == 1)
        # Nothing of this test's loop runs between the kill and the release's first byte.
        assert session.client.client_kill_filter(_type="pubsub") == 1
        released = session.now_us / 1e6
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert turns.began[0] - released < PROMISED + SCHEDULING
    assert session.data == {"n": 3}
    assert session.free


async def kill_pushes(session: Stored) -> None:
    await session.until(lambda s: len(s.client.client_list(_type="pubsub")) == 1)
    assert session.client.client_kill_filter(_type="pubsub") == 1
    await session.until(lambda s: len(s.client.client_list(_type="pubsub")) == 1)


async def test_killed_with_the_grant_in_it(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 14: the push connection breaks when the grant has been sent into it: the waiter looks at once and finds
    that it is the holder."""
    session, holder, waiter = stored("s"), node(), node(proxy.url)
    turns = Turns(session, LONG, PATIENT)
    lost = proxy.drop_pushes()
    async with holder.session_lock("s", lease=LONG):
        task = asyncio.ensure_future(turns.take(waiter))
        await session.until(lambda s: len(s.waiting) == 1)
    released = session.now_us / 1e6
    await lost.wait()
    proxy.cut_all()
    await asyncio.wait_for(task, 5)
    assert turns.began[0] - released < PROMISED + SCHEDULING


@pytest.mark.slow
async def test_subscribing_fails_for_a_moment(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 14: all connections break and there are no new ones for a moment, so that subscribing again fails: it is
    tried once more before long, not at the lease's end."""
    session, holder, waiter = stored("s"), node(), node(proxy.url)
    turns = Turns(session, LONG, PATIENT)
    async with holder.session_lock("s", lease=LONG):
        task = asyncio.ensure_future(turns.take(waiter))
        await session.until(lambda s: len(s.waiting) == 1 and waiter.runtime().wakeup.waiting == 1)
        proxy.refuse()
        proxy.cut_all()
        await session.until(lambda s: not s.client.client_list(_type="pubsub"))
        await asyncio.sleep(0.1)  # how long there are none
        proxy.accept()
        await session.until(lambda s: len(s.client.client_list(_type="pubsub")) == 1, within=3)
    released = session.now_us / 1e6
    await asyncio.wait_for(task, 5)
    assert turns.began[0] - released < PROMISED + SCHEDULING


async def test_the_push_overtakes_the_reply(node: MakeGuard, stored: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 14: the grant is pushed on one connection before the reply "queued" has been read on the other: it is kept
    for the waiter that is about to be."""
    session, holder, waiter = stored("s"), node(), node()
    turns = Turns(session, LONG, PATIENT)
    once, told = RedisExecutor.run, Wakeup.dispatch
    queued, pushed = asyncio.Event(), asyncio.Event()

    async def slow(self: RedisExecutor, call: Call[Any], *limit: float) -> Any:
        reply = await once(self, call, *limit)
        if isinstance(reply, Queued):
            queued.set()
            await pushed.wait()
        return reply

    def quick(self: Wakeup, push: Handover) -> None:
        told(self, push)
        pushed.set()

    monkeypatch.setattr(Wakeup, "dispatch", quick)
    await waiter.inspect("s")
    assert await waiter.runtime().wakeup.pushes.listen(keys_for("sl", "s"), "t", 5)
    monkeypatch.setattr(RedisExecutor, "run", slow)
    async with holder.session_lock("s", lease=LONG):
        task = asyncio.ensure_future(turns.take(waiter))
        await queued.wait()
    released = session.now_us / 1e6
    await asyncio.wait_for(task, 3)
    assert turns.began[0] - released < PROMISED + SCHEDULING


async def test_killed_while_it_looks(node: MakeGuard, stored: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attack 14: the push connection ends once more while the waiter asks Redis because it had ended: it subscribes and
    asks again after that."""
    session, holder, waiter = stored("s"), node(), node()
    turns = Turns(session, LONG, PATIENT)
    once = RedisExecutor.run
    killed = asyncio.Event()

    async def killed_meanwhile(self: RedisExecutor, call: Call[Any], *limit: float) -> Any:
        reply = await once(self, call, *limit)
        if not killed.is_set() and isinstance(reply, Queued):
            killed.set()
            pushes = waiter.runtime().wakeup.pushes
            assert session.client.client_kill_filter(_type="pubsub") == 1
            while pushes.hears(keys_for("sl", "s")):
                await asyncio.sleep(0)
        return reply

    async with holder.session_lock("s", lease=LONG):
        task = asyncio.ensure_future(turns.take(waiter))
        await session.until(lambda s: len(s.waiting) == 1 and waiter.runtime().wakeup.waiting == 1)
        monkeypatch.setattr(RedisExecutor, "run", killed_meanwhile)
        assert session.client.client_kill_filter(_type="pubsub") == 1
        await killed.wait()
        await session.until(lambda s: len(s.client.client_list(_type="pubsub")) == 1, within=1)
    released = session.now_us / 1e6
    await asyncio.wait_for(task, 3)
    assert turns.began[0] - released < PROMISED + SCHEDULING


@pytest.mark.slow
@pytest.mark.parametrize("wait", [PATIENT, WaitPolicy()])
async def test_the_server_pauses(node: MakeGuard, stored: Look, wait: WaitPolicy) -> None:
    """Attack 14: CLIENT PAUSE for longer than the lease: its holder stops in time and saves nothing, the waiter has
    the lock when the server goes on."""
    session, holder, waiter = stored("s"), node(), node()
    turns = Turns(session, LONG, wait)
    with pytest.raises(LeaseLost):
        async with holder.session_lock("s", lease=LeasePolicy(ttl=0.4)) as held:
            held["late"] = 1
            task = asyncio.ensure_future(turns.take(waiter))
            await session.until(lambda s: len(s.waiting) == 1)
            began, goes_on = time.monotonic(), session.now_us / 1e6 + 1.2
            session.client.client_pause(1200)
            try:
                await asyncio.sleep(60)
            finally:
                stopped = time.monotonic()
    assert stopped - began < 0.4 + SCHEDULING
    await task
    assert turns.began[0] < goes_on + PROMISED + SCHEDULING
    assert session.data == {"n": 1}
    assert session.free


async def test_subscribing_is_forbidden(own_server: Callable[..., EmbeddedServer], node: MakeGuard) -> None:
    """Attack 14: a user who may not subscribe: waiters look by themselves, no update is lost, none waits for ever."""
    server = own_server(tcp=True)
    if server.version < (6,):
        pytest.skip("ACLs came with Redis 6")
    with connect(server.url) as client:
        client.execute_command("ACL", "SETUSER", "deaf", "on", ">secret", "~*", "+@all", "-subscribe")
        if server.version >= (6, 2):
            client.execute_command("ACL", "SETUSER", "deaf", "allchannels")
    url = server.url.replace("redis://", "redis://deaf:secret@")
    lease = LeasePolicy(ttl=0.6, claim=0.3, renew=False)
    with Stored(server.url, "s") as session:
        turns = Turns(session, lease, PATIENT)
        guards = [node(url), node(url)]
        await asyncio.gather(*(turns.take(guard) for guard in guards for _ in range(3)))
        assert session.data == {"n": 6}
        assert turns.longest_gap() < lease.ttl + PROMISED + SCHEDULING


async def test_a_push_that_is_read_too_late_is_not_trusted(
    node: MakeGuard, stored: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack 14: the waiter reads its push when the claim is over and another one holds: it asks again instead of
    starting, and has its turn later."""
    session, holder, other, waiter = stored("s"), node(), node(), node()
    turns = Turns(session, LeasePolicy(ttl=30, claim=0.3, renew=False), PATIENT)
    once, told = RedisExecutor.run, Wakeup.dispatch
    unread: list[Callable[[], None]] = []
    asked: list[Call[Any]] = []

    def unread_yet(self: Wakeup, push: Handover) -> None:
        if not asked:
            unread.append(lambda: told(self, push))
        else:
            told(self, push)

    def not_now(self: Waiter) -> bool:
        self._look = False
        return False

    async def counted(self: RedisExecutor, call: Call[Any], *limit: float) -> Any:
        asked.append(call)
        return await once(self, call, *limit)

    monkeypatch.setattr(Wakeup, "dispatch", unread_yet)
    async with holder.session_lock("s", lease=LONG):
        task = asyncio.ensure_future(turns.take(waiter))
        await session.until(lambda s: len(s.waiting) == 1)
        # It does not look by itself: it is as if its process stood still.
        monkeypatch.setattr(Waiter, "should_look", not_now)
    await session.until(lambda s: s.lock is None and len(unread) == 1)
    async with other.session_lock("s", lease=LONG, wait=0) as held:
        held["n"] = held.get("n", 0) + 1
        monkeypatch.setattr(RedisExecutor, "run", counted)
        unread.pop()()
        await session.until(lambda _: bool(turns.began or asked))
        assert not turns.began
        monkeypatch.undo()
    await asyncio.wait_for(task, 5)
    assert session.data == {"n": 2}


async def test_a_push_that_comes_too_late_is_not_trusted(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 14: a waiter stands still while the lock is handed to it, for longer than its claim; when it reads the
    push another one holds. It asks again instead of starting, and has its turn later: both updates count."""
    session, holder, other = stored("s"), node(), node()
    async with Worker(redis_url, lease={"ttl": 30, "claim": 0.3}) as worker:
        async with holder.session_lock("s"):
            worker.queue("s")
            await session.until(lambda s: len(s.waiting) == 1)
            worker.pause()
        async with other.session_lock("s", wait=5, lease=LONG) as held:
            held["n"] = held.get("n", 0) + 1
            worker.resume()
            await session.until(lambda s: len(s.waiting) == 1)
        await session.until(lambda s: s.data == {"n": 2}, within=3)
        await session.until(lambda s: s.free, within=3)
