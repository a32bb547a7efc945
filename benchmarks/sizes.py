"""One request at a time that changes a counter, in sessions of 1 KB to 7 MB.

All contenders in one process, by turns cycle by cycle. What is stored as one string is read and written whole; a
guarded cycle reads the whole session, too, and writes what changed.
"""

from __future__ import annotations

import random
from typing import Any

from benchmarks.commands import Options, main
from benchmarks.contenders import GUARDED, GUARDED_ALL, REDIS_PY_LOCK, UNGUARDED
from benchmarks.report import Claim, Plot, Report, median
from benchmarks.side_by_side import Times, side_by_side
from benchmarks.stage import server_url

SIZES = (1_000, 10_000, 100_000, 1_000_000, 7_000_000)  # bytes
KEY = 50_000  # bytes of one key of the session, at most
NAMES = (UNGUARDED, GUARDED, GUARDED_ALL, REDIS_PY_LOCK)
ENOUGH = 5_000_000  # bytes that a contender reads for one size, roughly, for each round


def of_size(size: int) -> dict[str, Any]:
    """A session of that many bytes."""
    letters = random.Random(size).choices("0123456789abcdef", k=min(size, KEY))
    return {"count": 0, **{f"part{start}": "".join(letters)[: size - start] for start in range(0, size, KEY)}}


def told(size: int) -> str:
    return f"{size / 1e6:g} MB" if size >= 1e6 else f"{size / 1e3:g} KB"


def run(options: Options) -> Report:
    """Play it; see the module."""
    with server_url() as (url, where):
        found: dict[int, Times] = {}
        lost = 0
        for size in SIZES:
            rounds = max(5, min(options.rounds * 10, options.rounds * ENOUGH // size))
            found[size], lost_now = side_by_side(url, NAMES, rounds, of_size(size))
            lost += lost_now
    medians = {size: {name: median(taken) for name, taken in times.items()} for size, times in found.items()}
    return Report(
        "sizes",
        "Sessions of 1 KB to 7 MB",
        f"one request at a time, contenders in turn in one process; {where}",
        ["session", *(f"{name}, ms" for name in NAMES), *(f"{name} / unguarded" for name in NAMES[1:])],
        [
            [
                told(size),
                *(f"{of[name] * 1e3:.2f}" for name in NAMES),
                *(f"{of[name] / of[UNGUARDED]:.2f}" for name in NAMES[1:]),
            ]
            for size, of in medians.items()
        ],
        [
            Claim(f"cycle of a session of {told(size)} / unguarded GET+SET", "<= 1", of[GUARDED] / of[UNGUARDED])
            for size, of in medians.items()
        ],
        lost,
        plots=[
            Plot(
                "sizes",
                "One request at a time, by the size of the session",
                "bytes",
                "ms",
                {name: [(size, of[name] * 1e3) for size, of in medians.items()] for name in NAMES},
            )
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
