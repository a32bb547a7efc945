from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from . import handlers


async def add(request: Request) -> Response:
    return JSONResponse(await handlers.add(request.session, request.query_params["item"]))


async def cart(request: Request) -> Response:
    return JSONResponse(handlers.cart(request.session))


async def empty(request: Request) -> Response:
    request.session.clear()
    return Response()


async def boom(request: Request) -> None:
    handlers.boom(request.session)


def shop(middleware: Callable[[Any], Any]) -> Starlette:
    routes = [Route(f"/{view.__name__}", view, methods=["POST"]) for view in (add, empty, boom)]
    return Starlette(routes=[*routes, Route("/cart", cart)], middleware=[Middleware(middleware)])
