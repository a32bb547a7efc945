"""What is measured of sessions and their locks, once for every library of metrics: names, units, meaning.

Attributes are few-valued: routes, outcomes and kinds of errors, never a session or a path. What comes beyond
:data:`MOST_ROUTES` patterns, with whichever methods, is counted as "other".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import (
    LeaseLost,
    QueueFull,
    RedisUnavailable,
    ReentrantLock,
    SessionConflict,
    SessionDestroyed,
    SessionLockError,
    SessionNotFound,
    SessionTooLarge,
    StaleFencingToken,
)
from ..observe import (
    CallRepeated,
    ChangesMerged,
    ChangesRefused,
    ChangesSaved,
    Event,
    LoadRefused,
    LockAbandoned,
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
    WaitOver,
    route_of,
)
from .web.naming import METHODS, OTHER_METHOD

__all__ = [
    "ACQUISITIONS",
    "HELD",
    "HELD_TIME",
    "HOLD",
    "MEASURES",
    "MOST_ROUTES",
    "OTHER",
    "SAVED",
    "Measure",
    "Measuring",
    "outcome_of",
    "waiter_of",
]

MOST_ROUTES = 200
OTHER = "other"
UNNAMED = "-"

# Seconds: from a round trip to the longest that a request waits or holds by default (12 s, 60 s). A quantile may be
# shown anywhere in its bucket, so that of those who gave up ends right above 12.
DURATIONS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 7.5, 12.5, 30.0, 60.0)
LENGTHS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)  # up to beyond the 64 that may wait by default


@dataclass(frozen=True, slots=True, eq=False)
class Measure:
    """``name``, ``unit``: as OpenTelemetry has them. ``attributes``: without their namespace ``sessionlock``, but for
    ``error.type``, which is everybody's.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    attributes: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


ACQUISITIONS = Measure(
    "sessionlock.lock.acquisitions",
    "counter",
    "{acquisition}",
    "Requests for a lock, by what became of them",
    ("route", "outcome"),
)
WAIT = Measure(
    "sessionlock.lock.wait.duration",
    "histogram",
    "s",
    "How long those waited that found the lock taken",
    ("route", "outcome"),
    DURATIONS,
)
BLOCKED = Measure(
    "sessionlock.lock.blocked.time",
    "counter",
    "s",
    "The same time, put down to who held the lock",
    ("route", "holder.route"),
)
QUEUE = Measure(
    "sessionlock.lock.queue.length",
    "histogram",
    "{request}",
    "How many waited for the same session, as far as its process knew, for each that began to wait; with itself",
    (),
    tuple(map(float, LENGTHS)),
)
HOLD = Measure(
    "sessionlock.lock.hold.duration",
    "histogram",
    "s",
    "How long a lock was held",
    ("route",),
    DURATIONS,
)
HELD_TIME = Measure(
    "sessionlock.lock.held.time", "counter", "s", "Seconds for which locks were held, all together", ("route",)
)
WAITING = Measure("sessionlock.lock.waiting", "gauge", "{request}", "Requests of this process that wait for a lock now")
HELD = Measure("sessionlock.lock.held", "gauge", "{lock}", "Locks that this process holds now")
HANDOVERS = Measure(
    "sessionlock.lock.handovers", "counter", "{handover}", "Locks that a holder passed on to a waiter here"
)
RENEWALS = Measure("sessionlock.lock.renewals", "counter", "{renewal}", "Leases that were renewed")
LOST = Measure(
    "sessionlock.lock.lost", "counter", "{lease}", "Leases that ended before their holder gave them up", ("route",)
)
SAVED = Measure("sessionlock.changes.saved", "counter", "{save}", "Saves that took effect", ("route",))
MERGED = Measure(
    "sessionlock.changes.merged",
    "counter",
    "{save}",
    "Saves whose changes were merged with somebody else's",
    ("route",),
)
REFUSED = Measure(
    "sessionlock.changes.refused",
    "counter",
    "{save}",
    "Saves that were refused; conflicts are those with the error SessionConflict",
    ("route", "error.type"),
)
UNLOADED = Measure(
    "sessionlock.loads.refused", "counter", "{load}", "Sessions that could not be read without a lock", ("error.type",)
)
REPEATS = Measure(
    "sessionlock.redis.repeats", "counter", "{call}", "Calls to Redis that were sent once more", ("script",)
)
OUTAGES = Measure("sessionlock.redis.outages", "counter", "{outage}", "Outages of Redis that this process found out")
DOWN = Measure("sessionlock.redis.down", "gauge", "{server}", "Servers that this process cannot use now")

MEASURES: tuple[Measure, ...] = (
    ACQUISITIONS,
    WAIT,
    BLOCKED,
    QUEUE,
    HOLD,
    HELD_TIME,
    WAITING,
    HELD,
    HANDOVERS,
    RENEWALS,
    LOST,
    SAVED,
    MERGED,
    REFUSED,
    UNLOADED,
    REPEATS,
    OUTAGES,
    DOWN,
)

# For which a save is refused, but for outages. OpenTelemetry's SDK keeps 2,000 combinations of a counter's attributes.
REFUSALS = (SessionConflict, LeaseLost, StaleFencingToken, SessionTooLarge, SessionDestroyed)

