"""The three losses: what stands in each session, what one request does to it, and what must be there at the end.

The handlers do not know how their session was loaded and how it will be saved: the very same code runs unguarded, on
the dict that ``json.loads`` gave, and guarded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CLIENTS", "IDLE", "PAUSE", "PLAYS", "RETRY_FOR", "Answer", "Play", "Request"]

PAUSE = 0.001  # seconds between load and save, in both runs: what a handler does there (a query, a template)
CLIENTS = 2  # concurrent requests that each node gets for each session: the tabs and scripts of one browser
RETRY_FOR = 2.0  # seconds for a Redis that does not answer; a demo need not be patient
IDLE = 600  # seconds for which the demo's sessions live if nobody can delete them


@dataclass(frozen=True, slots=True)
class Request:
    """``item`` is unique in its run. ``delivers``: this request shows the flash messages that have gathered."""

    item: str
    delivers: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """What the user saw. ``count``: the counter's new value; ``delivered``: the messages that were shown."""

    count: int = 0
    delivered: list[str] = field(default_factory=list)


Handler = Callable[[MutableMapping[str, Any], Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Play:
    """``what`` names the things that can be lost; ``key`` is where the session keeps them."""

    name: str
    what: str
    key: str
    empty: Any
    handle: Handler

    def new_session(self) -> dict[str, Any]:
        """What both runs start from: like a session after login."""
        return {"user": 4711, "language": "en", "csrf": "0123456789abcdef" * 2, self.key: self.empty}

    def left(self, session: Mapping[str, Any]) -> Any:
        """What the session holds in the end."""
        return session.get(self.key, self.empty)


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
    count = session["count"]
    await asyncio.sleep(PAUSE)
    session["count"] = count + 1
    return Answer(count=count + 1)


PLAYS = {
    play.name: play
    for play in (
        Play("cart", "products", "cart", [], add_product),
        Play("messages", "messages", "messages", [], add_message),
        Play("counter", "counts", "count", 0, add_one),
    )
}
