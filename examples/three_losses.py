"""Three things that concurrent requests of one session lose, first without a guard, then with one.

``python examples/three_losses.py`` starts a private server of its own; give it a Redis URL to use another one.

A *cart* to which two nodes add a product each; a *flash message* from each of two nodes; a *counter* at 5 to which two
nodes add one. Unguarded means what most session layers do: load the whole, change it, save the whole.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from redis.asyncio import Redis

from sessionlock import Session, SessionGuard, SessionPolicy
from sessionlock.urls import client_from_url

Request = Callable[[str], Awaitable[None]]
WORK = 0.2  # seconds that a handler needs; long enough for the two to overlap
START: dict[str, Any] = {"cart": [], "visits": 5}


def change(session: Any, node: str) -> None:
    """What the handler of one request does, on any node."""
    session["cart"] = [*session["cart"], f"a book, put in on {node}"]
    session["visits"] += 1


# --- without a guard


async def unguarded(client: Redis, node: str) -> None:
    session = json.loads(await client.get("unguarded") or "{}")  # load the whole
    change(session, node)
    session["messages"] = [*session.get("messages", []), f"hello from {node}"]
    await asyncio.sleep(WORK)
    await client.set("unguarded", json.dumps(session), ex=60)  # save the whole: whoever is last wins


# --- with the lock: one request at a time


async def locked(guard: SessionGuard, sid: str, node: str) -> None:
    async with guard.session_lock(sid) as session:
        change(session, node)
        session.flash("info", f"hello from {node}")
        await asyncio.sleep(WORK)


# --- without waiting: what clashes is merged, key by key

MERGED = SessionPolicy(merge={"cart": "append", "visits": "counter"})  # flash messages need no declaration


async def optimistic(guard: SessionGuard, sid: str, node: str) -> None:
    async with guard.session_lock(sid, mode="optimistic", session=MERGED) as session:
        change(session, node)
        session.flash("info", f"hello from {node}")
        await asyncio.sleep(WORK)


# --- without waiting: what clashes is done again


async def transaction(guard: SessionGuard, sid: str, node: str) -> None:
    async def body(session: Session) -> None:
        change(session, node)
        session.flash("info", f"hello from {node}")
        await asyncio.sleep(WORK)

    await guard.transaction(sid, body)


async def two_nodes(request: Request) -> None:
    """The same request of one visitor, on two nodes at once."""
    await asyncio.gather(request("node 1"), request("node 2"))


def show(title: str, session: Any, messages: list[Any]) -> bool:
    """Print what is left of the two requests; whether all of it is."""
    products, visits = len(session["cart"]), session["visits"]
    print(f"{title:12}  {products} of 2 products, {len(messages)} of 2 messages, 5 + 1 + 1 = {visits}")
    return (products, len(messages), visits) == (2, 2, 7)


async def main(url: str) -> int:
    client = client_from_url(url)
    await client.set("unguarded", json.dumps(START), ex=60)
    await two_nodes(partial(unguarded, client))
    left = json.loads(await client.get("unguarded"))
    show("unguarded", left, left["messages"])
    await client.delete("unguarded")
    await client.aclose()

    kept = True
    async with SessionGuard.from_url(url) as guard:
        for way in (locked, optimistic, transaction):
            sid = (await guard.create(START)).sid
            await two_nodes(partial(way, guard, sid))
            async with guard.session_lock(sid) as session:
                kept = show(way.__name__, session, session.pop_flashes()) and kept
            await guard.destroy(sid)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://")))
