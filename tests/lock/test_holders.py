"""Who asks for a lock that he holds himself is told so. What counts is the work, not the thread or the task."""

from __future__ import annotations

import asyncio
import contextvars
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient

from sessionlock import LeaseLost, LeasePolicy, ReentrantLock, Session, SessionGuard, WaitTimedOut
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.blocking import blocking_guard
from sessionlock.lock.holders import bodies_here
from tests.harness.deployments import MakeGuard
from tests.harness.polling import eventually
from tests.harness.stored import Look

pytestmark = pytest.mark.anyio

LONG = 60  # seconds of waiting: who waited so long would not come in time
LOST = LeasePolicy(ttl=0.1, renew=False, on_lost="flag")


async def asks(guard: SessionGuard, wait: float = LONG) -> None:
    async with guard.session_lock("s", wait=wait) as session:
        session["again"] = session.get("again", 0) + 1


def asks_in_thread(guard: BlockingGuard) -> None:
    with guard.session_lock("s", wait=10):
        pass


async def in_group(guard: SessionGuard) -> None:
    async with anyio.create_task_group() as tasks:
        await anyio.lowlevel.checkpoint()
        tasks.start_soon(asks, guard)


async def in_group_of_asyncio(guard: SessionGuard) -> None:
    async with asyncio.TaskGroup() as tasks:  # type: ignore[attr-defined]
        tasks.create_task(asks(guard))


async def later(guard: SessionGuard) -> None:
    """It is begun, and waited for only afterwards."""
    task = asyncio.create_task(asks(guard))
    await asyncio.sleep(0.2)
    await task


async def in_a_task_of_a_task(guard: SessionGuard) -> None:
    await asyncio.gather(asyncio.create_task(in_task(guard)), asyncio.sleep(0))


async def in_task(guard: SessionGuard) -> None:
    await asyncio.create_task(asks(guard))


async def with_a_limit(guard: SessionGuard) -> None:
    await asyncio.wait_for(asks(guard), LONG)


async def shielded(guard: SessionGuard) -> None:
    await asyncio.shield(asks(guard))


async def one_of_several(guard: SessionGuard) -> None:
    done, _ = await asyncio.wait([asyncio.create_task(asks(guard))])
    for task in done:
        task.result()


async def in_asyncios_thread(guard: SessionGuard) -> None:
    await asyncio.to_thread(asks_in_thread, blocking_guard(guard))


async def in_anyios_thread(guard: SessionGuard) -> None:
    await anyio.to_thread.run_sync(asks_in_thread, blocking_guard(guard))


WAYS: list[Any] = [
    asks,
    in_task,
    in_a_task_of_a_task,
    in_group,
    later,
    with_a_limit,
    shielded,
    one_of_several,
    in_asyncios_thread,
    in_anyios_thread,
]
if sys.version_info >= (3, 11):
    WAYS.append(in_group_of_asyncio)


def flat(error: BaseException) -> list[BaseException]:
    return [part for one in getattr(error, "exceptions", [error]) for part in ([one] if one is error else flat(one))]


@pytest.mark.parametrize("way", WAYS)
async def test_a_body_that_waits_for_itself(guard: SessionGuard, stored: Look, way: Any) -> None:
    async with guard.session_lock("s") as session:
        session["n"] = 1
        with anyio.fail_after(10):
            with pytest.raises(BaseException) as caught:  # noqa: PT011
                await way(guard)
            assert [type(error) for error in flat(caught.value)] == [ReentrantLock]
        assert stored("s").waiting == []
    assert stored("s").data == {"n": 1}
    await way(guard)


async def test_another_guard_of_the_same_redis(redis_url: str, stored: Look) -> None:
    async with SessionGuard.from_url(redis_url) as one, SessionGuard.from_url(redis_url) as other:
        async with one.session_lock("s"):
            with anyio.fail_after(10), pytest.raises(ReentrantLock):
                await asks(other)
        await asks(other)


def test_another_guard_of_the_same_redis_in_a_thread(redis_url: str) -> None:
    with BlockingGuard.from_url(redis_url) as one, BlockingGuard.from_url(redis_url) as other:
        with one.session_lock("s"), pytest.raises(ReentrantLock):
            asks_in_thread(other)
        asks_in_thread(other)


async def test_a_guard_of_another_redis(redis_url: str, own_server: Any) -> None:
    """The same name is another lock there."""
    async with SessionGuard.from_url(redis_url) as one, SessionGuard.from_url(own_server().url) as other:
        held = asyncio.Event()
        go = asyncio.Event()

        async def holds() -> None:
            async with other.session_lock("s"):
                held.set()
                await go.wait()

        holder = asyncio.create_task(holds())
        await held.wait()
        async with one.session_lock("s"):
            asyncio.get_running_loop().call_later(0.9, go.set)
            await asks(other)
        await holder


# --- who may wait


async def test_a_task_that_is_left_to_itself_has_the_lock_afterwards(guard: SessionGuard, stored: Look) -> None:
    async with guard.session_lock("s"):
        left = asyncio.create_task(asks(guard))
        await stored("s").until(lambda seen: len(seen.waiting) == 1)
        await asyncio.sleep(0.3)
    await left
    assert stored("s").data == {"again": 1}


async def test_a_task_that_outlives_the_body_is_free(guard: SessionGuard, stored: Look) -> None:
    go = asyncio.Event()

    async def background() -> None:
        await go.wait()
        await asks(guard)
        async with guard.session_lock("s"):
            with pytest.raises(ReentrantLock):
                await asks(guard)

    async with guard.session_lock("s"):
        task = asyncio.create_task(background())
    async with guard.session_lock("s", wait=0):
        go.set()
        await stored("s").until(lambda seen: len(seen.waiting) == 1)
    await task


