"""A shop in aiohttp, its server, and a browser, for tests within one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import ClientSession, CookieJar, web
from aiohttp.test_utils import TestServer

from sessionlock import SessionGuard
from sessionlock.integrations.aiohttp import get_session, setup

__all__ = ["WAIT", "Shop", "add", "cart", "shop_on", "until"]

WAIT = 10.0


async def add(request: web.Request) -> web.Response:
    session = await get_session(request)
    session.setdefault("cart", []).append(request.match_info["item"])
    return web.json_response(session["cart"])


async def cart(request: web.Request) -> web.Response:
    return web.json_response((await get_session(request)).get("cart", []))


class Server(TestServer):
    """As ``web.run_app`` serves: a handler is not cancelled when its client goes away."""

    async def _make_runner(self, **options: Any) -> web.BaseRunner:
        return await super()._make_runner(**{**options, "handler_cancellation": False})


class Shop:
    """An application, its server, and a browser."""

    def __init__(self, guard: SessionGuard, app: web.Application) -> None:
        self.guard = guard
        self.app = app
        self.server: TestServer
        self.browser: ClientSession

    def on(self, method: str, path: str) -> Callable[[Any], Any]:
        def route(handler: Any) -> Any:
            self.app.router.add_route(method, path, handler)
            return handler

        return route

    async def start(self) -> None:
        self.server = Server(self.app)
        await self.server.start_server()
        self.browser = ClientSession(self.server.make_url("/"), cookie_jar=CookieJar(unsafe=True))

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, str]:
        async with self.browser.request(method, path, **options) as answer:
            return answer.status, await answer.text()

    async def send(self, method: str, path: str, *, length: int = 0) -> asyncio.StreamWriter:
        """A client of which nothing more is known: its request has begun, and it ends when its connection is closed."""
        _, writer = await asyncio.open_connection(self.server.host, self.server.port)
        cookie = f"Cookie: session_id={self.sid}\r\n" if self.sid else ""
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: shop\r\n{cookie}Content-Length: {length}\r\n\r\n".encode())
        await writer.drain()
        return writer

    @property
    def sid(self) -> str | None:
        return next((cookie.value for cookie in self.browser.cookie_jar if cookie.key == "session_id"), None)

    async def held(self, sid: str | None = None) -> bool:
        return (await self.guard.inspect(sid or self.sid or "")).holder is not None

    async def clashes(self, request: web.Request) -> None:
        """In a handler: what it changes is changed by somebody else, too."""
        session = await get_session(request)
        session["one"] = "ours"
        async with self.guard.session_lock(session.sessionlock.sid) as other:
            other["one"] = "theirs"

    async def stored(self) -> dict[str, Any]:
        assert self.sid is not None
        return dict(await self.guard.read(self.sid))


@asynccontextmanager
async def shop_on(guard: SessionGuard, **options: Any) -> AsyncIterator[Shop]:
    app = web.Application()
    setup(app, guard, **options)
    shop = Shop(guard, app)
    shop.on("POST", "/add/{item}")(add)
    shop.on("GET", "/cart")(cart)
    try:
        yield shop
    finally:
        await shop.browser.close()
        await shop.server.close()


async def until(holds: Callable[[], Any]) -> None:
    async def wait() -> None:
        while not await holds():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(wait(), WAIT)
