"""The numbers by which Redis knows a client's calls: what has finished is never done again, however late it comes.

Each runtime has two *names*, random and its own: one for acquisitions, which may last, one for everything else. A
call's ``op`` is the name and a number that only grows; with it goes ``low``: the calls about this session with a
smaller number have been answered. See ``lua/_done.lua`` for what Redis keeps of it. After RIFL (Lee et al., SOSP 2015).
"""

from __future__ import annotations

import os
import secrets
from binascii import b2a_base64

__all__ = ["UNTOLD", "Lane", "Numbers", "ServerClock"]

NAME_BYTES = 9  # 12 characters
RANDOM_BYTES = 6  # 8 characters, behind the number of a token
URL_SAFE = bytes.maketrans(b"+/", b"-_")
NAME_LENGTH = 12
MOST_BEHIND = 256  # calls that are begun after one that is not answered, before the name changes
OP_LENGTH = 28  # the name, and 16 digits
HINTS_FOR = 3600.0  # seconds for which it may still tell how old a number is
KNOWN_FOR = 10.0  # seconds for which a server's clock is carried on; longer, and the two might drift apart
UNTOLD = "0" * 16  # instead of a clock that is not known


class Lane:
    """Numbers under one name, which is changed when a call stays unanswered for long: what Redis keeps behind it must
    not grow. Those that are outstanding are kept by session.
    """

    __slots__ = ("_begun", "_last", "_open", "_outstanding", "name")

    def __init__(self) -> None:
        self.name: str = secrets.token_urlsafe(NAME_BYTES)
        self._last = 0
        self._begun = 0
        self._open: dict[str, int] = {}  # every outstanding op, oldest first -> how many were begun before it
        self._outstanding: dict[str, list[str]] = {}  # digest -> its outstanding ops, oldest first

    def begin(self, digest: str) -> str:
        """The op of a new call about that session, outstanding until :meth:`end`."""
        op = self._next()
        self._note(digest, op)
        return op

    def begin_token(self, digest: str) -> str:
        """The same with something random behind it: two clones of one virtual machine must not share a token."""
        random = b2a_base64(os.urandom(RANDOM_BYTES), newline=False).translate(URL_SAFE).decode()
        token = f"{self._next()}.{random}"
        self._note(digest, token)
        return token

    def _next(self) -> str:
        if self._open and self._begun - next(iter(self._open.values())) >= MOST_BEHIND:
            self.rename()
        self._last += 1
        return f"{self.name}{str(self._last).zfill(16)}"

    def rename(self) -> None:
        """Another name, from the next call on. Those that are outstanding keep theirs."""
        self.name = secrets.token_urlsafe(NAME_BYTES)
        self._begun = 0
        self._open.clear()

    def _note(self, digest: str, op: str) -> None:
        self._open[op] = self._begun
        self._begun += 1
        outstanding = self._outstanding.get(digest)
        if outstanding is None:
            self._outstanding[digest] = [op]
        else:
            outstanding.append(op)

    def low(self, digest: str, op: str) -> str:
        """All calls under this op's name about that session with smaller numbers have been answered."""
        for other in self._outstanding.get(digest, ()):
            if other is op:
                break
            if other[:NAME_LENGTH] == op[:NAME_LENGTH]:
                return min(other, op)[NAME_LENGTH:OP_LENGTH]
        return op[NAME_LENGTH:OP_LENGTH]

    def end(self, digest: str, op: str) -> None:
        """Its caller has the answer, or asks for none any more."""
        self._open.pop(op, None)
        outstanding = self._outstanding.get(digest)
        if outstanding is not None and op in outstanding:
            if len(outstanding) == 1:
                del self._outstanding[digest]
            else:
                outstanding.remove(op)

    def exceed(self, number: int) -> None:
        """The next numbers are higher."""
        if number > self._last:
            self._last = number


class ServerClock:
    """The clock of the one server that is asked, as its replies showed it; never older than :data:`KNOWN_FOR`."""

    __slots__ = ("_at", "_us")

    def __init__(self) -> None:
        self._us = 0
        self._at = float("-inf")

    def saw(self, server_us: int, at: float) -> None:
        """It showed that, some time before the monotonic instant ``at``."""
        self._us, self._at = server_us, at

    def digits(self, now: float) -> str:
        """What it has shown already: the past, if only just."""
        since = now - self._at
        return str(self._us + int(since * 1e6)).zfill(16) if since < KNOWN_FOR else UNTOLD

    def hint(self, now: float) -> int:
        """About the same, if it was seen in the last hour; 0: it was not."""
        since = now - self._at
        return self._us + int(since * 1e6) if since < HINTS_FOR else 0


class Numbers:
    """Of one runtime: a fork makes its own."""

    def __init__(self) -> None:
        self.acquisitions: Lane = Lane()
        self.operations: Lane = Lane()
        self.clock: ServerClock = ServerClock()

    def nobody(self, digest: str) -> tuple[str, str]:
        """Token and low of an acquisition that never was: giving it up changes nothing of anybody's, but is a write."""
        lane = self.acquisitions
        token = lane.begin_token(digest)
        lane.end(digest, token)
        return token, lane.low(digest, token)

    def rename(self) -> None:
        """A connection was lost: this may be a copy of a process that goes on elsewhere under the same names (a machine
        that was restored, a container that was checkpointed).
        """
        self.acquisitions.rename()
        self.operations.rename()

    def saw_time(self, server_us: int) -> None:
        """A server's clock: numbers that are no lower than it are above those of clients that were here long ago."""
        self.acquisitions.exceed(server_us)
        self.operations.exceed(server_us)
