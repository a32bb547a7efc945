"""What has finished is known by its number, however old it is, whoever came since, and whatever the clock says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from sessionlock import LeasePolicy, SessionPolicy
from sessionlock.protocol import records
from sessionlock.protocol.calls import Abandon, Acquire, Call, Release
from sessionlock.protocol.changes import Change
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.numbers import Lane
from sessionlock.protocol.record_calls import Commit, Create, Increment, Save
from sessionlock.protocol.replies import Committed, Conflict, Granted, Queued, Refused
from tests.harness.commands import created_of, done_of, low_of, numbered, op_of, outcome_of, run, state_of, token_of

KEYS = keys_for("sl", "s")
SESSION = SessionPolicy(idle=3600)
MOST_CLIENTS = 256


def acquire(redis: Redis, token: str) -> Any:
    return outcome_of(redis, Acquire(KEYS, token, LeasePolicy(), SESSION))


def granted(redis: Redis, token: str) -> Granted:
    outcome = acquire(redis, token)
    assert isinstance(outcome, Granted), outcome
    return outcome


def release(token: str, grant: Granted, low: str | None = None) -> Call[Any]:
    changes = [Change("s", b"n", token.encode(), "*")]
    return Release(KEYS, token, grant.fence, low or low_of(token), grant.loaded.created, SESSION, changes)


def counted(redis: Redis, op: str, low: str | None = None) -> Any:
    return outcome_of(redis, numbered(Increment(KEYS, None, "new", SESSION, Change("i", b"c", b"1", "*")), op, low))


def others_come_and_go(redis: Redis, count: int) -> None:
    for number in range(count):
        token = token_of(f"other {number}")
        run(redis, release(token, granted(redis, token)))


@pytest.mark.parametrize("others", [1, 3, MOST_CLIENTS - 4])
def test_a_save_is_repeated_after_others_came_and_went(redis: Redis, others: int) -> None:
    token = token_of("long")
    call = release(token, granted(redis, token))
    assert run(redis, call) == b"1"
    others_come_and_go(redis, others)
    assert run(redis, call)[0] == b"already"


def test_a_late_acquire(redis: Redis) -> None:
    """Given up long ago: an acquire that was held up takes nothing."""
    token = token_of("long")
    granted(redis, token)
    run(redis, Abandon(KEYS, token, low_of(token)))
    others_come_and_go(redis, 3)
    assert acquire(redis, token) == Refused("already")
    assert redis.get(KEYS.lock) is None


def test_a_late_acquire_of_the_younger_of_two(redis: Redis) -> None:
    """The younger was given up first; then the older finished: the younger one is known all the same."""
    others_come_and_go(redis, 1)  # a record, so that the short way is open
    older, younger = token_of("long", 3), token_of("long", 5)
    run(redis, Abandon(KEYS, younger, low_of(older)))
    run(redis, release(older, granted(redis, older), low_of(older)))
    assert acquire(redis, younger) == Refused("already")
    assert redis.get(KEYS.lock) is None


def test_so_many_calls(redis: Redis) -> None:
    """More commits than any list would hold, while one is not answered: its repetition counts nothing, and what is kept
    stays small."""
    lane = Lane()
    first = lane.begin("s")
    assert counted(redis, first, lane.low("s", first)).value == 1
    for _ in range(5_000):
        op = lane.begin("s")
        counted(redis, op, lane.low("s", op))
        lane.end("s", op)
    assert max(len(value) for value in redis.hvals(KEYS.receipts)) < 300 * 40
    repeated = counted(redis, first, lane.low("s", first))
    assert (repeated.repeated, repeated.value) == (True, 1)
    assert redis.hget(KEYS.session, "c") == b"5001"


def test_the_servers_clock_does_not_matter(redis: Redis) -> None:
    """Nothing that is kept of a finished call tells a time."""
    counted(redis, op_of("counts"))
    number = low_of(op_of("counts"))
    assert done_of(redis, KEYS.session) == f"{op_of('counts')}{number} {number}=1".encode()


def test_an_older_save_comes_after_a_newer_one(redis: Redis) -> None:
    """A, then B, then A's first try: it undoes nothing."""
    token = token_of("holder")
    grant = granted(redis, token)

    def save(number: int, value: bytes) -> Any:
        op = op_of("saves", number)
        call = Save(KEYS, token, grant.fence, grant.loaded.created, SESSION, [Change("s", b"n", value, "*")])
        return outcome_of(redis, numbered(call, op))

    first = save(1, b"1")
    assert isinstance(first, Committed)
    grant = Granted(grant.fence, grant.server_us, 0.0, 10.0, grant.loaded._replace(created=first.created))
    assert isinstance(save(2, b"2"), Committed)
    late = save(1, b"1")
    assert isinstance(late, Committed)
    assert late.repeated
    assert redis.hget(KEYS.session, "n") == b"2"


