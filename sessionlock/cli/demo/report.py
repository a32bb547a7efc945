"""From what the nodes served and what Redis holds in the end to what was lost: measured, as text, and as JSON.

The text has at most 80 columns. No I/O.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from itertools import pairwise
from typing import Any

from ...version import __version__
from ..terminal import Style
from .scenarios import PAUSE, SCENARIOS, Served

__all__ = ["Counts", "Fifo", "Figures", "Loss", "Report", "Spread", "fifo", "figures_of", "losses"]

# What the server says it ran so far: calls by command, and the seconds that they kept it busy.
Counts = Mapping[str, tuple[int, float]]

COMMANDS = {"unguarded": ("get", "set"), "guarded": ("fcall", "eval", "evalsha")}
LABEL, COLUMN = 38, 19
NEXT = (
    'Next:  guard = SessionGuard.from_url("redis://localhost:6379/0")',
    '       async with guard.session_lock(sid) as s: s["cart"].append("A")',
)


# --- measured


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
class Figures:
    """One run over all scenarios.

    In seconds: ``took`` per request, of that ``handled`` in its handler (median). ``redis_calls`` and ``redis_busy``
    (seconds) are per request, None where unknown. ``counts``: calls by command.
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
    total_lost: int

    @property
    def total_twice(self) -> int:
        return sum(loss.twice for loss in self.lost.values())

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


def figures_of(
    which: str,
    served: Sequence[Served],
    left: Mapping[str, Any],
    *,
    refused: Mapping[str, int],
    seconds: float,
    before: Counts | None,
    after: Counts | None,
) -> Figures:
    """The run whose requests were these, between two looks at the server's counts."""
    lost = losses(served, left)
    requests = max(1, len(served))
    counted = before is not None and after is not None
    spent = _difference(before or {}, after or {}) if counted else {}
    calls, busy = (sum(spent.get(name, (0, 0.0))[place] for name in COMMANDS[which]) for place in (0, 1))
    return Figures(
        lost=lost,
        refused=dict(refused),
        seconds=seconds,
        per_second=len(served) / seconds if seconds > 0 else 0.0,
        took=Spread.over(one.took for one in served),
        handled=Spread.over(one.handled for one in served).median,
        redis_calls=calls / requests if counted else None,
        redis_busy=busy / requests if counted else None,
        counts={name: count for name, (count, _) in spent.items()},
        total_lost=sum(loss.lost for loss in lost.values()),
    )


def _difference(before: Counts, after: Counts) -> dict[str, tuple[int, float]]:
    none = (0, 0.0)
    spent = {
        name: (calls - before.get(name, none)[0], busy - before.get(name, none)[1])
        for name, (calls, busy) in after.items()
    }
    return {name: (calls, busy) for name, (calls, busy) in spent.items() if calls > 0}


def losses(served: Sequence[Served], left: Mapping[str, Any]) -> dict[str, Loss]:
    """What every acknowledged request added must be found exactly once."""
    found: dict[str, Loss] = {}
    for name, mine in _by_scenario(served):
        if name == "counter":
            found[name] = Loss(len(mine), max(0, len(mine) - left[name]), max(0, left[name] - len(mine)))
        else:
            seen = Counter(_in_order(mine, left[name]))
            lost = sum(1 for one in mine if one.item not in seen)
            found[name] = Loss(len(mine), lost, seen.total() - len(seen))
    return found


def _by_scenario(served: Sequence[Served]) -> Iterator[tuple[str, list[Served]]]:
    for name in SCENARIOS:
        yield name, [one for one in served if one.scenario == name]


def _in_order(served: Sequence[Served], left: Any) -> list[str]:
    """The items of one session in the order in which they were saved: the delivered ones, then what is left."""
    delivered = [item for one in sorted(served, key=lambda one: one.fence) for item in one.delivered]
    return [*delivered, *left]


def fifo(served: Sequence[Served], left: Mapping[str, Any]) -> Fifo:
    """Whether the guarded requests were served in the order in which they came."""
    sessions = list(_by_scenario(served))
    queued = [one for one in served if one.ticket]
    return Fifo(
        len(served),
        len(queued),
        sum(_overtakings(mine) for _, mine in sessions),
        all(_fences_grow(mine, left[name]) for name, mine in sessions),
        Spread.over(one.waited for one in queued),
    )


def _overtakings(served: Sequence[Served]) -> int:
    """How often a request was granted the lock before one that Redis had seen earlier.

    Redis' numbers of a session, tickets and fencing tokens, begin at its clock in microseconds: one scale. A request
    that did not have to queue was granted the lock when it was seen.
    """
    highest, overtakings = 0, 0
    for one in sorted(served, key=lambda one: one.ticket or one.fence):
        overtakings += one.fence < highest
        highest = max(highest, one.fence)
    return overtakings


def _fences_grow(served: Sequence[Served], left: Any) -> bool:
    """Whether the fencing tokens grow strictly along the order in which the saves really took effect."""
    if isinstance(left, int):
        ordered = sorted(served, key=lambda one: one.counted)
    else:
        place = {item: number for number, item in enumerate(_in_order(served, left))}
        ordered = sorted((one for one in served if one.item in place), key=lambda one: place[one.item])
    return all(earlier.fence < later.fence for earlier, later in pairwise(ordered))


# --- shown


