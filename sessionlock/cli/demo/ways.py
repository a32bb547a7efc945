"""The two ways of one request: unguarded, as most session layers do it, and guarded."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from redis.asyncio import Redis

from ...guard import SessionGuard
from ...protocol.replies import Call
from .plays import IDLE, Answer, Play, Request

__all__ = ["Guarded", "Served", "Tickets", "Unguarded", "Way"]


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


class Tickets:
    """Listens to a guard's calls for what Redis answers to ``acquire``: the ticket of whoever had to queue."""

    def __init__(self, guard: SessionGuard) -> None:
        executor = guard.runtime().executor
        self._run = executor.run
        self._tickets: dict[str, int] = {}
        executor.run = self._listen  # type: ignore[method-assign]

    async def _listen(self, call: Call) -> Any:
        reply = await self._run(call)
        if call.script == "acquire" and reply[0] == b"queued":
            self._tickets.setdefault(str(call.args[0]), int(reply[1]))
        return reply

    def take(self, token: str) -> int:
        """The ticket of the acquisition with this token, 0 when it did not have to queue."""
        return self._tickets.pop(token, 0)


class Guarded:
    """The same through the guard."""

    def __init__(self, guard: SessionGuard, tickets: Tickets) -> None:
        self._guard = guard
        self._tickets = tickets

    async def serve(self, play: Play, sid: str, request: Request) -> Served:
        began = time.perf_counter()
        async with self._guard.session_lock(sid) as session:
            loaded = time.perf_counter()
            assert session.lease is not None
            fence, ticket = session.lease.fencing_token, self._tickets.take(session.lease.token)
            answer: Answer = await play.handle(session, request)
            handled = time.perf_counter() - loaded
        took = time.perf_counter() - began
        waited = loaded - began if ticket else 0.0
        return Served(play.name, request.item, answer.count, answer.delivered, took, handled, waited, ticket, fence)
