"""What is a lost update and what is none, one case at a time; and much traffic at once, with a checker."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sessionlock.audit.detector import Detector
from sessionlock.audit.verdict import Verdict
from tests.audit.traffic import HANDLERS, STYLES, Traffic, line

KEY = "session:0123456789abcdef"
Said = tuple[str, ...]


def judged(said: Iterable[Said | float], **options: Any) -> Verdict:
    """``("a", "GET", KEY)``: connection a's; a number: so many seconds later."""
    detector, at = Detector(**options), 1_795_892_448.0
    for one in said:
        if isinstance(one, float):
            at += one
            continue
        at += 0.001
        who, *words = one
        where = who if who == "lua" or who.startswith("unix:") else f"10.0.0.{ord(who[0])}:{ord(who[-1])}"
        detector.feed(line(at, where, *words))
    return detector.finish()


def counts(verdict: Verdict) -> tuple[int, int]:
    """Sure, likely."""
    return verdict.tally.updates["sure"], verdict.tally.updates["likely"]


def stored(**session: Any) -> str:
    return json.dumps(session)


BEGUN: Said = ("z", "SET", KEY, stored(lang="en", cart=["x"], n=5))
OVERLAPPING: tuple[Said, Said] = (("a", "GET", KEY), ("b", "GET", KEY))


def overlap(first: str, second: str) -> list[Said | float]:
    return [BEGUN, *OVERLAPPING, ("a", "SET", KEY, first), ("b", "SET", KEY, second)]


# --- sure, likely, none


def test_what_the_second_takes_back_is_sure() -> None:
    verdict = judged(overlap(stored(lang="de", cart=["x"], n=5), stored(lang="en", cart=["x"], n=5, seen=True)))
    assert counts(verdict) == (1, 0)
    assert verdict.told == "loses"
    assert verdict.tally.fields["lang"].sure == 1
    (example,) = verdict.tally.examples
    assert example.read is not None
    assert example.read < example.lost < example.saved


def test_items_of_a_list() -> None:
    verdict = judged(overlap(stored(cart=["x", "a"]), stored(cart=["x", "b"])))
    assert verdict.tally.fields["cart"].sure == 1


def test_what_was_taken_out_and_is_back() -> None:
    verdict = judged(overlap(stored(cart=[], lang="en", n=5), stored(cart=["x"], lang="de", n=5)))
    assert counts(verdict) == (1, 0)
    assert verdict.tally.fields["cart"].undone == 1


def test_equal_counts_are_likely_a_loss() -> None:
    """Two requests that each count: 5, 6, 6. Or two that both meant 6."""
    verdict = judged(overlap(stored(cart=["x"], lang="en", n=6), stored(cart=["x"], lang="en", n=6)))
    assert counts(verdict) == (0, 1)
    assert verdict.told == "likely"


def test_equal_words_are_none() -> None:
    assert counts(judged(overlap(stored(lang="de"), stored(lang="de")))) == (0, 0)


def test_what_both_assign_is_contested() -> None:
    verdict = judged(overlap(stored(lang="de", cart=["x"], n=5), stored(lang="fr", cart=["x"], n=5)))
    assert counts(verdict) == (0, 0)
    assert verdict.tally.contested == {"lang": 1}


@pytest.mark.parametrize("unit", [1, 1000])
def test_the_time_of_the_last_request_is_none(unit: int) -> None:
    now = 1_795_892_448
    begun = ("z", "SET", KEY, stored(seen=(now - 60) * unit))
    said = [begun, *OVERLAPPING, ("a", "SET", KEY, stored(seen=now * unit)), ("b", "SET", KEY, stored(seen=now * unit))]
    assert judged(said).told == "none"


def test_what_the_second_has_read_is_none() -> None:
    said = [BEGUN, ("a", "GET", KEY), ("a", "SET", KEY, stored(cart=["x", "a"])), ("b", "GET", KEY)]
    assert judged([*said, ("b", "SET", KEY, stored(cart=["x"]))]).told == "none"


