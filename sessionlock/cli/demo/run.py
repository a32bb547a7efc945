"""``sessionlock demo``: the three losses of concurrent sessions, unguarded and guarded, side by side."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
from redis.exceptions import RedisError

from ...errors import SessionLockError
from ..failure import Failure, one_line
from ..terminal import Progress, Style, style_of
from . import report as shown
from . import tally
from .fleet import Fleet
from .node import Job
from .plays import CLIENTS, PLAYS
from .stage import Stage, server_for
from .tally import Report, Run
from .ways import Served

__all__ = ["play", "run"]

GOODBYE = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def run(arguments: argparse.Namespace) -> int:
    """Play, show, and return the exit status.

    Raises:
        Failure: there is no Redis to play on, or it went away.
    """
    out = sys.stderr if arguments.json else sys.stdout
    style = style_of(out)
    progress = Progress(None if arguments.json and not style.live else out, style)
    try:
        return asyncio.run(_until_signalled(_run(arguments, progress, style), progress))
    except BrokenPipeError:
        raise  # our own output's, not Redis'
    except (SessionLockError, RedisError, OSError) as error:
        raise Failure(f"the demo could not go on: {one_line(error)}") from None


async def _run(arguments: argparse.Namespace, progress: Progress, style: Style) -> int:
    url, private = await asyncio.to_thread(server_for, arguments.url)
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    async with Stage(url, private) as stage:
        nodes, requests = arguments.nodes, arguments.requests
        if not arguments.json:
            print(shown.heading(stage.server, stage.private, nodes, requests, nodes * CLIENTS, style), flush=True)
        report = await play(stage, nodes=nodes, requests=requests, seed=seed, progress=progress)
    if arguments.json:
        print(json.dumps(shown.as_json(report), indent=2))
    else:
        print("\n" + shown.as_text(report, style))
    return 0 if report.guarded.sound else 1


async def play(stage: Stage, *, nodes: int, requests: int, seed: int, progress: Progress) -> Report:
    """Both runs, and what a session costs that nobody else uses."""
    progress.doing(f"starting {nodes} node processes")
    await stage.set_up(nodes)
    jobs = [Job(stage.url, stage.prefix, node, nodes, requests, seed, stage.sids) for node in range(nodes)]
    try:
        async with Fleet(jobs) as fleet:
            unguarded, _ = await _one_run("unguarded", fleet, stage, requests, progress)
            guarded, fifo = await _one_run("guarded", fleet, stage, requests, progress)
            progress.doing("measuring both ways without contention")
            alone = tally.alone(_served(await fleet.run("alone", nodes=1)))
    finally:
        progress.clear()
    return Report(stage.server, stage.private, nodes, requests, nodes * CLIENTS, seed, unguarded, guarded, fifo, alone)


async def _one_run(which: str, fleet: Fleet, stage: Stage, requests: int, progress: Progress) -> tuple[Run, tally.Fifo]:
    total = requests * len(PLAYS)
    before = await stage.counts()
    answers = await fleet.run(which, progress=lambda done: progress.at(which, done, total))
    after = await stage.counts()
    left = await stage.what_is_left(which)
    served = _served(answers)
    # The nodes share one machine, hence one monotonic clock.
    seconds = max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers)
    progress.finished(which, len(served), total, seconds)
    refused: Counter[str] = Counter()
    for answer in answers:
        refused.update(answer["refused"])
    counts = None if before is None or after is None else after - before
    found = tally.run(which, served, left, refused=refused, seconds=seconds, counts=counts)
    return found, tally.fifo(served, left)


def _served(answers: list[dict[str, Any]]) -> list[Served]:
    return [Served(*one) for answer in answers for one in answer["served"]]


async def _until_signalled(work: Coroutine[Any, Any, int], progress: Progress) -> int:
    """Ctrl-C and SIGTERM end ``work`` in good order; asking twice does not hurry it, it has deadlines of its own.

    A cancel scope, because it asks again and again: redis-py now and then swallows a cancellation.
    """
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []
    with anyio.CancelScope() as scope:

        def stop(which: signal.Signals) -> None:
            received.append(which)
            scope.cancel()

        undo = [_on_signal(loop, which, stop) for which in GOODBYE]
        try:
            return await work
        except Exception:
            if not received:
                raise
        finally:
            for remove in undo:
                remove()
    progress.clear()
    print(f"sessionlock: {GOODBYE[received[0]]}", file=sys.stderr)
    return 128 + received[0]


def _on_signal(
    loop: asyncio.AbstractEventLoop, which: signal.Signals, stop: Callable[[signal.Signals], None]
) -> Callable[[], object]:
    try:
        loop.add_signal_handler(which, stop, which)
    except (ValueError, RuntimeError):
        return lambda: None  # not in the main thread, where signals are somebody else's business
    return lambda: loop.remove_signal_handler(which)
