"""An application that shows metrics of Prometheus shows those of its sessions, also of several processes."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sessionlock import SessionGuard, SessionNotFound, WaitPolicy
from tests.harness.polling import eventually

pytest.importorskip("prometheus_client", reason="it is in the extra `test`")

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

from sessionlock.integrations.measures import MEASURES, MOST_ROUTES, OTHER
from sessionlock.integrations.prometheus import prometheus_metrics, series_name

pytestmark = pytest.mark.anyio

WORKER = """
import asyncio, sys
from sessionlock import SessionGuard
from sessionlock.integrations.prometheus import prometheus_metrics

async def main():
    async with SessionGuard.from_url(sys.argv[1], observer=prometheus_metrics()) as guard:
        for _ in range(3):
            async with guard.session_lock("s", label="POST /pay") as session:
                session["n"] = session.get("n", 0) + 1

asyncio.run(main())
"""


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def value(registry: CollectorRegistry, name: str, **labels: str) -> Any:
    return registry.get_sample_value(f"sessionlock_{name}", labels)


async def test_what_happens_is_measured(redis_url: str, registry: CollectorRegistry) -> None:
    guard = SessionGuard.from_url(redis_url, observer=prometheus_metrics(registry))

    async def wait() -> None:
        async with guard.session_lock("s", label="GET /cart"):
            pass

    async with guard:
        async with guard.session_lock("s", label="POST /pay") as session:
            session["n"] = 1
            waiting = asyncio.ensure_future(wait())
            await eventually(lambda: value(registry, "lock_queue_length_count"), "it waits")
            assert (value(registry, "lock_waiting"), value(registry, "lock_held")) == (1, 1)
        await waiting
        with pytest.raises(SessionNotFound):
            await guard.read("t")
    assert (value(registry, "lock_waiting"), value(registry, "lock_held")) == (0, 0)
    assert value(registry, "lock_acquisitions_total", route="POST /pay", outcome="granted") == 1
    assert value(registry, "lock_wait_duration_seconds_count", route="GET /cart", outcome="granted") == 1
    assert value(registry, "lock_blocked_time_seconds_total", route="GET /cart", holder_route="POST /pay") > 0
    assert value(registry, "lock_hold_duration_seconds_count", route="POST /pay") == 1
    assert value(registry, "lock_handovers_total") == 1
    assert value(registry, "changes_saved_total", route="POST /pay") == 1
    assert value(registry, "loads_refused_total", error_type="SessionNotFound") == 1


async def test_what_is_rare_is_seen_at_zero_before_it_happens(redis_url: str, registry: CollectorRegistry) -> None:
    """Of a counter that is first seen at one Prometheus knows no increase: of the first lost lease nobody was told."""
    guard = SessionGuard.from_url(redis_url, observer=prometheus_metrics(registry))
    async with guard, guard.session_lock("s", label="POST /pay"):
        pass
    assert value(registry, "lock_lost_total", route="POST /pay") == 0
    assert value(registry, "changes_refused_total", route="POST /pay", error_type="SessionConflict") == 0
    for outcome in ("timed_out", "queue_full", "unavailable"):
        assert value(registry, "lock_acquisitions_total", route="POST /pay", outcome=outcome) == 0


async def test_whatever_the_labels_are_the_series_are_few(redis_url: str, registry: CollectorRegistry) -> None:
    """Somebody names his holders by what they work on; and no session is ever a label."""
    observer = prometheus_metrics(registry)
    async with SessionGuard.from_url(redis_url, observer=observer) as guard:
        for number in range(MOST_ROUTES + 50):
            async with guard.session_lock(f"secret {number}", label=f"order {number}"):
                pass
    shown = generate_latest(registry).decode()
    acquired = [line for line in shown.splitlines() if re.match(r"sessionlock_lock_acquisitions_total{.*granted", line)]
    assert len(acquired) == MOST_ROUTES + 1
    assert value(registry, "lock_acquisitions_total", route=OTHER, outcome="granted") == 50
    assert "secret" not in shown


def test_no_wait_seems_longer_than_it_can_be() -> None:
    """A quantile may be shown anywhere in its bucket."""
    longest = WaitPolicy().longest
    for measure in MEASURES:
        if measure.name == "sessionlock.lock.wait.duration":
            assert min(end for end in measure.buckets if end > longest) < longest + 1


def test_several_processes(redis_url: str, tmp_path: Path) -> None:
    """As prometheus_client has it: each writes into files, and whoever is asked adds them up."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    workers = [subprocess.Popen([sys.executable, "-c", WORKER, redis_url], env=environment) for _ in range(2)]
    assert [worker.wait(60) for worker in workers] == [0, 0]
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry, str(tmp_path))  # type: ignore[no-untyped-call, unused-ignore]
    assert value(registry, "lock_acquisitions_total", route="POST /pay", outcome="granted") == 6
    assert value(registry, "lock_hold_duration_seconds_count", route="POST /pay") == 6


def test_names() -> None:
    """As OpenTelemetry's exporters for Prometheus would name them."""
    names = {measure.name: series_name(measure) for measure in MEASURES}
    assert len(set(names.values())) == len(MEASURES)
    assert names["sessionlock.lock.wait.duration"] == "sessionlock_lock_wait_duration_seconds"
    assert names["sessionlock.lock.queue.length"] == "sessionlock_lock_queue_length"
