"""What is told to Redis of a lease comes there in order."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from sessionlock.lease import Lease
from sessionlock.lock.request import LockRequest
from sessionlock.lock.watchdog import Watchdog
from sessionlock.policies import LeasePolicy, WaitPolicy
from sessionlock.protocol.keys import keys_for

pytestmark = pytest.mark.anyio


class Slow:
    """A Redis that answers each renewal when it is told to."""

    deaf = False

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: asyncio.Queue[int] = asyncio.Queue()

    def group(self, keys: object, token: str) -> object:
        return "the one"

    async def run(self, call: Any) -> Any:
        await self.asked.put(call)
        return [await self.answers.get()]


async def test_more_time_waits_for_a_renewal_under_way() -> None:
    """For if that came to Redis after it, it would cut short what was gained."""
    redis = Slow()
    watchdog = Watchdog(redis, lambda work: asyncio.get_running_loop().create_task(work))  # type: ignore[arg-type]
    policy = LeasePolicy(ttl=3)
    request = LockRequest(keys_for("sl", "s"), "", policy, WaitPolicy(), None, "create", 0)
    lease = Lease("s", "token", 1, granted_at=time.monotonic(), granted_for=3, ttl=3, safety_margin=0.1, max_hold=60)
    watchdog.watch(lease, request)
    await redis.asked.get()  # the renewal
    extending = asyncio.create_task(watchdog.extend(lease, 600))
    for _ in range(10):
        await asyncio.sleep(0)
    assert redis.asked.empty()
    redis.answers.put_nowait(1)
    await redis.asked.get()  # the extension
    redis.answers.put_nowait(1)
    assert await extending is True
    assert lease.hold_until > time.monotonic() + 590
    watchdog.forget(lease)
    watchdog.close()
