"""Quart's own ``session``, ``flash`` and error handling over the middleware."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from quart import Quart, flash, get_flashed_messages, session, websocket
from quart.typing import ResponseReturnValue

from sessionlock import SessionGuard
from sessionlock.integrations.quart import SessionLock

pytestmark = pytest.mark.anyio


@pytest.fixture
async def guard(redis_url: str) -> AsyncIterator[SessionGuard]:
    async with SessionGuard.from_url(redis_url) as guard:
        yield guard


@pytest.fixture
async def elsewhere(redis_url: str) -> AsyncIterator[SessionGuard]:
    async with SessionGuard.from_url(redis_url) as guard:
        yield guard


def app_of(guard: SessionGuard) -> Quart:
    app = Quart(__name__)
    sessions = SessionLock(guard=guard, wait=0, routes={"/off": "off"})
    sessions.init_app(app)

    @app.post("/flash")
    async def put() -> str:
        await flash("saved", "info")
        return ""

    @app.get("/flashes")
    async def shown() -> list[str]:
        return [str(message) for message in get_flashed_messages()]

    @app.post("/stock")
    async def stock() -> str:
        async with guard.lock("stock", wait=0):
            return "sold"

    @app.post("/mistake")
    async def mistake() -> str:
        session["what"] = object()
        return ""

    @app.post("/off")
    async def off() -> str:
        session["a"] = 1
        return ""

    @app.route("/status")
    async def status() -> ResponseReturnValue:
        return "", 204

    @app.websocket("/socket")
    async def socket() -> None:
        await websocket.accept()
        await websocket.send_json(dict(session))

    return app


async def test_flashes(guard: SessionGuard) -> None:
    client = app_of(guard).test_client()
    await client.post("/flash")
    assert await (await client.get("/flashes")).get_json() == ["saved"]
    assert await (await client.get("/flashes")).get_json() == []


async def test_an_error_of_the_handlers_own_lock(guard: SessionGuard, elsewhere: SessionGuard) -> None:
    client = app_of(guard).test_client()
    async with elsewhere.lock("stock"):
        answer = await client.post("/stock")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await client.post("/stock")).status_code == 200


async def test_mistakes(guard: SessionGuard) -> None:
    app = app_of(guard)
    with pytest.raises(Exception, match="what"):
        await app.test_client().post("/mistake")
    assert (await app.test_client().post("/off")).status_code == 500  # a change where there is no session
    assert (await app.test_client().get("/status")).status_code == 204


async def test_a_websocket_gets_a_snapshot(guard: SessionGuard) -> None:
    sid = (await guard.create({"a": 1})).sid
    client = app_of(guard).test_client()
    async with client.websocket("/socket", headers={"cookie": f"session_id={sid}"}) as socket:
        assert await socket.receive_json() == {"a": 1}
    assert dict(await guard.read(sid)) == {"a": 1}