def test_one_request_that_saves_twice_is_none() -> None:
    said = [BEGUN, ("a", "GET", KEY), ("a", "SET", KEY, stored(cart=["x", "a"])), ("a", "SET", KEY, stored(cart=["x"]))]
    assert judged(said).told == "none"


def test_a_value_that_was_not_read_is_none() -> None:
    verdict = judged([BEGUN, ("a", "SET", KEY, stored(n=1)), ("b", "SET", KEY, stored(n=2))])
    assert verdict.told == "unknown"


def test_a_session_begun_twice_is_likely() -> None:
    """Nothing was there: a cache that two fill says the same or something newer; a session lacks the other's keys."""
    said: list[Said] = [*OVERLAPPING, ("a", "SET", KEY, stored(a=1, both=1)), ("b", "SET", KEY, stored(b=1, both=2))]
    assert counts(judged(said)) == (0, 1)
    said = [*OVERLAPPING, ("a", "SET", KEY, stored(both=1)), ("b", "SET", KEY, stored(both=2))]
    assert counts(judged(said)) == (0, 0)


def test_a_deleted_session_that_is_stored_again() -> None:
    verdict = judged([BEGUN, *OVERLAPPING, ("a", "DEL", KEY), ("b", "SET", KEY, stored(lang="en", cart=["x"], n=5))])
    assert counts(verdict) == (1, 0)
    assert list(verdict.tally.fields) == ["(the record)"]


def test_saving_by_deleting_is_none() -> None:
    said = [BEGUN, *OVERLAPPING[:1] * 2, ("a", "DEL", KEY), ("a", "SET", KEY, stored(lang="en", cart=["x"], n=6))]
    assert judged(said).lost == 0


def test_bytes_that_nobody_can_read_are_likely() -> None:
    begun = ("z", "SET", KEY, "\x00one")
    said = [begun, *OVERLAPPING, ("a", "SET", KEY, "\x00two"), ("b", "SET", KEY, "\x00three")]
    assert counts(judged(said)) == (0, 1)


def test_it_is_sure_only_when_nobody_has_read_between() -> None:
    """Somebody else's read, of an application that was never seen to keep a connection to a request."""
    said = [BEGUN, *OVERLAPPING, ("a", "SET", KEY, stored(cart=["x", "a"])), ("c", "GET", KEY)]
    assert counts(judged([*said, ("b", "SET", KEY, stored(cart=["x", "b"]))])) == (0, 1)


def test_over_a_unix_socket_nothing_is_sure() -> None:
    said = overlap(stored(lang="en", cart=["x", "a"], n=5), stored(lang="en", cart=["x", "b"], n=5))
    verdict = judged(("unix:/run/redis.sock", *one[1:]) for one in said if not isinstance(one, float))
    assert counts(verdict) == (0, 1)
    assert verdict.one_name


# --- every way to read and to save


@pytest.mark.parametrize(
    ("read", "save"),
    [
        (("GET", KEY), ("SET", KEY, "{}", "EX", "60")),
        (("GETEX", KEY, "EX", "60"), ("SETEX", KEY, "60", "{}")),
        (("get", KEY), ("psetex", KEY, "60000", "{}")),
        (("MGET", "other", KEY), ("MSET", "other", "1", KEY, "{}")),
        (("GET", KEY), ("SET", KEY, "{}", "XX", "KEEPTTL")),
        (("GET", KEY), ("GETSET", KEY, "{}")),
        (("JSON.GET", KEY), ("JSON.SET", KEY, "$", "{}")),
    ],
    ids=lambda words: words[0],
)
def test_commands(read: Said, save: Said) -> None:
    def saves(who: str, value: str) -> Said:
        return (who, *(value if word == "{}" else word for word in save))

    begun = saves("z", stored(cart=["x"], lang="en"))
    said = [begun, ("a", *read), ("b", *read), saves("a", stored(cart=["x"], lang="de"))]
    assert counts(judged([*said, saves("b", stored(cart=["x", "b"], lang="en"))])) == (1, 0)


