"""Each thing that happens is told to a guard's observer, as it happens."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import pytest

from sessionlock import (
    CodecError,
    LeaseLost,
    LeasePolicy,
    Quorum,
    ReentrantLock,
    SessionConflict,
    SessionGuard,
    SessionNotFound,
    SessionPolicy,
    WaitTimedOut,
)
from sessionlock.observe import (
    ChangesMerged,
    ChangesRefused,
    ChangesSaved,
    Event,
    LockAbandoned,
    LockAsked,
    LockGranted,
    LockHandedOver,
    LockLost,
    LockQueued,
    LockRefused,
    LockReleased,
    LockRenewed,
    LockTimedOut,
)
from sessionlock.protocol.keys import keys_for
from tests.harness.faulty import FaultyServer
from tests.harness.polling import eventually

pytestmark = pytest.mark.anyio

SID = "a secret that must not be told"
DIGEST = keys_for("sl", SID).digest
E = TypeVar("E", bound=Event)


class Told(list[Event]):
    """All events, in order."""

    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self]

    def only(self, kind: type[E]) -> E:
        (found,) = (event for event in self if isinstance(event, kind))
        return found


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def guard(redis_url: str, told: Told) -> AsyncIterator[SessionGuard]:
    async with SessionGuard.from_url(redis_url, label="n1", observer=told.append) as guard:
        yield guard
    for event in told:
        assert event.session == DIGEST
        assert SID not in repr(event)


@pytest.fixture
async def other(redis_url: str) -> AsyncIterator[SessionGuard]:
    """Another node, whom nobody observes."""
    async with SessionGuard.from_url(redis_url, label="n2") as guard:
        yield guard


async def test_an_uncontended_request(guard: SessionGuard, told: Told) -> None:
    async with guard.session_lock(SID, label="GET /") as session:
        session["a"] = session["b"] = 1
    assert told.kinds() == [LockAsked, LockGranted, ChangesSaved, LockReleased]
    assert {event.label for event in told} == {"n1 GET /"}
    assert session.lease is not None
    granted, saved = told.only(LockGranted), told.only(ChangesSaved)
    assert granted.fencing_token == session.lease.fencing_token
    assert 0 < granted.waited < 5
    assert (saved.keys, saved.version) == (2, 1)
    assert 0 < told.only(LockReleased).held < 5


async def test_name_was_the_name_of_label(redis_url: str, told: Told) -> None:
    async with SessionGuard.from_url(redis_url, name="old", observer=told.append) as guard:
        async with guard.session_lock(SID, name="GET /"):
            pass
        async with guard.lock(SID, name="GET /"):
            pass
    assert {event.label for event in told} == {"old GET /"}


async def test_nothing_changed(guard: SessionGuard, told: Told) -> None:
    async with guard.session_lock(SID):
        pass
    assert told.kinds() == [LockAsked, LockGranted, LockReleased]


async def test_a_lock_alone(guard: SessionGuard, told: Told) -> None:
    async with guard.lock(SID):
        pass
    assert told.kinds() == [LockAsked, LockGranted, LockReleased]


async def test_queued_and_handed_over(guard: SessionGuard, other: SessionGuard, told: Told) -> None:
    async def wait() -> None:
        async with guard.session_lock(SID):
            pass

    async with other.session_lock(SID, label="holds"):
        waiting = asyncio.create_task(wait())
        await eventually(lambda: LockQueued in told.kinds(), "it is told of the queue")
        assert told.kinds() == [LockAsked, LockQueued]
    await waiting
    assert told.kinds() == [LockAsked, LockQueued, LockHandedOver, LockGranted, LockReleased]
    queued = told.only(LockQueued)
    assert (queued.ahead, queued.holder) == (0, "n2 holds")
    assert queued.ticket > 0


async def test_timed_out(guard: SessionGuard, other: SessionGuard, told: Told) -> None:
    async with other.session_lock(SID):
        with pytest.raises(WaitTimedOut) as error:
            async with guard.session_lock(SID, wait=0.1):
                pass
    assert told.kinds() == [LockAsked, LockQueued, LockTimedOut]
    timed_out = told.only(LockTimedOut)
    assert timed_out.error is error.value
    assert 0.1 <= timed_out.waited < 5


async def test_refused(guard: SessionGuard, told: Told) -> None:
    with pytest.raises(SessionNotFound) as error:
        async with guard.session_lock(SID, missing="reject"):
            pass
    assert told.kinds() == [LockAsked, LockRefused]
    assert told.only(LockRefused).error is error.value


async def test_whoever_holds_it_already(guard: SessionGuard, told: Told) -> None:
    async with guard.session_lock(SID):
        with pytest.raises(ReentrantLock):
            async with guard.session_lock(SID):
                pass
    assert told.kinds() == [LockAsked, LockGranted, LockAsked, LockRefused, LockReleased]


async def test_abandoned(guard: SessionGuard, other: SessionGuard, told: Told) -> None:
    async with other.session_lock(SID):
        waiting = asyncio.ensure_future(guard.session_lock(SID).__aenter__())
        await eventually(lambda: LockQueued in told.kinds(), "it waits")
        waiting.cancel()
        await asyncio.wait([waiting])
    assert told.kinds() == [LockAsked, LockQueued, LockAbandoned]


async def test_renewed(guard: SessionGuard, told: Told) -> None:
    async with guard.session_lock(SID, lease=LeasePolicy(ttl=1.0)):
        await eventually(lambda: LockRenewed in told.kinds(), "the lease was renewed")
    assert told.only(LockRenewed).ttl == 1.0


async def test_lost(guard: SessionGuard, other: SessionGuard, told: Told) -> None:
    lease = LeasePolicy(ttl=0.6)
    with pytest.raises(LeaseLost):
        async with guard.session_lock(SID, lease=lease) as session:
            holder = (await other.inspect(SID)).holder
            assert holder is not None
            assert await other.force_release(SID, holder.token)
            await asyncio.sleep(10)
    assert session.lease is not None
    lost = told.only(LockLost)
    assert lost.fencing_token == session.lease.fencing_token
    assert lost.because == session.lease.lost_because
    assert told.kinds()[-3:] == [LockLost, LockReleased, ChangesRefused]
    assert isinstance(told.only(ChangesRefused).error, LeaseLost)


async def test_refused_at_the_end(guard: SessionGuard, told: Told) -> None:
    """The block is left for the save, and again without it: the lock is released once."""
    with pytest.raises(CodecError) as error:
        async with guard.session_lock(SID) as session:
            session["what"] = object()
    assert Counter(told.kinds()) == {LockAsked: 1, LockGranted: 1, ChangesRefused: 1, LockReleased: 1}
    assert told.only(ChangesRefused).error is error.value


async def test_merged_under_the_lock(guard: SessionGuard, other: SessionGuard, told: Told) -> None:
    policy = SessionPolicy(merge={"n": "counter"})
    async with guard.session_lock(SID, session=policy) as session:
        session["n"] = 1
        async with other.session_lock(SID, mode="optimistic") as theirs:
            theirs["n"] = 5
    assert told.kinds() == [LockAsked, LockGranted, ChangesMerged, ChangesSaved, LockReleased]
    assert told.only(ChangesMerged).keys == 1


async def test_without_the_lock(guard: SessionGuard, other: SessionGuard, told: Told) -> None:
    policy = SessionPolicy(merge={"n": "counter"})
    async with guard.session_lock(SID, mode="optimistic", session=policy) as session:
        session["n"] = 1
        async with other.session_lock(SID, mode="optimistic") as theirs:
            theirs["n"] = 5
    assert told.kinds() == [ChangesMerged, ChangesSaved]
    assert told.only(ChangesSaved).keys == 1


async def test_a_commit_that_clashes(guard: SessionGuard, other: SessionGuard, told: Told) -> None:
    with pytest.raises(SessionConflict) as error:
        async with guard.session_lock(SID, mode="optimistic") as session:
            session["n"] = 1
            async with other.session_lock(SID, mode="optimistic") as theirs:
                theirs["n"] = 5
    assert told.kinds() == [ChangesRefused]
    assert told.only(ChangesRefused).error is error.value


async def test_a_quorum(own_server: Callable[..., FaultyServer], redis_url: str) -> None:
    """It has no single handing over; all the rest is told as by one server."""
    told = Told()
    quorum = Quorum(*(own_server(tcp=True).tcp_url for _ in range(3)), rejoin_after=0)
    options: dict[str, Any] = {"quorum": quorum, "name": "n1", "observer": told.append}
    async with SessionGuard.from_url(redis_url, **options) as guard:

        async def wait() -> None:
            async with guard.session_lock(SID) as session:
                session["n"] = 1

        async with guard.session_lock(SID):
            waiting = asyncio.create_task(wait())
            await eventually(lambda: LockQueued in told.kinds(), "it is told of the queue")
        await waiting
    assert told.only(LockQueued).holder == "n1"
    assert Counter(told.kinds()) == {LockAsked: 2, LockGranted: 2, LockQueued: 1, ChangesSaved: 1, LockReleased: 2}


async def test_an_observer_that_fails_harms_nobody(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "sessionlock")

    def fail(event: Event) -> None:
        raise RuntimeError("no")

    async with SessionGuard.from_url(redis_url, observer=fail) as guard:
        async with guard.session_lock(SID) as session:
            session["n"] = 1
        assert (await guard.read(SID))["n"] == 1
    assert caplog.messages == [
        f"an observer failed at {kind}" for kind in ("LockAsked", "LockGranted", "ChangesSaved", "LockReleased")
    ]


async def test_a_counter_of_lost_leases(redis_url: str, other: SessionGuard) -> None:
    """What the module's docstring promises to be enough."""
    lost: Counter[str] = Counter()

    def count(event: Event) -> None:
        if isinstance(event, LockLost):
            lost[event.node] += 1

    async with SessionGuard.from_url(redis_url, label="n1", observer=count) as guard:
        with pytest.raises(LeaseLost):
            async with guard.session_lock(SID, lease=LeasePolicy(ttl=0.3, renew=False)):
                await asyncio.sleep(10)
    assert lost == {"n1": 1}
