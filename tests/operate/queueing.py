"""Somebody who waits for a lock, for as long as a test looks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from sessionlock.observe import Event, LockQueued
from tests.harness.deployments import MakeGuard

__all__ = ["waiting"]


@asynccontextmanager
async def waiting(node: MakeGuard, sid: str, url: str | None = None, *, label: str) -> AsyncIterator[None]:
    """In the body one waits in the queue, at node ``n2``; then it does no more, whether it had its turn or not."""
    queued = anyio.Event()

    def hear(event: Event) -> None:
        if isinstance(event, LockQueued):
            queued.set()

    guard = node(url, label="n2", observer=hear)

    async def wait() -> None:
        async with guard.session_lock(sid, label=label, wait=30):
            pass

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait)
        with anyio.fail_after(20):
            await queued.wait()
        yield
        tasks.cancel_scope.cancel()
