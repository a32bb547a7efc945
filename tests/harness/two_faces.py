"""A lock object of either face behind one: the blocking one with the methods of the async one, for one contract."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from sessionlock import Lease, Lock, blocking

__all__ = ["NAME", "AnyLock", "LockOfTasks", "LockOfThreads", "MakeLock", "Threads"]

NAME = "report"

T = TypeVar("T")


class Threads:
    """A thread for each task of a test: who asks again is the same one, as with the async face."""

    def __init__(self) -> None:
        self._of: dict[asyncio.Task[Any] | None, ThreadPoolExecutor] = {}

    async def run(self, work: Callable[..., T], *args: Any) -> T:
        task = asyncio.current_task()
        if task not in self._of:
            self._of[task] = ThreadPoolExecutor(1)
        return await asyncio.get_running_loop().run_in_executor(self._of[task], work, *args)

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Threads]:
        threads = cls()
        try:
            yield threads
        finally:
            for pool in threads._of.values():
                pool.shutdown()


class LockOfThreads:
    def __init__(self, lock: blocking.Lock, threads: Threads) -> None:
        self.lock = lock
        self._threads = threads

    async def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        return await self._threads.run(self.lock.acquire, blocking, timeout)

    async def release(self) -> None:
        await self._threads.run(self.lock.release)

    async def extend(self, seconds: float | None = None) -> None:
        await self._threads.run(self.lock.extend, seconds)

    async def locked(self) -> bool:
        return await self._threads.run(self.lock.locked)

    async def owned(self) -> bool:
        return await self._threads.run(self.lock.owned)

    async def lease_of_caller(self) -> Lease | None:
        return await self._threads.run(lambda: self.lock.lease)

    async def __aenter__(self) -> Lease:
        return await self._threads.run(self.lock.__enter__)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._threads.run(self.lock.__exit__, kind, error, tb)


class LockOfTasks:
    """The async one, with what :class:`LockOfThreads` has beside."""

    def __init__(self, lock: Lock) -> None:
        self.lock = lock
        self.acquire = lock.acquire
        self.release = lock.release
        self.extend = lock.extend
        self.locked = lock.locked
        self.owned = lock.owned

    async def lease_of_caller(self) -> Lease | None:
        return self.lock.lease

    async def __aenter__(self) -> Lease:
        return await self.lock.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.lock.__aexit__(kind, error, tb)


AnyLock = LockOfThreads | LockOfTasks
MakeLock = Callable[..., AnyLock]
"""The fixture ``make`` of tests/lock."""
