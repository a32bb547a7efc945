"""What happens to sessions and their locks, told while it happens: for counters, logs and traces.

An observer is a function that is called with each :class:`Event`. A counter of lost leases::

    lost = collections.Counter()

    def count(event: Event) -> None:
        if isinstance(event, LockLost):
            lost[event.label] += 1

    guard = SessionGuard.from_url("redis://localhost:6379/0", observer=count)

It is called in the event loop, so it must not block; it should be quick, for the request waits for it. What it raises
is logged and goes no further. The events of one block are told in the task that runs it; only :class:`LockRenewed` and
:class:`LockLost` may come from elsewhere. Without an observer no event is made.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from .errors import SessionLockError

__all__ = [
    "ChangesMerged",
    "ChangesRefused",
    "ChangesSaved",
    "Event",
    "LockAbandoned",
    "LockAsked",
    "LockGranted",
    "LockHandedOver",
    "LockLost",
    "LockQueued",
    "LockRefused",
    "LockReleased",
    "LockRenewed",
    "LockTimedOut",
    "Observer",
]

log: logging.Logger = logging.getLogger("sessionlock")


@dataclass(frozen=True, slots=True)
class Event:
    """``session``: the name of its record, never its id. ``label``: the holder's as others see it, which begins with
    the node; empty in the modes without a lock.
    """

    session: str
    label: str


Observer = Callable[[Event], object]


# --- getting the lock


@dataclass(frozen=True, slots=True)
class LockAsked(Event):
    """Somebody wants the lock. One of LockGranted, LockTimedOut, LockRefused or LockAbandoned follows."""


@dataclass(frozen=True, slots=True)
class LockQueued(Event):
    """Others hold it, and this one waits. ``ticket``: its place in line, a number that grows with each waiter;
    ``ahead``: how many wait before it; ``holder``: the label of who holds the lock, None if a quorum's masters differ.
    """

    ticket: int
    ahead: int
    holder: str | None


@dataclass(frozen=True, slots=True)
class LockHandedOver(Event):
    """The holder gave it up, and Redis passed it on to this waiter. LockGranted follows; a quorum tells only that."""


@dataclass(frozen=True, slots=True)
class LockGranted(Event):
    """``waited``: seconds since LockAsked."""

    waited: float
    fencing_token: int


@dataclass(frozen=True, slots=True)
class LockTimedOut(Event):
    """Others held the lock for as long as this one was to wait."""

    waited: float
    error: SessionLockError


@dataclass(frozen=True, slots=True)
class LockRefused(Event):
    """There was none to be had: no such session, too many wait, a request that waits for itself, no Redis."""

    error: SessionLockError


@dataclass(frozen=True, slots=True)
class LockAbandoned(Event):
    """Who asked was cancelled before it came to anything."""

    waited: float


# --- having it


@dataclass(frozen=True, slots=True)
class LockRenewed(Event):
    """The lease lasts ``ttl`` seconds longer."""

    ttl: float


@dataclass(frozen=True, slots=True)
class LockLost(Event):
    """The lease ended before its holder gave it up. ``because``: as the error says it."""

    fencing_token: int
    because: str


@dataclass(frozen=True, slots=True)
class LockReleased(Event):
    """It was given up, or found to be lost. ``held``: seconds since it was granted."""

    held: float


# --- saving, with the lock or without


@dataclass(frozen=True, slots=True)
class ChangesMerged(Event):
    """Others changed ``keys`` keys that this request changed too; by its policy both changes count."""

    keys: int


@dataclass(frozen=True, slots=True)
class ChangesSaved(Event):
    """``keys`` keys were changed. ``version`` of the session after it, 0 if it was left empty and has ended."""

    keys: int
    version: int


@dataclass(frozen=True, slots=True)
class ChangesRefused(Event):
    """Without a lock: a commit clashed, or its session is gone. With it, LockLost tells."""

    error: SessionLockError


def harmless(observer: Observer) -> Observer:
    """The observer, so that what it raises ends no request."""

    def tell(event: Event) -> None:
        try:
            observer(event)
        except Exception:
            log.exception("an observer failed at %s", type(event).__name__)

    return tell
