"""A lock as an object, for those who come from other locks: taken many times, as a block or by hand.

Each acquisition is a block of :mod:`.blocks`, so that there is one way to a lock and one way back. What is added here
is whose acquisition is meant: an object may be shared by tasks (or threads) that take the lock one after the other.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from types import TracebackType
from typing import Generic, NoReturn, TypeVar

from tenacity import stop_after_attempt, stop_after_delay, stop_never

from ..errors import ConfigurationError, LockNotAcquired, LockNotHeld, SessionLockError
from ..lease import Lease
from ..policies import LeasePolicy, WaitPolicy, check_seconds
from ..protocol.inspected import Inspected
from ..protocol.record_calls import Inspect
from .blocks import LockContext
from .holders import Handle
from .refusals import note
from .request import LockRequest
from .runtime import Runtime

__all__ = ["FOREVER", "Lock", "LockObject", "bounded", "flagged"]

FOREVER = -1  # as :class:`threading.Lock` has it
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Held(Generic[T]):
    """One acquisition of an object. ``block``: what is left at its end. ``loop`` None: of a thread."""

    block: T
    context: LockContext
    lease: Lease
    by_hand: bool
    pid: int
    loop: object
    taker: weakref.ref[object]


class LockObject(Handle, Generic[T]):
    """What the locks of both faces have in common. An acquisition belongs to the object, whoever then releases it; but
    who has one of his own always means that. So nobody whose lease was lost releases the lock of the next.
    """

    def __init__(self, runtime: Callable[[], Runtime], name: str, request: LockRequest) -> None:
        self.name = name
        self._runtime = runtime
        self._request = request
        self._held: list[Held[T]] = []

    def __repr__(self) -> str:
        held = any(one.lease.remaining() for one in tuple(self._held))
        return f"<{type(self).__name__} {self.name!r} {'held' if held else 'not held'}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a lock cannot be copied or pickled: it would be held twice. Call guard.lock() with its name where it is"
            " wanted"
        )

    @property
    def made_of(self) -> tuple[Callable[[], Runtime], str, LockRequest]:
        """For the same lock of another face."""
        return self._runtime, self.name, self._request

    @property
    def lease(self) -> Lease | None:
        """That of the acquisition which :meth:`release` would end, with its fencing token; None: there is none."""
        held = self._mine()
        return None if held is None else held.lease

    def gives_back(self, lease: Lease) -> bool:
        return any(one.lease is lease for one in tuple(self._held))

    def _caller(self) -> tuple[object, object]:
        """Who calls, and in which event loop; None for a loop that does not matter."""
        raise NotImplementedError

    # --- asking

    def _context(self, blocking: bool = True, timeout: float | None = None) -> LockContext:
        """For one acquisition by hand. There is no body to be cancelled when it is lost.

        That the caller holds the lock himself is no reason not to wait where that ends, by his limit or by the lease's.
        """
        request = self._request
        wait = _waiting(request.wait, blocking, timeout)
        for_itself = bounded(blocking, timeout) or not request.lease.renew
        return LockContext(
            self._runtime, replace(request, wait=wait, lease=flagged(request.lease), for_itself=for_itself)
        )

    def _context_of_block(self) -> LockContext:
        return LockContext(self._runtime, self._request)

    async def _seen(self) -> Inspected:
        return await self._runtime().executor.run(Inspect(self._request.keys, waiters=False))

    async def _is_locked(self) -> bool:
        return (await self._seen()).token is not None

    async def _is_of(self, lease: Lease) -> bool:
        return (await self._seen()).token == lease.token

    # --- what is held

    def _note(self, block: T, context: LockContext, lease: Lease, *, by_hand: bool) -> None:
        taker, loop = self._caller()
        self._held.append(Held(block, context, lease, by_hand, os.getpid(), loop, weakref.ref(taker)))

    def _mine(self, *, blocks: bool = False) -> Held[T] | None:
        """The caller's newest acquisition; else, of the object's, the oldest. ``blocks``: none that was by hand."""
        pid, (taker, loop) = os.getpid(), self._caller()
        oldest = None
        for one in reversed(tuple(self._held)):
            if one.pid == pid and (loop is None or one.loop is loop) and not (blocks and one.by_hand):
                if one.taker() is taker:
                    return one
                oldest = one
        return oldest

    def _to_extend(self, seconds: float | None) -> Held[T] | None:
        if seconds is not None:
            check_seconds("seconds", seconds)
        return self._mine()

    def _take(self, done: str, *, blocks: bool = False) -> Held[T]:
        """The caller's; it is the object's no more.

        Raises:
            LockNotHeld: there is none. ``done``: what was to be done with it.
        """
        held = self._mine(blocks=blocks)
        if held is not None:
            with suppress(ValueError):  # another thread was faster
                self._held.remove(held)
                return held
        raise self._not_held(done)

    def _block_ends(self, error: BaseException | None) -> Held[T] | None:
        """The one to leave. That there is none, since it was released by hand, does not hide the body's own error."""
        try:
            return self._take("released at the end of its block", blocks=True)
        except LockNotHeld as trouble:
            if error is None:
                raise
            note(error, trouble)
            return None

    def _not_held(self, done: str) -> LockNotHeld:
        return LockNotHeld(
            f"the lock {self.name!r} cannot be {done}: this object does not hold it. It was not acquired, or was"
            " released already, or in another process or event loop than this one"
        ).about(self._request.digest)

    def _lost(self) -> list[Held[T]]:
        """The caller's acquisitions by hand that are over; the object's no more. Who acquires again is past them."""
        if not self._held:
            return []
        taker, _ = self._caller()
        lost = [one for one in tuple(self._held) if one.by_hand and one.taker() is taker and not one.lease.remaining()]
        for one in lost:
            self._held.remove(one)
        return lost


