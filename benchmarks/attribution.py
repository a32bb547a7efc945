"""Whether each wait is put down to whom it waited for: 10,000 requests on two nodes, some of the waits to be explained.

Each request is a trace of its own and says its route. What is asked of the span of each wait during which others held
the session for more than 10 ms: does it name the holder's route and node, and has it a link to a trace; and is that
the trace of a request that did hold this session during the wait, by that route? What was so is known from what the
requests themselves wrote down.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from multiprocessing.connection import Connection
from time import time_ns
from typing import Any, NamedTuple

from benchmarks.commands import Options, main
from benchmarks.report import Claim, Report, quantile
from benchmarks.stage import server_url, workers

NODES = ("node-a", "node-b")
ROUTES = ("GET /cart/{id}", "POST /cart/{id}", "POST /pay", "GET /account", "POST /login")
SESSIONS = 16
TASKS = 64  # of each node, which each make one request after the other
LONG = 0.010  # seconds for which others held the lock: such waits are to be explained
LONGEST_HOLD = 0.004


class Request(NamedTuple):
    """As it wrote down itself; instants in nanoseconds. ``explained``: route, node and traces of its span."""

    node: str
    session: int
    route: str
    trace: int
    asked: int
    granted: int
    released: int
    explained: tuple[str, str, tuple[int, ...]] | None

    @property
    def waited(self) -> float:
        return (self.granted - self.asked) / 1e9

    def waited_for(self, others: list[Request]) -> float:
        """Seconds of it during which one of the others had the lock."""
        return sum(max(0, min(self.granted, other.released) - max(self.asked, other.granted)) for other in others) / 1e9


def run(options: Options) -> Report:
    """Ask it of ``options.cycles`` times 200 requests; see the module."""
    each = options.cycles * 100 // TASKS + 1
    with server_url() as (url, how), workers() as start:
        nodes = [start(_work, url, name) for name in NODES]
        for node in nodes:
            node.tell(each)
        made = [Request(*request) for node in nodes for request in node.answer()]
    holders: dict[tuple[int, int], Request] = {(one.session, one.trace): one for one in made}
    of_session: dict[int, list[Request]] = defaultdict(list)
    for one in made:
        of_session[one.session].append(one)
    waits = [one for one in made if one.waited > LONG and one.waited_for(of_session[one.session]) > LONG]
    named = [one for one in waits if one.explained is not None and all(one.explained)]
    right = [one for one in named if _is_right(one, holders)]
    elsewhere = sum(one.explained is not None and one.explained[1] != one.node for one in right)
    shares = {"named": 100 * len(named) / max(1, len(waits)), "right": 100 * len(right) / max(1, len(waits))}
    blame: dict[str, float] = defaultdict(float)
    for one in named:
        assert one.explained is not None
        blame[one.explained[0]] += one.waited
    median_wait = quantile((one.waited for one in waits), 0.5) * 1000
    rows = [[route, f"{seconds:,.1f}"] for route, seconds in sorted(blame.items(), key=lambda item: -item[1])]
    return Report(
        "attribution",
        "Waits that are put down to their holder",
        f"{len(made):,} requests on {len(NODES)} nodes, {SESSIONS} sessions; {how}",
        ["route that was waited for", "seconds, all together"],
        rows,
        [
            Claim("waits over 10 ms whose span names route, node and trace of a holder, %", ">= 99", shares["named"]),
            Claim("... and that request held the session during the wait, by that route, %", ">= 99", shares["right"]),
        ],
        notes=[
            f"{len(waits):,} waits over {LONG * 1000:g} ms, median {median_wait:.0f} ms;"
            f" {elsewhere:,} of them were put down to a request of the other node",
        ],
        facts={"requests": len(made), "waits": len(waits), **shares, "put down to the other node": elsewhere},
    )


def _is_right(one: Request, holders: dict[tuple[int, int], Request]) -> bool:
    """Whether all that its span says is so."""
    assert one.explained is not None
    route, _, traces = one.explained
    found = [holders.get((one.session, trace)) for trace in traces]
    return (
        all(other is not None and other.granted <= one.granted and other.released >= one.asked for other in found)
        and any(other is not None and other.route == route for other in found)
    )  # fmt: skip


def _work(connection: Connection, url: str, name: str) -> None:
    """Worker: told how many requests each task is to make, it answers with all of them."""
    asyncio.run(_requests(connection, url, name))


async def _requests(connection: Connection, url: str, name: str) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from sessionlock import SessionGuard, WaitPolicy
    from sessionlock.integrations.opentelemetry import spans

    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer(name)
    made: list[tuple[str, int, str, int, int, int, int]] = []
    wait = WaitPolicy.seconds(60, max_waiters=1000)
    async with SessionGuard.from_url(url, label=name, wait=wait, observer=spans(tracer)) as guard:

        async def task(requests: int) -> None:
            for _ in range(requests):
                number, route = random.randrange(SESSIONS), random.choice(ROUTES)
                with tracer.start_as_current_span(route) as span:
                    asked = time_ns()
                    async with guard.session_lock(f"session {number}", label=route) as session:
                        granted = time_ns()
                        await asyncio.sleep(random.random() * LONGEST_HOLD)
                        session["n"] = session.get("n", 0) + 1
                    made.append((name, number, route, span.get_span_context().trace_id, asked, granted, time_ns()))

        connection.send("ready")
        requests = connection.recv()
        await asyncio.gather(*(task(requests) for _ in range(TASKS)))
    connection.send([(*one, _explained(waits.get(one[3]))) for waits in [_waits(kept)] for one in made])
    connection.close()


def _waits(kept: Any) -> dict[int, Any]:
    """The spans of waits, by their traces."""
    return {span.context.trace_id: span for span in kept.get_finished_spans() if span.name == "sessionlock.wait"}


def _explained(span: Any) -> tuple[str, str, tuple[int, ...]] | None:
    if span is None:
        return None
    about = span.attributes
    traces = tuple(link.context.trace_id for link in span.links)
    return about.get("sessionlock.holder.route", ""), about.get("sessionlock.holder.node", ""), traces


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
