"""Who is waited for and why something was refused; calls and outages; several observers at once."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from functools import partial
from threading import Thread
from typing import Any, TypeVar, cast

import pytest

from sessionlock import (
    ConfigurationError,
    LeaseLost,
    LeasePolicy,
    QueueFull,
    RedisUnavailable,
    ReentrantLock,
    Session,
    SessionConflict,
    SessionDestroyed,
    SessionGuard,
    SessionNotFound,
    SessionTooLarge,
    WaitPolicy,
)
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.observe import (
    KINDS,
    CallAnswered,
    CallRepeated,
    ChangesMerged,
    ChangesRefused,
    ChangesSaved,
    Event,
    LoadRefused,
    LockGranted,
    LockQueued,
    LockRefused,
    LockReleased,
    LockTimedOut,
    OutageBegan,
    OutageEnded,
    node_of,
    route_of,
)
from sessionlock.policies import SessionPolicy
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.labels import told_apart, with_trace
from sessionlock.selfcalls.nesting import hold_here, refuse_nested
from tests.harness.commands import connect
from tests.harness.deployments import MakeGuard
from tests.harness.faulty import FaultyServer
from tests.harness.polling import eventually
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of

pytestmark = pytest.mark.anyio

E = TypeVar("E", bound=Event)
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
OTHER = f"00-{'c' * 32}-{'d' * 16}-01"


class Told(list[Event]):
    """All events, in order; of a request that is part of ``trace``."""

    def __init__(self, trace: str = "") -> None:
        super().__init__()
        self.trace = trace

    def __call__(self, event: Event) -> None:
        self.append(event)

    def traceparent(self) -> str:
        return self.trace

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self if isinstance(event, kind)]

    def only(self, kind: type[E]) -> E:
        (found,) = self.of(kind)
        return found


def holder_of(url: str, sid: str) -> str:
    """As it stands in Redis, behind the channel."""
    with connect(url) as client:
        record: bytes = client.hget(keys_for("sl", sid).session, "#holder")
        return record.decode().split(" ", 4)[4]


# --- who is waited for


@pytest.mark.parametrize("waiters", [1, 12])
async def test_a_wait_is_put_down_to_its_holder(redis_url: str, waiters: int) -> None:
    """By route, node and trace; whether the holder is of the same process, and however many wait."""
    theirs, ours = Told(TRACE), Told(OTHER)
    async with (
        SessionGuard.from_url(redis_url, label="n1", observer=theirs) as holder,
        SessionGuard.from_url(redis_url, label="n2", observer=ours) as guard,
    ):

        async def wait() -> None:
            async with guard.session_lock("s", label="GET /cart", wait=30):
                pass

        async with holder.session_lock("s", label="POST /pay/{id}"):
            assert holder_of(redis_url, "s") == f"n1 POST /pay/{{id}} traceparent={TRACE}"
            tasks = [asyncio.ensure_future(wait()) for _ in range(waiters)]
            await eventually(lambda: len(ours.of(LockQueued)) == waiters, "all wait")
        await asyncio.gather(*tasks)
    first = ours.of(LockQueued)[0]
    assert (first.holder, first.trace) == ("n1 POST /pay/{id}", TRACE)
    assert (node_of(first.holder or ""), route_of(first.holder or "")) == ("n1", "POST /pay/{id}")
    granted = ours.of(LockGranted)
    assert [event.trace in (TRACE, OTHER) for event in granted] == [True] * waiters
    assert {event.holder for event in granted} <= {"n1 POST /pay/{id}", "n2 GET /cart"}
    assert theirs.only(LockGranted).holder is None
    assert {(event.node, event.route) for event in ours} == {("n2", "GET /cart")}


async def test_nobody_else_sees_the_trace(redis_url: str) -> None:
    """It is for machines: errors, inspect and those who take a lock by force are told the label."""
    async with (
        SessionGuard.from_url(redis_url, label="n1", observer=Told(TRACE)) as holder,
        SessionGuard.from_url(redis_url, label="n2", observer=Told()) as guard,
        holder.session_lock("s", label="POST /pay"),
    ):
        waiting = asyncio.ensure_future(holder.session_lock("s", label="GET /x", wait=30).__aenter__())
        seen = await guard.inspect("s")
        while not seen.waiters:
            seen = await guard.inspect("s")
        assert seen.holder is not None
        assert (seen.holder.label, seen.waiters) == ("n1 POST /pay", ("n1 GET /x",))
        with pytest.raises(QueueFull) as error:
            async with guard.session_lock("s", wait=WaitPolicy.seconds(1, max_waiters=1)):
                pass
        assert error.value.holder == "n1 POST /pay"
        assert "traceparent" not in str(error.value)
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_without_a_trace_not_a_byte_more(redis_url: str) -> None:
    async with (
        SessionGuard.from_url(redis_url, label="n1", observer=[Told(), print_nothing]) as guard,
        guard.session_lock("s", label="POST /pay"),
    ):
        assert holder_of(redis_url, "s") == "n1 POST /pay"


def print_nothing(event: Event) -> None:
    """Traces nothing."""


def test_what_stands_in_a_label() -> None:
    assert told_apart(with_trace("n1 POST /pay", TRACE)) == ("n1 POST /pay", TRACE)
    assert told_apart(with_trace("n1", "")) == ("n1", "")
    for said in ("n1 traceparent=", "n1 traceparent=00-zz", f"n1 GET /?x=traceparent={TRACE}", f"n1{TRACE}"):
        assert told_apart(said) == (said, "")


async def test_a_node_is_one_word(redis_url: str) -> None:
    """Or its second word would be taken for the route."""
    told = Told()
    guard = SessionGuard.from_url(redis_url, label="shop 1", observer=told)
    async with guard, guard.session_lock("s", label="POST /pay"):
        pass
    assert {(event.node, event.route) for event in told} == {("shop_1", "POST /pay")}


async def test_who_does_not_wait_is_told_the_holder(redis_url: str, elsewhere: SessionGuard) -> None:
    told = Told()
    async with SessionGuard.from_url(redis_url, observer=told) as guard, elsewhere.session_lock("s", label="GET /x"):
        with pytest.raises(Exception, match="does not wait"):
            async with guard.session_lock("s", wait=0):
                pass
    assert route_of(told.only(LockTimedOut).holder or "") == "GET /x"


# --- each refused request


async def test_under_the_lock(redis_url: str, elsewhere: SessionGuard) -> None:
    """What becomes 409 or 413, with its error; once each."""
    told = Told()
    policy = SessionPolicy(max_field=50)
    async with SessionGuard.from_url(redis_url, session=policy, observer=told) as guard:
        with pytest.raises(SessionConflict):
            async with guard.session_lock("s") as session:
                session["n"] = session.get("n", 0) + 1
                async with elsewhere.session_lock("s", mode="optimistic") as theirs:
                    theirs["n"] = 7
        with pytest.raises(SessionTooLarge):
            async with guard.session_lock("s") as session:
                session["pad"] = "x" * 100
        with pytest.raises(SessionTooLarge):
            async with guard.session_lock("s") as session:
                await session.incr("x" * 100)
        with pytest.raises(SessionDestroyed):
            async with guard.session_lock("s") as session:
                session["n"] = 8
                await elsewhere.destroy("s")
        with pytest.raises(LeaseLost):
            async with guard.session_lock("t", lease=LeasePolicy(on_lost="flag")) as session:
                session["n"] = 1
                assert session.lease is not None
                session.lease.mark_lost("a test says so")
    kinds = [type(event.error) for event in told.of(ChangesRefused)]
    assert kinds == [SessionConflict, SessionTooLarge, SessionTooLarge, SessionDestroyed, LeaseLost]


class Overtaken:
    """A merge strategy: somebody else is faster each time that the two have been merged."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.times = self.writes = 0
        self.ends_after = 1000

    def __call__(self, base: object, ours: object, theirs: object) -> int:
        self.times += 1
        if self.times < self.ends_after:
            self.overtake()
        return self.times

    def overtake(self) -> None:
        # The blocking face has a loop of its own, and is not for a thread that runs one.
        writing = Thread(target=self._write)
        writing.start()
        writing.join()

    def _write(self) -> None:
        with BlockingGuard.from_url(self._url) as guard, guard.session_lock("s", mode="last_write_wins") as session:
            self.writes += 1
            session["n"] = f"theirs {self.writes}"


