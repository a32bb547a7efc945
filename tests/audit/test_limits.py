"""What has an end: keys, and the memory and the time that an audit takes."""

from __future__ import annotations

import json

import pytest

from sessionlock.audit.commands import Act
from sessionlock.audit.detector import Detector
from sessionlock.audit.facts import Facts
from sessionlock.audit.keys import matching, tells_nobody
from sessionlock.audit.units import MOST_BYTES, MOST_WATCHED, Connections
from sessionlock.audit.verdict import shown_name
from tests.audit.test_detector import BEGUN, KEY, OVERLAPPING, Said, counts, judged, stored
from tests.audit.traffic import line

# --- keys


ANEW: list[Said] = [
    *OVERLAPPING,
    ("a", "SET", KEY, stored(cart=["a"], n=1), "EX", "1"),
    ("b", "SET", KEY, stored(cart=["b"], n=1), "EX", "1"),
]


def test_what_has_expired_was_not_there() -> None:
    """A cache that two fill; a session that two begin anew. The last may decide."""
    begun = (*BEGUN, "EX", "1")
    assert judged([begun, 2.0, *ANEW]).lost == 0
    assert judged([BEGUN, ("z", "EXPIRE", KEY, "1"), 2.0, *ANEW]).lost == 0
    assert judged([*OVERLAPPING, begun, 2.0, ("b", "SET", KEY, stored(cart=["b"]))]).lost == 0
    assert judged([begun, 0.5, *ANEW]).lost == 1


@pytest.mark.parametrize(
    "renewed",
    [
        [("z", "EXPIRE", KEY, "60")],
        [("z", "PERSIST", KEY)],
        [("z", "GETEX", KEY, "EX", "60")],
        [("z", "MULTI"), ("z", "EXPIRE", KEY, "60"), ("z", "EXEC")],
        [("z", "SET", KEY, BEGUN[3])],
        [("z", "SET", KEY, BEGUN[3], "EX", "60"), ("z", "SET", KEY, BEGUN[3], "KEEPTTL")],
    ],
    ids=lambda said: " ".join(said[-1][1:2]),
)
def test_what_was_renewed_is_there(renewed: list[Said]) -> None:
    assert judged([(*BEGUN, "EX", "1"), *renewed, 2.0, *ANEW]).lost == 1


# --- memory


def test_transactions_that_nobody_ends_are_forgotten() -> None:
    connections, value = Connections(), b"x" * 100_000
    for number in range(1000):
        who = (0, b"10.0.0.1:%d" % number)
        connections.begin_transaction(who, b"0")
        connections.in_transaction(who, 1.0, [Act(b"k", "put", values={b"": value})])
    kept = [connections.end_transaction((0, b"10.0.0.1:%d" % number)) for number in range(1000)]
    assert sum(unit.size for unit in kept if unit is not None) <= MOST_BYTES
    assert kept[-1] is not None


def test_a_long_transaction_is_cut() -> None:
    connections, who = Connections(), (0, b"10.0.0.1:1")
    connections.begin_transaction(who, b"0")
    for _ in range(1000):
        connections.in_transaction(who, 1.0, [Act(b"k", "put", values={b"": b"x" * 100_000})])
    unit = connections.end_transaction(who)
    assert unit is not None
    assert unit.size <= MOST_BYTES + 200_000


def test_keys_that_are_watched_for_ever_are_forgotten() -> None:
    connections, keys = Connections(), [(b"0", b"%d" % number) for number in range(MOST_WATCHED + 1)]
    connections.watch((0, b"10.0.0.1:1"), keys[:1])
    connections.has_read((0, b"10.0.0.1:1"), keys[0])
    connections.watch((0, b"10.0.0.1:2"), keys[1:])
    assert not connections.has_watched((0, b"10.0.0.1:1"), keys[0])


def test_a_key_that_is_only_read_waits_for_nothing() -> None:
    """Nobody saves it, so nothing is learned of those who do."""
    detector = Detector(most_bytes=1_000_000)
    for number in range(20_000):
        detector.feed(line(1.0 + number / 1000, "10.0.0.1:1", "GET", f"session:{number % 3}"))
    assert detector.finish().tally.dropped == 0


# --- time


def test_long_sessions_are_compared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of numbers that each request counts."""
    compared = 0
    differ = Facts.differ

    def counting(self: Facts, other: Facts) -> object:
        nonlocal compared
        compared += 1
        return differ(self, other)

    monkeypatch.setattr(Facts, "differ", counting)
    saves = [json.dumps({f"k{number}": number + turn for number in range(1000)}) for turn in range(3)]
    said = [("z", "SET", KEY, saves[0]), *OVERLAPPING, ("a", "SET", KEY, saves[1]), ("b", "SET", KEY, saves[2])]
    assert counts(judged(said))[1] == 1
    assert compared < 100


# --- names


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("lastAccessedTime", "lastAccessedTime"),
        ("_auth_user_hash", "_auth_user_hash"),
        ("bob@example.com", "…"),
        ("tok_ABCdefGHIjkl", "tok_…"),
        ("eyJhbGciOi", "…"),
        ("P000091", "P…"),
        ("item12", "item#"),
    ],
)
def test_names_of_fields_tell_nothing(name: str, told: str) -> None:
    assert shown_name(name) == told


def test_names_of_people_are_no_prefix() -> None:
    """An application's word stands before many keys, or is a usual one."""
    assert tells_nobody("session:", 1)
    assert tells_nobody(":1:django.contrib.sessions.cache", 1)
    assert tells_nobody("shop:", 10)
    assert not tells_nobody("alice.smith:", 3)


@pytest.mark.parametrize(
    ("pattern", "key", "fits"),
    [
        ("séance:*", "séance:1", True),
        ("a\\*b:*", "a*b:1", True),
        ("a\\*b:*", "axb:1", False),
        ("[^s]*", "b:1", True),
        ("[^s]*", "s:1", False),
        ("h?[l-m]lo", "hello", True),
        ("[", "[", True),
    ],
)
def test_patterns_are_the_servers(pattern: str, key: str, fits: bool) -> None:
    assert (matching(pattern).fullmatch(key.encode()) is not None) == fits
