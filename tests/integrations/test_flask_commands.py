"""``flask sessionlock`` and ``quart sessionlock``: the command line, for the sessions of an application."""

from __future__ import annotations

import json
from typing import Any

import flask
import pytest
import quart
import redis.asyncio

from sessionlock import SessionGuard
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.integrations.flask import SessionLock as FlaskLock
from sessionlock.integrations.quart import SessionLock as QuartLock
from sessionlock.protocol.keys import keys_for

SID = "a-session-that-is-held"

pytestmark = pytest.mark.parametrize(
    ("framework", "extension"), [(flask.Flask, FlaskLock), (quart.Quart, QuartLock)], ids=["flask", "quart"]
)


def runner_for(framework: Any, extension: Any, url: Any) -> Any:
    app = framework(__name__)
    extension(app, url)
    return app.test_cli_runner()


def test_it_looks_at_the_applications_sessions(redis_url: str, framework: Any, extension: Any) -> None:
    """Which Redis is said by the application alone; a command that fails tells so by its status."""
    runner = runner_for(framework, extension, redis_url)
    with BlockingGuard.from_url(redis_url) as guard, guard.session_lock(SID):
        found = runner.invoke(args=["sessionlock", "locks", "--json"])
    assert found.exit_code == 0
    [lock] = json.loads(found.stdout)["locks"]
    assert lock["digest"] == keys_for("sl", SID).digest
    assert runner.invoke(args=["sessionlock", "inspect", "a" * 14]).exit_code == 1
    assert "sessionlock top" in runner.invoke(args=["sessionlock", "top", "--help"]).stdout


def test_doctor_asks_no_other_server_than_the_applications(redis_url: str, framework: Any, extension: Any) -> None:
    """A guard that was made of a client tells no URL: nothing else is looked at instead."""
    guard: Any = BlockingGuard if framework is flask.Flask else SessionGuard
    runner = runner_for(framework, extension, guard(redis.asyncio.Redis.from_url(redis_url), prefix="shop"))
    assert "~shop:*" in runner.invoke(args=["sessionlock", "doctor", "--acl"]).output
    for words in (["doctor", "--probe"], ["doctor"]):
        found = runner.invoke(args=["sessionlock", *words])
        assert found.exit_code == 2
        assert "--url" in found.output
    found = runner.invoke(args=["sessionlock", "doctor", "--probe", "--url", redis_url])
    assert found.exit_code == 0


def test_a_private_server_is_not_started_for_it(framework: Any, extension: Any) -> None:
    found = runner_for(framework, extension, "embedded://").invoke(args=["sessionlock", "locks"])
    assert found.exit_code == 2
    assert "another process cannot look into it" in found.output