@pytest.mark.parametrize("mode", ["optimistic", "lock"])
async def test_merged_in_vain(redis_url: str, mode: Any) -> None:
    """It is told as refused, once; and as merged what was saved, once, however often it was tried."""
    told = Told()
    strategy = Overtaken(redis_url)
    policy = SessionPolicy(merge={"n": strategy})
    async with SessionGuard.from_url(redis_url, session=policy, observer=told) as guard:
        with pytest.raises(SessionConflict, match="times while it was being saved") as error:
            async with guard.session_lock("s", mode=mode) as session:
                session["n"] = 1
                strategy.overtake()
        assert told.only(ChangesRefused).error is error.value
        assert [*told.of(ChangesMerged), *told.of(ChangesSaved)] == []
        strategy.ends_after = strategy.times + 3
        async with guard.session_lock("s", mode=mode) as session:
            session["n"] = 1
            strategy.overtake()
        assert (told.only(ChangesMerged).keys, told.only(ChangesSaved).keys) == (1, 1)
        assert len(told.of(ChangesRefused)) == 1


async def test_a_transaction_in_vain(redis_url: str, elsewhere: SessionGuard) -> None:
    told = Told()

    async def change(session: Session) -> None:
        session["n"] = session.get("n", 0) + 1
        async with elsewhere.session_lock("s", mode="optimistic") as theirs:
            theirs["n"] = theirs.get("n", 0) + 1

    async with SessionGuard.from_url(redis_url, observer=told) as guard:
        with pytest.raises(SessionConflict) as error:
            await guard.transaction("s", change)
    assert told.only(ChangesRefused).error is error.value


