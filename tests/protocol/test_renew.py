"""What a renewal does to a lease, and to one that is not its own."""

from __future__ import annotations

from redis import Redis

from sessionlock.protocol.calls import Renew
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import run, token_of

KEYS = keys_for("sl", "s")


def renew(redis: Redis, token: str, ttl_ms: int) -> list[int]:
    return list(run(redis, Renew([(KEYS, token_of(token), ttl_ms)])))


def test_the_lease_of_another(redis: Redis) -> None:
    """It is neither extended nor made shorter."""
    redis.set(KEYS.lock, token_of("a"), px=10_000)
    assert renew(redis, "b", 60_000) == [0]
    assert renew(redis, "b", 1_000) == [0]
    assert 9_000 < int(redis.pttl(KEYS.lock)) <= 10_000
    assert redis.get(KEYS.lock) == token_of("a").encode()


def test_a_lease_that_is_longer_already(redis: Redis) -> None:
    redis.set(KEYS.lock, token_of("a"), px=10_000)
    assert renew(redis, "a", 1_000) == [1]
    assert int(redis.pttl(KEYS.lock)) > 9_000
    assert renew(redis, "a", 60_000) == [1]
    assert int(redis.pttl(KEYS.lock)) > 59_000
