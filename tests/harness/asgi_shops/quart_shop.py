from __future__ import annotations

import os
from collections.abc import AsyncIterator
from typing import Any

from quart import Quart, Response, request, session, websocket

from sessionlock.integrations.quart.extension import SessionLock

from . import handlers


async def add() -> dict[str, Any]:
    return await handlers.add(session, request.args["item"])


async def count() -> dict[str, Any]:
    return await handlers.count(session)


async def login() -> dict[str, Any]:
    return await handlers.login(session, request.args["user"])


async def logout() -> dict[str, Any]:
    return await handlers.logout(session)


async def who() -> dict[str, Any]:
    return handlers.who(session)


async def cart() -> list[str]:
    return handlers.cart(session)


async def pid() -> str:
    return str(os.getpid())


async def empty() -> str:
    session.clear()
    return ""


async def boom() -> str:
    handlers.boom(session)
    return ""


async def hold() -> dict[str, Any]:
    return await handlers.hold(session, request.args["gate"])


async def call() -> dict[str, Any]:
    session["called"] = True
    return await handlers.call(request.host_url, request.args, request.headers["cookie"])


async def events() -> Response:
    session["streamed"] = True
    ticks = handlers.ticks(request.args["gate"], float(request.args["every"]))

    async def encoded() -> AsyncIterator[bytes]:
        async for tick in ticks:
            yield tick.encode()

    answer = Response(encoded(), mimetype="text/event-stream")
    answer.timeout = None
    return answer


async def poll() -> dict[str, Any]:
    return await handlers.poll(session, request.args["gate"])


async def echo() -> None:
    await websocket.accept()
    await websocket.send_json(handlers.cart(session))
    while True:
        await websocket.send(await websocket.receive())


def plain() -> Quart:
    """Without any sessions but Quart's own."""
    app = Quart(__name__)
    app.get("/cart")(cart)
    app.get("/pid")(pid)
    app.get("/count")(count)
    app.get("/who")(who)
    app.get("/add", endpoint="adding")(add)
    for view in (add, empty, boom, hold, call, events, login, logout):
        app.post(f"/{view.__name__}")(view)
    app.post("/brief", endpoint="brief")(add)
    app.route("/poll", methods=["GET", "POST"])(poll)
    app.websocket("/echo")(echo)
    return app


def guarded(guard: Any, **options: Any) -> Quart:
    app = plain()
    app.config["SESSION_COOKIE_NAME"] = "session_id"  # as in the other shops
    SessionLock(app, guard, **options)
    return app
