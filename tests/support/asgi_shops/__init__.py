"""The same small shop in Starlette, FastAPI, Litestar and Quart. For a server: ``uvicorn support.asgi_shops:served``.

POST /add puts an item into the cart and takes a moment over it, GET /cart shows it, POST /empty empties the session,
POST /boom changes the cart and then fails.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

__all__ = ["SHOPS", "served", "shop"]

SHOPS = ("starlette", "fastapi", "litestar", "quart")


def shop(framework: str, middleware: Callable[[Any], Any]) -> Any:
    """The shop inside an ASGI middleware."""
    return importlib.import_module(f"support.asgi_shops.{framework}_shop").shop(middleware)


def served() -> Any:
    """The application of one server process, as the environment says."""
    from sessionlock.integrations.asgi import SessionLockMiddleware
    from support.asgi_shops.naive import NaiveMiddleware

    kind: Any = {"guarded": SessionLockMiddleware, "naive": NaiveMiddleware}[os.environ["WAY"]]
    return shop(os.environ["SHOP"], lambda app: kind(app, os.environ["STORE"]))
