"""The first round of an election at one master: `vote`, and `abandon` of what was asked for just once."""

from __future__ import annotations

from typing import Any

from redis import Redis
from support.commands import run

from sessionlock import LeasePolicy, protocol
from sessionlock.keys import keys_for
from sessionlock.protocol import Granted, Refused

KEYS = keys_for("sl", "s")
LEASE = LeasePolicy()


def vote(redis: Redis, token: str) -> Granted | Refused:
    return protocol.voted(run(redis, protocol.vote(KEYS, token, LEASE, label="node")), 0.0)


def granted(redis: Redis, token: str) -> int:
    outcome = vote(redis, token)
    assert isinstance(outcome, Granted), outcome
    return outcome.fence


def queue_up(redis: Redis, token: str) -> Any:
    """As a waiter, whose pushes nobody hears but who is taken for alive (``deaf``)."""
    call = protocol.acquire(KEYS, token, LEASE, None, channel="nobody", label="waiter", deaf=True)
    return run(redis, call)


def leave(redis: Redis, token: str, *, once: bool = True) -> Any:
    return run(redis, protocol.abandon(KEYS, token, deaf=True, once=once))


def test_a_free_lock(redis: Redis) -> None:
    """Taken as `acquire` takes it: a plain lock with an end, a counter that grows, a holder's name."""
    first = granted(redis, "a")
    assert redis.get(KEYS.lock) == b"a"
    assert 9_000 < int(redis.pttl(KEYS.lock)) <= 10_000
    holder = protocol.inspected(run(redis, protocol.inspect(KEYS))).holder
    assert holder is not None
    assert holder.label == "node"
    assert leave(redis, "a") == [b"handed-on"]
    assert redis.get(KEYS.lock) is None
    assert granted(redis, "b") > first
    assert all(int(redis.pttl(key)) > 0 for key in redis.keys("*"))


def test_a_lock_that_is_held(redis: Redis) -> None:
    """By one of ours or by anybody: nothing is changed."""
    granted(redis, "a")
    before = redis.hgetall(KEYS.session)
    assert vote(redis, "b") == Refused("busy")
    assert (redis.get(KEYS.lock), redis.hgetall(KEYS.session)) == (b"a", before)
    redis.set(KEYS.lock, "foreign")
    assert vote(redis, "b") == Refused("busy")
    assert redis.get(KEYS.lock) == b"foreign"


def test_others_wait(redis: Redis) -> None:
    """The lock has lapsed, but somebody stands in the queue: a vote does not go before him."""
    granted(redis, "a")
    assert queue_up(redis, "b")[0] == b"queued"
    redis.delete(KEYS.lock)
    assert vote(redis, "c") == Refused("busy")
    assert redis.get(KEYS.lock) is None
    assert queue_up(redis, "b")[0] == b"granted"


def test_given_back_while_others_wait(redis: Redis) -> None:
    """It goes to the next one."""
    granted(redis, "a")
    queue_up(redis, "b")
    assert leave(redis, "a") == [b"handed-on"]
    assert redis.get(KEYS.lock) == b"b"


def test_given_back_before_it_was_taken(redis: Redis) -> None:
    """The vote was held up on a connection that is lost: it takes nothing any more."""
    assert leave(redis, "a") == [b"left"]
    assert vote(redis, "a") == Refused("finished")
    assert redis.get(KEYS.lock) is None


def test_given_back_by_somebody_else(redis: Redis) -> None:
    granted(redis, "a")
    assert leave(redis, "b") == [b"left"]
    assert redis.get(KEYS.lock) == b"a"


def test_a_receipt_only_where_something_may_come_late(redis: Redis) -> None:
    """Asked for just once and found here, nothing can; else it could."""
    granted(redis, "a")
    leave(redis, "a")
    assert redis.hget(KEYS.session, "#commit") is None
    granted(redis, "b")
    leave(redis, "b", once=False)
    assert vote(redis, "b") == Refused("finished")
