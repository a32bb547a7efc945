"""What a guard keeps for one event loop of one process: connection, subscription, renewals, background work."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Coroutine
from functools import lru_cache
from typing import Any, TypeVar

import anyio

from .errors import RedisUnavailable, ReentrantLock
from .executor import Executor
from .keys import SessionKeys
from .protocol import Call
from .wakeup import Wakeup
from .watchdog import Watchdog

__all__ = ["Runtime", "node_name"]

T = TypeVar("T")
CLEAN_UP_WITHIN = 2.0  # seconds for which a cancelled caller waits until its lock is given back


def node_name() -> str:
    """Who holds, as shown to others: host and process."""
    return _node_name(os.getpid())


@lru_cache(maxsize=1)
def _node_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"


class Runtime:
    def __init__(self, client: Any, *, prefix: str, reply_within: float, retry_for: float) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self.executor = Executor(client, reply_within=reply_within, retry_for=retry_for)
        self.watchdog = Watchdog(self.executor, self.background)
        self.wakeup = Wakeup(client, prefix=prefix, reply_within=reply_within, on_taken=self.watchdog.taken)
        self.engine: object = None  # chosen by the guard when it first commits without a lock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._held_by: dict[str, asyncio.Task[Any] | None] = {}

    def background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` to its end whatever happens to the caller."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def see_through(self, call: Call, *, wait: bool = True) -> Any:
        """Run a clean-up call although the caller is being cancelled; wait for it, within reason.

        A second cancellation, or a Redis that does not answer, ends the waiting but not the work. None when the
        answer is not known; then Redis' TTL finishes what the call could not.
        """
        task = self.background(self.executor.run(call))
        task.add_done_callback(_fetch_error)
        if wait:
            with anyio.move_on_after(CLEAN_UP_WITHIN, shield=True):
                try:
                    return await asyncio.shield(task)
                except RedisUnavailable:
                    return None
        return None

    # --- who holds what in this process, to tell a self-deadlock at once

    def enter(self, keys: SessionKeys, name: str) -> None:
        task = asyncio.current_task()
        if task is not None and self._held_by.get(keys.digest) is task:
            raise ReentrantLock(
                f"this task already holds the lock of {name}; waiting for it would never end."
                " Pass the session on instead of locking it again"
            )

    def entered(self, keys: SessionKeys) -> None:
        self._held_by[keys.digest] = asyncio.current_task()

    def left(self, keys: SessionKeys) -> None:
        self._held_by.pop(keys.digest, None)

    async def aclose(self) -> None:
        """End everything that this loop runs for the guard. Leases still held run out in Redis by themselves."""
        self.watchdog.close()
        self.wakeup.close()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CLEAN_UP_WITHIN)
        for task in list(self._tasks):
            task.cancel()
        self.executor.close()


def _fetch_error(task: asyncio.Task[Any]) -> None:
    """A failed clean-up is Redis' TTL's to finish; the failure must not be reported as never retrieved."""
    if not task.cancelled():
        task.exception()
