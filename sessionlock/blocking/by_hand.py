"""A lock as an object, for threads: :mod:`sessionlock.lock.by_hand`, with calls that wait."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from ..errors import LockNotAcquired, SessionLockError
from ..lease import Lease
from ..lock.blocks import LockContext
from ..lock.by_hand import Lock as AsyncLock
from ..lock.by_hand import LockObject, bounded
from .portal import Portal
from .session import Block, hand_out_lease

__all__ = ["Lock"]


class Lock(LockObject[Block[Lease]]):
    """:class:`sessionlock.Lock` for threads, which may share one. Returned by :meth:`SessionGuard.lock`::

        lock = guard.lock("stock")
        with lock as lease: ...
        if lock.acquire(timeout=1):
            try: ...
            finally: lock.release()

    Ask ``lease.check()`` (or ``lock.lease.check()``) before what must not happen without the lock; it raises LeaseLost.
    """

    def __init__(self, find_loop: Callable[[], Portal], of: AsyncLock) -> None:
        super().__init__(*of.made_of)
        self._find_loop = find_loop

    def _caller(self) -> tuple[object, object]:
        return threading.current_thread(), None

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """:meth:`sessionlock.Lock.acquire`."""
        context = self._context(blocking, timeout)
        for lost in self._lost():
            with suppress(SessionLockError):
                lost.block.__exit__(None, None, None)
        try:
            self._enter(context, by_hand=True)
        except LockNotAcquired:
            if not bounded(blocking, timeout):
                raise
            return False
        return True

    def _enter(self, context: LockContext, *, by_hand: bool) -> Lease:
        block = Block(self._find_loop, context, hand_out_lease)
        lease = block.__enter__()
        self._note(block, context, lease, by_hand=by_hand)
        return lease

    def release(self) -> None:
        """:meth:`sessionlock.Lock.release`; any thread may do it."""
        self._take("released").block.__exit__(None, None, None)

    def extend(self, seconds: float | None = None) -> None:
        """:meth:`sessionlock.Lock.extend`."""
        held = self._to_extend(seconds)
        if held is None or not self._find_loop().call(held.context.extend, seconds):
            raise self._not_held("extended")

    def locked(self) -> bool:
        """:meth:`sessionlock.Lock.locked`."""
        return self._find_loop().call(self._is_locked)

    def owned(self) -> bool:
        """:meth:`sessionlock.Lock.owned`."""
        lease = self.lease
        return lease is not None and lease.remaining() > 0 and self._find_loop().call(self._is_of, lease)

    def __enter__(self) -> Lease:
        return self._enter(self._context_of_block(), by_hand=False)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        held = self._block_ends(error)
        if held is not None:
            held.block.__exit__(kind, error, tb)
