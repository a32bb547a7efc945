"""Whatever arrives around the end of a lease: renewals, forced releases, the end of the session itself."""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import suppress
from typing import Any

import pytest
from redis import Redis
from tenacity import stop_after_delay, wait_fixed

from sessionlock import (
    Lease,
    LeaseLost,
    LeasePolicy,
    SessionDestroyed,
    SessionGuard,
    SessionLockError,
    SessionNotFound,
    SessionPolicy,
    StaleFencingToken,
    WaitPolicy,
)
from sessionlock.protocol.calls import Abandon, Acquire, Call, Release, Renew
from sessionlock.protocol.changes import Change
from sessionlock.protocol.commands import in_full
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.record_calls import ForceRelease
from tests.harness.commands import keys_without_ttl, low_of, token_of, who_is
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look, Stored

pytestmark = pytest.mark.anyio

SESSION = SessionPolicy()
TTL_MS = {"A": 40_000, "B": 20_000}


# --- renewals


class Race:
    """Raw script calls of two acquisitions, and a model of who must hold the lock after each."""

    def __init__(self, redis: Redis, session: Stored) -> None:
        self._redis = redis
        self._stored = session
        redis.flushdb()
        self.holder: str | None = None
        self.left: dict[str | None, int] = {}
        self.over: set[str] = set()
        self._fences = dict.fromkeys("AB", 0)
        self.step("acquire A")

    def step(self, what: str) -> None:
        verb, token = what.split()
        getattr(self, verb)(token)
        lock = self._stored.lock
        assert (lock and who_is(lock)) == self.holder, what
        if self.holder is not None:
            left = int(self._redis.pttl(self._stored.keys.lock))
            assert self.left[self.holder] - 5_000 < left <= self.left[self.holder], f"{what}: {left}"

    def call(self, call: Call[Any]) -> Any:
        answer: Any = self._redis.eval(*in_full(call)[1:])
        return answer

    def acquire(self, token: str) -> None:
        policy = LeasePolicy(ttl=TTL_MS[token] / 1000)
        reply = self.call(Acquire(self._stored.keys, token_of(token), policy, SESSION, queueing=False))
        expected = (
            b"granted"
            if self.holder == token
            else b"already"
            if token in self.over
            else b"granted"
            if self.holder is None
            else b"busy"
        )
        short = isinstance(reply, bytes)  # a free lock of a record: its fence alone
        assert (b"granted" if short else reply[0]) == expected
        if expected == b"granted":
            self.holder, self.left[token], self._fences[token] = token, TTL_MS[token], int(reply if short else reply[1])

    def renew(self, token: str) -> None:
        (answer,) = self.call(Renew([(self._stored.keys, token_of(token), 30_000)]))
        assert int(answer) == (self.holder == token)
        if self.holder == token:
            self.left[token] = max(self.left[token], 30_000)  # none is made shorter

    def release(self, token: str) -> None:
        change = Change("s", b"by", b'"%s"' % token.encode(), "*")
        fence = self._fences[token]
        before = self._stored.data
        reply = self.call(
            Release(self._stored.keys, token_of(token), fence, low_of(token_of(token)), "", SESSION, [change])
        )
        if self.holder == token:
            assert reply[0] == b"saved" or reply.isdigit(), "its version, or with what is handed on"
            assert self._stored.data == {"by": token}
            self.holder = None
            self.over.add(token)
        else:
            assert reply[0] == (b"already" if token in self.over else b"lost")
            assert self._stored.data == before

    def abandon(self, token: str) -> None:
        reply = self.call(Abandon(self._stored.keys, token_of(token), low_of(token_of(token))))
        assert reply[0] == (b"handed-on" if self.holder == token else b"left")
        self.over.add(token)
        self.holder = None if self.holder == token else self.holder

    def force_release(self, token: str) -> None:
        reply = self.call(ForceRelease(self._stored.keys, token_of(token)))
        assert reply[0] == (b"released" if self.holder == token else b"not-holder")
        self.holder = None if self.holder == token else self.holder

    def lapse(self, token: str) -> None:
        if self.holder == token:
            self._redis.delete(self._stored.keys.lock)
            self.holder = None


