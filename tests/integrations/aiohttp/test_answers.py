"""aiohttp: what becomes of a session, and what a visitor is answered, when others come between."""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from sessionlock import SessionGuard
from sessionlock.integrations.aiohttp import get_session, session_policy
from tests.harness.aiohttp_calls import WAIT, Shop, shop_on

pytestmark = pytest.mark.anyio


async def begin(shop: Shop) -> None:
    await shop.start()
    assert (await shop.ask("POST", "/add/a"))[0] == 200


async def test_a_get_that_pops_and_a_post_that_stores(shop: Shop) -> None:
    """The last message is shown while a cart is stored: emptied is not ended."""
    reading, stored = asyncio.Event(), asyncio.Event()

    @shop.on("POST", "/message")
    async def message(request: web.Request) -> web.Response:
        (await get_session(request))["msg"] = "hello"
        return web.Response()

    @shop.on("GET", "/show")
    async def show(request: web.Request) -> web.Response:
        session = await get_session(request)
        shown = session.pop("msg")
        reading.set()
        await stored.wait()
        return web.Response(text=shown)

    await shop.start()
    await shop.ask("POST", "/message")
    showing = asyncio.create_task(shop.ask("GET", "/show"))
    await asyncio.wait_for(reading.wait(), WAIT)
    assert (await shop.ask("POST", "/add/a"))[0] == 200
    stored.set()
    assert await showing == (200, "hello")
    assert await shop.stored() == {"cart": ["a"]}


async def test_what_a_request_lost_is_not_acknowledged(shop: Shop) -> None:
    """A POST that put something into a session which a logout ended meanwhile is not answered 200."""

    @shop.on("POST", "/late")
    @session_policy("optimistic")
    async def late(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["order"] = 1
        await shop.guard.destroy(session.sessionlock.sid)
        return web.Response()

    @shop.on("GET", "/looks")
    async def looks(request: web.Request) -> web.Response:
        session = await get_session(request)
        found = session.get("cart")
        await shop.guard.destroy(session.sessionlock.sid)
        return web.json_response(found)

    await begin(shop)
    async with shop.browser.post("/late") as answer:
        assert (answer.status, answer.cookies["session_id"]["max-age"]) == (409, "0")
    await shop.ask("POST", "/add/a")
    assert await shop.ask("GET", "/looks") == (200, '["a"]')


async def test_late_writes_are_logged_and_harm_nobody(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    @shop.on("GET", "/socket")
    async def socket(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        session = await get_session(request)  # touched for the first time
        async for _ in answer:
            session["seen"] = session.get("seen", 0) + 1
            session.setdefault("list", []).append(1)
            session.pop("cart", None)
            await answer.send_json(session)
        return answer

    @shop.on("POST", "/stream")
    async def stream(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        response = web.StreamResponse()
        await response.prepare(request)
        session["late"] = True
        session.clear()
        await response.write(repr(session).encode())
        return response

    await begin(shop)
    with caplog.at_level(logging.WARNING, "sessionlock.web"):
        async with shop.browser.ws_connect("/socket") as end:
            for n in (1, 2):
                await end.send_str("go")
                assert await end.receive_json(timeout=WAIT) == {"seen": n, "list": [1] * n}
        assert await shop.ask("POST", "/stream") == (200, "{}")
    late = [record for record in caplog.records if "after its answer had begun" in record.getMessage()]
    assert len(late) == 2
    assert await shop.stored() == {"cart": ["a"]}
    assert await shop.ask("GET", "/cart") == (200, '["a"]')


async def test_headers_and_cookies_of_the_application_stay_on_a_problem(shop: Shop) -> None:
    @shop.on("GET", "/clash")
    @session_policy(on_conflict="answer")
    async def clash(request: web.Request) -> web.Response:
        await shop.clashes(request)
        answer = web.Response(body=gzip.compress(b"x"), headers={"Content-Encoding": "gzip", "ETag": '"1"'})
        answer.set_cookie("theme", "dark")
        return answer

    @web.middleware
    async def inner(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        response.headers["X-Inner"] = "yes"
        return response

    async def cors(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Access-Control-Allow-Origin"] = "*"

    shop.app.middlewares.append(inner)
    shop.app.on_response_prepare.append(cors)
    await begin(shop)
    async with shop.browser.get("/clash") as answer:
        assert answer.status == 409
        assert answer.headers.getall("Access-Control-Allow-Origin") == ["*"]
        assert answer.headers.getall("X-Inner") == ["yes"]
        assert answer.cookies["theme"].value == "dark"
        assert "ETag" not in answer.headers
        assert (await answer.json())["status"] == 409


async def test_a_browser_gets_a_page(shop: Shop) -> None:
    @shop.on("POST", "/brief")
    @session_policy(wait=0.05)
    async def brief(request: web.Request) -> web.Response:
        await get_session(request)
        return web.Response()

    await begin(shop)
    async with shop.guard.session_lock(shop.sid or ""):
        async with shop.browser.post("/brief", headers={"Accept": "text/html,*/*;q=0.8"}) as page:
            assert (page.status, page.content_type) == (503, "text/html")
        async with shop.browser.post("/brief") as told:
            assert (told.status, told.content_type) == (503, "application/problem+json")


@pytest.mark.parametrize("key", ["user_id", "AIOHTTP_SECURITY"])
async def test_a_login_gives_a_new_id(shop: Shop, key: str) -> None:
    @shop.on("POST", "/login")
    async def login(request: web.Request) -> web.Response:
        (await get_session(request))[key] = "alice"
        return web.Response()

    @shop.on("POST", "/again")
    async def again(request: web.Request) -> web.Response:
        session = await get_session(request)
        cart = session["cart"]
        session.clear()
        session["anything"] = cart
        return web.Response()

    await begin(shop)
    planted = shop.sid
    await shop.ask("POST", "/login")
    assert shop.sid not in (None, planted)
    assert (await shop.ask("GET", "/cart", cookies={"session_id": planted or ""}))[1] == "[]"
    second = shop.sid
    await shop.ask("POST", "/again")
    assert shop.sid not in (None, planted, second)
    assert await shop.stored() == {"anything": ["a"]}


async def test_a_session_is_a_dict(shop: Shop) -> None:
    @shop.on("POST", "/dict")
    async def as_dict(request: web.Request) -> web.Response:
        session = await get_session(request)
        assert isinstance(session, dict)
        assert session | {"b": 1} == {"cart": ["a"], "b": 1}
        assert dict(session) == {"cart": ["a"]}
        assert not hasattr(session, "name")
        session["token"] = {1: "int keys", "n": float("inf")}
        return web.json_response(session)

    await begin(shop)
    status, text = await shop.ask("POST", "/dict")
    assert (status, text[:14]) == (200, '{"cart": ["a"]')
    assert (await shop.ask("GET", "/cart"))[0] == 200


async def test_a_signal_that_looks_after_a_failed_request(
    own_server: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The store is gone: the 503 that is ready stays one."""
    server = own_server(tcp=True)
    async with SessionGuard.from_url(server.tcp_url, retry_for=0.2) as guard, shop_on(guard, wait=1) as shop:

        async def looks(request: web.Request, response: web.StreamResponse) -> None:
            (await get_session(request)).setdefault("seen", True)

        shop.app.on_response_prepare.append(looks)
        await begin(shop)
        server.stop()
        assert (await shop.ask("POST", "/add/b"))[0] == 503
        assert (await shop.ask("GET", "/nowhere"))[0] == 404
