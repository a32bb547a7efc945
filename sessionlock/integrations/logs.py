"""Structured logging: what happens to sessions and their locks, as records with fields.

::

    from sessionlock.integrations.logs import logs

    guard = SessionGuard.from_url("redis://localhost:6379/0", observer=logs())

Each record of the logger ``sessionlock.events`` has its facts as attributes (``extra=``), for whichever formatter makes
JSON of them: ``event``, ``session`` (a digest), ``node``, ``route``, ``holder_node``, ``holder_route``,
``holder_trace``, ``waited``, ``held``, ``error`` … as :mod:`sessionlock.observe` has them. ``docs/observe.md`` lists
the levels.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from ..errors import OutcomeUnknown, RedisUnavailable, SessionLockError, SessionNotFound
from ..observe import (
    ChangesRefused,
    Event,
    LoadRefused,
    LockGranted,
    LockLost,
    LockRefused,
    LockReleased,
    LockTimedOut,
    OutageAbandoned,
    OutageBegan,
    OutageEnded,
    node_of,
    route_of,
)

__all__ = ["SLOW_HOLD", "SLOW_WAIT", "logs"]

SLOW_WAIT = 1.0  # seconds; what a visitor notices
SLOW_HOLD = 5.0  # seconds; half of the time that others wait by default

_LEVELS: dict[type[Event], int] = {
    LockLost: logging.WARNING,
    LockTimedOut: logging.WARNING,
    OutageBegan: logging.WARNING,
    OutageEnded: logging.INFO,
    OutageAbandoned: logging.INFO,
}


def logs(
    logger: logging.Logger | None = None, *, slow_wait: float = SLOW_WAIT, slow_hold: float = SLOW_HOLD
) -> Callable[[Event], None]:
    """An observer that logs.

    ``logger``: where to, by default ``sessionlock.events``. ``slow_wait``, ``slow_hold``: seconds from which on a wait
    that ended well, and a hold, are told at INFO; shorter ones at DEBUG.
    """
    to = logger or logging.getLogger("sessionlock.events")

    def log(event: Event) -> None:
        level = _level(event, slow_wait, slow_hold)
        if to.isEnabledFor(level):
            # Collectors of errors group by what is not filled in yet.
            to.log(level, f"{type(event).__name__} %s", _about(event), extra=_fields(event))

    return log


def _level(event: Event, slow_wait: float, slow_hold: float) -> int:
    if isinstance(event, LockGranted):
        return logging.INFO if event.waited >= slow_wait else logging.DEBUG
    if isinstance(event, LockReleased):
        return logging.INFO if event.held >= slow_hold else logging.DEBUG
    if isinstance(event, (LockRefused, LoadRefused, ChangesRefused)):
        return _level_of(event.error, found_gone=isinstance(event, ChangesRefused))
    return _LEVELS.get(type(event), logging.DEBUG)


def _level_of(error: SessionLockError, *, found_gone: bool) -> int:
    """An outage is told when it begins and when it ends, and a cookie of a session that has ended is nobody's fault."""
    if isinstance(error, RedisUnavailable) and not isinstance(error, OutcomeUnknown):
        return logging.DEBUG
    if isinstance(error, SessionNotFound) and not found_gone:
        return logging.DEBUG
    return logging.WARNING


def _about(event: Event) -> str:
    """For people: whom an event is about, and its facts."""
    about = [event.label] if event.label else []
    about += [f"session {event.session}"] if event.session else []
    facts = {key: value for key, value in _facts(event).items() if key != "trace"}
    told = ", ".join(f"{key} {_short(value)}" for key, value in facts.items() if value not in (None, ""))
    return ": ".join(part for part in (" ".join(about), told) if part)


def _fields(event: Event) -> dict[str, Any]:
    fields: dict[str, Any] = {"event": type(event).__name__, "session": event.session}
    fields.update(node=event.node, route=event.route)
    facts = _facts(event)
    if "holder" in facts:
        holder, trace = facts.pop("holder"), facts.pop("trace")
        fields.update(holder_node=node_of(holder or ""), holder_route=route_of(holder or ""), holder_trace=trace)
    if "error" in facts:
        error = facts.pop("error")
        fields.update(error=None if error is None else type(error).__name__, detail=str(error or ""))
    return fields | facts


def _facts(event: Event) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(event))
    return {name: getattr(event, name) for name in names if name not in ("session", "label")}


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{type(value).__name__}: {value}" if isinstance(value, BaseException) else str(value)
