"""What a guard keeps for one event loop of one process: connection, subscription, renewals, background work."""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar
from functools import lru_cache
from typing import Any, TypeVar

import anyio
from redis.exceptions import RedisError

from ..checkup.capabilities import Checkup, with_advice
from ..checkup.findings import Capabilities
from ..checkup.targets import checkup_of_quorum, checkup_of_store
from ..durability import Wait
from ..errors import RedisUnavailable, ReentrantLock
from ..protocol.keys import SessionKeys, new_token
from ..quorum.router import Quorum, QuorumExecutor
from ..transport.clients import close_client, own_client
from ..transport.cluster import ClusterRoute
from ..transport.executor import Executor
from ..transport.one_server import LOST, NotNow
from ..transport.pushes import ClusterPushes, ProcessChannel, Pushes
from .waiting import Wakeup
from .watchdog import Watchdog

__all__ = ["Runtime", "asking", "held_here", "node_name"]

T = TypeVar("T")
_NOBODY: tuple[str, object, str | None] = ("", None, None)
_runtimes: weakref.WeakValueDictionary[int, Runtime] = weakref.WeakValueDictionary()  # all of this process
CLEAN_UP_WITHIN = 2.0  # seconds for which a cancelled caller waits until its lock is given back
# Who asks for a lock, where that is not the task that runs the request: a thread that waits for this task.
asking: ContextVar[object] = ContextVar("sessionlock_asking")


def node_name() -> str:
    """Who holds, as shown to others: host and process."""
    return _node_name(os.getpid())


@lru_cache(maxsize=1)
def _node_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"