@pytest.mark.parametrize("end", ["release", "abandon", "force_release", "lapse"])
async def test_a_renewal_and_the_end_of_its_lease_in_any_order(stored: Look, end: str) -> None:
    """Attack 24: two renewals of A, the end of A, and B's acquire and renewal, in each order: a renewal never brings
    a lease back, never takes a free lock, never makes one shorter, and never touches another holder's time."""
    session = stored("s")
    steps = (f"{end} A", "renew A", "acquire B", "renew A", "renew B")
    orders = sorted(set(itertools.permutations(steps)))
    assert len(orders) == 60
    for order in orders:
        race = Race(session.client, session)
        for what in order:
            race.step(what)


async def test_ends_of_a_lease_in_any_order(stored: Look) -> None:
    """Attack 24: the same with two ways in which A can end, its acquire once more, and B."""
    session = stored("s")
    for order in itertools.permutations(("release A", "abandon A", "acquire A", "renew A", "acquire B")):
        race = Race(session.client, session)
        for what in (*order, "release B"):
            race.step(what)


@pytest.mark.parametrize("first", ["release", "renew"])
async def test_a_renewal_and_the_release_on_the_wire(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, first: str
) -> None:
    """Attack 24: the timer of the watchdog fires while the release is on its way, or the body ends while a renewal is:
    the lock stays free, and nothing is reported as lost."""
    guard, session, leave = node(proxy.url), stored("s"), asyncio.Event()
    leases: list[Lease] = []

    async def hold() -> None:
        async with guard.session_lock("s", lease=LeasePolicy(ttl=0.9)) as held:
            assert held.lease is not None
            leases.append(held.lease)
            held["n"] = 1
            await leave.wait()

    parked = proxy.hold_requests(calls_of(first))
    holding = asyncio.ensure_future(hold())
    await proxy.until(lambda p: p.replies_seen > 0 and leases != [])
    if first == "release":
        leave.set()
    await parked.wait()
    sent = proxy.requests_seen
    leave.set()
    await proxy.until(lambda p: p.requests_seen > sent)
    assert await proxy.let_go() >= 2
    await holding
    assert not leases[0].is_lost
    assert session.data == {"n": 1}
    assert session.free


# --- force-release


async def test_of_ten_forced_releases_one_wins(node: MakeGuard, stored: Look) -> None:
    """Attack 25: ten administrators force-release the holder that they all saw, at once: one is told that he did it,
    the lock moves by one waiter, who keeps it; the old holder is told at once and its save is refused."""
    session, nodes = stored("s"), [node() for _ in range(5)]
    waiters: list[asyncio.Task[None]] = []
    ended = {"first": asyncio.Event(), "second": asyncio.Event()}

    async def wait_and_hold(name: str) -> None:
        async with nodes[0].session_lock("s", wait=15) as mine:
            mine["by"] = name
            await ended[name].wait()

    with pytest.raises(StaleFencingToken) as caught:
        async with nodes[1].session_lock("s") as held:
            assert held.lease is not None
            for name in ended:
                waiters.append(asyncio.ensure_future(wait_and_hold(name)))
                await session.until(lambda s: len(s.waiting) == len(waiters))
            await _heard_once(nodes[1])
            first, second = session.waiting
            info = await nodes[2].inspect("s")
            assert info.holder is not None
            held["late"] = 1
            token = info.holder.token
            forced = asyncio.gather(*(nodes[number % 5].force_release("s", token) for number in range(10)))
            await asyncio.wait_for(asyncio.Event().wait(), 1)  # told by a push, it is cancelled long before
    assert sorted(await forced) == [False] * 9 + [True]
    assert caught.value.current > caught.value.ours
    assert session.lock == first
    assert session.waiting == [second]
    assert session.data == {}
    for name in ended:
        ended[name].set()
    await asyncio.gather(*waiters)
    assert session.data == {"by": "second"}
    assert session.free


async def _heard_once(guard: SessionGuard) -> None:
    """Let it subscribe, as it does when one of its requests has to wait for the first time."""
    assert await guard.runtime().wakeup.pushes.listen(keys_for("sl", "s"), "t", 5)


