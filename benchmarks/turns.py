"""Many tasks at once, for a short turn; contenders alternate.

A turn is played in one of two ways. In a *loop* every task asks again as soon as it is done, so the queue stays full.
A *burst* is one request of every task at the same instant, as a page sends that loads its parts in parallel; a turn
holds as many bursts as begin in its time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import NamedTuple

from benchmarks.contenders import Contender, contender
from benchmarks.report import median, quantile
from benchmarks.stage import Counters, Worker

__all__ = ["Result", "Seen", "alternate", "loop", "lost", "overtakings", "play", "turns_in"]

START_IN = 0.02  # seconds from the order to the start, so that all processes of a contender start together
WARM_UP = 0.25
TURN = 1.25


class Seen(NamedTuple):
    """One cycle: monotonic instants, which all processes of a machine share, and its place in both orders."""

    asked: float
    granted: float
    ended: float
    order: int
    arrival: float


@dataclass
class Result:
    """What one contender did in all its turns. ``rates``: cycles per second, one per turn."""

    rates: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    cycles: int = 0
    queued: int = 0
    overtakings: int = 0
    script_calls: int = 0
    lost: int = 0

    @property
    def rate(self) -> float:
        return median(self.rates)

    def over(self, other: Result) -> float:
        """How many times the cycles per second of the other one; infinity, when none of its cycles came to an end."""
        return self.rate / other.rate if other.rate else float("inf")

    @property
    def scripts_per_cycle(self) -> float:
        return self.script_calls / max(1, self.cycles)

    def wait_ms(self, share: float) -> float:
        return quantile(self.waits, share) * 1000

    def add(self, seen: list[Seen], rate: float) -> None:
        """Take one turn in."""
        self.rates.append(rate)
        self.waits += [cycle.granted - cycle.asked for cycle in seen]
        self.cycles += len(seen)
        self.queued += sum(cycle.arrival != cycle.order for cycle in seen)
        self.overtakings += overtakings(seen)


def overtakings(seen: list[Seen]) -> int:
    """Grants of one session that went to a request while an earlier one was still waiting."""
    earliest_after = float("inf")
    found = 0
    for cycle in sorted(seen, key=lambda cycle: cycle.order, reverse=True):
        if cycle.arrival > earliest_after:
            found += 1
        earliest_after = min(earliest_after, cycle.arrival)
    return found


def turns_in(seconds: float) -> int:
    return max(1, round(seconds / TURN))


def alternate(
    url: str, running: dict[str, list[Worker]], seconds: float, *, turns: int = 0, bursts: bool = False
) -> dict[str, Result]:
    """Every contender plays for ``seconds``, in so many ``turns`` (0: short ones); its workers run :func:`play`."""
    turns = turns or turns_in(seconds)
    turn = _bursts if bursts else loop
    results = {name: Result() for name in running}
    for crew in running.values():
        for worker in crew:
            worker.wait_ready()  # before anybody plays: starting takes a processor
    for crew in running.values():
        turn(crew, min(WARM_UP, seconds))
    counters = Counters(url)
    for _ in range(turns):
        for name, crew in running.items():
            counters.restart()
            seen, rate = turn(crew, seconds / turns)
            results[name].script_calls += counters.script_calls()
            results[name].add(seen, rate)
    counters.close()
    for name, crew in running.items():
        results[name].lost = lost(crew)
    return results


def lost(crew: Sequence[Worker]) -> int:
    """Updates lost since the beginning, warm-up included."""
    return sum(int(worker.ask(("done",))) for worker in crew) - int(crew[0].ask(("count",)))


def loop(crew: Sequence[Worker], seconds: float, *, pause: float = 0.0) -> tuple[list[Seen], float]:
    """One turn: the cycles, and how many there were a second. ``pause``: seconds that each task rests between two.

    What ended later than ``seconds`` after the start does not count for the rate, but for all else."""
    start = time.monotonic() + START_IN
    seen = _played(crew, start, start + seconds, pause)
    return seen, sum(cycle.ended <= start + seconds for cycle in seen) / seconds


def _bursts(crew: Sequence[Worker], seconds: float) -> tuple[list[Seen], float]:
    """The rate is that of the bursts: nothing is counted for the pauses between them."""
    seen: list[Seen] = []
    busy = 0.0
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        start = time.monotonic() + START_IN
        burst = _played(crew, start, None)
        busy += max(cycle.ended for cycle in burst) - start
        seen += burst
    return seen, len(seen) / busy


def _played(crew: Sequence[Worker], start: float, until: float | None, pause: float = 0.0) -> list[Seen]:
    for worker in crew:
        worker.tell(("play", start, until, pause))
    return [cycle for worker in crew for cycle in worker.answer()]


def play(connection: Connection, url: str, name: str, sids: Sequence[str], tasks: int, leads: bool) -> None:
    """Worker: one task per entry of ``sids``; ``tasks`` is how many all processes of this contender run.

    Answers ``("play", start, until, pause)`` with the cycles (``until`` None: one per task), ``("done",)`` with their
    number so far, ``("count",)`` with the sum of the sessions' counters. The process that ``leads`` makes the sessions
    and removes them in the end.
    """
    one = contender(name, url, tasks, shared=len(set(sids)) < len(sids))
    asyncio.run(_play(connection, one, sids, leads))


async def _play(connection: Connection, one: Contender, sids: Sequence[str], leads: bool) -> None:
    sessions = set(sids)
    if leads:
        for sid in sessions:
            await one.put(sid)
    connection.send("ready")
    done = 0
    try:
        while True:
            # Nothing else is to run in this process meanwhile, so blocking the loop is meant.
            what, *when = connection.recv()
            if what == "play":
                seen = await _one_turn(one, sids, *when)
                done += len(seen)
                connection.send(seen)
            elif what == "done":
                connection.send(done)
            else:
                connection.send(sum([await one.count(sid) for sid in sessions]))
    except EOFError:
        if leads:
            for sid in sessions:
                await one.remove(sid)
        await one.close()


async def _one_turn(one: Contender, sids: Sequence[str], start: float, until: float | None, pause: float) -> list[Seen]:
    seen: list[Seen] = []

    async def request(sid: str) -> None:
        asked = time.monotonic()
        granted, order, arrival = await one.cycle(sid)
        seen.append(Seen(asked, granted, time.monotonic(), order, asked if arrival is None else arrival))

    async def loop(sid: str, until: float) -> None:
        if pause:
            await asyncio.sleep(pause * random.random())
        while time.monotonic() < until:
            await request(sid)
            if pause:
                await asyncio.sleep(pause)

    time.sleep(max(0.0, start - time.monotonic()))  # noqa: ASYNC251 (nothing else is to run)
    await asyncio.gather(*(request(sid) if until is None else loop(sid, until) for sid in sids))
    return seen