class Later:
    async def __call__(self, event: Event) -> None: ...


async def later(event: Event) -> None: ...


@pytest.mark.parametrize("observer", [later, Later(), partial(later), [Told(), later]])
def test_an_observer_that_nobody_would_await(observer: Any) -> None:
    with pytest.raises(ConfigurationError, match="must not be async"):
        SessionGuard.from_url("redis://localhost", observer=observer)


def test_an_observer_is_an_object() -> None:
    with pytest.raises(ConfigurationError, match="not the class"):
        SessionGuard.from_url("redis://localhost", observer=cast("Any", Told))


async def test_an_immediate_save(redis_url: str, elsewhere: SessionGuard) -> None:
    """Told once, also where the body asks for it and the end meets it no more."""
    told = Told()
    policy = SessionPolicy(save="immediate")
    async with SessionGuard.from_url(redis_url, session=policy, observer=told) as guard:
        with pytest.raises(SessionConflict):
            async with guard.session_lock("s") as session:
                session.get("n")
                async with elsewhere.session_lock("s", mode="optimistic") as theirs:
                    theirs["n"] = 7
                session["n"] = 1
                await session.save()
    assert isinstance(told.only(ChangesRefused).error, SessionConflict)


async def test_without_the_lock(redis_url: str, elsewhere: SessionGuard) -> None:
    told = Told()
    async with SessionGuard.from_url(redis_url, observer=told) as guard:
        with pytest.raises(SessionNotFound):
            await guard.read("s")
        await guard.create({"n": 1}, sid="s")
        with pytest.raises(SessionConflict):
            await guard.create({"n": 1}, sid="s")
        with pytest.raises(SessionConflict):
            async with guard.session_lock("s", mode="optimistic") as session:
                await session.incr("n")
                await elsewhere.destroy("s")
                await elsewhere.create({"n": "a word"}, sid="t")
                await guard.create({}, sid="t")
    assert isinstance(told.only(LoadRefused).error, SessionNotFound)
    assert [type(event.error) for event in told.of(ChangesRefused)] == [SessionConflict, SessionConflict]


async def test_a_request_within_the_one_that_holds_it(redis_url: str) -> None:
    """A face refuses it before anything is asked."""
    told = Told()
    async with SessionGuard.from_url(redis_url, observer=told) as guard, guard.session_lock("s") as session:
        held = hold_here(guard, session, "POST /pay")
        assert held is not None
        with pytest.raises(ReentrantLock) as error:
            refuse_nested(guard, "s")
        await eventually(lambda: told.of(LockRefused), "it is told")
        held.leave()
    refused = told.only(LockRefused)
    assert (refused.error, refused.session) == (error.value, keys_for("sl", "s").digest)


