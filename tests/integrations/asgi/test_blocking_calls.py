"""No request stands in the way of others: nothing reads files, looks up names or sleeps on the event loop."""

from __future__ import annotations

import asyncio
import time

import httpx
import pytest
from blockbuster import blockbuster_ctx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sessionlock import SessionGuard
from sessionlock.embedded import EmbeddedServer
from sessionlock.integrations.asgi import SessionLockMiddleware

pytestmark = [pytest.mark.anyio, pytest.mark.server]


async def count(request: Request) -> JSONResponse:
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse({"n": request.session["n"]})


@pytest.mark.parametrize("where", ["tcp", "localhost", "unix", "embedded"])
async def test_first_and_later_requests(where: str) -> None:
    """In a new process' state: nothing is connected, no script is loaded at the server."""
    with EmbeddedServer(tcp=True) as server:
        urls = {
            "tcp": server.tcp_url,
            "localhost": server.tcp_url.replace("127.0.0.1", "localhost"),
            "unix": server.unix_url,
            "embedded": "embedded://",
        }
        guard = SessionGuard.from_url(urls[where])
        routes = [Route("/", count, methods=["GET", "POST"])]
        app = Starlette(routes=routes, middleware=[Middleware(SessionLockMiddleware, guard=guard)])
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://t") as client, guard:
            with blockbuster_ctx():
                for expected, method in enumerate(("GET", "POST", "GET", "POST"), 1):
                    answer = await client.request(method, "/")
                    assert answer.status_code == 200
                    assert answer.json() == {"n": expected}
                answers = await asyncio.gather(*(client.post("/") for _ in range(5)))
            assert sorted(answer.json()["n"] for answer in answers) == [5, 6, 7, 8, 9]


def test_the_detector_is_on() -> None:
    async def blocks() -> None:

        with blockbuster_ctx():
            time.sleep(0.001)

    with pytest.raises(Exception, match=r"Blocking call to time\.sleep"):
        asyncio.run(blocks())
