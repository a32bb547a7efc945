"""What is to be won, a poll of the masters about it, and how long it may go on without a majority.

Either engine, the native one (:mod:`.election`) and pottery's (:mod:`.pottery`), is made of these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ..clock import monotonic
from ..errors import QuorumNotReached, SessionLockError
from ..lock.patience import GRACE, Patience
from ..lock.refusals import not_granted
from ..lock.request import LockRequest, OnWait
from ..lock.runtime import Runtime
from ..lock.self_call import SelfCallCheck
from ..lock.waiting import Bell
from ..protocol.calls import Acquire
from ..protocol.keys import SessionKeys
from ..protocol.quorum_calls import Adopt, Vote
from .ballot import Ballot, Won
from .master import Master
from .masters import Masters
from .router import CallRouter

__all__ = ["Contest", "Election", "Poll", "Reach"]


@dataclass(frozen=True, slots=True)
class Contest:
    """What is to be won, for an election to win it. ``keys``: as the masters see the session."""

    runtime: Runtime
    router: CallRouter
    request: LockRequest
    keys: SessionKeys
    on_wait: OnWait | None
    began: float  # the wait did, by the monotonic clock

    @property
    def masters(self) -> Masters:
        return self.router.masters

    @property
    def is_lock_alone(self) -> bool:
        """Then the store is asked nothing."""
        return self.request.session is None

    def begin_token(self) -> str:
        return self.runtime.numbers.acquisitions.begin_token(self.request.digest)

    def low(self, token: str) -> str:
        return self.runtime.numbers.acquisitions.low(self.request.digest, token)

    def end_token(self, token: str) -> None:
        self.runtime.numbers.acquisitions.end(self.request.digest, token)

    def poll(self) -> Poll:
        return Poll(self.masters, self.request.lease.claim_ms / 1000, self.began + self.request.longest + GRACE)

    def self_call(self, wake: Callable[[], object]) -> SelfCallCheck:
        return SelfCallCheck(self.runtime, self.request, self.on_wait, wake)


class Election(Protocol):
    """How one token gets the votes of a majority. An object serves once; the next try is another one."""

    @property
    def token(self) -> str: ...

    @property
    def poll(self) -> Poll:
        """What the masters said of this token."""

    @property
    def once(self) -> bool:
        """Whether no master was asked more than once under this token."""

    async def elect(self, patience: Patience) -> Won:
        """Wait for a majority. Raises what :meth:`QuorumAcquisition.run` does."""

    async def end(self) -> None:
        """Return when nothing is on its way to the masters that could overtake the token's end."""

    def leave(self) -> None:
        """Nobody waits any more, and what is answered from now on counts no more."""


class Poll:
    """A ballot, the calls that ask for votes, and the one who waits for their answers, ``until`` then (monotonic)."""

    def __init__(self, masters: Masters, claim: float, until: float) -> None:
        self.by_name: dict[str, Master] = {master.name: master for master in masters.all}
        self.ballot: Ballot = Ballot(list(self.by_name), claim=claim)
        self._masters = masters
        self._until = until
        self._bell = Bell()
        self._deciding = False  # only a decision is worth waking up for
        self._closed = False

    @property
    def is_open(self) -> bool:
        return not self._closed

    def close(self) -> None:
        """What was asked for has been given up, or is not needed, and counts no more."""
        self._closed = True

    def while_open(self, answered: Callable[..., None]) -> Callable[..., None]:
        return partial(self._while_open, answered)

    def _while_open(self, answered: Callable[..., None], *told: Any) -> None:
        if not self._closed:
            answered(*told)

    def ask_all(self, call: Vote | Acquire | Adopt, answered: Callable[[Master, Any], None]) -> None:
        for name in self.by_name:
            self.ballot.asked(name)
        self._masters.send(call, self.while_open(answered))

    def won(self) -> Won | None:
        return self.ballot.won(monotonic())

    # --- the one who waits

    def changed(self) -> None:
        if self._bell.is_heard and (not self._deciding or self.ballot.decided(monotonic())):
            self._bell.ring()

    async def change_before(self, until: float) -> None:
        """Return when something changed, at ``until`` (monotonic) at the latest."""
        await self._bell.silent_until(until)

    async def until_decided(self) -> None:
        self._deciding = True
        try:
            while not self.ballot.decided(now := monotonic()) and now < self._until:
                await self.change_before(self._until)  # every call to a master ends, but a wait may end before
        finally:
            self._deciding = False

    def hear(self, self_call: SelfCallCheck) -> None:
        """Raise what speaks against waiting for whom most masters name."""
        if self_call.untold and (holder := self.ballot.holder()) is not None:
            self_call.consider(holder)
        self_call.check()

    # --- why it was not won

    def not_now(self, request: LockRequest, waited: float | None = None) -> SessionLockError:
        if not self.ballot.reached() or not self.ballot.heard():
            return self.not_reached(request)
        return not_granted(request, self.ballot.holder(), waited=waited, position=self.ballot.position())

    def not_reached(self, request: LockRequest) -> QuorumNotReached:
        answers = {self.by_name[name].label: said for name, said in self.ballot.answers(monotonic()).items()}
        told = "; ".join(f"{label}: {said}" for label, said in answers.items())
        return QuorumNotReached(
            f"{request.title}: fewer than {self.ballot.majority} of {len(answers)} masters have a say"
            f" now ({told}). Nothing was changed; try again",
            answers=answers,
        )


class Reach:
    """A majority that does not answer is waited for as long as one Redis would be; not at all in an outage."""

    def __init__(self, router: CallRouter, request: LockRequest) -> None:
        self._router = router
        self._request = request
        self._lost_at: float | None = None

    def check(self, poll: Poll, *, has_majority: bool) -> None:
        """Raises :class:`QuorumNotReached`: that has lasted for too long."""
        if has_majority:
            self._lost_at = None
            return
        now = monotonic()
        if self._lost_at is None:
            self._lost_at = now
        error = poll.not_reached(self._request)
        if self._router.unreached(self._lost_at, error) or now - self._lost_at >= self._router.retry_for:
            raise error
