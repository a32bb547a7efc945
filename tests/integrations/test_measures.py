"""What both libraries of metrics count alike: routes, waits, and what is there now and must go back to nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from sessionlock import ConfigurationError, Quorum, RedisUnavailable, SessionGuard
from sessionlock.observe import LockAbandoned, LockGranted, LockQueued, LockRefused, LockReleased

pytest.importorskip("opentelemetry.sdk", reason="the SDK is in the extra `test`")
pytest.importorskip("prometheus_client", reason="it is in the extra `test`")

from opentelemetry import metrics as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from sessionlock.integrations.measures import MOST_ROUTES, OTHER
from sessionlock.integrations.opentelemetry import metrics, spans, telemetry
from sessionlock.integrations.prometheus import prometheus_metrics

pytestmark = pytest.mark.anyio
NOWHERE = "redis://127.0.0.1:1/0"


class Measured:
    """``observer``; by :meth:`of` what it has counted. ``again()`` makes another observer for the same place."""

    def __init__(self, library: str) -> None:
        if library == "prometheus":
            registry: Any = CollectorRegistry()
            self.again: Callable[[], Any] = lambda: prometheus_metrics(registry)
            self._collect: Callable[[], Any] = lambda: [
                (_name_of(sample.name), tuple(sample.labels.values()), sample.value)
                for metric in registry.collect()
                for sample in metric.samples
            ]
        else:
            reader = InMemoryMetricReader()
            provider = MeterProvider([reader])
            self.again = lambda: telemetry(meter_provider=provider, tracer_provider=TracerProvider(), shortest=0)
            self._collect = lambda: list(_points(reader))
        self.observer = self.again()

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        """By values of its attributes, but for those that are 0."""
        return {values: value for found, values, value in self._collect() if found == f"sessionlock.{name}" and value}


def _name_of(series: str) -> str:
    return series.replace("_", ".").removesuffix(".total").removesuffix(".seconds")


def _points(reader: InMemoryMetricReader) -> Any:
    data: Any = reader.get_metrics_data()
    for metric in data.resource_metrics[0].scope_metrics[0].metrics:
        for point in metric.data.data_points:
            yield metric.name, tuple(point.attributes.values()), getattr(point, "value", None) or 0


@pytest.fixture(params=["prometheus", "opentelemetry"])
def measured(request: pytest.FixtureRequest) -> Measured:
    return Measured(request.param)


# --- routes


def cycle(observer: Any, label: str) -> None:
    observer(LockGranted("d", label, 0.0, None, "", 1))
    observer(LockReleased("d", label, 0.001))


def test_routes_are_limited_not_nodes_and_methods(measured: Measured) -> None:
    """Who sends other methods takes no route from others; nor does a second guard."""
    for route in range(MOST_ROUTES):
        for method in ("POST", "_OTHER"):
            cycle(measured.observer, f"n1 {method} /{route}")
            cycle(measured.observer, f"n2 {method} /{route}")
    counts = measured.of("lock.acquisitions")
    assert len(counts) == 2 * MOST_ROUTES
    assert set(counts.values()) == {2.0}
    for _ in range(3):
        cycle(measured.observer, "n1 POST /late")
    assert measured.of("lock.acquisitions") == counts | {(OTHER, "granted"): 3.0}
    assert set(measured.of("lock.held.time")) == {(route,) for route, _ in counts} | {(OTHER,)}
    assert measured.of("lock.held") == {}


# --- waits


async def test_a_wait_ends_whomever_it_was_for(measured: Measured) -> None:
    """The holder may not be known, where many wait beside the queue; that somebody began to wait is."""
    tell = measured.observer
    for over in (
        LockGranted("d", "n GET /", 0.5, None, "", 1),
        LockRefused("d", "n GET /", 0.5, None, "", RedisUnavailable("down")),
    ):
        tell(LockQueued("d", "n GET /", 1, 8, None))
        assert measured.of("lock.waiting") == {(): 1.0}
        tell(over)
        assert measured.of("lock.waiting") == {}
    assert measured.of("lock.blocked.time") == {("GET /", "-"): 1.0}


async def test_such_a_wait_makes_a_span(measured: Measured) -> None:
    """However short it was; and nothing of it is kept."""
    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    observer = spans(provider.get_tracer("shop"), shortest=60)
    observer(LockQueued("d", "n GET /", 1, 8, None))
    observer(LockGranted("d", "n GET /", 0.001, None, "", 1))
    (span,) = kept.get_finished_spans()
    assert [event.name for event in span.events] == ["LockQueued"]


def test_a_wait_in_a_loop_that_is_closed(measured: Measured) -> None:
    """Without being cancelled; its coroutine is collected when there is no loop any more."""

    async def queue() -> None:
        measured.observer(LockQueued("d", "n GET /", 1, 8, None))

    loop = asyncio.new_event_loop()
    waiting = loop.create_task(queue())
    loop.run_until_complete(waiting)
    assert measured.of("lock.waiting") == {(): 1.0}
    loop.close()
    measured.observer(LockAbandoned("d", "n GET /", 0.5, None, ""))
    assert measured.of("lock.waiting") == {}


# --- what is there now


async def test_an_outage_ends_with_the_guard_that_saw_it(measured: Measured) -> None:
    async with SessionGuard.from_url(NOWHERE, retry_for=0.05, observer=measured.observer) as guard:
        with pytest.raises(RedisUnavailable):
            await guard.read("s")
        assert measured.of("redis.down") == {(): 1.0}
    assert measured.of("redis.down") == {}
    assert measured.of("redis.outages") == {(): 1.0}


async def test_an_outage_of_a_quorum_ends_with_its_guard(redis_url: str, measured: Measured) -> None:
    quorum = Quorum({f"m{port}": Redis(host="127.0.0.1", port=port) for port in (1, 2, 3)}, reply_within=0.05)
    guard = SessionGuard.from_url(redis_url, quorum=quorum, retry_for=0.05, check=False, observer=measured.observer)
    async with guard:
        with pytest.raises(RedisUnavailable):
            async with guard.session_lock("s", wait=1):
                pass
        assert measured.of("redis.down") == {(): 1.0}
    assert measured.of("redis.down") == {}


def test_an_outage_ends_with_the_event_loop_that_saw_it(measured: Measured) -> None:
    """Each begins one of its own."""
    guard = SessionGuard.from_url(NOWHERE, retry_for=0.05, observer=measured.observer)

    async def ask() -> None:
        with pytest.raises(RedisUnavailable):
            await guard.read("s")
        assert measured.of("redis.down") == {(): 1.0}

    for _ in range(2):
        asyncio.run(ask())
        assert measured.of("redis.down") == {}
    loop = asyncio.new_event_loop()
    loop.run_until_complete(ask())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0.05))
    loop.close()  # its asynchronous generators were not shut down: that is seen when the guard is used again
    assert measured.of("redis.down") == {(): 1.0}
    asyncio.run(ask())
    assert measured.of("redis.down") == {}


def test_a_lock_ends_with_its_event_loop(redis_url: str, measured: Measured) -> None:
    guard = SessionGuard.from_url(redis_url, observer=measured.observer)
    blocks = []

    async def hold() -> None:
        blocks.append(guard.session_lock("s", label="GET /"))
        await blocks[0].__aenter__()
        assert measured.of("lock.held") == {(): 1.0}

    asyncio.run(hold())
    assert measured.of("lock.held") == {}
    assert set(measured.of("lock.held.time")) == {("GET /",)}


# --- one for all guards


async def test_further_observers_count_with_the_first(redis_url: str, measured: Measured) -> None:
    async with (
        SessionGuard.from_url(redis_url, label="n1", observer=measured.observer) as first,
        SessionGuard.from_url(redis_url, label="n2", observer=measured.again()) as second,
    ):
        for guard in (first, second, second):
            async with guard.session_lock("s", label="GET /"):
                pass
    assert measured.of("lock.acquisitions") == {("GET /", "granted"): 3.0}


def test_meters() -> None:
    """One for each provider; of the global one the same from before it was set."""
    provider = MeterProvider()
    first = telemetry(meter_provider=provider).each[1]
    assert telemetry(meter_provider=provider).each[1] is first
    assert telemetry(meter_provider=MeterProvider()).each[1] is not first
    assert telemetry().each[1] is telemetry().each[1]
    assert telemetry(meter_provider=api.get_meter_provider()).each[1] is telemetry().each[1]
    with pytest.raises(ConfigurationError, match=r"shortest=0\.005, not 1"):
        telemetry(meter_provider=provider, shortest=1)
    meter = provider.get_meter("shop")
    assert metrics(meter) is metrics(meter)
