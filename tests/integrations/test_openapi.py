"""An API's description tells what a session may answer, where a route uses one."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from litestar import Litestar, get, post

from sessionlock import ConfigurationError, SessionGuard, WaitTimedOut
from sessionlock.integrations.fastapi import LockedSession, SessionLockMiddleware, describe_problems
from sessionlock.integrations.litestar import SessionLockConfig, SessionLockPlugin
from sessionlock.integrations.web.problems import Problems

ALL = {"409", "413", "429", "503"}
NOWHERE = "redis://127.0.0.1:1/0"
ROUTES: dict[str, Any] = {"/static/**": "off", "/shop/static/**": "off", "GET /feed": "read"}


def ours(paths: dict[str, Any], path: str, method: str) -> set[str]:
    return {status for status in paths[path][method]["responses"] if int(status) >= 400} - {"422", "400"}


def test_fastapi() -> None:
    """By the rules of the middleware, and where an operation asks for the lock itself; its own words stay."""
    app, router, inner = FastAPI(), APIRouter(prefix="/shop"), APIRouter()
    app.add_middleware(SessionLockMiddleware, guard=NOWHERE, routes=ROUTES, problems=Problems({WaitTimedOut: 423}))

    @app.get("/feed")
    @app.post("/feed")
    async def feed() -> None: ...

    @app.get("/static/{name}")
    async def static(name: str) -> None: ...

    @app.post("/static/locked")
    async def locked(session: LockedSession) -> None: ...

    @router.post("/cart", responses={409: {"description": "as I say"}})
    async def cart() -> None: ...

    @router.put("/cart/{item}")
    async def put() -> None: ...

    @inner.post("/static/{name}/lock")
    async def locked_within(session: LockedSession) -> None: ...

    describe_problems(app)
    router.include_router(inner)
    app.include_router(router)
    app.include_router(inner)
    for _ in range(2):
        paths = app.openapi()["paths"]
        assert ours(paths, "/feed", "get") == {"503"}
        assert ours(paths, "/feed", "post") == ours(paths, "/static/locked", "post") == {*ALL, "423"}
        assert ours(paths, "/static/{name}", "get") == set()
        assert ours(paths, "/shop/cart/{item}", "put") == {*ALL, "423"}
        assert ours(paths, "/static/{name}/lock", "post") == {*ALL, "423"}
        assert ours(paths, "/shop/static/{name}/lock", "post") == {*ALL, "423"}
        assert paths["/shop/cart"]["post"]["responses"]["409"] == {"description": "as I say"}
    busy = paths["/feed"]["post"]["responses"]["503"]
    assert "Retry-After" in busy["headers"]
    assert "application/problem+json" in busy["content"]


def test_fastapi_wants_the_middleware_first() -> None:
    with pytest.raises(ConfigurationError, match="add_middleware"):
        describe_problems(FastAPI())


def test_litestar() -> None:
    @get("/feed")
    async def feed() -> None: ...

    @post("/cart")
    async def cart() -> None: ...

    @post("/static/x")
    async def static() -> None: ...

    @post("/no", skip_session=True)
    async def skipped() -> None: ...

    guard = SessionGuard.from_url(NOWHERE)
    plugin = SessionLockPlugin(SessionLockConfig(guard=guard, routes=ROUTES))
    app = Litestar([feed, cart, static, skipped], plugins=[plugin])
    paths = app.openapi_schema.to_schema()["paths"]
    assert ours(paths, "/feed", "get") == {"503"}
    assert ours(paths, "/cart", "post") == ALL
    assert ours(paths, "/static/x", "post") == ours(paths, "/no", "post") == set()