def test_fields_of_a_hash() -> None:
    """Only what is written is overwritten."""
    begun = ("z", "HSET", KEY, "cart", '["x"]', "lang", '"en"')
    said: list[Said] = [begun, ("a", "HGETALL", KEY), ("b", "HGETALL", KEY), ("a", "HSET", KEY, "cart", '["x", "a"]')]
    assert judged([*said, ("b", "HSET", KEY, "lang", '"de"')]).told == "none"
    verdict = judged([*said, ("b", "HMSET", KEY, "lang", '"de"', "cart", '["x"]')])
    assert (counts(verdict), list(verdict.tally.fields)) == ((1, 0), ["cart"])


def test_parts_of_a_json_document() -> None:
    begun = ("z", "JSON.SET", KEY, "$", stored(cart=["x"], lang="en"))
    said: list[Said] = [begun, ("a", "JSON.GET", KEY), ("b", "JSON.GET", KEY), ("a", "JSON.SET", KEY, "$.lang", '"de"')]
    assert judged([*said, ("b", "JSON.SET", KEY, "$.cart", '["x", "b"]')]).told == "none"
    assert counts(judged([*said, ("b", "JSON.SET", KEY, "$", stored(cart=["x", "b"], lang="en"))])) == (1, 0)


def test_what_the_server_counts_itself_is_none() -> None:
    said: list[Said] = [
        ("z", "SET", "n", "5"),
        ("a", "GET", "n"),
        ("b", "GET", "n"),
        ("a", "INCR", "n"),
        ("b", "INCR", "n"),
    ]
    assert judged(said).lost == 0
    assert counts(judged([*said[:4], ("b", "SET", "n", "6")])) == (0, 1)


def test_a_key_taken_away_as_it_is_read() -> None:
    said: list[Said] = [
        BEGUN,
        ("a", "GET", KEY),
        ("b", "GETDEL", KEY),
        ("a", "SET", KEY, stored(lang="en", cart=["x"], n=5)),
    ]
    assert judged(said).tally.fields["(the record)"].sure == 1


# --- what does not lose


WATCHED: list[Said] = [
    BEGUN,
    *(("a", *words) for words in (("WATCH", KEY), ("GET", KEY))),
    ("b", "GET", KEY),
    *(("a", *words) for words in (("MULTI",), ("SET", KEY, stored(cart=["x", "a"])), ("EXEC",))),
]


def test_watch_does_not_lose() -> None:
    verdict = judged(WATCHED)
    assert (verdict.told, verdict.tally.saves["watched"]) == ("none", 1)
    # Undone by another's save: the server shows MULTI and EXEC, and nothing between.
    said = [
        BEGUN,
        ("a", "WATCH", KEY),
        ("a", "GET", KEY),
        ("b", "GET", KEY),
        ("b", "SET", KEY, stored(cart=["x", "b"])),
    ]
    assert judged([*said, ("a", "MULTI"), ("a", "EXEC")]).told == "none"


def test_beside_watch_others_lose() -> None:
    assert counts(judged([*WATCHED, ("b", "SET", KEY, stored(cart=["x", "b"]))])) == (1, 0)


def test_a_watch_behind_the_read_does_lose() -> None:
    said = [BEGUN, *OVERLAPPING, ("a", "SET", KEY, stored(cart=["x", "a"])), ("b", "WATCH", KEY), ("b", "MULTI")]
    assert counts(judged([*said, ("b", "SET", KEY, stored(cart=["x", "b"])), ("b", "EXEC")])) == (1, 0)


def test_a_transaction_alone_does_lose() -> None:
    said = [BEGUN, *OVERLAPPING, ("a", "SET", KEY, stored(cart=["x", "a"])), ("b", "MULTI")]
    assert counts(judged([*said, ("b", "SET", KEY, stored(cart=["x", "b"])), ("b", "EXEC")])) == (1, 0)


def test_a_script_that_looks_before_it_writes() -> None:
    said = [BEGUN, *OVERLAPPING, ("a", "SET", KEY, stored(cart=["x", "a"])), ("b", "EVALSHA", "0" * 40, "1", KEY)]
    saves = ("lua", "SET", KEY, stored(cart=["x", "b"]))
    assert judged([*said, ("lua", "GET", KEY), saves]).told == "none"
    assert judged([*said, ("lua", "GET", f"version:{KEY}"), saves]).told == "none"
    assert counts(judged([*said, ("lua", "GET", "configuration"), saves])) == (1, 0)
    assert counts(judged([*said, saves])) == (1, 0)


