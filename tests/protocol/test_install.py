"""The store decides the order of a quorum's holders: `install` and `adopt`, call by call, on a real server."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from sessionlock import LeasePolicy, SessionPolicy
from sessionlock.protocol import replies as protocol
from sessionlock.protocol.calls import Abandon, Acquire, Release
from sessionlock.protocol.changes import Change
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.quorum_calls import Adopt, Install
from sessionlock.protocol.record_calls import Destroy
from tests.harness.commands import low_of, numbered, op_of, run, token_of

KEYS = keys_for("sl", "s")
SESSION = SessionPolicy(idle=3600)


def install(redis: Redis, token: str, majority: int = 2, *, ttl_ms: int = 10_000, **vector: int) -> Any:
    call = Install(KEYS, token_of(token), ttl_ms, vector.items(), majority, SESSION, channel="c", label="node")
    return run(redis, call)


def save(redis: Redis, token: str, fence: bytes, created: str = "", value: bytes = b"1") -> Any:
    return run(
        redis,
        Release(
            KEYS,
            token_of(token),
            int(fence),
            low_of(token_of(token)),
            created,
            SESSION,
            [Change("s", b"n", value, "*")],
        ),
    )


def test_it_is_a_grant(redis: Redis) -> None:
    """What `acquire` answers: fence, the time the lock runs, the session."""
    kind, fence, now, fields = install(redis, "a", A=5, B=6)
    assert (kind, fields) == (b"granted", [])
    assert int(fence) >= int(now) > 0
    assert redis.get(KEYS.lock) == token_of("a").encode()
    assert 9_000 < int(redis.pttl(KEYS.lock)) <= 10_000
    assert save(redis, "a", fence) == b"1"
    assert protocol.installed(install(redis, "b", A=6, C=1), 0.0, 10.0).snapshot.fields[b"n"] == b"1"  # type: ignore[union-attr]


def test_once_more(redis: Redis) -> None:
    """A repeated call (lost reply) has the same fence, and the lock its full time again."""
    first = install(redis, "a", A=5, B=6)
    redis.pexpire(KEYS.lock, 1_000)
    assert install(redis, "a", A=5, B=6)[1] == first[1]
    assert int(redis.pttl(KEYS.lock)) > 9_000


@pytest.mark.parametrize(
    ("seen", "late"),
    [
        ({"A": 8, "B": 9}, {"A": 5, "B": 6}),
        ({"A": 8, "B": 9}, {"A": 5, "C": 6}),
        ({"A": 8, "B": 9}, {"B": 6, "C": 100}),
        ({"A": 8, "C": 9}, {"A": 5, "B": 6, "C": 7}),
    ],
)
def test_an_older_vector(redis: Redis, seen: dict[str, int], late: dict[str, int]) -> None:
    """At a master that voted for both the later grant has the higher counter: the older holder comes too late."""
    fence = install(redis, "new", **seen)[1]
    assert install(redis, "old", **late) == [b"stale"]
    assert redis.get(KEYS.lock) == token_of("new").encode()
    assert save(redis, "new", fence) == b"1"
    assert install(redis, "old", **late) == [b"stale"], "also when the newer one has gone"


def test_what_was_seen_is_kept(redis: Redis) -> None:
    """The highest counter of each master, over several holders."""
    install(redis, "a", A=5, B=6)
    install(redis, "b", B=7, C=3)
    assert redis.hget(KEYS.session, "#vector") == b"A:5 B:7 C:3"
    assert install(redis, "late", A=4, C=2) == [b"stale"]
    assert install(redis, "c", A=6, C=4)[0] == b"granted"
    assert redis.hget(KEYS.session, "#vector") == b"A:6 B:7 C:4"


def test_one_master_whose_clock_was_set_back(redis: Redis) -> None:
    """It restarted empty with an older clock: it neither lets an older holder in nor locks everybody out."""
    install(redis, "a", A=50, B=60, C=70)
    assert install(redis, "b", A=51, B=61, C=7)[0] == b"granted"
    assert redis.hget(KEYS.session, "#vector") == b"A:51 B:61 C:70"
    assert install(redis, "old", A=50, B=60, C=8) == [b"stale"]


def test_taking_over(redis: Redis) -> None:
    """A holder whose lock still runs here has lost its majority: it is told, and its save is refused."""
    old = install(redis, "old", A=5, B=6)[1]
    with redis.pubsub(  # type: ignore[no-untyped-call]
        ignore_subscribe_messages=True
    ) as pubsub:
        pubsub.subscribe("c")
        pubsub.get_message(timeout=5)
        new = install(redis, "new", A=7, C=1)[1]
        message = pubsub.get_message(timeout=5)
    assert message is not None
    assert message["data"] == f"L {token_of('old')}".encode()
    assert int(new) > int(old)
    assert save(redis, "old", old) == [b"lost", new]
    assert save(redis, "new", new).isdigit()


def test_after_it_was_given_up(redis: Redis) -> None:
    """A belated install of an acquisition that ended takes nothing."""
    run(redis, Abandon(KEYS, token_of("a"), low_of(token_of("a"))))
    assert install(redis, "a", A=5, B=6) == [b"already", b""]
    assert not redis.exists(KEYS.lock)


def test_no_session(redis: Redis) -> None:
    call = Install(KEYS, token_of("a"), 10_000, [("A", 1)], 1, SESSION, missing="reject")
    assert run(redis, call) == [b"missing"]
    install(redis, "b", A=1, B=1)
    run(redis, numbered(Destroy(KEYS, SESSION), op_of("destroys")))
    assert install(redis, "c", A=2, B=2) == [b"destroyed"]


def test_nothing_immortal(redis: Redis) -> None:
    install(redis, "a", A=1, B=1)
    assert {key: redis.pttl(key) for key in redis.scan_iter() if redis.pttl(key) == -1} == {}
    assert redis.pttl(KEYS.session) > redis.pttl(KEYS.lock)


class TestAdopt:
    """A plain lock that another library took gets a counter."""

    def test_it(self, redis: Redis) -> None:
        redis.set(KEYS.lock, token_of("a"), px=5_000)
        kind, fence, _, left = run(redis, Adopt(KEYS, token_of("a"), label="node"))
        assert kind == b"adopted"
        assert 4_000 < left <= 5_000
        assert run(redis, Adopt(KEYS, token_of("a"), label="node"))[:2] == [b"adopted", fence]
        run(redis, Abandon(KEYS, token_of("a"), low_of(token_of("a"))))
        redis.set(KEYS.lock, token_of("b"), px=5_000)
        assert int(run(redis, Adopt(KEYS, token_of("b")))[1]) > int(fence)

    def test_without_the_lock(self, redis: Redis) -> None:
        assert run(redis, Adopt(KEYS, token_of("a"))) == [b"lost"]
        redis.set(KEYS.lock, token_of("b"), px=5_000)
        assert run(redis, Adopt(KEYS, token_of("a"))) == [b"lost"]

    def test_counters_of_both_kinds(self, redis: Redis) -> None:
        """Native grants and adopted ones have one order."""
        lease = LeasePolicy()
        native = run(redis, Acquire(KEYS, token_of("a"), lease, None))[1]
        run(redis, Abandon(KEYS, token_of("a"), low_of(token_of("a"))))
        redis.set(KEYS.lock, token_of("b"), px=5_000)
        adopted = run(redis, Adopt(KEYS, token_of("b")))[1]
        run(redis, Abandon(KEYS, token_of("b"), low_of(token_of("b"))))
        again = run(redis, Acquire(KEYS, token_of("c"), lease, None))[1]
        assert int(native) < int(adopted) < int(again)
