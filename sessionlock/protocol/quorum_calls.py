"""Calls with which a majority of independent masters grants a lock, as in :mod:`.calls`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import KW_ONLY
from typing import Any

from ..policies import LeasePolicy, SessionPolicy, quickly_frozen
from . import replies
from .calls import Call
from .changes import Word
from .keys import SessionKeys
from .replies import Acquired, Voted

__all__ = ["Adopt", "Dismiss", "Install", "RaiseFence", "Vote"]


@quickly_frozen
class Install(Call[Acquired]):
    """What a quorum granted takes effect at the session's store. ``vector``: master and counter of each grant."""

    script = "install"
    keys: SessionKeys
    token: str
    ttl_ms: int
    vector: Collection[tuple[str, int]]
    majority: int
    session: SessionPolicy | None
    _: KW_ONLY
    channel: str = "-"
    label: str = ""
    missing: str = "create"
    asked_at: float = 0.0

    def words(self) -> Sequence[Word]:
        counters = " ".join(f"{master}:{counter}" for master, counter in self.vector)
        idle_ms, refresh_ms = (self.session.idle_ms, self.session.refresh_ms) if self.session else (0, 0)
        head = (self.token, self.ttl_ms, counters, self.majority, f"{self.channel} {self.label}", self.missing)
        return (*head, idle_ms, refresh_ms, self.keys.proof)

    def outcome(self, reply: Any) -> Acquired:
        return replies.installed(reply, self.asked_at, self.ttl_ms / 1000)


@quickly_frozen
class Vote(Call[Voted]):
    """The lock of one master of a quorum, if it is free and nobody waits for it. For a token's very first call.

    ``proposed``: the counter that all masters are to give, if they can.
    """

    script = "vote"
    keys: SessionKeys
    token: str
    lease: LeasePolicy
    _: KW_ONLY
    channel: str = "-"
    label: str = ""
    proposed: int = 0
    asked_at: float = 0.0

    def words(self) -> Sequence[Word]:
        return (self.token, self.lease.ttl_ms, f"{self.channel} {self.label}", self.proposed)

    def outcome(self, reply: Any) -> Voted:
        return replies.voted(reply, self.asked_at, self.lease.ttl_ms)


@quickly_frozen
class RaiseFence(Call[bool]):
    """The highest of the counters that masters gave ``token`` becomes that of all. Whether it still held the lock."""

    script = "raise_fence"
    keys: SessionKeys
    token: str
    fence: int

    def words(self) -> Sequence[Word]:
        return (self.token, self.fence)

    def outcome(self, reply: Any) -> bool:
        return replies.kind_of(reply) == "raised"


@quickly_frozen
class Adopt(Call[Voted]):
    """The plain lock that somebody took for ``token`` becomes a grant, with a counter."""

    script = "adopt"
    keys: SessionKeys
    token: str
    _: KW_ONLY
    channel: str = "-"
    label: str = ""
    asked_at: float = 0.0

    def words(self) -> Sequence[Word]:
        return (self.token, f"{self.channel} {self.label}")

    def outcome(self, reply: Any) -> Voted:
        return replies.voted(reply, self.asked_at)


@quickly_frozen
class Dismiss(Call[None]):
    """Tell the waiters at a master of a quorum that the session was destroyed."""

    script = "dismiss"
    keys: SessionKeys

    def outcome(self, reply: Any) -> None:
        return None