def test_what_the_server_compares() -> None:
    said = [BEGUN, *OVERLAPPING, ("a", "SET", KEY, stored(cart=["x", "a"]))]
    assert judged([*said, ("b", "SET", KEY, stored(cart=["x", "b"]), "IFEQ", BEGUN[3])]).lost == 0
    assert judged([*said, ("b", "SET", KEY, stored(cart=["x", "b"]), "NX")]).lost == 0


# --- locks


def under_lock(who: str, *inside: Said) -> list[Said | float]:
    return [
        (who, "SET", f"{KEY}:lock", f"token of {who}", "NX", "PX", "50"),
        *inside,
        (who, "EVAL", "if redis.call('get',KEYS[1]) ...", "1", f"{KEY}:lock"),
        ("lua", "get", f"{KEY}:lock"),
        ("lua", "del", f"{KEY}:lock"),
    ]


def test_a_lock_that_was_held_does_not_lose() -> None:
    said = [
        *under_lock("a", ("a", "GET", KEY), ("a", "SET", KEY, stored(cart=["x", "a"]))),
        *under_lock("b", ("b", "GET", KEY), ("b", "SET", KEY, stored(cart=["x", "a", "b"]))),
    ]
    verdict = judged([BEGUN, *said])
    assert verdict.told == "none"
    assert (verdict.locks_seen, verdict.tally.locked.saves) == (1, 2)


def test_a_lock_that_ran_out_does_lose() -> None:
    late: list[Said | float] = [BEGUN, ("a", "SET", f"{KEY}:lock", "t", "NX", "PX", "50"), ("a", "GET", KEY), 0.2]
    verdict = judged(
        [
            *late,
            ("b", "GET", KEY),
            ("b", "SET", KEY, stored(cart=["x", "b"])),
            ("a", "SET", KEY, stored(cart=["x", "a"])),
        ]
    )
    assert counts(verdict) == (1, 0)
    assert (verdict.tally.locked.lost, verdict.tally.locked.not_held) == (1, 1)


def test_a_lock_taken_behind_the_read_does_lose() -> None:
    said = [BEGUN, *OVERLAPPING, *under_lock("a", ("a", "SET", KEY, stored(cart=["x", "a"])))]
    verdict = judged([*said, *under_lock("b", ("b", "SET", KEY, stored(cart=["x", "b"])))])
    assert verdict.lost == 1
    assert verdict.tally.locked.read_before == 1


# --- much at once


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize(
    "habits", [(), ("always saves", "keeps time"), ("saves twice",), ("looks twice",)], ids="+".join
)
def test_one_request_after_another_loses_nothing(style: str, handler: str, habits: tuple[str, ...]) -> None:
    """Many sessions at a time, on any connections, each of them in order."""
    played = Traffic(1, style, handler, 1, sessions=6, together=6, requests=25, reading=0.4, habits=frozenset(habits))
    detector = Detector()
    for said in played.lines:
        detector.feed(said)
    verdict = detector.finish()
    assert (played.lost, verdict.lost, verdict.told) == (0, 0, "none")


@pytest.mark.parametrize("seed", range(3))
def test_what_was_read_seconds_ago_is_no_base(seed: int) -> None:
    """People who read, and later leave one message and take another: as if the second had not seen the first."""
    habits = frozenset({"keeps time"})
    played = Traffic(seed, "pool", "flash", 1, 10, together=8, requests=25, reading=0.4, pace=2.0, habits=habits)
    detector = Detector()
    for said in played.lines:
        detector.feed(said)
    assert detector.finish().told == "none"


@pytest.mark.parametrize("parallel", [2, 4, 8])
@pytest.mark.parametrize("handler", ["cart", "counter", "form"])
@pytest.mark.parametrize("style", ["own", "fresh"])
def test_found_is_what_was_counted(style: str, handler: str, parallel: int) -> None:
    """Of a connection for each worker or request. What came back is not lost in the end."""
    verdict, lost = found(style, handler, parallel)
    assert abs(verdict.lost - verdict.tally.updates["came back"] - lost) <= lost * 0.01
    assert lost > 50


