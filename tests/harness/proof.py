"""What became of every increment, where a server may die with what it acknowledged.

Every increment's history says which one had been saved last when it read. So those that had an effect form a chain,
which is followed backwards from the one that the session names now. Acknowledged ones that are not in it are missing:
whoever acknowledged them must have died with them, or been replaced, and the log of faults has to explain each.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import redis

from sessionlock.protocol.keys import keys_for
from tests.harness.history import Operation, misordered_fences

__all__ = ["Account", "Fault", "Nemesis", "by_session", "examine", "longest_pause", "stored"]


@dataclass
class Fault:
    """One fault, with the machine's monotonic clock. ``effect``: what showed that it had one; ``shown`` when."""

    kind: str
    on: str
    start: float
    shown: float = 0.0
    effect: str = ""
    end: float = 0.0

    def showed(self, effect: object) -> None:
        self.shown, self.effect = time.monotonic(), str(effect)


class Nemesis:
    """Writes down every fault, in memory and as a line of JSON in ``folder/nemesis.faults``."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "nemesis.faults"
        self.faults: list[Fault] = []

    @contextmanager
    def fault(self, kind: str, on: object) -> Iterator[Fault]:
        """The block does it, calls ``showed`` when the effect was seen, and mends what is to be mended."""
        fault = Fault(kind, str(on), time.monotonic())
        self.faults.append(fault)
        yield fault
        fault.end = time.monotonic()
        assert fault.effect, f"{kind} of {on} showed no effect"
        with self._path.open("a") as file:
            file.write(json.dumps(asdict(fault)) + "\n")


@dataclass
class Account:
    """Of one session. ``kept``: the increments that count, in order. ``missing``: acknowledged, and gone.

    ``given_twice``: how many fences were given to two.
    """

    kept: list[Operation] = field(default_factory=list)
    missing: list[Operation] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    given_twice: int = 0

    def __str__(self) -> str:
        return "\n  ".join([f"{len(self.kept)} kept, {len(self.missing)} missing", *self.problems[:20]])


def by_session(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    found: defaultdict[str, list[Operation]] = defaultdict(list)
    for operation in operations:
        found[operation.sid].append(operation)
    return dict(found)


def stored(client: redis.Redis, sid: str) -> tuple[int, str | None]:
    """The counter and the name of the last increment, as the server holds them."""
    n, last = client.hmget(keys_for("sl", sid).session, "n", "last")
    return int(n or 0), None if last is None else json.loads(last)


def examine(
    operations: Sequence[Operation],
    counter: int,
    last: str | None,
    faults: Sequence[Fault] = (),
    *,
    two_masters: bool = False,
) -> Account:
    """Account for the increments of one session, which now holds ``counter`` and names ``last``.

    A problem is: an acknowledged one missing that no fault explains; one that was refused and counts nevertheless; one
    that counts twice; a counter that is not their number; fences that repeat, or do not grow with time or in the order
    of the saves. ``faults`` are those by which a server may lose what it acknowledged. ``two_masters``: for a time two
    servers granted, who knew nothing of each other. Then only of those that count the fences are compared; what both
    gave is in ``given_twice``.
    """
    account = Account()
    account.problems += _follow(operations, last, account.kept)
    kept = {operation.name for operation in account.kept}
    account.missing = [
        operation for operation in operations if operation.outcome == "ok" and operation.name not in kept
    ]
    account.problems += _counted(account.kept, counter)
    account.problems += _saves_against_fences(account.kept)
    account.problems += misordered_fences(account.kept if two_masters else operations)
    account.given_twice = len(operations) - len({operation.fence or operation.name for operation in operations})
    account.problems += [
        f"lost: {operation.name} (fence {operation.fence}) was acknowledged, and no fault explains that it is gone"
        for operation in account.missing
        if not any(_explains(fault, operation, account.kept) for fault in faults)
    ]
    return account


def _follow(operations: Sequence[Operation], last: str | None, kept: list[Operation]) -> Iterator[str]:
    """Fills ``kept``, oldest first."""
    named = {operation.name: operation for operation in operations}
    seen: set[str] = set()
    while last is not None:
        if last in seen:
            yield f"twice: {last} was saved before itself"
            break
        if last not in named or named[last].granted is None:
            yield f"unknown: {last} was saved, and no worker says that it was granted"
            break
        seen.add(last)
        kept.append(named[last])
        last = named[last].after
    kept.reverse()


def _counted(kept: list[Operation], counter: int) -> Iterator[str]:
    if counter != len(kept):
        yield f"the counter is {counter}, the increments that led to it are {len(kept)}"
    for place, operation in enumerate(kept):
        if operation.read != place:
            yield f"{operation.name} is number {place + 1} and read {operation.read}"
        if operation.outcome == "fail":
            yield f"{operation.name} was refused ({operation.why}), and counts nevertheless"


def _saves_against_fences(kept: list[Operation]) -> Iterator[str]:
    for older, newer in pairwise(kept):
        if (older.fence or 0) >= (newer.fence or 0):
            yield f"{newer.name} (fence {newer.fence}) was saved upon {older.name} (fence {older.fence})"


def _explains(fault: Fault, missing: Operation, kept: list[Operation]) -> bool:
    """It was acknowledged by a master before all knew of the next one, and nothing that counts was read from it.

    What a master did not pass on is what it did last: whatever it granted later is missing, too.
    """
    assert missing.granted is not None
    assert missing.ended is not None
    if missing.granted > fault.end:
        return False
    return not any(
        operation.granted is not None and missing.ended < operation.invoked and operation.granted < fault.start
        for operation in kept
    )


def longest_pause(operations: Iterable[Operation], fault: Fault) -> float:
    """Seconds between two acknowledgements of the session: the longest such time that touches the fault's."""
    ends = sorted(
        operation.ended for operation in operations if operation.outcome == "ok" and operation.ended is not None
    )
    pauses = [later - earlier for earlier, later in pairwise(ends) if later > fault.start and earlier < fault.end]
    return max(pauses, default=float("inf"))
