from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from litestar import HttpMethod, Litestar, Request, WebSocket, get, post, route, websocket
from litestar.exceptions import WebSocketDisconnect
from litestar.response import Stream

from . import handlers

Asked = Request[Any, Any, Any]


@post(["/add", "/brief"])
async def add(request: Asked) -> dict[str, Any]:
    return await handlers.add(request.session, request.query_params["item"])


@get("/add")
async def adding(request: Asked) -> dict[str, Any]:
    return await handlers.add(request.session, request.query_params["item"])


@get("/count")
async def count(request: Asked) -> dict[str, Any]:
    return await handlers.count(request.session)


@post("/login")
async def login(request: Asked) -> dict[str, Any]:
    return await handlers.login(request.session, request.query_params["user"])


@post("/logout")
async def logout(request: Asked) -> dict[str, Any]:
    return await handlers.logout(request.session)


@get("/who")
async def who(request: Asked) -> dict[str, Any]:
    return handlers.who(request.session)


@get("/cart")
async def cart(request: Asked) -> list[str]:
    return handlers.cart(request.session)


@get("/pid", sync_to_thread=False)
def pid() -> int:
    return os.getpid()


@post("/empty")
async def empty(request: Asked) -> None:
    request.session.clear()


@post("/boom")
async def boom(request: Asked) -> None:
    handlers.boom(request.session)


@post("/hold")
async def hold(request: Asked) -> dict[str, Any]:
    return await handlers.hold(request.session, request.query_params["gate"])


@post("/call")
async def call(request: Asked) -> dict[str, Any]:
    request.session["called"] = True
    return await handlers.call(str(request.base_url), request.query_params, request.headers["cookie"])


@post("/events")
async def events(request: Asked) -> Stream:
    request.session["streamed"] = True
    asked = request.query_params
    return Stream(handlers.ticks(asked["gate"], float(asked["every"])), media_type="text/event-stream")


@route("/poll", http_method=[HttpMethod.GET, HttpMethod.POST])
async def poll(request: Asked) -> dict[str, Any]:
    return await handlers.poll(request.session, request.query_params["gate"])


@websocket("/echo")
async def echo(socket: WebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    await socket.send_json(handlers.cart(socket.session))
    try:
        while True:
            await socket.send_text(await socket.receive_text())
    except WebSocketDisconnect:
        pass


HANDLERS = [add, adding, count, login, logout, who, cart, pid, empty, boom, hold, call, events, poll, echo]


def shop(middleware: Callable[[Any], Any], **options: Any) -> Litestar:
    return Litestar(HANDLERS, middleware=[middleware], openapi_config=None, logging_config=None, **options)
