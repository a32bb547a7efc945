"""An application that traces and measures sees what a guarded block waits for, for whom, and how long it holds."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from sessionlock import LeaseLost, LeasePolicy, SessionConflict, SessionGuard, WaitTimedOut
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.protocol.keys import keys_for
from tests.harness.polling import eventually

pytest.importorskip("opentelemetry.sdk", reason="the SDK is in the extra `test`")

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from sessionlock.integrations.measures import REFUSALS
from sessionlock.integrations.opentelemetry import metrics, spans, telemetry

pytestmark = pytest.mark.anyio
DIGEST = keys_for("sl", "s").digest


class Traced:
    """A tracer, and the spans that were made with it, in the order in which they ended."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._kept))
        self.tracer = self.provider.get_tracer("shop")

    @property
    def spans(self) -> list[Any]:
        return list(self._kept.get_finished_spans())

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == f"sessionlock.{name}"]

    def requests(self) -> dict[int, str]:
        return {span.context.span_id: span.name for span in self.spans if not span.name.startswith("sessionlock.")}


class Measured:
    """A meter, and what was measured with it."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])
        self.meter = self.provider.get_meter("shop")

    def points(self) -> dict[str, dict[tuple[str, ...], Any]]:
        """By metric and values of its attributes: a number, or how many a histogram has."""
        data: Any = self._reader.get_metrics_data()
        found: dict[str, dict[tuple[str, ...], Any]] = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            by = found[metric.name.removeprefix("sessionlock.")] = {}
            for point in metric.data.data_points:
                by[tuple(point.attributes.values())] = getattr(point, "value", getattr(point, "count", None))
        return found


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.fixture
def measured() -> Measured:
    return Measured()


def outcome(span: Any) -> str:
    return str(span.attributes["sessionlock.outcome"])


# --- spans


async def test_a_cycle(redis_url: str, traced: Traced) -> None:
    guard = SessionGuard.from_url(redis_url, label="n1", observer=spans(traced.tracer, shortest=0))
    async with guard:
        with traced.tracer.start_as_current_span("request"):
            async with guard.session_lock("s", label="POST /cart") as session:
                session["n"] = 1
    wait, hold, request = traced.spans
    assert [wait.name, hold.name, request.name] == ["sessionlock.wait", "sessionlock.hold", "request"]
    for span in (wait, hold):
        assert span.parent.span_id == request.context.span_id
        assert span.attributes["sessionlock.session"] == DIGEST
        assert (span.attributes["sessionlock.node"], span.attributes["sessionlock.route"]) == ("n1", "POST /cart")
        assert request.start_time <= span.start_time <= span.end_time <= request.end_time
    assert wait.end_time <= hold.end_time
    assert outcome(wait) == "granted"
    assert session.lease is not None
    assert wait.attributes["sessionlock.fencing_token"] == session.lease.fencing_token
    assert hold.attributes["sessionlock.lost"] is False


async def test_what_is_short_and_uneventful_makes_no_span(redis_url: str, traced: Traced) -> None:
    """It would cost more than the cycle itself."""
    guard = SessionGuard.from_url(redis_url, observer=spans(traced.tracer, shortest=60))
    async with guard, guard.session_lock("s") as session:
        session["n"] = 1
    assert traced.spans == []


@pytest.mark.parametrize("waiters", [1, 10])
async def test_a_wait_is_linked_to_the_trace_of_its_holder(redis_url: str, waiters: int) -> None:
    """Of another node, whose tracer is another one. Those behind were made to wait by each other as well."""
    theirs, ours = Traced(), Traced()
    holder = SessionGuard.from_url(redis_url, label="n1", observer=spans(theirs.tracer))
    guard = SessionGuard.from_url(redis_url, label="n2", observer=spans(ours.tracer))
    queued: list[object] = []

    async def one(number: int) -> None:
        with ours.tracer.start_as_current_span(f"request {number}"):
            async with guard.session_lock("s", label="GET /cart", wait=30):
                pass

    async with holder, guard:
        with theirs.tracer.start_as_current_span("the holder's request") as span:
            async with holder.session_lock("s", label="POST /pay/{id}"):
                tasks = [asyncio.ensure_future(one(number)) for number in range(waiters)]
                while len(queued) < waiters:
                    queued = list((await guard.inspect("s")).waiters)
        await asyncio.gather(*tasks)
    there = span.get_span_context()
    waits = ours.named("wait")
    assert len(waits) == waiters
    assert sorted(ours.requests()[wait.parent.span_id] for wait in waits) == sorted(ours.requests().values())
    for wait in waits:
        # Whom it was told of when it queued, and whom it heard of last, where that is another.
        assert 1 <= len(wait.links) <= 2
        assert outcome(wait) == "granted"
        assert "LockQueued" in [event.name for event in wait.events]
    first = min(waits, key=lambda wait: wait.end_time)
    assert (first.links[0].context.trace_id, first.links[0].context.span_id) == (there.trace_id, there.span_id)
    assert first.links[0].context.is_remote
    assert first.links[0].attributes["sessionlock.holder.route"] == "POST /pay/{id}"
    assert first.attributes["sessionlock.holder.node"] == "n1"


async def test_who_is_not_traced_tells_no_trace(redis_url: str, traced: Traced) -> None:
    """A holder outside of any span has none to link to."""
    observer = spans(traced.tracer)
    assert observer.traceparent() == ""
    async with (
        SessionGuard.from_url(redis_url, label="n1", observer=observer) as holder,
        SessionGuard.from_url(redis_url, label="n2", observer=spans(traced.tracer)) as guard,
        holder.session_lock("s"),
    ):
        waiting = asyncio.ensure_future(guard.session_lock("s", wait=0.05).__aenter__())
        with pytest.raises(WaitTimedOut):
            await waiting
    (wait,) = (span for span in traced.named("wait") if outcome(span) != "granted")
    assert (wait.links, wait.attributes["sessionlock.holder.node"]) == ((), "n1")
    assert outcome(wait) == "timed_out"
    assert all(span.links == () for span in traced.spans)


async def test_what_went_wrong(redis_url: str, elsewhere: SessionGuard, traced: Traced) -> None:
    async with SessionGuard.from_url(redis_url, observer=spans(traced.tracer)) as guard:
        async with elsewhere.lock("s"):
            with pytest.raises(WaitTimedOut):
                async with guard.lock("s", wait=0.01):
                    pass
        with pytest.raises(LeaseLost):
            async with guard.lock("s", lease=LeasePolicy(on_lost="flag")) as lease:
                lease.mark_lost("a test says so")
        await guard.create({"n": 1}, sid="c")
        with pytest.raises(SessionConflict):
            async with guard.session_lock("c", mode="optimistic") as session:
                session["n"] += 1
                async with guard.session_lock("c", mode="optimistic") as theirs:
                    theirs["n"] += 2
    failed = next(span for span in traced.named("wait") if outcome(span) != "granted")
    assert failed.attributes["error.type"] == "WaitTimedOut"
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.events[-1].name == "exception"
    lost = next(span for span in traced.named("hold") if span.attributes["sessionlock.lost"])
    assert "a test says so" in str([dict(event.attributes) for event in lost.events])
    (save,) = traced.named("save")
    assert save.attributes["error.type"] == "SessionConflict"


def test_threads(redis_url: str, traced: Traced) -> None:
    """Whoever gives back is another task of the loop behind them."""
    with BlockingGuard.from_url(redis_url, observer=spans(traced.tracer, shortest=0)) as guard:

        def request(number: int) -> None:
            with traced.tracer.start_as_current_span(f"request {number}"), guard.session_lock("s") as session:
                session["n"] = session.get("n", 0) + 1

        threads = [threading.Thread(target=request, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name in ("wait", "hold"):
        assert {span.parent.span_id for span in traced.named(name)} == set(traced.requests())
    assert len(traced.spans) == 24


async def test_nothing_is_kept(redis_url: str, traced: Traced, measured: Measured) -> None:
    observer = spans(traced.tracer)
    async with SessionGuard.from_url(redis_url, observer=[observer, metrics(measured.meter)]) as guard:
        for number in range(5):
            async with guard.session_lock(f"s{number}"):
                pass
    inner: Any = observer
    assert not inner._waits
    assert not inner._holds
    assert measured.points()["lock.waiting"] == measured.points()["lock.held"] == {(): 0}


async def test_calls(tcp_url: str, traced: Traced) -> None:
    """Named as redis-py's instrumentation names what it sees; without a word of what was sent."""
    observer = telemetry(tracer_provider=traced.provider, meter_provider=MeterProvider(), calls=True)
    async with SessionGuard.from_url(tcp_url.replace("/0", "/3"), observer=observer) as guard:
        with traced.tracer.start_as_current_span("request") as request:
            async with guard.session_lock("a secret") as session:
                session["n"] = "another secret"
    acquire, release = (span for span in traced.spans if span.kind is SpanKind.CLIENT)
    assert acquire.name in ("FCALL HGETALL", "EVALSHA HGETALL")
    assert release.name == acquire.name.removesuffix(" HGETALL")
    assert acquire.parent.span_id == request.get_span_context().span_id
    assert acquire.attributes["db.system"] == acquire.attributes["db.system.name"] == "redis"
    assert acquire.attributes["db.stored_procedure.name"] == "acquire"
    assert acquire.attributes["server.address"] == "127.0.0.1"
    assert f":{acquire.attributes['server.port']}/" in tcp_url
    assert (acquire.attributes["db.namespace"], acquire.attributes["db.redis.database_index"]) == ("3", 3)
    assert set(acquire.attributes["db.query.text"].split()) == {acquire.name.split()[0], "HGETALL", "?"}
    assert "secret" not in str([span.to_json() for span in traced.spans])


