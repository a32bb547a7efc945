"""A process is killed (SIGKILL) that holds the lock, or in which others wait for it.

Dead holder: how long after the end of its lease of 1 s the lock is granted to the one who waits in another process.
Dead waiters: what the next release costs Redis, by its own clock, when so many are in the queue that will never come.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from multiprocessing.connection import Connection

from benchmarks.commands import Options, main
from benchmarks.contenders import GUARDED, POTTERY, REDIS_PY_LOCK, available, lock_for
from benchmarks.crowd import patient_guard, wait_in_line
from benchmarks.report import Claim, Plot, Report, median
from benchmarks.sizes import of_size, told
from benchmarks.stage import Slowlog, Worker, server_url, workers

LEASE = 1.0
HOLDERS = (GUARDED, REDIS_PY_LOCK, POTTERY)
WAITERS = ((0, 1_000), (64, 1_000), (1_000, 1_000), (0, 7_000_000), (64, 7_000_000))
GOALS = {(64, 7_000_000): 5.0}  # ms


def run(options: Options) -> Report:
    """Play it; see the module."""
    with server_url() as (url, where):
        names = [name for name in HOLDERS if available(name)]
        late = {name: [_after_a_dead_holder(url, name) for _ in range(options.repeats)] for name in names}
        slowlog = Slowlog(url)
        scripts = {
            case: [_after_dead_waiters(url, slowlog, *case) for _ in range(max(1, options.repeats // 2))]
            for case in WAITERS
        }
        slowlog.close()
    medians = {name: median(of) for name, of in late.items()}
    longest = {case: max(max(of) for of in runs) * 1e3 for case, runs in scripts.items()}
    rows = [
        [
            f"holder: {name}",
            f"{medians[name] * 1e3:.0f}",
            f"{max(of) * 1e3:.0f}",
            f"{medians[name] / medians[GUARDED]:.1f}",
        ]
        for name, of in late.items()
    ]
    rows += [
        [
            f"{waiters:,} waiters, session of {told(size)}",
            f"{median(sum(of) for of in runs) * 1e3:.2f}",
            f"{max(sum(of) for of in runs) * 1e3:.2f}",
            f"{median(sum(of) for of in runs) / median(sum(of) for of in scripts[0, size]):.1f}",
        ]
        for (waiters, size), runs in scripts.items()
    ]
    return Report(
        "dead",
        "Dead holders and dead waiters",
        f"{options.repeats} times a dead holder with a lease of {LEASE:g} s, half as often dead waiters; {where}",
        ["what died", "ms, median", "ms, at most", "of sessionlock's, of nobody dead"],
        rows,
        [
            Claim("the lock is granted so long after a dead holder's lease, ms", "<= 100", max(late[GUARDED]) * 1e3),
            *(
                Claim(
                    f"release behind {case[0]} dead waiters, session of {told(case[1])}: longest script, ms",
                    f"<= {goal:g}",
                    longest[case],
                )
                for case, goal in GOALS.items()
            ),
        ],
        notes=["holder: after the end of the lease; waiters: time of Redis for all scripts of the release"],
        facts={f"ms of Redis behind {waiters} dead, {told(size)}": ms for (waiters, size), ms in longest.items()},
        plots=[
            Plot(
                "dead",
                "After a holder died: ms from the end of its lease to the next grant",
                "",
                "ms",
                bars={name: taken * 1e3 for name, taken in medians.items()},
            )
        ],
    )


def _after_a_dead_holder(url: str, name: str) -> float:
    """Seconds from the end of its lease to the grant."""
    sid = secrets.token_hex(16)
    with workers() as start:
        holder: Worker = start(_holder, url, name, sid)
        waiter: Worker = start(_holder, url, name, sid)
        waiter.wait_ready()
        held_since: float = holder.ask("hold")
        waiter.tell("hold")
        holder.kill()
        granted: float = waiter.answer()
        return granted - held_since - LEASE


def _holder(connection: Connection, url: str, name: str, sid: str) -> None:
    """Worker: when asked, takes the lock, answers the monotonic instant, which all processes share, and keeps it."""

    async def serve() -> None:
        lock = lock_for(name, url, LEASE)
        async with lock(f"warm up {sid}"):
            pass
        connection.send("ready")
        # Nothing else is to run in this process meanwhile, so blocking the loop is meant.
        connection.recv()
        async with lock(sid):
            connection.send(time.monotonic())
            await asyncio.to_thread(connection.poll, None)  # killed, or the end

    asyncio.run(serve())


def _after_dead_waiters(url: str, slowlog: Slowlog, waiters: int, size: int) -> list[float]:
    """Seconds of each script of a release behind so many dead waiters."""

    async def play() -> list[float]:
        sid = secrets.token_hex(16)
        async with patient_guard(url, waiters) as guard:
            await guard.create(of_size(size), sid=sid)
            async with guard.session_lock(sid) as session:
                with workers() as start:
                    if waiters:
                        crowd: Worker = start(wait_in_line, url, sid, waiters)
                        await asyncio.to_thread(crowd.wait_ready)
                        crowd.kill()
                session["count"] += 1
                slowlog.restart()
            scripts = slowlog.scripts()
            await guard.destroy(sid)
        return scripts

    return asyncio.run(play())


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