class Lock(LockObject[LockContext]):
    """Returned by :meth:`SessionGuard.lock`::

        lock = guard.lock("stock")
        async with lock as lease: ...           # raises when it is not granted; is cancelled when the lease is lost
        if await lock.acquire(timeout=1):       # by hand
            try: ...
            finally: await lock.release()

    It is used as often as you like, one time after the other, and may be shared by tasks. It is renewed while it is
    held, for ``LeasePolicy.max_hold`` seconds at the most (see :meth:`extend`). An object that is dropped gives back
    what it holds.
    """

    def _caller(self) -> tuple[object, object]:
        loop = asyncio._get_running_loop()
        return (asyncio.current_task(loop) if loop is not None else None), loop

    async def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Take the lock. True, or False where you said how long to wait and others held it all that time.

        ``timeout`` seconds; -1: for ever; None: as ``wait`` of the lock says, and then nobody expects a False: it
        raises instead. ``blocking=False``: not at all. Nothing is cancelled when the lease is lost: ask
        ``lock.lease.check()``, or hear of it from :meth:`release`.

        Raises:
            WaitTimedOut, QueueFull: without ``timeout``. ReentrantLock: likewise, this task holds it already.
            RedisUnavailable: whether it was granted is unknown; its TTL ends it.
        """
        context = self._context(blocking, timeout)
        for lost in self._lost():
            with suppress(SessionLockError):
                await lost.block.__aexit__(None, None, None)
        try:
            lease = await context.__aenter__()
        except LockNotAcquired:
            if not bounded(blocking, timeout):
                raise
            return False
        self._note(context, context, lease, by_hand=True)
        return True

    async def release(self) -> None:
        """Give it back, and on to who waits; any task may do it.

        Raises:
            LockNotHeld: it is not held. LeaseLost: it was lost meanwhile; it need not be released any more.
        """
        await self._take("released").block.__aexit__(None, None, None)

    async def extend(self, seconds: float | None = None) -> None:
        """Hold it ``seconds`` from now on, or longer if that was granted already. None: as long as a new acquisition.

        A lease that is renewed needs this only beyond ``max_hold``. One with ``renew=False`` lasts so long in Redis.

        Raises:
            LockNotHeld: it is not held. LeaseLost: it was lost meanwhile. RedisUnavailable: as before, or extended.
        """
        held = self._to_extend(seconds)
        if held is None or not await held.context.extend(seconds):
            raise self._not_held("extended")

    async def locked(self) -> bool:
        """Whether anybody holds it, as Redis sees it."""
        return await self._is_locked()

    async def owned(self) -> bool:
        """Whether this object (of a shared one: this task) holds it, as Redis sees it."""
        lease = self.lease
        return lease is not None and lease.remaining() > 0 and await self._is_of(lease)

    async def __aenter__(self) -> Lease:
        context = self._context_of_block()
        lease = await context.__aenter__()
        self._note(context, context, lease, by_hand=False)
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        held = self._block_ends(error)
        if held is not None:
            await held.block.__aexit__(kind, error, tb)


@lru_cache(maxsize=128)
def flagged(policy: LeasePolicy) -> LeasePolicy:
    """For who cannot be cancelled: there is no body, or it runs in a thread."""
    return policy if policy.on_lost == "flag" else replace(policy, on_lost="flag")


def bounded(blocking: bool, timeout: float | None) -> bool:
    """Whether the caller said for how long he waits."""
    return not blocking or (timeout is not None and timeout != FOREVER)


def _waiting(policy: WaitPolicy, blocking: bool, timeout: float | None) -> WaitPolicy:
    if not blocking:
        if timeout is not None and timeout != FOREVER:
            raise ConfigurationError("acquire(blocking=False) does not wait, so it takes no timeout")
        return replace(policy, stop=stop_after_attempt(1))
    if timeout is None:
        return policy
    if timeout == FOREVER:
        return replace(policy, stop=stop_never)
    if timeout == 0:
        return replace(policy, stop=stop_after_attempt(1))
    check_seconds("timeout", timeout)
    return replace(policy, stop=stop_after_delay(timeout))
