"""Litestar's own extension points over our sessions."""

from __future__ import annotations

import asyncio
import enum
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from litestar import Litestar, MediaType, Request, WebSocket, get, post, websocket
from litestar.connection import ASGIConnection
from litestar.middleware import DefineMiddleware
from litestar.plugins.flash import FlashConfig, FlashPlugin, flash
from litestar.response import Template
from litestar.security.session_auth import SessionAuth
from litestar.template.config import TemplateConfig
from litestar.testing import AsyncTestClient
from pydantic import BaseModel

from sessionlock import SessionGuard, SessionNotFound
from sessionlock.errors import ConfigurationError
from sessionlock.integrations.asgi import SessionLockMiddleware
from sessionlock.integrations.litestar import SessionLockConfig, SessionLockPlugin
from tests.harness.stored import Stored

try:
    from litestar.plugins.jinja import JinjaTemplateEngine
except ImportError:  # in older versions
    from litestar.contrib.jinja import JinjaTemplateEngine

pytestmark = pytest.mark.anyio

# Since 2.25 Litestar would have it spelled out what a parameter is; before, there is no such spelling.
INFERRED = pytest.mark.filterwarnings("ignore::DeprecationWarning")
Asked = Request[Any, Any, Any]


def app_of(sessions: SessionLockConfig, *handlers: Any, **options: Any) -> Litestar:
    options = {"openapi_config": None, "logging_config": None, **options}
    plugins = [SessionLockPlugin(sessions), *options.pop("plugins", [])]
    return Litestar(list(handlers), plugins=plugins, **options)


@get("/session")
async def show(request: Asked) -> dict[str, Any]:
    return dict(request.session)


# --- requests


async def test_twenty_gets_that_count(guard: SessionGuard) -> None:
    @get("/count")
    async def count(request: Asked) -> int:
        seen: int = request.session.get("n", 0)
        await asyncio.sleep(0.001)
        request.session["n"] = seen + 1
        return seen

    async with AsyncTestClient(app_of(SessionLockConfig(guard), count, show)) as client:
        await client.get("/count")
        answers = await asyncio.gather(*(client.get("/count") for _ in range(20)))
        assert [answer.status_code for answer in answers] == [200] * 20
        assert (await client.get("/session")).json() == {"n": 21}
        assert sorted(answer.json() for answer in answers) == list(range(1, 21))


@INFERRED
async def test_a_second_run_finds_the_request_as_it_came(guard: SessionGuard) -> None:
    """Nothing that Litestar has cached of the first run: neither its dependencies nor its parsed parts."""
    made: list[int] = []

    async def number() -> int:
        made.append(len(made))
        return made[-1]

    @get("/again", dependencies={"number": number})
    async def again(request: Asked, number: int) -> dict[str, Any]:
        request.state.mine = [*getattr(request.state, "mine", []), number]
        request.session["n"] = request.session.get("n", 0) + 1
        if number == 0:
            await guard.transaction(sid, lambda other: other.__setitem__("n", 5))
        return {"n": request.session["n"], "state": request.state.mine, "query": dict(request.query_params)}

    sid = (await guard.create({"n": 0})).sid
    async with AsyncTestClient(app_of(SessionLockConfig(guard), again), cookies={"session": sid}) as client:
        answer = await client.get("/again?a=1")
    assert answer.json() == {"n": 6, "state": [1], "query": {"a": "1"}}
    assert made == [0, 1]


async def test_one_guard_for_all_routes(redis_url: str) -> None:
    sessions = SessionLockConfig(redis_url)
    routes = []
    for number in range(5):

        @get(f"/{number}", name=str(number))
        async def view(request: Asked) -> None:
            request.session["n"] = request.session.get("n", 0) + 1

        routes.append(view)
    async with AsyncTestClient(app_of(sessions, *routes, show)) as client:
        for number in range(5):
            await client.get(f"/{number}")
        assert len(sessions.session_guard._runtimes) == 1
        assert (await client.get("/session")).json() == {"n": 5}
        cookie = client.cookies["session"]
    with Stored(redis_url, cookie) as stored:
        assert stored.client.ttl(stored.keys.session) > 13 * 86_400


