"""The three losses: what stands in each session, what one request does to it, and the ways to serve that request.

The handlers do not know how their session was loaded and how it will be saved: the very same code runs unguarded, on
the dict that ``json.loads`` gave, and guarded.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from redis.asyncio import Redis

from ...lease import Lease

__all__ = [
    "CLIENTS",
    "IDLE",
    "PAUSE",
    "RETRY_FOR",
    "SCENARIOS",
    "Answer",
    "Request",
    "Scenario",
    "Served",
    "Unguarded",
    "serve",
]

PAUSE = 0.001  # seconds between load and save, in both runs: what a handler does there (a query, a template)
CLIENTS = 2  # concurrent requests that each node gets for each session: the tabs and scripts of one browser
RETRY_FOR = 2.0  # seconds for a Redis that does not answer; a demo need not be patient
IDLE = 600  # seconds for which the demo's sessions live if nobody can delete them


@dataclass(frozen=True, slots=True)
class Request:
    """``item`` is unique in its run. ``delivers``: this request shows the flash messages that have gathered."""

    item: str
    delivers: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the user saw. ``count``: the counter's new value; ``delivered``: the messages that were shown."""

    count: int = 0
    delivered: list[str] = field(default_factory=list)


class Served(NamedTuple):
    """One request that was answered without an error; travels as a JSON list.

    ``counted``: the counter's new value. In seconds: ``took`` from the request's begin to its end, of that ``handled``
    in the handler and ``waited`` in the queue. ``ticket``: Redis' number for its place in the queue, 0 when it did not
    have to wait. ``fence``: its fencing token, 0 unguarded.
    """

    scenario: str
    item: str
    counted: int
    delivered: list[str]
    took: float
    handled: float
    waited: float = 0.0
    ticket: int = 0
    fence: int = 0


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of session: ``what`` names the things that can be lost; the session keeps them under ``name``."""

    name: str
    what: str
    empty: Any
    handle: Callable[[MutableMapping[str, Any], Request], Awaitable[Answer]]

    def new_session(self) -> dict[str, Any]:
        """What both runs start from: like a session after login."""
        return {"user": 4711, "language": "en", "csrf": "0123456789abcdef" * 2, self.name: self.empty}

    def left(self, session: Mapping[str, Any]) -> Any:
        """What the session holds in the end."""
        return session.get(self.name, self.empty)


async def add_product(session: MutableMapping[str, Any], request: Request) -> Answer:
    cart = session["cart"]
    await asyncio.sleep(PAUSE)
    cart.append(request.item)
    return Answer()


async def add_message(session: MutableMapping[str, Any], request: Request) -> Answer:
    messages = session["messages"]
    await asyncio.sleep(PAUSE)
    messages.append(request.item)
    if not request.delivers:
        return Answer()
    session["messages"] = []
    return Answer(delivered=messages)


async def add_one(session: MutableMapping[str, Any], request: Request) -> Answer:
    count = session["counter"]
    await asyncio.sleep(PAUSE)
    session["counter"] = count + 1
    return Answer(count=count + 1)


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("cart", "products", [], add_product),
        Scenario("messages", "messages", [], add_message),
        Scenario("counter", "counts", 0, add_one),
    )
}


class Unguarded:
    """GET, handle, SET: as most session layers do it."""

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

    @asynccontextmanager
    async def session(self, sid: str) -> AsyncIterator[dict[str, Any]]:
        session = await self.load(sid)
        yield session
        await self.store(sid, session)


async def serve(
    block: AbstractAsyncContextManager[Any],
    scenario: Scenario,
    request: Request,
    ticket_of: Callable[[], int] = lambda: 0,
) -> Served:
    """Serve one request within its block, either way. ``ticket_of``: the ticket of its place in the queue."""
    began = time.perf_counter()
    async with block as session:
        loaded = time.perf_counter()
        lease: Lease | None = getattr(session, "lease", None)
        answer = await scenario.handle(session, request)
        handled = time.perf_counter() - loaded
    took = time.perf_counter() - began
    served = Served(scenario.name, request.item, answer.count, answer.delivered, took, handled)
    if lease is None:
        return served
    ticket = ticket_of()
    return served._replace(waited=loaded - began if ticket else 0.0, ticket=ticket, fence=lease.fencing_token)
