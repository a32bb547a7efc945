"""When a connection is given up: when it is silent, not when there is much to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import TimeoutError as RedisTimeoutError

from sessionlock.transport.wire import Wire
from tests.harness.resp import Frames

pytestmark = pytest.mark.anyio

WITHIN = 0.5  # seconds for a reply
PACE = WITHIN / 3


class BusyServer:
    """Answers PING after a while, one after the other; a real one does so where others keep it busy."""

    def __init__(self) -> None:
        self.silent_after = 1000
        self.answered = 0
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = Frames()
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                for frame in frames.feed(data):
                    if b"PING" in frame:
                        await asyncio.sleep(PACE)
                        self.answered += 1
                    if self.answered <= self.silent_after:
                        writer.write(b"+OK\r\n")
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        self.ended.set()


@pytest.fixture
async def server() -> BusyServer:
    return BusyServer()


@pytest.fixture
async def wire(server: BusyServer) -> AsyncIterator[Wire]:
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    client: Any = redis.asyncio.Redis(port=listening.sockets[0].getsockname()[1], protocol=2)
    wire = await Wire.open(client.connection_pool.make_connection, reply_within=WITHIN)
    yield wire
    wire.close()
    await client.aclose()
    listening.close()
    await server.ended.wait()


async def test_many_calls_that_are_answered_one_by_one(wire: Wire) -> None:
    began = time.monotonic()
    assert await asyncio.gather(*(wire.call(("PING",)) for _ in range(9))) == [b"OK"] * 9
    assert time.monotonic() - began > 2 * WITHIN


async def test_silence_amid_many_calls(server: BusyServer, wire: Wire) -> None:
    server.silent_after = 5
    calls = [wire.call(("PING",)) for _ in range(9)]
    assert await calls[4] == b"OK"
    silent = time.monotonic()
    with pytest.raises(RedisTimeoutError):
        await calls[8]
    assert time.monotonic() - silent < 4 * WITHIN
