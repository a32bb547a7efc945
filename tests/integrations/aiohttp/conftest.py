"""The shop that the tests of aiohttp visit."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sessionlock import SessionGuard
from tests.harness.aiohttp_calls import WAIT, Shop, shop_on


@pytest.fixture(autouse=True)
def browser_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The browser of these tests is in the server's process, but it stands for one that is not."""
    monkeypatch.setenv("SESSIONLOCK_SELF_CALLS", "wait")


@pytest.fixture
async def shop(guard: SessionGuard) -> AsyncIterator[Shop]:
    async with shop_on(guard, wait=WAIT) as shop:
        yield shop
