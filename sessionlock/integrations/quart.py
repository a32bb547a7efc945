"""Quart: ``quart.session`` locked, saved and released around each request, and a snapshot in websockets.

::

    app = Quart(__name__)
    SessionLock(app, "redis://localhost:6379/0")
"""

from __future__ import annotations

import asyncio
from typing import Any

from quart import Quart, Response
from quart.asgi import ASGIHTTPConnection
from quart.sessions import SessionInterface

from ..errors import SessionLockError
from ..guard import SessionGuard
from .asgi import SessionLockMiddleware

__all__ = ["SessionLock", "use_scope_sessions"]


class SessionLock:
    """Give a Quart application its sessions. Options as :class:`.asgi.SessionLockMiddleware` has them.

    ``SessionLock(app, guard)``, or ``SessionLock(guard=guard)`` and ``init_app(app)`` later.
    """

    def __init__(self, app: Quart | None = None, guard: SessionGuard | str | None = None, **options: Any) -> None:
        self._guard = guard
        self._options = options
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Quart) -> None:
        inner: Any = app.asgi_app
        middleware = SessionLockMiddleware(inner, self._guard, **self._options)
        app.asgi_app = middleware  # type: ignore[method-assign]
        use_scope_sessions(app)

        async def problem(error: SessionLockError) -> Response:
            """Quart answers what its handlers raise by itself, before the middleware could."""
            answer = middleware.problems.answer(error)
            if answer is None:
                raise error
            return Response(answer.content(), answer.status, dict(answer.headers()))

        app.register_error_handler(SessionLockError, problem)


def use_scope_sessions(app: Quart) -> None:
    """Let ``quart.session`` be what a middleware put into the ASGI scope; for who wraps the application by himself."""
    app.session_interface = _ScopeSessions()  # type: ignore[assignment]  # Quart declares its own kind
    app.asgi_http_class = _Connection


class _ScopeSessions(SessionInterface):
    """What Quart asks for its ``session``: the one that the middleware has opened. Saving is the middleware's too."""

    async def open_session(self, app: Quart, request: Any) -> Any:
        return request.scope.get("session")

    def is_null_session(self, instance: object) -> bool:
        return True  # hence Quart never saves it, also not as a websocket closes

    async def save_session(self, app: Quart, session: object, response: object) -> None:
        """Never called; see :meth:`is_null_session`."""


class _Connection(ASGIHTTPConnection):
    """A cancelled request ends its handler, which Quart itself would leave running: a lost lease must end it."""

    async def __call__(self, receive: Any, send: Any) -> None:
        self._tasks: list[asyncio.Task[None] | None] = []
        try:
            await super().__call__(receive, send)
        except asyncio.CancelledError:
            for task in self._tasks:
                if task is not None:
                    task.cancel()
            raise

    async def handle_request(self, request: Any, send: Any) -> None:
        self._tasks.append(asyncio.current_task())
        await super().handle_request(request, send)

    async def handle_messages(self, request: Any, receive: Any) -> None:
        self._tasks.append(asyncio.current_task())
        await super().handle_messages(request, receive)
