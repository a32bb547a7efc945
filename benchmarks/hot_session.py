"""One hot session: many requests of one session at once, on several processes.

Bursts: all of them ask at the same instant, each once, as when a page loads its parts in parallel. Loop: each asks
again as soon as it is done. Both are shown, because in a loop without a pause a lock that does not queue goes straight
back to the task that released it: it runs as fast as one task alone, and all others wait. Its waits and overtakings
tell.

The sequential unguarded GET+SET is one task in one process: what a session could do whose requests came one after the
other by themselves.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from benchmarks.commands import Options, main
from benchmarks.contenders import GUARDED, POTTERY, REDIS_PY_LOCK, UNGUARDED, available
from benchmarks.report import Claim, Plot, Report
from benchmarks.stage import server_url, workers
from benchmarks.turns import Result, alternate, play, turns_in

PROCESSES = 2
SEQUENTIAL = f"{UNGUARDED}, sequential"
PEERS = (REDIS_PY_LOCK, POTTERY)
PEERS_UP_TO = 64  # waiters: with more of them theirs take minutes
# (waiters, processes) of the loop, beside those of the options.
CROWDS = ((1, 1), (4, 2), (16, 2), (64, 1), (64, 4), (64, 8), (256, 2), (1024, 2), (1024, 8))
SMALL = [crowd for crowd in CROWDS if crowd[0] <= 64]  # these do with a SHARE of the seconds
SHARE = 0.5
COLUMNS = [
    "waiters on processes",
    "cycles/s",
    "of sequential unguarded",
    "of redis-py Lock",
    "of pottery",
    "wait p50 / p99 / max, ms",
    "the longest of redis-py Lock, pottery, ms",
    "out of order: sessionlock, redis-py Lock, pottery",
]
Crowd = tuple[int, int]


def run(options: Options) -> Report:
    """Play it; see the module."""
    at_most = min(PROCESSES, options.waiters)
    crowd = (options.waiters // at_most * at_most, at_most)
    with server_url() as (url, where):
        bursts = _played(url, crowd, options.seconds, bursts=True)
        loops = {
            one: _played(url, one, options.seconds * (SHARE if one in SMALL else 1), bursts=False)
            for one in sorted({*(CROWDS if options.curves else ()), crowd})
        }
    if options.waiters > PROCESSES and not bursts[GUARDED].queued:
        raise RuntimeError("no ticket was seen, so nothing can be said about the order of grants")
    turns = turns_in(options.seconds)
    return Report(
        "hot_session",
        "One hot session",
        f"{turns} turns of {options.seconds / turns:.2f} s each for {crowd[0]} waiters, less for the others, contenders"
        f" in turn; {where}",
        COLUMNS,
        [_row("bursts", crowd, bursts), *(_row("without pause", one, of) for one, of in loops.items())],
        _claims(bursts, loops[crowd], crowd),
        sum(of[GUARDED].lost for of in (bursts, *loops.values())),
        [
            "out of order: grants while an earlier request still waited; by the server's tickets and fencing tokens for"
            " sessionlock, by the callers' common clock for the others",
            "without pause: a lock without a queue goes back to the task that just released it, and the others starve",
            f"with more than {PEERS_UP_TO} waiters the other locks take minutes: they are not played",
        ],
        {f"cycles/s of {waiters} on {processes}": of[GUARDED].rate for (waiters, processes), of in loops.items()},
        [_plot(loops)],
    )


def _played(url: str, crowd: Crowd, seconds: float, *, bursts: bool) -> dict[str, Result]:
    waiters, processes = crowd
    compared = waiters <= PEERS_UP_TO and processes == min(PROCESSES, waiters)
    peers = filter(available, PEERS) if compared else ()
    with workers() as start:
        crews = {}
        for name in (GUARDED, *peers):
            sids = [secrets.token_hex(8)] * (waiters // processes)
            crews[name] = [start(play, url, name, sids, waiters, number == 0) for number in range(processes)]
        if not bursts:
            crews[SEQUENTIAL] = [start(play, url, UNGUARDED, [secrets.token_hex(8)], 1, True)]
        # A turn begins with an empty queue.
        return alternate(url, crews, seconds, turns=0 if waiters <= PEERS_UP_TO else 1, bursts=bursts)


def _row(way: str, crowd: Crowd, of: dict[str, Result]) -> list[str]:
    guarded, peers = of[GUARDED], [of.get(name) for name in PEERS]

    def all_of(told: Callable[[Result], str], results: Sequence[Result | None]) -> str:
        return ", ".join("–" if result is None else told(result) for result in results)

    return [
        f"{crowd[0]:,} on {crowd[1]}, {way}",
        f"{guarded.rate:.0f}",
        *(all_of(lambda result: f"{guarded.over(result):.2f}", [one]) for one in (of.get(SEQUENTIAL), *peers)),
        " / ".join(f"{guarded.wait_ms(share):.1f}" for share in (0.5, 0.99, 1)),
        all_of(lambda result: f"{result.wait_ms(1):.0f}", peers),
        all_of(lambda result: f"{100 * result.overtakings / max(1, result.cycles):.0f} %", [guarded, *peers]),
    ]


def _claims(bursts: dict[str, Result], loop: dict[str, Result], crowd: Crowd) -> list[Claim]:
    guarded = (bursts[GUARDED], loop[GUARDED])
    return [
        *(
            Claim(f"{crowd[0]} waiters, bursts: cycles/s / {name}", goal, bursts[GUARDED].over(bursts[name]))
            for name, goal in ((REDIS_PY_LOCK, ">= 45"), (POTTERY, ">= 8"))
            if name in bursts
        ),
        Claim(
            f"{crowd[0]} waiters, without pause: cycles/s / {SEQUENTIAL}",
            ">= 1",
            loop[GUARDED].over(loop[SEQUENTIAL]),
        ),
        Claim("script calls per contended guarded cycle", "<= 3", max(result.scripts_per_cycle for result in guarded)),
        Claim("guarded grants out of the order of queueing", "= 0", sum(result.overtakings for result in guarded)),
        Claim("lost guarded updates", "= 0", sum(result.lost for result in guarded)),
    ]


def _plot(loops: dict[Crowd, dict[str, Result]]) -> Plot:
    lines: dict[str, list[tuple[float, float]]] = {}
    for (waiters, processes), of in loops.items():
        if processes == min(PROCESSES, waiters):
            for name, result in of.items():
                lines.setdefault(name, []).append((waiters, result.rate))
    title = f"One hot session, waiters on {PROCESSES} processes, each asks again at once"
    return Plot("hot_session", title, "waiters", "cycles/s", lines)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
