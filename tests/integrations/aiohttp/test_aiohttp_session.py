"""aiohttp-session over a locked session: the package's own conventions, kept."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp_session
import pytest
from aiohttp import WSMsgType, web

from sessionlock import ConfigurationError, SessionGuard, SessionNotFound
from sessionlock.integrations.aiohttp import middleware as ours
from sessionlock.integrations.aiohttp_session import SessionLockStorage, setup
from sessionlock.protocol.keys import keys_for
from tests.harness.aiohttp_calls import WAIT, Shop, shop_on
from tests.harness.commands import aged, connect

# The package itself still uses strings where aiohttp 3.14 wants keys.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")]


@pytest.fixture
def shop(shop: Shop) -> Shop:
    aiohttp_session.setup(shop.app, SessionLockStorage())
    return shop


def lives(url: str, guard: SessionGuard, sid: str) -> float:
    """Seconds until its record ends."""
    with connect(url) as client:
        left: int = client.pttl(keys_for(guard.prefix, sid).session)
        return left / 1000


async def put(request: web.Request) -> web.Response:
    session = await aiohttp_session.get_session(request)
    session.update(request.query)
    return web.json_response(dict(session))


async def show(request: web.Request) -> web.Response:
    return web.json_response(dict(await aiohttp_session.get_session(request)))


async def test_as_ever(shop: Shop) -> None:
    seen: list[tuple[Any, ...]] = []

    async def count(request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        seen.append((session.new, session.identity, session.empty, await shop.held() if shop.sid else False))
        session["n"] = session.get("n", 0) + 1
        session.setdefault("deep", []).append(session["n"])
        return web.json_response([session["n"], session["deep"], session.created > 1_600_000_000])

    async def login(request: web.Request) -> web.Response:
        session = await aiohttp_session.new_session(request)
        session["user"] = "eve"
        return web.Response()

    async def logout(request: web.Request) -> web.Response:
        (await aiohttp_session.get_session(request)).invalidate()
        return web.Response()

    async def fail(request: web.Request) -> web.Response:
        (await aiohttp_session.get_session(request))["n"] = "bad"
        raise ZeroDivisionError

    for handler in (count, login, logout, fail):
        shop.on("POST", f"/{handler.__name__}")(handler)
    await shop.start()
    assert await shop.ask("POST", "/count") == (200, "[1, [1], true]")
    first = shop.sid
    assert await shop.ask("POST", "/count") == (200, "[2, [1, 2], true]")
    assert seen == [(True, None, True, False), (False, first, False, True)]
    assert (await shop.ask("POST", "/fail"))[0] == 500
    assert not await shop.held()
    await shop.ask("POST", "/login")
    assert shop.sid != first
    assert await shop.stored() == {"user": "eve"}
    await shop.ask("POST", "/logout")
    assert shop.sid is None


async def test_in_parallel(guard: SessionGuard) -> None:
    async def count(request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        before = session.get("n", 0)
        await asyncio.sleep(0)
        session["n"] = before + 1
        return web.Response()

    async with shop_on(guard, wait=WAIT) as shop:
        aiohttp_session.setup(shop.app, SessionLockStorage())
        shop.on("POST", "/count")(count)
        await shop.start()
        await shop.ask("POST", "/count")
        await asyncio.gather(*(shop.ask("POST", "/count") for _ in range(19)))
        assert await shop.stored() == {"n": 20}


# --- one call, its options


async def test_one_call_and_the_package_s_options(guard: SessionGuard, redis_url: str) -> None:
    app = web.Application()
    storage = SessionLockStorage(cookie_name="visit", max_age=3600, path="/in", domain="127.0.0.1", samesite="Strict")
    setup(app, storage, guard, wait=WAIT)
    app.router.add_post("/in/put", put)
    shop = Shop(guard, app)
    await shop.start()
    try:
        async with shop.browser.post("/in/put?a=1") as answer:
            cookie = answer.cookies["visit"]
            assert answer.status == 200
        told = (cookie["max-age"], cookie["path"], cookie["domain"], cookie["samesite"], cookie["httponly"])
        assert told == ("3600", "/in", "127.0.0.1", "Strict", True)
        assert not cookie["secure"]
        assert 3595 < lives(redis_url, guard, cookie.value) <= 3600
        assert storage.cookie_name == "visit"
    finally:
        await shop.browser.close()
        await shop.server.close()


@pytest.mark.parametrize(
    "options",
    [{"max_age": 0}, {"samesite": "none"}, {"samesite": "Lux"}, {"path": "in"}, {"cookie_name": "two words"}],
)
def test_an_option_that_makes_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        SessionLockStorage(**options)


async def test_two_cookies_that_differ(guard: SessionGuard) -> None:
    with pytest.raises(ConfigurationError, match="different things"):
        setup(web.Application(), SessionLockStorage(cookie_name="a"), guard, cookie="b")
    app = web.Application()
    ours.setup(app, guard, cookie="b")
    aiohttp_session.setup(app, SessionLockStorage(cookie_name="a"))
    await cannot_start(app, "different things")


async def test_two_storages_that_differ(guard: SessionGuard) -> None:
    app = web.Application()
    setup(app, SessionLockStorage(max_age=10), guard)
    aiohttp_session.setup(app, SessionLockStorage(max_age=20))
    await cannot_start(app, "two SessionLockStorages")


async def cannot_start(app: web.Application, why: str) -> None:
    runner = web.AppRunner(app)
    with pytest.raises(ConfigurationError, match=why):
        await runner.setup()
    await runner.cleanup()


async def test_encoder_and_decoder(guard: SessionGuard) -> None:
    """They are asked for what the codec cannot keep."""

    def encoder(value: object) -> str:
        return json.dumps(value, default=lambda odd: {"complex": [odd.real, odd.imag]})

    def hook(found: dict[str, Any]) -> Any:
        return complex(*found["complex"]) if "complex" in found else found

    def decoder(text: str) -> Any:
        return json.loads(text, object_hook=hook)

    class Odd(dict[str, Any]):
        pass

    async with shop_on(guard, wait=WAIT) as shop:
        aiohttp_session.setup(shop.app, SessionLockStorage(encoder=encoder, decoder=decoder))

        @shop.on("POST", "/odd")
        async def odd(request: web.Request) -> web.Response:
            session = await aiohttp_session.get_session(request)
            session["z"] = {"at": 1 + 2j}
            session["token"] = Odd(a=1)
            return web.Response()

        @shop.on("GET", "/odd")
        async def look(request: web.Request) -> web.Response:
            session = await aiohttp_session.get_session(request)
            return web.Response(text=f"{session['z']} {session['token']}")

        await shop.start()
        assert (await shop.ask("POST", "/odd"))[0] == 200
        assert await shop.ask("GET", "/odd") == (200, "{'at': (1+2j)} {'a': 1}")


# --- lifetimes


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_lifetime_of_one_session(shop: Shop, guard: SessionGuard, redis_url: str, method: str) -> None:
    """Record and cookie, and it stays: a later look does not make days of it."""

    @shop.on(method, "/brief")
    async def brief(request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        session.max_age = 10
        session["a"] = 1
        assert session.max_age == 10
        return web.json_response(dict(session))

    @shop.on("POST", "/longer")
    async def longer(request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        assert session.max_age == 10
        session.max_age = None
        return web.json_response(len(session))

    shop.on("GET", "/show")(show)
    await shop.start()
    async with shop.browser.request(method, "/brief") as answer:
        assert answer.cookies["session_id"]["max-age"] == "10"
        assert await answer.json() == {"a": 1}
    assert 9 < lives(redis_url, guard, shop.sid or "") <= 10
    async with shop.browser.get("/show") as answer:
        assert answer.cookies["session_id"]["max-age"] == "10"
        assert await answer.json() == {"a": 1}
    assert 9 < lives(redis_url, guard, shop.sid or "") <= 10
    async with shop.browser.post("/longer") as answer:
        assert answer.cookies["session_id"]["max-age"] == ""
        assert await answer.json() == 1
    assert lives(redis_url, guard, shop.sid or "") > 1000


async def test_who_only_follows_links_stays(guard: SessionGuard, redis_url: str) -> None:
    async with shop_on(guard, wait=WAIT) as shop:
        aiohttp_session.setup(shop.app, SessionLockStorage(cookie_name="session_id", max_age=100))
        shop.on("POST", "/put")(put)
        shop.on("GET", "/show")(show)
        await shop.start()
        await shop.ask("POST", "/put?a=1")
        with connect(redis_url) as client:
            aged(client, keys_for(guard.prefix, shop.sid or "").session, 20_000)
        async with shop.browser.get("/show") as answer:
            assert answer.cookies["session_id"]["max-age"] == "100"
        assert lives(redis_url, guard, shop.sid or "") > 90


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_saved_lives_for_its_max_age(guard: SessionGuard, redis_url: str, method: str) -> None:
    """Even if more than half of it was left."""
    async with shop_on(guard, wait=WAIT) as shop:
        aiohttp_session.setup(shop.app, SessionLockStorage(cookie_name="session_id", max_age=100))
        shop.on(method, "/put")(put)
        await shop.start()
        await shop.ask(method, "/put?a=1")
        with connect(redis_url) as client:
            aged(client, keys_for(guard.prefix, shop.sid or "").session, 80_000)
        async with shop.browser.request(method, "/put?a=2") as answer:
            assert answer.cookies["session_id"]["max-age"] == "100"
        assert lives(redis_url, guard, shop.sid or "") > 90


async def test_a_lifetime_that_makes_no_sense(shop: Shop) -> None:
    @shop.on("POST", "/zero")
    async def zero(request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        with pytest.raises(ValueError, match="above 0"):
            session.max_age = 0
        with pytest.raises(ConfigurationError, match="makes the ids"):
            session.set_new_identity("mine")
        return web.Response()

    await shop.start()
    assert (await shop.ask("POST", "/zero"))[0] == 200


# --- ends and beginnings


@pytest.mark.parametrize("how", ["invalidate", "clear", "pop", "pop with an age", "invalidate with an age"])
async def test_emptied_by_its_user(shop: Shop, guard: SessionGuard, how: str) -> None:
    @shop.on("POST", "/out")
    async def out(request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        if how == "clear":
            session.clear()
        elif how.startswith("pop"):
            session.pop("a")
        else:
            session.invalidate()
            if how != "invalidate":
                session.max_age = 10
        assert session.empty
        assert dict(session) == {}
        return web.Response()

    @shop.on("POST", "/begin")
    async def begin(request: web.Request) -> web.Response:
        session = await aiohttp_session.get_session(request)
        session["a"] = 1
        if "age" in how:
            session.max_age = 10
        return web.Response()

    await shop.start()
    await shop.ask("POST", "/begin")
    sid = shop.sid or ""
    async with shop.browser.post("/out") as answer:
        assert answer.cookies["session_id"]["max-age"] == "0"
    with pytest.raises(SessionNotFound):
        await guard.read(sid)


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("answers", ["whole", "stream"])
async def test_new_session(shop: Shop, guard: SessionGuard, method: str, answers: str) -> None:
    """The old id works no more; nothing of its content is left; nothing is sent of it before that is true."""

    @shop.on(method, "/login")
    async def login(request: web.Request) -> web.StreamResponse:
        session = await aiohttp_session.new_session(request)
        assert session.new
        session["user"] = "eve"
        if answers == "whole":
            return web.Response()
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write_eof()
        return response

    @shop.on("POST", "/nothing")
    async def nothing(request: web.Request) -> web.Response:
        await aiohttp_session.new_session(request)
        return web.Response()

    shop.on("POST", "/put")(put)
    await shop.start()
    await shop.ask("POST", "/put?a=1")
    planted = shop.sid
    await shop.ask("POST", "/nothing")
    assert shop.sid == planted
    assert await shop.stored() == {"a": "1"}
    assert (await shop.ask(method, "/login"))[0] == 200
    assert shop.sid not in (None, planted)
    assert await shop.stored() == {"user": "eve"}
    assert (await shop.ask("POST", "/put?b=2", cookies={"session_id": planted or ""}))[0] == 409
    assert await shop.stored() == {"user": "eve"}


async def test_a_login_by_a_key(shop: Shop) -> None:
    shop.on("POST", "/put")(put)
    await shop.start()
    await shop.ask("POST", "/put?a=1")
    planted = shop.sid
    await shop.ask("POST", "/put?user_id=7")
    assert shop.sid not in (None, planted)


async def test_streams_and_sockets(shop: Shop) -> None:
    """Kept where the package keeps nothing; what comes later harms nobody."""

    @shop.on("GET", "/stream")
    async def stream(request: web.Request) -> web.StreamResponse:
        session = await aiohttp_session.get_session(request)
        session["n"] = 1
        response = web.StreamResponse()
        await response.prepare(request)
        session["n"] = 2
        session.pop("n")
        await response.write(b"whole")
        return response

    @shop.on("GET", "/socket")
    async def socket(request: web.Request) -> web.WebSocketResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        session = await aiohttp_session.get_session(request)
        session["seen"] = 1
        await answer.send_json(dict(session))
        return answer

    await shop.start()
    assert await shop.ask("GET", "/stream") == (200, "whole")
    assert await shop.stored() == {"n": 1}
    async with shop.browser.ws_connect("/socket") as end:
        message = await end.receive(timeout=WAIT)
        assert (message.type, json.loads(message.data)) == (WSMsgType.TEXT, {"n": 1, "seen": 1})
    assert await shop.stored() == {"n": 1}


# --- what is not ours


async def test_an_inner_application_with_sessions_of_its_own(shop: Shop) -> None:
    inner = web.Application()
    aiohttp_session.setup(inner, aiohttp_session.SimpleCookieStorage(cookie_name="ADMIN"))
    inner.router.add_post("/put", put)
    shop.app.add_subapp("/admin", inner)
    shop.on("POST", "/put")(put)
    await shop.start()
    await shop.ask("POST", "/put?a=1")
    before = shop.sid
    assert await shop.ask("POST", "/admin/put?inner=1") == (200, '{"inner": "1"}')
    assert shop.sid == before
    assert await shop.stored() == {"a": "1"}


async def test_another_storage_is_named(guard: SessionGuard, caplog: pytest.LogCaptureFixture) -> None:
    async with shop_on(guard) as shop:
        aiohttp_session.setup(shop.app, aiohttp_session.SimpleCookieStorage())
        await shop.start()
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "SimpleCookieStorage" in errors[0]
    assert "SessionLockStorage" in errors[0]


async def test_the_wrong_order(guard: SessionGuard) -> None:
    app = web.Application()
    ours.setup(app, guard)
    app.middlewares.insert(0, aiohttp_session.session_middleware(SessionLockStorage()))
    await cannot_start(app, "outside")


async def test_without_ours(guard: SessionGuard, caplog: pytest.LogCaptureFixture) -> None:
    app = web.Application()
    aiohttp_session.setup(app, SessionLockStorage())
    app.router.add_get("/show", show)
    shop = Shop(guard, app)
    await shop.start()
    try:
        assert (await shop.ask("GET", "/show"))[0] == 500
        assert "sessionlock.integrations.aiohttp_session.setup(app, storage, guard)" in caplog.text
    finally:
        await shop.browser.close()
        await shop.server.close()