async def test_max_age_is_that_of_record_and_cookie(redis_url: str) -> None:
    @post("/in")
    async def log_in(request: Asked) -> None:
        request.session["a"] = 1

    async with AsyncTestClient(app_of(SessionLockConfig(redis_url, max_age=100), log_in)) as client:
        answer = await client.post("/in")
        assert "Max-Age=100" in answer.headers["set-cookie"]
        with Stored(redis_url, client.cookies["session"]) as stored:
            assert 90 < stored.client.ttl(stored.keys.session) <= 100


def test_mistakes_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError):
        SessionLockConfig("redsi://localhost")
    with pytest.raises(ConfigurationError):
        SessionLockConfig("redis://localhost", samesite="none", secure=False)


async def test_a_store_that_is_not_there_is_told_at_start_up(caplog: pytest.LogCaptureFixture) -> None:
    guard = SessionGuard.from_url("redis://127.0.0.1:1", retry_for=0.1)
    cookie = {"session": "some-visitor"}
    async with guard, AsyncTestClient(app_of(SessionLockConfig(guard), show), cookies=cookie) as client:
        assert any(record.levelno >= logging.ERROR for record in caplog.records)
        assert (await client.get("/session")).status_code == 503


# --- set_session, clear_session, get_session_id, skip_session


class User(BaseModel):
    name: str


@dataclass
class Basket:
    items: list[str]


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({"a": 1}, {"a": 1}),
        (User(name="ada"), {"name": "ada"}),
        (Basket(["A"]), {"items": ["A"]}),
        ({"user": User(name="ada"), "colour": Colour.RED, "by": {1: "x"}}, None),
    ],
)
async def test_set_session(guard: SessionGuard, given: Any, kept: Any) -> None:
    @post("/set")
    async def put(request: Asked) -> None:
        request.set_session(given)

    @post("/old")
    async def old(request: Asked) -> None:
        request.session["old"] = 1

    async with AsyncTestClient(app_of(SessionLockConfig(guard), put, old, show)) as client:
        assert (await client.post("/old")).status_code == 201
        assert (await client.post("/set")).status_code == 201
        want = kept or {"user": {"name": "ada"}, "colour": "red", "by": {"1": "x"}}
        assert (await client.get("/session")).json() == want


async def test_clear_session_ends_it(guard: SessionGuard) -> None:
    @post("/out")
    async def out(request: Asked) -> None:
        request.clear_session()

    sid = (await guard.create({"user_id": 1})).sid
    async with AsyncTestClient(app_of(SessionLockConfig(guard), out, show), cookies={"session": sid}) as client:
        answer = await client.post("/out")
        assert "Max-Age=0" in answer.headers["set-cookie"]
    with pytest.raises(SessionNotFound):
        await guard.read(sid)


async def test_also_under_the_middleware_for_any_asgi_application(guard: SessionGuard) -> None:
    @post("/set")
    async def put(request: Asked) -> None:
        request.set_session({"a": 1})

    @post("/out")
    async def out(request: Asked) -> None:
        request.clear_session()

    middleware = DefineMiddleware(SessionLockMiddleware, guard=guard)
    app = Litestar([put, out, show], middleware=[middleware], openapi_config=None, logging_config=None)
    async with AsyncTestClient(app) as client:
        await client.post("/set")
        assert (await client.get("/session")).json() == {"a": 1}
        await client.post("/out")
        assert (await client.get("/session")).json() == {}


async def test_get_session_id_and_skip_session(guard: SessionGuard) -> None:
    @get("/id")
    async def name(request: Asked) -> str | None:
        request.session["a"] = 1
        return request.get_session_id()

    @get("/skipped", skip_session=True)
    async def skipped(request: Asked) -> bool:
        return "session" in request.scope

    async with AsyncTestClient(app_of(SessionLockConfig(guard), name, skipped)) as client:
        first = (await client.get("/id")).text
        assert first == client.cookies["session"] == (await client.get("/id")).text
        assert (await client.get("/skipped")).json() is False


async def test_excluded_paths(guard: SessionGuard) -> None:
    @get("/static/x")
    async def static(request: Asked) -> bool:
        return "session" in request.scope

    async with AsyncTestClient(app_of(SessionLockConfig(guard, exclude=["^/static"]), static)) as client:
        assert (await client.get("/static/x")).json() is False


# --- SessionAuth


