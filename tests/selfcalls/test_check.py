"""Who waits for a session that the process of its own client holds; real servers are in ``test_two_workers``."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import pytest

from sessionlock import ReentrantLock, Session, SessionGuard, WaitTimedOut, blocking, cookie, session_locked
from sessionlock.lock.holders import held_by_us, node_name
from sessionlock.lock.self_call import BRIEF_WAIT
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.replies import Holder
from sessionlock.selfcalls.check import process_of, refusing
from sessionlock.selfcalls.looks import Looks
from sessionlock.selfcalls.sockets import Peer, peer_of
from tests.harness.stored import Stored
from tests.harness.workers import Worker

pytestmark = pytest.mark.anyio

LONG = 60.0  # seconds; longer than any test
WITHIN = 10.0
KEYS = keys_for("sl", "s")


@pytest.fixture
def peer() -> Iterator[Peer]:
    """The client of a connection that this process has with itself."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        stack.enter_context(socket.create_connection(server.getsockname()))
        connection, name = server.accept()
        stack.enter_context(connection)
        found = peer_of(*name)
        assert found is not None
        yield found


@pytest.fixture(autouse=True)
def unspent(monkeypatch: pytest.MonkeyPatch) -> None:
    """No look of another test puts off that of this one."""
    monkeypatch.setattr("sessionlock.selfcalls.check.found_out", Looks().found_out)


@pytest.fixture
async def caller(redis_url: str) -> AsyncIterator[SessionGuard]:
    """What the inner request uses."""
    async with SessionGuard.from_url(redis_url) as guard:
        yield guard


async def called(guard: SessionGuard, peer: Peer | None, wait: float = LONG) -> None:
    context: Any = guard.session_lock("s", wait=wait)
    context.when_waiting(refusing(lambda: peer))
    async with context:
        pass


@pytest.mark.parametrize("name", [None, "web", "a name: of several words"])
async def test_held_by_this_process(redis_url: str, caller: SessionGuard, peer: Peer, name: str | None) -> None:
    """By another guard, whatever it is called."""
    async with SessionGuard.from_url(redis_url, label=name) as holder, holder.session_lock("s", label="POST /x"):
        with pytest.raises(ReentrantLock, match=r"this request \(.* POST /x\), which calls its own application"):
            await asyncio.wait_for(called(caller, peer), WITHIN)
        with Stored(redis_url, "s") as stored:
            assert stored.waiting == []
    await called(caller, peer)


async def test_held_by_another_loop_of_this_process(redis_url: str, caller: SessionGuard, peer: Peer) -> None:
    """As a view in a thread holds it."""
    held, over = threading.Event(), threading.Event()

    def view() -> None:
        with blocking.SessionGuard.from_url(redis_url) as guard, guard.session_lock("s"):
            held.set()
            over.wait(LONG)

    thread = threading.Thread(target=view)
    thread.start()
    try:
        await asyncio.to_thread(held.wait, WITHIN)
        with pytest.raises(ReentrantLock):
            await asyncio.wait_for(called(caller, peer), WITHIN)
    finally:
        over.set()
        await asyncio.to_thread(thread.join)
    await called(caller, peer)


async def test_held_by_another_process(redis_url: str, caller: SessionGuard, peer: Peer) -> None:
    """That waits for nothing here, so it is waited for, as long as was said."""
    async with Worker(redis_url) as worker:
        await worker.hold("s")
        with pytest.raises(WaitTimedOut):
            await called(caller, peer, wait=0.5)
        await worker.finish()
    await called(caller, peer)


@pytest.mark.parametrize("other", [None, ("192.0.2.1", 80), ("127.0.0.1", 1), ("testclient", 50000)])
async def test_other_clients(redis_url: str, caller: SessionGuard, other: Peer | None) -> None:
    async with SessionGuard.from_url(redis_url) as holder, holder.session_lock("s"):
        with pytest.raises(WaitTimedOut):
            await called(caller, other, wait=0.3)


async def test_who_has_released(redis_url: str, caller: SessionGuard, peer: Peer) -> None:
    """It may call itself: nothing waits for it any more."""
    async with SessionGuard.from_url(redis_url) as holder, holder.session_lock("s") as session:
        await session.release()
        await asyncio.wait_for(called(caller, peer), WITHIN)


async def test_short_holds_of_this_process(redis_url: str, caller: SessionGuard, peer: Peer) -> None:
    """One after the other, all under the same label: none of them waits for an answer, so nobody is refused."""
    async with SessionGuard.from_url(redis_url) as holder:
        asked = asyncio.Event()

        def noticing() -> Peer:
            asked.set()
            return peer

        context: Any = caller.session_lock("s", wait=LONG)
        context.when_waiting(refusing(noticing))

        async def wait() -> None:
            async with context:
                pass

        async with holder.session_lock("s"):
            behind = asyncio.create_task(holds_until_asked(redis_url, asked))
            with Stored(redis_url, "s") as stored:
                await stored.until(lambda seen: len(seen.waiting) == 1)
            waiting = asyncio.create_task(wait())
            await asyncio.wait_for(asked.wait(), WITHIN)
        await asyncio.wait_for(asyncio.gather(behind, waiting), WITHIN)