OLD = {"db.system", "db.statement", "db.redis.database_index", "net.peer.name", "net.peer.port", "net.transport"}
STABLE = {"db.system.name", "db.query.text", "db.namespace", "server.address", "server.port", "network.transport"}


@pytest.mark.parametrize(
    ("chosen", "names"), [("", OLD | STABLE), ("http,database/dup", OLD | STABLE), ("http, database", STABLE)]
)
async def test_names_of_a_call(
    tcp_url: str, traced: Traced, monkeypatch: pytest.MonkeyPatch, chosen: str, names: set[str]
) -> None:
    """Those of redis-py's instrumentation by default, and the stable ones."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", chosen)
    guard = SessionGuard.from_url(tcp_url, observer=spans(traced.tracer, calls=True))
    async with guard, guard.session_lock("s"):
        pass
    calls = [span for span in traced.spans if span.kind is SpanKind.CLIENT]
    assert [set(span.attributes) & (OLD | STABLE) for span in calls] == [names] * 2


# --- metrics


async def test_all_that_is_measured(redis_url: str, elsewhere: SessionGuard, measured: Measured) -> None:
    guard = SessionGuard.from_url(redis_url, label="n1", observer=metrics(measured.meter, shortest=0))

    async def wait() -> None:
        async with guard.session_lock("s", label="GET /cart") as session:
            session["n"] = session.get("n", 0) + 1

    async with guard:
        async with guard.session_lock("s", label="POST /pay") as session:
            session["n"] = 1
            waiting = asyncio.ensure_future(wait())
            await eventually(lambda: measured.points().get("lock.queue.length"), "it waits")
            now = measured.points()
            assert (now["lock.waiting"], now["lock.held"]) == ({(): 1}, {(): 1})
        await waiting
        with pytest.raises(SessionConflict):
            async with guard.session_lock("s", label="POST /pay") as session:
                session["n"] += 1
                async with elsewhere.session_lock("s", mode="optimistic") as theirs:
                    theirs["n"] = 7
    points = measured.points()
    blocked = points["lock.blocked.time"].pop(("GET /cart", "POST /pay"))
    assert blocked > 0
    routes, rare = ("POST /pay", "GET /cart"), ("timed_out", "queue_full", "unavailable")
    assert points.pop("lock.held.time").keys() == {("POST /pay",), ("GET /cart",)}
    assert points == {
        "lock.acquisitions": {
            ("POST /pay", "granted"): 2,
            ("GET /cart", "granted"): 1,
            **{(route, outcome): 0 for route in routes for outcome in rare},
        },
        "lock.wait.duration": {("GET /cart", "granted"): 1},
        "lock.blocked.time": {},
        "lock.queue.length": {(): 1},
        "lock.hold.duration": {("POST /pay",): 2, ("GET /cart",): 1},
        "lock.waiting": {(): 0},
        "lock.held": {(): 0},
        "lock.handovers": {(): 1},
        "lock.renewals": {(): 0},
        "redis.outages": {(): 0},
        "redis.down": {(): 0},
        "changes.saved": {("POST /pay",): 1, ("GET /cart",): 1},
        "changes.refused": {
            **{(route, error.__name__): 0 for route in routes for error in REFUSALS},
            ("POST /pay", "SessionConflict"): 1,
        },
        "lock.lost": {(route,): 0 for route in routes},
    }


async def test_what_is_short_is_counted_only(redis_url: str, measured: Measured) -> None:
    guard = SessionGuard.from_url(redis_url, observer=metrics(measured.meter, shortest=60))
    async with guard, guard.session_lock("s", label="GET /"):
        pass
    points = measured.points()
    assert points["lock.acquisitions"][("GET /", "granted")] == 1
    assert "lock.hold.duration" not in points
    assert points["lock.held.time"][("GET /",)] > 0


async def test_what_is_rare_is_seen_at_zero_before_it_happens(redis_url: str, measured: Measured) -> None:
    """At the first collection: of a counter that is first seen at one Prometheus knows no increase."""
    guard = SessionGuard.from_url(redis_url, observer=metrics(measured.meter, shortest=60))
    async with guard, guard.session_lock("s", label="POST /pay"):
        pass
    points = measured.points()
    assert points["lock.lost"] == {("POST /pay",): 0}
    assert points["changes.refused"] == {("POST /pay", error.__name__): 0 for error in REFUSALS}
    assert points["lock.acquisitions"][("POST /pay", "timed_out")] == 0
