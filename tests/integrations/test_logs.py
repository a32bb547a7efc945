"""What is logged of sessions and locks: at which level, with which fields; never a session's id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest

from sessionlock import LeaseLost, LeasePolicy, RedisUnavailable, SessionConflict, SessionGuard, WaitTimedOut
from sessionlock.integrations.logs import logs
from sessionlock.observe import LockHandedOver, LockQueued
from sessionlock.protocol.keys import keys_for
from tests.harness.deployments import MakeGuard
from tests.harness.faulty import FaultyServer
from tests.harness.polling import eventually

pytestmark = pytest.mark.anyio

SID = "a secret that must not be logged"


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "sessionlock.events")
    return caplog


def records(lines: pytest.LogCaptureFixture) -> list[Any]:
    found = [line for line in lines.records if line.name == "sessionlock.events"]
    assert SID not in str([vars(line) for line in found])
    return found


def told(lines: pytest.LogCaptureFixture, level: int) -> list[tuple[str, ...]]:
    """The events that were logged at that level."""
    return [(line.event, line.route) for line in records(lines) if line.levelno == level]


async def test_what_goes_well_is_told_to_who_debugs(redis_url: str, lines: pytest.LogCaptureFixture) -> None:
    guard = SessionGuard.from_url(redis_url, label="n1", observer=logs())
    async with guard, guard.session_lock(SID, label="POST /pay") as session:
        session["n"] = 1
    events = ["LockAsked", "LockGranted", "ChangesSaved", "LockReleased"]
    assert told(lines, logging.DEBUG) == [(event, "POST /pay") for event in events]
    assert told(lines, logging.INFO) == told(lines, logging.WARNING) == []
    saved = next(line for line in records(lines) if line.event == "ChangesSaved")
    assert (saved.keys, saved.version, saved.node) == (1, 1, "n1")
    digest = keys_for("sl", SID).digest
    # Sentry and its like make one issue of all that have the same.
    assert saved.msg == "ChangesSaved %s"
    assert saved.getMessage() == f"ChangesSaved n1 POST /pay session {digest}: keys 1, version 1"


async def test_a_long_wait_names_its_holder(redis_url: str, lines: pytest.LogCaptureFixture) -> None:
    waits: list[object] = []
    observers = [logs(slow_wait=0.001, slow_hold=0.001), waits.append]
    async with SessionGuard.from_url(redis_url, label="n1", observer=observers) as guard:

        async def wait() -> None:
            async with guard.session_lock(SID, label="GET /cart"):
                pass

        async with guard.session_lock(SID, label="POST /pay"):
            waiting = asyncio.ensure_future(wait())
            await eventually(lambda: any(isinstance(event, LockQueued) for event in waits), "it waits")
        await waiting
    assert any(isinstance(event, LockHandedOver) for event in waits)
    assert ("LockGranted", "GET /cart") in told(lines, logging.INFO)
    assert ("LockReleased", "POST /pay") in told(lines, logging.INFO)
    line = next(line for line in records(lines) if line.event == "LockGranted" and line.holder_route)
    assert (line.holder_node, line.holder_route) == ("n1", "POST /pay")
    assert line.waited > 0


async def test_what_went_wrong_is_a_warning(
    redis_url: str, elsewhere: SessionGuard, lines: pytest.LogCaptureFixture
) -> None:
    async with SessionGuard.from_url(redis_url, observer=logs()) as guard:
        async with elsewhere.session_lock(SID):
            with pytest.raises(WaitTimedOut):
                async with guard.session_lock(SID, label="GET /a", wait=0.01):
                    pass
        with pytest.raises(LeaseLost):
            async with guard.session_lock(SID, label="GET /b", lease=LeasePolicy(on_lost="flag")) as session:
                session["n"] = 1
                assert session.lease is not None
                session.lease.mark_lost("a test says so")
        with pytest.raises(SessionConflict):
            async with guard.session_lock(SID, label="GET /c") as session:
                session["n"] = session.get("n", 0) + 1
                async with elsewhere.session_lock(SID, mode="optimistic") as theirs:
                    theirs["n"] = 7
    assert told(lines, logging.WARNING) == [
        ("LockTimedOut", "GET /a"),
        ("LockLost", "GET /b"),
        ("ChangesRefused", "GET /b"),
        ("ChangesRefused", "GET /c"),
    ]


async def test_an_outage_is_told_at_its_beginning_and_its_end(
    own_server: Callable[..., FaultyServer], node: MakeGuard, lines: pytest.LogCaptureFixture
) -> None:
    """Once each, however many requests it fails; a wrong cookie is no warning either."""
    server = own_server()
    guard = node(server.url, retry_for=0.1, observer=logs())
    with pytest.raises(Exception, match="no session"):
        await guard.read(SID)
    server.kill()
    for _ in range(3):
        with pytest.raises(RedisUnavailable):
            async with guard.session_lock(SID):
                pass
    await asyncio.to_thread(server.restart)
    await eventually(lambda: ("OutageEnded", "") in told(lines, logging.INFO), "it is back")
    assert told(lines, logging.WARNING) == [("OutageBegan", "")]
    assert told(lines, logging.INFO)[-1] == ("OutageEnded", "")


async def test_nothing_is_made_that_nobody_logs(redis_url: str, lines: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("sessionlock.test.quiet")
    logger.setLevel(logging.WARNING)
    guard = SessionGuard.from_url(redis_url, observer=logs(logger))
    async with guard, guard.session_lock(SID):
        pass
    assert lines.records == []
