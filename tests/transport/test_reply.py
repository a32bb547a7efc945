"""A task that waits for a reply goes on as it is read; cancelled, it goes on as any other would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from typing import Any

import pytest
import redis.asyncio
from anyio import to_thread
from redis.exceptions import ConnectionError as RedisConnectionError

from sessionlock.protocol.calls import Renew
from sessionlock.protocol.keys import keys_for
from sessionlock.transport.one_server import ServerRoute
from sessionlock.transport.reply import Reply
from sessionlock.transport.wire import Wire, pack
from tests.harness.deployments import MakeGuard
from tests.harness.programs import run_program
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of

pytestmark = pytest.mark.anyio

PING = pack("PING")
about: ContextVar[str] = ContextVar("about", default="nothing")


async def waiting(reply: Reply, seen: list[Any]) -> Any:
    about.set("the call")
    try:
        answer = await reply
    finally:
        seen.append((asyncio.current_task(), about.get()))
    return answer


def begin(seen: list[Any]) -> tuple[Reply, asyncio.Task[Any]]:
    reply = Reply(asyncio.get_running_loop())
    return reply, asyncio.ensure_future(waiting(reply, seen))


async def outside(do: Callable[[], None]) -> None:
    """Call it as the loop does, within no task; return behind it."""
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    loop.call_soon(do)
    loop.call_soon(done.set)
    await done.wait()


async def test_it_goes_on_at_once() -> None:
    seen: list[Any] = []
    reply, task = begin(seen)
    await asyncio.sleep(0)

    def read() -> None:
        reply.answer(b"OK")
        seen.append("read")

    await outside(read)
    assert seen == [(task, "the call"), "read"]
    assert await task == b"OK"
    assert about.get() == "nothing"


async def test_what_is_there_already() -> None:
    reply = Reply(asyncio.get_running_loop())
    reply.answer(None)
    assert await reply is None
    reply = Reply(asyncio.get_running_loop())
    reply.fail(RedisConnectionError("lost"))
    with pytest.raises(RedisConnectionError):
        await reply


async def test_a_lost_connection() -> None:
    """It may be noticed within another task: who waits goes on behind that."""
    seen: list[Any] = []
    reply, task = begin(seen)
    await asyncio.sleep(0)
    reply.fail(RedisConnectionError("lost"))
    reply.fail(RedisConnectionError("lost again"))
    assert seen == []
    with pytest.raises(RedisConnectionError, match=r"lost$"):
        await task


async def test_a_cancelled_task() -> None:
    """Its reply, which comes later, is dropped."""
    seen: list[Any] = []
    reply, task = begin(seen)
    await asyncio.sleep(0)
    task.cancel("enough")
    assert seen == []
    await outside(lambda: reply.answer(b"late"))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(seen) == 1
    assert not reply.cancel()


async def test_cancelled_before_it_waits() -> None:
    seen: list[Any] = []
    _, task = begin(seen)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == []


async def test_a_limit_of_time() -> None:
    reply = Reply(asyncio.get_running_loop())
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(waiting(reply, []), 0.01)


async def test_many_of_which_some_are_cancelled(node: MakeGuard, proxy: FaultyProxy) -> None:
    """Replies reach those whose they are, over one connection, whoever is gone."""
    guard = node(proxy.url)
    await guard.create({"n": 1}, sid="s")
    executor = guard.runtime().executor
    proxy.hold_requests(calls_of("renew"))
    leases = [[(keys_for("sl", f"s{number}"), "token", 1000)] * (1 + number % 7) for number in range(60)]
    calls = [asyncio.ensure_future(executor.run(Renew(lease))) for lease in leases]
    await proxy.held.wait()
    for call in calls[::4]:
        call.cancel()
    await proxy.let_go()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[::4])
    for number, answer in enumerate(answers):
        if number % 4:
            assert answer == [0] * (1 + number % 7)


async def test_a_turn_of_the_loop_is_saved(node: MakeGuard) -> None:
    """Each call takes as many turns of the loop as a reader that is called: one in which it is sent, one in which its
    reply is read and acted upon."""
    guard = node()
    async with guard.session_lock("s"):
        pass
    route = guard.runtime().executor.route  # type: ignore[attr-defined]
    assert isinstance(route, ServerRoute)
    loop = asyncio.get_running_loop()
    turns, over = 0, False

    def turn() -> None:
        nonlocal turns
        turns += 1
        if not over:
            loop.call_soon(turn)

    reply = route.begin(Renew([(keys_for("sl", "s"), "token", 1000)]))
    assert reply is not None
    wire = await route.link.wire()
    read_at = []
    read = wire.data_received

    def reading(data: bytes) -> None:
        read_at.append(turns)
        read(data)

    wire.data_received = reading  # type: ignore[method-assign]
    loop.call_soon(turn)
    assert await reply == [0]
    over = True
    assert read_at == [turns]


async def test_within_another_task() -> None:
    """A loop that is made to run within a task of its own reads there; two tasks cannot run at once."""
    reply = Reply(asyncio.get_running_loop())
    woken: list[Reply] = []
    reply.add_done_callback(woken.append)
    reply.answer(b"OK")
    assert woken == []
    await asyncio.sleep(0)
    assert woken == [reply]


@pytest.fixture
async def pushed() -> list[Any]:
    return []


@pytest.fixture
async def wire(redis_url: str, pushed: list[Any]) -> AsyncIterator[Wire]:
    client: Any = redis.asyncio.Redis.from_url(redis_url)
    wire = await Wire.open(client.connection_pool.make_connection, reply_within=10, on_push=pushed.append)
    yield wire
    wire.close()
    await client.aclose()


async def test_one_closes_what_others_are_about_to_hear_from(wire: Wire, pushed: list[Any]) -> None:
    """Their replies were read with its own. They are nobody's then, and no pushes."""

    async def closing() -> None:
        await wire.begin(PING, None, True)
        wire.close()

    async def waiting() -> Any:
        return await wire.begin(PING, None, True)

    outcomes = await asyncio.gather(closing(), waiting(), waiting(), return_exceptions=True)
    assert outcomes[0] is None
    assert [type(outcome) for outcome in outcomes[1:]] == [RedisConnectionError] * 2
    assert pushed == []


