"""Metrics and spans of sessions and locks, for OpenTelemetry.

::

    from sessionlock.integrations.opentelemetry import telemetry

    guard = SessionGuard.from_url("redis://localhost:6379/0", observer=telemetry())

What instruments redis-py sees nothing of a guarded block: many requests share one connection, which is not redis-py's
to use, and a waiter's grant comes without a command of its own. So the guard's own steps are told: a span for a wait,
one for the time that the lock is held, with what happens meanwhile as events. Their parent is the span in which the
block is used. The span of a wait has a *link* to the trace of the request that held the lock, wherever that runs, and
its route and node as attributes.

What is short and uneventful makes no span and no record of a histogram, see :data:`SHORTEST`; it is counted all the
same. Needs ``sessionlock[opentelemetry]``: the API alone; what becomes of it is the application's choice of an SDK.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from time import time_ns
from typing import Any
from weakref import WeakValueDictionary

from opentelemetry import context, trace
from opentelemetry import metrics as otel_metrics
from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, Tracer, TracerProvider

from ..errors import ConfigurationError
from ..observe import (
    CallAnswered,
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
    Observers,
    WaitOver,
    node_of,
    route_of,
)
from ..version import __version__
from .measures import (
    ACQUISITIONS,
    HELD,
    HELD_TIME,
    HOLD,
    MEASURES,
    SAVED,
    Measure,
    Measuring,
    Waiting,
    outcome_of,
    waiter_of,
)

__all__ = ["SHORTEST", "Spans", "metrics", "spans", "telemetry"]

# Seconds. A record costs the SDK some 70,000 instructions, a span 150,000; a guarded cycle without a wait has 500,000
# in all: what lasts less than this is only counted.
SHORTEST = 0.005
MOST_LABELS = 10_000
# Of OpenTelemetry's conventions before they were stable, which redis-py's instrumentation has by default.
OLD_NAMES = {
    "db.system": "db.system.name",
    "db.statement": "db.query.text",
    "net.peer.name": "server.address",
    "net.peer.port": "server.port",
}


def telemetry(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    shortest: float = SHORTEST,
    calls: bool = False,
) -> Observers:
    """An observer that makes :func:`spans` and :func:`metrics`, by default with the global providers.

    Each guard may have one of its own: their spans are, and their metrics are the same. ``calls``: a span also for each
    call to Redis.

    Raises:
        ConfigurationError: as :func:`metrics` does.
    """
    tracer = trace.get_tracer("sessionlock", __version__, tracer_provider)
    meter = _meters.of(meter_provider)
    return Observers([spans(tracer, shortest=shortest, calls=calls), metrics(meter, shortest=shortest)])


def spans(tracer: Tracer, *, shortest: float = SHORTEST, calls: bool = False) -> Spans:
    """An observer that makes spans; give each guard one of its own. ``calls``: also of each call to Redis.

    ``shortest``: seconds. A wait or hold that is shorter, in which nothing else happened, makes none.
    """
    return Spans(tracer, shortest, calls)


def metrics(meter: otel_metrics.Meter, *, shortest: float = SHORTEST) -> OpenTelemetryMetrics:
    """An observer that measures. All guards share one for each meter: a further call returns the first one's.

    ``shortest``: seconds; histograms have no record of what is shorter. Counters have all.

    Raises:
        ConfigurationError: the meter has metrics with another ``shortest``.
    """
    return _meters.metrics_of(meter, shortest)


# --- metrics


class _Meters:
    """Of two that measure with one meter the SDK would leave out what one of them counts, and say nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._global: otel_metrics.Meter | None = None
        # They live as long as their meter, which calls them; and it as long as they.
        self._known: WeakValueDictionary[int, OpenTelemetryMetrics] = WeakValueDictionary()

    def of(self, provider: MeterProvider | None) -> otel_metrics.Meter:
        """The meter of that provider; of the global one always the same, also from before it was set."""
        with self._lock:
            is_global = provider is None or provider is otel_metrics.get_meter_provider()
            if is_global and self._global is not None:
                return self._global
            meter = otel_metrics.get_meter("sessionlock", __version__, provider)
            if is_global:
                self._global = meter
            return meter

    def metrics_of(self, meter: otel_metrics.Meter, shortest: float) -> OpenTelemetryMetrics:
        with self._lock:
            known = self._known.get(id(meter))
            if known is None:
                known = self._known[id(meter)] = OpenTelemetryMetrics(meter, shortest)
        if known.shortest != shortest:
            raise ConfigurationError(
                f"these metrics are measured already, with shortest={known.shortest!r}, not {shortest!r}: give all"
                " guards the same"
            )
        return known


