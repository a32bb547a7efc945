"""What others see who wait for a request: its route, not its path, which has many values and may have secrets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
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

from sessionlock import SessionGuard
from sessionlock.integrations.asgi import SessionLockMiddleware
from sessionlock.integrations.asgi.routes import route_of_scope
from sessionlock.integrations.flask import SessionLock
from sessionlock.integrations.litestar import SessionLockConfig, SessionLockPlugin
from sessionlock.integrations.quart import SessionLock as QuartSessionLock
from sessionlock.integrations.web.rules import NO_ROUTE, shape_of
from sessionlock.observe import Event, LockGranted
from tests.harness.aiohttp_calls import Shop, shop_on
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


async def test_quart(redis_url: str) -> None:
    routes = Routes()
    app = Quart(__name__)
    async with SessionGuard.from_url(redis_url, observer=routes) as guard:
        QuartSessionLock(app, guard)

        @app.post("/add/<item>")
        async def add(item: str) -> str:
            quart_session["cart"] = item
            return item

        client = app.test_client()
        for item in ("a", "b"):
            assert (await client.post(f"/add/{item}")).status_code == 200
    assert routes == ["POST /add/<item>"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
async def test_litestar(redis_url: str) -> None:
    @post("/add/{item:str}")
    async def add(request: LitestarRequest[Any, Any, Any], item: str) -> str:
        request.session["cart"] = item
        return item

    routes = Routes()
    async with SessionGuard.from_url(redis_url, observer=routes) as guard:
        plugin = SessionLockPlugin(SessionLockConfig(guard))
        app = Litestar([add], plugins=[plugin], openapi_config=None, logging_config=None)
        async with AsyncTestClient(app) as client:
            for item in ("a", "b"):
                assert (await client.post(f"/add/{item}")).status_code == 201
    assert routes == ["POST /add/{item}"]


async def test_flask(redis_url: str) -> None:
    routes = Routes()
    app = Flask(__name__)
    guard = SessionGuard.from_url(redis_url, observer=routes)
    SessionLock(app, guard)

    @app.post("/add/<item>")
    def add(item: str) -> str:
        flask_session["cart"] = item
        return item

    client = app.test_client()

    def ask() -> None:
        for item in ("a", "b"):
            assert client.post(f"/add/{item}").status_code == 200

    await asyncio.to_thread(ask)
    assert routes == ["POST /add/<item>"]


async def test_aiohttp(redis_url: str) -> None:
    routes = Routes()
    async with SessionGuard.from_url(redis_url, observer=routes) as guard, shop_on(guard) as shop:
        await add_two(shop)
    assert routes == ["POST /add/{item}"]


async def add_two(shop: Shop) -> None:
    await shop.start()
    for item in ("a", "b"):
        assert (await shop.ask("POST", f"/add/{item}"))[0] == 200


def found(app: Any, path: str, method: str = "POST") -> str | None:
    return route_of_scope({"type": "http", "app": app, "path": path, "root_path": "", "method": method, "headers": []})


def test_mounted_and_included() -> None:
    """As the router chooses; a route whose methods do not fit is better than none."""
    below = Starlette(routes=[Route("/item/{id:int}", nothing, methods=["POST"])])
    app = Starlette(routes=[Route("/cart/{id}", nothing, methods=["GET"]), Mount("/shop", app=below)])
    assert found(app, "/cart/7", "GET") == "/cart/{id}"
    assert found(app, "/cart/7") == "/cart/{id}"
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


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/", "/"),
        ("/cart", "/cart"),
        ("/cart/17/item/a-b", "/cart/{}/item/a-b"),
        ("/reset/Zm9vYmFyMTIz/now", "/reset/{}/now"),
        ("/a/{b}", "/a/{b}"),
        ("/" + "x" * 40, "/{}"),
        ("/1/2/3/4/5/6/7/8/9/10", "/{}/{}/{}/{}/{}/{}/{}/**"),
        ("/käse/b c", "/{}/{}"),
    ],
)
def test_without_a_router(path: str, shape: str) -> None:
    assert shape_of(path) == shape


async def test_an_application_without_a_router(redis_url: str) -> None:
    routes = Routes()

    async def app(scope: Any, receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        scope["session"]["seen"] = scope["path"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard = SessionGuard.from_url(redis_url, observer=routes)
    async with guard, browser(SessionLockMiddleware(app, guard)) as client:
        for item in ("1", "2"):
            assert (await client.post(f"/cart/{item}")).status_code == 200
    assert routes == ["POST /cart/{}"]
