"""A deadline for each test; and a lock object of either face."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from sessionlock import SessionGuard, blocking
from tests.harness.deadline import pytest_pyfunc_call as pytest_pyfunc_call
from tests.harness.two_faces import NAME, AnyLock, LockOfTasks, LockOfThreads, MakeLock, Threads


@pytest.fixture(params=["async", "blocking"])
def face(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
async def make(face: str, redis_url: str, scripts: None) -> AsyncIterator[MakeLock]:
    """``make(**options)``: an object of one guard for the lock ``NAME``; with ``node=2`` of another one's."""
    guards: dict[int, SessionGuard] = {}
    threaded: dict[int, blocking.SessionGuard] = {}
    with Threads.open() as threads:
        async with AsyncExitStack() as stack:

            def lock(node: int = 1, **options: Any) -> AnyLock:
                if node not in guards:
                    guards[node] = SessionGuard.from_url(redis_url)
                    stack.push_async_callback(guards[node].aclose)
                if face == "async":
                    return LockOfTasks(guards[node].lock(NAME, **options))
                if node not in threaded:
                    threaded[node] = blocking.SessionGuard(guards[node])
                    stack.push_async_callback(asyncio.to_thread, threaded[node].close)
                return LockOfThreads(threaded[node].lock(NAME, **options), threads)

            yield lock
