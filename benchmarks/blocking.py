"""The face for threads beside the async face: one cycle from one thread, and the throughput of many.

Each face has a process of its own; in each round both run one small batch, in an order that changes from round to
round. A thread (a task, on the other side) has a session of its own, so that no lock is waited for.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from benchmarks.commands import Options, main
from benchmarks.contenders import SAMPLE
from benchmarks.report import Claim, Report, median
from benchmarks.stage import Worker, server_url, workers

CROWDS = (1, 4, 16)
BLOCKING, ASYNC = "blocking", "async"
Times = dict[tuple[str, int], list[float]]


def run(options: Options) -> Report:
    """Play it; see the module."""
    with server_url() as (url, where), workers() as start:
        faces = {BLOCKING: start(_threads, url), ASYNC: start(_tasks, url)}
        times = _interleaved(faces, options.rounds, options.cycles)
        lost = sum(face.ask("lost") for face in faces.values())
    return _report(times, lost, options, where)


def _interleaved(faces: dict[str, Worker], rounds: int, cycles: int) -> Times:
    """Seconds per cycle of a crowd (its time divided by all its cycles), a batch in each round."""
    times: Times = {(face, crowd): [] for face in faces for crowd in CROWDS}
    order = list(times)
    for warming_up in (True, *[False] * rounds):
        random.shuffle(order)
        for face, crowd in order:
            took = faces[face].ask((crowd, max(5, cycles // crowd)))
            if not warming_up:
                times[face, crowd].append(took)
    return times


def _threads(connection: Connection, url: str) -> None:
    """Worker: answers ``(threads, cycles of each)`` with the seconds per cycle, ``"lost"`` with a number."""
    from sessionlock.blocking import SessionGuard

    guard = SessionGuard.from_url(url)

    def batch(sids: list[str], cycles: int) -> float:
        all_there = threading.Barrier(len(sids) + 1)  # starting threads is not what is measured

        def turn(sid: str) -> None:
            all_there.wait()
            for _ in range(cycles):
                with guard.session_lock(sid) as session:
                    session["count"] += 1

        threads = [threading.Thread(target=turn, args=(sid,)) for sid in sids]
        for thread in threads:
            thread.start()
        all_there.wait()
        began = time.perf_counter()
        for thread in threads:
            thread.join()
        return time.perf_counter() - began

    sids = _sids()
    for sid in sids:
        guard.create(SAMPLE, sid=sid)
    _serve(connection, sids, batch, lambda sid: int(guard.read(sid)["count"]))
    for sid in sids:
        guard.destroy(sid)
    guard.close()


def _tasks(connection: Connection, url: str) -> None:
    """Worker: the same in one event loop, with tasks."""
    from sessionlock import SessionGuard

    guard = SessionGuard.from_url(url)

    async def turn(sid: str, cycles: int) -> None:
        for _ in range(cycles):
            async with guard.session_lock(sid) as session:
                session["count"] += 1

    async def batch(sids: list[str], cycles: int) -> float:
        began = time.perf_counter()
        await asyncio.gather(*[turn(sid, cycles) for sid in sids])
        return time.perf_counter() - began

    async def count(sid: str) -> int:
        return int((await guard.read(sid))["count"])

    sids = _sids()
    loop = asyncio.new_event_loop()
    do = loop.run_until_complete
    for sid in sids:
        do(guard.create(SAMPLE, sid=sid))
    _serve(connection, sids, lambda some, cycles: do(batch(some, cycles)), lambda sid: do(count(sid)))
    for sid in sids:
        do(guard.destroy(sid))
    do(guard.aclose())
    loop.close()


def _sids() -> list[str]:
    return [secrets.token_hex(8) for _ in range(max(CROWDS))]


def _serve(
    connection: Connection,
    sids: list[str],
    batch: Callable[[list[str], int], float],
    count: Callable[[str], int],
) -> None:
    connection.send("ready")
    done = 0
    try:
        while (order := connection.recv()) != "lost":
            crowd, cycles = order
            connection.send(batch(sids[:crowd], cycles) / (crowd * cycles))
            done += crowd * cycles
        connection.send(done - sum(map(count, sids)))
        connection.recv()
    except EOFError:
        pass


def _report(times: Times, lost: int, options: Options, where: str) -> Report:
    medians = {of: median(taken) for of, taken in times.items()}
    most = max(CROWDS)

    def faster(face: str, crowd: int) -> float:
        return medians[face, 1] / medians[face, crowd]

    return Report(
        "blocking",
        "The face for threads",
        f"{options.rounds} rounds of {options.cycles} cycles each, the two faces in turn; {where}",
        ["threads (tasks)", "cycle, blocking / async", "blocking, of its one", "async, of its one"],
        [
            [
                str(crowd),
                f"{medians[BLOCKING, crowd] / medians[ASYNC, crowd]:.2f}",
                f"{faster(BLOCKING, crowd):.2f}",
                f"{faster(ASYNC, crowd):.2f}",
            ]
            for crowd in CROWDS
        ],
        [
            Claim(
                "one thread: cycle of the blocking / the async face", "<= 2.5", medians[BLOCKING, 1] / medians[ASYNC, 1]
            ),
            Claim(f"{most} threads: throughput / that of one thread", ">= 1", faster(BLOCKING, most)),
        ],
        lost,
        ["of its one: how many times the throughput of one thread (task) of the same face"],
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
