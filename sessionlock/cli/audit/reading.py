"""Where the lines come from: ``MONITOR`` on every master, for some seconds; or a capture."""

from __future__ import annotations

import asyncio
import gzip
import sys
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Any

import hiredis
from redis.exceptions import RedisClusterException, RedisError

from ...audit.detector import Detector
from ...errors import SessionLockError
from ...transport.advice import with_advice
from ...transport.clients import client_kind
from ...transport.tasks import within
from ...transport.wire import Wire
from ...urls import client_from_url, parts_of
from ..failure import Failure, one_line, without_secrets

__all__ = ["named_database", "read_capture", "watch"]

ANSWERS_WITHIN = 5.0  # seconds
LOOK_EVERY = 0.25  # seconds between two looks at how far behind we are
MOST_BEHIND = 2.0  # seconds: what we have not read yet is memory of the server's
MOST_WAITING = 64 * 1024 * 1024  # bytes that came, and were not looked at
A_SLICE = 0.02  # seconds that lines are looked at in one go
SAME_TIME = 0.01  # seconds between a command's line and its reply, by the server's clock
LOOK_FOR_LINES = 0.01  # seconds
LONGEST_LINE = 64 * 1024 * 1024
ELSEWHERE = (
    "permit MONITOR to this user (ACL SETUSER <user> +monitor +time), or save a capture where it is permitted:"
    " redis-cli MONITOR > capture.monitor"
)


def named_database(url: str) -> int | None:
    """The one that a URL names; None: it names none, and all are meant."""
    parts = parts_of(url)
    if parts is None:
        return None
    named = dict(parts.query).get("db") or ("" if parts.scheme == "unix" else parts.path.strip("/"))
    return int(named) if named.isdigit() else None


def read_capture(path: str, detector: Detector, seconds: float | None = None) -> None:
    """All lines of a file, which may be packed by gzip; ``-``: of standard input. ``seconds``: only its first.

    Raises:
        Failure: it cannot be read, or nothing in it is a line of MONITOR.
    """
    try:
        if path == "-":
            _read_lines(sys.stdin.buffer, detector, seconds)
        else:
            with Path(path).open("rb") as file:
                if file.peek(2)[:2] == b"\x1f\x8b":
                    with gzip.open(file) as unpacked, suppress(EOFError, zlib.error):  # it may be cut off
                        _read_lines(unpacked, detector, seconds)
                else:
                    _read_lines(file, detector, seconds)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from None
    if not detector.commands:
        raise Failure(f"{path}: no line of MONITOR in it; save one with: redis-cli MONITOR > capture.monitor")


def _read_lines(file: IO[bytes] | gzip.GzipFile, detector: Detector, seconds: float | None) -> None:
    ends = None
    while line := file.readline(LONGEST_LINE):
        detector.feed(line)
        if seconds is not None and detector.commands:
            ends = detector.last + seconds if ends is None else ends
            if detector.last >= ends:
                return


async def watch(url: str, seconds: float, detector: Detector, tell: Callable[[float], None]) -> str:
    """Feed what every master says for so long; why it ended early, or "". ``tell`` hears the seconds that are over.

    Raises:
        Failure: the server cannot be reached, or does not permit MONITOR.
    """
    shown = without_secrets(url)
    try:
        async with _opened(url) as (servers, client):
            nodes = await within(_nodes_of(client), ANSWERS_WITHIN)
            lines = _Lines(detector)
            watchers = [_Watcher(number, connect, detector, lines) for number, connect in enumerate(nodes)]
            servers.extend(watchers)
            for watcher in watchers:
                await watcher.begin(alone=client_kind(client) != "cluster")
            reading = asyncio.ensure_future(lines.read())
            try:
                return await _until_over(watchers, seconds, tell)
            finally:
                for watcher in watchers:
                    watcher.close()
                lines.end()
                await reading
    except hiredis.ReplyError as error:
        raise Failure(f"{shown}: {one_line(error)}; {ELSEWHERE}") from None
    except (RedisError, RedisClusterException, SessionLockError, OSError, asyncio.TimeoutError) as error:
        raise Failure(with_advice(f"{shown}: {one_line(error)}", error, connecting=True)) from None


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[tuple[list[_Watcher], Any]]:
    client = client_from_url(url)
    watchers: list[_Watcher] = []
    try:
        yield watchers, client
    finally:
        for watcher in watchers:
            watcher.close()
        await client.aclose()


async def _nodes_of(client: Any) -> list[Callable[[], Any]]:
    """For each master what makes a connection to it."""
    if client_kind(client) != "cluster":
        return [client.connection_pool.make_connection]
    await client.initialize()
    return [_connecting(node) for node in client.get_primaries()]


