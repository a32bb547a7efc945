"""How a waiter learns that it is its turn.

The releaser's script pushes the grant to the channel of the waiter's process. A push is only a hint: the foremost
waiter of each session in this process also looks by itself now and then, and at the end of the lease it waits for;
the others wait behind it in a :class:`Room` and cost Redis nothing.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from ..protocol.calls import PATIENCE
from ..protocol.keys import SessionKeys
from ..protocol.replies import Handover, Queued, pushed
from ..transport.pushes import TRY_AGAIN_AFTER, Pushes

__all__ = ["Room", "Waiter", "Wakeup"]

LATEST_AFTER_EXPIRY = 0.05  # seconds, spread over the waiters that look when a lease has run out
SOONEST_AFTER_EXPIRY = 0.005
HEARD_OF_EVERY = PATIENCE / 3


class Room:
    """The waiters of one session in this process, first come first. The foremost looks on behalf of all."""

    __slots__ = ("lease_ends", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[str, Waiter] = {}
        self.lease_ends = 0.0  # monotonic; inf when the lock was seen without an end

    def foremost(self) -> Waiter | None:
        return next(iter(self.waiters.values()), None)


class Waiter:
    """One queued acquisition of this process."""

    __slots__ = ("_look", "_wake", "claim", "handover", "last", "last_heard", "room", "token")

    def __init__(self, token: str, room: Room, claim: float) -> None:
        self.token = token
        self.claim = claim  # seconds: looking once within each claim shows its end, whoever has it
        self.room = room
        self.handover: Handover | None = None
        self.last: Queued | None = None
        self.last_heard = 0.0
        self._look = False
        self._wake: asyncio.Future[None] | None = None

    def heard(self, queued: Queued) -> None:
        """Redis told where this waiter stands."""
        self.last = queued
        self.last_heard = time.monotonic()
        left = queued.left
        self.room.lease_ends = float("inf") if left is None else self.last_heard + left

    @property
    def foremost(self) -> bool:
        return self.room.foremost() is self

    def should_look(self) -> bool:
        """Whether asking Redis is this waiter's business now; being told to look counts once."""
        told, self._look = self._look, False
        return told or self.foremost or time.monotonic() - self.last_heard >= HEARD_OF_EVERY

    async def pause(self, seconds: float, *, deaf: bool = False) -> None:
        """tenacity's ``sleep``: ends early with a push, and for the foremost at the end of the lease waited for.

        ``deaf``: no push can come now; look again when subscribing may be tried again.
        """
        started = time.monotonic()
        while self.handover is None and not self._look:
            was_foremost = self.foremost
            now = time.monotonic()
            until = min(started + seconds, self.last_heard + HEARD_OF_EVERY)
            if was_foremost:
                spread = random.uniform(SOONEST_AFTER_EXPIRY, LATEST_AFTER_EXPIRY)
                until = min(until, started + self.claim, max(self.room.lease_ends, now) + spread)
                if deaf:
                    until = min(until, started + TRY_AGAIN_AFTER)
            if until <= now or await self._woken_before(until):
                return
            if self.foremost and not was_foremost:
                started = time.monotonic()  # it is this one's turn to look, from now on

    async def _woken_before(self, until: float) -> bool:
        """False when woken, True when the time was up."""
        loop = asyncio.get_running_loop()
        self._wake = wake = loop.create_future()
        timer = loop.call_later(max(0.0, until - time.monotonic()), _set, wake)
        try:
            await wake
        finally:
            timer.cancel()
            self._wake = None
        return time.monotonic() >= until

    def wake(self) -> None:
        if self._wake is not None:
            _set(self._wake)

    def look(self) -> None:
        """Ask Redis at once: pushes may have been missed."""
        self._look = True
        self.wake()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Wakeup:
    """The push side of one guard in one event loop. Nothing is subscribed before somebody has to wait.

    ``listener`` makes the subscriptions, given ``on_message`` and ``on_gap``.
    """

    def __init__(
        self,
        listener: Callable[..., Pushes],
        *,
        on_taken: Callable[[str], None],
        on_crowd: Callable[[bool], None],
    ) -> None:
        self.pushes = listener(on_message=self._on_message, on_gap=self._on_gap)
        self._on_taken = on_taken
        self._on_crowd = on_crowd
        self._waiters: dict[str, Waiter] = {}
        self._expected: dict[str, Handover | None] = {}  # tokens being queued now -> the push that overtook the reply
        self._rooms: dict[str, Room] = {}

    # --- waiters

    def join(self, keys: SessionKeys, token: str, claim: float) -> Waiter:
        room = self._rooms.setdefault(keys.digest, Room())
        waiter = Waiter(token, room, claim)
        waiter.handover = self._expected.pop(token, None)
        room.waiters[token] = self._waiters[token] = waiter
        self._on_crowd(True)
        return waiter

    def expect(self, token: str) -> None:
        """``token`` is about to be queued; calls and pushes come by two connections, and the push may come first."""
        if token not in self._waiters:
            self._expected[token] = None

    def expect_no_more(self, token: str) -> None:
        self._expected.pop(token, None)

    def leave(self, keys: SessionKeys, waiter: Waiter) -> None:
        room = waiter.room
        self._waiters.pop(waiter.token, None)
        room.waiters.pop(waiter.token, None)
        self._on_crowd(bool(self._waiters))
        successor = room.foremost()
        if successor is not None:
            successor.wake()
        elif self._rooms.get(keys.digest) is room:
            del self._rooms[keys.digest]

    def look_after(self, keys: SessionKeys) -> None:
        """The lock may be free, or ours, without anybody here having been told."""
        room = self._rooms.get(keys.digest)
        foremost = room.foremost() if room is not None else None
        if foremost is not None:
            foremost.look()

    def look_all(self, keys: SessionKeys) -> None:
        """All waiters of this session here may have lost their places; asking gives them back."""
        room = self._rooms.get(keys.digest)
        for waiter in list(room.waiters.values()) if room is not None else ():
            waiter.look()

    @property
    def waiting(self) -> int:
        return len(self._waiters)

    # --- pushes

    def _on_message(self, message: bytes) -> None:
        push = pushed(message)
        if push is not None:
            self.dispatch(push)

    def dispatch(self, push: Handover) -> None:
        """Wake whom this concerns."""
        if push.kind == "L":
            self._on_taken(push.token)
            return
        waiter = self._waiters.get(push.token)
        if waiter is not None:
            waiter.handover = push
            waiter.wake()
        elif push.token in self._expected:
            self._expected[push.token] = push
        # Otherwise it left meanwhile; its abandon call hands the lock on.

    def _on_gap(self) -> None:
        """Pushes may have been missed; and whoever could not be reached has been dropped from the queue."""
        for waiter in list(self._waiters.values()):
            waiter.look()
