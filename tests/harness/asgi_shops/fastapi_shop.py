from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from fastapi import APIRouter, FastAPI, Request, WebSocket
from fastapi.middleware import Middleware
from fastapi.responses import StreamingResponse

from . import handlers

router = APIRouter()


@router.get("/add")
@router.post("/add")
@router.post("/brief")
async def add(request: Request, item: str) -> dict[str, Any]:
    return await handlers.add(request.session, item)


@router.get("/count")
async def count(request: Request) -> dict[str, Any]:
    return await handlers.count(request.session)


@router.post("/login")
async def login(request: Request, user: str) -> dict[str, Any]:
    return await handlers.login(request.session, user)


@router.post("/logout")
async def logout(request: Request) -> dict[str, Any]:
    return await handlers.logout(request.session)


@router.get("/who")
async def who(request: Request) -> dict[str, Any]:
    return handlers.who(request.session)


@router.get("/cart")
def cart(request: Request) -> list[str]:
    return handlers.cart(request.session)


@router.get("/pid")
async def pid() -> int:
    return os.getpid()


@router.post("/empty")
async def empty(request: Request) -> None:
    request.session.clear()


@router.post("/boom")
async def boom(request: Request) -> None:
    handlers.boom(request.session)


@router.post("/hold")
async def hold(request: Request, gate: str) -> dict[str, Any]:
    return await handlers.hold(request.session, gate)


@router.post("/call")
async def call(request: Request) -> dict[str, Any]:
    request.session["called"] = True
    return await handlers.call(str(request.base_url), request.query_params, request.headers["cookie"])


@router.post("/events")
async def events(request: Request, gate: str, every: float) -> StreamingResponse:
    request.session["streamed"] = True
    return StreamingResponse(handlers.ticks(gate, every), media_type="text/event-stream")


@router.get("/poll")
@router.post("/poll")
async def poll(request: Request, gate: str) -> dict[str, Any]:
    return await handlers.poll(request.session, gate)


@router.websocket("/echo")
async def echo(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_json(handlers.cart(socket.session))
    async for text in socket.iter_text():
        await socket.send_text(text)


def shop(middleware: Callable[[Any], Any]) -> FastAPI:
    app = FastAPI(middleware=[Middleware(middleware)])
    app.include_router(router)
    return app
