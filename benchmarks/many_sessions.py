"""Many sessions at once from one process, each by one task: no lock is ever contended, connections are.

The unguarded GET+SET goes through redis-py's connection pool, as an application would do it.
"""

from __future__ import annotations

import secrets

from benchmarks.commands import Options, main
from benchmarks.contenders import GUARDED, REDIS_PY_LOCK, UNGUARDED
from benchmarks.report import Claim, Plot, Report
from benchmarks.stage import server_url, workers
from benchmarks.turns import Result, alternate, play, turns_in

CROWDS = (1, 16, 512, 1024)  # sessions, beside those that are asked for
CONTENDERS = (GUARDED, UNGUARDED, REDIS_PY_LOCK)
LARGE = 256  # sessions, above which one long turn is better than short ones
SHARE = 0.5  # of the seconds, for small crowds


def run(options: Options) -> Report:
    """Play it; see the module."""
    crowds = sorted({*(CROWDS if options.curves else ()), options.sessions})
    with server_url() as (url, where):
        found = {
            crowd: _played(url, crowd, options.seconds * (SHARE if crowd < options.sessions else 1)) for crowd in crowds
        }
    results = found[options.sessions]
    guarded, unguarded = results[GUARDED], results[UNGUARDED]
    turns = turns_in(options.seconds)
    return Report(
        "many_sessions",
        "Many sessions at once",
        f"from one process, {turns} turns of {options.seconds / turns:.2f} s each for {options.sessions} sessions,"
        f" less for the others, contenders in turn; {where}",
        ["sessions", "cycles/s", "of unguarded", "of redis-py Lock", "load p50 ms", "load p99 ms", "unguarded p99 ms"],
        [
            [
                f"{crowd:,}",
                f"{of[GUARDED].rate:.0f}",
                f"{of[GUARDED].over(of[UNGUARDED]):.2f}",
                f"{of[GUARDED].over(of[REDIS_PY_LOCK]):.2f}",
                f"{of[GUARDED].wait_ms(0.5):.1f}",
                f"{of[GUARDED].wait_ms(0.99):.1f}",
                f"{of[UNGUARDED].wait_ms(0.99):.1f}",
            ]
            for crowd, of in found.items()
        ],
        [
            Claim(
                f"{options.sessions} sessions at once, cycles/s / unguarded GET+SET",
                ">= 2.5",
                guarded.over(unguarded),
            ),
            Claim("script calls per guarded cycle, many sessions", "= 2", guarded.scripts_per_cycle),
        ],
        sum(of[GUARDED].lost for of in found.values()),
        facts={f"cycles/s of {crowd}: {name}": of[name].rate for crowd, of in found.items() for name in of},
        plots=[
            Plot(
                "many_sessions",
                "Many sessions at once, one process",
                "sessions",
                "cycles/s",
                {name: [(crowd, found[crowd][name].rate) for crowd in crowds] for name in CONTENDERS},
            )
        ],
    )


def _played(url: str, crowd: int, seconds: float) -> dict[str, Result]:
    with workers() as start:
        running = {
            name: [start(play, url, name, [secrets.token_hex(8) for _ in range(crowd)], crowd, True)]
            for name in CONTENDERS
        }
        return alternate(url, running, seconds, turns=1 if crowd > LARGE else 0)


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
