"""aiohttp: own sessions and those of aiohttp-session, over a real server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import ClientSession, WSMsgType, web
from aiohttp.test_utils import TestServer

from sessionlock import LeasePolicy, SessionGuard, SessionNotFound, WaitTimedOut
from sessionlock.errors import ConfigurationError
from sessionlock.integrations.aiohttp import (
    get_session,
    locked_session,
    locks_session,
    session_lock_exempt,
    session_policy,
    session_readonly,
    setup,
    visit_of,
)
from tests.harness.aiohttp_calls import WAIT, Shop, add, cart, shop_on, until
from tests.harness.commands import CommandCounter

pytestmark = pytest.mark.anyio


@pytest.fixture
async def shop(guard: SessionGuard) -> AsyncIterator[Shop]:
    async with shop_on(guard, wait=0.3) as shop:
        yield shop


async def test_deep_changes_are_kept(shop: Shop) -> None:
    await shop.start()
    async with shop.browser.post("/add/a") as answer:
        assert await answer.json() == ["a"]
        assert "SameSite=Lax" in answer.headers["Set-Cookie"]
        assert answer.headers["Vary"] == "Cookie"
    await shop.ask("POST", "/add/b")
    assert await shop.ask("GET", "/cart") == (200, '["a", "b"]')


async def test_who_does_not_ask_pays_nothing(shop: Shop, redis_url: str) -> None:
    @shop.on("POST", "/quiet")
    async def quiet(request: web.Request) -> web.Response:
        assert visit_of(request) is None
        return web.Response()

    await shop.start()
    await shop.ask("POST", "/add/a")
    await shop.ask("POST", "/add/b")
    with CommandCounter(redis_url) as ran:
        assert (await shop.ask("POST", "/quiet"))[0] == 200
        assert (await shop.ask("GET", "/nowhere"))[0] == 404
        assert not ran.counts
        await shop.ask("POST", "/add/c")
        assert ran.script_calls == 2


async def test_an_unknown_id_is_not_adopted(shop: Shop) -> None:
    await shop.start()
    await shop.ask("POST", "/add/a", cookies={"session_id": "chosen-by-somebody-else"})
    assert shop.sid != "chosen-by-somebody-else"


async def test_parallel_posts_lose_nothing(guard: SessionGuard) -> None:
    async with shop_on(guard, wait=WAIT) as shop:
        await shop.start()
        await shop.ask("POST", "/add/0")
        answers = await asyncio.gather(*(shop.ask("POST", f"/add/{n}") for n in range(1, 31)))
        assert {status for status, _ in answers} == {200}
        assert sorted((await shop.stored())["cart"], key=int) == [str(n) for n in range(31)]


async def test_failures_save_nothing_and_release(shop: Shop) -> None:
    @shop.on("POST", "/fail/{how}")
    async def fail(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["how"] = request.match_info["how"]
        assert await shop.held()
        if session["how"] == "raise":
            raise ZeroDivisionError
        if session["how"] == "502":
            raise web.HTTPBadGateway
        if session["how"] == "redirect":
            raise web.HTTPFound("/cart")
        return web.Response(status=500)

    await shop.start()
    await shop.ask("POST", "/add/a")
    for how, status in (("raise", 500), ("502", 502), ("return", 500)):
        assert (await shop.ask("POST", f"/fail/{how}"))[0] == status
        assert not await shop.held()
        assert await shop.stored() == {"cart": ["a"]}
    assert (await shop.ask("POST", "/fail/redirect", allow_redirects=False))[0] == 302
    assert (await shop.stored())["how"] == "redirect"


@pytest.mark.parametrize(
    ("mark", "get", "post"),
    [
        (lambda handler: handler, False, True),
        (locks_session, True, True),
        (locks_session(wait=1, lease=5), True, True),
        (session_readonly, False, False),
        (session_lock_exempt, False, False),
    ],
)
async def test_decorators(shop: Shop, mark: Any, get: bool, post: bool) -> None:
    async def look(request: web.Request) -> web.Response:
        return web.json_response((await get_session(request)).sessionlock.lease is not None)

    shop.app.router.add_route("*", "/look", mark(look))
    await shop.start()
    await shop.ask("POST", "/add/a")
    told = [await shop.ask(method, "/look") for method in ("GET", "POST")]
    assert told == [(200, str(get).lower()), (200, str(post).lower())]


async def test_class_based_and_sub_applications(shop: Shop) -> None:
    class Look(web.View):
        @session_readonly
        async def post(self) -> web.Response:
            return web.json_response((await get_session(self.request)).sessionlock.lease is not None)

    inner = web.Application()
    inner.router.add_view("/look", Look)
    inner.router.add_post("/add/{item}", add)
    shop.app.add_subapp("/inner", inner)
    await shop.start()
    await shop.ask("POST", "/inner/add/a")
    assert await shop.ask("POST", "/inner/look") == (200, "false")
    assert await shop.stored() == {"cart": ["a"]}


async def test_gets_do_not_wait_and_posts_not_for_ever(shop: Shop) -> None:
    inside, go_on = asyncio.Event(), asyncio.Event()

    @shop.on("POST", "/slow")
    async def slow(request: web.Request) -> web.Response:
        (await get_session(request))["slow"] = True
        inside.set()
        await go_on.wait()
        return web.Response()

    await shop.start()
    await shop.ask("POST", "/add/a")
    slow_one = asyncio.ensure_future(shop.ask("POST", "/slow"))
    await asyncio.wait_for(inside.wait(), WAIT)
    answers = await asyncio.gather(*(shop.ask("GET", "/cart") for _ in range(20)))
    assert answers == [(200, '["a"]')] * 20
    async with shop.browser.post("/add/b") as refused:
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
        assert refused.content_type == "application/problem+json"
    assert not slow_one.done()
    go_on.set()
    assert (await slow_one)[0] == 200


async def test_an_error_page_that_looks_into_the_session(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """After the lock was refused: it reads, waits no second time, and what it writes harms nothing."""

    @web.middleware
    async def pages(request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            answer: web.StreamResponse = await handler(request)
        except WaitTimedOut:
            session = await get_session(request)
            session["errors"] = session.get("errors", 0) + 1
            return web.Response(status=503, text=f"{session['cart']} {session['errors']}")
        return answer

    shop.app.middlewares.append(pages)
    await shop.start()
    await shop.ask("POST", "/add/a")
    async with shop.guard.session_lock(shop.sid or ""):
        assert await shop.ask("POST", "/add/b") == (503, "['a'] 1")
    assert await shop.stored() == {"cart": ["a"]}
    told = [record.getMessage() for record in caplog.records if "WaitTimedOut" in record.getMessage()]
    assert len(told) == 1
    assert told[0].startswith("POST /add/{item}: ")
    assert (shop.sid or "") not in told[0]


async def test_a_client_that_goes_away_leaves_the_queue(guard: SessionGuard) -> None:
    async with shop_on(guard, wait=30) as shop:
        await shop.start()
        await shop.ask("POST", "/add/a")
        assert shop.sid is not None
        async with guard.session_lock(shop.sid):
            waits = await shop.send("POST", "/add/b")
            await until(lambda: _waiters(shop, 1))
            waits.close()
            await until(lambda: _waiters(shop, 0))
        assert await shop.stored() == {"cart": ["a"]}


async def _waiters(shop: Shop, count: int) -> bool:
    return len((await shop.guard.inspect(shop.sid or "")).waiters) == count


async def test_streams_and_websockets_hold_no_lock(shop: Shop) -> None:
    @shop.on("POST", "/stream")
    async def stream(request: web.Request) -> web.StreamResponse:
        session = await get_session(request)
        session["n"] = 1
        before = await shop.held()
        response = web.StreamResponse()
        await response.prepare(request)
        session["n"] = 2  # stays here
        await response.write(f"{before} {await shop.held()} {session['n']}".encode())
        return response

    @shop.on("GET", "/socket")
    @locks_session
    async def socket(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        first = (await get_session(request)).sessionlock.lease is not None
        await answer.prepare(request)
        await answer.send_str(f"{first} {await shop.held()}")
        return answer

    @shop.on("POST", "/late")
    async def late(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        session = await get_session(request)
        await response.write(f"{session['cart']} {session.sessionlock.lease}".encode())
        return response

    await shop.start()
    assert await shop.ask("POST", "/add/a") == (200, '["a"]')
    assert await shop.ask("POST", "/stream") == (200, "True False 2")
    assert (await shop.stored())["n"] == 1
    assert await shop.ask("POST", "/late") == (200, "['a'] None")
    async with shop.browser.ws_connect("/socket") as socket_end:
        message = await socket_end.receive(timeout=WAIT)
        assert (message.type, message.data) == (WSMsgType.TEXT, "True False")


async def test_a_stream_gets_its_cookie(shop: Shop) -> None:
    @shop.on("POST", "/stream")
    async def stream(request: web.Request) -> web.StreamResponse:
        (await get_session(request))["n"] = 1
        response = web.StreamResponse()
        response.set_cookie("other", "1")
        await response.prepare(request)
        await response.write(b"x")
        return response

    await shop.start()
    await shop.ask("POST", "/stream")
    assert await shop.stored() == {"n": 1}


@pytest.mark.parametrize("streaming", [False, True])
async def test_a_clash_is_told(shop: Shop, streaming: bool) -> None:
    @shop.on("GET", "/clash")
    @session_policy(on_conflict="answer")
    async def clash(request: web.Request) -> web.StreamResponse:
        await shop.clashes(request)
        if not streaming:
            return web.Response(text="not seen")
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"not seen")
        return response

    await shop.start()
    await shop.ask("POST", "/add/a")
    status, text = await shop.ask("GET", "/clash")
    assert status == 409
    assert text.startswith("{")
    assert "not seen" not in text
    assert (await shop.ask("GET", "/cart"))[0] == 200


async def test_the_own_application_is_not_waited_for(shop: Shop) -> None:
    @shop.on("POST", "/self")
    async def own(request: web.Request) -> web.Response:
        await get_session(request)
        # Within this process and context, as an application's own call of its handler is.
        inner: Any = request.clone()
        match = await request.app.router.resolve(inner)
        middleware = shop.app.middlewares[0]
        match.add_app(shop.app)
        inner._match_info = match

        async def nested(again: web.Request) -> web.StreamResponse:
            await get_session(again)
            return web.Response(text="entered")

        inner._state = {}
        answer: Any = await middleware(inner, nested)
        return web.Response(text=str(answer.status))

    await shop.start()
    await shop.ask("POST", "/add/a")
    assert await shop.ask("POST", "/self") == (200, "409")


async def test_a_lost_lease_ends_the_handler(shop: Shop) -> None:
    ended: list[str] = []

    @shop.on("POST", "/lost")
    @locks_session(lease=LeasePolicy(ttl=0.1, renew=False))
    async def lost(request: web.Request) -> web.Response:
        (await get_session(request))["n"] = 1
        try:
            await asyncio.wait_for(asyncio.Event().wait(), WAIT)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return web.Response()

    await shop.start()
    await shop.ask("POST", "/add/a")
    assert (await shop.ask("POST", "/lost"))[0] == 409
    assert ended == ["cancelled"]
    assert await shop.stored() == {"cart": ["a"]}


async def test_locked_within_a_get(shop: Shop) -> None:
    @shop.on("GET", "/upgrade")
    async def upgrade(request: web.Request) -> web.Response:
        session = await get_session(request)
        before = session.sessionlock.lease
        async with locked_session(request) as locked:
            locked["cart"].append("b")
            inside = await shop.held()
        return web.Response(text=f"{before} {inside} {await shop.held()}")

    await shop.start()
    await shop.ask("POST", "/add/a")
    assert await shop.ask("GET", "/upgrade") == (200, "None True False")
    assert (await shop.stored())["cart"] == ["a", "b"]


async def test_regenerate_and_destroy(shop: Shop) -> None:
    @shop.on("POST", "/login")
    async def login(request: web.Request) -> web.Response:
        return web.Response(text=await (await get_session(request)).sessionlock.regenerate(grace=0))

    @shop.on("POST", "/logout")
    async def logout(request: web.Request) -> web.Response:
        (await get_session(request)).clear()
        return web.Response()

    await shop.start()
    await shop.ask("POST", "/add/a")
    old = shop.sid
    assert await shop.ask("POST", "/login") == (200, shop.sid)
    assert shop.sid != old
    assert await shop.ask("GET", "/cart") == (200, '["a"]')
    await shop.ask("POST", "/logout")
    assert shop.sid is None


@pytest.mark.parametrize("how", ["awaited", "forgotten", "in a thread"])
async def test_a_logout_is_one_however_it_is_called(shop: Shop, guard: SessionGuard, how: str) -> None:
    @shop.on("POST", "/logout")
    async def logout(request: web.Request) -> web.Response:
        core = (await get_session(request)).sessionlock
        if how == "awaited":
            await core.destroy()
        elif how == "forgotten":
            core.destroy()
        else:
            await asyncio.to_thread(core.destroy)
        return web.Response()

    await shop.start()
    await shop.ask("POST", "/add/a")
    sid = shop.sid or ""
    async with shop.browser.post("/logout") as answer:
        assert (answer.status, answer.cookies["session_id"]["max-age"]) == (200, "0")
    with pytest.raises(SessionNotFound):
        await guard.read(sid)


async def test_a_url_and_twice(redis_url: str) -> None:
    app = web.Application()
    setup(app, redis_url, cookie="shop")
    with pytest.raises(ConfigurationError, match="once"):
        setup(app, redis_url)
    app.router.add_post("/add/{item}", add)
    async with TestServer(app) as server, ClientSession(server.make_url("/")) as browser, browser.post("/add/a") as got:
        assert got.headers["Set-Cookie"].startswith("shop=")


async def test_without_setup(redis_url: str) -> None:
    app = web.Application()
    app.router.add_get("/cart", cart)
    async with TestServer(app) as server, ClientSession(server.make_url("/")) as browser, browser.get("/cart") as got:
        assert got.status == 500
