"""The checker of recorded histories finds what it is there to find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import history
from tests.harness.history import Operation, Writer, judge


def done(name: str, fence: int | None, read: int, outcome: str = "ok", at: float | None = None) -> Operation:
    """Invoked, granted and ended within one unit of time, by default in the order of the values read."""
    at = float(read if at is None else at)
    return Operation(name, at, at + 0.5, at + 0.9, outcome, fence, read)


def lost_in_the_queue(name: str) -> Operation:
    return Operation(name, 0.0)


GOOD = [done("a", 10, 0), done("b", 11, 1), done("c", 15, 2)]


@pytest.mark.parametrize(
    ("operations", "counter"),
    [
        ([], 0),
        (GOOD, 3),
        ([*GOOD, done("d", 16, 3, "fail")], 3),
        ([*GOOD, done("d", 16, 3, "unknown")], 3),
        ([*GOOD, done("d", 16, 3, "unknown")], 4),
        ([*GOOD, done("d", 16, 3, "unknown"), done("e", 17, 4)], 5),
        ([*GOOD, done("d", 16, 3, "unknown"), done("e", 17, 3)], 4),
        ([*GOOD, lost_in_the_queue("d"), done("e", 17, 4)], 5),
        # Two at once: what they read was in the order of their fences, whenever they were told.
        ([done("a", 11, 1, at=0), done("b", 10, 0, at=0.1)], 2),
    ],
)
def test_good_histories(operations: list[Operation], counter: int) -> None:
    assert judge(operations, counter).problems == []


@pytest.mark.parametrize(
    ("operations", "counter", "problem"),
    [
        pytest.param(GOOD, 2, "lost: 3 were acknowledged, 2 are there", id="lost at the end"),
        pytest.param([*GOOD, done("d", 16, 3, "fail")], 4, "twice: 4 are there", id="a failed one was saved"),
        pytest.param([*GOOD, lost_in_the_queue("d")], 5, "twice: 5 are there, at most 4", id="unknown, saved twice"),
        pytest.param([*GOOD, done("d", 16, 2, at=3)], 3, "both made 2 one more", id="two from the same value"),
        pytest.param([*GOOD, done("d", 16, 2, at=3)], 3, "d (fence 16) read 2, 3 had been saved", id="read too early"),
        pytest.param([*GOOD, done("d", None, 2, at=3)], 3, "both made 2 one more", id="no fences to compare"),
        pytest.param([*GOOD, done("d", 16, 4)], 4, "twice: d (fence 16) read 4, at most 3", id="applied twice"),
        pytest.param([done("a", 10, 1), done("b", 11, 0, at=2)], 2, "lost: b", id="saved and taken back"),
        pytest.param([*GOOD, done("d", 15, 3)], 4, "fence 15 was given to c and to d", id="fence repeated"),
        pytest.param([*GOOD, done("d", 14, 3)], 4, "d asked after c was granted, but its fence 14", id="fence fell"),
        pytest.param(
            [done("a", 10, 0, "unknown"), done("b", 9, 0, at=1), done("c", 11, 1, at=2)],
            2,
            "b asked after a was granted",
            id="fence fell behind an unknown one",
        ),
    ],
)
def test_bad_histories(operations: list[Operation], counter: int, problem: str) -> None:
    for given in (operations, operations[::-1]):
        problems = judge(given, counter).problems
        swapped = problem.replace("c and to d", "d and to c")
        assert any(problem in found or swapped in found for found in problems), problems


def test_files(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "1.jsonl")
    writer.line("a", "invoke")
    writer.line("a", "granted", fence=5, read=0)
    writer.line("a", "ok")
    writer.line("b", "invoke")
    other = Writer(tmp_path / "2.jsonl")
    other.line("c", "invoke")
    other.line("c", "granted", fence=6, read=1)
    other.line("c", "fail", why="LeaseLost")
    other.line("d", "invoke")
    other.line("d", "granted", fence=7, read=1)
    with (tmp_path / "2.jsonl").open("a") as file:
        file.write('{"op": "d", "at":')  # killed while it wrote
    verdict = judge(history.read(tmp_path), 1)
    assert (verdict.acknowledged, verdict.failed, verdict.unknown) == (1, 1, 2)
    assert verdict.problems == []
    by_name = {operation.name: operation for operation in history.read(tmp_path)}
    assert (by_name["c"].why, by_name["d"].ended, by_name["b"].fence) == ("LeaseLost", None, None)


@pytest.mark.parametrize(
    "lines",
    [
        [("a", "invoke"), ("a", "invoke")],
        [("a", "ok")],
        [("a", "invoke"), ("a", "ok"), ("a", "ok")],
        [("a", "invoke"), ("a", "ok"), ("a", "unknown")],
        [("a", "invoke"), ("a", "maybe")],
    ],
)
def test_files_that_make_no_sense(tmp_path: Path, lines: list[tuple[str, str]]) -> None:
    path = tmp_path / "1.jsonl"
    path.write_text("".join(json.dumps({"op": op, "at": 1.0, "what": what}) + "\n" for op, what in lines))
    with pytest.raises(ValueError, match=r"^a"):
        history.read(tmp_path)


@pytest.mark.parametrize(("counter", "status"), [(1, 0), (0, 1)])
def test_as_a_program(tmp_path: Path, counter: int, status: int) -> None:
    writer = Writer(tmp_path / "1.jsonl")
    for what in ("invoke", "ok"):
        writer.line("a", what)
    command = [sys.executable, history.__file__, str(tmp_path), str(counter)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, "lost" in ran.stdout) == (status, status == 1)
