"""A session id is a bearer secret: whoever sees Redis, its traffic, logs, errors or objects must not learn it."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import pytest

from sessionlock import InvalidSessionId, LeasePolicy, SessionGuard, SessionLockError, SessionPolicy, WaitPolicy
from tests.conformance.topologies import Node, Topology
from tests.harness.commands import connect

pytestmark = pytest.mark.anyio

SID = "the-secret-from-the-cookie-5up3r"
USER = "alice@example.org"


class Told:
    """Everything that was said where others could read it."""

    def __init__(self, *secrets: str) -> None:
        self.secrets = list(secrets)
        self.texts: list[str] = []

    def add(self, *things: object) -> None:
        for thing in things:
            self.texts += [str(thing), repr(thing)]

    async def error(self, doing: Callable[[], Awaitable[object]]) -> None:
        """``doing`` must fail; note what the error and all errors behind it say, as a log would show them."""
        with pytest.raises(SessionLockError) as caught:
            await doing()
        error = caught.value
        self.add(error, vars(error), error.args)
        behind: BaseException | None = error
        while behind is not None:
            self.add(*traceback.format_exception_only(type(behind), behind), *getattr(behind, "__notes__", ()))
            behind = behind.__cause__ or behind.__context__

    def check(self) -> None:
        assert len(self.texts) > 10
        for secret in self.secrets:
            found = [text for text in self.texts if secret in text]
            assert not found, f"{secret!r} is visible in {found[0]!r}"


def everything_stored(topology: Topology) -> Iterable[bytes]:
    client = topology.raw
    for key in topology.all_keys():
        yield key
        kind = client.type(key)
        if kind == b"string":
            yield client.get(key)
        elif kind == b"hash":
            for pair in client.hgetall(key).items():
                yield from pair
        elif kind == b"zset":
            yield from client.zrange(key, 0, -1)
        else:
            pytest.fail(f"{key!r} is a {kind!r}; this test does not know that kind")


async def live(topology: Topology, node: Node, told: Told) -> None:
    """Everything that can be done with a session, with everything that goes wrong."""
    guard, other, patient = node(), node(wait=WaitPolicy.seconds(60, max_waiters=1)), node()

    def note_store() -> None:
        told.add(*(part.decode(errors="replace") for part in everything_stored(topology)))

    async def enter(make: Callable[[], Any]) -> None:
        async with make():
            pass

    await told.error(lambda: enter(lambda: guard.session_lock(SID, missing="reject")))
    await told.error(lambda: guard.read(SID))
    await guard.create({"cart": ["apple"]}, sid=SID)
    await told.error(lambda: guard.create({}, sid=SID))
    context = guard.session_lock(SID)
    told.add(context)
    async with context as session:
        told.add(session, session.lease, context, session.name)
        await told.error(lambda: enter(lambda: guard.session_lock(SID)))
        await told.error(lambda: enter(lambda: other.session_lock(SID, wait=0)))
        waiter = asyncio.create_task(enter(lambda: other.session_lock(SID)), name="waiter")
        await topology.record(SID).until(lambda stored: len(stored.waiting) == 1)
        await told.error(lambda: enter(lambda: other.session_lock(SID)))  # the queue is full
        # Behind the waiter, and by a guard that lets it: a place is given back after the wait has ended.
        await told.error(lambda: enter(lambda: patient.session_lock(SID, wait=0.02)))
        told.add(waiter, waiter.get_stack(), await guard.inspect(SID))
        note_store()
        session["cart"].append("pear")
        await session.save()
        session.flash("info", "saved")
        await told.error(lambda: session.incr("cart"))
    await waiter
    await told.error(session.save)
    await guard.bind(SID, USER)
    told.add(await guard.sessions_of(USER), await guard.read(SID))
    await told.error(lambda: lost(topology, guard))
    await told.error(lambda: conflict(guard, other))
    await told.error(lambda: too_large(guard))
    await told.error(lambda: unreadable(guard, topology))
    note_store()
    new_sid = await guard.regenerate(SID, grace=0)
    told.secrets.append(new_sid[16:])  # its beginning is the record's public name
    await told.error(lambda: guard.read(SID))
    async with guard.session_lock(new_sid) as session:
        told.add(session, session.lease)
        await told.error(lambda: enter(lambda: guard.session_lock(new_sid)))
        await told.error(lambda: enter(lambda: other.session_lock(new_sid, wait=0)))
        note_store()
        session["n"] = 1
    await guard.incr(new_sid, "n")
    await guard.transaction(new_sid, lambda session: session.update(n=5))
    await guard.destroy(new_sid)
    await told.error(lambda: enter(lambda: guard.session_lock(new_sid)))
    await told.error(lambda: guard.read(SID))
    for broken in (SID + "\n", SID + "x" * 500, SID.encode()):
        with pytest.raises(InvalidSessionId) as caught:
            guard.session_lock(cast(str, broken))
        told.add(caught.value, traceback.format_exception_only(caught.type, caught.value))
    note_store()
    told.add(guard, other, topology.all_keys())


async def lost(topology: Topology, guard: SessionGuard) -> None:
    async with guard.session_lock(SID, lease=LeasePolicy(on_lost="flag")) as session:
        topology.raw.delete(topology.record(SID).keys.lock)
        session["n"] = 1


async def conflict(guard: SessionGuard, other: SessionGuard) -> None:
    async with guard.session_lock(SID, mode="optimistic") as session:
        session["n"] = 1
        async with other.session_lock(SID) as theirs:
            theirs["n"] = 2


async def too_large(guard: SessionGuard) -> None:
    async with guard.session_lock(SID, session=SessionPolicy(max_field=10)) as session:
        session["text"] = "x" * 11


async def unreadable(guard: SessionGuard, topology: Topology) -> None:
    topology.record(SID).write("broken", b"not JSON")
    async with guard.session_lock(SID) as session:
        session["broken"]


@contextmanager
def all_logs(caplog: pytest.LogCaptureFixture, told: Told) -> Any:
    """Every record of every logger, and asyncio in debug mode, which logs what it runs."""
    loop = asyncio.get_running_loop()
    before = loop.get_debug(), loop.slow_callback_duration
    for name in ("", "redis", "sessionlock", "asyncio", "tenacity"):
        caplog.set_level(logging.DEBUG, logger=name)
    loop.set_debug(True)
    loop.slow_callback_duration = 0
    try:
        yield
    finally:
        loop.set_debug(before[0])
        loop.slow_callback_duration = before[1]
        assert caplog.records, "asyncio's debug mode logs at least what ran"
        for record in caplog.records:
            told.add(record.getMessage(), record.args, record.exc_text)


@pytest.mark.needs("queue")
async def test_nobody_is_told(
    topology: Topology, node: Node, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    told = Told(SID, USER)
    with all_logs(caplog, told):
        await live(topology, node, told)
    told.add(*capfd.readouterr())
    told.check()


@asynccontextmanager
async def monitored(url: str) -> AsyncIterator[list[str]]:
    """What MONITOR shows; complete when the block is left."""
    lines: list[str] = []
    end = "the end of the monitored part"
    with connect(url) as teller, connect(url) as client, client.monitor() as monitor:

        def read() -> None:
            for command in monitor.listen():
                lines.append(str(command))
                if end in command["command"]:
                    return

        reading = asyncio.create_task(asyncio.to_thread(read))
        try:
            yield lines
        finally:
            teller.echo(end)
            await reading


@pytest.mark.needs("monitor")
async def test_the_traffic_does_not_tell(topology: Topology, node: Node) -> None:
    told = Told(SID, USER)
    url = getattr(topology, "server_url", None) or topology.url  # type: ignore[attr-defined]
    async with monitored(url) as lines:
        await live(topology, node, told)
    assert any(word in line.upper() for line in lines for word in ("EVALSHA", "FCALL"))
    assert any("apple" in line for line in lines)  # it does show what is stored
    told.texts = lines
    told.check()
