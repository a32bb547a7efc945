"""What the shops do, whatever the framework."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, MutableMapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import httpx

Session = MutableMapping[str, Any]
MOMENT = 0.005  # seconds that a handler takes
NEVER = 60.0  # seconds after which a gate that nobody opens is a mistake of the test


async def add(session: Session, item: str) -> dict[str, Any]:
    """As people write it, with a moment between reading and writing in which another request may come."""
    cart = session.get("cart", [])
    await anyio.sleep(MOMENT)
    session["cart"] = [*cart, item]
    return {"items": len(session["cart"]), "pid": os.getpid()}


async def count(session: Session) -> dict[str, Any]:
    """Likewise, in one number."""
    number = session.get("number", 0)
    await anyio.sleep(MOMENT)
    session["number"] = number + 1
    return {"number": session["number"], "pid": os.getpid()}


async def login(session: Session, user: str) -> dict[str, Any]:
    """Whoever was there before is replaced; the cart stays."""
    await anyio.sleep(MOMENT)
    session["user_id"] = user
    return {"pid": os.getpid()}


async def logout(session: Session) -> dict[str, Any]:
    await anyio.sleep(MOMENT)
    session.clear()
    return {"pid": os.getpid()}


def who(session: Session) -> dict[str, Any]:
    return {"user": session.get("user_id"), "cart": cart(session)}


def cart(session: Session) -> list[str]:
    return list(session.get("cart", []))


def boom(session: Session) -> None:
    session["cart"] = ["boom"]
    raise RuntimeError("boom")


def gate(name: str) -> Path:
    """A file that the test makes when whoever waits for it may go on."""
    return Path(os.environ["GATES"]) / name


async def passed(name: str) -> None:
    with anyio.fail_after(NEVER):
        while not gate(name).exists():
            await anyio.sleep(0.005)


async def hold(session: Session, name: str) -> dict[str, Any]:
    """A slow handler: it has its session until the gate opens."""
    session["held"] = name
    await passed(name)
    return {"pid": os.getpid()}


async def ticks(name: str, every: float) -> AsyncIterator[str]:
    """Server-sent events, one per ``every`` seconds, until the gate opens."""
    number = 0
    with anyio.move_on_after(NEVER):
        while not gate(name).exists():
            number += 1
            yield f"data: {number}\n\n"
            await anyio.sleep(every)


async def poll(session: Any, name: str) -> dict[str, Any]:
    """Answers when the gate has opened; who polls with a POST lets go of the session first."""
    await getattr(session, "sessionlock", session).release()
    gate(f"{name}.{uuid4().hex}.poll").touch()
    await passed(name)
    return {"pid": os.getpid()}


async def call(own: str, asked: Mapping[str, str], cookie: str) -> dict[str, Any]:
    """Calls an application as any client would; what it answered.

    ``method`` and ``path`` of what to call; ``where`` it is, if not here; ``worker``: that the ``same`` process as this
    one is to answer, or the ``other``.
    """
    while True:
        async with httpx.AsyncClient(base_url=asked.get("where", own), timeout=NEVER, trust_env=False) as client:
            # A connection stays with the worker that took it.
            if "worker" not in asked or is_meant(asked["worker"], await client.get("/pid")):
                return told(await client.request(asked["method"], asked["path"], headers={"cookie": cookie}))


def is_meant(worker: str, answer: httpx.Response) -> bool:
    same: bool = answer.json() == os.getpid()
    return same == (worker == "same")


def told(answer: httpx.Response) -> dict[str, Any]:
    return {"status": answer.status_code, "headers": dict(answer.headers), "body": answer.json()}