async def test_forced_releases_of_an_older_holder(node: MakeGuard, stored: Look) -> None:
    """Attack 25: ten forced releases name a holder that has ended meanwhile: the present one is left alone."""
    guard, session = node(), stored("s")
    async with guard.session_lock("s") as old:
        assert old.lease is not None
    async with guard.session_lock("s") as present:
        assert present.lease is not None
        won = await asyncio.gather(*(guard.force_release("s", old.lease.token) for _ in range(10)))
        assert won == [False] * 10
        assert session.lock == present.lease.token
        present["n"] = 1
    assert session.data == {"n": 1}


# --- destroyed under the lock


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("saving", ["at the end", "amid", "as incr", "at once"])
async def test_a_session_destroyed_under_its_lock(
    redis_url: str, node: MakeGuard, stored: Look, known: bool, saving: str
) -> None:
    """Attack 26: somebody logs out while a request holds the session, an old or a new one: its late save is refused
    with SessionDestroyed in whatever way it saves, and the session stays gone."""
    policy = SessionPolicy(save="immediate") if saving == "at once" else SessionPolicy()
    guard, other, session = node(session=policy), node(), stored("s")
    if known:
        await other.create({"n": 1}, sid="s")
    with pytest.raises(SessionDestroyed):
        async with guard.session_lock("s") as held:
            assert await other.destroy("s") is known
            if saving == "as incr":
                await held.incr("n")
            held["late"] = 1
            if saving == "amid":
                await held.save()
    assert session.data == {}
    assert session.free
    with pytest.raises(SessionDestroyed):
        await other.read("s")
    with pytest.raises(SessionDestroyed):
        async with other.session_lock("s"):
            pass
    assert keys_without_ttl(redis_url) == []


async def test_a_save_without_the_lock_after_destroying(node: MakeGuard, stored: Look) -> None:
    """Attack 26: nor do commits, increments and creations without the lock bring it back."""
    guard, session = node(), stored("s")
    await guard.create({"n": 1}, sid="s")
    with pytest.raises(SessionDestroyed):
        async with guard.session_lock("s", mode="optimistic") as loaded:
            loaded["n"] = 2
            await guard.destroy("s")
    with pytest.raises(SessionDestroyed):
        await guard.incr("s", "n")
    with pytest.raises(SessionDestroyed):
        await guard.transaction("s", lambda session: session.update(n=3))
    with pytest.raises(SessionLockError):
        await guard.create({"n": 4}, sid="s")
    assert session.data == {}


@pytest.mark.parametrize("known", [True, False])
async def test_a_tombstone_that_ends_before_the_holder(node: MakeGuard, stored: Look, known: bool) -> None:
    """Attack 26: the holder works for longer than the tombstone stays: what it saves then is refused, too."""
    guard, other, session = node(), node(session=SessionPolicy(tombstone=0.05)), stored("s")
    if known:
        await other.create({"n": 1}, sid="s")
    with pytest.raises(SessionNotFound):
        async with guard.session_lock("s") as held:
            await other.destroy("s")
            with suppress(AssertionError):
                # Should it stay as long as the lease, that is well, too.
                await session.until(lambda s: not s.client.hexists(s.keys.session, "#destroyed"), within=0.2)
            with pytest.raises(SessionNotFound):
                await held.regenerate()  # nor is a new id given out for it
            held["late"] = 1
    assert session.data == {}


async def test_waiters_are_told_at_once_that_it_was_destroyed(node: MakeGuard, stored: Look) -> None:
    """Attack 26: fifty waiters on two nodes learn it while the holder still holds, long before their next look."""
    session, nodes = stored("s"), (node(), node())
    seldom = WaitPolicy(stop_after_delay(15), wait_fixed(15))
    with pytest.raises(SessionDestroyed):
        async with nodes[0].session_lock("s"):
            waiters = [asyncio.ensure_future(_wait(nodes[number % 2], seldom)) for number in range(50)]
            await session.until(lambda s: len(s.waiting) == 50)
            began = time.monotonic()
            await nodes[0].destroy("s")
            ended = await asyncio.gather(*waiters, return_exceptions=True)
            assert [type(error) for error in ended] == [SessionDestroyed] * 50
            assert time.monotonic() - began < 1
            assert session.lock is not None
            assert session.waiting == []
    assert session.free


async def _wait(guard: SessionGuard, wait: WaitPolicy) -> None:
    async with guard.session_lock("s", wait=wait):
        raise LeaseLost("it was granted")
