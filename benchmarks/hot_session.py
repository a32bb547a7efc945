"""One hot session: many requests of one session at once, on two processes.

Bursts: all of them ask at the same instant, each once, as when a page loads its parts in parallel. Loop: each asks
again as soon as it is done. Both are shown, because in a loop without a pause a lock that does not queue goes straight
back to the task that released it: it runs as fast as one task alone, and all others wait. Its waits and overtakings
tell.

The sequential unguarded GET+SET is one task in one process: what a session could do whose requests came one after the
other by themselves.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from benchmarks.commands import Options, main
from benchmarks.contenders import GUARDED, POTTERY, REDIS_PY_LOCK, UNGUARDED, available
from benchmarks.report import Claim, Report
from benchmarks.stage import Worker, server_url, workers
from benchmarks.turns import Result, alternate, play, turns_in

PROCESSES = 2
SEQUENTIAL = f"{UNGUARDED}, sequential"
COLUMNS = [
    "contender",
    "cycles/s",
    "sessionlock is x times",
    "wait p50 ms",
    "wait p99 ms",
    "wait max ms",
    "overtakings/grants",
    "lost",
    "script calls/cycle",
]


def run(options: Options) -> Report:
    """Play it; see the module."""
    each = max(1, options.waiters // PROCESSES)
    with server_url(options.url, unix=options.unix) as (url, where), workers() as start:
        crews = _crews(start, url, each)
        bursts = alternate(url, crews, options.seconds, bursts=True)
        crews[SEQUENTIAL] = [start(play, url, UNGUARDED, [secrets.token_hex(8)], 1, True)]
        loop = alternate(url, crews, options.seconds)
    if each > 1 and not bursts[GUARDED].queued:
        raise RuntimeError("no ticket was seen, so nothing can be said about the order of grants")
    turns = turns_in(options.seconds)
    length = options.seconds / turns
    return Report(
        "hot_session",
        "One hot session",
        f"{PROCESSES} processes x {each} tasks, {turns} turns of {length:.2f} s each, contenders in turn; {where}",
        COLUMNS,
        [*_rows("burst", bursts), *_rows("loop", loop)],
        _claims(bursts, loop),
        loop[GUARDED].lost,
        [
            "overtakings: grants while an earlier request still waited; by the server's tickets and fencing tokens for"
            " sessionlock, by the callers' common clock for the others",
            "loop: a lock without a queue goes back to the task that just released it, and the others starve",
        ],
    )


def _crews(start: Callable[..., Worker], url: str, each: int) -> dict[str, list[Worker]]:
    crews = {}
    for name in filter(available, (GUARDED, REDIS_PY_LOCK, POTTERY)):
        sids = [secrets.token_hex(8)] * each
        crews[name] = [start(play, url, name, sids, PROCESSES * each, number == 0) for number in range(PROCESSES)]
    return crews


def _rows(way: str, results: dict[str, Result]) -> list[list[str]]:
    guarded = results[GUARDED]
    return [
        [
            f"{way}: {name}",
            f"{result.rate:.0f}",
            f"{_ratio(guarded, result):.2f}",
            f"{result.wait_ms(0.5):.1f}",
            f"{result.wait_ms(0.99):.1f}",
            f"{result.wait_ms(1):.1f}",
            f"{result.overtakings}/{result.cycles}",
            str(result.lost),
            f"{result.scripts_per_cycle:.2f}",
        ]
        for name, result in results.items()
    ]


def _claims(bursts: dict[str, Result], loop: dict[str, Result]) -> list[Claim]:
    claims = [
        Claim(f"hot session, bursts: cycles/s of sessionlock / {name}", goal, _ratio(bursts[GUARDED], bursts[name]))
        for name, goal in ((REDIS_PY_LOCK, ">= 30"), (POTTERY, ">= 8"))
        if name in bursts
    ]
    guarded = (bursts[GUARDED], loop[GUARDED])
    return [
        *claims,
        Claim(
            f"hot session, loop: cycles/s of sessionlock / {SEQUENTIAL}",
            ">= 0.7",
            _ratio(loop[GUARDED], loop[SEQUENTIAL]),
        ),
        Claim("script calls per contended guarded cycle", "<= 3", max(result.scripts_per_cycle for result in guarded)),
        Claim("guarded grants out of the order of queueing", "= 0", sum(result.overtakings for result in guarded)),
        Claim("lost guarded updates", "= 0", loop[GUARDED].lost),
    ]


def _ratio(guarded: Result, other: Result) -> float:
    return guarded.rate / other.rate if other.rate else float("inf")


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
