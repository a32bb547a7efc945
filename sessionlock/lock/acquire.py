"""From "I want this session" to a grant: ask, queue, wait for the push, look now and then, give up by policy.

Whatever ends it early (cancellation, giving up, an error) leaves neither a lock nor a queue entry behind.
"""

from __future__ import annotations

import asyncio

from ..clock import monotonic
from ..errors import RedisUnavailable, SessionNotFound
from ..protocol import replies as protocol
from ..protocol.calls import Acquire
from ..protocol.numbers import UNTOLD
from ..protocol.replies import Busy, Granted, Handover, Holder, Queued
from .observed import tell_handed_over, tell_queued
from .patience import GRACE, Patience, leaves_within, left_of
from .refusals import not_granted, queue_full, refused, timed_out
from .request import LockRequest, OnWait
from .runtime import Runtime
from .self_call import SelfCallCheck
from .waiting import SUBSCRIBED_WITHIN, Waiter, was_missed

__all__ = ["Acquisition"]


class Acquisition:
    """One try to become the holder. ``token`` names it in Redis."""

    def __init__(self, runtime: Runtime, request: LockRequest, on_wait: OnWait | None = None) -> None:
        self.token: str = runtime.executor.numbers.acquisitions.begin_token(request.keys.digest)
        self._runtime = runtime
        self._request = request
        self._on_wait = on_wait
        self._found: Holder | None = None  # who held it before this one could queue
        wakeup = self._wakeup = runtime.wakeup
        self._pushes = wakeup.pushes
        # Whether Redis may have something under this token, and this process may be sent a push for it.
        self._asked = False
        self._expecting = False
        # From the moment that it is in the queue.
        self._waiter: Waiter | None = None
        self._new_in_queue = True
        self._began = monotonic() if request.began is None else request.began

    @property
    def waits_for(self) -> Holder | None:
        """As :attr:`.Acquiring.waits_for`."""
        return self._found if self._waiter is None else self._waiter.waits_for

    async def run(self) -> Granted:
        """Wait for the grant.

        Raises:
            WaitTimedOut, QueueFull, LockNotAcquired: not granted; nothing was left behind.
            SessionNotFound, SessionDestroyed: there is nothing to lock.
            RedisUnavailable: whether the lock was granted is unknown; its TTL ends it.
        """
        is_holder = refused = False
        try:
            request, wakeup = self._request, self._wakeup
            queues = request.wait.queues
            seat = wakeup.seat(request, self._runtime.holders) if queues and wakeup.is_crowded else None
            if seat is not None:
                granted = await self._wait(seat, rides=True)
            else:
                outcome = await self._ask(queueing=queues and self._pushes.hears(request.keys))
                if isinstance(outcome, Busy):
                    outcome = await self._again(outcome, queues)
                granted = outcome if isinstance(outcome, Granted) else await self._wait(outcome)
            self._check(granted)
            is_holder = True
            return granted
        except BaseException as error:
            refused = isinstance(error, SessionNotFound) or (isinstance(error, RedisUnavailable) and error.refused)
            if self._waiter is not None:
                self._waiter.rides_no_more()
            # Cancelled or failed anywhere: Redis may have granted or queued this token meanwhile.
            try:
                await self._abandon(leaves_within(error, self._request, self._began))
            finally:
                self._runtime.numbers.acquisitions.end(self._request.digest, self.token)
            raise
        finally:
            if self._expecting:
                self._expect_no_more(is_holder, refused)

    def _check(self, granted: Granted) -> None:
        """What was true when this was queued may have changed until the lock was handed over."""
        request = self._request
        if request.session is None:
            return
        snapshot = granted.snapshot
        assert snapshot is not None
        if not protocol.admitted(request.keys, snapshot.fields, granted.server_us):
            raise protocol.refusal(
                request.digest, protocol.not_admitted(request.keys, snapshot.fields, granted.server_us)
            )
        if request.missing == "reject" and not snapshot.created:
            raise refused(request, "missing")

    async def _abandon(self, within: float) -> None:
        """Give up whatever Redis has under this token: a place in the queue, or the lock."""
        if self._asked or (self._waiter is not None and self._waiter.was_known):
            await self._runtime.see_through(self._runtime.abandon(self._request.keys, self.token), within=within)

    def _expect_no_more(self, is_holder: bool, refused: bool) -> None:
        keys = self._request.keys
        self._wakeup.expect_no_more(self.token)
        self._pushes.no_more(keys, self.token)
        if self._waiter is not None:
            held_here = is_holder or self._runtime.holders.holder_of(keys.lock) is not None
            self._wakeup.leave(keys, self._waiter, held_here=held_here, refused=refused)

    # --- asking

    async def _again(self, busy: Busy, queues: bool) -> Granted | Queued:
        if not queues or busy.full:
            return self._granted_or_queued(busy)
        self._found = busy.holder
        # The first wait of this process. Subscribe before queueing: a releaser drops whom it cannot reach.
        await self._listen()
        return self._granted_or_queued(await self._ask(queueing=True))

    async def _listen(self) -> None:
        self._expecting = True
        await self._pushes.listen(
            self._request.keys, self.token, left_of(self._request, self._began, SUBSCRIBED_WITHIN)
        )

    async def _ask(self, *, queueing: bool, reads: bool | None = None) -> Granted | Queued | Busy:
        """``reads`` None: the session is read at once where a grant is likely, and it is not large."""
        request, keys = self._request, self._request.keys
        if reads is None:
            reads = not self._wakeup.reads_late(keys)
        last = self._waiter.last if self._waiter is not None else None
        now, deaf, numbers = monotonic(), self._runtime.deaf, self._runtime.executor.numbers
        call = Acquire(
            keys,
            self.token,
            request.lease,
            request.session,
            self._pushes.channel(keys),
            request.label,
            request.missing,
            queueing,
            self._wakeup.most_in_queue(request),
            "0" if last is None else last.ticket,
            deaf,
            reads,
            now,
            UNTOLD if deaf else numbers.clock.digits(now),
        )
        asked_before, self._asked = self._asked, True
        limit = left_of(request, self._began) if self._expecting else request.longest + GRACE
        if queueing:
            self._expecting = True
            self._wakeup.expect(self.token)
            self._pushes.want(keys, self.token)
        try:
            outcome = await self._runtime.executor.run(call, limit)
        except RedisUnavailable as error:
            self._asked = asked_before or not error.unsent
            raise
        except asyncio.TimeoutError:
            raise timed_out(request, last, monotonic() - self._began) from None
        if isinstance(outcome, Granted):
            if call.now == UNTOLD:
                numbers.clock.saw(outcome.server_us, monotonic())
                numbers.saw_time(outcome.server_us)
            if outcome.snapshot is None:
                return await self._ask(queueing=queueing, reads=True)
            return outcome
        # Else Redis has nothing under this token, and no earlier try will come.
        self._asked = asked_before or call.doubtful or isinstance(outcome, Queued)
        if isinstance(outcome, protocol.Refused):
            if outcome.kind == "forgotten":
                return await self._under_another_token(outcome.number)
            raise refused(request, outcome.kind)
        return outcome

    async def _under_another_token(self, floor: int) -> Granted | Queued | Busy:
        """Redis has forgotten clients with higher numbers than this one's: it cannot tell whether this one is new."""
        if self._waiter is not None:
            raise refused(self._request, "already")
        lane, digest = self._runtime.numbers.acquisitions, self._request.digest
        self._wakeup.expect_no_more(self.token)
        self._pushes.no_more(self._request.keys, self.token)
        lane.end(digest, self.token)
        lane.exceed(floor)
        self.token = lane.begin_token(digest)
        return await self._ask(queueing=self._pushes.hears(self._request.keys))

    def _granted_or_queued(self, outcome: Granted | Queued | Busy) -> Granted | Queued:
        if not isinstance(outcome, Busy):
            return outcome
        if outcome.full:
            raise queue_full(self._request, outcome, self._wakeup.riding(self._request))
        raise not_granted(self._request, outcome.holder)

    # --- waiting

    async def _wait(self, queued: Queued, *, rides: bool = False) -> Granted:
        request, holder, keys = self._request, queued.holder, self._request.keys
        waiter = self._waiter = self._wakeup.join(keys, self.token, request.lease.claim_ms / 1000)
        if rides:
            self._expecting = True
            self._wakeup.ride(waiter, request, queued)
        else:
            waiter.heard(queued)
        if self._runtime.observer is not None:
            known = holder if not rides else self._runtime.holders.holder_of(keys.lock)
            tell_queued(self._runtime.observer, request, queued.ticket, queued.position, known)
        patience = Patience(request, self._began)
        with SelfCallCheck(self._runtime, request, self._on_wait, waiter.look) as self_call:
            self_call.consider(holder)
            while True:
                granted = await self._turn(waiter)
                if granted is not None:
                    return granted
                self_call.check()
                pause = await patience.next_pause()
                if pause is None:
                    raise timed_out(request, waiter.last, patience.elapsed())
                await waiter.pause(min(pause, patience.left()), deaf=not self._pushes.hears(keys))

    async def _turn(self, waiter: Waiter) -> Granted | None:
        """One attempt in tenacity's sense: take what was pushed, or look if that is this waiter's business."""
        push = waiter.take_push()
        if push is not None:
            outcome = await self._accept(push, waiter)
        elif self._new_in_queue or not waiter.should_look():
            self._new_in_queue = False
            return None
        else:
            outcome = await self._look()
        if isinstance(outcome, Granted):
            return outcome
        waiter.heard(outcome)
        return None

    async def _look(self) -> Granted | Queued:
        """Ask Redis; the ticket gives the place back if a releaser could not reach this process."""
        await self._listen()
        outcome = await self._ask(queueing=True)
        if was_missed(outcome):
            self._pushes.mistrust()
        return self._granted_or_queued(outcome)

    async def _accept(self, push: Handover, waiter: Waiter) -> Granted | Queued:
        """The lock was handed over by push. Start at once, unless there is something to ask Redis for."""
        if push.kind == "D":
            raise refused(self._request, "destroyed")
        if self._runtime.observer is not None:
            tell_handed_over(self._runtime.observer, self._request)
        now = monotonic()
        waiter.handed_over(push, now)
        snapshot = push.snapshot
        if snapshot is None and self._request.session is None:
            snapshot = protocol.EMPTY
        if snapshot is not None and waiter.last is not None:
            seen = waiter.last
            granted = protocol.granted_by_push(push, snapshot, seen.server_us, seen.asked_at, now)
            if granted.asked_at + granted.trusted_for - now > push.claim / 2:
                return granted
        # Too large to be pushed, or it took long to arrive: asking again confirms the lease and loads.
        outcome = self._granted_or_queued(await self._ask(queueing=True, reads=True))
        if not isinstance(outcome, Granted):
            # The claim had lapsed, as if this process hung; its other waiters were taken out of the queue then.
            self._wakeup.look_all(self._request.keys)
        return outcome
