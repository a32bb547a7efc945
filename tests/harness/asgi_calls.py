"""ASGI applications called by hand: to see what they send and when, and to leave as a client does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sessionlock import SessionGuard
from sessionlock.integrations.asgi import SessionLockMiddleware

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE = 10.0
FAST_API_WARNS = (
    pytest.mark.filterwarnings("ignore:Using `httpx` with"),
    pytest.mark.filterwarnings("ignore:ORJSONResponse is deprecated"),
)


class Call:
    """One request (or websocket) to an application: ``async with Call(app, "POST", "/x", sid=sid) as call``."""

    def __init__(self, app: Any, method: str = "GET", path: str = "/", *, sid: str = "", **scope: Any) -> None:
        self.sent: list[dict[str, Any]] = []
        self._app = app
        self._inbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._more = asyncio.Event()
        self._task: asyncio.Task[None]
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "server": ("shop.test", 80),
            "headers": [(b"cookie", f"session_id={sid}".encode())] if sid else [],
            **scope,
        }

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._app(self._scope, self._inbox.get, self._send))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._task.cancel()
        with contextlib.suppress(BaseException):
            await self._task

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        self._more.set()

    def tell(self, kind: str, **content: Any) -> None:
        """The server passes something on to the application."""
        self._inbox.put_nowait({"type": kind, **content})

    def body(self, part: bytes = b"", *, more: bool = False) -> None:
        self.tell("http.request", body=part, more_body=more)

    async def until(self, kind: str) -> dict[str, Any]:
        """The first message of that kind that the application sends."""
        with anyio.fail_after(PATIENCE):
            while True:
                for message in self.sent:
                    if message["type"] == kind:
                        return message
                if self._task.done():
                    self._task.result()
                    raise AssertionError(f"it ended without sending {kind}: {self.sent}")
                self._more.clear()
                more = asyncio.ensure_future(self._more.wait())
                await asyncio.wait([self._task, more], return_when=asyncio.FIRST_COMPLETED)
                more.cancel()

    async def ended(self) -> None:
        """Raises what the application raised."""
        with anyio.fail_after(PATIENCE):
            await self._task

    @property
    def cancelling(self) -> int:
        """How many cancellations of its task nobody has taken back (0 before Python 3.11)."""
        count: Callable[[], int] = getattr(self._task, "cancelling", lambda: 0)
        return count()

    @property
    def unread(self) -> int:
        return self._inbox.qsize()


def app_of(guard: SessionGuard | None, view: Callable[..., Any], **options: Any) -> Starlette:
    """``view(request)`` for any path and method, inside the middleware."""
    route = Route("/{rest:path}", view, methods=["GET", "HEAD", "POST", "DELETE"])
    return Starlette(routes=[route], middleware=[Middleware(SessionLockMiddleware, guard=guard, **options)])


@asynccontextmanager
async def browser(app: Any, sid: str = "", *, base: str = "http://shop.test") -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps cookies."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    cookies = httpx.Cookies()
    if sid:
        cookies.set("session_id", sid, domain="shop.test")
    async with httpx.AsyncClient(transport=transport, base_url=base, cookies=cookies) as client:
        yield client


async def eventually(condition: Callable[[], Any]) -> None:
    """Until an (async) condition holds, within reason."""
    with anyio.fail_after(PATIENCE):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.005)


async def stored(guard: SessionGuard, client: Any) -> dict[str, Any]:
    """What the session of this browser holds."""
    return dict(await guard.read(client.cookies["session_id"]))


def fastapi(guard: SessionGuard, **options: Any) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=guard, **options)
    return app


class Called:
    """A view; whether anybody has called it."""

    def __init__(self) -> None:
        self.was = False

    async def __call__(self, request: Request) -> Response:
        self.was = True
        return Response()
