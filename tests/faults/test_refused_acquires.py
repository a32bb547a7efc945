"""An acquire that was refused, of which an earlier try is still under way: when that comes, it takes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from sessionlock import LockNotAcquired, SessionGuard, SessionNotFound, WaitPolicy
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look

pytestmark = [pytest.mark.anyio, pytest.mark.server]


async def at_once(guard: SessionGuard) -> None:
    with pytest.raises(LockNotAcquired):
        async with guard.session_lock("s", wait=0):
            raise AssertionError("entered")


async def full(guard: SessionGuard) -> None:
    with pytest.raises(LockNotAcquired):
        async with guard.session_lock("s", wait=WaitPolicy.seconds(5, max_waiters=0)):
            raise AssertionError("entered")


async def missing(guard: SessionGuard) -> None:
    with pytest.raises(SessionNotFound):
        async with guard.session_lock("s", missing="reject"):
            raise AssertionError("entered")


@pytest.mark.parametrize("ask", [at_once, full, missing])
async def test_its_first_try_comes_late(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, ask: Callable[[SessionGuard], Awaitable[None]]
) -> None:
    """It hung on a connection that is gone; the repetition was refused. Then the lock is free, and it arrives."""
    holder, guard = node(), node(proxy.url, reply_within=0.2)
    await guard.inspect("s")
    if ask is missing:
        parked = proxy.hold_requests(calls_of("acquire"))
        await ask(guard)
    else:
        async with holder.session_lock("s"):
            parked = proxy.hold_requests(calls_of("acquire"))
            await ask(guard)
    await parked.wait()
    await holder.create({"n": 1}, sid="s" if ask is missing else "other")
    assert await proxy.let_go() >= 1
    with anyio.fail_after(3):  # less than a lease
        async with holder.session_lock("s"):
            pass
    await stored("s").until(lambda s: s.free and not s.waiting)
