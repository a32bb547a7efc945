from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quart import Quart, request, session

from sessionlock.integrations.quart import use_scope_sessions

from . import handlers


async def add() -> dict[str, Any]:
    return await handlers.add(session, request.args["item"])


async def cart() -> list[str]:
    return handlers.cart(session)


async def empty() -> str:
    session.clear()
    return ""


async def boom() -> str:
    handlers.boom(session)
    return ""


def shop(middleware: Callable[[Any], Any]) -> Quart:
    app = Quart(__name__)
    app.asgi_app = middleware(app.asgi_app)  # type: ignore[method-assign]
    use_scope_sessions(app)
    app.get("/cart")(cart)
    for view in (add, empty, boom):
        app.post(f"/{view.__name__}")(view)
    return app
