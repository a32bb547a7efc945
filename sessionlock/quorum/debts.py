"""What may stand at a master under a token of this process, and what of it must still be given up there.

A master that hung does, when it goes on, what it was asked before. Nobody else would give that up before its lease
ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from ..clock import monotonic
from ..protocol.calls import Abandon
from ..protocol.quorum_calls import Dismiss
from ..transport.wire import Wire
from .connection import LONGEST_BREAK, SHORTEST_BREAK, Answered, Connection, NoVote, VoteRefused, ignore

__all__ = ["Debts"]

CHANCES = 10  # to come back once the guard was closed


class Debts:
    """``send``: sends a call over a connection, once, and tells the answer."""

    def __init__(self, connection: Connection, send: Callable[[Wire, Abandon | Dismiss, Answered], None]) -> None:
        self.perhaps_here: set[str] = set()  # tokens under which something may stand at this master
        self.owed: list[Abandon | Dismiss] = []
        self._connection = connection
        self._send = send
        # With debts, it is tried again without anybody asking.
        self._pause = SHORTEST_BREAK
        self._chances: int | None = None  # None: without end, until the guard is closed
        self._coming_back: asyncio.TimerHandle | None = None

    def asked(self, token: str, answered: Answered) -> Answered:
        """``token`` is about to be voted for. Returns what is to be called with the answer."""
        if token in self.perhaps_here:
            return answered
        self.perhaps_here.add(token)
        return partial(self._first_answered, token, answered)

    def _first_answered(self, token: str, answered: Answered, reply: Any) -> None:
        """A call that was refused has changed nothing, so when it was the first there is nothing here."""
        if isinstance(reply, VoteRefused):
            self.perhaps_here.discard(token)
        answered(reply)

    def settled(self, call: Abandon | Dismiss, answered: Answered, reply: Any) -> None:
        """``reply`` to what gives something up. Without one it is asked again when the master is back."""
        if not isinstance(reply, NoVote):
            if isinstance(call, Abandon):
                self.perhaps_here.discard(call.token)
            self._pause = SHORTEST_BREAK
        elif self._is_owed(call):
            self.owed.append(call)
            self._come_back()
        answered(reply)

    def _is_owed(self, call: Abandon | Dismiss) -> bool:
        """Only what it was asked for, so that these are few however long it is out of reach."""
        return isinstance(call, Dismiss) or call.token in self.perhaps_here  # a dismissal is about whoever waits

    def settle(self, wire: Wire) -> None:
        """What could not be given up stands there still: a lock, or a place in a queue to which a lock would go."""
        owed, self.owed = self.owed, []
        for call in owed:
            self._send(wire, call, partial(self.settled, call, ignore))

    # --- with debts, do not wait until somebody else needs this master

    def _come_back(self, _: Any = None) -> None:
        if self._coming_back is not None or self._chances == 0:
            return
        if self._chances is not None:
            self._chances -= 1
        pause = max(self._pause, self._connection.back_off.not_before - monotonic())
        self._pause = min(self._pause * 2, LONGEST_BREAK)  # it may answer, and refuse
        self._coming_back = asyncio.get_running_loop().call_later(pause, self._try_to_settle)

    def _try_to_settle(self) -> None:
        self._coming_back = None
        if self.owed:
            self._connection.use(self.settle, self._come_back)

    def close(self) -> None:
        """From now on it comes back so many times only."""
        self._chances = CHANCES
        if self._coming_back is not None:
            self._coming_back.cancel()
            self._coming_back = None
