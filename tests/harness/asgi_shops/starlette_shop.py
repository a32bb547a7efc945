from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from . import handlers


async def add(request: Request) -> Response:
    return JSONResponse(await handlers.add(request.session, request.query_params["item"]))


async def count(request: Request) -> Response:
    return JSONResponse(await handlers.count(request.session))


async def login(request: Request) -> Response:
    return JSONResponse(await handlers.login(request.session, request.query_params["user"]))


async def logout(request: Request) -> Response:
    return JSONResponse(await handlers.logout(request.session))


async def who(request: Request) -> Response:
    return JSONResponse(handlers.who(request.session))


async def cart(request: Request) -> Response:
    return JSONResponse(handlers.cart(request.session))


async def pid(request: Request) -> Response:
    return JSONResponse(os.getpid())


async def empty(request: Request) -> Response:
    request.session.clear()
    return Response()


async def boom(request: Request) -> None:
    handlers.boom(request.session)


async def hold(request: Request) -> Response:
    return JSONResponse(await handlers.hold(request.session, request.query_params["gate"]))


async def call(request: Request) -> Response:
    request.session["called"] = True
    told = await handlers.call(str(request.base_url), request.query_params, request.headers["cookie"])
    return JSONResponse(told)


async def events(request: Request) -> Response:
    request.session["streamed"] = True
    asked = request.query_params
    return StreamingResponse(handlers.ticks(asked["gate"], float(asked["every"])), media_type="text/event-stream")


async def poll(request: Request) -> Response:
    return JSONResponse(await handlers.poll(request.session, request.query_params["gate"]))


async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_json(handlers.cart(socket.session))
    async for text in socket.iter_text():
        await socket.send_text(text)


def shop(middleware: Callable[[Any], Any]) -> Starlette:
    routes: list[Any] = [
        Route(f"/{view.__name__}", view, methods=["POST"]) for view in (add, empty, boom, hold, call, login, logout)
    ]
    routes += [
        Route("/brief", add, methods=["POST"]),
        Route("/add", add, methods=["GET"]),
        Route("/count", count),
        Route("/who", who),
        Route("/cart", cart),
        Route("/pid", pid),
        Route("/events", events, methods=["POST"]),
        Route("/poll", poll, methods=["GET", "POST"]),
        WebSocketRoute("/echo", echo),
    ]
    return Starlette(routes=routes, middleware=[Middleware(middleware)])
