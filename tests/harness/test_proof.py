"""The account of increments over servers that die: what is missing, and what may explain it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.harness.history import Operation
from tests.harness.proof import Fault, Nemesis, examine, longest_pause


def done(name: str, fence: int, read: int, after: str | None, at: float, outcome: str = "ok") -> Operation:
    return Operation(name, at, at + 0.1, at + 0.2, outcome, fence, read, sid="s", after=after)


A, B, C = done("a", 1, 0, None, 1), done("b", 2, 1, "a", 2), done("c", 3, 2, "b", 3)
KILL = Fault("kill", "node", start=3.5, shown=5.0, effect="another master", end=5.0)
AFTER_LOSS = done("d", 4, 1, "a", 6)  # read what a had saved: b and c were not replicated


def test_all_are_kept() -> None:
    account = examine([A, B, C], 3, "c")
    assert [operation.name for operation in account.kept] == ["a", "b", "c"]
    assert account.missing == []
    assert account.problems == []


def test_an_unknown_one_may_count_or_not() -> None:
    unknown = done("c", 3, 2, "b", 3, "unknown")
    assert examine([A, B, unknown], 3, "c").problems == []
    assert examine([A, B, unknown], 2, "b").problems == []
    assert examine([A, B, unknown], 2, "b").missing == []


def test_what_a_dead_master_did_last_is_missing_and_explained() -> None:
    account = examine([A, B, C, AFTER_LOSS], 2, "d", [KILL])
    assert [operation.name for operation in account.missing] == ["b", "c"]
    assert account.problems == []


LATE = Fault("kill", "node", start=0.5, shown=1.0, effect="another master", end=1.5)


@pytest.mark.parametrize(
    ("operations", "counter", "last", "faults", "problem"),
    [
        pytest.param([A, B, C, AFTER_LOSS], 2, "d", [], "lost: b", id="no fault at all"),
        pytest.param([A, B, C, AFTER_LOSS], 2, "d", [LATE], "lost: c", id="a fault that was over before"),
        pytest.param(
            [A, B, done("c", 3, 1, "a", 3), done("d", 4, 2, "c", 6)],
            3,
            "d",
            [KILL],
            "lost: b",
            id="lost before the fault",
        ),
        pytest.param([A, B, done("c", 3, 2, "b", 3, "fail")], 3, "c", [], "was refused", id="refused, and counts"),
        pytest.param([A, B, C], 4, "c", [], "the counter is 4", id="counted twice"),
        pytest.param([A, B, done("c", 3, 3, "b", 3)], 3, "c", [], "c is number 3 and read 3", id="applied twice"),
        pytest.param([A, B], 3, "x", [], "unknown: x", id="nobody knows it"),
        pytest.param([done("a", 1, 0, "b", 1), done("b", 2, 1, "a", 2)], 2, "b", [], "twice: b", id="a ring"),
        pytest.param([A, done("b", 1, 1, "a", 2)], 2, "b", [], "fence 1 was given to", id="fence repeated"),
        pytest.param(
            [done("a", 2, 0, None, 1), done("b", 1, 1, "a", 1)],
            2,
            "b",
            [],
            "b (fence 1) was saved upon",
            id="fence fell",
        ),
    ],
)
def test_problems(operations: list[Operation], counter: int, last: str, faults: list[Fault], problem: str) -> None:
    assert any(problem in found for found in examine(operations, counter, last, faults).problems)


def test_the_pause_around_a_fault() -> None:
    assert longest_pause([A, B, C, AFTER_LOSS], KILL) == pytest.approx(3.0)


def test_a_fault_without_an_effect_proves_nothing(tmp_path: Path) -> None:
    nemesis = Nemesis(tmp_path)
    with pytest.raises(AssertionError, match="kill of node showed no effect"), nemesis.fault("kill", "node"):
        pass
    with nemesis.fault("kill", "node") as fault:
        fault.showed("another master")
    assert '"effect": "another master"' in (tmp_path / "nemesis.faults").read_text()


def test_two_masters_may_give_a_fence_twice_but_only_one_counts() -> None:
    twin = done("x", 2, 1, "a", 2)
    both = [A, B, C, twin]
    cut = Fault("cut off", "node", start=1.5, shown=2.5, effect="another master", end=5.0)
    account = examine(both, 3, "c", [cut], two_masters=True)
    assert account.problems == []
    assert account.given_twice == 1
    assert [operation.name for operation in account.missing] == ["x"]
    assert examine(both, 3, "c", [cut]).problems != []
