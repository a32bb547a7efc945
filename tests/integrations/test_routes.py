"""What others see who wait for a request: its route, not its path, which has many values and may have secrets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from fastapi import APIRouter, FastAPI
from flask import Flask
from flask import session as flask_session
from litestar import Litestar, post
from litestar import Request as LitestarRequest
from litestar.testing import AsyncTestClient
from quart import Quart
from quart import session as quart_session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from sessionlock import SessionGuard, SessionPolicy
from sessionlock.integrations.aiohttp import get_session
from sessionlock.integrations.asgi import SessionLockMiddleware
from sessionlock.integrations.asgi.routes import route_of_scope
from sessionlock.integrations.flask import SessionLock
from sessionlock.integrations.litestar import SessionLockConfig, SessionLockPlugin
from sessionlock.integrations.quart import SessionLock as QuartSessionLock
from sessionlock.integrations.web.naming import NO_ROUTE
from sessionlock.observe import Event, LockGranted
from tests.harness.aiohttp_calls import shop_on
from tests.harness.asgi_calls import FAST_API_WARNS, browser
from tests.harness.asgi_shops import SHOPS, guarded

pytestmark = [pytest.mark.anyio, *FAST_API_WARNS]


class Routes(list[str]):
    """Of those that were granted a lock."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, LockGranted):
            self.append(event.route)


async def nothing(request: Request) -> Response:
    return Response()


@pytest.mark.parametrize("framework", SHOPS)
async def test_asgi(redis_url: str, framework: str) -> None:
    routes = Routes()
    async with (
        SessionGuard.from_url(redis_url, observer=routes) as guard,
        browser(guarded(framework, guard)) as client,
    ):
        for item in ("a", "secret", "b"):
            assert (await client.post(f"/add?item={item}")).status_code < 300
        assert (await client.post("/nowhere/secret")).status_code in (404, 405)
    assert routes[:2] == ["POST /add", "POST /add"]
    assert {*routes[2:]} <= {f"POST {NO_ROUTE}"}


SID = "s" * 43
COOKIE = {"Cookie": f"session={SID}; session_id={SID}"}  # by whichever name
Ask = Callable[[str, str], Awaitable[int]]


@asynccontextmanager
async def starlette(guard: SessionGuard) -> AsyncIterator[Ask]:
    async def add(request: Request) -> Response:
        request.session["cart"] = request.path_params["item"]
        return Response()

    routes = [
        Route("/add/{item}", add, methods=["POST"]),
        Mount("/below", routes=[Route("/add/{item}", add)]),
    ]
    async with browser(SessionLockMiddleware(Starlette(routes=routes), guard)) as client:
        yield lambda method, path: status_of(client.request(method, path, headers=COOKIE))


