"""What observers cost: instructions of an uncontended cycle, with each of them and without.

Counted by valgrind (callgrind) in user space of redis-server and of the whole Python process, each side while the other
one runs as usual, as in :mod:`benchmarks.instructions`. There a cycle takes fifty times as long as it would, so the
observers are told to take none for a slow one. The telemetry is OpenTelemetry's SDK with a sampled trace around: the
trace travels in the holder's record.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.commands import Options, main
from benchmarks.instructions import SMALL, START_WITHIN, WARM_UP, Counting
from benchmarks.report import Claim, Report
from benchmarks.stage import Worker, server_url, workers
from sessionlock.embedded import EmbeddedServer, find_server

NOBODY, TELEMETRY = "nobody listens", "OpenTelemetry: metrics and spans"
SLOW = 600.0  # seconds: no cycle is that slow


def _nothing(event: object) -> None:
    """Hears all, and does nothing."""


def _telemetry() -> Any:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    from sessionlock.integrations.opentelemetry import telemetry

    meters = MeterProvider([InMemoryMetricReader()])
    return telemetry(tracer_provider=TracerProvider(), meter_provider=meters, shortest=SLOW)


def _prometheus() -> Any:
    from sessionlock.integrations.prometheus import prometheus_metrics

    return prometheus_metrics()


def _logs() -> Any:
    from sessionlock.integrations.logs import logs

    return logs(slow_wait=SLOW, slow_hold=SLOW)


KINDS: dict[str, Callable[[], Any]] = {
    NOBODY: lambda: None,
    "a function that does nothing": lambda: _nothing,
    "logs, at INFO": _logs,
    "Prometheus": _prometheus,
    TELEMETRY: _telemetry,
}


def run(options: Options) -> Report:
    """Count it; see the module.

    Raises:
        RuntimeError: there is no valgrind.
    """
    missing = [name for name in ("valgrind", "callgrind_control") if shutil.which(name) is None]
    if missing:
        raise RuntimeError(f"not on PATH: {', '.join(missing)}")
    with ExitStack() as stack:
        counting = Counting(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        start = stack.enter_context(workers())
        url, how = stack.enter_context(server_url())
        client = start(_work, url, python=str(counting.python()))
        at_client = _counted(counting, client.pid, client, options.counted)
        options_of: Any = {"tcp": True, "config": {"hz": "1"}, "start_within": START_WITHIN}
        server = stack.enter_context(EmbeddedServer(counting.server(find_server()), **options_of))
        at_server = _counted(counting, server.pid, start(_work, server.url), options.counted)
    both = {name: at_client[name] + at_server[name] for name in KINDS}
    least = both[NOBODY]
    return Report(
        "observing",
        "Instructions of a cycle, by who listens",
        f"{options.counted} cycles each; {how}",
        ["observer", "client", "server", "both", "more than without"],
        [
            [name, f"{at_client[name]:,}", f"{at_server[name]:,}", f"{count:,}", f"{100 * (count / least - 1):.1f} %"]
            for name, count in both.items()
        ],
        [Claim("instructions of a cycle with OpenTelemetry / without", "<= 1.1", both[TELEMETRY] / least)],
        notes=[
            "an observer that traces has Redis keep 69 bytes with the holder's label; no other wants anything of it"
        ],
        facts={"with OpenTelemetry / without, at the client": at_client[TELEMETRY] / at_client[NOBODY]},
    )


def _counted(counting: Counting, pid: int, worker: Worker, cycles: int) -> dict[str, int]:
    """Instructions of that process per cycle; what the orders themselves cost is taken off."""
    found = {}
    for name in KINDS:
        worker.ask(name)
        idle = counting.of(pid, partial(worker.ask, 0))
        found[name] = (counting.of(pid, partial(worker.ask, cycles)) - idle) // cycles
    return found


def _work(connection: Connection, url: str) -> None:
    """Worker: told the name of a kind, it makes ready; told a number, it does so many cycles of it."""
    asyncio.run(_serve(connection, url))


async def _serve(connection: Connection, url: str) -> None:
    from sessionlock import LeasePolicy, SessionGuard, WaitPolicy

    sid, guard, traced = secrets.token_hex(16), None, False

    async def cycles(guard: SessionGuard, sid: str, count: int, around: Any) -> None:
        with around:
            for _ in range(count):
                async with guard.session_lock(sid) as session:
                    session["count"] = session.get("count", 0) + 1

    connection.send("ready")
    try:
        while True:
            order = connection.recv()
            if isinstance(order, str):
                if guard is not None:
                    await guard.aclose()
                sid = secrets.token_hex(16)  # a session that no other kind has left its traces in
                # Nothing is renewed meanwhile, and nobody gives up.
                slow: Any = {"lease": LeasePolicy(ttl=120, max_hold=600), "wait": WaitPolicy.seconds(300)}
                slow |= {"reply_within": 100, "check": False}
                guard = SessionGuard.from_url(url, observer=KINDS[order](), **slow)
                async with guard.session_lock(sid) as session:
                    session.update(SMALL)
                traced, order = order == TELEMETRY, WARM_UP
                await cycles(guard, sid, order, _around(traced))
                gc.collect()
                gc.freeze()
            else:
                assert guard is not None
                await cycles(guard, sid, order, _around(traced))
            connection.send("done")
    except EOFError:
        if guard is not None:
            await guard.aclose()


def _around(traced: bool) -> Any:
    """A request that is traced, and sampled."""
    if not traced:
        return nullcontext()
    from opentelemetry.sdk.trace import TracerProvider

    return TracerProvider().get_tracer("shop").start_as_current_span("request")


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
