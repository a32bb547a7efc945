"""The one connection to a master of a quorum."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from sessionlock.quorum.connection import Connection
from sessionlock.transport.wire import pack

pytestmark = pytest.mark.anyio


async def test_closing_lets_what_is_under_way_end(redis_url: str) -> None:
    """A vote that was asked for would count as the master's failure, and what gives it up would not be sent."""
    answers: list[Any] = []
    async with Redis.from_url(redis_url) as client:
        connection = Connection(client, prefix="sl", reply_within=5.0, rejoin_after=0.0, on_open=lambda wire: None)
        sent = asyncio.Event()

        def ask(wire: Any) -> None:
            wire.send(pack("BLPOP", "nothing-comes", "0.2"), answers.append)
            sent.set()

        connection.use(ask, answers.append)
        await sent.wait()
        await connection.aclose()
    assert answers == [None]
