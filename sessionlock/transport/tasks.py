"""Tasks that outlive whoever began them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import Context
from typing import Any, TypeVar

__all__ = ["detached", "fetch_error"]

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