# What has to be seen at zero, with each route: of a counter that is first seen at one, Prometheus' ``rate()`` and
# ``increase()`` know no increase. Of what is rare they would miss all, in each process anew.
BEGIN_AT_ZERO: tuple[tuple[Measure, tuple[str, ...]], ...] = (
    (ACQUISITIONS, ("timed_out",)),
    (ACQUISITIONS, ("queue_full",)),
    (ACQUISITIONS, ("unavailable",)),
    (LOST, ()),
    *((REFUSED, (error.__name__,)) for error in REFUSALS),
)


def outcome_of(event: WaitOver) -> str:
    """What became of a wait, in one word."""
    if isinstance(event, LockGranted):
        return "granted"
    if isinstance(event, LockTimedOut):
        return "timed_out"
    if isinstance(event, LockRefused):
        return _outcome_of(event.error)
    return "abandoned"


def _outcome_of(error: SessionLockError) -> str:
    outcomes: tuple[tuple[type[SessionLockError], str], ...] = (
        (QueueFull, "queue_full"),
        (SessionNotFound, "not_found"),
        (RedisUnavailable, "unavailable"),
        (ReentrantLock, "reentrant"),
    )
    return next((word for kind, word in outcomes if isinstance(error, kind)), "refused")


Waiting = tuple[Any, str]  # a task, and for what it waits


def waiter_of(known: Collection[Waiting], event: WaitOver) -> Waiting | None:
    """Which of those that are known to wait this is about; None: it is none of them."""
    if not known:
        return None
    try:
        who: Waiting = asyncio.current_task(), event.session
    except RuntimeError:  # its loop was closed in the middle of the wait, and now it is collected
        ended = (one for one in known if one[1] == event.session and one[0].get_loop().is_closed())
        return next(ended, None)
    return who if who in known else None


class Measuring:
    """An observer that measures; how a measurement is kept is its subclass' business."""

    def __init__(self) -> None:
        self._routes: set[str] = set()
        # Without their methods. These are what is limited: methods are few, and who sends all of them takes no name.
        self._patterns: set[str] = set()
        self._waiting: set[Waiting] = set()  # by who waits, and for what
        self.handlers: dict[type[Event], Callable[[Any], None]] = {
            LockQueued: self._queued,
            LockHandedOver: lambda event: self.add(HANDOVERS, ()),
            LockGranted: self._granted,
            LockTimedOut: self._over,
            LockRefused: self._over,
            LockAbandoned: self._over,
            LockRenewed: lambda event: self.add(RENEWALS, ()),
            LockLost: lambda event: self.add(LOST, (self._route(event.label),)),
            LockReleased: self._released,
            LoadRefused: lambda event: self.add(UNLOADED, (type(event.error).__name__,)),
            ChangesMerged: lambda event: self.add(MERGED, (self._route(event.label),)),
            ChangesSaved: self._saved,
            ChangesRefused: lambda event: self.add(REFUSED, (self._route(event.label), type(event.error).__name__)),
            CallRepeated: lambda event: self.add(REPEATS, (event.script,)),
            OutageBegan: self._began,
            OutageEnded: lambda event: self.add(DOWN, (), -1),
            OutageAbandoned: lambda event: self.add(DOWN, (), -1),
        }
        self.hears: Collection[type[Event]] = self.handlers.keys()

    def __call__(self, event: Event) -> None:
        self.handlers[type(event)](event)

    def add(self, measure: Measure, values: tuple[str, ...], by: float = 1) -> None:
        """Of a counter or gauge; ``values``: of its attributes."""
        raise NotImplementedError

    def record(self, measure: Measure, values: tuple[str, ...], value: float) -> None:
        """Of a histogram."""
        raise NotImplementedError

    def _queued(self, event: LockQueued) -> None:
        self.record(QUEUE, (), event.ahead + 1)
        self._waiting.add((asyncio.current_task(), event.session))
        self.add(WAITING, ())

    def _granted(self, event: LockGranted) -> None:
        self._over(event)
        self.add(HELD, ())

    def _over(self, event: WaitOver) -> None:
        route, outcome = self._route(event.label), outcome_of(event)
        self.add(ACQUISITIONS, (route, outcome))
        if self._has_waited(event):
            self.record(WAIT, (route, outcome), event.waited)
            self.add(BLOCKED, (route, self._route(event.holder or "")), event.waited)

    def _has_waited(self, event: WaitOver) -> bool:
        """Whom it waited for may not be known; that it queued is. Or it was refused at once, because of a holder."""
        who = waiter_of(self._waiting, event)
        if who is None:
            return event.holder is not None
        self._waiting.discard(who)
        self.add(WAITING, (), -1)
        return True

    def _released(self, event: LockReleased) -> None:
        route = self._route(event.label)
        self.add(HELD, (), -1)
        self.add(HELD_TIME, (route,), event.held)
        self.record(HOLD, (route,), event.held)

    def _saved(self, event: ChangesSaved) -> None:
        self.add(SAVED, (self._route(event.label),))

    def _began(self, event: OutageBegan) -> None:
        self.add(OUTAGES, ())
        self.add(DOWN, ())

    def _route(self, label: str) -> str:
        """Of a label; whoever names his holders by something that has many values does not fill the memory."""
        route = route_of(label) or UNNAMED
        if route not in self._routes:
            method, _, pattern = route.partition(" ")
            if method not in METHODS and method != OTHER_METHOD:
                pattern = route
            if pattern not in self._patterns:
                if len(self._patterns) >= MOST_ROUTES:
                    return OTHER
                self._patterns.add(pattern)
            self._routes.add(route)
            for measure, others in BEGIN_AT_ZERO:
                self.add(measure, (route, *others), 0)
        return route
