"""From "I want this session" to a majority of independent masters, and from there to the session's store.

Uncontended: all masters are asked at once and the answers of a majority suffice; then the store is told, which loads
the session. A lock alone needs no store: the masters agree on its fencing token. Whatever ends it early leaves neither
a lock nor a queue entry at a master that answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum, auto
from functools import lru_cache
from typing import Any

from ..clock import monotonic
from ..lock.patience import Patience, in_time, leaves_within
from ..lock.refusals import outrun, refused
from ..lock.request import LockRequest, OnWait
from ..lock.runtime import Runtime
from ..lock.waiting import LATEST_AFTER_EXPIRY, soon_after_expiry
from ..protocol.calls import Abandon
from ..protocol.quorum_calls import Install, RaiseFence
from ..protocol.replies import EMPTY, Granted, Holder, Refused
from .ballot import Won
from .poll import Contest, Election
from .router import CallRouter, ElectionResult, lock_keys

__all__ = ["QuorumAcquisition"]


_keys_at_masters = lru_cache(maxsize=4096)(lock_keys)


class Stage(Enum):
    """Of an acquisition::

        electing ──majority──▶ installing ──accepted──▶ held
           ▲ │                  │       └──failed──▶ given up, also at the store
           │ └──failed──▶ given up
           └─── a later holder was there first: another election, under another token

    A lock alone is not installed: once a majority knows its fence, it is held.
    """

    ELECTING = auto()
    INSTALLING = auto()  # the store may know the token
    HELD = auto()
    GIVEN_UP = auto()


class QuorumAcquisition:
    """One try to become the holder. ``token`` names it at the masters and at the store.

    ``open_election``: begins one, by whichever engine.
    """

    def __init__(
        self,
        open_election: Callable[[Contest], Election],
        router: CallRouter,
        runtime: Runtime,
        request: LockRequest,
        on_wait: OnWait | None = None,
    ) -> None:
        began = monotonic() if request.began is None else request.began
        self._contest = Contest(runtime, router, request, _keys_at_masters(request.keys), on_wait, began)
        self._open_election = open_election
        self._election = open_election(self._contest)
        self._stage = Stage.ELECTING

    @property
    def token(self) -> str:
        return self._election.token

    @property
    def waits_for(self) -> Holder | None:
        """As :attr:`.Acquiring.waits_for`: by any of the masters."""
        return self._election.poll.ballot.heard_of

    async def run(self) -> Granted:
        """Wait for the grant.

        Raises:
            WaitTimedOut, QueueFull, LockNotAcquired: not granted; nothing was left behind.
            SessionNotFound, SessionDestroyed: there is nothing to lock.
            QuorumNotReached: too few masters answer. RedisUnavailable: the store does not.
        """
        try:
            granted = await self._elected_and_installed()
        except BaseException as error:
            await self._abandon(leaves_within(error, self._contest.request, self._contest.began))
            raise
        else:
            self._stage = Stage.HELD
            # A renewal must not count masters to which a give-back is still on its way.
            spoiled = self._election.poll.ballot.spoiled()
            result = ElectionResult(
                once=self._election.once, without_store=self._contest.is_lock_alone, spoiled=spoiled
            )
            self._contest.router.elected(self.token, result)
            return granted
        finally:
            self._election.leave()

    async def _elected_and_installed(self) -> Granted:
        request = self._contest.request
        patience = Patience(request, self._contest.began)
        take_effect = self._agree if self._contest.is_lock_alone else self._install
        while True:
            won = await self._election.elect(patience)
            self._contest.router.reached()
            granted = await take_effect(won)
            if granted is None and (more := await self._with_stragglers(won)) is not None:
                granted = await take_effect(more)
            if granted is not None:
                return granted
            # A later holder was there first: the majority had been lost.
            await self._abandon(within=0.0)
            self._election.leave()
            await self._breathe(patience)
            self._election = self._open_election(self._contest)
            self._stage = Stage.ELECTING

    async def _with_stragglers(self, won: Won) -> Won | None:
        """The majority with the votes that came after it, if any: they outvote a master whose clock was set back."""
        poll = self._election.poll
        await poll.change_before(monotonic() + LATEST_AFTER_EXPIRY)
        more = poll.won()
        return more if more is not None and len(more.vector) > len(won.vector) else None

    async def _breathe(self, patience: Patience) -> None:
        """Between two elections: not at full speed, and no longer than is to be waited."""
        request = self._contest.request
        pause = await patience.next_pause() if request.wait.queues else None
        if pause is None:
            raise outrun(request, patience.elapsed())
        await asyncio.sleep(min(pause, patience.left(), soon_after_expiry()))

    # --- a fencing token

    async def _agree(self, won: Won) -> Granted | None:
        """For a lock alone: the highest counter that was given, known to a majority. None when it was lost meanwhile.

        Whoever gets the lock later has a vote of one of that majority, and there a higher counter; so the highest that
        it is given is higher. Masters give the same counter when they can: then nothing has to be asked.
        """
        if won.agreed < self._contest.masters.majority and not await self._raise_fence(won):
            return None
        return Granted(won.fence, 0, won.asked_at, won.trusted_for, EMPTY)

    async def _raise_fence(self, won: Won) -> bool:
        """Whether a majority knows it now. Of those that won it only: another may have been a later holder's before."""
        masters = self._contest.masters
        members = {name for name, _ in won.vector}

        def raised(answers: dict[str, Any]) -> int:
            return sum(answers[name] is True for name in members & answers.keys())

        def enough(answers: dict[str, Any]) -> bool:
            still_out = len(members - answers.keys())
            return raised(answers) >= masters.majority or raised(answers) + still_out < masters.majority

        call = RaiseFence(self._contest.keys, self.token, won.fence)
        return raised(await masters.ask(call, enough)) >= masters.majority

    # --- the store

    async def _install(self, won: Won) -> Granted | None:
        """The majority takes effect where the session is. None when a later one did."""
        contest, request = self._contest, self._contest.request
        self._stage = Stage.INSTALLING
        asked_at = monotonic()
        call = Install(
            request.keys,
            self.token,
            max(1, int((won.until - asked_at) * 1000) + 1),
            won.vector,
            contest.masters.majority,
            request.session,
            channel=contest.runtime.wakeup.pushes.channel(request.keys),
            label=request.label,
            missing=request.missing,
        )
        outcome = await in_time(contest.router.run(call), request, contest.began, None)
        if isinstance(outcome, Granted):
            return Granted(outcome.fence, outcome.server_us, won.asked_at, won.trusted_for, outcome.snapshot)
        assert isinstance(outcome, Refused)
        self._stage = Stage.ELECTING  # the store has nothing under this token
        if outcome.kind == "stale":
            return None
        raise refused(request, outcome.kind)

    # --- giving up

    async def _abandon(self, within: float) -> None:
        """Give up whatever there is under this token, at the store and at the masters."""
        at_store = self._stage is Stage.INSTALLING
        self._stage = Stage.GIVEN_UP
        self._election.poll.close()
        await self._contest.runtime.see_through(self._give_up(self._election, at_store=at_store), within=within)

    async def _give_up(self, election: Election, *, at_store: bool) -> None:
        """What does not answer is not waited for; its locks run out."""
        await election.end()
        call = Abandon(
            self._contest.request.keys, election.token, self._contest.low(election.token), once=election.once
        )
        at_masters = self._contest.masters.settle(call)
        if at_store:
            await self._contest.router.store.run(call)
        await at_masters
        self._contest.end_token(election.token)
