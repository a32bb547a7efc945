"""The native engine's election. Each master runs our scripts: it votes, queues, and pushes its lock to who is next.

::

    voting ──majority──▶ won
       ├── does not wait ──▶ asking who holds it, or for what became free ──▶ won, or refused
       └── waits ──▶ queued at each master ──pushes, looks──▶ won
                        └── destroyed, queue full, time is up, no majority has a say ──▶ refused

Queued, it has one ticket for the same place in all queues and a subscription at each master, and votes are counted as
they are pushed. A minority of them is handed on in time.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from ..clock import monotonic
from ..errors import SessionLockError
from ..lock.observed import tell_queued
from ..lock.patience import Patience, left_of
from ..lock.refusals import queue_full, refused
from ..lock.waiting import HEARD_OF_EVERY, LATEST_AFTER_EXPIRY, SUBSCRIBED_WITHIN, Room, soon_after_expiry
from ..protocol.calls import Acquire
from ..protocol.quorum_calls import Vote
from ..protocol.record_calls import ForceRelease
from ..protocol.replies import Acquired, Busy, Granted, Handover, Queued, Voted
from .ballot import Won
from .master import Master, NoVote
from .masters import Voter
from .poll import Contest, Poll, Reach

__all__ = ["NativeElection"]

UNKNOWN = "0"  # the ticket of whom no master has queued yet


class NativeElection:
    """By votes and queues. See :class:`.poll.Election`."""

    def __init__(self, contest: Contest) -> None:
        self.token: str = contest.begin_token()
        self.poll: Poll = contest.poll()
        self.once: bool = True
        self._contest = contest
        self._reach = Reach(contest.router, contest.request)
        # While it is queued. The room is that of this process' waiters for the session.
        self._room: Room[Voter] | None = None
        self._ticket = UNKNOWN
        self._heard_at = 0.0
        self._told_to_look = False
        self._refusal: SessionLockError | None = None  # why waiting is of no use

    async def elect(self, patience: Patience) -> Won:
        return await self._first_round() or await self._wait(patience)

    async def end(self) -> None:
        """Calls to a master arrive in the order in which they were sent."""

    def leave(self) -> None:
        self.poll.close()
        contest = self._contest
        if self._room is not None:
            self._room = None
            contest.masters.leave(contest.keys.digest, self.token)
            if not contest.is_lock_alone:
                contest.runtime.wakeup.pushes.no_more(contest.request.keys, self.token)

    # --- asking

    async def _first_round(self) -> Won | None:
        """One parallel round trip. None when others hold it, and it is to be waited for."""
        contest, request = self._contest, self._contest.request
        # A store has a counter of its own: with one, the masters need not give the same.
        proposed = contest.masters.proposal() if contest.is_lock_alone else 0
        call = Vote(
            contest.keys,
            self.token,
            request.lease,
            label=request.label,
            proposed=proposed,
            asked_at=monotonic(),
        )
        self.poll.ask_all(call, self._voted)
        await self.poll.until_decided()
        won = self.poll.won()
        return won if won is not None or request.wait.queues else await self._second_round()

    async def _second_round(self) -> Won:
        """For who does not wait: a vote does not tell who holds the lock, or it may be free by now."""
        self.once = False
        self.poll.ask_all(self._acquire(), self._answered)
        await self.poll.until_decided()
        won = self.poll.won()
        if won is None:
            raise self.poll.not_now(self._contest.request)
        return won

    def _voted(self, master: Master, outcome: Voted | NoVote) -> None:
        if isinstance(outcome, Granted):
            self._granted(master, outcome)
        elif isinstance(outcome, NoVote):
            self.poll.ballot.silent(master.name, str(outcome))
        else:
            self.poll.ballot.taken(master.name)
            if self._ticket != UNKNOWN:
                self._queue_at(master)  # asked before this acquisition knew that it has to wait
        self.poll.changed()

    def _ask(self, master: Master) -> asyncio.Future[Any]:
        """Get into that master's queue, or back into it, or its lock; done when it has answered."""
        self.once = False
        self.poll.ballot.asked(master.name)
        ticket = self.poll.ballot.ticket(master.name) or self._ticket
        call = self._acquire(master.pushes.channel(self._contest.keys), ticket)
        told = self.poll.while_open(partial(self._answered, master))
        done = asyncio.get_running_loop().create_future()

        def answered(reply: Any) -> None:
            told(reply)
            if not done.done():
                done.set_result(None)

        master.send(call, answered)
        return done

    def _acquire(self, channel: str = "-", ticket: str = UNKNOWN) -> Acquire:
        """``channel`` "-": not to be queued."""
        request = self._contest.request
        return Acquire(
            self._contest.keys,
            self.token,
            request.lease,
            None,
            channel=channel,
            label=request.label,
            queueing=channel != "-",
            max_waiters=request.wait.most_waiters,
            ticket=ticket,
            asked_at=monotonic(),
        )

    def _answered(self, master: Master, outcome: Acquired | NoVote) -> None:
        name, ballot = master.name, self.poll.ballot
        if isinstance(outcome, Granted):
            self._granted(master, outcome)
        elif isinstance(outcome, Queued):
            ballot.queued(name, outcome)
            self._heard_at = monotonic()
            if self._ticket == UNKNOWN:
                self._ticket = outcome.ticket
        elif isinstance(outcome, Busy):
            ballot.busy(name, outcome)
            if outcome.full:
                self._refusal = self._refusal or queue_full(self._contest.request, outcome)
            elif self._ticket != UNKNOWN:
                self._queue_at(master)  # asked before this acquisition knew that it has to wait
        elif isinstance(outcome, NoVote):
            ballot.silent(name, str(outcome))
        else:
            ballot.silent(name, f"refused the acquire call: {outcome.kind}")
        self.poll.changed()

    def _granted(self, master: Master, granted: Granted) -> None:
        master.told_time(granted.server_us, granted.asked_at)
        self.poll.ballot.granted(master.name, granted)

    # --- pushes (see masters.Voter)

    def pushed(self, master: Master, push: Handover) -> None:
        if push.kind == "G":
            self.poll.ballot.pushed(master.name, push, monotonic())
            self.poll.changed()
        elif push.kind == "D":
            self._refusal = refused(self._contest.request, "destroyed")
            self.poll.changed()
        # L tells of a grant that was given back, or taken by force: the next renewal or look finds out.

    def gap(self, master: Master) -> None:
        if self.poll.ballot.ticket(master.name) is not None:
            self.look()

    def look(self) -> None:
        self._told_to_look = True
        self.poll.changed()

    # --- waiting

    async def _wait(self, patience: Patience) -> Won:
        contest = self._contest
        self._room = contest.masters.join(contest.keys.digest, self.token, self)
        if not contest.is_lock_alone:
            # A process that waits also hears from the store when a lease is taken from it.
            contest.runtime.background(
                contest.runtime.wakeup.pushes.listen(contest.request.keys, self.token, SUBSCRIBED_WITHIN)
            )
        await self._queue_up()
        self._tell_queued()
        with contest.self_call(self.look) as self_call:
            while True:
                won = self.poll.won()
                if won is not None:
                    return won
                if self._refusal is not None:
                    raise self._refusal
                self._reach.check(self.poll, has_majority=self.poll.ballot.reached())
                self.poll.hear(self_call)
                pause = await patience.next_pause()
                if pause is None:
                    raise self.poll.not_now(contest.request, patience.elapsed())
                await self._pause(monotonic() + min(pause, patience.left()))
                if self.poll.won() is None and self._is_to_look():
                    await self._look()

    def _tell_queued(self) -> None:
        observer, ballot = self._contest.runtime.observer, self.poll.ballot
        if observer is not None and self._ticket != UNKNOWN:
            ahead = ballot.position() or 0
            tell_queued(observer, self._contest.request, self._ticket, ahead, ballot.holder())

    async def _queue_up(self) -> None:
        """Into all queues at the same place: the ticket of the first master that answers is shown to the others."""
        for name in self.poll.ballot.to_ask(monotonic()):
            await self._join(self.poll.by_name[name])
            if self.poll.won() is not None or self._refusal is not None:
                return
            if self._ticket != UNKNOWN:
                break
        for name in self.poll.ballot.to_ask(monotonic()):
            if self.poll.ballot.ticket(name) is None:
                self._queue_at(self.poll.by_name[name])
        await self.poll.until_decided()

    def _queue_at(self, master: Master) -> None:
        if master.pushes.hears(self._contest.keys):
            self._ask(master)
        else:
            self.poll.ballot.asked(master.name)  # at once, so that nobody else asks it meanwhile
            self._contest.runtime.background(self._join(master))

    async def _join(self, master: Master) -> None:
        """Subscribe before queueing: a releaser drops whom it cannot reach."""
        self.poll.ballot.asked(master.name)
        await master.pushes.listen(self._contest.keys, self.token, SUBSCRIBED_WITHIN)
        if self.poll.is_open:
            left = left_of(self._contest.request, self._contest.began)
            await asyncio.wait([self._ask(master)], timeout=left)

    @property
    def _is_foremost(self) -> bool:
        """Whether it looks on behalf of all of this process that wait for that session."""
        return self._room is not None and self._room.foremost() is self

    def _is_to_look(self) -> bool:
        told, self._told_to_look = self._told_to_look, False
        return told or self._is_foremost or monotonic() - self._heard_at >= HEARD_OF_EVERY

    async def _look(self) -> None:
        """Ask all again that have not granted for long enough; the tickets give places back that were lost."""
        for name in self.poll.ballot.to_ask(monotonic()):
            self._queue_at(self.poll.by_name[name])
        await self.poll.until_decided()

    async def _pause(self, until: float) -> None:
        """Until there is a majority, or something to look at; a minority of grants is handed on in time."""
        ballot = self.poll.ballot
        started = monotonic()
        if self._heard_at:
            # Not at once, though: where no master answers now, the looks that follow end without waiting for anything.
            until = min(until, max(self._heard_at + HEARD_OF_EVERY, started + LATEST_AFTER_EXPIRY))
        while ballot.won(now := monotonic()) is None and not self._told_to_look and self._refusal is None:
            end = until
            if self._is_foremost:
                looks_at = max(ballot.look_at(now), started) + soon_after_expiry()
                end = min(end, started + self._contest.request.lease.claim_ms / 1000, looks_at)
            if now >= end:
                return
            for name in ballot.give_back(now):
                self._give_back(self.poll.by_name[name])
            await self.poll.change_before(min(end, ballot.hold_until(now)))

    def _give_back(self, master: Master) -> None:
        """Hand a grant on that is of no use without others, and get into that queue again."""
        call = ForceRelease(self._contest.keys, self.token)
        master.send(call, self.poll.while_open(partial(self._gave_back, master)))

    def _gave_back(self, master: Master, reply: Any) -> None:
        answered = not isinstance(reply, NoVote)
        self.poll.ballot.gave_back(master.name, answered=answered)
        if answered:
            self._queue_at(master)
        self.poll.changed()