def _connecting(node: Any) -> Callable[[], Any]:
    return lambda: node.connection_class(**node.connection_kwargs)


async def _until_over(watchers: list[_Watcher], seconds: float, tell: Callable[[float], None]) -> str:
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (over := loop.time() - began) < seconds:
        tell(over)
        ended = [asyncio.ensure_future(watcher.ended.wait()) for watcher in watchers]
        done, rest = await asyncio.wait(
            ended, timeout=min(LOOK_EVERY, seconds - over), return_when=asyncio.FIRST_COMPLETED
        )
        for task in rest:
            task.cancel()
        if done:
            return "the server closed the connection: its client-output-buffer-limit, perhaps, or it ended"
        for watcher in watchers:
            why = await watcher.is_behind()
            if why:
                return why
    for watcher in watchers:
        await watcher.hear_the_rest()
    return ""


class _Lines:
    """What came and was not looked at yet. It is looked at for some milliseconds at a time: the loop goes on."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._come = asyncio.Event()
        self._ended = False
        self.size: int = 0

    def add(self, line: bytes, source: int) -> None:
        self._waiting.append((line, source))
        self.size += len(line)
        self._come.set()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._come.set()

    async def read(self) -> None:
        """All of it, until :meth:`end`."""
        while not self._ended or self._waiting:
            await self._come.wait()
            until = time.monotonic() + A_SLICE
            while self._waiting and time.monotonic() < until:
                line, source = self._waiting.popleft()
                self.size -= len(line)
                self._detector.feed(line, source)
            if not self._waiting and not self._ended:
                self._come.clear()
            await asyncio.sleep(0)


class _Watcher:
    """One server: a connection that monitors it, and one that asks for its time."""

    def __init__(self, number: int, connect: Callable[[], Any], detector: Detector, lines: _Lines) -> None:
        self.ended = asyncio.Event()
        self._number = number
        self._connect = connect
        self._detector = detector
        self._lines = lines
        self._wires: list[Wire] = []
        self._asked: deque[float] = deque()  # when, by the server's clock, of which no line was read yet

    async def begin(self, *, alone: bool) -> None:
        """``alone``: nobody has said that it is of a Cluster.

        Raises:
            hiredis.ReplyError: MONITOR or TIME is not permitted there. Otherwise as :meth:`.Wire.open` does.
        """
        for hooks in ({"on_push": self._hear, "on_close": self.ended.set}, {}):
            self._wires.append(await Wire.open(self._connect, reply_within=ANSWERS_WITHIN, **hooks))
        told = await self._wires[1].call(("INFO", "cluster")) if alone else ""
        if "cluster_enabled:1" in (told.decode() if isinstance(told, bytes) else str(told)):
            self._detector.hear_of_cluster()
        for wire, word in zip(reversed(self._wires), ("TIME", "MONITOR"), strict=True):
            reply = await wire.call((word,))
            if isinstance(reply, hiredis.ReplyError):
                raise reply

    async def is_behind(self) -> str:
        """Whether what was read last is old, in words. The question is a command, and MONITOR shows it, too."""
        try:
            seconds, micros = await self._wires[1].call(("TIME",))
        except (RedisError, SessionLockError, OSError) as error:
            return "" if self.ended.is_set() else f"the server does not answer: {one_line(error)}"
        except (ValueError, TypeError):
            return "the server does not tell its time any more, so nobody knows how far behind this is"
        now = int(seconds) + int(micros) / 1e6
        while self._asked and self._asked[0] <= self._detector.last + SAME_TIME:
            self._asked.popleft()
        self._asked.append(now)
        if now - self._asked[0] > MOST_BEHIND:
            return f"the server says more than can be read here: {MOST_BEHIND:g} s behind"
        if self._lines.size > MOST_WAITING:
            return f"the server says more than can be read here: {MOST_WAITING >> 20} MiB wait"
        return ""

    async def hear_the_rest(self) -> None:
        """What was said until now."""
        await self.is_behind()
        until = time.monotonic() + MOST_BEHIND
        while self._asked and self._asked[-1] > self._detector.last + SAME_TIME and time.monotonic() < until:
            if self.ended.is_set():
                return
            await asyncio.sleep(LOOK_FOR_LINES)

    def close(self) -> None:
        for wire in self._wires:
            wire.close()

    def _hear(self, message: list[Any]) -> None:
        # No call waits on this connection: whatever comes is a line.
        line = message[-1]
        if isinstance(line, (str, bytes)):
            self._lines.add(line.encode() if isinstance(line, str) else line, self._number)
