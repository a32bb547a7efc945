"""The same small shop in Starlette, FastAPI, Litestar and Quart.

For a server: ``uvicorn tests.harness.asgi_shops:served``.

What every shop answers stands in :mod:`tests.harness.shop_contract`. POST /add puts an item into the cart and takes a
moment over it, GET /cart shows it, POST /empty empties the session, POST /boom changes the cart and then fails. In
server processes also: POST /brief, an /add that waits only briefly; POST /hold, POST /events, GET and POST /poll, which
last until their gate opens; a websocket /echo; and POST /call, which calls what it is told with the cookie that it got.
``tests.harness.sites`` starts them, and other frameworks' shops.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

__all__ = ["SHOPS", "guarded", "served", "shop"]

SHOPS = ("starlette", "fastapi", "litestar", "quart")


def shop(framework: str, middleware: Callable[[Any], Any], **options: Any) -> Any:
    """The shop inside an ASGI middleware."""
    return importlib.import_module(f"tests.harness.asgi_shops.{framework}_shop").shop(middleware, **options)


def guarded(framework: str, guard: Any, *, more: dict[str, Any] | None = None, **options: Any) -> Any:
    """The shop with our sessions: by the middleware, in Quart by its own session interface. ``more``: for the shop."""
    from sessionlock.integrations.asgi import SessionLockMiddleware

    if framework == "quart":
        from .quart_shop import guarded as quart_guarded

        return quart_guarded(guard, **options)
    return shop(framework, lambda app: SessionLockMiddleware(app, guard, **options), **(more or {}))


def served() -> Any:
    """The application of one server process, as the environment says."""
    store, way = os.environ["STORE"], os.environ["WAY"]
    framework = os.environ["SHOP"].partition("-")[0]  # "quart-hypercorn": by another server
    if way != "guarded":
        from . import usual

        return usual.served(framework, store, way)
    from sessionlock import SessionGuard

    from ..sites import BRIEFLY, PATIENTLY

    more: dict[str, Any] = {}
    guard: SessionGuard | str = store
    if framework == "litestar":  # it builds a middleware once for each route
        guard = SessionGuard.from_url(store)
        more["on_shutdown"] = [guard.aclose]
    options = {} if "DEFAULTS" in os.environ else {"wait": PATIENTLY, "routes": BRIEFLY}
    return guarded(framework, guard, more=more, **options)
