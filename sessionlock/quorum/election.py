"""From "I want this session" to a majority of independent masters, and from there to the session's store.

Uncontended: all masters are asked at once and the answers of a majority suffice; then the store is told, which loads
the session. A lock alone needs no store: the masters agree on its fencing token. Contended: one ticket for the same
place in all queues, a subscription at each master, and votes that are counted as they are pushed. Whatever ends it
early leaves neither a lock nor a queue entry at a master that answers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeVar

from .. import observe
from ..errors import QuorumNotReached, RedisUnavailable, SessionLockError
from ..lock.patience import Patience
from ..lock.refusals import not_granted, outrun, queue_full, refused
from ..lock.request import LockRequest, OnWait
from ..lock.runtime import Runtime
from ..lock.self_call import SelfCallCheck
from ..lock.waiting import HEARD_OF_EVERY, LATEST_AFTER_EXPIRY, SOONEST_AFTER_EXPIRY
from ..protocol import replies as protocol
from ..protocol.calls import Abandon, Acquire
from ..protocol.keys import SessionKeys, new_token
from ..protocol.quorum_calls import Adopt, Install, RaiseFence, Vote
from ..protocol.record_calls import ForceRelease
from ..protocol.replies import Acquired, Busy, Granted, Handover, Queued, Voted
from .ballot import Ballot, Won
from .master import Master, NoVote
from .masters import Masters, Voter
from .router import QuorumExecutor, lock_keys

__all__ = ["QuorumAcquisition"]

T = TypeVar("T")


_keys_at_masters = lru_cache(maxsize=4096)(lock_keys)


class QuorumAcquisition(Voter):
    """One try to become the holder. ``token`` names it at the masters and at the store."""

    def __init__(
        self, runtime: Runtime, executor: QuorumExecutor, wanted: LockRequest, on_wait: OnWait | None = None
    ) -> None:
        self.token = new_token()
        self._runtime = runtime
        self._executor = executor
        self._wanted = wanted
        self._on_wait = on_wait
        self._retry_for = executor.retry_for
        self._masters: Masters = executor.masters
        self._keys: SessionKeys = _keys_at_masters(wanted.keys)
        self._by_name = {master.name: master for master in self._masters.all}
        self._listens = False
        self._without_store = wanted.session is None
        self._begin()

    def _begin(self) -> None:
        self._ballot = Ballot(list(self._by_name), claim=self._wanted.lease.claim_ms / 1000)
        self._installing = False
        self._full: Busy | None = None
        self._ticket = "0"
        self._change: asyncio.Future[None] | None = None
        self._deciding = False  # only a decision is worth waking up for
        self._told_to_look = False
        self._destroyed = False
        self._heard_at = 0.0
        self._unreached_since: float | None = None
        self._over = False
        self._once = True  # no master was asked more than once under this token

    async def run(self) -> Granted:
        """Wait for the grant.

        Raises:
            WaitTimedOut, QueueFull, LockNotAcquired: not granted; nothing was left behind.
            SessionNotFound, SessionDestroyed: there is nothing to lock.
            QuorumNotReached: too few masters answer. RedisUnavailable: the store does not.
        """
        try:
            granted = await self._elected_and_installed()
            self._over = True
            return granted
        except BaseException as error:
            await self._abandon(wait=not isinstance(error, RedisUnavailable))
            raise
        finally:
            self._leave()

    def _leave(self) -> None:
        self._masters.leave(self._keys.digest, self.token)
        if self._listens:
            self._listens = False
            self._runtime.wakeup.pushes.no_more(self._wanted.keys, self.token)

    async def _elected_and_installed(self) -> Granted:
        patience = Patience(self._wanted)
        take_effect = self._agree if self._without_store else self._install
        while True:
            won = await self._elect(patience)
            self._executor.reached()
            granted = await take_effect(won)
            if granted is None and (more := await self._with_stragglers(won)) is not None:
                granted = await take_effect(more)
            if granted is not None:
                return granted
            # A later holder was there first: the majority had been lost. Begin again, under another name.
            await self._abandon(wait=False)
            self._leave()
            await self._breathe(patience)
            self.token = new_token()
            self._begin()

    async def _with_stragglers(self, won: Won) -> Won | None:
        """The majority with the votes that came after it, if any: they outvote a master whose clock was set back."""
        await self._change_before(time.monotonic() + LATEST_AFTER_EXPIRY)
        more = self._ballot.won(time.monotonic())
        return more if more is not None and len(more.vector) > len(won.vector) else None

    async def _breathe(self, patience: Patience) -> None:
        """Between two elections: not at full speed, and no longer than is to be waited."""
        pause = await patience.next_pause() if self._wanted.wait.queues else None
        if pause is None:
            raise outrun(self._wanted.digest, patience.elapsed())
        await asyncio.sleep(min(pause, patience.left(), random.uniform(SOONEST_AFTER_EXPIRY, LATEST_AFTER_EXPIRY)))

    async def _elect(self, patience: Patience) -> Won:
        return await self._first_round() or await self._wait(patience)

    # --- a fencing token

    async def _agree(self, won: Won) -> Granted | None:
        """For a lock alone: the highest counter that was given, known to a majority. None when it was lost meanwhile.

        Whoever gets the lock later has a vote of one of that majority, and there a higher counter; so the highest that
        it is given is higher. Masters give the same counter when they can: then nothing has to be asked.
        """
        if won.agreed < self._masters.majority and not await self._raise_fence(won):
            return None
        self._executor.without_store.add(self.token)
        self._not_to_be_relied_upon()
        return Granted(won.fence, 0, won.asked_at, won.trusted_for, protocol.EMPTY)

    async def _raise_fence(self, won: Won) -> bool:
        """Whether a majority knows it now. Of those that won it only: another may have been a later holder's before."""
        majority = self._masters.majority
        members = {name for name, _ in won.vector}

        def raised(answers: dict[str, Any]) -> int:
            return sum(answers[name] is True for name in members & answers.keys())

        def enough(answers: dict[str, Any]) -> bool:
            still_out = len(members - answers.keys())
            return raised(answers) >= majority or raised(answers) + still_out < majority

        call = RaiseFence(self._keys, self.token, won.fence)
        return raised(await self._masters.ask(call, enough)) >= majority

    # --- the store

    async def _install(self, won: Won) -> Granted | None:
        """The majority takes effect where the session is. None when a later one did."""
        wanted = self._wanted
        self._installing = True
        asked_at = time.monotonic()
        call = Install(
            wanted.keys,
            self.token,
            max(1, int((won.until - asked_at) * 1000) + 1),
            won.vector,
            self._ballot.majority,
            wanted.session,
            channel=self._runtime.wakeup.pushes.channel(wanted.keys),
            label=wanted.label,
            missing=wanted.missing,
        )
        outcome = await self._executor.run(call)
        if isinstance(outcome, protocol.Refused):
            self._installing = False  # the store has nothing under this token
        if isinstance(outcome, Granted):
            self._not_to_be_relied_upon()
            return Granted(outcome.fence, outcome.server_us, won.asked_at, won.trusted_for, outcome.snapshot)
        assert isinstance(outcome, protocol.Refused)
        if outcome.kind == "stale":
            return None
        raise refused(wanted.digest, outcome.kind)

    def _not_to_be_relied_upon(self) -> None:
        """A renewal must not count masters to which a give-back is still on its way."""
        spoiled = self._ballot.spoiled()
        if spoiled:
            self._executor.spoiled[self.token] = spoiled

    async def _abandon(self, *, wait: bool) -> None:
        """Give up whatever there is under this token, at the store and at the masters."""
        self._over = True
        self._executor.forget(self.token)
        call = Abandon(self._wanted.keys, self.token, push_limit=0, once=self._once)
        await self._runtime.see_through(self._abandon_all(call), wait=wait)

    async def _abandon_all(self, call: Abandon) -> None:
        """What does not answer is not waited for; its locks run out."""
        at_masters = self._masters.settle(call)
        if self._installing:
            await self._executor.store.run(call)
        await at_masters

    # --- asking

    async def _first_round(self) -> Won | None:
        """One parallel round trip. None when others hold it, and it is to be waited for."""
        # A store has a counter of its own: with one, the masters need not give the same.
        proposed = self._masters.proposal() if self._without_store else 0
        call = Vote(
            self._keys,
            self.token,
            self._wanted.lease,
            label=self._wanted.label,
            proposed=proposed,
            asked_at=time.monotonic(),
        )
        self._ask_all(call, self._voted)
        await self._until_decided()
        won = self._ballot.won(time.monotonic())
        if won is not None:
            self._executor.voted_once.add(self.token)
        elif not self._wanted.wait.queues:
            return await self._second_round()
        return won

    async def _second_round(self) -> Won:
        """For who does not wait: a vote does not tell who holds the lock, or it may be free by now."""
        self._once = False
        self._ask_all(self._acquire(), self._answered)
        await self._until_decided()
        won = self._ballot.won(time.monotonic())
        if won is None:
            raise self._not_now()
        return won

    def _ask_all(self, call: Vote | Acquire | Adopt, answered: Callable[[Master, Any], None]) -> None:
        for name in self._by_name:
            self._ballot.asked(name)
        self._masters.send(call, self._mine(answered))

    def _mine(self, answered: Callable[..., None]) -> Callable[..., None]:
        """What was asked for under an earlier token has been given up, and counts no more."""
        token = self.token

        def heard(*told: Any) -> None:
            if not self._over and self.token == token:
                answered(*told)

        return heard

    def _voted(self, master: Master, outcome: Voted | NoVote) -> None:
        if isinstance(outcome, Granted):
            self._granted(master, outcome)
        elif isinstance(outcome, NoVote):
            self._ballot.silent(master.name, str(outcome))
        else:
            self._ballot.taken(master.name)
            if self._ticket != "0":
                self._queue_at(master)  # asked before this acquisition knew that it has to wait
        self._changed()

    def _ask(self, master: Master) -> asyncio.Future[Any]:
        """Get into that master's queue, or back into it, or its lock; done when it has answered."""
        self._once = False
        self._ballot.asked(master.name)
        ticket = self._ballot.ticket(master.name) or self._ticket
        call = self._acquire(master.pushes.channel(self._keys), ticket)
        told = self._mine(partial(self._answered, master))
        done = asyncio.get_running_loop().create_future()

        def answered(reply: Any) -> None:
            told(reply)
            if not done.done():
                done.set_result(None)

        master.send(call, answered)
        return done

    def _acquire(self, channel: str = "-", ticket: str = "0") -> Acquire:
        """``channel`` "-": not to be queued."""
        wanted = self._wanted
        return Acquire(
            self._keys,
            self.token,
            wanted.lease,
            None,
            channel=channel,
            label=wanted.label,
            queueing=channel != "-",
            max_waiters=wanted.wait.max_waiters,
            ticket=ticket,
            asked_at=time.monotonic(),
        )

    def _answered(self, master: Master, outcome: Acquired | NoVote) -> None:
        name = master.name
        if isinstance(outcome, Granted):
            self._granted(master, outcome)
        elif isinstance(outcome, Queued):
            self._ballot.queued(name, outcome)
            self._heard_at = time.monotonic()
            if self._ticket == "0":
                self._ticket = outcome.ticket
        elif isinstance(outcome, Busy):
            self._ballot.busy(name, outcome)
            if outcome.full:
                self._full = outcome
            elif self._ticket != "0":
                self._queue_at(master)  # asked before this acquisition knew that it has to wait
        elif isinstance(outcome, NoVote):
            self._ballot.silent(name, str(outcome))
        else:
            self._ballot.silent(name, f"refused the acquire call: {outcome.kind}")
        self._changed()

    def _granted(self, master: Master, granted: Granted) -> None:
        master.ahead_us = granted.server_us - int(granted.asked_at * 1_000_000)
        self._ballot.granted(master.name, granted)

    def pushed(self, master: Master, push: Handover) -> None:
        if push.kind == "G":
            self._ballot.pushed(master.name, push, time.monotonic())
            self._changed()
        elif push.kind == "D":
            self._destroyed = True
            self._changed()
        # L tells of a grant that was given back, or taken by force: the next renewal or look finds out.

    def gap(self, master: Master) -> None:
        if self._ballot.ticket(master.name) is not None:
            self.look()

    def look(self) -> None:
        self._told_to_look = True
        self._changed()

    def _changed(self) -> None:
        change = self._change
        if change is None or change.done() or (self._deciding and not self._ballot.decided(time.monotonic())):
            return
        change.set_result(None)

    async def _change_before(self, until: float) -> None:
        """Return when something changed, at ``until`` (monotonic) at the latest."""
        loop = asyncio.get_running_loop()
        self._change = change = loop.create_future()
        timer = loop.call_later(max(0.0, until - time.monotonic()), self._changed) if until < float("inf") else None
        try:
            await change
        finally:
            if timer is not None:
                timer.cancel()
            self._change = None

    async def _until_decided(self) -> None:
        self._deciding = True
        try:
            while not self._ballot.decided(time.monotonic()):
                await self._change_before(float("inf"))  # every call to a master ends
        finally:
            self._deciding = False

    # --- waiting

    async def _wait(self, patience: Patience) -> Won:
        self._masters.expect(self.token, self)
        self._masters.join(self._keys.digest, self.token, self)
        if not self._without_store:
            # A process that waits also hears from the store when a lease is taken from it.
            self._listens = True
            self._runtime.background(self._runtime.wakeup.pushes.listen(self._wanted.keys, self.token))
        await self._queue_up()
        self._tell_queued()
        with self._self_call() as self_call:
            while True:
                won = self._ballot.won(time.monotonic())
                if won is not None:
                    return won
                self._check_worth_waiting()
                self._hear(self_call)
                pause = await patience.next_pause()
                if pause is None:
                    raise self._not_now(patience.elapsed())
                await self._pause(time.monotonic() + min(pause, patience.left()))
                if self._ballot.won(time.monotonic()) is None and self._is_to_look():
                    await self._look()

    def _tell_queued(self) -> None:
        observer, holder = self._runtime.observer, self._ballot.holder()
        if observer is not None and self._ticket != "0":
            ahead, who = self._ballot.position() or 0, None if holder is None else holder.label
            observer(observe.LockQueued(self._wanted.digest, self._wanted.label, int(self._ticket), ahead, who))

    def _self_call(self) -> SelfCallCheck:
        return SelfCallCheck(self._runtime, self._wanted, self._on_wait, self.look)

    def _hear(self, self_call: SelfCallCheck) -> None:
        if self_call.untold and (holder := self._ballot.holder()) is not None:
            self_call.consider(holder)
        self_call.check()

    def _check_worth_waiting(self) -> None:
        if self._destroyed:
            raise refused(self._wanted.digest, "destroyed")
        if self._full is not None:
            raise queue_full(self._wanted.digest, self._full)
        self._check_reached()

    async def _queue_up(self) -> None:
        """Into all queues at the same place: the ticket of the first master that answers is shown to the others."""
        for name in self._ballot.to_ask(time.monotonic()):
            await self._join(self._by_name[name])
            if self._ballot.won(time.monotonic()) is not None or self._full is not None:
                return
            if self._ticket != "0":
                break
        for name in self._ballot.to_ask(time.monotonic()):
            if self._ballot.ticket(name) is None:
                self._queue_at(self._by_name[name])
        await self._until_decided()

    def _queue_at(self, master: Master) -> None:
        if master.pushes.hears(self._keys):
            self._ask(master)
        else:
            self._ballot.asked(master.name)  # at once, so that nobody else asks it meanwhile
            self._runtime.background(self._join(master))

    async def _join(self, master: Master) -> None:
        """Subscribe before queueing: a releaser drops whom it cannot reach."""
        token = self.token
        self._ballot.asked(master.name)
        await master.pushes.listen(self._keys, token)
        if not self._over and self.token == token:
            await asyncio.wait([self._ask(master)])

    def _is_to_look(self) -> bool:
        told, self._told_to_look = self._told_to_look, False
        overdue = time.monotonic() - self._heard_at >= HEARD_OF_EVERY
        return told or overdue or self._masters.foremost(self._keys.digest, self)

    async def _look(self) -> None:
        """Ask all again that have not granted for long enough; the tickets give places back that were lost."""
        for name in self._ballot.to_ask(time.monotonic()):
            self._queue_at(self._by_name[name])
        await self._until_decided()

    async def _pause(self, until: float) -> None:
        """Until there is a majority, or something to look at; a minority of grants is handed on in time."""
        ballot = self._ballot
        started = time.monotonic()
        if self._heard_at:
            # Not at once, though: where no master answers now, the looks that follow end without waiting for anything.
            until = min(until, max(self._heard_at + HEARD_OF_EVERY, started + LATEST_AFTER_EXPIRY))
        while ballot.won(now := time.monotonic()) is None and not self._interrupted:
            end = until
            if self._masters.foremost(self._keys.digest, self):
                spread = random.uniform(SOONEST_AFTER_EXPIRY, LATEST_AFTER_EXPIRY)
                looks_at = max(ballot.look_at(now), started) + spread
                end = min(end, started + self._wanted.lease.claim_ms / 1000, looks_at)
            if now >= end:
                return
            for name in ballot.give_back(now):
                self._give_back(self._by_name[name])
            await self._change_before(min(end, ballot.hold_until(now)))

    @property
    def _interrupted(self) -> bool:
        return self._told_to_look or self._destroyed or self._full is not None

    def _give_back(self, master: Master) -> None:
        """Hand a grant on that is of no use without others, and get into that queue again."""
        call = ForceRelease(self._keys, self.token, push_limit=0)
        master.send(call, self._mine(partial(self._gave_back, master)))

    def _gave_back(self, master: Master, reply: Any) -> None:
        answered = not isinstance(reply, NoVote)
        self._ballot.gave_back(master.name, answered=answered)
        if answered:
            self._queue_at(master)
        self._changed()

    # --- giving up

    def _check_reached(self) -> None:
        """A majority that does not answer is waited for as long as one Redis would be; not at all in an outage."""
        if self._has_a_majority():
            self._unreached_since = None
            return
        now = time.monotonic()
        if self._unreached_since is None:
            self._unreached_since = now
        error = self._not_reached()
        if self._executor.unreached(self._unreached_since, error) or now - self._unreached_since >= self._retry_for:
            raise error

    def _has_a_majority(self) -> bool:
        return self._ballot.reached()

    def _not_now(self, waited: float | None = None) -> SessionLockError:
        if not self._ballot.reached():
            return self._not_reached()
        return not_granted(self._wanted.digest, self._ballot.holder(), waited=waited, position=self._ballot.position())

    def _not_reached(self) -> QuorumNotReached:
        answers = {self._by_name[name].label: said for name, said in self._ballot.answers(time.monotonic()).items()}
        told = "; ".join(f"{label}: {said}" for label, said in answers.items())
        return QuorumNotReached(
            f"session {self._wanted.digest}: fewer than {self._ballot.majority} of {len(answers)} masters have a say"
            f" now ({told}). Nothing was changed; try again",
            answers=answers,
        )
