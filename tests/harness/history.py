"""What happened, as the workers saw it, and whether it could have happened one request at a time.

Workers add one to a counter again and again. Each writes a line (JSON) to a file of its own at every step, with the
machine's monotonic clock, which all processes share:

    {"op": "3-17", "at": 812.5, "what": "invoke"}
    {"op": "3-17", "at": 812.6, "what": "granted", "fence": 1795, "read": 41}      it will write 42
    {"op": "3-17", "at": 812.7, "what": "ok"}      or "fail" (not saved) or "unknown" (saved or not), with "why"

``sid`` in the first line tells several counters apart; ``after`` is the name of the increment that was saved last when
this one read (:mod:`tests.harness.proof` follows those).

An operation without an end (its process was killed) is unknown. ``python -m tests.harness.history FOLDER
COUNTER`` judges recorded files.
"""

from __future__ import annotations

import bisect
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Operation", "Verdict", "Writer", "judge", "misordered_fences", "read"]

ENDS = ("ok", "fail", "unknown")


class Writer:
    """Writes one worker's file. A line is in the kernel's hands when :meth:`line` returns, SIGKILL or not."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def line(self, op: str, what: str, **more: Any) -> None:
        line = json.dumps({"op": op, "at": time.monotonic(), "what": what, **more}) + "\n"
        os.write(self._file, line.encode())


@dataclass(slots=True)
class Operation:
    """One increment. ``fence`` and ``read`` are None when it is not known that it was granted."""

    name: str
    invoked: float
    granted: float | None = None
    ended: float | None = None
    outcome: str = "unknown"
    fence: int | None = None
    read: int | None = None
    why: str = ""
    sid: str = ""
    after: str | None = None


def read(folder: Path) -> list[Operation]:
    """All operations in the files of ``folder``.

    Raises:
        ValueError: lines that make no sense: then nothing can be judged.
    """
    found: dict[str, Operation] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in _lines(path):
            _enter(found, line)
    return list(found.values())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    *whole, torn = path.read_text(encoding="utf-8").split("\n")
    del torn  # a process that was killed while it wrote
    for line in whole:
        yield json.loads(line)


def _enter(found: dict[str, Operation], line: dict[str, Any]) -> None:
    name, at, what = line["op"], line["at"], line["what"]
    if what == "invoke":
        if name in found:
            raise ValueError(f"{name} was invoked twice")
        found[name] = Operation(name, at, sid=line.get("sid", ""))
        return
    operation = found.get(name)
    if operation is None or operation.ended is not None:
        raise ValueError(f"{name}: {what!r} at a time when it was not under way")
    if what == "granted":
        operation.granted, operation.fence, operation.read = at, line.get("fence"), line["read"]
        operation.after = line.get("after")
    elif what in ENDS:
        operation.ended, operation.outcome, operation.why = at, what, line.get("why", "")
    else:
        raise ValueError(f"{name}: {what!r} is unknown to this checker")


@dataclass
class Verdict:
    """``problems`` is empty when the history is one of a counter that lost nothing."""

    acknowledged: int
    failed: int
    unknown: int
    counter: int
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        said = f"{self.acknowledged} acknowledged, {self.failed} failed, {self.unknown} unknown, counter {self.counter}"
        return "\n  ".join([said, *self.problems[:20]])


def judge(operations: Iterable[Operation], counter: int) -> Verdict:
    """Compare what was acknowledged with what is there (``counter``), and with each other."""
    every = list(operations)
    of = {outcome: sum(operation.outcome == outcome for operation in every) for outcome in ENDS}
    verdict = Verdict(of["ok"], of["fail"], of["unknown"], counter)
    verdict.problems += _counted(verdict)
    verdict.problems += _read_twice(every)
    fenced = [operation for operation in every if operation.fence is not None]
    verdict.problems += misordered_fences(every)
    verdict.problems += _reads_in_fence_order(every, fenced)
    return verdict


def misordered_fences(operations: Iterable[Operation]) -> list[str]:
    """Fences of one session that were given twice, or that do not grow with time: one line for each."""
    fenced = [operation for operation in operations if operation.fence is not None]
    return [*_repeated_fences(fenced), *_fences_against_time(fenced)]


def _counted(verdict: Verdict) -> Iterator[str]:
    if verdict.counter < verdict.acknowledged:
        yield f"lost: {verdict.acknowledged} were acknowledged, {verdict.counter} are there"
    if verdict.counter > verdict.acknowledged + verdict.unknown:
        yield f"twice: {verdict.counter} are there, at most {verdict.acknowledged + verdict.unknown} were made"


def _read_twice(every: list[Operation]) -> Iterator[str]:
    seen: dict[int, str] = {}
    for operation in every:
        if operation.outcome != "ok" or operation.read is None:
            continue
        if operation.read in seen:
            yield f"lost: {seen[operation.read]} and {operation.name} both made {operation.read} one more"
        seen[operation.read] = operation.name


def _repeated_fences(fenced: list[Operation]) -> Iterator[str]:
    seen: dict[int, str] = {}
    for operation in fenced:
        assert operation.fence is not None
        if operation.fence in seen:
            yield f"fence {operation.fence} was given to {seen[operation.fence]} and to {operation.name}"
        seen[operation.fence] = operation.name


def _fences_against_time(fenced: list[Operation]) -> Iterator[str]:
    """Who asked after another was granted has the higher fence."""
    by_grant = sorted((operation.granted or 0.0, operation.fence or 0, operation.name) for operation in fenced)
    highest: list[tuple[int, str]] = []
    for _, fence, name in by_grant:
        highest.append(max((fence, name), highest[-1]) if highest else (fence, name))
    for operation in fenced:
        before = bisect.bisect_left(by_grant, (operation.invoked, 0, ""))
        if before and highest[before - 1][0] >= (operation.fence or 0):
            fence, name = highest[before - 1]
            what = f"its fence {operation.fence} is not above {fence}"
            yield f"{operation.name} asked after {name} was granted, but {what}"


def _reads_in_fence_order(every: list[Operation], fenced: list[Operation]) -> Iterator[str]:
    """What a holder read is what those with lower fences saved: each acknowledged one, each unknown one perhaps."""
    saved = 0
    perhaps = sum(operation.outcome == "unknown" and operation.fence is None for operation in every)
    for operation in sorted(fenced, key=lambda one: one.fence or 0):
        assert operation.read is not None
        who = f"{operation.name} (fence {operation.fence}) read {operation.read}"
        if operation.read < saved:
            yield f"lost: {who}, {saved} had been saved"
        elif operation.read > saved + perhaps:
            yield f"twice: {who}, at most {saved + perhaps} had been saved"
        saved += operation.outcome == "ok"
        perhaps += operation.outcome == "unknown"


if __name__ == "__main__":
    verdict_ = judge(read(Path(sys.argv[1])), int(sys.argv[2]))
    print(verdict_)
    sys.exit(1 if verdict_.problems else 0)
