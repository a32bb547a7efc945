"""Litestar with sessions that lose nothing.  REDIS_URL=redis://localhost:6379/0 python litestar_app.py"""

import os
from typing import Annotated, Any

import uvicorn
from litestar import Litestar, Request, get, post
from litestar.middleware import DefineMiddleware
from litestar.params import PathParameter

from sessionlock import SessionGuard
from sessionlock.integrations.asgi import SessionLockMiddleware

guard = SessionGuard.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379/0"))


@get("/")
async def show(request: Request[Any, Any, Any]) -> list[str]:
    return list(request.session.get("cart", []))


@post("/add/{item:str}")
async def add(request: Request[Any, Any, Any], item: Annotated[str, PathParameter()]) -> list[str]:
    cart: list[str] = request.session.setdefault("cart", [])
    cart.append(item)
    return cart


# Litestar builds a middleware once for each route: they share one guard.
sessions = DefineMiddleware(SessionLockMiddleware, guard=guard)
app = Litestar([show, add], middleware=[sessions], on_shutdown=[guard.aclose])

if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ.get("PORT", "8000")))
