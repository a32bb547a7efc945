"""The shop in aiohttp. One server process: ``python -m tests.harness.aiohttp_shop``, on the socket that it is given."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import aiohttp_session
from aiohttp import web

from sessionlock.integrations.aiohttp import get_session, setup
from sessionlock.integrations.aiohttp_session import SessionLockStorage

from .asgi_shops import handlers

Asked = web.Request


async def session_of(request: Asked) -> Any:
    """Whichever kind of session this process has."""
    own = os.environ["SHOP"] == "aiohttp" and os.environ["WAY"] == "guarded"
    return await (get_session(request) if own else aiohttp_session.get_session(request))


async def add(request: Asked) -> web.Response:
    return web.json_response(await handlers.add(await session_of(request), request.query["item"]))


async def count(request: Asked) -> web.Response:
    return web.json_response(await handlers.count(await session_of(request)))


async def login(request: Asked) -> web.Response:
    return web.json_response(await handlers.login(await session_of(request), request.query["user"]))


async def logout(request: Asked) -> web.Response:
    return web.json_response(await handlers.logout(await session_of(request)))


async def who(request: Asked) -> web.Response:
    return web.json_response(handlers.who(await session_of(request)))


async def cart(request: Asked) -> web.Response:
    return web.json_response(handlers.cart(await session_of(request)))


async def pid(request: Asked) -> web.Response:
    return web.json_response(os.getpid())


async def hold(request: Asked) -> web.Response:
    return web.json_response(await handlers.hold(await session_of(request), request.query["gate"]))


async def call(request: Asked) -> web.Response:
    (await session_of(request))["called"] = True
    own = str(request.url.origin())
    return web.json_response(await handlers.call(own, request.query, request.headers["cookie"]))


async def events(request: Asked) -> web.StreamResponse:
    (await session_of(request))["streamed"] = True
    answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await answer.prepare(request)
    async for tick in handlers.ticks(request.query["gate"], float(request.query["every"])):
        await answer.write(tick.encode())
    return answer


async def poll(request: Asked) -> web.Response:
    return web.json_response(await handlers.poll(await get_session(request), request.query["gate"]))


async def echo(request: Asked) -> web.WebSocketResponse:
    session = await session_of(request)
    answer = web.WebSocketResponse()
    await answer.prepare(request)
    await answer.send_json(handlers.cart(session))
    async for message in answer:
        await answer.send_str(message.data)
    return answer


def shop() -> web.Application:
    app = web.Application()
    for view in (add, hold, call, events, poll, login, logout):
        app.router.add_post(f"/{view.__name__}", view)
    app.router.add_post("/brief", add)
    for view in (add, count, cart, pid, poll, echo, who):
        app.router.add_get(f"/{view.__name__}", view)
    return app


def served() -> web.Application:
    from .sites import BRIEFLY, PATIENTLY

    app, store = shop(), os.environ["STORE"]
    if os.environ["WAY"] == "usual":
        from aiohttp_session.redis_storage import RedisStorage
        from redis.asyncio import Redis

        client = Redis.from_url(store)
        aiohttp_session.setup(app, RedisStorage(client))

        async def close(app: web.Application) -> None:
            await client.aclose()

        app.on_cleanup.append(close)
        return app
    options: dict[str, Any] = {} if "DEFAULTS" in os.environ else {"wait": PATIENTLY, "routes": BRIEFLY}
    setup(app, store, **options)
    if os.environ["SHOP"] == "aiohttp-session":
        aiohttp_session.setup(app, SessionLockStorage())
    return app


if __name__ == "__main__":
    web.run_app(served(), sock=socket.socket(fileno=int(sys.argv[1])), print=None)
