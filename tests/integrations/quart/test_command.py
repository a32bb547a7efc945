"""``quart sessionlock``: the command line, for the sessions of an application."""

from __future__ import annotations

import json

from quart import Quart

from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.integrations.quart import SessionLock
from sessionlock.protocol.keys import keys_for

SID = "a-session-that-is-held"


def test_it_looks_at_the_applications_sessions(redis_url: str) -> None:
    """Which Redis is said by the application alone; a command that fails tells so by its status."""
    app = Quart(__name__)
    SessionLock(app, redis_url)
    runner = app.test_cli_runner()
    with BlockingGuard.from_url(redis_url) as guard, guard.session_lock(SID):
        found = runner.invoke(args=["sessionlock", "locks", "--json"])
    assert found.exit_code == 0
    [lock] = json.loads(found.stdout)["locks"]
    assert lock["digest"] == keys_for("sl", SID).digest
    assert runner.invoke(args=["sessionlock", "inspect", "a" * 14]).exit_code == 1
    assert "sessionlock top" in runner.invoke(args=["sessionlock", "top", "--help"]).stdout


def test_a_private_server_is_not_started_for_it() -> None:
    app = Quart(__name__)
    SessionLock(app, "embedded://")
    found = app.test_cli_runner().invoke(args=["sessionlock", "locks"])
    assert found.exit_code == 2
    assert "another process cannot look into it" in found.output
