"""aiohttp: what is wrong with a set-up is said as the application starts."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from aiohttp import web

from sessionlock import ConfigurationError, SessionGuard
from sessionlock.integrations.aiohttp import get_session, setup
from sessionlock.views.cookies import CookieSettings
from tests.harness.aiohttp_calls import WAIT, Shop, add, cart, shop_on

pytestmark = pytest.mark.anyio


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", "redis://localhost:port"])
def test_a_url_that_makes_no_sense(url: str) -> None:
    with pytest.raises(ConfigurationError):
        setup(web.Application(), url)


@pytest.mark.parametrize("option", [{"mode": "fast"}, {"on_conflict": "never"}, {"body_limit": -1}, {"wait": -1}])
async def test_an_option_that_makes_no_sense(option: dict[str, Any], guard: SessionGuard) -> None:
    with pytest.raises(ConfigurationError):
        setup(web.Application(), guard, **option)


async def test_a_store_that_cannot_be_reached(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
    app = web.Application()
    setup(app, f"redis://127.0.0.1:{port}")
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        assert len(errors(caplog)) == 1
        assert str(port) in errors(caplog)[0]
    finally:
        await runner.cleanup()


async def test_twice_around_itself(guard: SessionGuard, caplog: pytest.LogCaptureFixture) -> None:
    """One lock a request, one cookie; said once."""
    async with shop_on(guard, wait=WAIT) as shop:
        inner = web.Application()
        setup(inner, guard)
        inner.router.add_post("/add/{item}", add)
        shop.app.add_subapp("/inner", inner)
        await shop.start()
        for item in "ab":
            async with shop.browser.post(f"/inner/add/{item}") as answer:
                assert answer.status == 200
                assert len(answer.headers.getall("Set-Cookie")) == 1
        assert await shop.stored() == {"cart": ["a", "b"]}
    assert len(errors(caplog)) == 1
    assert "Remove the inner call" in errors(caplog)[0]


@pytest.mark.parametrize("depth", [1, 2])
async def test_twice_with_different_settings(guard: SessionGuard, depth: int) -> None:
    outer, inner = web.Application(), web.Application()
    setup(outer, guard)
    setup(inner, guard, cookie=CookieSettings(samesite="strict"))
    for _ in range(depth - 1):
        around = web.Application()
        around.add_subapp("/inner", inner)
        inner = around
    outer.add_subapp("/inner", inner)
    runner = web.AppRunner(outer)
    with pytest.raises(ConfigurationError, match="different settings"):
        await runner.setup()
    await runner.cleanup()


async def test_an_inner_application_with_a_session_of_its_own(guard: SessionGuard) -> None:
    """Two cookies, two records; a stream settles both."""

    async def stream(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["streamed"] = True
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        return response

    @web.middleware
    async def outer_count(request: web.Request, handler: Any) -> web.StreamResponse:
        session = await get_session(request)
        session["n"] = session.get("n", 0) + 1
        answer: web.StreamResponse = await handler(request)
        assert await get_session(request) is session
        return answer

    async with shop_on(guard, wait=WAIT) as shop:
        shop.app.middlewares.append(outer_count)
        inner = web.Application()
        setup(inner, guard, cookie="admin")
        inner.router.add_post("/add/{item}", add)
        inner.router.add_get("/cart", cart)
        inner.router.add_get("/stream", stream)
        shop.app.add_subapp("/inner", inner)
        await shop.start()
        await shop.ask("POST", "/add/a")
        assert await shop.ask("POST", "/inner/add/b") == (200, '["b"]')
        assert await shop.ask("GET", "/inner/stream") == (200, "x")
        answers = await asyncio.gather(*(shop.ask("GET", "/inner/cart") for _ in range(5)))
        assert answers == [(200, '["b"]')] * 5
        assert await shop.stored() == {"cart": ["a"], "n": 8}
        admin = next(cookie.value for cookie in shop.browser.cookie_jar if cookie.key == "admin")
        assert dict(await guard.read(admin)) == {"cart": ["b"], "streamed": True}


async def test_an_inner_application_alone(guard: SessionGuard) -> None:
    """Set up where it is mounted only; outside there is no session, and that is said."""
    outer, inner = web.Application(), web.Application()
    setup(inner, guard)
    inner.router.add_post("/add/{item}", add)
    outer.router.add_post("/add/{item}", add)
    outer.add_subapp("/inner", inner)
    shop = Shop(guard, outer)
    await shop.start()
    try:
        assert await shop.ask("POST", "/inner/add/a") == (200, '["a"]')
        assert (await shop.ask("POST", "/add/a"))[0] == 500
    finally:
        await shop.browser.close()
        await shop.server.close()
