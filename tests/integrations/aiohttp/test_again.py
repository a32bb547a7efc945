"""aiohttp: a safe request that met a conflict runs once more, under the lock, and nobody sees that."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Any

import pytest
from aiohttp import WSMsgType, web

from sessionlock import SessionConflict, SessionGuard
from sessionlock.integrations.aiohttp import get_session, locked_session, session_policy
from sessionlock.integrations.web.rules import RoutePolicy
from tests.harness.aiohttp_calls import WAIT, Shop, shop_on

pytestmark = pytest.mark.anyio
in_context: ContextVar[str] = ContextVar("in_context", default="nothing")


class Count:
    """Counts in the session; while it runs for the first time, somebody else counts, too."""

    def __init__(self, shop: Shop, clashes: int = 1) -> None:
        self.shop = shop
        self.left = clashes
        self.runs = 0

    async def __call__(self, request: web.Request) -> int:
        self.runs += 1
        session = await get_session(request)
        n = session.get("n", 0)
        if self.left:
            self.left -= 1
            async with self.shop.guard.session_lock(self.shop.sid or "") as other:
                other["n"] = other.get("n", 0) + 10
        session["n"] = n + 1
        return self.runs

    async def stored(self) -> Any:
        return (await self.shop.stored())["n"]


@pytest.fixture
async def count(shop: Shop) -> Count:
    return Count(shop)


async def begin(shop: Shop) -> None:
    await shop.start()
    assert (await shop.ask("POST", "/add/a"))[0] == 200


async def test_it_runs_again(shop: Shop, count: Count) -> None:
    @shop.on("GET", "/count")
    async def counts(request: web.Request) -> web.Response:
        return web.json_response(await count(request))

    await begin(shop)
    assert await shop.ask("GET", "/count") == (200, "2")
    assert await count.stored() == 11
    count.left = 1  # its route takes the lock at once now: nobody gets between
    slow = shop.guard.session_lock(shop.sid or "", wait=WAIT)
    async with slow:
        asking = asyncio.create_task(shop.ask("GET", "/count"))
        await asyncio.sleep(0)
        count.left = 0
    assert await asking == (200, "3")
    assert await count.stored() == 12


@pytest.mark.parametrize("number", [20])
@pytest.mark.parametrize("what", ["counts", "appends"])
async def test_twenty_at_once(shop: Shop, what: str, number: int) -> None:
    barrier = asyncio.Barrier(number) if hasattr(asyncio, "Barrier") else None
    waits = number

    @shop.on("GET", "/write")
    async def write(request: web.Request) -> web.Response:
        nonlocal waits
        session = await get_session(request)
        if waits and barrier is not None:
            waits -= 1
            await barrier.wait()  # all have read before one writes
        if what == "counts":
            session["n"] = session.get("n", 0) + 1
        else:
            session["all"] = [*session.get("all", []), request.query["n"]]
        return web.Response()

    await begin(shop)
    answers = await asyncio.gather(*(shop.ask("GET", f"/write?n={n}") for n in range(number)))
    assert {status for status, _ in answers} == {200}
    stored = await shop.stored()
    assert stored.get("n", number) == number
    assert sorted(stored.get("all", map(str, range(number))), key=int) == [str(n) for n in range(number)]


async def test_the_request_is_as_it_came(shop: Shop, count: Count) -> None:
    """Its state, match, context and body, whatever the first run did with them; middlewares run again, too."""
    seen: list[Any] = []

    @web.middleware
    async def user(request: web.Request, handler: Any) -> web.StreamResponse:
        assert "user" not in request._state
        request._state["user"] = f"user {request.match_info.get('id')}"
        response: web.StreamResponse = await handler(request)
        response.headers["X-Inner"] = "yes"
        return response

    @shop.on("GET", "/item/{id}")
    async def item(request: web.Request) -> web.Response:
        seen.append((request.match_info["id"], await request.text(), in_context.get(), request._state["user"]))
        request.match_info["id"] = "changed"
        in_context.set("changed")
        return web.json_response(await count(request))

    shop.app.middlewares.append(user)
    await begin(shop)
    async with shop.browser.get("/item/7", data=b"a body") as answer:
        assert (answer.status, await answer.text()) == (200, "2")
        assert answer.headers.getall("X-Inner") == ["yes"]
    assert seen == [("7", "a body", "nothing", "user 7")] * 2
    assert await count.stored() == 11


@pytest.mark.parametrize("how", ["redirect", "stream", "compressed", "template", "file", "head"])
async def test_whatever_the_answer_is(shop: Shop, count: Count, how: str, tmp_path: Any) -> None:
    await shop.start()
    (tmp_path / "file").write_bytes(b"2")

    async def handler(request: web.Request) -> web.StreamResponse:
        runs = str(await count(request))
        if how == "redirect":
            raise web.HTTPFound(f"/cart?{runs}")
        if how in ("stream", "compressed"):
            response = web.StreamResponse()
            if how == "compressed":
                response.enable_compression(web.ContentCoding.gzip)
            response.set_cookie("own", runs)
            await response.prepare(request)
            await response.write(runs.encode())
            await response.write_eof()
            return response
        if how == "file":
            return web.FileResponse(tmp_path / "file")
        return web.Response(text=runs, headers={"X-Runs": runs})

    method = "HEAD" if how == "head" else "GET"
    async with shop_on(shop.guard, wait=WAIT) as other:
        other.on(method, "/any")(handler)
        count.shop = other
        await begin(other)
        async with other.browser.request(method, "/any", allow_redirects=False) as answer:
            told, body = answer.headers, await answer.text()
        assert await count.stored() == 11
    if how == "redirect":
        assert (answer.status, told["Location"]) == (302, "/cart?2")
    elif how == "head":
        assert (answer.status, told["X-Runs"], body) == (200, "2", "")
    else:
        assert (answer.status, body) == (200, "2")
    if how in ("stream", "compressed"):
        assert [cookie for cookie in told.getall("Set-Cookie") if "own" in cookie] == ["own=2; Path=/"]


async def test_a_first_run_that_will_not_end(shop: Shop, count: Count, caplog: pytest.LogCaptureFixture) -> None:
    """It swallows everything and writes on: nothing of that reaches the client."""
    ended: list[str] = []

    @shop.on("GET", "/stubborn")
    async def stubborn(request: web.Request) -> web.StreamResponse:
        runs = await count(request)
        response = web.StreamResponse()
        try:
            await response.prepare(request)
        except BaseException as error:
            ended.append(type(error).__name__)
        try:
            await response.write(b"from run %d" % runs)
        except ConnectionError:
            ended.append("nothing to write to")
        return response

    await begin(shop)
    assert await shop.ask("GET", "/stubborn") == (200, "from run 2")
    assert ended == ["RunAgain", "nothing to write to"]
    assert await count.stored() == 11


async def test_a_middleware_that_hands_on_a_clone(shop: Shop, count: Count) -> None:
    """aiohttp clones only what was not read; the second run begins with what was not."""

    @web.middleware
    async def clones(request: web.Request, handler: Any) -> web.StreamResponse:
        inner = request.clone(rel_url=request.rel_url.with_query(seen="1"))
        assert await request.read() == (b"body" if request.method == "GET" else b"")
        answer: web.StreamResponse = await handler(inner)
        return answer

    @shop.on("GET", "/count")
    async def counts(request: web.Request) -> web.Response:
        return web.json_response([await count(request), request.query["seen"]])

    shop.app.middlewares.append(clones)
    await begin(shop)
    assert await shop.ask("GET", "/count", data=b"body") == (200, '[2, "1"]')
    assert await count.stored() == 11


@pytest.mark.parametrize("ends", ["returns", "raises"])
async def test_an_answer_that_was_refused_stays_refused(shop: Shop, count: Count, ends: str) -> None:
    """The handler goes on as if its stream had begun."""

    @shop.on("GET", "/stubborn")
    @session_policy(on_conflict="answer")
    async def stubborn(request: web.Request) -> web.StreamResponse:
        await count(request)
        response = web.StreamResponse()
        try:
            await response.prepare(request)
        except SessionConflict:
            if ends == "raises":
                raise ZeroDivisionError from None
        return response

    await begin(shop)
    assert (await shop.ask("GET", "/stubborn"))[0] == 409
    assert await count.stored() == 10


async def test_a_conflict_that_the_handler_sees(shop: Shop, count: Count) -> None:
    """It saves by itself and lets the error go, or makes a 500 of it: that is no answer yet."""

    @shop.on("GET", "/saves")
    async def saves(request: web.Request) -> web.Response:
        runs = await count(request)
        await (await get_session(request)).sessionlock.save()
        return web.json_response(runs)

    @shop.on("GET", "/own")
    async def own(request: web.Request) -> web.Response:
        runs = await count(request)
        try:
            await (await get_session(request)).sessionlock.save()
        except SessionConflict:
            return web.Response(status=500)
        return web.json_response(runs)

    await begin(shop)
    for path, stored in (("/saves", 11), ("/own", 22)):
        count.left, count.runs = 1, 0
        assert await shop.ask("GET", path) == (200, "2")
        assert await count.stored() == stored


async def test_a_websocket_runs_again_before_it_begins(shop: Shop, count: Count) -> None:
    @shop.on("GET", "/socket")
    async def socket(request: web.Request) -> web.WebSocketResponse:
        runs = await count(request)
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        await answer.send_str(str(runs))
        return answer

    await begin(shop)
    async with shop.browser.ws_connect("/socket") as end:
        message = await end.receive(timeout=WAIT)
        assert (message.type, message.data) == (WSMsgType.TEXT, "2")
    assert await count.stored() == 11


async def test_a_body_that_is_too_long_to_be_kept(shop: Shop, count: Count) -> None:
    @shop.on("GET", "/count")
    async def counts(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response(await count(request))

    await begin(shop)
    assert (await shop.ask("GET", "/count", data=b"x" * 100_000))[0] == 409
    assert count.runs == 1
    assert await count.stored() == 10


@pytest.mark.parametrize("told", ["decorator", "route", "all"])
async def test_it_can_be_turned_off(guard: SessionGuard, told: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "decorator": {},
        "route": {"routes": {"/count": RoutePolicy(on_conflict="answer")}},
        "all": {"on_conflict": "answer"},
    }
    async with shop_on(guard, wait=WAIT, **options[told]) as shop:
        count = Count(shop)

        async def counts(request: web.Request) -> web.Response:
            return web.json_response(await count(request))

        shop.on("GET", "/count")(session_policy(on_conflict="answer")(counts) if told == "decorator" else counts)
        await begin(shop)
        assert (await shop.ask("GET", "/count"))[0] == 409
        assert count.runs == 1


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_lock_taken_within_a_safe_request(shop: Shop, count: Count, size: int) -> None:
    """What was changed before it meets a conflict there: as at the end."""

    @shop.on("GET", "/upgrade")
    async def upgrade(request: web.Request) -> web.Response:
        body = await request.read()
        runs = await count(request)
        async with locked_session(request) as session:
            session["n"] += 1
        return web.json_response([runs, len(body)])

    await begin(shop)
    told = await shop.ask("GET", "/upgrade", data=b"x" * size)
    if size < 1000:
        assert told == (200, f"[2, {size}]")
        assert await count.stored() == 12
    else:
        assert told[0] == 409
        assert await count.stored() == 10
