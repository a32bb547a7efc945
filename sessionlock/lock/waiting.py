"""How a waiter learns that it is its turn.

The releaser's script pushes the grant to the channel of the waiter's process. A push is only a hint: the foremost
waiter of each session in this process also looks by itself now and then, and at the end of the lease it waits for;
the others wait behind it in a :class:`Room` and cost Redis nothing.

Where many of this process wait already, one more only takes a seat in the room: a *rider*. It is not in Redis' queue.
Its ticket is Redis' clock as this process knows it, and each release from this process names the first rider: it is
granted there and then, unless somebody in the queue has a lower ticket; then it joins the queue. So k requests cost k
calls.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

from ..clock import OtherClock, call_later, monotonic
from ..protocol.calls import PATIENCE, rider
from ..protocol.keys import SessionKeys
from ..protocol.replies import Committed, Conflict, Granted, Handover, Holder, Queued, Saved, pushed
from ..transport.pushes import TRY_AGAIN_AFTER, Pushes, Rounds
from .holders import Holders
from .request import LockRequest

__all__ = [
    "HEARD_OF_EVERY",
    "LATEST_AFTER_EXPIRY",
    "SUBSCRIBED_WITHIN",
    "Bell",
    "Room",
    "Waiter",
    "WaitingRooms",
    "Wakeup",
    "soon_after_expiry",
    "was_missed",
]

W = TypeVar("W")
MOST_LARGE = 1024  # large sessions that are remembered
LATEST_AFTER_EXPIRY = 0.05  # seconds, spread over the waiters that look when a lease has run out
SOONEST_AFTER_EXPIRY = 0.005
HEARD_OF_EVERY = PATIENCE / 3
ON_ITS_WAY_US = 100_000  # microseconds that a push may take
FIRST_RIDER = 8  # so many of a process wait in the queue, where all see them, before the next one rides
RIDER_SHARE = 2  # riders of one process are this part of max_waiters at the most
SUBSCRIBED_WITHIN = 0.5  # seconds; whoever waits then goes on without, and is told when it is done


def soon_after_expiry() -> float:
    """Seconds after the end of a lease at which one of many that wait for it looks."""
    return random.uniform(SOONEST_AFTER_EXPIRY, LATEST_AFTER_EXPIRY)


def was_missed(found: object) -> bool:
    """Of what a look has found: whether it is a grant so old that its push must have been lost.

    A fencing token is the time of its grant, or later.
    """
    return isinstance(found, Granted) and found.server_us - found.fence > ON_ITS_WAY_US


class Bell:
    """Wakes the one that sleeps beside it."""

    __slots__ = ("_sleep",)

    def __init__(self) -> None:
        self._sleep: asyncio.Future[None] | None = None

    @property
    def is_heard(self) -> bool:
        """Whether somebody sleeps, and has not been woken."""
        return self._sleep is not None and not self._sleep.done()

    def ring(self) -> None:
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    async def silent_until(self, until: float) -> bool:
        """Sleep; True when the time (monotonic) was up, False when woken before."""
        loop = asyncio.get_running_loop()
        self._sleep = sleep = loop.create_future()
        timer = call_later(loop, max(0.0, until - monotonic()), self.ring) if until < float("inf") else None
        try:
            await sleep
        finally:
            if timer is not None:
                timer.cancel()
            self._sleep = None
        return monotonic() >= until


class Room(Generic[W]):
    """Those of this process that wait for one session.

    Redis decides who is granted the lock: the lowest ticket, over all processes (``join_queue`` in ``lua/acquire.lua``
    gives it, ``hand_over`` in ``lua/_queue.lua`` takes it). :meth:`foremost` says who of a process asks Redis on behalf
    of the others; it never changes who is granted.
    """

    __slots__ = ("clock", "last_arrival", "last_ticket", "lease_ends", "riders", "seen", "waiters")

    def __init__(self) -> None:
        self.waiters: OrderedDict[str, W] = OrderedDict()  # by token, first come first; a dict finds its first slowly
        self.riders: OrderedDict[str, W] = OrderedDict()  # those of them that are not in the queue
        self.lease_ends: float = 0.0  # monotonic; inf when the lock was seen without an end
        self.seen: Queued | None = None  # what one of them was answered last, or the seat of the last rider
        self.last_ticket: int = 0  # of those that were in the queue; they may be ahead of Redis' clock
        self.last_arrival: float = 0.0  # of a rider, monotonic; no two come at once
        self.clock: OtherClock = OtherClock()  # Redis'

    def enter(self, token: str, waiter: W) -> None:
        self.waiters[token] = waiter

    def foremost(self) -> W | None:
        return next(iter(self.waiters.values()), None)

    def ticket(self, arrived: float, behind: int) -> str:
        """Of a rider: no earlier than Redis' clock was then: nobody is passed by. And ``behind`` who queued before."""
        return f"{max(behind + 1, self.clock.latest(arrived)):016d}"

    def first_rider(self) -> W:
        """Who rides and waits longest; there must be one."""
        return next(iter(self.riders.values()))


