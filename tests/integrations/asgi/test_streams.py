"""Nothing that lives long holds a lock: streams, background work, websockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from sessionlock import SessionGuard
from sessionlock.integrations.asgi import SessionLockMiddleware
from tests.harness.asgi_calls import Call, app_of, browser, eventually
from tests.harness.faulty import FaultyServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"cart": []})).sid


async def sent(call: Call, number: int) -> bool:
    return len(call.sent) == number


async def free(guard: SessionGuard, sid: str) -> bool:
    return (await guard.inspect(sid)).holder is None


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec_version", ["2.4", "2.0"])  # Starlette streams in another task for old servers
async def test_a_stream_holds_no_lock(guard: SessionGuard, sid: str, spec_version: str) -> None:
    go_on = asyncio.Event()

    async def events() -> AsyncIterator[str]:
        yield "data: 1\n\n"
        await go_on.wait()
        yield "data: 2\n\n"

    async def view(request: Request) -> Response:
        request.session["cart"].append("a")
        assert not await free(guard, sid)
        return StreamingResponse(events(), media_type="text/event-stream")

    asgi = {"version": "3.0", "spec_version": spec_version}
    async with Call(app_of(guard, view), "POST", sid=sid, asgi=asgi) as call:
        call.body()
        await call.until("http.response.start")
        assert await free(guard, sid)
        assert dict(await guard.read(sid)) == {"cart": ["a"]}
        async with guard.session_lock(sid, wait=0) as session:
            session["cart"].append("b")
        go_on.set()
        await call.ended()
        assert b"".join(part.get("body", b"") for part in call.sent) == b"data: 1\n\ndata: 2\n\n"
    assert dict(await guard.read(sid)) == {"cart": ["a", "b"]}


async def test_it_is_saved_before_anything_is_sent(guard: SessionGuard, sid: str) -> None:
    """A redirect must not overtake its own save."""
    seen: list[dict[str, Any]] = []

    async def view(request: Request) -> Response:
        request.session["cart"].append("a")
        return PlainTextResponse("ok")

    async def noticing(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            seen.append(dict(await guard.read(sid)))
            await send(message)

        await app_of(guard, view)(scope, receive, sending)

    async with browser(noticing, sid) as client:
        await client.post("/")
    assert seen == [{"cart": ["a"]}] * 2


async def test_changes_after_the_answer_began(guard: SessionGuard, sid: str, caplog: pytest.LogCaptureFixture) -> None:
    async def view(request: Request) -> Response:
        session = request.session

        async def later() -> None:
            session["late"] = 1
            session["later"] = session.get("late")
            session["cart"].append("late")
            assert (session["late"], session.pop("later")) == (1, 1)

        return PlainTextResponse("ok", background=BackgroundTask(later))

    async with browser(app_of(guard, view), sid) as client:
        with caplog.at_level(logging.WARNING, "sessionlock.web"):
            assert (await client.post("/buy")).status_code == 200
    (record,) = caplog.records
    assert "POST /{rest:path} changed 'late'" in record.getMessage()
    assert sid not in record.getMessage()
    assert dict(await guard.read(sid)) == {"cart": []}


async def test_an_answer_that_is_replaced_ends_quietly(guard: SessionGuard, sid: str) -> None:
    """The save was refused when the stream was to begin: its parts go nowhere."""

    async def events() -> AsyncIterator[str]:
        yield "1"
        yield "2"

    async def view(request: Request) -> Response:
        request.session["cart"].append("mine")
        async with guard.session_lock(sid) as session:
            session["cart"].append("theirs")
        return StreamingResponse(events())

    async with Call(app_of(guard, view, mode="optimistic"), sid=sid) as call:
        call.body()
        await call.ended()
        assert [message["type"] for message in call.sent] == ["http.response.start", "http.response.body"]
        assert call.sent[0]["status"] == 409


async def test_a_read_only_session_that_was_changed_deep_inside(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        request.session["cart"].append("a")
        return PlainTextResponse("ok")

    async with browser(app_of(guard, view, mode="read"), sid) as client:
        assert (await client.post("/")).status_code == 500
    assert dict(await guard.read(sid)) == {"cart": []}


# --- websockets -------------------------------------------------------------------------------------------------------


def websocket_app(guard: SessionGuard | str, view: Any, **options: Any) -> Any:
    return Starlette(
        routes=[WebSocketRoute("/{rest:path}", view)],
        middleware=[Middleware(SessionLockMiddleware, guard=guard, **options)],
    )


def websocket(app: Any, sid: str = "", **scope: Any) -> Call:
    return Call(app, sid=sid, type="websocket", scheme="ws", subprotocols=[], **scope)


async def test_a_websocket_reads_a_snapshot(guard: SessionGuard, sid: str, caplog: pytest.LogCaptureFixture) -> None:
    async def view(socket: WebSocket) -> None:
        session: Any = socket.session
        await socket.accept()
        await socket.send_json([dict(session), await free(guard, sid)])
        try:
            while True:
                item = await socket.receive_text()
                async with guard.session_lock(session.sessionlock.sid) as locked:
                    locked["cart"].append(item)
                await socket.send_json(await free(guard, sid))
        except WebSocketDisconnect:
            session["a"] = 1
            session["cart"].append("lost")
            assert session["a"] == 1

    async with websocket(websocket_app(guard, view), sid) as call:
        call.tell("websocket.connect")
        assert (await call.until("websocket.send"))["text"] == '[{"cart":[]},true]'
        call.tell("websocket.receive", text="a")
        await eventually(lambda: sent(call, 3))
        assert call.sent[-1]["text"] == "true"
        with caplog.at_level(logging.WARNING, "sessionlock.web"):
            call.tell("websocket.disconnect", code=1000)
            await call.ended()
    assert "WEBSOCKET /{rest:path} changed 'a'" in caplog.text
    assert len(caplog.records) == 1
    assert dict(await guard.read(sid)) == {"cart": ["a"]}


async def test_a_websocket_without_a_session(guard: SessionGuard) -> None:
    async def view(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json([dict(socket.session), socket.session.sessionlock.sid])  # type: ignore[attr-defined]

    for sid in ("", "unknown"):
        async with websocket(websocket_app(guard, view), sid) as call:
            call.tell("websocket.connect")
            assert (await call.until("websocket.send"))["text"] == '[{},""]'
            assert call.sent[0]["headers"] == []
            await call.ended()


async def test_a_websocket_is_not_opened_without_redis(own_server: Any) -> None:
    server: FaultyServer = own_server()

    async def view(socket: WebSocket) -> None:
        raise AssertionError("opened")

    async with SessionGuard.from_url(server.unix_url, retry_for=0.1, reply_within=0.5) as guard:
        sid = (await guard.create({"a": 1})).sid
        server.kill()
        app = websocket_app(guard, view)
        async with websocket(app, sid) as call:
            call.tell("websocket.connect")
            await call.ended()
            assert call.sent == [{"type": "websocket.close", "code": 1013}]
        async with websocket(app, sid, extensions={"websocket.http.response": {}}) as call:
            call.tell("websocket.connect")
            assert (await call.until("websocket.http.response.start"))["status"] == 503
            assert b"session store" in (await call.until("websocket.http.response.body"))["body"]


async def test_a_websocket_where_sessions_are_off(guard: SessionGuard, sid: str) -> None:
    async def view(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json("session" in socket.scope)

    async with websocket(websocket_app(guard, view, routes={"WEBSOCKET /**": "off"}), sid) as call:
        call.tell("websocket.connect")
        assert (await call.until("websocket.send"))["text"] == "false"