async def test_a_lock_that_another_task_will_release(guard: SessionGuard) -> None:
    """The one who asks entered the block; but another has the session in hand, and gives the lock back."""
    context = guard.session_lock("s")
    session = await context.__aenter__()

    async def other() -> None:
        await asyncio.sleep(0.3)
        await session.release()

    task = asyncio.create_task(other())
    await asks(guard, wait=10)
    await task
    await context.__aexit__(None, None, None)


async def test_a_lock_object_that_another_task_will_release(guard: SessionGuard) -> None:
    lock = guard.lock("x")
    await lock.acquire()

    async def other(held: Any) -> None:
        await asyncio.sleep(0.3)
        await held.release()

    task = asyncio.create_task(other(lock))
    async with guard.lock("x", wait=10):
        pass
    await task


async def test_after_a_loss_the_session_can_be_loaded_again(guard: SessionGuard, stored: Look) -> None:
    with pytest.raises(LeaseLost):
        async with guard.session_lock("s", lease=LOST) as session:
            assert session.lease is not None
            await session.lease.lost.wait()
            await asks(guard, wait=5)
    assert stored("s").data == {"again": 1}


def test_after_a_loss_a_thread_can_load_the_session_again(redis_url: str, stored: Look) -> None:
    with BlockingGuard.from_url(redis_url) as guard:
        session = (context := guard.session_lock("s", lease=LOST)).__enter__()
        with pytest.raises(LeaseLost):
            while True:
                session.lease.check()  # type: ignore[union-attr]
        asks_in_thread(guard)
        with pytest.raises(LeaseLost):
            context.__exit__(None, None, None)


async def test_after_a_loss_another_holder_is_waited_for(node: MakeGuard, stored: Look) -> None:
    """It is nobody's own lock any more."""
    guard, other = node(), node()
    held, go = asyncio.Event(), asyncio.Event()

    async def next_one() -> None:
        async with other.session_lock("s", wait=10):
            held.set()
            await go.wait()

    task = asyncio.create_task(next_one())
    await held.wait()
    go.set()
    await task
    with pytest.raises(LeaseLost):
        async with guard.session_lock("s", lease=LOST) as session:
            held.clear()
            go.clear()
            task = asyncio.create_task(next_one())
            await held.wait()
            assert session.lease is not None
            with pytest.raises(WaitTimedOut):
                await asks(guard, wait=0.3)
            go.set()
            await asks(guard, wait=5)
            await task


async def test_entered_by_a_task_that_is_over(guard: SessionGuard) -> None:
    """By a limit of time before Python 3.12: the body that goes on is known by what it uses."""
    async with AsyncExitStack() as stack:
        session = await asyncio.ensure_future(stack.enter_async_context(guard.session_lock("s")))
        session["n"] = 1
        with pytest.raises(ReentrantLock):
            await asks(guard)


# --- threads


def test_a_thread_asks_again(redis_url: str) -> None:
    with BlockingGuard.from_url(redis_url) as guard:
        with guard.session_lock("s"):
            with pytest.raises(ReentrantLock, match="this thread"):
                asks_in_thread(guard)
            context = contextvars.copy_context()
            with ThreadPoolExecutor() as pool, pytest.raises(ReentrantLock):
                pool.submit(context.run, asks_in_thread, guard).result(10)
        asks_in_thread(guard)
        assert bodies_here() == ()


async def test_requests_that_take_turns_in_a_pool_of_threads(redis_url: str, stored: Look) -> None:
    """FastAPI's: each step of a dependency runs in whichever thread is free, and the next request in the same."""
    guard = BlockingGuard.from_url(redis_url)
    app = FastAPI()

    def session() -> Iterator[Any]:
        with guard.session_lock("s", wait=20) as held:
            yield held

    @app.post("/")
    def count(held: Any = Depends(session)) -> int:  # noqa: B008
        held["n"] = held.get("n", 0) + 1
        return int(held["n"])

    async with AsyncClient(transport=ASGITransport(app=app), base_url="http://shop.test") as client:
        answers = await asyncio.gather(*(client.post("/") for _ in range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    assert stored("s").data == {"n": 10}
    await asyncio.to_thread(guard.close)


def test_threads_of_one_pool_know_nothing_of_each_other(redis_url: str, stored: Look) -> None:
    with BlockingGuard.from_url(redis_url) as guard, ThreadPoolExecutor(4) as pool:

        @contextmanager
        def held() -> Iterator[Any]:
            with guard.session_lock("s", wait=20) as session:
                yield session

        def request() -> None:
            context = contextvars.copy_context()
            block = held()
            session = pool.submit(context.copy().run, block.__enter__).result(20)
            session["n"] = session.get("n", 0) + 1
            pool.submit(context.copy().run, block.__exit__, None, None, None).result(20)

        threads = [threading.Thread(target=request) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert stored("s").data == {"n": 3}


async def test_what_is_over_is_forgotten(guard: SessionGuard) -> None:
    """Also where a block was left in another task than it was entered in."""
    for _ in range(3):
        context = guard.session_lock("s")
        session: Session = await context.__aenter__()
        session["n"] = 1
        await asyncio.create_task(context.__aexit__(None, None, None))
        assert len(bodies_here()) == 1
    async with guard.session_lock("s"):
        pass
    await eventually(lambda: bodies_here() == (), "the context holds nothing")
