"""A wrong argument is an error at once, wherever it is given: it names the argument and what was given."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.sentinel
from tenacity import stop_after_delay

import sessionlock
from sessionlock import (
    ConfigurationError,
    InvalidSessionId,
    JsonCodec,
    LeasePolicy,
    Quorum,
    Replicated,
    SessionGuard,
    SessionPolicy,
    WaitPolicy,
    session_locked,
)
from sessionlock.blocking import SessionGuard as BlockingGuard

pytestmark = pytest.mark.anyio

NOWHERE = "redis://127.0.0.1:1"  # nothing is asked of it

# argument, what is given, what the error tells
SHARED: list[tuple[str, Any, str]] = [
    ("lease", 30, r"LeasePolicy\(ttl=30\), not 30"),
    ("lease", 0, r"LeasePolicy\(ttl=10\), not 0"),
    ("lease", True, "not True"),
    ("lease", "10", "not '10'"),
    ("lease", {}, "not {}"),
    ("lease", WaitPolicy(), "not WaitPolicy"),
    ("wait", "5", "not '5'"),
    ("wait", -1, "not -1"),
    ("wait", float("nan"), "not nan"),
    ("wait", float("inf"), "not inf"),
    ("wait", False, "not False"),
    ("wait", stop_after_delay(5), r"WaitPolicy\(stop=…\)"),
    ("wait", timedelta(seconds=5), r"seconds \(5\)"),
    ("wait", LeasePolicy(), "not LeasePolicy"),
    ("label", 5, "not 5"),
    ("label", "line\nbreak", "printable"),
    ("label", "x" * 121, "120"),
]
OF_SESSIONS: list[tuple[str, Any, str]] = [
    ("session", 1800, r"SessionPolicy\(idle=1800\), not 1800"),
    ("session", {}, "not {}"),
    ("codec", "json", "not 'json'"),
    ("codec", JsonCodec, "not <class"),
    ("codec", 0, "not 0"),
]
OF_BLOCKS: list[tuple[str, Any, str]] = [
    ("mode", "locked", "not 'locked'"),
    ("mode", None, "not None"),
    ("missing", "creat", "not 'creat'"),
    ("missing", [], r"not \[\]"),
    ("save_on_error", "yes", "not 'yes'"),
    ("serializable", 1, "not 1"),
]
OF_GUARDS: list[tuple[str, Any, str]] = [
    ("prefix", 5, "not 5"),
    ("prefix", "", "not ''"),
    ("reply_within", "2", "not '2'"),
    ("reply_within", 0, "not 0"),
    ("retry_for", True, "not True"),
    ("push_limit", True, "not True"),
    ("push_limit", -1, "not -1"),
    ("push_limit", 1.5, "not 1.5"),
    ("commit_by", "magic", "not 'magic'"),
    ("commit_by", [], r"not \[\]"),
    ("durability", 1, r"Replicated\(replicas=1\), not 1"),
    ("check", "no", "not 'no'"),
    ("quorum", [], r"Quorum"),
    ("observer", "print", "not 'print'"),
]


def refused(make: Callable[[], object], name: str, told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert name in str(caught.value)
    assert re.search(told, str(caught.value))


@pytest.mark.parametrize(("name", "given", "told"), [*SHARED, *OF_SESSIONS, *OF_GUARDS])
@pytest.mark.parametrize("kind", [SessionGuard, BlockingGuard])
async def test_of_a_guard(kind: Any, name: str, given: object, told: str) -> None:
    client = redis.asyncio.Redis()
    refused(lambda: kind(client, **{name: given}), name, told)
    refused(lambda: kind.from_url(NOWHERE, **{name: given}), name, told)


@pytest.mark.parametrize(("name", "given", "told"), [*SHARED, *OF_SESSIONS, *OF_BLOCKS])
@pytest.mark.parametrize("kind", [SessionGuard, BlockingGuard])
async def test_of_a_block(kind: Any, name: str, given: object, told: str) -> None:
    """Not when it is entered, which may be much later."""
    guard = kind.from_url(NOWHERE)
    refused(lambda: guard.session_lock("s", **{name: given}), name, told)
    if name not in ("mode", "serializable"):
        refused(lambda: guard.session_lock("s", "t", **{name: given}), name, told)
    if name != "mode":
        refused(lambda: guard.session_lock("s", mode="optimistic", **{name: given}), name, told)
    if (name, given, told) in SHARED:
        refused(lambda: guard.lock("s", **{name: given}), name, told)
    if name in ("session", "missing"):
        with pytest.raises(ConfigurationError, match=told):
            list(guard.attempts("s", **{name: given})) if kind is BlockingGuard else guard.attempts(
                "s", **{name: given}
            )


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [one for one in (*SHARED, *OF_SESSIONS, *OF_BLOCKS) if one[0] not in ("codec", "serializable")],
)
async def test_of_a_decorated_view(name: str, given: Any, told: str) -> None:
    """As it is decorated: when the module is imported."""
    refused(lambda: session_locked(sessionlock.cookie("id"), **{name: given}), name, told)
    refused(lambda: sessionlock.blocking.session_locked(sessionlock.cookie("id"), **{name: given}), name, told)


@pytest.mark.parametrize("guard", ["redis://localhost", redis.asyncio.Redis(), 5])
async def test_the_guard_of_a_decorated_view(guard: Any) -> None:
    refused(lambda: session_locked(sessionlock.cookie("id"), guard=guard), "guard", "SessionGuard")
    refused(lambda: sessionlock.blocking.session_locked(sessionlock.cookie("id"), guard=guard), "guard", "SessionGuard")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (redis.Redis, "redis.asyncio"),
        (lambda: SimpleNamespace(connection_pool=redis.ConnectionPool()), "without asyncio"),  # as valkey-py has it
        (lambda: redis.sentinel.Sentinel([("h", 1)]).master_for("m"), "redis.asyncio"),  # type: ignore[no-untyped-call]
        (lambda: "redis://localhost", r"SessionGuard.from_url"),
        (lambda: b"redis://localhost", r"from_url"),
        (lambda: None, "from_url"),
        (lambda: redis.asyncio.sentinel.Sentinel([("h", 1)]), "master_for"),  # type: ignore[no-untyped-call]
        (redis.asyncio.ConnectionPool, "connection_pool="),
        (lambda: redis.asyncio.Redis, "redis.asyncio.Redis"),
        (object, "redis.asyncio.Redis"),
    ],
)
async def test_a_client_that_is_none(make: Callable[[], object], told: str) -> None:
    for kind in (SessionGuard, BlockingGuard):
        refused(lambda kind=kind: kind(make()), "redis.asyncio client", told)  # type: ignore[misc]


@pytest.mark.parametrize("given", [None, 5, redis.Redis(), redis.asyncio.Redis()])
async def test_the_default_guard(given: Any) -> None:
    for configure in (sessionlock.configure, sessionlock.blocking.configure):
        refused(lambda configure=configure: configure(given), "guard_or_url", "a SessionGuard, or a URL")  # type: ignore[misc]


async def test_a_client_without_asyncio_as_a_master_of_a_quorum() -> None:
    masters = [redis.Redis(port=port) for port in (1, 2, 3)]
    refused(lambda: SessionGuard.from_url(NOWHERE, quorum=Quorum(*masters)), "redis.asyncio", "Redis")


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda guard: guard.create("abc"), "data"),
        (lambda guard: guard.create({}, session=30), "session"),
        (lambda guard: guard.create({}, codec="json"), "codec"),
        (lambda guard: guard.incr("s", "n", 1.5), "by"),
        (lambda guard: guard.incr("s", "n", True), "by"),
        (lambda guard: guard.regenerate("s", grace="x"), "grace"),
        (lambda guard: guard.regenerate("s", grace=-1), "grace"),
        (lambda guard: guard.force_release("s", None), "token"),
        (lambda guard: guard.bind("s", 7), "user"),
        (lambda guard: guard.sessions_of(7), "user"),
        (lambda guard: guard.destroy_all(None), "user"),
        (lambda guard: guard.ready("soon"), "timeout"),
        (lambda guard: guard.transaction("s", None), "change"),
    ],
)
async def test_of_an_operation(call: Callable[[Any], Any], name: str) -> None:
    async with SessionGuard.from_url(NOWHERE, retry_for=0.1) as guard:
        with pytest.raises(ConfigurationError, match=name):
            await call(guard)


@pytest.mark.parametrize("sid", [None, 5, b"s", ""])
async def test_an_id_is_looked_at_before_the_block_is_entered(sid: Any) -> None:
    for guard in (SessionGuard.from_url(NOWHERE), BlockingGuard.from_url(NOWHERE)):
        for make in (guard.session_lock, guard.lock):
            with pytest.raises(InvalidSessionId):
                make(sid)


@pytest.mark.parametrize(
    ("kind", "name", "given"),
    [
        (LeasePolicy, "ttl", "10"),
        (LeasePolicy, "ttl", 0),
        (LeasePolicy, "ttl", None),
        (LeasePolicy, "renew", "no"),
        (LeasePolicy, "max_hold", True),
        (LeasePolicy, "claim", -1),
        (LeasePolicy, "safety_margin", "1"),
        (LeasePolicy, "safety_margin", 10.0),
        (LeasePolicy, "on_lost", "raise"),
        (WaitPolicy, "stop", 5),
        (WaitPolicy, "wait", "x"),
        (WaitPolicy, "before_sleep", "x"),
        (WaitPolicy, "max_waiters", True),
        (WaitPolicy, "max_waiters", -1),
        (SessionPolicy, "idle", "x"),
        (SessionPolicy, "absolute", 0),
        (SessionPolicy, "refresh_below", "x"),
        (SessionPolicy, "refresh_below", 2),
        (SessionPolicy, "save", "later"),
        (SessionPolicy, "merge", "append"),
        (SessionPolicy, "tombstone", None),
        (SessionPolicy, "max_field", 1.5),
        (SessionPolicy, "max_session", "8M"),
        (Replicated, "replicas", "1"),
        (Replicated, "within", "x"),
        (Replicated, "aof", "yes"),
        (Replicated, "required", 1),
    ],
)
async def test_of_a_policy(kind: Any, name: str, given: object) -> None:
    refused(lambda: kind(**{name: given}), f"{kind.__name__}.{name}", re.escape(f"not {given!r}"))