@dataclass(frozen=True, slots=True)
class Report:
    """All that the demo found, and how it is told.

    ``parallel``: concurrent requests to each session. ``alone``: load and save of a session that nobody else uses,
    without the handler, by way.
    """

    server: str
    private: bool
    nodes: int
    requests: int
    parallel: int
    seed: int
    unguarded: Figures
    guarded: Figures
    fifo: Fifo
    alone: Mapping[str, Spread]

    def as_json(self) -> dict[str, Any]:
        """Seconds everywhere; null where something could not be measured."""
        return {
            "sessionlock": __version__,
            "server": self.server,
            "private_server": self.private,
            "nodes": self.nodes,
            "requests_per_session": self.requests,
            "parallel_per_session": self.parallel,
            "pause": PAUSE,
            "seed": self.seed,
            "unguarded": _without_nan(self.unguarded),
            "guarded": _without_nan(self.guarded),
            "fifo": _without_nan(self.fifo),
            "alone": _without_nan(self.alone),
            "guarded_lost_nothing": self.guarded.sound,
        }

    def as_text(self, style: Style) -> str:
        parts = (self._lost(style), self._cost(style), self._order(style), self._verdict(style), NEXT)
        return "\n\n".join("\n".join(part) for part in parts)

    def _lost(self, style: Style) -> Iterator[str]:
        yield style.bold(_row("WHAT WAS LOST", "unguarded", "guarded"))
        yield style.dim(_row("", f"GET {'…' if style.rich else '...'} SET", "session_lock"))

        def judged(loss: Loss, text: str, bad: int) -> str:
            return (style.bad if bad else style.good)(f"{text:>{COLUMN}}")

        for name, scenario in SCENARIOS.items():
            both = self.unguarded.lost[name], self.guarded.lost[name]
            lost = (judged(one, f"{one.lost:,} of {one.acknowledged:,}", one.lost) for one in both)
            yield _row(f"  {name:<10}{scenario.what} lost", *lost)
            if name == "messages":
                yield _row(
                    f"  {'':<10}messages delivered twice", *(judged(one, f"{one.twice:,}", one.twice) for one in both)
                )
            elif any(one.twice for one in both):
                yield _row(f"  {'':<10}{scenario.what} too many", *(f"{one.twice:,}" for one in both))
        for kind, count in self.guarded.refused.items():
            yield _row(f"  refused with {kind}", "-", f"{count:,}")

    def _cost(self, style: Style) -> Iterator[str]:
        both = self.unguarded, self.guarded

        def times(label: str, *seconds: float | None) -> str:
            return _row(label, *(_time(one, style) for one in seconds))

        yield style.bold("WHAT IT COST")
        yield _row(f"  requests per second, {len(SCENARIOS)} sessions", *(f"{run.per_second:,.0f}" for run in both))
        yield times("  one request: median", *(run.took.median for run in both))
        yield times("               99th percentile", *(run.took.p99 for run in both))
        yield times("               handler alone, median", *(run.handled for run in both))
        yield times("  meeting no other: load + save, median", *(self.alone[way].median for way in COMMANDS))
        kinds = zip(both, ("GET, SET", "scripts"), strict=True)
        calls = ("unknown" if run.redis_calls is None else f"{run.redis_calls:.2f} {kind}" for run, kind in kinds)
        yield _row("  Redis calls per request", *calls)
        yield times("  Redis busy per request", *(run.redis_busy for run in both))
        yield style.dim("  Unguarded requests of one session overlap (so they lose), guarded ones take")
        yield style.dim("  turns: their times include the wait. One that meets no other does not wait.")
        whose = "" if self.private else ", other clients' calls included"
        yield style.dim(f"  Redis' numbers are as counted by the server{whose}.")

    def _order(self, style: Style) -> Iterator[str]:
        fifo = self.fifo
        overtaken = (style.bad if fifo.out_of_order else style.good)(f"{fifo.out_of_order:,}")
        grow = style.good("strictly increasing") if fifo.fences_grow else style.bad("NOT increasing")
        queued = f"{fifo.queued:,} of {fifo.granted:,} guarded requests queued in Redis"
        yield style.bold("FIRST COME, FIRST SERVED")
        yield f"  {queued}; served out of order: {overtaken}"
        if fifo.queued:
            median, p99, longest = (_time(one, style) for one in asdict(fifo.waits).values())
            yield f"  wait: median {median}, 99th percentile {p99}, longest {longest}"
        yield f"  fencing tokens along the order of the saves: {grow}"

    def _verdict(self, style: Style) -> Iterator[str]:
        before, after = self.unguarded, self.guarded
        if not after.sound:
            failed = f"THE GUARDED RUN LOST {after.total_lost} AND DOUBLED {after.total_twice}."
            yield f"{style.bad(failed)} That must not happen: please report it."
        elif before.sound:
            told = "This time the unguarded run lost nothing either: more --requests help."
            yield f"{style.good('The guarded run lost nothing.')} {told}"
        else:
            share = 100 * before.total_lost / max(1, sum(loss.acknowledged for loss in before.lost.values()))
            told = f"The unguarded one lost {share:.0f} % and reported no error."
            yield f"{style.good('The guarded run lost nothing.')} {told}"


def _row(label: str, before: str, after: str) -> str:
    return f"{label:<{LABEL}}{before:>{COLUMN}}{after:>{COLUMN}}"


def _time(seconds: float | None, style: Style) -> str:
    if seconds is None:
        return "unknown"
    if math.isnan(seconds):
        return "-"
    if seconds < 0.0001:
        return f"{seconds * 1e6:.0f} {'µs' if style.rich else 'us'}"
    return f"{seconds * 1000:.2f} ms" if seconds < 1 else f"{seconds:.2f} s"


def _without_nan(found: Any) -> Any:
    """As JSON has it, which knows no nan."""
    if is_dataclass(found):
        return {one.name: _without_nan(getattr(found, one.name)) for one in fields(found)}
    if isinstance(found, Mapping):
        return {name: _without_nan(value) for name, value in found.items()}
    return None if isinstance(found, float) and math.isnan(found) else found
