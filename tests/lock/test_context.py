"""A lost lease ends the body, whichever task runs it, and nothing but the body; nothing of ours is open over it."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from contextlib import AsyncExitStack, suppress
from types import coroutine
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sessionlock import LeaseLost, LeasePolicy, Session, SessionGuard
from sessionlock.lease import Lease
from tests.harness.commands import CommandCounter
from tests.harness.deployments import MakeGuard
from tests.harness.polling import eventually
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look

pytestmark = pytest.mark.anyio

GROUPS = ["anyio"] if sys.version_info < (3, 11) else ["anyio", "asyncio"]
SHORT = LeasePolicy(ttl=0.15, renew=False)


def lose_soon(lease: Lease) -> None:
    """As the watchdog does it when it finds out."""
    asyncio.get_running_loop().call_later(0.02, lease.mark_lost, "a test took it")


def lease_of(session: Session) -> Lease:
    assert session.lease is not None
    return session.lease


def group(kind: str) -> Any:
    return anyio.create_task_group() if kind == "anyio" else asyncio.TaskGroup()  # type: ignore[attr-defined]


def start(tasks: Any, work: Any, *args: Any) -> None:
    if hasattr(tasks, "start_soon"):
        tasks.start_soon(work, *args)
    else:
        tasks.create_task(work(*args))


async def at_peace() -> None:
    """The running task is not cancelled, nor marked for it, and the loop has nothing to do for it."""
    task: Any = asyncio.current_task()
    assert not hasattr(task, "cancelling") or task.cancelling() == 0
    loop: Any = asyncio.get_running_loop()
    ready = []
    for _ in range(20):
        await asyncio.sleep(0)
        ready.append(len(loop._ready))
    assert min(ready) == 0


# --- where blocks are entered and left


@pytest.mark.parametrize("lost", [False, True])
async def test_a_limit_of_time_around_the_entering(guard: SessionGuard, stored: Look, lost: bool) -> None:
    """The scope is left while the block goes on."""

    async def entered() -> None:
        async with AsyncExitStack() as stack:
            with anyio.fail_after(5):
                session = await stack.enter_async_context(guard.session_lock("s"))
            session["n"] = 1
            if lost:
                lose_soon(lease_of(session))
                await anyio.sleep_forever()

    if lost:
        with pytest.raises(LeaseLost, match="a test took it"):
            await entered()
    else:
        await entered()
    await at_peace()
    assert stored("s").free
    assert stored("s").data == ({} if lost else {"n": 1})


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("lost", [False, True])
async def test_hand_over_hand_in_a_group(guard: SessionGuard, stored: Look, kind: str, lost: bool) -> None:
    """Each lock is left after the next one was entered, and the group goes on all the while."""
    seen: list[str] = []

    async def along() -> None:
        held = guard.lock("l0")
        await held.__aenter__()
        for step in range(1, 4):
            following = guard.lock(f"l{step}")
            lease = await following.__aenter__()
            await held.__aexit__(None, None, None)
            held = following
            seen.append(f"l{step}")
            if lost and step == 2:
                lose_soon(lease)
                try:
                    await anyio.sleep_forever()
                except BaseException:
                    with pytest.raises(LeaseLost):
                        await held.__aexit__(*sys.exc_info())
                    break
        else:
            await held.__aexit__(None, None, None)

    async with group(kind) as tasks:
        start(tasks, along)
        if not lost:
            await along()
    await at_peace()
    assert seen[-1] == ("l2" if lost else "l3")
    assert all(stored(f"l{step}").free for step in range(4))


@pytest.mark.parametrize("kind", GROUPS)
async def test_a_block_that_is_left_before_a_group_that_was_begun_in_it(guard: SessionGuard, kind: str) -> None:
    context = guard.session_lock("s")
    session = await context.__aenter__()
    async with group(kind) as tasks:
        start(tasks, anyio.sleep, 0)
        session["n"] = 1
        await context.__aexit__(None, None, None)
        await anyio.lowlevel.checkpoint()
    await at_peace()


# --- whom a loss ends


async def test_the_loss_of_a_lease_leaves_the_task_as_it_was(guard: SessionGuard) -> None:
    with anyio.CancelScope() as around:
        with pytest.raises(LeaseLost):
            async with guard.session_lock("s") as session:
                lose_soon(lease_of(session))
                await anyio.sleep_forever()
        await anyio.lowlevel.checkpoint()
    assert not around.cancelled_caught
    await at_peace()


async def test_entered_by_a_task_that_is_over(guard: SessionGuard) -> None:
    """As a fixture does it, and before Python 3.12 a limit of time."""
    context = guard.session_lock("s")
    session = await asyncio.ensure_future(context.__aenter__())
    session["n"] = 1
    lose_soon(lease_of(session))
    with pytest.raises(asyncio.CancelledError) as caught:
        await anyio.sleep_forever()
    with pytest.raises(LeaseLost):
        await context.__aexit__(asyncio.CancelledError, caught.value, None)
    await at_peace()


async def test_entered_by_wait_for(guard: SessionGuard) -> None:
    with pytest.raises(LeaseLost):
        async with AsyncExitStack() as stack:
            lease = await asyncio.wait_for(stack.enter_async_context(guard.lock("x")), 5)
            lease.check()
            lose_soon(lease)
            await anyio.sleep_forever()
    await at_peace()


@pytest.mark.parametrize("passed", ["to a task that was there", "to a new task"])
async def test_entered_here_and_left_there(guard: SessionGuard, passed: str) -> None:
    """Who entered has other things to do by now, and is left alone."""
    taken: asyncio.Queue[Session] = asyncio.Queue()
    context = guard.session_lock("s")

    async def elsewhere() -> None:
        try:
            session = await taken.get()
            session["n"] = 1
            lose_soon(lease_of(session))
            await anyio.sleep_forever()
        except BaseException as error:
            await context.__aexit__(type(error), error, error.__traceback__)

    if passed == "to a new task":
        taken.put_nowait(await context.__aenter__())
        other = asyncio.create_task(elsewhere())
    else:
        other = asyncio.create_task(elsewhere())
        taken.put_nowait(await context.__aenter__())
    done = asyncio.Event()
    other.add_done_callback(lambda _: done.set())
    await done.wait()
    with pytest.raises(LeaseLost):
        other.result()
    await at_peace()


async def test_entered_here_and_left_by_a_task_that_is_waited_for(guard: SessionGuard) -> None:
    context = guard.session_lock("s")
    session = await context.__aenter__()

    async def rest() -> None:
        try:
            session["n"] = 1
            lose_soon(lease_of(session))
            await anyio.sleep_forever()
        except BaseException as error:
            await context.__aexit__(type(error), error, error.__traceback__)

    with pytest.raises(LeaseLost):
        await asyncio.create_task(rest())
    await at_peace()


@pytest.mark.parametrize("kind", [*GROUPS, "gather", "wait"])
async def test_the_bodys_own_tasks_have_used_it_last(guard: SessionGuard, kind: str) -> None:
    """It is the body that ends, with all that it waits for."""
    ended: list[str] = []

    async def part(session: Session, name: str) -> None:
        try:
            session[name] = 1
            await anyio.sleep_forever()
        finally:
            ended.append(name)

    with pytest.raises(LeaseLost):
        async with guard.session_lock("s") as session:
            lose_soon(lease_of(session))
            if kind == "gather":
                await asyncio.gather(part(session, "a"), part(session, "b"))
            elif kind == "wait":
                parts = [asyncio.create_task(part(session, name)) for name in "ab"]
                try:
                    await asyncio.wait(parts)
                finally:
                    for one in parts:
                        one.cancel()
                    await asyncio.wait(parts)
            else:
                async with group(kind) as tasks:
                    start(tasks, part, session, "a")
                    start(tasks, part, session, "b")
    assert sorted(ended) == ["a", "b"]
    await at_peace()


async def test_the_body_shields_itself(guard: SessionGuard) -> None:
    """It ends with its shield, and not before; a shield around the whole block is nothing to it."""
    shielded = False
    with anyio.CancelScope(shield=True), pytest.raises(LeaseLost):
        async with guard.session_lock("s") as session:
            lose_soon(lease_of(session))
            with anyio.CancelScope(shield=True):
                await lease_of(session).lost.wait()
                await anyio.sleep(0.02)
                shielded = True
            await anyio.sleep_forever()
    assert shielded
    await at_peace()


async def test_found_out_by_a_thread(guard: SessionGuard) -> None:
    """The body is told in its own event loop."""

    def look(lease: Lease) -> None:
        with pytest.raises(LeaseLost):
            while True:
                lease.check()

    with pytest.raises(LeaseLost):
        async with guard.session_lock("s", lease=SHORT) as session:
            await asyncio.gather(asyncio.to_thread(look, lease_of(session)), anyio.sleep_forever())
    await at_peace()


async def test_a_body_that_was_told_and_goes_on(guard: SessionGuard) -> None:
    """It asked, was told, and tries to work all the same."""
    with pytest.raises(LeaseLost):
        async with guard.lock("x") as lease:
            lease.mark_lost("a test took it")
            with pytest.raises(LeaseLost):
                lease.check()
            await anyio.sleep_forever()
    await at_peace()


# --- somebody else's cancellation


@pytest.mark.parametrize("first", ["theirs", "ours"])
async def test_somebody_else_cancels_the_task_too(guard: SessionGuard, stored: Look, first: str) -> None:
    """In the same turn of the loop, so that one exception tells of both."""
    inside = asyncio.Event()
    leases: list[Lease] = []

    async def body() -> None:
        async with guard.session_lock("s") as session:
            leases.append(lease_of(session))
            inside.set()
            await anyio.sleep_forever()

    task = asyncio.create_task(body())
    await inside.wait()
    steps: list[Any] = [task.cancel, lambda: leases[0].mark_lost("a test took it")]
    for step in steps if first == "theirs" else reversed(steps):
        step()
    await asyncio.wait([task])
    if first == "theirs" or sys.version_info >= (3, 11):
        assert task.cancelled()
    assert stored("s").free


@pytest.mark.parametrize("lost", [False, True])
async def test_a_scope_around_the_block_is_cancelled(guard: SessionGuard, stored: Look, lost: bool) -> None:
    """Whoever catches the error of the loss is cancelled at once."""
    with anyio.CancelScope() as around:
        with suppress(LeaseLost):
            async with guard.session_lock("s") as session:
                if lost:
                    lease_of(session).mark_lost("a test took it")
                around.cancel()
                await anyio.sleep_forever()
        await anyio.sleep_forever()
    assert around.cancelled_caught
    assert stored("s").free
    await at_peace()


@pytest.mark.parametrize("lost", [False, True])
async def test_a_scope_within_the_block_is_cancelled(guard: SessionGuard, lost: bool) -> None:
    after = False
    try:
        async with guard.session_lock("s") as session:
            with anyio.CancelScope() as within:
                within.cancel()
                if lost:
                    lose_soon(lease_of(session))
                await anyio.sleep_forever()
            after = True
            await (anyio.sleep_forever() if lost else anyio.lowlevel.checkpoint())
    except LeaseLost:
        assert lost
    assert after
    await at_peace()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio.timeout is not there before")
async def test_limits_of_time_by_asyncio(guard: SessionGuard) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), guard.session_lock("s"):  # type: ignore[attr-defined]
            await anyio.sleep_forever()
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(5), guard.session_lock("s") as session:  # type: ignore[attr-defined]
            lose_soon(lease_of(session))
            async with asyncio.timeout(5):  # type: ignore[attr-defined]
                await anyio.sleep_forever()
    await at_peace()


async def test_both_of_two_nested_leases_are_lost(guard: SessionGuard, stored: Look) -> None:
    with pytest.raises(LeaseLost):
        async with guard.session_lock("a") as outer, guard.session_lock("b") as inner:
            for session in (outer, inner):
                lease_of(session).mark_lost("a test took it")
            await anyio.sleep_forever()
    await at_peace()
    assert stored("a").free
    assert stored("b").free


# --- entered and dropped


@pytest.mark.parametrize("what", ["session", "lock"])
async def test_a_block_that_is_dropped_gives_its_lock_back(
    guard: SessionGuard, stored: Look, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    if what == "session":
        held: Any = await guard.session_lock("s").__aenter__()
        held["n"] = 1
    else:
        context = guard.lock("s")
        held = context, await context.__aenter__()
        del context
    assert not stored("s").free
    del held
    gc.collect()
    await eventually(lambda: stored("s").free, "the lock was given back")
    assert stored("s").data == {}
    assert "never left" in caplog.text


@pytest.mark.parametrize("what", ["session", "lock"])
async def test_a_coroutine_that_is_closed_within_its_block(guard: SessionGuard, stored: Look, what: str) -> None:
    """Who closes it cannot wait; nor can the garbage collector, which closes what nobody runs any more."""

    @coroutine
    def pause() -> Any:
        yield

    async def body() -> None:
        async with held[what]("s"):
            await pause()

    held: dict[str, Any] = {"session": guard.session_lock, "lock": guard.lock}
    steps = body()
    waited: Any = steps.send(None)
    while waited is not None:  # what the entering waits for
        await asyncio.wait([waited])
        waited._asyncio_future_blocking = False
        waited = steps.send(None)
    assert not stored("s").free
    steps.close()
    await eventually(lambda: stored("s").free, "the lock was given back")
    await at_peace()


async def test_a_session_that_is_kept_keeps_its_lock(guard: SessionGuard, stored: Look) -> None:
    session = await guard.session_lock("s").__aenter__()
    gc.collect()
    session["n"] = 1
    await session.save()
    assert not stored("s").free
    await session.release()
    assert stored("s").data == {"n": 1}


async def test_a_block_that_was_left_costs_no_call_when_it_goes(redis_url: str, guard: SessionGuard) -> None:
    async with guard.session_lock("s"):
        pass
    with CommandCounter(redis_url) as ran:
        gc.collect()
        await asyncio.sleep(0.05)
    assert ran.script_calls == 0


async def test_what_a_block_used_is_freed_without_the_collector(guard: SessionGuard) -> None:
    """Its passes cost all requests of a process more than the locks do."""
    gc.disable()
    try:
        async with guard.session_lock("s") as session:
            session["n"] = [1]
        freed = weakref.ref(session)
        assert session["n"] == [1]
        assert not session.modified
        del session
        assert freed() is None
    finally:
        gc.enable()


async def test_who_is_cancelled_while_it_gives_up_leaves_no_number_outstanding(
    proxy: FaultyProxy, node: MakeGuard
) -> None:
    guard, other = node(proxy.url), node()
    async with other.session_lock("s"):
        giving_up = proxy.hold_requests(calls_of("abandon"))
        waits = asyncio.ensure_future(guard.session_lock("s", wait=0.1).__aenter__())
        await giving_up.wait()
        waits.cancel()
        await asyncio.wait([waits])
    await proxy.let_go()
    assert not guard.runtime().numbers.acquisitions._outstanding


async def test_a_lock_with_a_name_of_its_own_leaves_no_number_outstanding(guard: SessionGuard) -> None:
    """Or the records of all later calls would be kept for its sake."""
    numbers = guard.runtime().numbers.acquisitions
    for name in ("nightly-report", "s"):
        async with guard.lock(name):
            assert numbers._outstanding
        assert not numbers._outstanding
