"""From what the nodes served and what Redis holds in the end to what was lost. No I/O."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .plays import PLAYS
from .stage import SCRIPT_CALLS, Counts
from .ways import Served

__all__ = ["Alone", "Fifo", "Loss", "Report", "Run", "Spread", "alone", "fifo", "losses", "run"]


@dataclass(frozen=True, slots=True)
class Loss:
    """``acknowledged``: answered without an error. ``lost``: of these, gone. ``twice``: counted or shown twice."""

    acknowledged: int
    lost: int
    twice: int


@dataclass(frozen=True, slots=True)
class Spread:
    """In seconds; nan where there was nothing to measure."""

    median: float
    p99: float
    longest: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Spread:
        ordered = sorted(values)
        if not ordered:
            return cls(math.nan, math.nan, math.nan)
        last = len(ordered) - 1
        return cls(ordered[last // 2], ordered[math.ceil(0.99 * last)], ordered[last])


@dataclass(frozen=True, slots=True)
class Run:
    """One run over all plays.

    In seconds: ``took`` per request, of that ``handled`` in its handler (median). ``redis_calls`` and ``redis_busy``
    (seconds) are per request, None where unknown.
    """

    lost: Mapping[str, Loss]
    refused: Mapping[str, int]
    seconds: float
    per_second: float
    took: Spread
    handled: float
    redis_calls: float | None
    redis_busy: float | None
    counts: Mapping[str, int]

    @property
    def total_lost(self) -> int:
        return sum(loss.lost for loss in self.lost.values())

    @property
    def total_twice(self) -> int:
        return sum(loss.twice for loss in self.lost.values())

    @property
    def total_acknowledged(self) -> int:
        return sum(loss.acknowledged for loss in self.lost.values())

    @property
    def sound(self) -> bool:
        """Nothing lost, nothing twice."""
        return self.total_lost == 0 and self.total_twice == 0


@dataclass(frozen=True, slots=True)
class Fifo:
    """``out_of_order``: grants that overtook an earlier one; ``fences_grow``: strictly, in the order of the saves."""

    granted: int
    queued: int
    out_of_order: int
    fences_grow: bool
    waits: Spread


@dataclass(frozen=True, slots=True)
class Alone:
    """Load and save of a session that nobody else uses, without the handler."""

    unguarded: Spread
    guarded: Spread


@dataclass(frozen=True, slots=True)
class Report:
    """All that the demo found. ``parallel``: concurrent requests to each session."""

    server: str
    private: bool
    nodes: int
    requests: int
    parallel: int
    seed: int
    unguarded: Run
    guarded: Run
    fifo: Fifo
    alone: Alone


def run(
    which: str,
    served: Sequence[Served],
    left: Mapping[str, Any],
    *,
    refused: Mapping[str, int],
    seconds: float,
    counts: Counts | None,
) -> Run:
    requests = max(1, len(served))
    commands = SCRIPT_CALLS if which == "guarded" else ("get", "set")
    return Run(
        losses(served, left),
        dict(refused),
        seconds,
        len(served) / seconds if seconds > 0 else 0.0,
        Spread.over(one.took for one in served),
        Spread.over(one.handled for one in served).median,
        None if counts is None else counts.of(*commands) / requests,
        None if counts is None else counts.busy_with(*commands) / requests,
        {} if counts is None else dict(counts.calls),
    )


def losses(served: Sequence[Served], left: Mapping[str, Any]) -> dict[str, Loss]:
    """What every acknowledged request added must be found exactly once."""
    found: dict[str, Loss] = {}
    for name in PLAYS:
        mine = [one for one in served if one.play == name]
        if name == "counter":
            found[name] = Loss(len(mine), max(0, len(mine) - left[name]), max(0, left[name] - len(mine)))
        else:
            seen = Counter(_in_order(mine, left[name]))
            lost = sum(1 for one in mine if one.item not in seen)
            found[name] = Loss(len(mine), lost, seen.total() - len(seen))
    return found


def _in_order(served: Sequence[Served], left: Any) -> list[str]:
    """The items of one session in the order in which they were saved: the delivered ones, then what is left."""
    delivered = [item for one in sorted(served, key=lambda one: one.fence) for item in one.delivered]
    return [*delivered, *left]


def fifo(served: Sequence[Served], left: Mapping[str, Any]) -> Fifo:
    plays = {name: [one for one in served if one.play == name] for name in PLAYS}
    queued = [one for one in served if one.ticket]
    return Fifo(
        len(served),
        len(queued),
        sum(_overtakings(mine) for mine in plays.values()),
        all(_fences_grow(mine, left[name]) for name, mine in plays.items()),
        Spread.over(one.waited for one in queued),
    )


def _overtakings(served: Sequence[Served]) -> int:
    """How often a request was granted the lock before one that Redis had seen earlier.

    Redis' numbers of a session, tickets and fencing tokens, begin at its clock in microseconds: one scale. A request
    that did not have to queue was granted the lock when it was seen.
    """
    fences = [one.fence for one in sorted(served, key=lambda one: one.ticket or one.fence)]
    highest, overtakings = 0, 0
    for fence in fences:
        overtakings += fence < highest
        highest = max(highest, fence)
    return overtakings


def _fences_grow(served: Sequence[Served], left: Any) -> bool:
    """Whether the fencing tokens grow strictly along the order in which the saves really took effect."""
    if isinstance(left, int):
        ordered = sorted(served, key=lambda one: one.counted)
    else:
        place = {item: number for number, item in enumerate(_in_order(served, left))}
        ordered = sorted((one for one in served if one.item in place), key=lambda one: place[one.item])
    fences = [one.fence for one in ordered]
    return all(earlier < later for earlier, later in pairwise(fences))


def alone(served: Sequence[Served]) -> Alone:
    def spread(guarded: bool) -> Spread:
        return Spread.over(one.took - one.handled for one in served if bool(one.fence) is guarded)

    return Alone(spread(False), spread(True))