_meters = _Meters()


class OpenTelemetryMetrics(Measuring):
    """Counts are kept here and told when they are collected: that is cheap. Histograms have no such way."""

    def __init__(self, meter: otel_metrics.Meter, shortest: float) -> None:
        super().__init__()
        self.shortest: float = shortest
        self._meter = meter
        self._lock = threading.Lock()
        self._counts: dict[Measure, dict[tuple[str, ...], float]] = {}
        self._by_route: dict[str, _Cell] = {}
        self._cells: dict[str, _Cell] = {}  # the same, by label: that is the node, too
        self._histograms: dict[Measure, otel_metrics.Histogram] = {}
        for measure in MEASURES:
            about = {"unit": measure.unit, "description": measure.meaning}
            if measure.kind == "histogram":
                self._histograms[measure] = meter.create_histogram(
                    measure.name, **about, explicit_bucket_boundaries_advisory=measure.buckets
                )
                continue
            self._counts[measure] = {} if measure.attributes else {(): 0}
            create: Any = meter.create_observable_counter
            if measure.kind == "gauge":
                create = meter.create_observable_up_down_counter
            create(measure.name, callbacks=[self._teller(measure)], **about)

    def add(self, measure: Measure, values: tuple[str, ...], by: float = 1) -> None:
        counts = self._counts[measure]
        with self._lock:
            counts[values] = counts.get(values, 0) + by

    def record(self, measure: Measure, values: tuple[str, ...], value: float) -> None:
        if measure.unit != "s" or value >= self.shortest:
            self._histograms[measure].record(value, _attributes(measure, values))

    # What each cycle has. Counted by label and without a lock: nothing comes between reading a number and writing it
    # back, as there is neither a call nor a jump.

    def _granted(self, event: LockGranted) -> None:
        if event.holder is not None or (self._waiting and waiter_of(self._waiting, event) is not None):
            self._over(event)
            (self._cells.get(event.label) or self._cell(event.label)).handed += 1
        else:
            (self._cells.get(event.label) or self._cell(event.label)).granted += 1

    def _saved(self, event: ChangesSaved) -> None:
        (self._cells.get(event.label) or self._cell(event.label)).saved += 1

    def _released(self, event: LockReleased) -> None:
        held, cell = event.held, self._cells.get(event.label) or self._cell(event.label)
        cell.released += 1
        cell.held += held
        if held >= self.shortest:
            self.record(HOLD, (self._route(event.label),), held)

    def _cell(self, label: str) -> _Cell:
        route = self._route(label)  # what is to be seen at zero is, before it is told that anything happened
        with self._lock:
            cell = self._by_route.setdefault(route, _Cell())
            if len(self._cells) < MOST_LABELS:  # beyond them each is looked for anew
                self._cells[label] = cell
            return cell

    def _teller(self, measure: Measure) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def tell(options: CallbackOptions) -> Iterable[Observation]:
            with self._lock:
                counts = dict(self._counts[measure])
                cells = list(self._by_route.items())
            for route, cell in cells:
                for values, count in cell.of(measure, route):
                    counts[values] = counts.get(values, 0) + count
            return [Observation(count, _attributes(measure, values)) for values, count in counts.items()]

        return tell


class _Cell:
    """Of one route. ``handed``: granted after a wait."""

    __slots__ = ("granted", "handed", "held", "released", "saved")

    def __init__(self) -> None:
        self.granted: int = 0
        self.handed: int = 0
        self.saved: int = 0
        self.released: int = 0
        self.held: float = 0.0

    def of(self, measure: Measure, route: str) -> Iterator[tuple[tuple[str, ...], float]]:
        """What it adds to the counts of ``measure``."""
        if measure is HELD:
            yield (), self.granted + self.handed - self.released
        elif measure is ACQUISITIONS and self.granted:
            yield (route, "granted"), self.granted
        elif measure is SAVED and self.saved:
            yield (route,), self.saved
        elif measure is HELD_TIME and self.released:
            yield (route,), self.held


