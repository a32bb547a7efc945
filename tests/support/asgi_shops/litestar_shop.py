from __future__ import annotations

from collections.abc import Callable
from typing import Any

from litestar import Litestar, Request, get, post

from . import handlers


@post("/add")
async def add(request: Request[Any, Any, Any]) -> dict[str, Any]:
    return await handlers.add(request.session, request.query_params["item"])


@get("/cart")
async def cart(request: Request[Any, Any, Any]) -> list[str]:
    return handlers.cart(request.session)


@post("/empty")
async def empty(request: Request[Any, Any, Any]) -> None:
    request.clear_session()


@post("/boom")
async def boom(request: Request[Any, Any, Any]) -> None:
    handlers.boom(request.session)


def shop(middleware: Callable[[Any], Any]) -> Litestar:
    return Litestar([add, cart, empty, boom], middleware=[middleware], openapi_config=None, logging_config=None)
