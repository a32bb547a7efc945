"""Spans of sessions and locks, for OpenTelemetry or whatever has tracers like its.

::

    from opentelemetry import trace
    from sessionlock.integrations.opentelemetry import spans

    guard = SessionGuard.from_url("redis://localhost:6379/0", observer=spans(trace.get_tracer("shop")))

What instruments redis-py sees nothing of a guarded block: many requests share one connection, which is not redis-py's
to use, and a waiter's grant comes without a command of its own. So the guard's own steps are told: one span for the
wait, one for the time that the lock is held, with what happens meanwhile as events. Their parent is the span in which
the block is used. A save without a lock is a span without length.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import deque
from collections.abc import Callable
from typing import Any

from ..observe import (
    ChangesMerged,
    ChangesRefused,
    ChangesSaved,
    Event,
    LockAbandoned,
    LockAsked,
    LockGranted,
    LockHandedOver,
    LockLost,
    LockQueued,
    LockRefused,
    LockReleased,
    LockTimedOut,
)

__all__ = ["spans"]


def spans(tracer: Any) -> Callable[[Event], None]:
    """An observer that makes spans. ``tracer``: as ``opentelemetry.trace.get_tracer(name)`` returns it.

    Give each guard one of its own.
    """
    return _Spans(tracer).observe


class _Spans:
    def __init__(self, tracer: Any) -> None:
        self._tracer = tracer
        self._waits: dict[tuple[object, str], Any] = {}  # by who asks, and for what
        # By what is locked: with threads who gives back is not who took. One, but for the moments after a loss.
        self._holds: dict[str, deque[Any]] = {}

    def observe(self, event: Event) -> None:
        if isinstance(event, LockAsked):
            self._waits[_asker(), event.session] = self._begun("sessionlock.wait", event)
        elif isinstance(event, (LockQueued, LockHandedOver)):
            self._note(self._waits.get((_asker(), event.session)), event)
        elif isinstance(event, (LockGranted, LockTimedOut, LockRefused, LockAbandoned)):
            self._over(self._waits.pop((_asker(), event.session), None), event)
            if isinstance(event, LockGranted):
                hold = self._begun("sessionlock.hold", event, fencing_token=event.fencing_token)
                self._holds.setdefault(event.session, deque()).append(hold)
        elif isinstance(event, LockReleased):
            holds = self._holds.get(event.session, deque())
            if holds:
                self._over(holds.popleft(), event)
            if not holds:
                self._holds.pop(event.session, None)
        elif event.session in self._holds and event.label:
            hold = self._holds[event.session][0]
            self._note(hold, event)
            if isinstance(event, LockLost):
                hold.record_exception(RuntimeError(f"the lock was lost: {event.because}"))
                hold.set_attribute("sessionlock.lost", True)
        elif isinstance(event, (ChangesSaved, ChangesMerged, ChangesRefused)):
            self._over(self._begun("sessionlock.save", event), event)

    def _begun(self, name: str, event: Event, **more: Any) -> Any:
        attributes = {"sessionlock.session": event.session, "sessionlock.label": event.label}
        attributes.update((f"sessionlock.{key}", value) for key, value in more.items())
        return self._tracer.start_span(name, attributes=attributes)

    def _note(self, span: Any, event: Event) -> None:
        if span is not None:
            span.add_event(type(event).__name__, {key: value for key, value in _facts(event) if value is not None})

    def _over(self, span: Any, event: Event) -> None:
        if span is None:
            return
        for key, value in _facts(event):
            span.set_attribute(f"sessionlock.{key}", value)
        error = getattr(event, "error", None)
        if error is not None:
            span.record_exception(error)
            span.set_attribute("error.type", type(error).__name__)
        span.set_attribute("sessionlock.outcome", type(event).__name__)
        span.end()


def _asker() -> object:
    return asyncio.current_task()


def _facts(event: Event) -> list[tuple[str, Any]]:
    names = (field.name for field in dataclasses.fields(event))
    return [(name, getattr(event, name)) for name in names if name not in ("session", "label", "error")]
