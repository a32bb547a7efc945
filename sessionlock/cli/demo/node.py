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
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio
from redis.asyncio import Redis
from redis.exceptions import RedisError
from tenacity import stop_after_delay

from ...errors import LeaseLost, LockNotAcquired, SessionLockError
from ...guard import SessionGuard
from ...policies import SessionPolicy, WaitPolicy
from ..failure import one_line
from .plays import CLIENTS, IDLE, PLAYS, RETRY_FOR, Play, Request
from .ways import Guarded, Served, Tickets, Unguarded, Way

__all__ = ["ALONE", "LINE_LIMIT", "Job", "main"]

ALONE = 150  # requests of each way to a session that nobody else uses
DELIVERING = 0.25  # share of the requests that show the flash messages
LINE_LIMIT = 64 * 1024 * 1024  # bytes of one answer
PATIENCE = 30.0  # seconds in the queue before a request gives up, for slow machines
REPORT_EVERY = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Job:
    """``sids``: the session ids by play, and ``alone``. ``requests``: to each session in one run, over all nodes."""

    url: str
    prefix: str
    node: int
    nodes: int
    requests: int
    seed: int
    sids: dict[str, str]


@dataclass(slots=True)
class Stint:
    """What one concurrent client of this node has to do in a run: its requests to one session, one by one."""

    play: Play
    sid: str
    requests: list[Request]


class Node:
    def __init__(self, job: Job, tell: Callable[[dict[str, Any]], None]) -> None:
        self._job = job
        self._tell = tell
        self._client: Redis = Redis.from_url(job.url)
        self._guard = SessionGuard.from_url(
            job.url,
            prefix=job.prefix,
            name=f"node-{job.node}",
            session=SessionPolicy(idle=IDLE),
            wait=WaitPolicy(stop=stop_after_delay(PATIENCE), max_waiters=10_000),
            retry_for=RETRY_FOR,
        )
        self._tickets = Tickets(self._guard)
        self._served: list[Served] = []
        self._refused: Counter[str] = Counter()

    async def warm_up(self) -> None:
        """Open the connections and load the scripts, so that both runs are measured without that."""
        stints = self.stints()
        await asyncio.gather(*(self._client.ping() for _ in stints))
        async with self._guard.session_lock(f"{self._job.sids['alone']}-{self._job.node}"):
            pass

    def stints(self) -> list[Stint]:
        """This node's share: every concurrent client gets each ``nodes × CLIENTS``-th request of its session."""
        job = self._job
        found = []
        for play in PLAYS.values():
            for client in range(CLIENTS):
                place = job.node * CLIENTS + client
                dice = random.Random(f"{job.seed} {play.name} {place}")
                numbers = range(place, job.requests, job.nodes * CLIENTS)
                requests = [Request(f"{play.name[0]}{number}", dice.random() < DELIVERING) for number in numbers]
                found.append(Stint(play, job.sids[play.name], requests))
        return found

    async def run(self, which: str) -> dict[str, Any]:
        self._served, self._refused = [], Counter()
        reporter = asyncio.ensure_future(self._report())
        began = time.monotonic()
        try:
            if which == "alone":
                await self._serve_alone()
            else:
                await asyncio.gather(*(self._serve(self._way(which), stint) for stint in self.stints()))
        finally:
            reporter.cancel()
        return {"began": began, "ended": time.monotonic(), "served": self._served, "refused": self._refused}

    def _way(self, which: str) -> Way:
        if which == "guarded":
            return Guarded(self._guard, self._tickets).serve
        return Unguarded(self._client, self._job.prefix).serve

    async def _serve(self, way: Way, stint: Stint) -> None:
        for request in stint.requests:
            try:
                self._served.append(await way(stint.play, stint.sid, request))
            except (LeaseLost, LockNotAcquired) as refusal:
                # Told to the user: nothing was lost unseen.
                self._refused[type(refusal).__name__] += 1

    async def _serve_alone(self) -> None:
        """Both ways in turn, so that whatever else the machine does meets both."""
        play, sid = PLAYS["counter"], self._job.sids["alone"]
        ways = (self._way("unguarded"), self._way("guarded"))
        for number in range(ALONE):
            for way in ways:
                self._served.append(await way(play, sid, Request(str(number), False)))

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY)
            self._tell({"done": len(self._served) + self._refused.total()})

    async def aclose(self) -> None:
        await self._guard.aclose()
        await self._client.aclose()


def main() -> int:
    """Serve until standard input ends."""
    try:
        return asyncio.run(_main())
    except (KeyboardInterrupt, BrokenPipeError):
        return 0


async def _main() -> int:
    orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    # A cancel scope, because it cancels again and again: redis-py now and then swallows a cancellation.
    with anyio.CancelScope() as scope:
        listening = asyncio.ensure_future(_listen(orders, scope.cancel))
        try:
            node = Node(Job(**await orders.get()), _tell)
            try:
                return await _serve(node, orders)
            finally:
                with anyio.CancelScope(shield=True):
                    await node.aclose()
        finally:
            listening.cancel()
    return 0


async def _serve(node: Node, orders: asyncio.Queue[dict[str, Any]]) -> int:
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
    sys.exit(main())
