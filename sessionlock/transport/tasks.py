"""Tasks that outlive whoever began them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

__all__ = ["detached", "fetch_error", "within"]

T = TypeVar("T")


def fetch_error(task: asyncio.Future[Any]) -> None:
    """Done-callback: whoever waits for it gets the error; with nobody left it must not be reported as never
    retrieved."""
    if not task.cancelled():
        task.exception()


def detached(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task for what outlives its caller: in the caller's context it would keep what is in there alive, a request and
    its application, say.
    """
    return Context().run(asyncio.ensure_future, work)


async def within(work: Awaitable[T], seconds: float) -> T:
    """What ``work`` comes to within so many seconds; else it is cancelled, and over before this ends.

    Unlike :func:`asyncio.wait_for` before Python 3.12: who is cancelled in the moment in which ``work`` ends is
    cancelled all the same, and what ``work`` fails with as it is stopped is not reported as never retrieved.

    Raises:
        asyncio.TimeoutError: it took longer. Otherwise what ``work`` raises.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(fetch_error)
    try:
        await asyncio.wait([task], timeout=seconds)
    finally:
        late = not task.done()
        if late:
            task.cancel()
            await asyncio.wait([task])
    if late and task.cancelled():
        raise asyncio.TimeoutError(f"no answer within {seconds:g} s")
    return task.result()
