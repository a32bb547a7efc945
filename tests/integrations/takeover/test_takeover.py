"""Visitors have sessions already: they are taken over from the layer that kept them, and nobody is logged out."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import pickle
import random
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import flask
import httpx
import pytest
import redis.asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp_session import get_session
from aiohttp_session import setup as aiohttp_session_setup
from aiohttp_session.redis_storage import RedisStorage
from flask_session import Session as FlaskSessionExtension
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as CookieMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starsessions import SessionAutoloadMiddleware
from starsessions import SessionMiddleware as StarsessionsMiddleware
from starsessions.stores.redis import RedisStore

from sessionlock import SessionGuard, SessionNotFound
from sessionlock.codecs import FernetCodec, default_codec
from sessionlock.embedded import EmbeddedServer
from sessionlock.integrations.asgi import SessionLockMiddleware
from sessionlock.integrations.takeover.cookies import StarletteCookie
from sessionlock.integrations.takeover.origins import AiohttpSession, ConnectRedis, FlaskSession, Starsessions
from sessionlock.integrations.takeover.taking import Origin

pytestmark = pytest.mark.anyio
SECRET = "of the old layer"


@pytest.fixture(scope="module")
def old_server() -> Iterator[str]:
    """Where the old sessions are: a Redis of their own."""
    with EmbeddedServer(tcp=True) as server:
        yield server.tcp_url


@pytest.fixture
async def old_redis(old_server: str) -> AsyncIterator[Any]:
    client = redis.asyncio.Redis.from_pool(redis.asyncio.BlockingConnectionPool.from_url(old_server))
    await client.flushall()
    yield client
    await client.aclose()


# --- the application, the same on old nodes and new ones


async def show(request: Request) -> Response:
    return JSONResponse({key: value for key, value in request.session.items() if key != "__metadata__"})


async def add(request: Request) -> Response:
    item = request.query_params["item"]
    request.session["cart"] = [*request.session.get("cart", []), item]
    return await show(request)


async def login(request: Request) -> Response:
    request.session["user_id"] = request.query_params["user"]
    return await show(request)


async def logout(request: Request) -> Response:
    request.session.clear()
    return Response()


ROUTES = [
    Route("/", show),
    Route("/add", add, methods=["POST"]),
    Route("/login", login, methods=["POST"]),
    Route("/logout", logout, methods=["POST"]),
]


def on_starsessions(store: Any) -> Starlette:
    layer = Middleware(StarsessionsMiddleware, store=RedisStore(connection=store), cookie_https_only=False)
    return Starlette(routes=ROUTES, middleware=[layer, Middleware(SessionAutoloadMiddleware)])


def on_cookies() -> Starlette:
    return Starlette(routes=ROUTES, middleware=[Middleware(CookieMiddleware, secret_key=SECRET)])


_origins: list[Origin] = []


@pytest.fixture(autouse=True)
async def closing_origins() -> AsyncIterator[None]:
    yield
    while _origins:
        await _origins.pop().aclose()


def on_ours(guard: SessionGuard, origin: Origin, cookie: str = "session") -> Starlette:
    _origins.append(origin)
    layer = Middleware(SessionLockMiddleware, guard=guard, cookie=cookie, read_from=origin)
    return Starlette(routes=ROUTES, middleware=[layer])


class Visitor:
    """One browser, whose cookies go to whichever node it is sent."""

    def __init__(self) -> None:
        self.cookies = httpx.Cookies()

    async def ask(self, app: Starlette, path: str, method: str = "POST") -> Any:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop.test", cookies=self.cookies) as client:
            answer = await client.request(method, path)
            self.cookies = client.cookies
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    async def seen(self, app: Starlette) -> Any:
        return await self.ask(app, "/", "GET")


# --- taken over, from each layer


async def test_from_starsessions(guard: SessionGuard, old_redis: Any, old_server: str) -> None:
    old, new = on_starsessions(old_redis), on_ours(guard, Starsessions(old_server))
    visitor = Visitor()
    await visitor.ask(old, "/login?user=ada")
    await visitor.ask(old, "/add?item=A")
    assert await visitor.seen(new) == {"user_id": "ada", "cart": ["A"]}
    assert await visitor.ask(new, "/add?item=B") == {"user_id": "ada", "cart": ["A", "B"]}


async def test_from_a_cookie_of_starlette(guard: SessionGuard) -> None:
    old, new = on_cookies(), on_ours(guard, StarletteCookie(SECRET), cookie="session_id")
    visitor = Visitor()
    await visitor.ask(old, "/login?user=ada")
    assert await visitor.seen(new) == {"user_id": "ada"}
    assert await visitor.ask(new, "/add?item=B") == {"user_id": "ada", "cart": ["B"]}
    assert len(visitor.cookies["session_id"]) == 32


async def test_a_cookie_that_somebody_forged_is_nobody(guard: SessionGuard) -> None:
    forged = Starlette(routes=ROUTES, middleware=[Middleware(CookieMiddleware, secret_key="another")])
    visitor = Visitor()
    await visitor.ask(forged, "/login?user=ada")
    assert await visitor.seen(on_ours(guard, StarletteCookie(SECRET), cookie="session_id")) == {}


@pytest.mark.parametrize("serialization", ["msgpack", "json"])
async def test_from_flask_session(guard: SessionGuard, old_redis: Any, old_server: str, serialization: str) -> None:
    sid = await asyncio.to_thread(_flask_login, old_server, serialization)
    visitor = Visitor()
    visitor.cookies.set("session", sid, domain="shop.test")
    new = on_ours(guard, FlaskSession(old_server))
    assert await visitor.seen(new) == {"user_id": "ada", "cart": ["A"], "_permanent": True}


def _flask_login(url: str, serialization: str) -> str:
    import redis as blocking

    app = flask.Flask("old")
    with blocking.Redis.from_url(url) as client, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        app.config.update(
            SESSION_TYPE="redis", SESSION_REDIS=client, SECRET_KEY=SECRET, SESSION_SERIALIZATION_FORMAT=serialization
        )
        FlaskSessionExtension(app)

        @app.post("/login")
        def login() -> str:
            flask.session.update(user_id="ada", cart=["A"])
            return ""

        browser = app.test_client()
        browser.post("/login")
        cookie = browser.get_cookie("session")
    assert cookie is not None
    return str(cookie.value)


class Runs:
    """What unpickling could do."""

    def __reduce__(self) -> Any:
        return (list, ((1, 2),))


async def test_pickles_only_by_choice(guard: SessionGuard, old_redis: Any, old_server: str) -> None:
    await old_redis.set("session:abc", pickle.dumps({"user_id": "ada", "x": Runs()}))
    visitor = Visitor()
    visitor.cookies.set("session", "abc", domain="shop.test")
    with pytest.raises(Exception, match="pickle=True"):
        await visitor.seen(on_ours(guard, FlaskSession(old_server)))
    assert await visitor.seen(on_ours(guard, FlaskSession(old_server, pickle=True))) == {"user_id": "ada", "x": [1, 2]}


@pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")  # that package's keys are plain strings
async def test_from_aiohttp_session(guard: SessionGuard, old_redis: Any, old_server: str) -> None:
    async def log_in(request: web.Request) -> web.Response:
        (await get_session(request))["user_id"] = "ada"
        return web.Response()

    app = web.Application()
    aiohttp_session_setup(app, RedisStorage(old_redis))
    app.router.add_post("/login", log_in)
    async with TestClient(TestServer(app)) as client:
        answer = await client.post("/login")
        assert answer.status == 200, await answer.text()
        cookie = answer.cookies["AIOHTTP_SESSION"].value
    visitor = Visitor()
    visitor.cookies.set("AIOHTTP_SESSION", cookie, domain="shop.test")
    new = on_ours(guard, AiohttpSession(old_server), cookie="AIOHTTP_SESSION")
    assert await visitor.seen(new) == {"user_id": "ada"}


async def test_from_connect_redis(guard: SessionGuard, old_redis: Any, old_server: str) -> None:
    session = {"cookie": {"originalMaxAge": 86_400_000, "path": "/"}, "passport": {"user": 7}}
    await old_redis.set("sess:abc", json.dumps(session), ex=86_400)
    signature = base64.b64encode(hmac.new(SECRET.encode(), b"abc", hashlib.sha256).digest()).decode().rstrip("=")
    for value, want in ((f"s%3Aabc.{signature}", {"passport": {"user": 7}}), ("s%3Aabc.forged", {}), ("abc", {})):
        visitor = Visitor()
        visitor.cookies.set("connect.sid", value, domain="shop.test")
        new = on_ours(guard, ConnectRedis(old_server, secret=["rotated", SECRET]), cookie="connect.sid")
        assert await visitor.seen(new) == want


# --- once


async def test_two_nodes_at_once_take_it_over_once(
    guard: SessionGuard, redis_url: str, old_redis: Any, old_server: str
) -> None:
    old = on_starsessions(old_redis)
    async with SessionGuard.from_url(redis_url) as other:
        nodes = [on_ours(guard, Starsessions(old_server)), on_ours(other, Starsessions(old_server))]
        visitor = Visitor()
        await visitor.ask(old, "/add?item=old")
        tabs = [Visitor() for _ in range(20)]
        for tab in tabs:
            tab.cookies = httpx.Cookies(visitor.cookies)
        await asyncio.gather(*(tab.ask(nodes[n % 2], f"/add?item={n}") for n, tab in enumerate(tabs)))
        seen = await visitor.seen(nodes[0])
    assert seen["cart"][0] == "old"
    assert sorted(seen["cart"][1:], key=int) == [str(n) for n in range(20)]


async def test_a_logout_is_not_undone_by_the_old_session(guard: SessionGuard, old_redis: Any, old_server: str) -> None:
    for old, origin, cookie in (
        (on_starsessions(old_redis), Starsessions(old_server), "session"),
        (on_cookies(), StarletteCookie(SECRET), "session_id"),
    ):
        new, visitor = on_ours(guard, origin, cookie), Visitor()
        await visitor.ask(old, "/login?user=ada")
        replayed = httpx.Cookies(visitor.cookies)
        assert await visitor.seen(new) == {"user_id": "ada"}
        await visitor.ask(new, "/logout")
        assert await visitor.seen(new) == {}
        visitor.cookies = replayed
        assert await visitor.seen(new) == {}, "the very cookie of before"
        await _forget_tombstones(guard)
        visitor.cookies = httpx.Cookies(replayed)
        assert await visitor.seen(new) == {}, "also once the tombstone is gone"


async def _forget_tombstones(guard: SessionGuard) -> None:
    async for key in guard._client.scan_iter("sl:{*}:session"):
        await guard._client.delete(key)


async def test_all_requests_of_a_page_that_come_with_the_old_cookie(guard: SessionGuard) -> None:
    """The browser has no other yet, and each of them finds who is logged in."""
    old, new = on_cookies(), on_ours(guard, StarletteCookie(SECRET), cookie="session_id")
    visitor = Visitor()
    await visitor.ask(old, "/login?user=ada")
    for number in range(4):
        tab = Visitor()
        tab.cookies = httpx.Cookies(visitor.cookies)
        seen = await tab.ask(new, f"/add?item={number}")
        assert seen == {"user_id": "ada", "cart": [str(n) for n in range(number + 1)]}


async def test_two_strangers_whose_cookies_are_equal_share_nothing(guard: SessionGuard) -> None:
    old, new = on_cookies(), on_ours(guard, StarletteCookie(SECRET), cookie="session_id")
    first, second = Visitor(), Visitor()
    await first.ask(old, "/add?item=A")
    second.cookies = httpx.Cookies(first.cookies)
    assert (await first.ask(new, "/add?item=mine"))["cart"] == ["A", "mine"]
    assert (await second.ask(new, "/add?item=other"))["cart"] == ["A", "other"]
    assert (await first.seen(new))["cart"] == ["A", "mine"]


async def test_an_unknown_cookie_begins_nothing(guard: SessionGuard, old_redis: Any, old_server: str) -> None:
    visitor = Visitor()
    visitor.cookies.set("session", "chosen-by-a-stranger", domain="shop.test")
    new = on_ours(guard, Starsessions(old_server))
    assert await visitor.seen(new) == {}
    assert (await visitor.ask(new, "/add?item=A"))["cart"] == ["A"]
    assert visitor.cookies["session"] != "chosen-by-a-stranger"
    with pytest.raises(SessionNotFound):
        await guard.read("chosen-by-a-stranger")


# --- old nodes beside new ones


async def test_both_sides_see_what_the_other_did(guard: SessionGuard, old_redis: Any, old_server: str) -> None:
    old, new = on_starsessions(old_redis), on_ours(guard, Starsessions(old_server, write_back=True))
    visitor = Visitor()
    await visitor.ask(old, "/add?item=1")
    await visitor.ask(new, "/add?item=2")
    await visitor.ask(old, "/add?item=3")
    await visitor.ask(new, "/login?user=ada")
    await visitor.ask(old, "/add?item=4")
    want = {"user_id": "ada", "cart": ["1", "2", "3", "4"]}
    assert await visitor.seen(old) == await visitor.seen(new) == want
    await visitor.ask(old, "/logout")
    assert await visitor.seen(new) == {}
    await visitor.ask(new, "/add?item=5")
    assert (await visitor.seen(old))["cart"] == ["5"]
    await visitor.ask(new, "/logout")
    assert await visitor.seen(old) == {}


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True])
async def test_a_rolling_switch(redis_url: str, old_redis: Any, old_server: str, sealed: bool) -> None:
    """Two nodes, first both old, then one of each, then both new; 200 visitors click on, wherever they are sent."""
    codec = FernetCodec(default_codec(), [base64.urlsafe_b64encode(b"k" * 32)]) if sealed else None
    dice = random.Random(11)
    async with AsyncExitStack() as stack:
        guards = [
            await stack.enter_async_context(SessionGuard.from_url(redis_url, codec=codec, push_limit=0)) for _ in "ab"
        ]
        old = [on_starsessions(old_redis), on_starsessions(old_redis)]
        new = [on_ours(guard, Starsessions(old_server, write_back=True)) for guard in guards]
        visitors = [Visitor() for _ in range(200)]
        clicks = [0] * len(visitors)
        for nodes in (old, [new[0], old[1]], new):

            async def click_on(number: int, nodes: list[Starlette]) -> None:
                visitor = visitors[number]
                if not clicks[number]:
                    await visitor.ask(dice.choice(nodes), f"/login?user={number}")
                for _ in range(3):
                    clicks[number] += 1
                    seen = await visitor.ask(dice.choice(nodes), f"/add?item={clicks[number]}")
                    assert seen["user_id"] == str(number), "logged out"
                    assert seen["cart"] == [str(n + 1) for n in range(clicks[number])], "lost"

            await asyncio.gather(*(click_on(number, nodes) for number in range(len(visitors))))
    assert sum(clicks) == 200 * 9
