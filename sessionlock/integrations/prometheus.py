"""Metrics of sessions and locks, for Prometheus.

::

    from sessionlock.integrations.prometheus import prometheus_metrics

    guard = SessionGuard.from_url("redis://localhost:6379/0", observer=prometheus_metrics())

They are in prometheus_client's registry, and shown by whatever shows that. Several processes of one server: as that
library has it (``PROMETHEUS_MULTIPROC_DIR``). What each means: ``docs/observe.md``. Needs ``sessionlock[prometheus]``.
"""

from __future__ import annotations

import threading
from typing import Any
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from .measures import MEASURES, Measure, Measuring

__all__ = ["PrometheusMetrics", "prometheus_metrics", "series_name"]


_making = threading.Lock()
_known: WeakKeyDictionary[CollectorRegistry, PrometheusMetrics] = WeakKeyDictionary()


def prometheus_metrics(registry: CollectorRegistry = REGISTRY) -> PrometheusMetrics:
    """An observer that measures. All guards share one for each registry: a further call returns the first one's."""
    with _making:
        known = _known.get(registry)
        if known is None:
            known = _known[registry] = PrometheusMetrics(registry)
        return known


def series_name(measure: Measure) -> str:
    """As OpenTelemetry's names become Prometheus'; only the names of labels differ. A counter's ``_total`` is added by
    prometheus_client.
    """
    name = measure.name.replace(".", "_")
    return f"{name}_seconds" if measure.unit == "s" else name


class PrometheusMetrics(Measuring):
    """One collector for each of :data:`.measures.MEASURES`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__()
        self._collectors: dict[Measure, Any] = {measure: _collector(measure, registry) for measure in MEASURES}
        self._children: dict[tuple[Measure, tuple[str, ...]], Any] = {}

    def add(self, measure: Measure, values: tuple[str, ...], by: float = 1) -> None:
        self._child(measure, values).inc(by)

    def record(self, measure: Measure, values: tuple[str, ...], value: float) -> None:
        self._child(measure, values).observe(value)

    def _child(self, measure: Measure, values: tuple[str, ...]) -> Any:
        key = (measure, values)
        child = self._children.get(key)
        if child is None:
            collector = self._collectors[measure]
            child = self._children[key] = collector.labels(*values) if values else collector
        return child


def _collector(measure: Measure, registry: CollectorRegistry) -> Any:
    name, labels = series_name(measure), [attribute.replace(".", "_") for attribute in measure.attributes]
    if measure.kind == "counter":
        return Counter(name, measure.meaning, labels, registry=registry)
    if measure.kind == "gauge":
        return Gauge(name, measure.meaning, labels, registry=registry, multiprocess_mode="livesum")
    return Histogram(name, measure.meaning, labels, registry=registry, buckets=measure.buckets)
