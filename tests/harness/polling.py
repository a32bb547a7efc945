"""Waiting for something to become true: asked again and again, never slept for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import redis

__all__ = ["eventually", "until"]

PATIENCE = 15.0
EVERY = 0.01  # seconds between two looks


def until(holds: Callable[[], object], what: str, within: float = PATIENCE) -> None:
    """Return once ``holds()`` is true; it blocks. A server that does not answer yet counts as "not yet".

    Raises:
        AssertionError: not within that many seconds; names ``what`` was waited for.
    """
    deadline = time.monotonic() + within
    while not _true(holds):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        time.sleep(EVERY)


async def eventually(holds: Callable[[], object], what: str, within: float = PATIENCE) -> None:
    """As :func:`until`, and the event loop runs on between two looks."""
    deadline = time.monotonic() + within
    while not _true(holds):
        assert time.monotonic() < deadline, f"not within {within:g} s: {what}"
        await asyncio.sleep(EVERY)


def _true(holds: Callable[[], object]) -> bool:
    try:
        return bool(holds())
    except redis.RedisError:
        return False
