"""What happens to sessions and their locks, told while it happens: for logs, metrics and traces.

An observer is a function that is called with each :class:`Event`. A counter of lost leases::

    lost = collections.Counter()

    def count(event: Event) -> None:
        if isinstance(event, LockLost):
            lost[event.route] += 1

    guard = SessionGuard.from_url("redis://localhost:6379/0", observer=count)

Several are given as a list. Ready-made ones: :func:`sessionlock.integrations.logs.logs`,
:mod:`sessionlock.integrations.opentelemetry`, :mod:`sessionlock.integrations.prometheus`.

It is called in the event loop, so it must not block; it should be quick, for the request waits for it. What it raises
is logged and goes no further. The events of one block are told in the task that runs it; only :class:`LockRenewed`,
:class:`LockLost`, :class:`CallRepeated` and the outages may come from elsewhere. Without an observer no event is made.

Attributes of an observer say that it wants more, or less. ``traceparent()`` returns the trace of the request that
runs, as W3C ``traceparent``, or "": it then stands in the holder's record, for those who wait. ``hears``: the kinds of
events that it is called with; without it all, but for :class:`CallAnswered`, which has to be named.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from inspect import iscoroutinefunction
from typing import Any

from .errors import ConfigurationError, SessionLockError
from .policies import quickly_frozen

__all__ = [
    "KINDS",
    "CallAnswered",
    "CallRepeated",
    "ChangesMerged",
    "ChangesRefused",
    "ChangesSaved",
    "Event",
    "LoadRefused",
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
    "Observers",
    "OutageAbandoned",
    "OutageBegan",
    "OutageEnded",
    "WaitOver",
    "node_of",
    "route_of",
    "tell_saved",
]

log: logging.Logger = logging.getLogger("sessionlock")


def node_of(label: str) -> str:
    """The node, of a label as others see it: "node route"."""
    return label.partition(" ")[0]


def route_of(label: str) -> str:
    """What the node does with the lock, of such a label; "" where it does not say."""
    return label.partition(" ")[2]


@quickly_frozen
class Event:
    """``session``: the name of its record, never its id; empty where it is about none. ``label``: who does it, as
    others see it: the node, and the route behind a space, if there is one; empty in the modes without a lock.
    """

    session: str
    label: str

    @property
    def node(self) -> str:
        return node_of(self.label)

    @property
    def route(self) -> str:
        return route_of(self.label)


Observer = Callable[[Event], object]


# --- getting the lock


@quickly_frozen
class LockAsked(Event):
    """Somebody wants the lock. One of LockGranted, LockTimedOut, LockRefused or LockAbandoned follows."""


@quickly_frozen
class LockQueued(Event):
    """Others hold it, and this one waits. ``ticket``: its place in line, a number that grows with each waiter;
    ``ahead``: how many wait before it, of its process only where it waits beside the queue; ``holder``: the label of
    who holds the lock, None where that is not known; ``trace``: the holder's, as W3C ``traceparent``, "" where it has
    none.
    """

    ticket: int
    ahead: int
    holder: str | None
    trace: str = ""


@quickly_frozen
class LockHandedOver(Event):
    """The holder gave it up, and Redis passed it on to this waiter. LockGranted follows; a quorum tells only that."""


@quickly_frozen
class WaitOver(Event):
    """How it ended. ``waited``: seconds since LockAsked. ``holder``, ``trace``: of whom it waited for, as last heard of
    (as in LockQueued); None where it did not wait for anybody, and, after LockQueued, where that is not known.
    """

    waited: float
    holder: str | None
    trace: str


@quickly_frozen
class LockGranted(WaitOver):
    """It has the lock."""

    fencing_token: int


@quickly_frozen
class LockTimedOut(WaitOver):
    """Others held the lock for as long as this one was to wait."""

    error: SessionLockError


@quickly_frozen
class LockRefused(WaitOver):
    """There was none to be had: no such session, too many wait, a request that waits for itself, no Redis."""

    error: SessionLockError


@quickly_frozen
class LockAbandoned(WaitOver):
    """Who asked was cancelled before it came to anything."""


# --- having it


@quickly_frozen
class LockRenewed(Event):
    """The lease lasts ``ttl`` seconds longer."""

    ttl: float


@quickly_frozen
class LockLost(Event):
    """The lease ended before its holder gave it up. ``because``: as the error says it."""

    fencing_token: int
    because: str


@quickly_frozen
class LockReleased(Event):
    """It was given up, or found to be lost; or its event loop has ended, and it runs out in Redis. ``held``: seconds
    since the call was sent that it was granted to.
    """

    held: float


# --- reading and saving, with the lock or without


@quickly_frozen
class LoadRefused(Event):
    """Without a lock: there is no such session, or no Redis. With it, LockRefused tells."""

    error: SessionLockError


@quickly_frozen
class ChangesMerged(Event):
    """Others changed ``keys`` keys that this request changed too; by its policy both changes count. Told once a save,
    when it has taken effect; ChangesSaved follows.
    """

    keys: int


@quickly_frozen
class ChangesSaved(Event):
    """``keys`` keys were changed. ``version`` of the session after it, 0 if it was left empty and has ended."""

    keys: int
    version: int


@quickly_frozen
class ChangesRefused(Event):
    """Nothing was saved: a commit clashed, the session is gone or became too large, the lock was lost, no Redis."""

    error: SessionLockError


def tell_saved(observer: Observer, session: str, label: str, keys: int, version: int | None, merged: int) -> None:
    """``keys`` keys were changed, ``merged`` of them by others, too."""
    if merged:
        observer(ChangesMerged(session, label, merged))
    observer(ChangesSaved(session, label, keys, version or 0))


# --- Redis


@quickly_frozen
class CallRepeated(Event):
    """A call is tried once more: no reply came, or "not now". ``script``: which; ``tries``: how many there were."""

    script: str
    tries: int


@quickly_frozen
class CallAnswered(Event):
    """A call is over, after ``seconds``. ``commands``: what was sent for it in one write; ``words``: of how many words
    each; ``server``: host and port, or a path; ``database``: its number there. ``error`` None: it was answered. Only
    for who asks for it.
    """

    script: str
    commands: tuple[str, ...]
    words: tuple[int, ...]
    server: str
    seconds: float
    error: BaseException | None
    database: int = 0


@quickly_frozen
class OutageBegan(Event):
    """``server`` cannot be used, because of ``reason``; from now on calls to it fail at once. Told once an outage."""

    server: str
    reason: str


@quickly_frozen
class OutageEnded(Event):
    """It is back after ``seconds``; meanwhile ``refused`` calls failed at once."""

    server: str
    seconds: float
    refused: int


@quickly_frozen
class OutageAbandoned(Event):
    """Nobody here looks for ``server`` any more, after ``seconds``: the guard was closed, or its event loop has ended,
    before the outage did.
    """

    server: str
    seconds: float


KINDS: frozenset[type[Event]] = frozenset(
    (
        CallAnswered,
        CallRepeated,
        ChangesMerged,
        ChangesRefused,
        ChangesSaved,
        LoadRefused,
        LockAbandoned,
        LockAsked,
        LockGranted,
        LockHandedOver,
        LockLost,
        LockQueued,
        LockRefused,
        LockReleased,
        LockRenewed,
        LockTimedOut,
        OutageAbandoned,
        OutageBegan,
        OutageEnded,
    )
)
UNASKED: frozenset[type[Event]] = KINDS - {CallAnswered}


class Observers:
    """Several as one; what one raises is logged, and neither ends a request nor keeps it from the others.

    ``hears``: the kinds of events that any of them wants.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        each: list[Observer] = []
        for observer in observers:
            each.extend(observer.each if isinstance(observer, Observers) else (observer,))
        self.each: tuple[Observer, ...] = tuple(each)
        # One that has handlers by kind of event is not asked for them again and again.
        self._of: dict[type[Event], tuple[Observer, ...]] = {
            kind: tuple(
                getattr(observer, "handlers", {}).get(kind, observer)
                for observer in each
                if kind in getattr(observer, "hears", UNASKED)
            )
            for kind in KINDS
        }
        self.hears: frozenset[type[Event]] = frozenset(kind for kind, those in self._of.items() if those)
        traced: list[Any] = [getattr(observer, "traceparent", None) for observer in self.each]
        self._traceparent: Callable[[], str] | None = next((one for one in traced if one is not None), None)

    @classmethod
    def of(cls, given: Observer | Sequence[Observer] | None) -> Observers | None:
        """Those that were given, None where there are none.

        Raises:
            ConfigurationError: one is not a function, or an asynchronous one.
        """
        if given is None:
            return None
        observers: list[Any] = list(given) if isinstance(given, (list, tuple)) and not callable(given) else [given]
        for observer in observers:
            if not callable(observer):
                raise ConfigurationError(
                    f"observer must be a function that is called with each event, or several, not {observer!r}"
                )
            if isinstance(observer, type):
                raise ConfigurationError(f"observer must be an object that is called, not the class {observer!r}")
            if iscoroutinefunction(observer) or iscoroutinefunction(type(observer).__call__):
                raise ConfigurationError(
                    f"observer must not be async, for nobody would await it: {observer!r}. Put what takes time into a"
                    " queue, or begin a task"
                )
        return cls(observers) if observers else None

    def __call__(self, event: Event) -> None:
        for observer in self._of[type(event)]:
            try:
                observer(event)
            except Exception:
                log.exception("an observer failed at %s", type(event).__name__)

    def traceparent(self) -> str:
        """Of the request that runs; "" where there is none, or nobody traces."""
        if self._traceparent is None:
            return ""
        try:
            return self._traceparent()
        except Exception:
            log.exception("an observer failed to tell its trace")
            return ""
