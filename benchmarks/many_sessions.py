"""Many sessions at once from one process, each by one task: no lock is ever contended, connections are.

The unguarded GET+SET goes through redis-py's connection pool, as an application would do it.
"""

from __future__ import annotations

import secrets

from benchmarks.commands import Options, main
from benchmarks.contenders import GUARDED, REDIS_PY_LOCK, UNGUARDED
from benchmarks.report import Claim, Report
from benchmarks.stage import server_url, workers
from benchmarks.turns import alternate, play, turns_in


def run(options: Options) -> Report:
    """Play it; see the module."""
    with server_url(options.url, unix=options.unix) as (url, where), workers() as start:
        running = {}
        for name in (GUARDED, UNGUARDED, REDIS_PY_LOCK):
            sids = [secrets.token_hex(8) for _ in range(options.sessions)]
            running[name] = [start(play, url, name, sids, options.sessions, True)]
        results = alternate(url, running, options.seconds)
    turns = turns_in(options.seconds)
    guarded, unguarded = results[GUARDED], results[UNGUARDED]
    return Report(
        "many_sessions",
        "Many sessions",
        f"{options.sessions} sessions from one process, {turns} turns of {options.seconds / turns:.2f} s each,"
        f" contenders in turn; {where}",
        ["contender", "cycles/s", "of unguarded", "load p50 ms", "load p99 ms", "lost", "script calls/cycle"],
        [
            [
                name,
                f"{result.rate:.0f}",
                f"{result.rate / unguarded.rate:.2f}",
                f"{result.wait_ms(0.5):.1f}",
                f"{result.wait_ms(0.99):.1f}",
                str(result.lost),
                f"{result.scripts_per_cycle:.2f}",
            ]
            for name, result in results.items()
        ],
        [
            Claim("many sessions: cycles/s of sessionlock / unguarded GET+SET", ">= 1", guarded.rate / unguarded.rate),
            Claim("script calls per guarded cycle, many sessions", "= 2", guarded.scripts_per_cycle),
        ],
        guarded.lost,
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
