"""What has finished is known for a minute after its end, however long it took."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from sessionlock import LeasePolicy, SessionPolicy
from sessionlock.protocol.calls import Abandon, Acquire, Call, Change, Release
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import run

KEYS = keys_for("sl", "s")
SESSION = SessionPolicy(idle=3600)


def acquire(redis: Redis, token: str) -> Any:
    return run(redis, Acquire(KEYS, token, LeasePolicy(), SESSION))


def release(token: str, fence: int) -> Call[Any]:
    return Release(KEYS, token, fence, "", SESSION, [Change("s", b"n", token.encode(), "*")])


def granted_two_minutes_ago(redis: Redis, token: str) -> int:
    kind, fence, *_ = acquire(redis, token)
    assert kind == b"granted"
    earlier = int(fence) - 120_000_000
    redis.hset(KEYS.session, "#fence", earlier)
    return earlier


@pytest.mark.parametrize("others", [1, 3])
def test_a_save_after_a_long_hold_is_repeated(redis: Redis, others: int) -> None:
    """Its reply was lost, and others came and went since: it is told that it was done."""
    call = release("long", granted_two_minutes_ago(redis, "long"))
    assert run(redis, call)[0] == b"saved"
    for number in range(others):
        kind, fence, _, _, fields = acquire(redis, f"other {number}")
        assert kind == b"granted"
        created = dict(zip(fields[::2], fields[1::2], strict=True))[b"#created"].decode()
        changes = [Change("s", b"m", b"1", "*")]
        assert run(redis, Release(KEYS, f"other {number}", int(fence), created, SESSION, changes))[0] == b"saved"
    assert run(redis, call)[0] == b"already"


def test_a_late_acquire_after_a_long_hold(redis: Redis) -> None:
    """Given up after a long time: an acquire that was held up takes nothing."""
    granted_two_minutes_ago(redis, "long")
    run(redis, Abandon(KEYS, "long"))
    acquire(redis, "other")
    run(redis, Abandon(KEYS, "other"))
    assert acquire(redis, "long") == [b"finished"]
