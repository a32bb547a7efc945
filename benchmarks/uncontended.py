"""One request at a time: what a guarded cycle costs beside an unguarded GET+SET and beside other locks.

In three ways. *Apart*: every contender has a process of its own, and in each round all of them run one small batch.
*Together*: all of them in one process, by turns cycle by cycle, so that none has the caches for itself. *1 ms away*:
as together, through a relay that delivers each reply 1 ms later. The order changes from round to round; the median of
all cycles counts.
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
from benchmarks.distance import relay, round_trip
from benchmarks.report import Claim, Plot, Report, median, quantile
from benchmarks.side_by_side import Times, side_by_side
from benchmarks.stage import Counters, Worker, server_url, workers

NAMES = (UNGUARDED, GUARDED, GUARDED_ALL, REDIS_PY_LOCK, POTTERY, UNGUARDED_BLOCKING, REDIS_LOCK)
BLOCKING = (UNGUARDED_BLOCKING, REDIS_LOCK)
COUNTED = 20  # cycles per contender over which the server counts
FAR = 0.001  # seconds
TURNS_FAR = 5  # a round has so many cycles there


def run(options: Options) -> Report:
    """Play it; see the module."""
    names = [name for name in NAMES if available(name)]
    with server_url() as (url, where):
        with workers() as start:
            running = {
                name: start(_blocking if name in BLOCKING else _asyncio, url, name, secrets.token_hex(8))
                for name in names
            }
            for worker in running.values():
                worker.ask(options.cycles)  # warm up: connections, scripts, caches
            calls = {name: _counted(url, worker) for name, worker in running.items()}
            apart = _interleaved(running, options.rounds, options.cycles)
            lost = sum(running[name].ask("lost") for name in (GUARDED, GUARDED_ALL))
        in_one_loop = [name for name in names if name not in BLOCKING]
        together, lost_together = side_by_side(url, in_one_loop, options.rounds * options.cycles // 2)
        with workers() as start:
            far_url = start(relay, url, FAR).ask("url")
            ping = round_trip(far_url)
            far, lost_far = side_by_side(far_url, in_one_loop, options.rounds * TURNS_FAR)
    how = (
        f"{options.rounds} rounds of {options.cycles} cycles each, contenders in turn; {where}."
        f" 1 ms away: a PING takes {ping * 1e3:.2f} ms"
    )
    return _report(
        {"apart": apart, "together": together, "1 ms away": far}, calls, lost + lost_together + lost_far, how
    )


def _interleaved(running: dict[str, Worker], rounds: int, cycles: int) -> Times:
    times: Times = {name: [] for name in running}
    order = list(running)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            times[name] += running[name].ask(cycles)
    return times


def _counted(url: str, worker: Worker) -> tuple[float, float]:
    """Packets to the server, as it reads them one by one, and script calls per cycle."""
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


def _report(times: dict[str, Times], calls: dict[str, tuple[float, float]], lost: int, how: str) -> Report:
    medians = {way: {name: median(taken) for name, taken in of.items()} for way, of in times.items()}
    rows = []
    for name, (packets, scripts) in calls.items():
        reference = UNGUARDED_BLOCKING if name in BLOCKING else UNGUARDED
        row = [name]
        for way, of in medians.items():
            if name in of:
                microseconds = f"{of[name] * 1e6:.0f} / {quantile(times[way][name], 0.9) * 1e6:.0f}"
                row += [microseconds, f"{of[name] / of[reference]:.2f}"]
            else:
                row += ["", ""]
        rows.append([*row, f"{packets:g}", f"{scripts:g}"])
    ratios = {way: {name: of[name] / of[UNGUARDED] for name in of} for way, of in medians.items()}
    claims = [
        Claim(f"{what} / unguarded GET+SET, {way}", goal, ratios[way][name])
        for way, goal in (("apart", "<= 1"), ("together", "<= 1"), ("1 ms away", "<= 1.02"))
        for name, what in ((GUARDED, "uncontended cycle"), (GUARDED_ALL, "the same, every key decoded"))
        if name == GUARDED or way == "apart"
    ]
    claims += [
        Claim("script calls per uncontended guarded cycle", "= 2", calls[GUARDED][1]),
        Claim("packets to Redis per uncontended guarded cycle", "= 2", calls[GUARDED][0]),
    ]
    return Report(
        "uncontended",
        "One request at a time",
        how,
        [
            "contender",
            *(head for way in times for head in (f"{way}: µs, median / p90", "ratio")),
            "packets to Redis",
            "script calls",
        ],
        rows,
        claims,
        lost,
        ["ratio: to unguarded GET+SET through the same kind of client (asyncio; blocking for the last two)"],
        {
            **{f"{way}: {name}": ratio for way, of in ratios.items() for name, ratio in of.items()},
            **{f"packets: {name}": packets for name, (packets, _) in calls.items()},
        },
        [
            Plot(
                "uncontended",
                "One request at a time: time of a cycle, of an unguarded GET+SET's (together)",
                "",
                "ratio",
                bars=ratios["together"],
            )
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
