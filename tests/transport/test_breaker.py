"""The states of a breaker, without Redis and without waiting."""

from __future__ import annotations

import pytest

from sessionlock.transport.breaker import FIRST_PAUSE, LONGEST_PAUSE, Breaker

# What happens, and what is to be seen then: the answer of the method, and the state.
Step = tuple[str, object, str]

STORIES: dict[str, list[Step]] = {
    "a call that succeeds when repeated": [
        ("failed 1", None, "doubtful"),
        ("answered 2", None, "closed"),
    ],
    "several calls fail, one of them finds it well": [
        ("failed 1", None, "doubtful"),
        ("failed 2", None, "doubtful"),
        ("answered 3", None, "closed"),
        ("answered 4", None, "closed"),
    ],
    "an outage, told once when it begins and once when it ends": [
        ("failed 1", None, "doubtful"),
        ("failed 3", None, "doubtful"),
        ("gave_up 1", True, "open"),
        ("gave_up 3", False, "open"),
        ("silent", FIRST_PAUSE, "open"),
        ("silent", 2 * FIRST_PAUSE, "open"),
        ("gave_up 3", False, "open"),
        ("answered 31", 30, "closed"),
        ("answered 32", None, "closed"),
    ],
    "a hopeless call (a wrong password) begins one at once": [
        ("gave_up 5", True, "open"),
        ("answered 7", 2, "closed"),
    ],
    "a late failure in an outage does not end it, nor begin another": [
        ("gave_up 1", True, "open"),
        ("failed 2", None, "open"),
        ("gave_up 2", False, "open"),
    ],
    "another outage is another": [
        ("gave_up 1", True, "open"),
        ("silent", FIRST_PAUSE, "open"),
        ("answered 2", 1, "closed"),
        ("failed 10", None, "doubtful"),
        ("gave_up 10", True, "open"),
        ("silent", FIRST_PAUSE, "open"),
        ("answered 15", 5, "closed"),
    ],
}


@pytest.mark.parametrize("story", STORIES)
def test_stories(story: str) -> None:
    breaker = Breaker()
    for number, (what, answer, state) in enumerate(STORIES[story]):
        name, *times = what.split()
        assert getattr(breaker, name)(*map(float, times)) == answer, (number, what)
        assert breaker.state == state, (number, what)


def test_pauses_stay_short_however_long_it_lasts() -> None:
    """Back within a second of the server."""
    breaker = Breaker()
    breaker.gave_up(0)
    pauses = [breaker.silent() for _ in range(10_000)]
    assert pauses == sorted(pauses)
    assert max(pauses) == LONGEST_PAUSE < 0.5


def test_it_counts_what_it_refuses_in_each_outage() -> None:
    breaker = Breaker()
    breaker.gave_up(0)
    breaker.refused += 7
    breaker.answered(1)
    breaker.gave_up(2)
    assert breaker.refused == 0
