"""The short way of an acquire believes what its client says of the server's clock, so far as it can do no harm."""

from __future__ import annotations

import pytest
from redis import Redis

from sessionlock import LeasePolicy, SessionPolicy
from sessionlock.protocol import replies
from sessionlock.protocol.calls import Acquire, Release
from sessionlock.protocol.changes import Change
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.numbers import KNOWN_FOR, UNTOLD, ServerClock
from tests.harness.commands import low_of, outcome_of, token_of

KEYS = keys_for("sl", "s")
SESSION = SessionPolicy(idle=3600)


def cycle(redis: Redis, number: int, now: str) -> tuple[int, int]:
    """Take the lock, count, give it up. Returns the fence, and the clock that was told with it."""
    token = token_of("a", number)
    granted = outcome_of(redis, Acquire(KEYS, token, LeasePolicy(), SESSION, now=now))
    assert isinstance(granted, replies.Granted)
    change = Change("s", b"n", b"%d" % number, "*")
    release = Release(KEYS, token, granted.fence, low_of(token), granted.loaded.created, SESSION, [change])
    assert isinstance(outcome_of(redis, release), replies.Committed)
    return granted.fence, granted.server_us


def test_it_is_the_fence(redis: Redis) -> None:
    first, _ = cycle(redis, 1, UNTOLD)
    assert cycle(redis, 2, f"{first + 5:016d}") == (first + 5, first + 5)


@pytest.mark.parametrize("early", [0, 1, 10**9])
def test_a_clock_that_is_slow(redis: Redis, early: int) -> None:
    """The fence grows all the same: the script asks for the time itself."""
    first, _ = cycle(redis, 1, UNTOLD)
    fence, told = cycle(redis, 2, f"{first - early:016d}")
    assert first < fence <= told


def test_a_clock_that_is_fast(redis: Redis) -> None:
    """Those who know better go on above it."""
    first, _ = cycle(redis, 1, UNTOLD)
    ahead = first + 1_000_000_000
    assert cycle(redis, 2, f"{ahead:016d}")[0] == ahead
    fence, told = cycle(redis, 3, UNTOLD)
    assert fence == ahead + 1
    assert told < ahead


def test_how_long_it_is_carried_on() -> None:
    clock = ServerClock()
    assert clock.digits(100.0) == UNTOLD
    clock.saw(1_700_000_000_000_000, 100.0)
    assert clock.digits(100.0) == "1700000000000000"
    assert clock.digits(101.5) == "1700000001500000"
    assert clock.digits(100.0 + KNOWN_FOR) == UNTOLD
