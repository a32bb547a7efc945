"""Quart with sessions that lose nothing.  REDIS_URL=redis://localhost:6379/0 python quart_app.py"""

import os

import uvicorn
from quart import Quart, session

from sessionlock.integrations.quart.extension import SessionLock

app = Quart(__name__)
SessionLock(app, os.environ.get("REDIS_URL", "redis://localhost:6379/0"))


@app.get("/")
async def show() -> list[str]:
    return list(session.get("cart", []))


@app.post("/add/<item>")
async def add(item: str) -> list[str]:
    cart: list[str] = session.setdefault("cart", [])
    cart.append(item)
    return cart


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
