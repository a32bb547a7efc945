"""One acquisition's votes at N independent masters, without any I/O: who granted, for how long, what to do next.

Each master runs the scripts of one Redis by itself: its own lock, its own queue, its own counter of grants. A lock is
held by whom a majority of masters granted it to, for as long as a majority of those grants certainly runs.

States of one master's vote, as this process knows it::

    unasked ──ask──▶ pending ──▶ held        granted, until an instant that this process computed
                        │ ▲  └─▶ waiting     in that master's queue; a push or the next look ends it
                        │ │  └─▶ refused     busy (and not queued)
                        │ │  └─▶ silent      no answer, an error, or it restarted and has no say yet
                        │ └───── look ◀───── waiting, refused, silent, and held shortly before its end
    held ──give back──▶ returning ──answered──▶ unasked, asked again in the same breath
                            └──unanswered──▶ spoiled: it may be taken back at any later time, so it never counts again

What can go wrong, and where it is met:

- *Split vote.* Each of several waiters holds some masters and waits for the rest. A minority of grants is kept only for
  a short random moment (longer for whom is first in line), then handed to who comes next there.
- *A grant lapses while the others are collected.* Only grants that still run count, and the lease is trusted until the
  majority-th largest of their ends, each reckoned from a clock read before its call.
- *A give-back is on its way when the same master grants again.* Grants up to the fence that was given back are over,
  also when a push tells of them late. A give-back that was not answered spoils the vote.
- *The winner pauses before it reaches the store.* The store compares the vector of counters: at least one master voted
  for both this holder and any later one, and its counter is higher for the later.
- *A master restarts empty* and would vote twice. It has no say until every lease it may have forgotten has ended
  (:class:`.connection.Uptime`); its counter goes on with its clock.
- *A master's clock was set back as well*, so that its counter is below what the store saw: the store accepts a vector
  when a majority of it is not older, so one such master neither lets an older holder in nor locks everybody out.
- *A master hangs.* Nothing here waits for it: ``decided`` looks at what the others said.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..protocol.replies import EMPTY, Busy, Granted, Handover, Holder, Queued, granted_by_push

__all__ = ["Ballot", "Won"]

SHORTEST_HOLD = 0.01  # seconds for which a minority of grants is kept
LONGEST_HOLD = 0.05
FIRST_IN_LINE = 3  # so many times longer by whom the others should give way to
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Won:
    """A majority. ``vector``: master and its counter, for the store. Trusted ``trusted_for`` s from ``asked_at`` on."""

    vector: tuple[tuple[str, int], ...]
    asked_at: float
    trusted_for: float

    @property
    def until(self) -> float:
        return self.asked_at + self.trusted_for

    @property
    def fence(self) -> int:
        """The highest counter. It is above all that were used before once a majority of masters has it."""
        return max(counter for _, counter in self.vector)

    @property
    def agreed(self) -> int:
        """How many masters gave just this one."""
        fence = self.fence
        return sum(counter == fence for _, counter in self.vector)


@dataclass(slots=True)
class _Grant:
    """A grant. ``told``: the push and when it came, if it came by push."""

    fence: int
    server_us: int
    asked_at: float
    trusted_for: float
    told: tuple[Handover, float] | None = None

    @property
    def until(self) -> float:
        return self.asked_at + self.trusted_for


class _Vote:
    """What one master last said."""

    __slots__ = ("held", "holder", "pending", "queued", "returned", "returning", "said", "spoiled")

    def __init__(self) -> None:
        self.held: _Grant | None = None
        self.queued: Queued | None = None  # where it said that this acquisition stands
        self.holder: Holder | None = None
        self.said = ""  # why it has no say; "" while it has
        self.pending = False
        self.returning = False
        self.returned = 0  # grants up to this fence are over
        self.spoiled = False

    def counts(self, now: float) -> bool:
        return self.held is not None and self.held.until > now


def _by_push(push: Handover, came_at: float, seen: Queued | None) -> _Grant:
    seen_us, seen_at = (None, 0.0) if seen is None else (seen.server_us, seen.asked_at)
    granted = granted_by_push(push, EMPTY, seen_us, seen_at, came_at)
    return _Grant(granted.fence, granted.server_us, granted.asked_at, granted.trusted_for, (push, came_at))


def _some_time() -> float:
    return random.uniform(SHORTEST_HOLD, LONGEST_HOLD)


class Ballot:
    """``claim``: seconds; a majority that runs less than half of it is asked again before it is relied upon."""

    def __init__(self, masters: Sequence[str], *, claim: float, draw: Callable[[], float] = _some_time) -> None:
        self.majority: int = len(masters) // 2 + 1
        self.heard_of: Holder | None = None  # who any master said last that it is held by
        self._votes = {master: _Vote() for master in masters}
        self._least = claim / 2
        self._longest_hold = claim / 2
        self._draw = draw
        self._hold_until: float | None = None
        self._unwanted = 0  # times that a minority was given back and nobody else wanted it

    # --- what the masters say

    def asked(self, master: str) -> None:
        self._votes[master].pending = True

    def granted(self, master: str, granted: Granted) -> None:
        vote = self._heard(master)
        held = _Grant(granted.fence, granted.server_us, granted.asked_at, granted.trusted_for)
        if self._counted(vote, held) and vote.returned:
            self._unwanted += 1

    def queued(self, master: str, queued: Queued) -> None:
        vote = self._heard(master)
        self._unwanted = 0
        if vote.held is not None and vote.held.server_us >= queued.server_us:
            # A push overtook this reply; now the server's clock is known by which it can be trusted.
            if vote.held.told is not None:
                vote.held = _by_push(*vote.held.told, queued)
            return
        vote.held, vote.queued, vote.holder = None, queued, queued.holder
        self.heard_of = queued.holder

    def busy(self, master: str, busy: Busy) -> None:
        vote = self._heard(master)
        vote.held, vote.queued, vote.holder = None, None, busy.holder
        self.heard_of = busy.holder

    def taken(self, master: str) -> None:
        """Not granted; by whom it is held was not told."""
        vote = self._heard(master)
        vote.held, vote.queued, vote.holder = None, None, None

    def silent(self, master: str, why: str) -> None:
        """No answer, or none that counts. What it granted before runs on; it may also have granted this."""
        vote = self._heard(master)
        vote.said = why

    def pushed(self, master: str, push: Handover, now: float) -> None:
        """A grant that was handed over. Trusted by what that master told of its clock before, else not yet."""
        vote = self._votes[master]
        if vote.queued is not None and push.server_us < vote.queued.server_us:
            return  # a later reply overtook it: that grant is over
        if self._counted(vote, _by_push(push, now, vote.queued)):
            vote.said = ""

    def _heard(self, master: str) -> _Vote:
        vote = self._votes[master]
        vote.pending, vote.said = False, ""
        return vote

    def _counted(self, vote: _Vote, held: _Grant) -> bool:
        if vote.spoiled or vote.returning or held.fence <= vote.returned:
            return False
        if vote.held is None or (held.fence, held.until) > (vote.held.fence, vote.held.until):
            vote.held = held
        vote.queued = vote.holder = None
        return True

    # --- what follows from it

    def won(self, now: float) -> Won | None:
        """The majority, if there is one that runs long enough to be relied upon."""
        held = [(master, vote.held) for master, vote in self._votes.items() if vote.held and vote.counts(now)]
        if len(held) < self.majority:
            return None
        least = sorted((one for _, one in held), key=lambda one: one.until, reverse=True)[self.majority - 1]
        if least.until - now < self._least:
            return None
        return Won(tuple((master, one.fence) for master, one in held), least.asked_at, least.trusted_for)

    def decided(self, now: float) -> bool:
        """Whether the answers that are still out can change nothing, or need not be waited for."""
        pending = held = possible = 0
        for vote in self._votes.values():
            counts = vote.held is not None and vote.held.until > now
            pending += vote.pending
            held += counts
            possible += counts or vote.pending
        if held >= self.majority and self.won(now) is not None:
            return True
        return possible < self.majority or not pending

    def reached(self) -> bool:
        """Whether enough masters have a say for anybody to win."""
        return sum(not vote.said and not vote.spoiled for vote in self._votes.values()) >= self.majority

    def heard(self) -> bool:
        """Whether enough masters have said something: who hangs has a say, but does not use it."""
        silent = sum(
            vote.said != "" or (vote.pending and vote.held is None and vote.holder is None)
            for vote in self._votes.values()
        )
        return len(self._votes) - silent >= self.majority

    def to_ask(self, now: float) -> list[str]:
        """Whom a look is to ask: all but those that granted for long enough, and those that are being asked."""
        return [
            master
            for master, vote in self._votes.items()
            if not (vote.pending or vote.returning or vote.spoiled)
            and (vote.held is None or vote.held.until - now < self._least)
        ]

    def ticket(self, master: str) -> str | None:
        """The place in that master's queue, as it was told."""
        queued = self._votes[master].queued
        return queued.ticket if queued is not None else None

    def look_at(self, now: float) -> float:
        """When the leases that are waited for have ended, as far as the masters told: a majority may be had then."""
        lacking = self.majority - sum(vote.counts(now) for vote in self._votes.values())
        ends = sorted(
            vote.queued.asked_at + (NEVER if vote.queued.left is None else vote.queued.left)
            for vote in self._votes.values()
            if vote.queued is not None and vote.held is None
        )
        return ends[lacking - 1] if 0 < lacking <= len(ends) else NEVER

    # --- a minority of grants is not kept for long

    def hold_until(self, now: float) -> float:
        """Until when the grants at hand are kept in the hope of more; inf when there are none, or they are enough."""
        if self.won(now) is not None or not any(vote.counts(now) for vote in self._votes.values()):
            self._hold_until = None
            return NEVER
        if self._hold_until is None:
            waiting = [vote.queued.position for vote in self._votes.values() if vote.queued is not None]
            patience = FIRST_IN_LINE if waiting and not any(waiting) else 1
            hold = self._draw() * patience * 2 ** min(self._unwanted, 16)
            self._hold_until = now + min(hold, self._longest_hold)
        return self._hold_until

    def give_back(self, now: float) -> list[str]:
        """The masters whose grants are to be given back now; from here on they do not count."""
        if now < self.hold_until(now):
            return []
        self._hold_until = None
        return self.give_all_back()

    def give_all_back(self) -> list[str]:
        given = []
        for master, vote in self._votes.items():
            if vote.held is not None and not vote.returning:
                vote.returned, vote.held, vote.returning = vote.held.fence, None, True
                given.append(master)
        return given

    def gave_back(self, master: str, *, answered: bool) -> None:
        vote = self._votes[master]
        vote.returning = False
        if not answered:
            vote.spoiled = True
            vote.said = "did not answer when its grant was given back"

    def spoiled(self) -> frozenset[str]:
        """The masters that may take a grant back at any time."""
        return frozenset(master for master, vote in self._votes.items() if vote.spoiled or vote.returning)

    # --- for those who are told

    def position(self) -> int | None:
        """The best place in a queue, 0 = next; None when in no queue."""
        return min((vote.queued.position for vote in self._votes.values() if vote.queued), default=None)

    def holder(self) -> Holder | None:
        """Whom most masters name as the holder."""
        named = [vote.holder for vote in self._votes.values() if vote.holder is not None]
        labels = [holder.label for holder in named]
        return max(named, key=lambda holder: labels.count(holder.label), default=None)

    def answers(self, now: float) -> dict[str, str]:
        return {master: _told(vote, now) for master, vote in self._votes.items()}


def _told(vote: _Vote, now: float) -> str:
    if vote.said:
        return vote.said
    if vote.held is not None:
        return "granted" if vote.counts(now) else "its grant has run out"
    if vote.holder is not None:
        age = "" if vote.holder.age is None else f" for {vote.holder.age:.2f} s"
        return f"held by {vote.holder.label}{age}"
    return "no answer yet" if vote.pending else "not asked"