class WaitingRooms(Generic[W]):
    """The rooms of one event loop, by the sessions' digests."""

    def __init__(self) -> None:
        self._rooms: dict[str, Room[W]] = {}

    def room(self, digest: str) -> Room[W]:
        """The room to enter; it is there until the last has left it."""
        return self._rooms.setdefault(digest, Room())

    def known(self, digest: str) -> Room[W] | None:
        return self._rooms.get(digest)

    def leave(self, digest: str, token: str) -> W | None:
        """Returns who has become the foremost by that."""
        room = self._rooms.get(digest)
        if room is None:
            return None
        before = room.foremost()
        left = room.waiters.pop(token, None)
        room.riders.pop(token, None)
        if not room.waiters:
            del self._rooms[digest]
        return room.foremost() if left is not None and left is before else None

    def of(self, digest: str) -> Collection[W]:
        room = self._rooms.get(digest)
        return () if room is None else list(room.waiters.values())

    def foremost(self, digest: str) -> W | None:
        """Who looks on behalf of all that wait for that session."""
        room = self._rooms.get(digest)
        return None if room is None else room.foremost()


class Waiter:
    """One queued acquisition of this process."""

    __slots__ = (
        "_bell",
        "_look",
        "behind",
        "claim",
        "handover",
        "last",
        "last_heard",
        "named_at",
        "rides_as",
        "room",
        "token",
        "was_known",
    )

    def __init__(self, token: str, room: Room[Waiter], claim: float) -> None:
        self.token: str = token
        self.behind: str = ""  # who of this process gave the lock up last, by its label in Redis
        self.rides_as: Callable[[int], str] | None = None  # None: it is in the queue
        self.named_at: float = 0.0  # monotonic; 0: never
        self.was_known: bool = False  # whether Redis knows it, or may
        self.claim: float = claim  # seconds: looking once within each claim shows its end, whoever has it
        self.room: Room[Waiter] = room
        self.handover: Handover | None = None
        self.last: Queued | None = None
        self.last_heard: float = 0.0
        self._look = False
        self._bell = Bell()

    def heard(self, queued: Queued) -> None:
        """Redis told where this waiter stands."""
        self.last = self.room.seen = queued
        self.was_known = True
        left = queued.left
        self.queues()
        self.room.last_ticket = max(self.room.last_ticket, int(queued.ticket))
        self.room.clock.saw(queued.server_us, queued.asked_at, self.last_heard)
        self.room.lease_ends = float("inf") if left is None else self.last_heard + left

    def rides(self, seat: Queued, rides_as: Callable[[int], str]) -> None:
        """It is not in the queue, and stands where ``seat`` says.

        ``rides_as``: how a release names it, beside so many others.
        """
        self.last = self.room.seen = seat
        self.last_heard = float("inf")  # nobody else waits to hear of it
        self.rides_as = rides_as
        self.room.riders[self.token] = self

    def queues(self) -> None:
        """Redis has it in the queue, or as the holder."""
        self.last_heard = monotonic()
        self.rides_no_more()

    def rides_no_more(self) -> None:
        """No release is to name it."""
        if self.rides_as is not None:
            self.rides_as = None
            del self.room.riders[self.token]

    def is_named(self, by: str) -> str:
        """With a release that is about to be sent: Redis may know it from then on. Returns what the release says.

        ``by``: the label of who gives the lock up.
        """
        self.named_at, self.behind = monotonic(), by
        self.was_known = True
        return "" if self.rides_as is None else self.rides_as(len(self.room.riders) - 1)

    @property
    def waits_for(self) -> Holder | None:
        """Who has held the lock meanwhile, as last heard of."""
        if self.behind:
            return Holder.of(self.behind, None)
        # Where somebody takes a seat, who was heard of before may be gone.
        return None if self.last is None or self.rides_as is not None else self.last.holder

    def take_push(self) -> Handover | None:
        """The push that came since it was last asked for."""
        push, self.handover = self.handover, None
        return push

    def handed_over(self, push: Handover, now: float) -> None:
        """The others wait for the end of this claim."""
        self.room.lease_ends = now + push.claim

    @property
    def foremost(self) -> bool:
        return self.room.foremost() is self

    def should_look(self) -> bool:
        """Whether asking Redis is this waiter's business now; being told to look counts once."""
        told, self._look = self._look, False
        return told or self.foremost or monotonic() - self.last_heard >= HEARD_OF_EVERY

    async def pause(self, seconds: float, *, deaf: bool = False) -> None:
        """tenacity's ``sleep``: ends early with a push, and for the foremost at the end of the lease waited for.

        ``deaf``: no push can come now; look again when subscribing may be tried again.
        """
        started = monotonic()
        while self.handover is None and not self._look:
            was_foremost = self.foremost
            now = monotonic()
            until = min(started + seconds, self.last_heard + HEARD_OF_EVERY)
            if was_foremost:
                until = min(until, started + self.claim, max(self.room.lease_ends, now) + soon_after_expiry())
                if deaf:
                    until = min(until, started + TRY_AGAIN_AFTER)
            if until <= now or await self._bell.silent_until(until):
                return
            if self.foremost and not was_foremost:
                started = monotonic()  # it is this one's turn to look, from now on

    def wake(self) -> None:
        self._bell.ring()

    def look(self) -> None:
        """Ask Redis at once: pushes may have been missed."""
        self._look = True
        self.wake()


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
        self.pushes: Pushes = listener(on_message=self._on_message, on_gap=self._on_gap)
        self._rounds = Rounds(self.pushes.check)
        self._on_taken = on_taken
        self._on_crowd = on_crowd
        self._waiters: dict[str, Waiter] = {}
        self.waiting: int = 0
        """How many."""
        self._expected: dict[str, Handover | None] = {}  # tokens being queued now -> the push that overtook the reply
        self._rooms: WaitingRooms[Waiter] = WaitingRooms()
        self._large: set[str] = set()

    # --- waiters

    def join(self, keys: SessionKeys, token: str, claim: float) -> Waiter:
        room = self._rooms.room(keys.digest)
        waiter = self._waiters[token] = Waiter(token, room, claim)
        self.waiting = len(self._waiters)
        room.enter(token, waiter)
        waiter.handover = self._expected.pop(token, None)
        self._on_crowd(True)
        self._rounds.begin()
        return waiter

    def expect(self, token: str) -> None:
        """``token`` is about to be queued; calls and pushes come by two connections, and the push may come first."""
        if token not in self._waiters:
            self._expected[token] = None

    def expect_no_more(self, token: str) -> None:
        self._expected.pop(token, None)

    def leave(self, keys: SessionKeys, waiter: Waiter, *, held_here: bool, refused: bool = False) -> None:
        """``held_here``: somebody of this process has the lock, and is to hand it on. ``refused``: Redis had something
        against this one, and perhaps against all.
        """
        self._waiters.pop(waiter.token, None)
        self.waiting = len(self._waiters)
        self._on_crowd(bool(self._waiters))
        if not self._waiters:
            self._rounds.end()
        room = waiter.room
        successor = self._rooms.leave(keys.digest, waiter.token)
        foremost = room.foremost()
        if refused and foremost is not None:
            foremost.look()
        elif not held_here and foremost is not None and len(room.riders) == len(room.waiters):
            room.first_rider().look()  # for one of them must be in the queue, to be handed the lock
        elif successor is not None:
            successor.wake()

    # --- riders

    def seat(self, request: LockRequest, holders: Holders) -> Queued | None:
        """Where one more may wait without being in the queue; None: it may not."""
        keys, most = request.keys, request.wait.most_waiters
        room = self._rooms.known(keys.digest)
        if room is None or not self.pushes.hears(keys):
            return None
        if not FIRST_RIDER <= len(room.waiters) < most or len(room.riders) >= most // RIDER_SHARE:
            return None
        # If nobody of this process has the lock, one in the queue is needed, to be handed it.
        seen, holder = room.seen, holders.holder_of(keys.lock)
        if seen is None or (holder is None and len(room.riders) == len(room.waiters)):
            return None
        at = room.last_arrival = max(room.last_arrival + 1e-6, monotonic())
        ticket = room.ticket(at, room.last_ticket)
        return Queued(ticket, len(room.waiters), seen.left, holder or seen.holder, room.clock.latest(at), at)

    def ride(self, waiter: Waiter, request: LockRequest, seat: Queued) -> None:
        """It waits there, and is not in the queue."""
        keys, token = request.keys, waiter.token
        self.pushes.want(keys, token)
        channel = self.pushes.channel(keys)
        room, behind = waiter.room, waiter.room.last_ticket

        def rides_as(others: int) -> str:
            """With a ticket as Redis' clock is known now, better than when the seat was taken perhaps."""
            ticket = room.ticket(seat.asked_at, behind)
            return rider(token, ticket, request.lease, channel, request.label, others)

        waiter.rides(seat, rides_as)

    def most_in_queue(self, request: LockRequest) -> int:
        """How many of ``max_waiters`` the riders of this process leave."""
        return max(0, request.wait.most_waiters - self.riding(request))

    def riding(self, request: LockRequest) -> int:
        """How many of this process do for that session."""
        room = self._rooms.known(request.keys.digest)
        return 0 if room is None else len(room.riders)

    def rider(self, keys: SessionKeys) -> Waiter | None:
        """Who is to be named with the next release of that lock."""
        room = self._rooms.known(keys.digest)
        # Its grant comes with the reply, so it is named while no push can be heard, too.
        return room.first_rider() if room is not None and room.riders else None

    def rode(self, rider: Waiter, outcome: Saved | None) -> None:
        """It was named with a release, and that came to this; None: nobody knows."""
        if isinstance(outcome, Conflict) or not rider.rides_as:
            return
        if not isinstance(outcome, Committed) or outcome.repeated:
            rider.look()
        elif outcome.handover is None or outcome.handover.kind == "M":
            rider.queues()  # another process was first

    def has_weight(self, digest: str, *, large: bool) -> None:
        """Whether a session that was held here is too large to be pushed, or read before it is known who needs it."""
        if large:
            if len(self._large) >= MOST_LARGE:
                self._large.clear()
            self._large.add(digest)
        elif self._large:
            self._large.discard(digest)

    def reads_late(self, keys: SessionKeys) -> bool:
        """Whether a session is not to be read before it is known who needs it: it is large, or others wait for it."""
        return keys.digest in self._large or (self.waiting > 0 and self.is_waited_for(keys))

    def is_waited_for(self, keys: SessionKeys) -> bool:
        """Whether anybody of this process waits for that session."""
        return self._rooms.foremost(keys.digest) is not None

    def look_all(self, keys: SessionKeys) -> None:
        """All waiters of this session here may have lost their places; asking gives them back."""
        _look(self._rooms.of(keys.digest))

    @property
    def is_crowded(self) -> bool:
        """Whether there may be a session for which so many wait that the next one rides."""
        return len(self._waiters) >= FIRST_RIDER

    # --- pushes

    def _on_message(self, message: bytes) -> None:
        push = pushed(message)
        if push is not None:
            self.dispatch(push)

    def dispatch(self, push: Handover, by: str = "") -> None:
        """Wake whom this concerns. ``by``: who of this process gave it up."""
        if push.kind == "L":
            self._on_taken(push.token)
            return
        waiter = self._waiters.get(push.token)
        if waiter is not None:
            if waiter.rides_as:
                # If it was never named, it has asked for a place, and the reply is on its way.
                waiter.room.clock.saw(push.server_us, waiter.named_at, monotonic())
                waiter.queues()
            waiter.handover, waiter.behind = push, by or waiter.behind
            waiter.wake()
            if push.kind == "D":
                for each in waiter.room.waiters.values():  # of many, Redis tells the first ones only
                    each.look()
        elif push.token in self._expected:
            self._expected[push.token] = push
        # Otherwise it left meanwhile; its abandon call hands the lock on.

    def _on_gap(self) -> None:
        """Pushes may have been missed; and whoever could not be reached has been dropped from the queue."""
        _look(self._waiters.values())


def _look(waiters: Iterable[Waiter]) -> None:
    for waiter in list(waiters):
        if not waiter.rides_as:
            waiter.look()