class Runtime:
    def __init__(
        self,
        client: Any,
        *,
        prefix: str,
        reply_within: float,
        retry_for: float,
        durability: Wait | None = None,
        check: bool = False,
        quorum: Quorum | None = None,
        lease_ttl: float = 10.0,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.pid = os.getpid()
        self._prefix = prefix
        self._reply_within = reply_within
        self._given_client = client
        self.client = own_client(client)
        self.executor = self._asked_executor = Executor(
            self.client,
            reply_within=reply_within,
            retry_for=retry_for,
            durability=durability,
            on_break=self._mistrust_pushes,
        )
        self.checkup = checkup_of_store(self.client, self.executor, prefix=prefix, reply_within=reply_within)
        self._looking: asyncio.Task[Capabilities | None] | None = None
        self._looking_at_quorum: asyncio.Task[Capabilities | None] | None = None
        if check:
            self._asked_executor.before_call = self._vet
        if quorum is not None:
            masters = quorum.open(prefix=prefix, lease_ttl=lease_ttl)
            self.executor = QuorumExecutor(self.executor, quorum, masters, self.background, retry_for=retry_for)
        self.watchdog = Watchdog(self.executor, self.background)
        self.wakeup = Wakeup(self._listener, on_taken=self.watchdog.taken, on_crowd=self._crowd)
        self.objecting = asyncio.Lock()  # one waiter at a time finds out whether its wait makes sense
        self.engine: object = None  # chosen by the guard when it first commits without a lock
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._farewell = _farewell(self)
        with suppress(StopIteration):
            # Up to its first yield, so that the loop knows it and ends it when the loop itself is shut down.
            self._farewell.__anext__().send(None)
        self._held_by: dict[str, tuple[str, object, str]] = {}  # session -> token, owner, and label as others see it
        _runtimes[id(self)] = self
        if check and quorum is not None:
            self._look_at_quorum(checkup_of_quorum(quorum, prefix=prefix))

    def _listener(self, **hooks: Any) -> Pushes:
        route = self.executor.route
        if isinstance(route, ClusterRoute):
            return ClusterPushes(route, self._prefix, reply_within=self._reply_within, **hooks)
        channel = f"{self._prefix}:push:{new_token()}"
        return ProcessChannel(self.client, channel, reply_within=self._reply_within, **hooks)

    def _mistrust_pushes(self) -> None:
        """The connection for calls was lost. The one for pushes may hang on the same server without being told."""
        if not self._closed:
            self.wakeup.pushes.mistrust()

    @property
    def deaf(self) -> bool:
        """Whether nothing follows from the number of receivers of a push."""
        return self.executor.deaf

    def _crowd(self, crowded: bool) -> None:
        self.executor.crowded = crowded

    # --- what the server is

    def _vet(self) -> None:
        """Before a call: refuse a server that is unfit; look, beside the call, at one that is not known."""
        refusal = self.checkup.refusal()
        if refusal is not None:
            raise refusal
        if not self.checkup.due or self.checkup.known() is not None:
            self._asked_executor.before_call = None  # known to be fit: from now on nothing is looked at
        elif self._looking is None or self._looking.done():
            self._looking = Context().run(self.background, self._look(self.checkup))  # kept longer than its caller

    def _look_at_quorum(self, checkup: Checkup) -> None:
        """Once, and whatever comes of the first election; none is refused: those masters that can vote are enough."""
        if checkup.known() is None:
            self._looking_at_quorum = Context().run(self.background, self._look(checkup))

    async def _look(self, checkup: Checkup) -> Capabilities | None:
        with suppress(RedisError, NotNow, *LOST):
            return await checkup.run()
        return None  # no answer now; the next call tries again

    async def capabilities(self) -> Capabilities:
        """Ask the server now.

        Raises:
            RedisUnavailable: it did not answer.
        """
        try:
            return await self.checkup.run()
        except (RedisError, NotNow, *LOST) as error:
            raise RedisUnavailable(with_advice(f"Redis did not tell what it is: {error}", error)) from error

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

    async def see_through(self, work: Coroutine[Any, Any, T], *, wait: bool = True) -> T | None:
        """Do some clean-up although the caller is being cancelled; wait for it, within reason.

        A second cancellation, or a Redis that does not answer, ends the waiting but not the work. None when the
        answer is not known; then Redis' TTL finishes what could not be done.
        """
        task = self.background(work)
        task.add_done_callback(_fetch_error)
        if wait:
            with anyio.move_on_after(CLEAN_UP_WITHIN, shield=True):
                try:
                    return await asyncio.shield(task)
                except RedisUnavailable:
                    return None
        return None

    # --- who holds what in this process, to tell a self-deadlock at once

    def enter(self, keys: SessionKeys, name: str) -> None:
        owner = _owner()
        if owner is not None and self._held_by.get(keys.digest, _NOBODY)[1] is owner:
            raise ReentrantLock(
                f"this {'task' if isinstance(owner, asyncio.Task) else 'thread'} already holds the lock of {name};"
                " waiting for it would never end."
                " Pass the session on instead of locking it again"
            )

    def entered(self, keys: SessionKeys, token: str, label: str) -> None:
        self._held_by[keys.digest] = (token, _owner(), label)

    def left(self, keys: SessionKeys, token: str) -> None:
        # After a lost lease another task of this process may be the holder by now.
        if self._held_by.get(keys.digest, _NOBODY)[0] == token:
            del self._held_by[keys.digest]

    def token_of(self, keys: SessionKeys, label: str) -> str | None:
        """By which token something of this loop holds that lock under that label. Any thread may ask."""
        token, _, held_as = self._held_by.get(keys.digest, _NOBODY)
        return token if held_as == label and self._prefix == keys.prefix and self.pid == os.getpid() else None

    def close_soon(self) -> None:
        """For :meth:`call_soon_threadsafe` of this loop."""
        self.loop.create_task(self.aclose())

    async def aclose(self) -> None:
        """End everything that this loop runs for the guard. Leases still held run out in Redis by themselves."""
        if self._closed:
            return
        self._closed = True
        self.watchdog.close()
        for look in (self._looking, self._looking_at_quorum):
            if look is not None:
                look.cancel()
        await self.wakeup.pushes.aclose()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=CLEAN_UP_WITHIN)
        for task in list(self._tasks):
            task.cancel()
        await self.executor.aclose()
        if self.client is not self._given_client:
            await close_client(self.client)


async def _farewell(runtime: Runtime) -> AsyncGenerator[None, None]:
    """Ends with its event loop (``shutdown_asyncgens``): then nothing of the runtime may stay open."""
    try:
        yield
    finally:
        await runtime.aclose()


def held_here(keys: SessionKeys, label: str) -> str | None:
    """By which token this process, in whichever of its event loops, holds that lock under that label; None: not."""
    runtimes = [reference() for reference in _runtimes.valuerefs()]
    tokens = (runtime.token_of(keys, label) for runtime in runtimes if runtime is not None)
    return next((token for token in tokens if token is not None), None)


def _owner() -> object:
    return asking.get(None) or asyncio.current_task()


def _fetch_error(task: asyncio.Task[Any]) -> None:
    """A failed clean-up is Redis' TTL's to finish; the failure must not be reported as never retrieved."""
    if not task.cancelled():
        task.exception()
