"""``within``: a limit of time that loses neither a cancellation nor an error, on every Python."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import pytest

from sessionlock.transport.tasks import within
from tests.structure.package import MODULES, source

pytestmark = pytest.mark.anyio
FOR_EVER = 60.0


@pytest.fixture
async def unretrieved() -> Any:
    """What the loop was told of that nobody asked for."""
    told: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context))
    yield told
    loop.set_exception_handler(None)


async def fails_when_stopped(began: asyncio.Event) -> None:
    """As a connection that is lost while it is given up."""
    began.set()
    try:
        await asyncio.sleep(FOR_EVER)
    finally:
        raise ConnectionResetError("gone")


async def test_what_comes_in_time_is_the_answer() -> None:
    assert await within(asyncio.sleep(0, "answer"), FOR_EVER) == "answer"
    with pytest.raises(ConnectionRefusedError):
        await within(_raises(ConnectionRefusedError()), FOR_EVER)


async def test_what_comes_late_is_stopped_and_over() -> None:
    ended = asyncio.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(FOR_EVER)
        finally:
            await asyncio.sleep(0)
            ended.set()

    with pytest.raises(asyncio.TimeoutError):
        await within(slow(), 0.01)
    assert ended.is_set()


async def test_a_failure_while_it_is_cancelled_is_nobodys_surprise(unretrieved: list[dict[str, Any]]) -> None:
    began = asyncio.Event()
    waiting = asyncio.ensure_future(within(fails_when_stopped(began), FOR_EVER))
    await began.wait()
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()
    del waiting
    gc.collect()
    assert unretrieved == []


async def test_a_cancellation_in_the_moment_of_the_end_counts() -> None:
    """Else whoever repeats what failed would go on after it was cancelled."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(within(answer, FOR_EVER))
    await asyncio.sleep(0)
    answer.set_result("answer")
    await asyncio.sleep(0)  # its waiter is told, and has not run yet
    waiting.cancel()
    await asyncio.wait([waiting])
    assert waiting.cancelled()


async def test_a_failure_in_time_and_late_is_raised() -> None:
    with pytest.raises(ConnectionResetError):
        await within(fails_when_stopped(asyncio.Event()), 0.01)


def elsewhere() -> Iterator[str]:
    for module in MODULES:
        if "asyncio.wait_for(" in source(module):
            yield module


def test_nobody_bounds_time_in_a_way_of_his_own() -> None:
    assert list(elsewhere()) == []


async def _raises(error: Exception) -> None:
    raise error
