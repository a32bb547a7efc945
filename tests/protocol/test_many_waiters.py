"""No script takes longer the more wait: what each does is counted."""

from __future__ import annotations

from redis import Redis

from sessionlock import SessionPolicy
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.record_calls import Create, Destroy
from tests.harness.commands import CommandCounter, numbered, op_of, outcome_of, run, token_of

KEYS = keys_for("sl", "s")
MANY = 5_000
MOST_TOLD = 64


def test_a_session_is_destroyed(redis: Redis, redis_url: str) -> None:
    """The first ones are told; the others find the tombstone when they look, and the queue is gone at once."""
    run(redis, numbered(Create(KEYS, SessionPolicy(), []), op_of("creates")))
    tokens = [token_of(f"w{number}") for number in range(MANY)]
    redis.zadd(KEYS.queue, {token: number for number, token in enumerate(tokens)})
    redis.hset(KEYS.waiters, mapping={token: f"{9 * 10**15} 10000 1000 ch label" for token in tokens})
    with redis.pubsub(ignore_subscribe_messages=True) as hears:  # type: ignore[no-untyped-call]
        hears.subscribe("ch")
        hears.get_message(timeout=5)
        with CommandCounter(redis_url) as ran:
            assert outcome_of(redis, numbered(Destroy(KEYS, SessionPolicy()), op_of("destroys"))).existed
        told = [hears.get_message(timeout=5)["data"] for _ in range(MOST_TOLD)]
    assert told == [f"D {token}".encode() for token in tokens[:MOST_TOLD]]
    assert ran["publish"] == MOST_TOLD
    assert ran["hgetall"] == ran["del"] - 1 == 0, "nothing whose time grows with them"
    assert not redis.exists(KEYS.queue, KEYS.waiters)