ENDS = """
import asyncio, sys
import redis.asyncio
from sessionlock.transport.wire import Wire, pack

PING = pack("PING")

async def end(wire):
    await wire.begin(PING, None, True)
    raise {error}

async def wait(wire):
    await wire.begin(PING, None, True)
    print("went on")

async def main():
    client = redis.asyncio.Redis.from_url(sys.argv[1])
    wire = await Wire.open(client.connection_pool.make_connection, reply_within=10)
    read = wire.data_received
    def reading(data):
        try:
            read(data)
        except BaseException as error:
            {caught}
    wire.data_received = reading
    wire._transport.set_protocol(wire)
    tasks = [asyncio.ensure_future(run(wire)) for run in (end, wait)]
    try:
        await asyncio.wait(tasks)
    finally:
        await wire.begin(PING, None, True)
        print("cleaned up")
        wire.close()
        await client.aclose()

asyncio.run(main())
"""


@pytest.mark.parametrize("error", ["SystemExit(3)", "KeyboardInterrupt"])
@pytest.mark.parametrize("caught", ["raise", "wire.connection_lost(error)"], ids=["asyncio", "as uvloop does"])
async def test_a_task_that_ends_the_program(redis_url: str, error: str, caught: str) -> None:
    """It ends the loop, not the connection; others do not go on before they are cancelled, and can clean up."""
    ended = await to_thread.run_sync(run_program, "-c", ENDS.format(error=error, caught=caught), redis_url)
    assert ended.stdout == "cleaned up\n", ended
    assert (ended.returncode == 3) if error == "SystemExit(3)" else ("KeyboardInterrupt" in ended.stderr), ended
