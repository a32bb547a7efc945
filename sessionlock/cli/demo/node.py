"""One node of the demo: a process of its own, told by its parent on standard input what to do.

One JSON object a line: first the :class:`Job`; then ``{"run": "unguarded" | "guarded" | "alone"}`` any number of
times. It answers ``{"ready": true}``, ``{"done": n}`` now and then while it works, and at the end of each run
``{"served": [...], "refused": {...}}``; or ``{"error": "..."}`` and ends. When standard input ends, because the parent
told it to go or died, it gives its locks back and ends.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tenacity import stop_after_delay

from ...errors import LeaseLost, LockNotAcquired, SessionLockError
from ...guard import SessionGuard
from ...observe import Event, LockQueued
from ...policies import SessionPolicy, WaitPolicy
from ..failure import one_line
from .scenarios import CLIENTS, IDLE, RETRY_FOR, SCENARIOS, Request, Scenario, Served, Unguarded, serve

__all__ = ["ALONE", "LINE_LIMIT", "Job", "Node", "work"]

ALONE = 150  # requests of each way to a session that nobody else uses
DELIVERING = 0.25  # share of the requests that show the flash messages
LINE_LIMIT = 64 * 1024 * 1024  # bytes of one answer
PATIENCE = 30.0  # seconds in the queue before a request gives up, for slow machines
REPORT_EVERY = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Job:
    """``sids``: the session ids by scenario, and ``alone``. ``requests``: to each session in one run, of all nodes."""

    url: str
    prefix: str
    node: int
    nodes: int
    requests: int
    seed: int
    sids: dict[str, str]

    def requests_of(self, scenario: Scenario, client: int) -> list[Request]:
        """Of one concurrent client of this node: each ``nodes × CLIENTS``-th request of the session."""
        place = self.node * CLIENTS + client
        dice = random.Random(f"{self.seed} {scenario.name} {place}")
        numbers = range(place, self.requests, self.nodes * CLIENTS)
        return [Request(f"{scenario.name[0]}{number}", dice.random() < DELIVERING) for number in numbers]


class Node:
    """Serves its share of each run: each request by :meth:`served_by`."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._client: Redis = Redis.from_url(job.url)
        self._unguarded = Unguarded(self._client, job.prefix)
        self._guard = SessionGuard.from_url(
            job.url,
            prefix=job.prefix,
            label=f"node-{job.node}",
            session=SessionPolicy(idle=IDLE),
            wait=WaitPolicy(stop=stop_after_delay(PATIENCE), max_waiters=10_000),
            retry_for=RETRY_FOR,
            observer=_keep_ticket,
        )
        # Of the current run.
        self._served: list[Served] = []
        self._refused: Counter[str] = Counter()

    async def warm_up(self) -> None:
        """Open the connections and load the scripts, so that both runs are measured without that."""
        await asyncio.gather(*(self._client.ping() for _ in range(len(SCENARIOS) * CLIENTS)))
        async with self._guard.session_lock(f"{self._job.sids['alone']}-{self._job.node}"):
            pass

    async def run(self, which: str) -> dict[str, Any]:
        self._served, self._refused = [], Counter()
        reporter = asyncio.ensure_future(self._report())
        began = time.monotonic()
        try:
            await asyncio.gather(*(self._serve(which, *work) for work in self._work(which)))
        finally:
            reporter.cancel()
        return {"began": began, "ended": time.monotonic(), "served": self._served, "refused": self._refused}

    def _work(self, which: str) -> Iterator[tuple[Scenario, str, list[Request]]]:
        """What each concurrent client does in this run: its requests to one session, one by one."""
        if which == "alone":
            yield SCENARIOS["counter"], self._job.sids["alone"], [Request(str(number)) for number in range(ALONE)]
            return
        for scenario in SCENARIOS.values():
            for client in range(CLIENTS):
                yield scenario, self._job.sids[scenario.name], self._job.requests_of(scenario, client)

    async def _serve(self, which: str, scenario: Scenario, sid: str, requests: list[Request]) -> None:
        # Alone both ways in turn, so that whatever else the machine does meets both.
        ways = ("unguarded", "guarded") if which == "alone" else (which,)
        for request in requests:
            for way in ways:
                try:
                    self._served.append(await self.served_by(way, scenario, sid, request))
                except (LeaseLost, LockNotAcquired) as refusal:
                    # Told to the user: nothing was lost unseen.
                    self._refused[type(refusal).__name__] += 1

    async def served_by(self, way: str, scenario: Scenario, sid: str, request: Request) -> Served:
        if way == "unguarded":
            return await serve(self._unguarded.session(sid), scenario, request)
        _ticket.set(0)
        return await serve(self._guard.session_lock(sid), scenario, request, _ticket.get)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            _tell({"done": len(self._served) + self._refused.total()})

    async def aclose(self) -> None:
        await self._guard.aclose()
        await self._client.aclose()


_ticket: ContextVar[int] = ContextVar("ticket")


def _keep_ticket(event: Event) -> None:
    """The guard's observer. It is called in the task that has to queue."""
    if isinstance(event, LockQueued):
        _ticket.set(event.ticket)


def work(node: Callable[[Job], Node] = Node) -> int:
    """Serve until standard input ends."""
    try:
        return asyncio.run(_main(node))
    except (KeyboardInterrupt, BrokenPipeError):
        return 0


async def _main(make: Callable[[Job], Node]) -> int:
    orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    # A cancel scope, because it cancels again and again: redis-py now and then swallows a cancellation.
    with anyio.CancelScope() as scope:
        listening = asyncio.ensure_future(_listen(orders, scope.cancel))
        try:
            node = make(Job(**await orders.get()))
            try:
                return await _obey(node, orders)
            finally:
                with anyio.CancelScope(shield=True):
                    await node.aclose()
        finally:
            listening.cancel()
    return 0


async def _obey(node: Node, orders: asyncio.Queue[dict[str, Any]]) -> int:
    try:
        await node.warm_up()
        _tell({"ready": True})
        while True:
            order = await orders.get()
            _tell(await node.run(order["run"]))
    except (SessionLockError, RedisError, OSError) as error:
        _tell({"error": one_line(error)})
        return 1


async def _listen(orders: asyncio.Queue[dict[str, Any]], ended: Callable[[], object]) -> None:
    """Pass the parent's lines on until there are no more."""
    reader = asyncio.StreamReader(limit=LINE_LIMIT)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        orders.put_nowait(json.loads(line))
    ended()


def _tell(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(work())