# --- Redis


async def test_calls_that_are_sent_again(proxy: FaultyProxy, node: MakeGuard) -> None:
    told = Told()
    guard = node(proxy.url, observer=told)
    await guard.inspect("s")
    proxy.drop_next_reply(calls_of("release"))
    async with guard.session_lock("s") as session:
        session["n"] = 1
    repeated = told.only(CallRepeated)
    assert (repeated.script, repeated.tries, repeated.session) == ("release", 1, keys_for("sl", "s").digest)


async def test_an_outage_has_a_beginning_and_an_end(
    own_server: Callable[..., FaultyServer], node: MakeGuard, caplog: pytest.LogCaptureFixture
) -> None:
    told, server = Told(), own_server()
    guard = node(server.url, retry_for=0.1, observer=told)
    await guard.create({"n": 1}, sid="s")
    server.kill()
    for _ in range(3):
        with pytest.raises(RedisUnavailable):
            await guard.read("s")
        with pytest.raises(RedisUnavailable):
            async with guard.session_lock("s"):
                pass
    await asyncio.to_thread(server.restart)
    await eventually(lambda: bool(told.of(OutageEnded)), "it is back")
    began, ended = told.only(OutageBegan), told.only(OutageEnded)
    assert began.server == ended.server
    assert began.reason
    assert ended.refused >= 4
    assert ended.seconds > 0
    assert len(told.of(LoadRefused)) == len(told.of(LockRefused)) == 3
    records = [record for record in caplog.records if record.name == "sessionlock"]
    assert [getattr(record, "server", None) for record in records] == [began.server, began.server]


async def test_a_long_outage_is_told_again(
    own_server: Callable[..., FaultyServer],
    node: MakeGuard,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the last page of the log would be silent of what goes on."""
    monkeypatch.setattr("sessionlock.transport.outages.TOLD_AGAIN_AFTER", 0.2)
    server = own_server()
    guard = node(server.url, retry_for=0.05)
    await guard.create({"n": 1}, sid="s")
    server.kill()
    with pytest.raises(RedisUnavailable):
        await guard.read("s")
    await eventually(lambda: any(re.search(r"for \d+ s now", line) for line in caplog.messages), "it is told again")
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


async def test_each_call_for_who_asks_for_it(tcp_url: str) -> None:
    class Hears(Told):
        hears = KINDS

    told = Hears()
    async with SessionGuard.from_url(tcp_url, observer=told) as guard:
        async with guard.session_lock("s") as session:
            session["n"] = 1
        with pytest.raises(SessionNotFound):
            await guard.read("t")
    acquire, release, load = told.of(CallAnswered)
    assert [call.script for call in (acquire, release, load)] == ["acquire", "release", "load"]
    assert acquire.commands in (("FCALL", "HGETALL"), ("EVALSHA", "HGETALL"))
    assert acquire.words[1] == 2
    assert release.commands == acquire.commands[:1]
    assert tcp_url.split("@")[-1].removeprefix("redis://").startswith(acquire.server)
    assert all(0 < call.seconds < 5 and call.error is None for call in (acquire, release, load))


# --- several


async def test_an_observer_hears_what_it_asks_for(redis_url: str) -> None:
    class Hears(Told):
        hears = frozenset({LockGranted})

    told, all_told = Hears(), Told()
    guard = SessionGuard.from_url(redis_url, observer=[told, all_told])
    async with guard, guard.session_lock("s") as session:
        session["n"] = 1
    assert [type(event) for event in told] == [LockGranted]
    assert len(all_told) == 4


async def test_several_observers(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event) -> None:
        if isinstance(event, LockGranted):
            raise RuntimeError("no")

    first, last = Told(), Told()
    async with SessionGuard.from_url(redis_url, observer=[first, fail, last]) as guard, guard.session_lock("s"):
        pass
    assert first == last
    assert isinstance(first[-1], LockReleased)
    assert caplog.messages == ["an observer failed at LockGranted"]
