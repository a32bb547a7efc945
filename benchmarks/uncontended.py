"""One request at a time: what a guarded cycle costs beside an unguarded GET+SET and beside other locks.

Every contender has a process of its own; in each round all of them run one small batch, in an order that changes from
round to round. The median of all cycles counts.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from multiprocessing.connection import Connection

from benchmarks.commands import Options, main
from benchmarks.contenders import (
    GUARDED,
    GUARDED_ALL,
    POTTERY,
    REDIS_LOCK,
    REDIS_PY_LOCK,
    UNGUARDED,
    UNGUARDED_BLOCKING,
    Blocking,
    available,
    contender,
)
from benchmarks.report import Claim, Report, median, quantile
from benchmarks.stage import Counters, Worker, server_url, workers

NAMES = (UNGUARDED, GUARDED, GUARDED_ALL, REDIS_PY_LOCK, POTTERY, UNGUARDED_BLOCKING, REDIS_LOCK)
BLOCKING = (UNGUARDED_BLOCKING, REDIS_LOCK)
COUNTED = 20  # cycles per contender over which the server counts


def run(options: Options) -> Report:
    """Play it; see the module."""
    with server_url(options.url, unix=options.unix) as (url, where), workers() as start:
        running = {
            name: start(_blocking if name in BLOCKING else _asyncio, url, name, secrets.token_hex(8))
            for name in NAMES
            if available(name)
        }
        for worker in running.values():
            worker.ask(options.cycles)  # warm up: connections, scripts, caches
        calls = {name: _counted(url, worker) for name, worker in running.items()}
        times = _interleaved(running, options.rounds, options.cycles)
        lost = sum(running[name].ask("lost") for name in (GUARDED, GUARDED_ALL))
    return _report(times, calls, lost, options, where)


def _interleaved(running: dict[str, Worker], rounds: int, cycles: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in running}
    order = list(running)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name] += running[name].ask(cycles)
    return times


def _counted(url: str, worker: Worker) -> tuple[float, float]:
    """Round trips and script calls per cycle."""
    counters = Counters(url)
    worker.ask(COUNTED)
    reads = counters.reads() / COUNTED
    scripts = counters.script_calls() / COUNTED
    counters.close()
    return reads, scripts


def _asyncio(connection: Connection, url: str, name: str, sid: str) -> None:
    """Worker: answers a number of cycles with their seconds, ``"lost"`` with the number of lost updates."""

    async def serve() -> None:
        one = contender(name, url)
        await one.put(sid)
        connection.send("ready")
        done = 0
        try:
            # Nothing else is to run in this process meanwhile, so blocking the loop is meant.
            while (order := connection.recv()) != "lost":
                times = []
                for _ in range(order):
                    began = time.perf_counter()
                    await one.cycle(sid)
                    times.append(time.perf_counter() - began)
                done += order
                connection.send(times)
            connection.send(done - await one.count(sid))
            connection.recv()
        except EOFError:
            await one.remove(sid)
            await one.close()

    asyncio.run(serve())


def _blocking(connection: Connection, url: str, name: str, sid: str) -> None:
    """As :func:`_asyncio`; it is never asked what was lost."""
    one = Blocking(name, url)
    one.put(sid)
    connection.send("ready")
    try:
        while True:
            times = []
            for _ in range(connection.recv()):
                began = time.perf_counter()
                one.cycle(sid)
                times.append(time.perf_counter() - began)
            connection.send(times)
    except EOFError:
        one.remove(sid)


def _report(
    times: dict[str, list[float]], calls: dict[str, tuple[float, float]], lost: int, options: Options, where: str
) -> Report:
    medians = {name: median(taken) for name, taken in times.items()}
    rows = []
    for name, taken in times.items():
        reference = UNGUARDED_BLOCKING if name in BLOCKING else UNGUARDED
        rows.append(
            [
                name,
                f"{medians[name] * 1e6:.0f}",
                f"{quantile(taken, 0.9) * 1e6:.0f}",
                f"{medians[name] / medians[reference]:.2f}",
                f"{calls[name][0]:g}",
                f"{calls[name][1]:g}",
            ]
        )
    unguarded = medians[UNGUARDED]
    claims = [
        Claim("uncontended guarded cycle / unguarded GET+SET, median", "<= 1.4", medians[GUARDED] / unguarded),
        Claim("the same, every key of the session decoded", "<= 1.4", medians[GUARDED_ALL] / unguarded),
        Claim("script calls per uncontended guarded cycle", "= 2", calls[GUARDED][1]),
        Claim("round trips per uncontended guarded cycle", "= 2", calls[GUARDED][0]),
    ]
    return Report(
        "uncontended",
        "One request at a time",
        f"{options.rounds} rounds of {options.cycles} cycles each, contenders in turn; {where}",
        ["contender", "median us", "p90 us", "ratio", "round trips", "script calls"],
        rows,
        claims,
        lost,
        ["ratio: to unguarded GET+SET through the same kind of client (asyncio; blocking for the last two)"],
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
