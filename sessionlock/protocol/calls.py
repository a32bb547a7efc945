"""What is asked of Redis: one frozen class per script. No I/O.

``words()`` is what the script gets as ARGV, in the order of its header (``lua/<script>.lua``); ``outcome()`` reads its
reply (:mod:`.replies`). So every race can be written down as a table of calls and outcomes.

Every call may be repeated when its reply was lost: its token, or its ``op``, tells the script that it was done already
(:mod:`.numbers`). States of one acquisition, by what Redis holds of its token::

    unknown ──acquire──▶ holder (granted)            lock = token
       │                   │ ▲
       │                   │ └── handed over (claim) ◀── waiting
       └──acquire──▶ waiting (queued) ─────abandon──▶ finished
    holder ──release / abandon──▶ finished           completion record: later calls of this token change nothing
    holder ──lease lapses / force_release──▶ lost     save refused: `lost`
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY
from typing import Any, ClassVar, Generic, TypeVar

from ..policies import LeasePolicy, SessionPolicy, quickly_frozen
from . import replies
from .changes import Change, Word, in_one_word, life, with_changes
from .keys import SessionKeys
from .numbers import NAME_LENGTH, OP_LENGTH, UNTOLD
from .records import finished_after
from .replies import Abandoned, Acquired, Saved

__all__ = [
    "PATIENCE",
    "Abandon",
    "Acquire",
    "Call",
    "Release",
    "Renew",
    "rider",
]

T_co = TypeVar("T_co", covariant=True)
PATIENCE = 30.0  # seconds after which a waiter that was not heard of is taken for dead
NO_STAMP = "-" * 16  # instead of that of a record: there was none
PATIENCE_MS = int(PATIENCE * 1000)
PUSH_LIMIT = 65536  # bytes of a session that still travels with a push


class Call(Generic[T_co]):
    """One call of ``script``. ``keys``: of the session it is about; of a renewal, of the first."""

    __slots__ = ()
    keys: SessionKeys
    script: ClassVar[str]
    # Whether it ends something that was begun, so that it must go on when a server turns out to be unfit.
    ends: ClassVar[bool] = False
    # Whether there is another way to do it where scripts are forbidden (WATCH, MULTI, EXEC).
    needs_no_script: ClassVar[bool] = False
    # Whether its keys are all those of one session.
    of_one: ClassVar[bool] = True
    # Whether it has a number of its own; those of an acquisition have its token.
    numbered: ClassVar[bool] = False
    # Whether it may begin a session; then its number tells the server's clock, if that is known.
    begins: ClassVar[bool] = False

    @property
    def redis_keys(self) -> Sequence[bytes]:
        """All in one Cluster slot, except those of a renewal."""
        return self.keys.all

    def words(self) -> Sequence[Word]:
        return ()

    def carry(self, op: str, low: str) -> None:
        """Its number, and below which all calls about this session have been answered; of one that is ``numbered``."""
        object.__setattr__(self, "op", op)
        object.__setattr__(self, "low", low)

    def may_come_late(self) -> None:
        """It was sent more than once: an earlier try may still be under way when the answer is there."""

    def behind(self) -> tuple[Word, ...] | None:
        """The plain command that is sent right behind it, in the same write; None: none is. It goes again with each
        repetition.
        """
        return None

    def outcome(self, reply: Any) -> T_co:
        """``reply``: the script's; where a command is sent :meth:`behind`, both replies.

        Raises CodecError: what is stored is not as this library writes it.
        """
        raise NotImplementedError


@quickly_frozen
class Acquire(Call[Acquired]):
    """``session`` None: only the lock. ``ticket``: a waiter's place as it was told, to get it back. ``reads``: whether
    to ask for the session as well, in case of a grant. ``asked_at``: the clock of leases before it is sent; what is
    granted may be trusted from then on. ``now``: as :class:`.numbers.ServerClock` has it. ``doubtful``: whatever the
    answer was, an earlier try may be carried out later.
    """

    script = "acquire"
    keys: SessionKeys
    token: str
    lease: LeasePolicy
    session: SessionPolicy | None
    channel: str = "-"
    label: str = ""
    missing: str = "create"
    queueing: bool = True
    max_waiters: int = 64
    ticket: str = "0"
    deaf: bool = False
    reads: bool = True
    asked_at: float = 0.0
    now: str = UNTOLD
    doubtful: bool = False

    def may_come_late(self) -> None:
        object.__setattr__(self, "doubtful", True)

    def words(self) -> Sequence[Word]:
        lease, session = self.lease, self.session
        idle_ms, refresh_ms = (session.idle_ms, session.refresh_ms) if session is not None else (0, 0)
        policy = in_one_word(
            self.missing, self.queueing, self.max_waiters, lease.claim_ms, idle_ms, refresh_ms, PATIENCE_MS, self.deaf
        )
        held = f"held {self.now} {self.channel} {self.label}"
        always = " " if refresh_ms >= idle_ms > 0 else ""  # to be touched: see acquire.lua
        more = f"{always}{self.keys.proof}{self.token[:NAME_LENGTH]} {policy} {self.ticket}"
        return (self.token, lease.ttl_ms, held, more)

    def behind(self) -> tuple[Word, ...] | None:
        return ("HGETALL", self.keys.session) if self.reads and self.session is not None else None

    def outcome(self, reply: Any) -> Acquired:
        ttl = self.lease.ttl_ms / 1000
        if self.session is None:
            return replies.acquired(reply, self.asked_at, ttl, ())
        if self.reads:
            return replies.acquired(reply[0], self.asked_at, ttl, reply[1])
        return replies.acquired(reply, self.asked_at, ttl, None)


@quickly_frozen
class Release(Call[Saved]):
    """``created``: the stamp of the record that was loaded, ``""`` when there was none. ``session`` None: a lock alone.

    ``channel``: a waiter of this very process gets its grant with the reply, not by a push; ``reads``: and the session
    behind it. ``carries``: whether the session goes with a push. ``low``: as :meth:`.numbers.Lane.low` has it.
    ``measured``: of a session of this version the changes were found to make none that is too large. ``rider``: who of
    this process is next, where nobody else has waited longer, as :func:`rider` says it. ``state``: the field #state as
    it was loaded; if it is so still, the script need not take it apart.
    """

    script = "release"
    ends = True
    keys: SessionKeys
    token: str
    fence: int
    low: str
    created: str
    session: SessionPolicy | None
    changes: Collection[Change] = ()
    deaf: bool = False
    channel: str = "-"
    carries: bool = True
    reads: bool = False
    measured: int | None = None
    rider: str = ""
    state: bytes = b""

    def words(self) -> Sequence[Word]:
        how = ("1 " if self.carries else "0 ") + ("1" if self.deaf else "0")
        more = f"{life(self.session, self.measured)} {how} {self.channel} {self.keys.proof}"
        granted = f"{str(self.fence).zfill(16)}{self.created or NO_STAMP}{self.token[:OP_LENGTH]}{self.low}{more}"
        after = finished_after(self.state, self.token, self.low) if self.created else b""
        before = self.state if after else b""
        head: list[Word] = [self.token, f"{granted}\n{self.rider}" if self.rider else granted, before, after]
        return with_changes(head, self.changes)

    def behind(self) -> tuple[Word, ...] | None:
        return ("HGETALL", self.keys.session) if self.reads else None

    def outcome(self, reply: Any) -> Saved:
        return replies.released(*reply) if self.reads else replies.released(reply)


def rider(token: str, ticket: str, lease: LeasePolicy, channel: str, label: str, others: int) -> str:
    """A waiter that is not in the queue, with what it takes to put it there, or to make it the holder. ``others``: how
    many like it there are beside.
    """
    state = f"held+{others}" if others else "held"
    return f"{ticket} {lease.ttl_ms} {lease.claim_ms} {PATIENCE_MS} {state} {token} {channel} {label}"


@quickly_frozen
class Abandon(Call[Abandoned]):
    """``once``: the token was in a single call before, which was not and will not be repeated."""

    script = "abandon"
    ends = True
    keys: SessionKeys
    token: str
    low: str
    _: KW_ONLY
    deaf: bool = False
    once: bool = False

    def words(self) -> Sequence[Word]:
        return (self.token, self.low, 1 if self.deaf else 0, 1 if self.once else 0)

    def outcome(self, reply: Any) -> Abandoned:
        return replies.abandoned(reply)


@quickly_frozen
class Renew(Call[list[int]]):
    """Extend each (keys, token, ttl_ms). For each 0: it is lost; 1: extended; -1: so too, but its session is gone."""

    script = "renew"
    ends = True
    of_one = False
    leases: Sequence[tuple[SessionKeys, str, int]]

    @property
    def keys(self) -> SessionKeys:  # type: ignore[override]
        return self.leases[0][0]

    @property
    def redis_keys(self) -> Sequence[bytes]:
        return [key for keys, _, _ in self.leases for key in (keys.lock, keys.session)]

    @property
    def tokens(self) -> Sequence[str]:
        return [token for _, token, _ in self.leases]

    def words(self) -> Sequence[Word]:
        return [word for _, token, ttl_ms in self.leases for word in (token, ttl_ms)]

    def outcome(self, reply: Any) -> list[int]:
        return list(reply)