def test_what_met_a_conflict_is_never_done(redis: Redis) -> None:
    """It was refused; when what it had read is there again, its first try comes late."""
    run(redis, numbered(Create(KEYS, SESSION, [Change("s", b"n", b"1", "")]), op_of("creates")))
    created = created_of(redis, KEYS.session)
    change = Change("s", b"n", b"2", b"=1")
    call = numbered(Commit(KEYS, created, None, SESSION, [change]), op_of("commits"))
    redis.hset(KEYS.session, "n", "other")
    assert isinstance(outcome_of(redis, call), Conflict)
    redis.hset(KEYS.session, "n", "1")
    assert isinstance(outcome_of(redis, call), Conflict)
    assert redis.hget(KEYS.session, "n") == b"1"


def test_clients_that_are_too_many(redis: Redis) -> None:
    """Half of them is forgotten; who may be one of those is not believed to be new, but with a higher number it is."""
    for number in range(MOST_CLIENTS + 2):
        counted(redis, op_of(f"c{number}", number + 1))
    assert int(redis.hlen(KEYS.receipts)) <= MOST_CLIENTS
    floor = int(redis.hget(KEYS.session, "#floor") or 0)
    assert floor > 0
    before = redis.hget(KEYS.session, "c")
    assert run(redis, numbered(Increment(KEYS, None, "new", SESSION, Change("i", b"c", b"1", "*")), op_of("c0", 1)))[
        :2
    ] == [
        b"forgotten",
        b"%016d" % floor,
    ]
    assert redis.hget(KEYS.session, "c") == before
    assert counted(redis, op_of("c0", floor + 1)).repeated is False


def test_what_would_tell_is_gone(redis: Redis) -> None:
    """The record was lost with everything in it: whether the save was done cannot be told."""
    token = token_of("long")
    call = release(token, granted(redis, token))
    run(redis, call)
    redis.flushall()
    assert outcome_of(redis, call) == Refused("untold")


def test_a_lapsed_lock_is_lost_for_certain(redis: Redis) -> None:
    token = token_of("long")
    grant = granted(redis, token)
    redis.delete(KEYS.lock)
    assert outcome_of(redis, release(token, grant)) == Refused("lost", grant.fence)


def aged_op(redis: Redis, age: float) -> str:
    """A number that tells the server's clock so many seconds ago."""
    seconds, rest = map(int, redis.time())
    return op_of("late", seconds * 10**6 + rest - int(age * 10**6))


BEGINNERS = [
    lambda: Create(KEYS, SESSION, [Change("s", b"c", b"1", "")]),
    lambda: Increment(KEYS, None, "new", SESSION, Change("i", b"c", b"1", "*")),
    lambda: Commit(KEYS, "", None, SESSION, [Change("s", b"c", b"1", "")]),
]


