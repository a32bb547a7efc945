"""A block that was entered by a task which is over, and not used since: whose body it is tells who has it in hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest

from sessionlock import LeaseLost, LeasePolicy, ReentrantLock, Session, SessionGuard
from tests.harness.stored import Look

from .test_context import SHORT, at_peace

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def in_a_block(guard: SessionGuard) -> AsyncIterator[None]:
    async with guard.session_lock("s", lease=SHORT):
        yield


async def by_hand(guard: SessionGuard) -> None:
    context = guard.session_lock("s", lease=SHORT)
    await asyncio.ensure_future(context.__aenter__())
    try:
        await anyio.sleep_forever()
    except BaseException as error:
        await context.__aexit__(type(error), error, None)
        raise


async def by_a_stack(guard: SessionGuard) -> None:
    async with AsyncExitStack() as stack:
        await asyncio.ensure_future(stack.enter_async_context(guard.session_lock("s", lease=SHORT)))
        await anyio.sleep_forever()


async def by_a_fixture(guard: SessionGuard) -> None:
    context = in_a_block(guard)
    await asyncio.ensure_future(context.__aenter__())
    try:
        await anyio.sleep_forever()
    except BaseException as error:
        await context.__aexit__(type(error), error, None)
        raise


async def by_a_step_of_a_generator(guard: SessionGuard) -> None:
    async with aclosing(one_step(guard)) as steps:
        async for _ in steps:
            await anyio.sleep_forever()


async def one_step(guard: SessionGuard) -> AsyncGenerator[None, None]:
    async with AsyncExitStack() as stack:
        await asyncio.ensure_future(stack.enter_async_context(guard.session_lock("s", lease=SHORT)))
        await anyio.sleep_forever()
        yield


async def a_task_of_its_own_has_it_too(guard: SessionGuard) -> None:
    context = guard.session_lock("s", lease=SHORT)
    session = await asyncio.ensure_future(context.__aenter__())
    try:
        await asyncio.gather(looks_at(session), looks_at(session))
    except BaseException as error:
        await context.__aexit__(type(error), error, None)
        raise


async def looks_at(session: Session) -> None:
    await anyio.sleep_forever()
    del session["n"]


async def by_a_limit_of_time(guard: SessionGuard) -> None:
    async with AsyncExitStack() as stack:
        await asyncio.wait_for(stack.enter_async_context(guard.lock("x", lease=SHORT)), 5)
        await anyio.sleep_forever()


WAYS = [
    by_hand,
    by_a_stack,
    by_a_fixture,
    by_a_step_of_a_generator,
    a_task_of_its_own_has_it_too,
    by_a_limit_of_time,
]


@pytest.mark.parametrize("way", WAYS)
async def test_it_is_cancelled(guard: SessionGuard, way: Any) -> None:
    """And a task that has nothing of it goes on."""
    other = asyncio.create_task(anyio.sleep_forever())
    with anyio.fail_after(10), pytest.raises(LeaseLost):
        await way(guard)
    await at_peace()
    assert not other.done()
    other.cancel()


async def test_a_renewal_finds_out(guard: SessionGuard, stored: Look) -> None:
    """What renews has the lease in hand, too, but not for a body."""
    with anyio.fail_after(10), pytest.raises(LeaseLost):
        async with AsyncExitStack() as stack:
            entering = stack.enter_async_context(guard.session_lock("s", lease=LeasePolicy(ttl=0.3)))
            await asyncio.ensure_future(entering)
            stored("s").client.delete(stored("s").keys.lock)
            await anyio.sleep_forever()
    await at_peace()


async def test_in_two_hands(guard: SessionGuard) -> None:
    """Nobody is cancelled where that might be the wrong one; the block tells of the loss when it is left."""
    context = guard.session_lock("s", lease=SHORT)
    session = await asyncio.ensure_future(context.__aenter__())
    other = asyncio.create_task(looks_at(session))
    assert session.lease is not None
    await session.lease.lost.wait()
    await at_peace()
    assert not other.done()
    other.cancel()
    with pytest.raises(LeaseLost):
        await context.__aexit__(None, None, None)


async def test_it_asks_for_itself(guard: SessionGuard) -> None:
    """Which would never end."""
    async with AsyncExitStack() as stack:
        await asyncio.ensure_future(stack.enter_async_context(guard.session_lock("s")))
        with anyio.fail_after(10), pytest.raises(ReentrantLock):
            async with guard.session_lock("s", wait=60):
                pass
