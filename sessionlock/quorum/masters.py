"""All independent masters of a quorum: asked at once, and heard when they push."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from ..clock import monotonic
from ..lock.waiting import Room, WaitingRooms
from ..protocol.calls import Abandon, Call
from ..protocol.quorum_calls import Dismiss
from ..protocol.replies import Handover
from ..transport.pushes import Rounds
from ..transport.scripting import Packing
from .config import Quorum, master_name
from .master import Master, NoVote

__all__ = ["Masters", "Voter"]

NEAR_US = 500_000
PROPOSED_AHEAD_US = 10_000  # for the way there, which may be longer than it was when the clock was told


class Voter(Protocol):
    """What waits for pushes: an election that is under way."""

    def pushed(self, master: Master, push: Handover) -> None: ...

    def look(self) -> None:
        """It is this one's turn to look."""

    def gap(self, master: Master) -> None:
        """Pushes of that master may have been missed."""


class Masters:
    """All of them, for one event loop. ``quorum``: as :meth:`Quorum.connected` returns it."""

    def __init__(self, quorum: Quorum, *, prefix: str, lease_ttl: float) -> None:
        self.prefix: str = prefix
        self._voters: dict[str, Voter] = {}
        self._rooms: WaitingRooms[Voter] = WaitingRooms()
        self._settling: set[asyncio.Future[list[Any]]] = set()
        self.all: Sequence[Master] = [
            Master(
                client,
                master_name(label),
                label,
                prefix=prefix,
                reply_within=quorum.reply_within,
                rejoin_after=lease_ttl if quorum.rejoin_after == "auto" else quorum.rejoin_after,
                on_push=self._pushed,
                on_gap=self._gap,
            )
            for label, client in quorum.masters.items()
        ]
        self.majority: int = len(self.all) // 2 + 1
        self._last_proposed = 0
        self._rounds = Rounds(self._check_pushes)

    # --- who waits here

    def join(self, digest: str, token: str, voter: Voter) -> Room[Voter]:
        """Pushes for ``token`` may come from now on."""
        self._voters[token] = voter
        room = self._rooms.room(digest)
        room.enter(token, voter)
        self._rounds.begin()
        return room

    def leave(self, digest: str, token: str) -> None:
        self._voters.pop(token, None)
        if not self._voters:
            self._rounds.end()
        successor = self._rooms.leave(digest, token)
        if successor is not None:
            successor.look()

    def _check_pushes(self) -> None:
        for master in self.all:
            master.pushes.check()

    def _pushed(self, master: Master, push: Handover) -> None:
        voter = self._voters.get(push.token)
        if voter is not None:
            voter.pushed(master, push)
        # Otherwise it left meanwhile, and its abandon call hands the lock on.

    def _gap(self, master: Master) -> None:
        for voter in list(self._voters.values()):
            voter.gap(master)

    def proposal(self) -> int:
        """A counter that is just above the clocks of the masters, for them to give the same one; 0 when not known.

        It grows with every call. A clock that is far ahead of most is left out: to the others it would be of no use.
        """
        known = sorted(master.ahead_us for master in self.all if master.ahead_us is not None)
        if len(known) < self.majority:
            return 0
        usual = known[(len(known) - 1) // 2]
        ahead = max(one for one in known if one - usual < NEAR_US)
        proposed = int(monotonic() * 1_000_000) + ahead + PROPOSED_AHEAD_US
        if 0 <= self._last_proposed - proposed < NEAR_US:
            proposed = self._last_proposed + 1
        self._last_proposed = proposed
        return proposed

    # --- all at once

    async def ask(self, call: Call[Any], enough: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
        """Each master's reply, or its :class:`NoVote`, as soon as they are ``enough`` (default: all)."""
        answers: dict[str, Any] = {}
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(master: Master, reply: Any) -> None:
            answers[master.name] = reply
            if not done.done() and (len(answers) == len(self.all) or (enough is not None and enough(answers))):
                done.set_result(None)

        self.send(call, answered)
        await done
        return dict(answers)

    def send(self, call: Call[Any], answered: Callable[[Master, Any], None]) -> None:
        """:meth:`Master.send` to each of them, with the master before its reply."""
        packing = Packing(call)
        for master in self.all:
            master.send(call, partial(answered, master), packing=packing)

    def settle(
        self, call: Abandon | Dismiss, enough: Callable[[list[Any]], bool] | None = None
    ) -> asyncio.Future[list[Any]]:
        """Give up what ``call`` abandons, sent before this returns.

        The replies of those that answered, when they are ``enough`` (default: a majority), or all have.
        """
        done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        replies: list[Any] = []
        out = len(self.all)
        self._settling.add(done)
        done.add_done_callback(self._settling.discard)

        def answered(reply: Any) -> None:
            nonlocal out
            out -= 1
            if not isinstance(reply, NoVote):
                replies.append(reply)
            if not done.done() and (not out or (enough or self._a_majority)(replies)):
                done.set_result(replies)

        packing = Packing(call)
        for master in self.all:
            master.settle(call, answered, packing=packing)
        return done

    def _a_majority(self, replies: list[Any]) -> bool:
        return len(replies) >= self.majority

    async def aclose(self) -> None:
        if self._settling:
            await asyncio.wait(list(self._settling))
        await asyncio.gather(*(master.aclose() for master in self.all))
