"""Which request gets which policy, and what errors say, without any framework."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from sessionlock import (
    CodecError,
    ConfigurationError,
    LeaseLost,
    LeasePolicy,
    LockNotAcquired,
    QueueFull,
    QuorumNotReached,
    ReadOnlySession,
    RedisUnavailable,
    ReentrantLock,
    SessionConflict,
    SessionDestroyed,
    SessionGuard,
    SessionLockError,
    SessionNotFound,
    SessionTooLarge,
    StaleFencingToken,
    WaitTimedOut,
)
from sessionlock.integrations.web.naming import NO_ROUTE, label_of
from sessionlock.integrations.web.problems import Problem, Problems
from sessionlock.integrations.web.rules import RoutePolicy, Rules
from sessionlock.selfcalls.nesting import Held, refuse_nested


@pytest.mark.parametrize(
    ("pattern", "fits", "does_not"),
    [
        ("/cart", ["GET /cart", "POST /cart"], ["GET /cart/", "GET /carts", "GET /a/cart"]),
        ("/cart/*", ["GET /cart/1"], ["GET /cart/", "GET /cart/1/2"]),
        ("/cart/{id}/x", ["GET /cart/1/x"], ["GET /cart/1/2/x", "GET /cart//x"]),
        ("/files/{rest:path}", ["GET /files/a/b", "GET /files/"], ["GET /file"]),
        ("/static/**", ["GET /static/a/b.css"], ["GET /static"]),
        ("**", ["GET /", "POST /a/b\n"], []),
        ("POST /cart", ["POST /cart"], ["GET /cart"]),
        ("get|HEAD /cart", ["GET /cart", "head /cart"], ["POST /cart"]),
        ("/a.b", ["GET /a.b"], ["GET /aXb"]),
        ("/a+b(c)", ["GET /a+b(c)"], ["GET /aab(c)"]),
    ],
)
def test_patterns(pattern: str, fits: list[str], does_not: list[str]) -> None:
    rules = Rules("auto", {pattern: "read"})
    for request in fits:
        assert rules.policy_for(*request.split(" ", 1)).mode == "read", request
    for request in does_not:
        assert rules.policy_for(*request.split(" ", 1)).mode == "auto", request


@pytest.mark.parametrize("pattern", ["", "cart", "GET", "GET cart", "GET POST /", "/a b"])
def test_patterns_that_cannot_be_understood(pattern: str) -> None:
    with pytest.raises(ConfigurationError):
        Rules("auto", {pattern: "read"})


def test_the_first_rule_counts_and_inherits() -> None:
    lease = LeasePolicy(ttl=1)
    rules = Rules(
        RoutePolicy(wait=2, lease=lease, save_on_error=True),
        {"/a": RoutePolicy("lock", wait=0, save_on_error=False), "/**": "read"},
    )
    assert rules.policy_for("GET", "/a") == RoutePolicy("lock", 0, lease, False)
    assert rules.policy_for("GET", "/b") == RoutePolicy("read", 2, lease, True)
    assert rules.policy_for("GET", "/a").options() == {"wait": 0, "lease": lease, "save_on_error": False}
    assert RoutePolicy().options() == {}


def test_how_much_of_a_body_is_received_before_the_lock() -> None:
    rules = Rules(RoutePolicy(body_limit=5), {"/upload": RoutePolicy(body_limit=0), "/**": "read"})
    assert [rules.policy_for("POST", path).body_limit for path in ("/upload", "/other")] == [0, 5]
    for wrong in (-1, 1.5, True):
        with pytest.raises(ConfigurationError):
            RoutePolicy(body_limit=wrong)  # type: ignore[arg-type]


def test_modes() -> None:
    auto = RoutePolicy()
    assert {auto.mode_for(method) for method in ("GET", "head", "OPTIONS", "TRACE")} == {"optimistic"}
    assert {auto.mode_for(method) for method in ("POST", "PUT", "PATCH", "DELETE", "PROPFIND")} == {"lock"}
    assert RoutePolicy("last_write_wins").mode_for("POST") == "last_write_wins"
    for wrong in ({"mode": "locked"}, {"wait": -1.0}, {"wait": float("nan")}):
        with pytest.raises(ConfigurationError):
            RoutePolicy(**wrong)


def test_labels() -> None:
    assert label_of("GET", "/a") == "GET /a"
    assert label_of("GET", "/a\n\x00") == "GET /a??"
    assert len(label_of("GET", "/" + "x" * 500)) == 100
    assert label_of("GET", None) == f"GET {NO_ROUTE}"
    assert {label_of(method, "/a") for method in ("ZZ0", "MKCOL", "get", "")} == {"_OTHER /a"}


def test_the_pattern_of_a_rule_is_a_name() -> None:
    """As it was written; not the path."""
    rules = Rules(routes={"PUT|POST /user/{name}": "lock", "/user/*": "read", "/files/**": "lock"})
    assert rules.pattern_for("POST", "/user/alice") == "/user/{name}"
    assert rules.pattern_for("GET", "/user/alice") == "/user/*"
    assert rules.pattern_for("GET", "/files/a/b") == "/files/**"
    assert rules.pattern_for("GET", "/") is None


@pytest.mark.parametrize(
    ("error", "status", "again"),
    [
        (WaitTimedOut(), 503, True),
        (LockNotAcquired(), 503, True),
        (RedisUnavailable(), 503, True),
        (QuorumNotReached(), 503, True),
        (QueueFull(), 429, True),
        (SessionConflict(), 409, False),
        (LeaseLost(), 409, False),
        (StaleFencingToken(ours=1, current=2), 409, False),
        (ReentrantLock(), 409, False),
        (SessionTooLarge(), 413, False),
        (SessionNotFound(), 409, False),
        (SessionDestroyed(), 409, False),
    ],
)
def test_answers(error: SessionLockError, status: int, again: bool) -> None:
    problem = Problems(retry_after=7).answer(error)
    assert problem is not None
    headers = dict(problem.headers())
    assert headers.get("retry-after") == ("7" if again else None)
    told = json.loads(problem.content())
    assert (told["status"], told["type"]) == (status, "about:blank")
    assert int(headers["content-length"]) == len(problem.content())


@pytest.mark.parametrize("error", [CodecError("x"), ReadOnlySession(), ConfigurationError()])
def test_mistakes_in_the_program_are_not_hidden(error: SessionLockError) -> None:
    assert Problems().answer(error) is None


def test_statuses_of_ones_own() -> None:
    problems = Problems({LockNotAcquired: 423, QueueFull: 425, CodecError: 500})
    for error, status in ((WaitTimedOut(), 423), (QueueFull(), 425), (CodecError("x"), 500), (LeaseLost(), 409)):
        problem = problems.answer(error)
        assert problem is not None
        assert problem.status == status
    assert json.loads(Problem(599, "x").content())["title"] == "Error"


def test_nesting() -> None:
    guard = SessionGuard.from_url("redis://")
    held = [True]
    hold = Held(guard, "a", lambda: held[0], "POST /x")
    hold.enter()
    refuse_nested(guard, "b")
    with pytest.raises(ReentrantLock, match="POST /x"):
        refuse_nested(guard, "a")
    held[0] = False
    refuse_nested(guard, "a")
    held[0] = True
    hold.leave()
    refuse_nested(guard, "a")


@pytest.mark.parametrize("face", ["flask", "quart", "aiohttp", "django"])
def test_the_decorator_is_still_there_by_the_name_it_had(face: str) -> None:
    module = import_module(f"sessionlock.integrations.{face}")
    assert module.session_lock == module.locks_session
