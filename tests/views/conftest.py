"""The guard that decorated views find by themselves: the default one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anyio.to_thread
import pytest

import sessionlock
from sessionlock import SessionGuard
from sessionlock.blocking import guard as blocking


@pytest.fixture
async def default_guard(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SessionGuard]:
    monkeypatch.setattr("sessionlock.default._default", None)
    async with SessionGuard.from_url(redis_url) as guard:
        sessionlock.configure(guard)
        yield guard
        await anyio.to_thread.run_sync(blocking.default_guard().close)


@pytest.fixture
def threads(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[blocking.SessionGuard]:
    """The default guard of threads, where no loop runs."""
    monkeypatch.setattr("sessionlock.default._default", None)
    with blocking.configure(redis_url) as guard:
        yield guard