async def user_of(session: dict[str, Any], connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
    return session.get("user_id")


async def test_session_auth(guard: SessionGuard) -> None:
    @post("/login", exclude_from_auth=True)
    async def log_in(request: Asked) -> None:
        request.set_session({"user_id": "ada"})

    @post("/logout")
    async def log_out(request: Asked) -> None:
        request.clear_session()

    @get("/me")
    async def me(request: Asked) -> str:
        request.session["seen"] = request.session.get("seen", 0) + 1
        return str(request.user)

    auth = SessionAuth[Any, Any](
        retrieve_user_handler=user_of, session_backend_config=SessionLockConfig(guard), exclude=["/schema"]
    )
    app = Litestar([log_in, log_out, me], on_app_init=[auth.on_app_init], openapi_config=None, logging_config=None)
    async with AsyncTestClient(app) as client:
        assert (await client.get("/me")).status_code == 401
        planted = (await guard.create({"planted": True})).sid
        client.cookies.set("session", planted)
        await client.post("/login")
        sid = next(cookie.value for cookie in client.cookies.jar if cookie.value != planted)
        client.cookies.clear()
        client.cookies.set("session", str(sid))
        answers = await asyncio.gather(*(client.get("/me") for _ in range(8)))
        assert [(answer.status_code, answer.text) for answer in answers] == [(200, "ada")] * 8
        assert dict(await guard.read(str(sid))) == {"user_id": "ada", "seen": 8}
        await client.post("/logout")
        client.cookies.set("session", str(sid))
        assert (await client.get("/me")).status_code == 401
        with pytest.raises(SessionNotFound):
            await guard.read(planted)


async def test_whom_nobody_knows_is_sent_away_and_loses_the_session(guard: SessionGuard) -> None:
    """SessionAuth puts Empty into the scope when the user is not known any more."""

    @get("/me")
    async def me(request: Asked) -> str:
        return str(request.user)

    auth = SessionAuth[Any, Any](retrieve_user_handler=user_of, session_backend_config=SessionLockConfig(guard))
    app = Litestar([me], on_app_init=[auth.on_app_init], openapi_config=None, logging_config=None)
    sid = (await guard.create({"cart": ["A"]})).sid
    async with AsyncTestClient(app, cookies={"session": sid}) as client:
        answer = await client.get("/me")
        assert answer.status_code == 401
        assert "Max-Age=0" in answer.headers["set-cookie"]


# --- flash messages


@INFERRED
async def test_flash_plugin_delivers_once(guard: SessionGuard, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        "{% for m in get_flashes() %}{{ m.message }};{% endfor %}{{ request.session.name }}"
    )
    templates = TemplateConfig(directory=tmp_path, engine=JinjaTemplateEngine)

    @post("/flash")
    async def leave(request: Asked, number: int) -> None:
        flash(request, f"message {number}", "info")

    @get("/page", media_type=MediaType.HTML)
    async def page() -> Template:
        return Template("page.html")

    app = app_of(
        SessionLockConfig(guard),
        leave,
        page,
        template_config=templates,
        plugins=[FlashPlugin(config=FlashConfig(template_config=templates))],
    )
    async with AsyncTestClient(app) as client:
        await client.post("/flash?number=0")
        await asyncio.gather(*(client.post(f"/flash?number={n}") for n in range(1, 6)))
        pages = await asyncio.gather(*(client.get("/page") for _ in range(3)))
        assert [page.status_code for page in pages] == [200] * 3
        shown = [line for page in pages for line in page.text.split(";") if line]
        assert sorted(shown) == [f"message {n}" for n in range(6)]


# --- websockets, and the test client's own ways


async def test_a_websocket_that_writes_lives(guard: SessionGuard, caplog: pytest.LogCaptureFixture) -> None:
    @websocket("/ws")
    async def talk(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()
        socket.session["seen"] = 1
        socket.session.setdefault("list", []).append(1)
        await socket.send_json(dict(socket.session))
        await socket.close()

    sid = (await guard.create({"a": 1})).sid
    async with AsyncTestClient(app_of(SessionLockConfig(guard), talk), cookies={"session": sid}) as client:
        with await client.websocket_connect("/ws") as socket:
            assert socket.receive_json() == {"a": 1, "seen": 1, "list": [1]}
    assert dict(await guard.read(sid)) == {"a": 1}
    assert "not saved" in caplog.text


async def test_the_test_clients_session_helpers(redis_url: str) -> None:
    sessions = SessionLockConfig(redis_url)
    async with AsyncTestClient(app_of(sessions, show), session_config=sessions) as client:
        await client.set_session_data({"user": "ada"})
        assert (await client.get("/session")).json() == {"user": "ada"}
        assert await client.get_session_data() == {"user": "ada"}
