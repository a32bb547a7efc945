"""Applications whose first run meets a conflict: for what runs again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sessionlock import SessionGuard
from sessionlock.integrations.asgi import SessionLockMiddleware

App = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]


class Visits:
    """Counts in the session; while it runs for the first time, somebody else counts, too."""

    def __init__(self, guard: SessionGuard, sid: str, clashes: int = 1) -> None:
        self.guard = guard
        self.sid = sid
        self.runs = 0
        self.left = clashes
        self.background: list[int] = []

    async def __call__(self, session: Any) -> int:
        """The number of this run."""
        self.runs += 1
        n = session.get("n", 0)
        if self.left:
            self.left -= 1
            async with self.guard.session_lock(self.sid) as other:
                other["n"] += 10
        session["n"] = n + 1
        return self.runs

    async def later(self, run: int) -> None:
        self.background.append(run)

    async def stored(self) -> Any:
        return (await self.guard.read(self.sid))["n"]


def around(app: App, guard: SessionGuard, **options: Any) -> App:
    return SessionLockMiddleware(app, guard, **options)


def plain(visits: Visits, _: Path) -> App:
    async def view(request: Request) -> Response:
        run = await visits(request.session)
        return PlainTextResponse(f"run {run}", background=BackgroundTask(visits.later, run))

    return Starlette(routes=[Route("/", view)])


def in_another_task(visits: Visits, folder: Path) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.create_task(called(plain(visits, folder), scope, receive, send))

    return app


async def called(app: App, scope: Any, receive: Any, send: Any) -> None:
    await app(scope, receive, send)


def dying_of_it(visits: Visits, folder: Path) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await plain(visits, folder)(scope, receive, send)
        except asyncio.CancelledError:
            raise ValueError("cannot stand it") from None

    return app
