"""Contenders in one process that take turns cycle by cycle: each finds the caches as another one left them."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.contenders import GUARDED, GUARDED_ALL, SAMPLE, contender
from benchmarks.stage import Worker, workers

__all__ = ["Times", "side_by_side"]

WARM_UP = 20
Times = dict[str, list[float]]


def side_by_side(url: str, names: Sequence[str], rounds: int, session: dict[str, Any] = SAMPLE) -> tuple[Times, int]:
    """Seconds of each cycle by contender, ``rounds`` of them; and how many updates sessionlock lost."""
    with workers() as start:
        worker: Worker = start(_work, url, names, session)
        worker.ask(min(WARM_UP, rounds))
        times: Times = worker.ask(rounds)
        lost: int = worker.ask("lost")
    return times, lost


def _work(connection: Connection, url: str, names: Sequence[str], session: dict[str, Any]) -> None:
    """Worker: answers a number of rounds with the seconds of all cycles, ``"lost"`` with the updates lost."""

    async def serve() -> None:
        all_of_them = {name: (contender(name, url), secrets.token_hex(8)) for name in names}
        for one, sid in all_of_them.values():
            await one.put(sid, session)
        connection.send("ready")
        done = 0
        try:
            # Nothing else is to run in this process meanwhile, so blocking the loop is meant.
            while (order := connection.recv()) != "lost":
                times: Times = {name: [] for name in names}
                for _ in range(order):
                    for name in random.sample(names, len(names)):
                        one, sid = all_of_them[name]
                        began = time.perf_counter()
                        await one.cycle(sid)
                        times[name].append(time.perf_counter() - began)
                done += order
                connection.send(times)
            guarded = [all_of_them[name] for name in (GUARDED, GUARDED_ALL) if name in all_of_them]
            connection.send(sum([done - await one.count(sid) for one, sid in guarded]))
            connection.recv()
        except EOFError:
            for one, sid in all_of_them.values():
                await one.remove(sid)
                await one.close()

    asyncio.run(serve())