def _attributes(measure: Measure, values: tuple[str, ...]) -> dict[str, str]:
    return {
        name if name == "error.type" else f"sessionlock.{name}": value
        for name, value in zip(measure.attributes, values, strict=True)
    }


# --- spans


class _Story:
    """A wait or a hold that may become a span: where it began, and what happened since."""

    __slots__ = ("events", "links", "next", "parent", "telling")

    def __init__(self, parent: context.Context | None = None) -> None:
        self.parent: context.Context = context.get_current() if parent is None else parent
        self.events: list[tuple[str, dict[str, Any], int]] | None = None
        self.links: dict[str, Link] | None = None
        self.telling = False
        self.next: _Story | None = None  # of the same session, and younger

    def note(self, event: Event, facts: dict[str, Any]) -> None:
        """It is worth a span by that, however short it is."""
        self.telling = True
        self.events = self.events or []
        self.events.append((type(event).__name__, facts, time_ns()))

    def link(self, traceparent: str, label: str | None) -> None:
        """To the holder's trace."""
        self.links = self.links or {}
        if traceparent and traceparent not in self.links:
            link = _link(traceparent, label or "")
            if link is not None:
                self.links[traceparent] = link


class Spans:
    """An observer. Waits are known by the task that waits; holds by what is held: with threads who gives back is not
    who took. What an uncontended cycle tells costs it little.
    """

    def __init__(self, tracer: Tracer, shortest: float, calls: bool) -> None:
        self._tracer = tracer
        self._shortest = shortest
        self._waits: dict[Waiting, _Story] = {}
        # Of most there is no more to know than where they began. One, but for the moments after a loss.
        self._holds: dict[str, _Story | context.Context] = {}
        self.handlers: dict[type[Event], Callable[[Any], None]] = {
            LockQueued: self._queued,
            LockHandedOver: self._handed_over,
            LockGranted: self._granted,
            LockTimedOut: self._over,
            LockRefused: self._over,
            LockAbandoned: self._over,
            LockReleased: self._released,
            LockRenewed: self._noted,
            LockLost: self._noted,
            ChangesMerged: self._noted,
            ChangesRefused: self._noted,
            LoadRefused: self._noted,
        }
        if calls:
            self.handlers[CallAnswered] = self._called
            chosen = os.environ.get("OTEL_SEMCONV_STABILITY_OPT_IN", "").split(",")
            self._tells_old = "database" not in map(str.strip, chosen)
        self.hears: Collection[type[Event]] = self.handlers.keys()

    def __call__(self, event: Event) -> None:
        self.handlers[type(event)](event)

    def traceparent(self) -> str:
        """Of the current span, as W3C Trace Context has it; "" where there is none, or it is not recorded."""
        # As a tuple, which it is: its properties would cost more than all the rest.
        here: tuple[Any, ...] = trace.get_current_span().get_span_context()
        if not here[3] & 1:
            return ""
        return f"00-{here[0].to_bytes(16, 'big').hex()}-{here[1].to_bytes(8, 'big').hex()}-{here[3]:02x}"

    # --- waits

    def _queued(self, event: LockQueued) -> None:
        story = self._waits[asyncio.current_task(), event.session] = _Story()
        story.link(event.trace, event.holder)
        story.note(event, _of_holder(event.holder) | {"sessionlock.queue.length": event.ahead + 1})

    def _handed_over(self, event: LockHandedOver) -> None:
        story = self._waits.get((asyncio.current_task(), event.session))
        if story is not None:
            story.note(event, {})

    def _granted(self, event: LockGranted) -> None:
        waited = event.holder is not None or event.waited >= self._shortest
        if waited or (self._waits and waiter_of(self._waits, event) is not None):
            self._over(event)
        if event.session not in self._holds:
            self._holds[event.session] = context.get_current()
            return
        last = self._story_of(event.session)
        while last.next is not None:
            last = last.next
        last.next = _Story()

    def _over(self, event: WaitOver) -> None:
        who = waiter_of(self._waits, event)
        story = _Story() if who is None else self._waits.pop(who)
        error = getattr(event, "error", None)
        if not story.telling and error is None and event.waited < self._shortest:
            return
        story.link(event.trace, event.holder)
        about = _about(event) | _of_holder(event.holder) | {"sessionlock.outcome": outcome_of(event)}
        if isinstance(event, LockGranted):
            about["sessionlock.fencing_token"] = event.fencing_token
        self._make("sessionlock.wait", story, about, event.waited, error)

    # --- holds and saves

    def _story_of(self, session: str) -> _Story:
        """Of the hold that is there."""
        known = self._holds[session]
        if not isinstance(known, _Story):
            known = self._holds[session] = _Story(known)
        return known

    def _noted(self, event: Event) -> None:
        error = getattr(event, "error", None)
        story = self._story_of(event.session) if event.label and event.session in self._holds else None
        facts: dict[str, Any] = {} if error is None else {"error.type": type(error).__name__}
        if isinstance(event, LockLost):
            facts["sessionlock.because"] = event.because
        if story is not None:
            story.note(event, facts)
        elif not isinstance(event, (LockLost, LockRenewed)):
            story = _Story()
            story.note(event, facts)
            self._make("sessionlock.save", story, _about(event), 0.0, error)

    def _released(self, event: LockReleased) -> None:
        story = self._holds.pop(event.session, None)
        if story is None:
            return
        if not isinstance(story, _Story):
            if event.held < self._shortest:
                return
            story = _Story(story)
        if story.next is not None:
            self._holds[event.session] = story.next
        if story.telling or event.held >= self._shortest:
            lost = any(name == LockLost.__name__ for name, _, _ in story.events or ())
            self._make("sessionlock.hold", story, _about(event) | {"sessionlock.lost": lost}, event.held, None)

    def _make(
        self, name: str, story: _Story, about: dict[str, Any], seconds: float, error: BaseException | None
    ) -> None:
        """A span that ends now."""
        ended = time_ns()
        links = list((story.links or {}).values())
        span = self._tracer.start_span(
            name, story.parent, attributes=about, links=links, start_time=ended - int(seconds * 1e9)
        )
        for noted, facts, at in story.events or ():
            span.add_event(noted, facts, at)
        _failed(span, error)
        span.end(ended)

    # --- calls

    def _called(self, event: CallAnswered) -> None:
        """Its words are never told, for they have the session in them."""
        statement = "\n".join(
            " ".join([name, *"?" * (words - 1)]) for name, words in zip(event.commands, event.words, strict=True)
        )
        host, colon, port = event.server.rpartition(":")
        is_tcp = bool(colon) and port.isdigit()
        about: dict[str, Any] = {
            "db.system.name": "redis",
            "db.namespace": str(event.database),
            "db.operation.name": " ".join(event.commands),
            "db.query.text": statement,
            "db.stored_procedure.name": event.script,
            "server.address": host if is_tcp else event.server,
            "network.transport": "tcp" if is_tcp else "unix",
            "sessionlock.session": event.session,
        }
        if is_tcp:
            about["server.port"] = int(port)
        if self._tells_old:
            about |= {old: about[name] for old, name in OLD_NAMES.items() if name in about}
            about |= {"db.redis.database_index": event.database, "net.transport": "ip_tcp" if is_tcp else "other"}
        ended = time_ns()
        span = self._tracer.start_span(
            " ".join(event.commands),
            kind=SpanKind.CLIENT,
            attributes=about,
            start_time=ended - int(event.seconds * 1e9),
        )
        _failed(span, event.error)
        span.end(ended)


def _about(event: Event) -> dict[str, Any]:
    return {"sessionlock.session": event.session, "sessionlock.node": event.node, "sessionlock.route": event.route}


def _of_holder(label: str | None) -> dict[str, Any]:
    if label is None:
        return {}
    return {"sessionlock.holder.node": node_of(label), "sessionlock.holder.route": route_of(label)}


def _failed(span: trace.Span, error: BaseException | None) -> None:
    if error is not None:
        span.record_exception(error)
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(Status(StatusCode.ERROR, str(error)))


def _link(traceparent: str, label: str) -> Link | None:
    _, trace_id, span_id, flags = traceparent.split("-")
    there = SpanContext(int(trace_id, 16), int(span_id, 16), True, trace.TraceFlags(int(flags, 16)))
    return Link(there, _of_holder(label)) if there.is_valid else None
