"""What ``sessionlock audit`` costs the server that it watches, and how much it can follow.

Eight connections read and save sessions of 100 bytes to 10 KB, as fast as they can, each for a while alone and for a
while watched. The server's processor time is its own count (INFO cpu).
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis

from benchmarks.commands import Options, main
from benchmarks.report import Claim, Report, median
from benchmarks.stage import Worker, server_url, workers
from sessionlock.audit.detector import Detector
from sessionlock.cli.audit.reading import watch

SIZES = (100, 1_000, 10_000)  # bytes of a session
CONNECTIONS = 8
SESSIONS = 200
TURNS = 4


class Turn(NamedTuple):
    """``server``: microseconds of its processor for a command. ``ours``: of the audit's, 0 without one."""

    per_second: float
    server: float
    ours: float = 0.0
    followed: bool = True


def run(options: Options) -> Report:
    """Measure it; see the module."""
    rows, ratios, followed = [], {}, []
    seconds = max(0.2, options.seconds / TURNS)
    for size in SIZES:
        with server_url() as (url, where), workers() as start:
            load, auditor = start(_load, url, size), start(_audit, url)
            load.ask(0.1)
            alone, watched = [], []
            for _ in range(TURNS):
                alone.append(_turn(url, load, None, seconds))
                watched.append(_turn(url, load, auditor, seconds))
        bare, seen = (median(turn.server for turn in turns) for turns in (alone, watched))
        ratios[size] = seen / bare
        ours = median(turn.ours for turn in watched)
        followed.append(1e6 / ours)
        rows.append(
            [
                f"{size:,} bytes",
                f"{median(turn.per_second for turn in alone):,.0f}",
                f"{median(turn.per_second for turn in watched):,.0f}",
                f"{bare:.1f}",
                f"{seen:.1f}",
                f"{seen / bare:.2f}",
                f"{1e6 / ours:,.0f}" + ("" if all(turn.followed for turn in watched) else " (fell behind)"),
            ]
        )
    return Report(
        "audit",
        "What an audit costs",
        f"{CONNECTIONS} connections that read and save, {SESSIONS} sessions; {where}",
        [
            "session",
            "commands/s alone",
            "commands/s audited",
            "server, µs a command alone",
            "server, µs audited",
            "ratio",
            "commands/s that one processor can follow",
        ],
        rows,
        [Claim("commands a second that an audit follows, of sessions up to 10 KB", ">= 10000", min(followed))],
        notes=[
            "commands/s are of a machine on whose processors clients, server and audit compete; the server's own time"
            " is what MONITOR costs it",
        ],
        facts={f"ratio, {size} bytes": ratio for size, ratio in ratios.items()},
    )


def _turn(url: str, load: Worker, auditor: Worker | None, seconds: float) -> Turn:
    with redis.Redis.from_url(url) as client:
        if auditor is not None:
            auditor.ask("begin")
        before = client.info("cpu")
        done, took = load.ask(seconds)
        after = client.info("cpu")
    spent = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
    if auditor is None:
        return Turn(done / took, spent * 1e6 / done)
    ours, commands, stopped = auditor.ask("end")
    return Turn(done / took, spent * 1e6 / done, ours * 1e6 / commands, not stopped)


def _load(connection: Connection, url: str, size: int) -> None:
    """Worker: reads and saves for so many seconds; the commands, and the seconds that they took."""
    address = urlsplit(url)
    host, port = address.hostname or "127.0.0.1", address.port or 6379
    sockets = [socket.create_connection((host, port)) for _ in range(CONNECTIONS)]
    values = _values(size)
    connection.send("ready")
    with suppress(EOFError):
        while True:
            until, began, done = time.monotonic() + connection.recv(), time.monotonic(), 0
            while time.monotonic() < until:
                keys = random.sample(range(SESSIONS), CONNECTIONS)
                _all_say(sockets, [_packed("GET", f"session:{key:032x}") for key in keys])
                _all_say(sockets, [_packed("SET", f"session:{key:032x}", next(values)) for key in keys])
                done += 2 * CONNECTIONS
            connection.send((done, time.monotonic() - began))


def _values(size: int) -> Iterator[str]:
    items = [f"product-{number}" for number in range(size // 14)]
    number = 0
    while True:
        number += 1
        yield json.dumps({"user": 4711, "visits": number, "cart": items})


def _packed(*words: str) -> bytes:
    return b"".join((b"*%d\r\n" % len(words), *(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)))


def _all_say(sockets: list[socket.socket], commands: list[bytes]) -> None:
    for one, command in zip(sockets, commands, strict=True):
        one.sendall(command)
    for one in sockets:
        answer = one.recv(1 << 16)
        if answer[:1] == b"$" and answer[:3] != b"$-1":
            head, _, body = answer.partition(b"\r\n")
            left = int(head[1:]) + 2 - len(body)
            while left > 0:
                left -= len(one.recv(left))


def _audit(connection: Connection, url: str) -> None:
    """Worker: audits from "begin" to "end"; processor seconds, commands, and why it stopped early."""
    connection.send("ready")
    with suppress(EOFError):
        while True:
            connection.recv()
            connection.send(asyncio.run(_audited(connection, url)))


async def _audited(connection: Connection, url: str) -> Any:
    detector, begun = Detector(), asyncio.Event()
    watching = asyncio.ensure_future(watch(url, 3600, detector, lambda over: begun.set()))
    await asyncio.wait([watching, asyncio.ensure_future(begun.wait())], return_when=asyncio.FIRST_COMPLETED)
    before, commands = time.process_time(), detector.commands
    connection.send("begun")
    await asyncio.get_running_loop().run_in_executor(None, connection.recv)
    spent, seen = time.process_time() - before, detector.commands - commands
    watching.cancel()
    stopped = await asyncio.gather(watching, return_exceptions=True)
    return spent, max(1, seen), stopped[0] if isinstance(stopped[0], str) else ""


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
