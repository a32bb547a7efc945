"""Websockets of Quart's: the session as it stood at the handshake; what is written becomes a commit of its own."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from quart import Quart, abort, session, websocket
from quart.typing import ResponseReturnValue

from sessionlock import SessionGuard
from sessionlock.integrations.quart.extension import SessionLock
from tests.harness.asgi_calls import Call, eventually
from tests.harness.proxy import FaultyProxy

pytestmark = pytest.mark.anyio
SCOPE: dict[str, Any] = {"type": "websocket", "subprotocols": [], "scheme": "ws"}


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"a": 1, "cart": ["x"]})).sid


def app_of(guard: SessionGuard) -> Quart:
    """Answers what it gets; "write" and "forget" change its session; it ends at "end"."""
    app = Quart(__name__)
    SessionLock(app, guard)

    @app.websocket("/")
    async def socket() -> None:
        await websocket.accept()
        await websocket.send_json(dict(session))
        while (got := await websocket.receive()) != "end":
            if got == "write":
                session["cart"].append("y")
                session["seen"] = True
            elif got == "login":
                session["user_id"] = 7
            elif got == "logout":
                session.clear()
            elif got == "save":
                await session.sessionlock.save()  # type: ignore[attr-defined]
            elif got == "boom":
                raise RuntimeError("boom")
            await websocket.send_json(dict(session))

    @app.post("/add")
    async def add() -> str:
        session["b"] = 2
        return ""

    return app


class Socket:
    def __init__(self, app: Quart, sid: str) -> None:
        self._socket = app.test_client().websocket("/", headers={"cookie": f"session={sid}"} if sid else {})

    async def __aenter__(self) -> Any:
        self.inner: Any = await self._socket.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._socket.__aexit__(*error)

    async def says(self) -> Any:
        return await asyncio.wait_for(self.inner.receive_json(), 5)

    async def told(self, word: str) -> Any:
        await self.inner.send(word)
        return await self.says()


async def stored(guard: SessionGuard, sid: str, **wanted: Any) -> None:
    async def is_there() -> bool:
        return dict(await guard.read(sid)) == wanted

    await eventually(is_there)


async def test_it_reads_without_a_lock(guard: SessionGuard, sid: str) -> None:
    async with Socket(app_of(guard), sid) as socket:
        assert await socket.says() == {"a": 1, "cart": ["x"]}
        assert (await guard.inspect(sid)).holder is None
        async with guard.session_lock(sid, wait=1) as other:
            other["a"] = 2
        await socket.inner.send("end")
    await stored(guard, sid, a=2, cart=["x"])


@pytest.mark.parametrize("how", ["it ends", "the client goes", "at once"])
async def test_what_it_writes_is_a_commit_of_its_own(guard: SessionGuard, sid: str, how: str) -> None:
    """B12: the difference only; a cart and a login of meanwhile stay."""
    app = app_of(guard)
    headers = [(b"cookie", f"session={sid}".encode())]
    async with Call(app, path="/", headers=headers, **SCOPE) as call:
        call.tell("websocket.connect")
        call.tell("websocket.receive", text="write")

        async def has_written() -> bool:
            return [message["type"] for message in call.sent].count("websocket.send") == 2

        await eventually(has_written)
        async with guard.session_lock(sid) as other:
            other["a"], other["b"] = 5, 2
        if how == "at once":
            call.tell("websocket.receive", text="save")
            await stored(guard, sid, a=5, b=2, cart=["x", "y"], seen=True)
        call.tell("websocket.disconnect") if how == "the client goes" else call.tell("websocket.receive", text="end")
        await stored(guard, sid, a=5, b=2, cart=["x", "y"], seen=True)


async def test_a_stale_write_takes_nothing_back(
    guard: SessionGuard, sid: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Socket(app_of(guard), sid) as socket:
        await socket.says()
        await socket.told("write")
        async with guard.session_lock(sid) as other:
            other["cart"].append("z")
        await socket.inner.send("end")

        async def is_told() -> bool:
            return "SessionConflict" in caplog.text

        await eventually(is_told)
    await stored(guard, sid, a=1, cart=["x", "z"])
    assert sid not in caplog.text


async def test_one_that_fails_saves_nothing(guard: SessionGuard, sid: str) -> None:
    app = app_of(guard)
    async with Call(app, path="/", headers=[(b"cookie", f"session={sid}".encode())], **SCOPE) as call:
        call.tell("websocket.connect")
        call.tell("websocket.receive", text="write")
        call.tell("websocket.receive", text="boom")
        await call.until("websocket.send")
        await call.until("websocket.close")
        call.tell("websocket.disconnect")
        await call.ended()
    assert dict(await guard.read(sid)) == {"a": 1, "cart": ["x"]}


async def test_who_has_no_session_gets_none(
    guard: SessionGuard, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """There is no answer that could give its browser a cookie."""
    async with Socket(app_of(guard), "") as socket:
        assert await socket.says() == {}
        assert await socket.told("login") == {"user_id": 7}
        await socket.inner.send("end")

        async def is_told() -> bool:
            return "not saved" in caplog.text

        await eventually(is_told)
    assert [record.levelno for record in caplog.records if "not saved" in record.getMessage()] == [logging.WARNING]


async def test_a_login_keeps_the_id_that_the_browser_has(guard: SessionGuard, sid: str) -> None:
    async with Socket(app_of(guard), sid) as socket:
        await socket.says()
        await socket.told("login")
        await socket.inner.send("end")
        await stored(guard, sid, a=1, cart=["x"], user_id=7)


async def test_a_logout(guard: SessionGuard, sid: str) -> None:
    async with Socket(app_of(guard), sid) as socket:
        await socket.says()
        assert await socket.told("logout") == {}
        await socket.inner.send("end")

        async def is_gone() -> bool:
            return bool((await guard.inspect(sid)).destroyed)

        await eventually(is_gone)


async def test_redis_is_down(redis_url: str, sid: str) -> None:
    """At the handshake: for who looks. Later: what was written is told to be lost, and the socket ends as it should."""
    async with (
        FaultyProxy(redis_url) as proxy,
        SessionGuard.from_url(proxy.url, reply_within=0.3, retry_for=0.5) as guard,
    ):
        app = app_of(guard)

        @app.websocket("/quiet")
        async def quiet() -> None:
            await websocket.accept()
            await websocket.send("here")

        async with Socket(app, sid) as socket:
            await socket.says()
            await socket.told("write")
            proxy.refuse()
            proxy.cut_all()
            await socket.inner.send("end")
        async with app.test_client().websocket("/quiet", headers={"cookie": f"session={sid}"}) as quietly:
            assert await asyncio.wait_for(quietly.receive(), 20) == "here"


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
async def test_a_handshake_that_is_refused(guard: SessionGuard, sid: str, extensions: dict[str, Any]) -> None:
    app = Quart(__name__)
    SessionLock(app, guard)

    @app.websocket("/")
    async def socket() -> ResponseReturnValue:
        if "user_id" not in session:
            session["refused"] = True
            abort(403)
        return ""

    headers = [(b"cookie", f"session={sid}".encode())]
    async with Call(app, path="/", headers=headers, extensions=extensions, **SCOPE) as call:
        call.tell("websocket.connect")
        if extensions:
            assert (await call.until("websocket.http.response.start"))["status"] == 403
        else:
            await call.until("websocket.close")
    await stored(guard, sid, a=1, cart=["x"], refused=True)


async def test_a_context_of_a_test(guard: SessionGuard, sid: str) -> None:
    app = app_of(guard)
    async with app.test_request_context("/", headers={"cookie": f"session={sid}"}):
        assert session["a"] == 1
