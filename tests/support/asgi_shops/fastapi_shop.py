from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.middleware import Middleware

from . import handlers

router = APIRouter()


@router.post("/add")
async def add(request: Request, item: str) -> dict[str, Any]:
    return await handlers.add(request.session, item)


@router.get("/cart")
def cart(request: Request) -> list[str]:
    return handlers.cart(request.session)


@router.post("/empty")
async def empty(request: Request) -> None:
    request.session.clear()


@router.post("/boom")
async def boom(request: Request) -> None:
    handlers.boom(request.session)


def shop(middleware: Callable[[Any], Any]) -> FastAPI:
    app = FastAPI(middleware=[Middleware(middleware)])
    app.include_router(router)
    return app