@pytest.mark.parametrize("parallel", [2, 4, 8])
@pytest.mark.parametrize("handler", ["cart", "form"])
@pytest.mark.parametrize("style", ["pool", "single"])
def test_found_by_what_was_saved(style: str, handler: str, parallel: int) -> None:
    """Where connections say nothing, values do."""
    verdict, lost = found(style, handler, parallel)
    assert abs(verdict.lost - verdict.tally.updates["came back"] - lost) <= lost * 0.02


def found(style: str, handler: str, parallel: int) -> tuple[Verdict, int]:
    played = Traffic(7, style, handler, parallel, sessions=3, together=3)
    detector = Detector()
    for said in played.lines:
        detector.feed(said)
    return detector.finish(), played.lost


# --- what it does not tell, and does not use


def test_no_name_of_a_key_and_no_value_is_told() -> None:
    session = {"cart": ["secret-value"], "f3a9c2d4e5b60718": 1}
    verdict = judged(overlap(json.dumps(session), stored(cart=["other-secret"])))
    told = json.dumps(verdict.as_json())
    for secret in ("0123456789abcdef", "secret", "f3a9c2d4e5b60718", "10.0.0."):
        assert secret not in told
    digest = hashlib.sha256(KEY.encode()).hexdigest()[:16]
    assert [one["digest"] for one in verdict.as_json()["sessions"]["worst"]] == [digest]
    assert [one["prefix"] for one in verdict.as_json()["keys"]] == ["session:"]


def test_keys_that_were_used_longest_ago_are_forgotten() -> None:
    detector = Detector(most_records=50)
    for number in range(200):
        detector.feed(line(1.0 + number, "10.0.0.1:1", "GET", f"session:{number}"))
        detector.feed(line(1.0 + number, "10.0.0.1:1", "SET", f"session:{number}", "{}"))
    verdict = detector.finish()
    assert verdict.tally.judged == 200
    assert verdict.tally.dropped == 150


def test_large_values_are_forgotten_in_time() -> None:
    detector = Detector(most_bytes=100_000)
    for number in range(100):
        detector.feed(line(1.0 + number, "10.0.0.1:1", "SET", f"session:{number}", "x" * 10_000))
    assert detector.finish().tally.dropped >= 90


def test_only_what_matches() -> None:
    said = overlap(stored(cart=["x", "a"]), stored(cart=["x", "b"]))
    assert judged(said, match="session:*").lost == 1
    assert judged(said, match="cart:*").told == "unknown"


NAMES = (
    *("GET", "SET", "HSET", "HGETALL", "HDEL", "DEL", "INCR", "GETDEL", "JSON.SET", "JSON.GET", "FLUSHALL"),
    *("MULTI", "EXEC", "WATCH", "EVAL", "NX", "PX", "XX", "EX"),
)
ARGUMENTS = (
    "k",
    "k:lock",
    "",
    "0",
    "-1",
    "nan",
    "1e999",
    "$",
    "$.a",
    '{"a": [1]}',
    '{"a": 2}',
    "[",
    "a|i:1;",
    "\x80\x04N.",
)
WORDS = st.sampled_from([*NAMES, *ARGUMENTS])
SAID = st.tuples(st.sampled_from("abc"), st.lists(WORDS, min_size=1, max_size=6))


@given(st.lists(SAID | st.tuples(st.just("lua"), st.lists(WORDS, min_size=1, max_size=6)), max_size=60))
@settings(max_examples=200)
def test_nothing_that_is_said_makes_it_fail(said: list[tuple[str, list[str]]]) -> None:
    json.dumps(judged((who, *words) for who, words in said).as_json())


@given(st.lists(st.binary(max_size=80), max_size=20))
@settings(max_examples=50)
def test_what_is_no_line_is_counted(said: list[bytes]) -> None:
    detector = Detector()
    for one in said:
        detector.feed(one)
    assert detector.finish().strange <= len(said)
