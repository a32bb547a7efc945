"""The explorer itself: what it must find, and that it never ends early in silence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.model.explore import Broken, Found, Step, explore


@dataclass(frozen=True)
class Doors:
    """Rooms 0, 1, 2 …, doors from one to another, a room that must not be entered, and where one may stay."""

    doors: tuple[tuple[int, int], ...]
    forbidden: int = -1
    home: int = 0
    faulty: tuple[int, int] = (-1, -1)

    def begin(self) -> int:
        return 0

    def steps(self, state: int) -> Iterator[Step[int]]:
        for door in self.doors:
            if door[0] == state:
                yield Step(f"to {door[1]}", door[1], door == self.faulty)

    def check(self, state: int) -> None:
        if state == self.forbidden:
            raise Broken("forbidden")

    def settled(self, state: int) -> bool:
        return state == self.home


def test_a_shortest_way_to_the_complaint_is_told() -> None:
    found = explore(Doors(((0, 1), (1, 2), (2, 3), (0, 2)), forbidden=3), at_most=10)
    assert (found.complaint, found.trace) == ("forbidden", ("to 2", "to 3"))


def test_each_state_is_visited_once() -> None:
    assert explore(Doors(((0, 1), (1, 0), (0, 2), (2, 1))), at_most=10) == Found(3, 4)


def test_a_state_without_a_way_home_is_found() -> None:
    found = explore(Doors(((0, 1), (1, 0), (1, 2), (2, 2))), at_most=10)
    assert (found.complaint, found.trace) == ("it never settles from here", ("to 1", "to 2"))


def test_a_fault_is_no_way_home() -> None:
    assert explore(Doors(((0, 1), (1, 0)), faulty=(1, 0)), at_most=10).trace == ("to 1",)
    assert explore(Doors(((0, 1), (1, 0)), faulty=(1, 0)), at_most=10, settles=False).complaint == ""


def test_more_states_than_allowed_are_an_error() -> None:
    with pytest.raises(OverflowError, match="more than 3 states"):
        explore(Doors(((0, 1), (1, 2), (2, 3))), at_most=3)
