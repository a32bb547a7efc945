"""The first round of an election at one master: `vote`, and `abandon` of what was asked for just once."""

from __future__ import annotations

from typing import Any

from redis import Redis

from sessionlock import LeasePolicy
from sessionlock.protocol import replies as protocol
from sessionlock.protocol.calls import Abandon, Acquire
from sessionlock.protocol.inspected import inspected
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.quorum_calls import RaiseFence, Vote
from sessionlock.protocol.record_calls import Inspect
from sessionlock.protocol.replies import Granted, Refused
from tests.harness.commands import done_of, fence_of, low_of, run, token_of

KEYS = keys_for("sl", "s")
LEASE = LeasePolicy()


def vote(redis: Redis, token: str, proposed: int = 0) -> Granted | Refused:
    return protocol.voted(
        run(redis, Vote(KEYS, token_of(token), LEASE, label="node", proposed=proposed)), 0.0, LEASE.ttl_ms
    )


def granted(redis: Redis, token: str, proposed: int = 0) -> int:
    outcome = vote(redis, token, proposed)
    assert isinstance(outcome, Granted), outcome
    return outcome.fence


def queue_up(redis: Redis, token: str) -> Any:
    """As a waiter, whose pushes nobody hears but who is taken for alive (``deaf``)."""
    call = Acquire(KEYS, token_of(token), LEASE, None, channel="nobody", label="waiter", deaf=True)
    return run(redis, call)


def leave(redis: Redis, token: str, *, once: bool = True) -> Any:
    return run(redis, Abandon(KEYS, token_of(token), low_of(token_of(token)), deaf=True, once=once))


def test_a_free_lock(redis: Redis) -> None:
    """Taken as `acquire` takes it: a plain lock with an end, a counter that grows, a holder's name."""
    first = granted(redis, "a")
    assert redis.get(KEYS.lock) == token_of("a").encode()
    assert 9_000 < int(redis.pttl(KEYS.lock)) <= 10_000
    holder = inspected(run(redis, Inspect(KEYS))).holder
    assert holder is not None
    assert holder.label == "node"
    assert leave(redis, "a") == [b"handed-on", b""]
    assert redis.get(KEYS.lock) is None
    assert granted(redis, "b") > first
    assert all(int(redis.pttl(key)) > 0 for key in redis.keys("*"))


def test_a_lock_that_is_held(redis: Redis) -> None:
    """By one of ours or by anybody: nothing is changed."""
    granted(redis, "a")
    before = redis.hgetall(KEYS.session)
    assert vote(redis, "b") == Refused("busy")
    assert (redis.get(KEYS.lock), redis.hgetall(KEYS.session)) == (token_of("a").encode(), before)
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
    assert leave(redis, "a") == [b"handed-on", b""]
    assert redis.get(KEYS.lock) == token_of("b").encode()


def test_given_back_before_it_was_taken(redis: Redis) -> None:
    """The vote was held up on a connection that is lost: it takes nothing any more."""
    assert leave(redis, "a") == [b"left", b"0", b"", b""]
    assert vote(redis, "a") == Refused("already")
    assert redis.get(KEYS.lock) is None


def test_given_back_by_somebody_else(redis: Redis) -> None:
    fence = granted(redis, "a")
    assert leave(redis, "b") == [b"left", b"%d" % fence, b"", b""]
    assert redis.get(KEYS.lock) == token_of("a").encode()


def test_a_completion_record_only_where_something_may_come_late(redis: Redis) -> None:
    """Asked for just once and found here, nothing can; else it could."""
    granted(redis, "a")
    leave(redis, "a")
    assert done_of(redis, KEYS.session) == b""
    granted(redis, "b")
    leave(redis, "b", once=False)
    assert vote(redis, "b") == Refused("already")


def now_us(redis: Redis) -> int:
    seconds, micros = redis.time()
    return int(seconds) * 1_000_000 + int(micros)


def test_a_counter_that_was_proposed(redis: Redis) -> None:
    """It is given, so that all masters give the same, and what comes after is higher."""
    proposed = now_us(redis) + 500_000
    assert granted(redis, "a", proposed) == proposed
    leave(redis, "a")
    assert granted(redis, "b") == proposed + 1
    leave(redis, "b")
    assert granted(redis, "c", proposed) == proposed + 2, "not one that was given before, or a lower one"


def test_a_proposal_by_a_clock_that_is_wrong(redis: Redis) -> None:
    """Behind ours, or far ahead: a counter must grow as the clock does, for it may be forgotten."""
    for token, far in (("a", -1_000), ("b", 2_000_000), ("c", 10**15)):
        before = now_us(redis)
        assert before <= granted(redis, token, before + far) <= now_us(redis) + 1
        leave(redis, token)


class TestRaisedFence:
    def test_by_the_holder(self, redis: Redis) -> None:
        """Once or again; whoever comes after gets a higher one, and it never goes down."""
        fence = granted(redis, "a")
        for raised_to in (fence + 5_000_000, fence + 5_000_000, fence):
            assert run(redis, RaiseFence(KEYS, token_of("a"), raised_to)) == [b"raised"]
            assert fence_of(redis, KEYS.session) == fence + 5_000_000
        leave(redis, "a")
        assert granted(redis, "b") == fence + 5_000_001

    def test_by_who_is_not_the_holder_any_more(self, redis: Redis) -> None:
        granted(redis, "a")
        leave(redis, "a")
        fence = granted(redis, "b")
        assert run(redis, RaiseFence(KEYS, token_of("a"), fence + 1)) == [b"lost"]
        assert fence_of(redis, KEYS.session) == fence

    def test_it_is_remembered_until_the_clock_has_come_as_far(self, redis: Redis) -> None:
        """For a master whose counters have been forgotten goes on by its clock."""
        fence = granted(redis, "a") + 600_000_000
        run(redis, RaiseFence(KEYS, token_of("a"), fence))
        assert 600_000 < int(redis.pttl(KEYS.session)) <= 661_000
        leave(redis, "a")
        assert granted(redis, "b") == fence + 1
        assert int(redis.pttl(KEYS.session)) > 600_000
