"""Lines of MONITOR, as every server writes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionlock.audit.lines import Line, parse, plain
from tests.audit.traffic import line


@pytest.mark.parametrize(
    ("said", "who"),
    [
        (b'1795892448.347854 [0 127.0.0.1:49198] "GET" "k"', b"127.0.0.1:49198"),
        (b'+1795892448.347854 [0 127.0.0.1:49198] "GET" "k"\r\n', b"127.0.0.1:49198"),
        (b'1795892448.347854 [0 lua] "GET" "k"', b"lua"),
        (b'1795892448.347854 [0 unix:/run/my redis.sock] "GET" "k"', b"unix:/run/my redis.sock"),
        (b'1795892448.347854 [0 [::1]:49198] "GET" "k"', b"[::1]:49198"),
        (b'2026-11-28T19:00:00Z redis-0 1795892448.347854 [0 10.0.0.7:1] "GET" "k"', b"10.0.0.7:1"),
    ],
)
def test_who_says_it(said: bytes, who: bytes) -> None:
    assert parse(said) == Line(1795892448.347854, b"0", who, [b"GET", b"k"])


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"OK",
        b'1795892448.347854 [0 127.0.0.1:49198] "GET',
        b'1795892448.347854 [0 127.0.0.1:49198] "GET" "k\\"',
        b"1795892448.347854 [0 127.0.0.1:49198] GET k",
        b'now [0 127.0.0.1:49198] "GET" "k"',
    ],
)
def test_what_is_none(said: bytes) -> None:
    assert parse(said) is None


@given(st.lists(st.binary(), min_size=1))
def test_words_come_out_as_they_went_in(words: list[bytes]) -> None:
    read = parse(line(1.5, "10.0.0.1:7", *words))
    assert read is not None
    assert [plain(word) for word in read.words] == words


@given(st.binary())
def test_nothing_makes_it_fail(said: bytes) -> None:
    parse(said)
    plain(said)
