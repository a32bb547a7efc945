"""The two ways of one request: unguarded, as most session layers do it, and guarded."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from redis.asyncio import Redis
from tenacity import RetryCallState, stop_after_delay

from ..guard import SessionGuard
from ..policies import WaitPolicy
from .plays import IDLE, Answer, Play, Request

__all__ = ["Guarded", "Served", "Unguarded", "Way"]


class Served(NamedTuple):
    """One request that was answered without an error; travels as a JSON list.

    ``counted``: the counter's new value. In seconds: ``took`` from the request's begin to its end, of that ``handled``
    in the handler and ``waited`` in the queue. ``ticket``: Redis' number for its place in the queue, 0 when it did not
    have to wait. ``fence``: its fencing token, 0 unguarded.
    """

    play: str
    item: str
    counted: int
    delivered: list[str]
    took: float
    handled: float
    waited: float = 0.0
    ticket: int = 0
    fence: int = 0


Way = Callable[[Play, str, Request], Awaitable[Served]]


class Unguarded:
    """Load the whole session, handle, save the whole: what common session layers do, with plain redis-py."""

    def __init__(self, client: Redis, prefix: str) -> None:
        self._client = client
        self._prefix = prefix

    def key(self, sid: str) -> str:
        return f"{self._prefix}:unguarded:{sid}"

    async def store(self, sid: str, session: dict[str, Any]) -> None:
        await self._client.set(self.key(sid), json.dumps(session, separators=(",", ":")), ex=IDLE)

    async def load(self, sid: str) -> dict[str, Any]:
        session: dict[str, Any] = json.loads(await self._client.get(self.key(sid)) or "{}")
        return session

    async def serve(self, play: Play, sid: str, request: Request) -> Served:
        began = time.perf_counter()
        session = await self.load(sid)
        loaded = time.perf_counter()
        answer = await play.handle(session, request)
        handled = time.perf_counter() - loaded
        await self.store(sid, session)
        return Served(play.name, request.item, answer.count, answer.delivered, time.perf_counter() - began, handled)


class Guarded:
    """The same through the guard. Make one for each of a node's concurrent clients: it serves one at a time."""

    def __init__(self, guard: SessionGuard, patience: float = 30.0) -> None:
        self._guard = guard
        self._ticket = 0
        self._wait = WaitPolicy(stop=stop_after_delay(patience), before_sleep=self._queued, max_waiters=10_000)

    def _queued(self, state: RetryCallState) -> None:
        """Called before each pause in the queue; tenacity hands over what the guard called it with: the waiter."""
        (waiter,) = state.args
        self._ticket = int(waiter.last.ticket)

    async def serve(self, play: Play, sid: str, request: Request) -> Served:
        self._ticket = 0
        began = time.perf_counter()
        async with self._guard.session_lock(sid, wait=self._wait) as session:
            loaded = time.perf_counter()
            assert session.lease is not None
            fence = session.lease.fencing_token
            answer: Answer = await play.handle(session, request)
            handled = time.perf_counter() - loaded
        took = time.perf_counter() - began
        waited = loaded - began if self._ticket else 0.0
        return Served(
            play.name, request.item, answer.count, answer.delivered, took, handled, waited, self._ticket, fence
        )