@asynccontextmanager
async def plain(guard: SessionGuard) -> AsyncIterator[Ask]:
    """An application with no router that anybody knows."""

    async def app(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        scope["session"]["seen"] = scope["path"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with browser(SessionLockMiddleware(app, guard, routes={"POST /add/{item}": "lock"})) as client:
        yield lambda method, path: status_of(client.request(method, path, headers=COOKIE))


@asynccontextmanager
async def quart(guard: SessionGuard) -> AsyncIterator[Ask]:
    app = Quart(__name__)
    QuartSessionLock(app, guard)

    @app.post("/add/<item>")
    async def add(item: str) -> str:
        quart_session["cart"] = item
        return item

    client: Any = app.test_client()
    yield lambda method, path: status_of(client.open(path, method=method, headers=COOKIE))


@asynccontextmanager
async def litestar(guard: SessionGuard) -> AsyncIterator[Ask]:
    @post("/add/{item:str}")
    async def add(request: LitestarRequest[Any, Any, Any], item: str) -> str:
        request.session["cart"] = item
        return item

    plugin = SessionLockPlugin(SessionLockConfig(guard))
    app = Litestar([add], plugins=[plugin], openapi_config=None, logging_config=None)
    async with AsyncTestClient(app) as client:
        yield lambda method, path: status_of(client.request(method, path, headers=COOKIE))


@asynccontextmanager
async def flask(guard: SessionGuard) -> AsyncIterator[Ask]:
    app = Flask(__name__)
    SessionLock(app, guard)

    @app.post("/add/<item>")
    def add(item: str) -> str:
        flask_session["cart"] = item
        return item

    client = app.test_client(use_cookies=False)
    yield lambda method, path: status_of(asyncio.to_thread(client.open, path, method=method, headers=COOKIE))


@asynccontextmanager
async def aiohttp(guard: SessionGuard) -> AsyncIterator[Ask]:
    @web.middleware
    async def looking(request: web.Request, handler: Any) -> Any:
        await get_session(request)  # whatever becomes of it: aiohttp opens sessions only for who asks
        return await handler(request)

    async with shop_on(guard) as shop:
        shop.app.middlewares.append(looking)
        await shop.start()

        async def ask(method: str, path: str) -> int:
            return (await shop.ask(method, path, headers=COOKIE))[0]

        yield ask


async def status_of(answer: Awaitable[Any]) -> int:
    return int((await answer).status_code)


# By how each writes its patterns.
FACES: dict[Callable[[SessionGuard], Any], str] = {
    starlette: "/add/{item}",
    plain: "/add/{item}",
    quart: "/add/<item>",
    litestar: "/add/{item}",
    flask: "/add/<item>",
    aiohttp: "/add/{item}",
}
faces = pytest.mark.parametrize("face", FACES, ids=[face.__name__ for face in FACES])
quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning")
SECRET = "alice"  # a word like any other: nothing in a path is harmless


@faces
@quiet
async def test_a_holder_is_shown_by_its_route(redis_url: str, face: Any) -> None:
    routes = Routes()
    async with SessionGuard.from_url(redis_url, observer=routes) as guard, face(guard) as ask:
        async with guard.session_lock(SID) as session:
            session["here"] = True
        routes.clear()
        for item in ("a", "b"):
            assert await ask("POST", f"/add/{item}") < 300
        for number in range(3):
            await ask("POST", f"/nowhere/{number}/{SECRET}")
            await ask(f"ZZ{number}", f"/add/{SECRET}")
    # Which faces lock what they will not find is their affair.
    known = f"POST {FACES[face]}"
    assert routes[:2] == [known, known]
    assert {*routes} <= {known, f"_OTHER {FACES[face]}", f"POST {NO_ROUTE}", f"_OTHER {NO_ROUTE}"}


@faces
@quiet
async def test_the_log_names_the_route(redis_url: str, face: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Its words and its fields: a path may be a token for a new password."""
    impatient = SessionGuard.from_url(redis_url, wait=0.01)
    async with impatient as guard, face(guard) as ask, SessionGuard.from_url(redis_url) as other:
        async with other.session_lock(SID) as session:
            session["here"] = True
        with caplog.at_level(logging.DEBUG, "sessionlock"):
            async with other.session_lock(SID):
                assert await ask("POST", f"/add/{SECRET}") == 503
                for path in (f"/nowhere/{SECRET}", f"/below/add/{SECRET}", f"/below/{SECRET}"):
                    await ask("POST", path)
                await ask(SECRET.upper(), f"/add/{SECRET}")
    told = [record for record in caplog.records if record.name == "sessionlock.web"]
    assert [record.levelno for record in told].count(logging.WARNING) >= 1
    assert told[0].__dict__["route"] == f"POST {FACES[face]}"
    assert told[0].msg == "%s: WaitTimedOut: %s"  # collectors of errors make one issue of all that have the same
    assert SECRET not in "".join(f"{record.getMessage()} {record.__dict__}" for record in told).lower()


async def test_what_a_router_writes_into_its_scope(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """What is refused at the end is told after the router has changed the scope, which a mount does."""
    guard = SessionGuard.from_url(redis_url, session=SessionPolicy(max_field=1))
    async with guard, starlette(guard) as ask:
        with caplog.at_level(logging.WARNING, "sessionlock.web"):
            assert await ask("GET", f"/below/add/{SECRET}") == 413
    assert [record.__dict__["route"] for record in caplog.records] == ["GET /below/add/{item}"]


def found(app: Any, path: str, method: str = "POST") -> str | None:
    return route_of_scope({"type": "http", "app": app, "path": path, "root_path": "", "method": method, "headers": []})


def test_mounted_and_included() -> None:
    """As the router chooses; a route whose methods do not fit is none: it is answered 405."""
    below = Starlette(routes=[Route("/item/{id:int}", nothing, methods=["POST"])])
    app = Starlette(routes=[Route("/cart/{id}", nothing, methods=["GET"]), Mount("/shop", app=below)])
    assert found(app, "/cart/7", "GET") == "/cart/{id}"
    assert found(app, "/cart/7") == NO_ROUTE
    assert found(app, "/shop/item/7") == "/shop/item/{id:int}"
    assert found(app, "/shop/nothing") == "/shop/**"
    assert found(app, "/nothing") == NO_ROUTE
    api, router = FastAPI(), APIRouter(prefix="/v1")
    router.add_api_route("/cart/{cart_id}", nothing, methods=["POST"])
    api.include_router(router)
    assert found(api, "/v1/cart/7") == "/v1/cart/{cart_id}"
    assert found(SessionLockMiddleware, "/x") is None


class Stubborn:
    """A kind of route that wants what is not there yet."""

    def matches(self, scope: Any) -> Any:
        raise KeyError("user")


def test_a_route_that_cannot_tell_yet() -> None:
    app = Starlette()
    app.router.routes.append(Stubborn())  # type: ignore[arg-type]
    assert found(app, "/x") is None
