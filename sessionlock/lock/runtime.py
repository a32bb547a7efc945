"""What a guard keeps for one event loop of one process: connections, who holds and who waits, background work."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import anyio

from ..errors import RedisUnavailable
from ..observe import Observers
from ..protocol.calls import Abandon
from ..protocol.keys import SessionKeys
from ..protocol.numbers import Numbers
from ..protocol.replies import Handover
from ..session.commits import Engine
from ..session.user_index import leave_index
from ..transport.calling import Executor
from ..transport.tasks import fetch_error
from .holders import Holders
from .topology import OpenTopology, Topology
from .waiting import Wakeup
from .watchdog import Watchdog

__all__ = ["CLEAN_UP_WITHIN", "Runtime", "Runtimes"]

T = TypeVar("T")
_ending: set[asyncio.Task[None]] = set()  # asyncio itself would not keep them alive
CLEAN_UP_WITHIN = 2.0  # seconds for which a cancelled caller waits until its lock is given back


class Runtime:
    """For the running event loop. ``open_engine``: makes what commits without a lock, of a client and an executor.

    ``observer`` None: nobody listens, and then nothing is made for it to hear.
    """

    def __init__(
        self,
        open_topology: OpenTopology,
        open_engine: Callable[[Any, Executor], Engine],
        observer: Observers | None = None,
    ) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.observer = observer
        # What runs beside the requests; asyncio itself would not keep it alive.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        # The way to Redis.
        self.topology: Topology = open_topology(background=self.background, on_break=self._mistrust_pushes)
        self.executor: Executor = self.topology.executor
        self.deaf: bool = self.executor.deaf
        self.engine: Engine = open_engine(self.topology.client, self.executor)
        # Who holds, and who waits.
        self.holders: Holders = Holders(self.topology)
        self.watchdog: Watchdog = Watchdog(self.executor, self.background, observer)
        self.wakeup: Wakeup = Wakeup(self.topology.listener, on_taken=self.watchdog.taken, on_crowd=self._crowd)
        # Ends with the loop.
        self._farewell = _farewell(self)
        with suppress(StopIteration):
            # Up to its first yield, so that the loop knows it and ends it when the loop itself is shut down.
            self._farewell.__anext__().send(None)

    def _mistrust_pushes(self) -> None:
        """The connection for calls was lost. The one for pushes may hang on the same server without being told."""
        if not self._closed:
            self.wakeup.pushes.mistrust()

    def _crowd(self, crowded: bool) -> None:
        self.executor.batch_calls(crowded)

    @property
    def numbers(self) -> Numbers:
        """Of the calls that this runtime makes."""
        return self.executor.numbers

    # --- what becomes of a lock

    async def abandon(self, keys: SessionKeys, token: str) -> None:
        """Give up whatever Redis has under this token: a place in the queue, or the lock."""
        if await self._leave(keys, token, self.numbers.acquisitions.low(keys.digest, token)):
            await self._hand_on(keys)

    async def _leave(self, keys: SessionKeys, token: str, low: str) -> bool:
        """Whether the lock is free and others wait, behind dead waiters."""
        return (await self.executor.run(Abandon(keys, token, low, deaf=self.deaf))).more

    async def _hand_on(self, keys: SessionKeys) -> None:
        """The lock is free, and dead waiters stood before the next one: go on, until one has it."""
        while await self._leave(keys, *self.numbers.nobody(keys.digest)):
            pass

    def take_handover(self, keys: SessionKeys, handover: Handover, by: str) -> None:
        """What came with the reply to a release of who has that label."""
        if handover.kind == "M":
            self.background(self._hand_on(keys)).add_done_callback(fetch_error)
        else:
            self.wakeup.dispatch(handover, by)

    def ended(self, keys: SessionKeys, user: str) -> None:
        """A session of the user with this digest was destroyed: the index of users loses it, beside the request."""
        self.background(leave_index(self.topology.client, keys, user)).add_done_callback(fetch_error)

    # --- work beside the requests

    def at_home(self, work: Coroutine[Any, Any, Any]) -> Any:
        """For steps that belong to this loop and may be asked for elsewhere: where a loop runs, the caller gets the
        step back, to await it; a thread without one has it done on this loop, waits, and gets its result.
        """
        if asyncio._get_running_loop() is not None:
            return work
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def background(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` to its end whatever happens to the caller."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def give_back(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """What a block has left behind that is no more: from any thread, and amid anything, for that may be the garbage
        collection.
        """
        if self.holders.are_ours:
            with suppress(RuntimeError):  # the loop has ended, and what it held runs out in Redis by itself
                self.loop.call_soon_threadsafe(lambda: self.background(work()).add_done_callback(fetch_error))

    async def see_through(
        self, work: Coroutine[Any, Any, T], *, wait: bool = True, within: float = CLEAN_UP_WITHIN
    ) -> T | None:
        """Do some clean-up although the caller is being cancelled; wait for it, ``within`` so many seconds.

        A second cancellation, or a Redis that does not answer, ends the waiting but not the work. None when the
        answer is not known; then Redis' TTL finishes what could not be done.
        """
        task = self.background(work)
        task.add_done_callback(fetch_error)
        if wait and within > 0:
            with anyio.move_on_after(within, shield=True):
                try:
                    return await asyncio.shield(task)
                except RedisUnavailable:
                    return None
        return None

    # --- the end

    def close_soon(self) -> None:
        """From whichever thread; nothing to do where its loop has ended, and with it what is here."""
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self._close_beside)

    def _close_beside(self) -> None:
        closing = self.loop.create_task(self.aclose())
        _ending.add(closing)
        closing.add_done_callback(_ending.discard)

    async def aclose(self) -> None:
        """End everything that this loop runs for the guard. Leases still held run out in Redis by themselves."""
        if self._closed:
            return
        self._closed = True
        self.watchdog.close()
        await self.wakeup.pushes.aclose()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CLEAN_UP_WITHIN)
        for task in list(self._tasks):
            task.cancel()
        self.executor.look_no_more()
        await self.topology.aclose()

    def loop_has_ended(self) -> None:
        """What is held here nobody will give up, and what is down nobody will find back."""
        self.executor.look_no_more()
        self.holders.end(self.observer)


async def _farewell(runtime: Runtime) -> AsyncGenerator[None, None]:
    """Ends with its event loop (``shutdown_asyncgens``): then nothing of the runtime may stay open."""
    try:
        yield
    finally:
        await runtime.aclose()
        runtime.loop_has_ended()


class Runtimes:
    """A guard's runtimes: one for each event loop that uses it. A forked child begins with none."""

    def __init__(self, make: Callable[[], Runtime]) -> None:
        self._make = make
        self._by_loop: dict[int, Runtime] = {}
        # The one that was asked for last: most guards have one loop. Only of this process, if that is still ``pid``.
        self.latest: Runtime | None = None
        self.pid: int = os.getpid()
        # A fork inherits its parent's: they are kept, for closing their connections is not the child's to do.
        self._inherited: dict[int, Runtime] = {}

    def __len__(self) -> int:
        return len(self._by_loop)

    def of(self, loop: asyncio.AbstractEventLoop | None) -> Runtime:
        """That of the running event loop; made when it is first asked for.

        Raises:
            RuntimeError: none runs.
        """
        if loop is None:
            raise RuntimeError(
                "no running event loop: a guard needs one of asyncio (or uvloop); under trio and without a loop use"
                " sessionlock.blocking, in a thread (trio.to_thread.run_sync)"
            )
        self._leave_inheritance()
        for key, known in list(self._by_loop.items()):
            if known.loop.is_closed() and self._by_loop.pop(key, None) is not None:
                known.loop_has_ended()
        runtime = self._by_loop.get(id(loop))
        if runtime is None or runtime.loop is not loop:
            runtime = self._by_loop[id(loop)] = self._make()
        self.latest = runtime
        return runtime

    def _leave_inheritance(self) -> None:
        if self.pid != os.getpid():
            self.pid, self._inherited, self._by_loop = os.getpid(), self._by_loop, {}

    def twin(self) -> Runtimes:
        """Others of the same make."""
        return Runtimes(self._make)

    async def aclose(self) -> None:
        """Those of other threads' event loops are closed there, soon."""
        self._leave_inheritance()
        runtimes, self._by_loop, self.latest = self._by_loop, {}, None
        for runtime in runtimes.values():
            if runtime.loop is asyncio.get_running_loop():
                await runtime.aclose()
            elif runtime.loop.is_running():
                runtime.close_soon()

    def end_with(self, guard: object) -> None:
        """Close them when ``guard``, which nobody but its blocks refers to, is dropped without being closed."""
        weakref.finalize(guard, self._guard_is_gone).atexit = False

    def _guard_is_gone(self) -> None:
        """In any thread, and amid anything: this may be the garbage collection."""
        if self.pid == os.getpid():  # what a fork inherited is not the child's to close
            for runtime in list(self._by_loop.values()):
                runtime.close_soon()