@pytest.mark.parametrize("beginner", BEGINNERS)
@pytest.mark.parametrize("there", ["nothing", "a shell", "a younger one"])
def test_what_may_begin_a_session_comes_when_all_is_gone(redis: Redis, beginner: Any, there: str) -> None:
    """Nobody knows whether it was carried out: an old one is not; nor in a session that began since."""
    late = aged_op(redis, 31)
    if there == "a shell":
        run(redis, Abandon(KEYS, token_of("other"), low_of(token_of("other"))))
    elif there == "a younger one" and beginner is not BEGINNERS[0]:
        run(redis, numbered(Increment(KEYS, None, "new", SESSION, Change("i", b"n", b"1", "*")), op_of("other")))
    reply = run(redis, numbered(beginner(), late))
    assert reply[0] == b"forgotten"
    assert low_of(late).encode() < reply[1] <= low_of(aged_op(redis, 0)).encode()
    assert redis.hget(KEYS.session, "c") is None
    assert run(redis, numbered(beginner(), aged_op(redis, 0)))[0] == b"saved"


def test_an_old_call_is_new_where_what_would_tell_is_there(redis: Redis) -> None:
    """It was numbered after the record came to be, which knows of all calls since."""
    run(redis, numbered(Create(KEYS, SESSION, [Change("s", b"c", b"1", "")]), op_of("creates")))
    state = state_of(redis, KEYS.session)
    long_ago = aged_op(redis, 100)
    redis.hset(KEYS.session, "#state", state[:16] + low_of(aged_op(redis, 200)).encode() + state[32:])
    assert counted(redis, long_ago).value == 2
    assert counted(redis, long_ago).repeated


def test_a_short_life_forgets_sooner(redis: Redis) -> None:
    change = Change("i", b"c", b"1", "*")
    for session in (SessionPolicy(idle=2), SessionPolicy(idle=3600, absolute=2)):
        late = numbered(Increment(KEYS, None, "new", session, change), aged_op(redis, 1.1))
        assert run(redis, late)[0] == b"forgotten"


# --- the same in Python, for commits by WATCH


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), max_size=12))
def test_records(calls: list[tuple[int, int]]) -> None:
    """Whatever finishes in whatever order: it is known from then on, and nothing else is but what is below low."""
    record: str | None = None
    done: set[int] = set()
    told = 0
    for number, answered in calls:
        low = min(number, answered)
        record = records.finish(op_of("c", number), f"{low:016d}", record)
        if number >= told:
            done.add(number)
        told = max(told, low)
        for other in range(1, 10):
            assert records.has_finished(op_of("c", other), record) == (other < told or other in done)


def test_a_lane() -> None:
    """Numbers grow; low is the oldest call about that session that is not answered."""
    lane = Lane()
    first, other, second = lane.begin("a"), lane.begin("b"), lane.begin_token("a")
    assert first < other < second
    assert lane.low("a", second) == first[12:28]
    lane.end("a", first)
    assert lane.low("a", second) == second[12:28]
    assert lane.low("b", other) == other[12:28]
    lane.exceed(10**15)
    assert lane.begin("a")[12:] == f"{10**15 + 1:016d}"
    assert lane.low("a", first) == first[12:28], "never above its own number"


def test_a_waiter_stays_while_clients_are_forgotten(redis: Redis) -> None:
    """Its client is among those that are not known any more; but it stands in the queue, so it has not ended."""
    holder, waiter = token_of("holder"), token_of("waiter")
    granted(redis, holder)
    call = Acquire(KEYS, waiter, LeasePolicy(), SESSION, deaf=True, channel="c")
    assert isinstance(outcome_of(redis, call), Queued)
    for number in range(MOST_CLIENTS + 2):
        counted(redis, op_of(f"c{number}", number + 10))
    assert isinstance(outcome_of(redis, call), Queued)
    redis.delete(KEYS.receipts)
    assert isinstance(outcome_of(redis, call), Queued)
    assert acquire(redis, token_of("another")).kind == "forgotten"
