"""What a node serves: the page, and the same shop twice, once behind sessionlock and once behind a usual middleware."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.middleware import Middleware
from fastapi.responses import FileResponse
from redis.asyncio import Redis

from sessionlock import LeasePolicy, SessionGuard, SessionPolicy
from sessionlock.integrations.asgi.middleware import SessionLockMiddleware
from sessionlock.integrations.web.rules import Mode, RoutePolicy
from sessionlock.views.cookies import CookieSettings

from .live import live
from .unguarded import UnguardedMiddleware

HERE = Path(__file__).parent
PAGE = {"": "page.html", "page.css": "page.css", "page.js": "page.js"}
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
AN_HOUR = 3600

GUARDED = CookieSettings("shop_guarded", max_age=AN_HOUR)
UNGUARDED = CookieSettings("shop_unguarded", max_age=AN_HOUR)

Seconds = Annotated[float, Query(ge=0, le=10)]
shop = APIRouter()


def node_app(redis: str, name: str, going: Callable[[], bool]) -> FastAPI:
    """The node ``name``; its streams end when it is not ``going`` any more."""
    guard = SessionGuard.from_url(
        redis,
        prefix="shop",
        label=f"node {name}",
        session=SessionPolicy(idle=AN_HOUR),
        lease=LeasePolicy(ttl=2),  # so long the others wait for a node that was killed
        wait=30,
    )
    client: Redis = Redis.from_url(redis)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        await guard.aclose()
        await client.aclose()

    app = FastAPI(lifespan=life, openapi_url=None)
    routes: dict[str, RoutePolicy | Mode] = {"/live": "off"}
    ours = Middleware(SessionLockMiddleware, guard=guard, cookie=GUARDED, routes=routes)
    usual = Middleware(UnguardedMiddleware, client=client, cookie=UNGUARDED)
    app.mount("/guarded", _shop(name, ours, live(guard, GUARDED, going)))
    app.mount("/unguarded", _shop(name, usual))
    for path, file in PAGE.items():
        app.add_api_route(f"/{path}", _file(file), include_in_schema=False)
    return app


def _shop(name: str, middleware: Middleware, *more: APIRouter) -> FastAPI:
    app = FastAPI(middleware=[middleware], openapi_url=None)
    app.state.node = name
    for router in (shop, *more):
        app.include_router(router)
    return app


def _file(name: str) -> Callable[[], FileResponse]:
    def answer() -> FileResponse:
        return FileResponse(HERE / name, headers={"Cache-Control": "no-store", "Content-Security-Policy": POLICY})

    return answer


# --- the handlers, the same for both


@shop.post("/cart/{product}")
async def add(request: Request, product: int, takes: Seconds = 0.04) -> dict[str, Any]:
    """``takes``: seconds that the price service needs, more or less."""
    begun = Receipt(request)
    cart = request.session.setdefault("cart", [])
    cart.append({"product": product, "price": await ask_price(product, takes)})
    return begun.done(f"Product {product} is in your cart")


@shop.post("/visit")
async def visit(request: Request, takes: Seconds = 0.02) -> dict[str, Any]:
    begun = Receipt(request)
    count = request.session.get("visits", 0)
    await a_moment(takes)
    request.session["visits"] = count + 1
    return begun.done()


@shop.post("/login")
async def login(request: Request, user: Annotated[str, Query(max_length=40)] = "Ada") -> dict[str, Any]:
    begun = Receipt(request)
    session: Any = request.session
    await a_moment(0.02)  # the password is checked, say
    await getattr(session, "sessionlock", session).regenerate()  # a new id, against session fixation
    session["user"] = user
    return begun.done(f"Welcome, {user}")


@shop.post("/logout")
async def logout(request: Request) -> dict[str, Any]:
    begun = Receipt(request)
    user = request.session.pop("user", None)
    return begun.done(f"Good-bye, {user}" if user else None)


@shop.post("/messages")
async def messages(request: Request) -> dict[str, Any]:
    """Take the flash messages: each is shown once."""
    begun = Receipt(request)
    taken = request.session.pop("messages", [])
    return {**begun.done(), "messages": taken}


@shop.get("/session")
async def show(request: Request) -> dict[str, Any]:
    session = request.session
    return {
        "node": request.app.state.node,
        "cart": session.get("cart", []),
        "visits": session.get("visits", 0),
        "user": session.get("user"),
    }


class Receipt:
    """What the page is told of a request: which node had the session, from when to when, and under which fence."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._session: Any = request.session
        guarded = getattr(self._session, "sessionlock", None)
        lease = None if guarded is None else guarded.lease
        self._fence = None if lease is None else str(lease.fencing_token)
        self._loaded = time.time()

    def done(self, message: str | None = None) -> dict[str, Any]:
        """Called last, before the session is saved. ``message``: one to flash."""
        if message is not None:
            self._session["messages"] = [*self._session.get("messages", []), message]
        return {
            "node": self._request.app.state.node,
            "process": os.getpid(),
            "fence": self._fence,
            "loaded": self._loaded,
            "saved": time.time(),
            "message": message,
        }


async def ask_price(product: int, takes: float) -> int:
    """In cents, from a price service somewhere else."""
    await a_moment(takes)
    return 199 + 100 * (product * 7 % 23)


async def a_moment(seconds: float) -> None:
    await asyncio.sleep(seconds * random.uniform(0.5, 1.5))