async def holds_until_asked(redis_url: str, asked: asyncio.Event) -> None:
    """The next one in line: it holds for as long as a suspicion would need."""
    async with SessionGuard.from_url(redis_url) as holder, holder.session_lock("s", wait=LONG):
        assert asked.is_set()
        await asyncio.sleep(4 * BRIEF_WAIT)  # nothing is to happen meanwhile


async def test_what_is_held_here(caller: SessionGuard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known by label, prefix and process, for as long as it lasts."""
    async with caller.session_lock("s", label="POST /x"):
        label = f"{node_name()} POST /x"
        assert held_by_us(KEYS, label)
        assert not held_by_us(KEYS, f"{node_name()} POST /y")
        assert not held_by_us(keys_for("sl", "t"), label)
        assert not held_by_us(keys_for("other", "s"), label)
        with monkeypatch.context() as forked:
            forked.setattr(os, "getpid", lambda: -1)
            assert not held_by_us(KEYS, label)
        assert held_by_us(KEYS, label)
    assert not held_by_us(KEYS, label)


@pytest.fixture
def asked(peer: Peer) -> SimpleNamespace:
    """A request from this very process."""
    return SimpleNamespace(headers={}, cookies={"sid": "s"}, method="POST", scope={"client": peer})


def adding(guard: SessionGuard) -> Callable[[SimpleNamespace], Coroutine[Any, Any, None]]:
    """A decorated view."""

    @session_locked(cookie("sid"), guard=guard, wait=LONG)
    async def view(request: SimpleNamespace, session: Session) -> None:
        session["added"] = True

    return view


async def test_a_decorated_view(redis_url: str, caller: SessionGuard, asked: SimpleNamespace) -> None:
    view = adding(caller)
    async with SessionGuard.from_url(redis_url) as holder:
        await holder.create({}, sid="s")
        async with holder.session_lock("s"):
            with pytest.raises(ReentrantLock, match="calls its own application"):
                await asyncio.wait_for(view(asked), WITHIN)
        await view(asked)
        assert await holder.read("s") == {"added": True}


async def test_a_decorated_view_in_a_thread(redis_url: str, asked: SimpleNamespace) -> None:
    guard = blocking.SessionGuard.from_url(redis_url)

    @session_locked(cookie("sid"), guard=guard, wait=LONG)
    def view(request: SimpleNamespace, session: blocking.Session) -> None:
        session["added"] = True

    async with SessionGuard.from_url(redis_url) as holder:
        await holder.create({}, sid="s")
        async with holder.session_lock("s"):
            with pytest.raises(ReentrantLock, match="calls its own application"):
                await asyncio.wait_for(asyncio.to_thread(view, asked), WITHIN)
        await asyncio.to_thread(view, asked)
        assert await holder.read("s") == {"added": True}
    await asyncio.to_thread(guard.close)


HOST = socket.gethostname()


@pytest.mark.parametrize(
    ("label", "process"),
    [
        (f"{HOST}:1", 1),
        (f"{HOST}:1 POST /x", 1),
        (f"{HOST}:{os.getpid()} POST /x", None),  # what is held here is known otherwise
        (f"{HOST}.example:1", None),
        ("1", None),
        (":1", None),
        (f"{HOST}:", None),
        (f"{HOST}:²", None),
        ("web POST /x", None),
        ("", None),
    ],
    ids=lambda part: str(part).replace(f"{os.getpid()}", "own").replace(HOST, "host"),
)
def test_what_a_label_tells(label: str, process: int | None) -> None:
    assert process_of(Holder(label, None)) == process


async def test_while_all_threads_wait(redis_url: str, caller: SessionGuard, asked: SimpleNamespace) -> None:
    """Views in threads take those of the loop's executor; the look-up needs none of them."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))

    @session_locked(cookie("sid"), guard=caller, wait=LONG)
    async def view(request: SimpleNamespace, session: Session) -> None:
        raise AssertionError("entered")

    free = threading.Event()
    await caller.create({}, sid="s")
    async with SessionGuard.from_url(redis_url) as holder, holder.session_lock("s"):
        occupied = [asyncio.ensure_future(asyncio.to_thread(free.wait)) for _ in range(2)]
        try:
            with pytest.raises(ReentrantLock):
                await asyncio.wait_for(view(asked), WITHIN)
        finally:
            free.set()
        await asyncio.wait(occupied)


@pytest.mark.parametrize("where", ["client", "look-up", "thread"])
async def test_what_goes_wrong_while_it_is_found_out(
    redis_url: str, caller: SessionGuard, asked: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """It is not known, then, and waited for as if nobody had wondered."""
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fail(*_: object) -> Any:
        loop.call_soon_threadsafe(failed.set)
        if where == "thread":
            raise RuntimeError("can't start new thread")
        raise PermissionError("nothing is told")

    failing = {
        "client": "sessionlock.views.wrap.client_of",
        "look-up": "sessionlock.selfcalls.looks.Look.is_of_process",
        "thread": "sessionlock.selfcalls.looks.threading.Thread.start",
    }
    monkeypatch.setattr(failing[where], fail)

    view = adding(caller)
    async with SessionGuard.from_url(redis_url) as holder:
        await holder.create({}, sid="s")
        async with holder.session_lock("s"):
            waiting = asyncio.create_task(view(asked))
            await asyncio.wait_for(failed.wait(), WITHIN)
        await asyncio.wait_for(waiting, WITHIN)
        assert await holder.read("s") == {"added": True}
