"""Where the lines come from: ``MONITOR`` on every master, for some seconds; or a capture."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import hiredis
from redis.exceptions import RedisClusterException, RedisError

from ...audit.detector import Detector
from ...errors import SessionLockError
from ...transport.advice import with_advice
from ...transport.clients import client_kind
from ...transport.tasks import within
from ...transport.wire import Wire
from ...urls import client_from_url
from ..failure import Failure, one_line, without_secrets

__all__ = ["read_capture", "watch"]

ANSWERS_WITHIN = 5.0  # seconds
LOOK_EVERY = 0.25  # seconds between two looks at how far behind we are
MOST_BEHIND = 2.0  # seconds: what we have not read yet is memory of the server's
LONGEST_LINE = 64 * 1024 * 1024
ELSEWHERE = (
    "permit MONITOR to this user (ACL SETUSER <user> +monitor +time), or save a capture where it is permitted:"
    " redis-cli MONITOR > capture.monitor"
)


def read_capture(path: str, detector: Detector) -> None:
    """All lines of a file; ``-``: of standard input.

    Raises:
        Failure: it cannot be read, or nothing in it is a line of MONITOR.
    """
    try:
        if path == "-":
            _read_lines(sys.stdin.buffer, detector)
        else:
            with Path(path).open("rb") as file:
                _read_lines(file, detector)
    except OSError as error:
        raise Failure(f"{path}: {error.strerror or error}") from None
    if not detector.commands:
        raise Failure(f"{path}: no line of MONITOR in it; save one with: redis-cli MONITOR > capture.monitor")


def _read_lines(file: BinaryIO, detector: Detector) -> None:
    while line := file.readline(LONGEST_LINE):
        detector.feed(line)


async def watch(url: str, seconds: float, detector: Detector, tell: Callable[[float], None]) -> str:
    """Feed what every master says for so long; why it ended early, or "". ``tell`` hears the seconds that are over.

    Raises:
        Failure: the server cannot be reached, or does not permit MONITOR.
    """
    shown = without_secrets(url)
    try:
        async with _opened(url) as (servers, client):
            nodes = await within(_nodes_of(client), ANSWERS_WITHIN)
            watchers = [_Watcher(number, connect, detector) for number, connect in enumerate(nodes)]
            servers.extend(watchers)
            for watcher in watchers:
                await watcher.begin()
            return await _until_over(watchers, seconds, tell)
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
            if await watcher.is_behind():
                return f"the server says more than can be read here: {MOST_BEHIND:g} s behind"
    for watcher in watchers:
        await watcher.is_behind()  # what was said until now is read
    return ""


class _Watcher:
    """One server: a connection that monitors it, and one that asks for its time."""

    def __init__(self, number: int, connect: Callable[[], Any], detector: Detector) -> None:
        self.ended = asyncio.Event()
        self._number = number
        self._connect = connect
        self._detector = detector
        self._wires: list[Wire] = []

    async def begin(self) -> None:
        """
        Raises:
            hiredis.ReplyError: MONITOR is not permitted there. Otherwise as :meth:`.Wire.open` does.
        """
        for hooks in ({"on_push": self._hear, "on_close": self.ended.set}, {}):
            self._wires.append(await Wire.open(self._connect, reply_within=ANSWERS_WITHIN, **hooks))
        reply = await self._wires[0].call(("MONITOR",))
        if isinstance(reply, hiredis.ReplyError):
            raise reply

    async def is_behind(self) -> bool:
        """Whether what was read last is old: the question is a command, and MONITOR shows it, too."""
        with suppress(RedisError, ValueError, TypeError):
            seconds, micros = await self._wires[1].call(("TIME",))
            return int(seconds) + int(micros) / 1e6 - self._detector.last > MOST_BEHIND
        return False

    def close(self) -> None:
        for wire in self._wires:
            wire.close()

    def _hear(self, message: list[Any]) -> None:
        # No call waits on this connection: whatever comes is a line.
        line = message[-1]
        if isinstance(line, (str, bytes)):
            self._detector.feed(line.encode() if isinstance(line, str) else line, self._number)
