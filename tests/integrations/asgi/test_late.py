"""What applications write late, and the packages that people install beside Starlette."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from authlib.integrations.base_client import MismatchingStateError
from authlib.integrations.starlette_client import OAuth
from fastapi import BackgroundTasks
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from starlette_wtf import CSRFProtectMiddleware, StarletteForm, csrf_protect
from wtforms import StringField

from sessionlock import SessionGuard
from sessionlock.integrations.asgi import SessionLockMiddleware
from tests.harness.asgi_calls import FAST_API_WARNS, app_of, browser, fastapi, stored

pytestmark = [pytest.mark.anyio, *FAST_API_WARNS]


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"cart": ["a"]})).sid


# --- late -------------------------------------------------------------------------------------------------------------


def flashes(session: Any) -> list[Any]:
    taken: list[Any] = session.pop("flashes", [])
    return taken


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_stream_that_shows_messages(
    guard: SessionGuard, kind: str, fresh: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Its session was not touched before; the body goes on, and it is told once that nothing is saved."""

    async def view(request: Request) -> Response:
        session = request.session

        def parts() -> Iterator[str]:
            yield "begin "
            session["csrf"] = "token"
            yield " ".join(flashes(session))
            session.setdefault("seen", []).append(1)
            session.update(a=1)
            yield f" {session['csrf']} end"

        async def later() -> AsyncIterator[str]:
            for part in parts():
                yield part

        return StreamingResponse(later() if kind == "async" else parts())

    sid = "" if fresh else (await guard.create({"flashes": ["one", "two"]})).sid
    async with browser(app_of(guard, view), sid) as client:
        for _ in range(2):
            caplog.clear()
            with caplog.at_level(logging.WARNING, "sessionlock"):
                answer = await client.get("/")
            shown = "" if fresh else "one two"
            assert (answer.status_code, answer.text) == (200, f"begin {shown} token end")
            assert len(caplog.records) == 1
    if sid:
        assert await guard.read(sid) == {"flashes": ["one", "two"]}


async def test_background_tasks_that_write(guard: SessionGuard, sid: str, caplog: pytest.LogCaptureFixture) -> None:
    done: list[str] = []
    app = fastapi(guard)

    async def work(session: Any) -> None:
        session["late"] = 1
        del session["late"]
        session.clear()
        done.append("async")

    def work_in_a_thread(session: Any) -> None:
        session["late"] = 1
        done.append("sync")

    @app.post("/")
    async def view(request: Request, later: BackgroundTasks) -> None:
        later.add_task(work, request.session)
        later.add_task(work_in_a_thread, request.session)

    async with browser(app, sid) as client:
        with caplog.at_level(logging.WARNING, "sessionlock"):
            assert (await client.post("/")).status_code == 200
    assert done == ["async", "sync"]
    assert len(caplog.records) == 1
    assert "after its answer had begun" in caplog.text
    assert await guard.read(sid) == {"cart": ["a"]}


def test_a_websocket_that_writes(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    from starlette.testclient import TestClient  # which warns as it is imported

    async def view(socket: WebSocket) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            socket.session["last"] = text
            socket.session.setdefault("all", []).append(text)
            await socket.send_json(socket.session)

    async def fill(request: Request) -> Response:
        request.session["cart"] = ["a"]
        return Response()

    async def show(request: Request) -> Response:
        return JSONResponse(request.session)

    routes = [WebSocketRoute("/ws", view), Route("/fill", fill, methods=["POST"]), Route("/", show)]
    app = Starlette(routes=routes, middleware=[Middleware(SessionLockMiddleware, guard=redis_url)])
    with TestClient(app) as client:
        client.post("/fill")
        with client.websocket_connect("/ws") as socket:
            socket.send_text("x")
            assert socket.receive_json() == {"cart": ["a"], "last": "x", "all": ["x"]}
            socket.send_text("y")
            assert socket.receive_json() == {"cart": ["a"], "last": "y", "all": ["x", "y"]}
        assert client.get("/").json() == {"cart": ["a"]}
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


# --- packages ---------------------------------------------------------------------------------------------------------


async def test_authlib_logins_in_many_tabs(guard: SessionGuard) -> None:
    """Each tab's login keeps its state in the session by a GET; all of them come back."""
    oauth = OAuth()
    oauth.register(
        "provider", client_id="x", client_secret="y", authorize_url="https://provider.test/authorize",
        access_token_url="https://provider.test/token",
    )  # fmt: skip

    async def login(request: Request) -> Response:
        answer: Response = await oauth.provider.authorize_redirect(request, "http://shop.test/callback")
        return answer

    async def callback(request: Request) -> Response:
        try:
            await oauth.provider.authorize_access_token(request)
        except MismatchingStateError:
            return PlainTextResponse("lost", 400)
        except Exception as error:  # there is no provider; the state was found
            return PlainTextResponse(type(error).__name__)
        return PlainTextResponse("in")

    async def begin(request: Request) -> Response:
        request.session["cart"] = ["a"]
        return Response()

    routes = [Route("/login", login), Route("/callback", callback), Route("/begin", begin, methods=["POST"])]
    app = Starlette(routes=routes, middleware=[Middleware(SessionLockMiddleware, guard=guard)])
    async with browser(app) as client:
        await client.post("/begin")
        answers = await asyncio.gather(*(client.get("/login") for _ in range(8)))
        assert [answer.status_code for answer in answers] == [302] * 8
        states = [answer.headers["location"].split("state=")[1].split("&")[0] for answer in answers]
        kept = await stored(guard, client)
        assert all(f"_state_provider_{state}" in kept for state in states)
        for state in states:
            assert (await client.get(f"/callback?code=1&state={state}")).text != "lost"
        assert (await client.get("/callback?code=1&state=unknown")).text == "lost"


async def test_a_csrf_token_in_many_tabs(guard: SessionGuard) -> None:
    """Starlette-WTF puts a token into the session by GET: every tab's form is accepted."""

    class Form(StarletteForm):  # type: ignore[misc]
        name = StringField()

    @csrf_protect  # type: ignore[untyped-decorator]
    async def form(request: Request) -> Response:
        shown = await Form.from_formdata(request)
        if await shown.validate_on_submit():
            request.session["name"] = shown.name.data
            return RedirectResponse("/", 303)
        return PlainTextResponse(shown.csrf_token.current_token)

    async def begin(request: Request) -> Response:
        request.session["cart"] = ["a"]
        return Response()

    routes = [Route("/form", form, methods=["GET", "POST"]), Route("/begin", begin, methods=["POST"])]
    layers = [Middleware(SessionLockMiddleware, guard=guard), Middleware(CSRFProtectMiddleware, csrf_secret="x")]
    async with browser(Starlette(routes=routes, middleware=layers)) as client:
        await client.post("/begin")
        answers = await asyncio.gather(*(client.get("/form") for _ in range(8)))
        assert [answer.status_code for answer in answers] == [200] * 8
        for answer in answers:
            sent = await client.post("/form", data={"name": "ada", "csrf_token": answer.text})
            assert sent.status_code == 303, sent.text
        assert (await client.post("/form", data={"name": "eve", "csrf_token": "x"})).status_code == 403
        assert (await stored(guard, client))["name"] == "ada"
