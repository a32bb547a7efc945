"""What the shops do."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

import anyio

Session = MutableMapping[str, Any]
MOMENT = 0.005  # seconds that a handler takes


async def add(session: Session, item: str) -> dict[str, Any]:
    cart = session.setdefault("cart", [])
    await anyio.sleep(MOMENT)
    cart.append(item)
    return {"items": len(cart), "pid": os.getpid()}


def cart(session: Session) -> list[str]:
    return list(session.get("cart", []))


def boom(session: Session) -> None:
    session["cart"] = ["boom"]
    raise RuntimeError("boom")
