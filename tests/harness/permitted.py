"""Uses of a guard that need what a rule permits: where a command is taken out of it, something is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from tenacity import stop_after_delay, wait_fixed

from sessionlock import LeasePolicy, QueueFull, SessionGuard, SessionPolicy, WaitPolicy

__all__ = ["by_quorum", "by_scripts", "by_watch"]

NEVER = 30.0
MANY = {f"key {number}": number for number in range(5)}
COUNTING = SessionPolicy(merge={"n": "counter"})
Open = Callable[..., SessionGuard]


async def by_scripts(open_guard: Open, within: float = 10.0) -> None:
    """Under the lock, and without it. ``within``: seconds for a waiter to be told of its turn."""
    lease = LeasePolicy(ttl=NEVER, claim=NEVER)
    wait = WaitPolicy(stop=stop_after_delay(within), wait=wait_fixed(NEVER))
    async with (
        open_guard(lease=lease, wait=wait, session=COUNTING) as one,
        open_guard(lease=lease, wait=wait, session=COUNTING) as other,
    ):
        await one.create(MANY, sid="s")
        async with one.session_lock("s") as session:
            counting = [asyncio.create_task(_count(guard, "s")) for guard in (other, one)]
            await _until_wait(one, "s", 2, counting)
            session["n"] = 1
            del session["key 1"]
            await session.save()
            assert await session.incr("m") == 1
        await asyncio.gather(*counting)
        async with one.session_lock("s", mode="optimistic") as session:
            session["key 2"] = 2.5
        assert (await one.read("s"))["n"] == 3
        await one.bind("s", "anna")
        assert len(await one.sessions_of("anna")) == 1
        async with one.session_lock("s"):
            for _ in range(2):
                gone = asyncio.create_task(_count(other, "s"))
                await _until_wait(one, "s", 1, [gone])
                with pytest.raises(QueueFull):
                    await _count(other, "s", wait=WaitPolicy(max_waiters=1))
                gone.cancel()
                await asyncio.wait([gone])
        fresh = await one.regenerate("s")
        assert await one.destroy(fresh)
        async with one.lock("l"):
            pass
        await one.ready()


async def by_watch(open_guard: Open, within: float = 10.0) -> None:
    async with (
        open_guard(commit_by="watch", session=COUNTING) as one,
        open_guard(commit_by="watch", session=COUNTING) as other,
    ):
        for guard in (one, other):
            async with guard.session_lock("s", mode="optimistic") as session:
                await _count(other, "s", mode="optimistic")
                session["n"] = session.get("n", 0) + 1
                session["gone"] = 1
            async with guard.session_lock("s", mode="optimistic") as session:
                del session["gone"]
        assert (await one.read("s"))["n"] == 4
        async with one.session_lock("s", mode="optimistic") as session:
            session.ends_when_empty()
            session.clear()
        await one.ready()


async def by_quorum(open_guard: Open, within: float = 10.0) -> None:
    """The lock at masters, the session at a store; and who comes while a master is down."""
    lease = LeasePolicy(ttl=NEVER, claim=NEVER)
    wait = WaitPolicy(stop=stop_after_delay(within), wait=wait_fixed(NEVER))
    async with open_guard(lease=lease, wait=wait) as one, open_guard(lease=lease, wait=wait) as other:
        async with one.session_lock("s") as session:
            counting = [asyncio.create_task(_count(guard, "s")) for guard in (other, one)]
            await _until_wait(one, "s", 2, counting)
            session["n"] = 1
        await asyncio.gather(*counting)
        assert (await one.read("s"))["n"] == 3
        async with one.lock("l"):
            waiting = asyncio.create_task(_hold(other, "l"))
            gone = asyncio.create_task(_hold(one, "l"))
            await _until_wait(one, "l", 2, [waiting, gone])
            gone.cancel()
            await asyncio.wait([gone])
        await waiting
        await one.ready()


async def _hold(guard: SessionGuard, name: str) -> None:
    async with guard.lock(name):
        pass


async def _count(guard: SessionGuard, sid: str, **how: Any) -> None:
    async with guard.session_lock(sid, **how) as session:
        session["n"] = session.get("n", 0) + 1


async def _until_wait(guard: SessionGuard, sid: str, count: int, tasks: list[asyncio.Task[None]]) -> None:
    with anyio.fail_after(10.0):
        while len((await guard.inspect(sid)).waiters) < count:
            for task in tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)
