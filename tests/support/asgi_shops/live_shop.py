"""What lives long: server-sent events, a websocket, a long poll."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from sessionlock.integrations.asgi import visit_of

from . import handlers


async def add(request: Request) -> Response:
    return JSONResponse(await handlers.add(request.session, request.query_params["item"]))


async def events(request: Request) -> Response:
    request.session.setdefault("cart", []).append("event")

    async def ticks() -> AsyncIterator[str]:
        number = 0
        while True:
            number += 1
            yield f"data: {number}\n\n"
            await anyio.sleep(0.05)

    return StreamingResponse(ticks(), media_type="text/event-stream")


async def poll(request: Request) -> Response:
    """Answers when the cart has as many items as asked for."""
    visit = visit_of(request.scope)
    assert visit is not None
    await visit.session.release()
    with anyio.fail_after(10):
        while True:
            cart = (await visit.guard.read(visit.session.sid)).get("cart", [])
            if len(cart) >= int(request.query_params["items"]):
                return JSONResponse(cart)
            await anyio.sleep(0.01)


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_json(handlers.cart(socket.session))
    async for text in socket.iter_text():
        await socket.send_text(text)


def shop(middleware: Callable[[Any], Any]) -> Starlette:
    return Starlette(
        routes=[
            Route("/add", add, methods=["POST"]),
            Route("/events", events, methods=["POST"]),
            Route("/poll", poll, methods=["GET", "POST"]),
            WebSocketRoute("/echo", echo),
        ],
        middleware=[Middleware(middleware)],
    )
