"""An application that starts while Redis is down: it starts, and the log has the reason before the first visitor."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessionlock import ConfigurationError

pytestmark = pytest.mark.filterwarnings("ignore:Using `httpx` with")

DOWN = "redis://127.0.0.1:1"


def starlette(url: str) -> None:
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.testclient import TestClient

    from sessionlock.integrations.asgi import SessionLockMiddleware

    with TestClient(Starlette(middleware=[Middleware(SessionLockMiddleware, guard=url)])):
        pass


def fastapi(url: str) -> None:
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from sessionlock.integrations.asgi import SessionLockMiddleware

    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=url)
    with TestClient(app):
        pass


def litestar(url: str) -> None:
    from litestar import Litestar
    from litestar.testing import TestClient

    from sessionlock.integrations.litestar import SessionLockConfig, SessionLockPlugin

    with TestClient(Litestar([], plugins=[SessionLockPlugin(SessionLockConfig(guard=url))])):
        pass


def quart(url: str) -> None:
    from quart import Quart

    from sessionlock.integrations.quart.extension import SessionLock

    app = Quart(__name__)
    SessionLock(app, url)

    async def serve() -> None:
        async with app.test_app():
            pass

    asyncio.run(serve())


def aiohttp(url: str) -> None:
    from aiohttp import web
    from aiohttp.test_utils import TestServer

    from sessionlock.integrations.aiohttp import setup

    app = web.Application()
    setup(app, url)

    async def serve() -> None:
        async with TestServer(app):
            pass

    asyncio.run(serve())


STARTS = [starlette, fastapi, litestar, quart, aiohttp]


@pytest.fixture
def lines() -> Iterator[list[str]]:
    seen: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("sessionlock").addHandler(handler)
    yield seen
    logging.getLogger("sessionlock").removeHandler(handler)


@pytest.mark.parametrize("start", STARTS)
def test_it_starts_and_says_so_once(start: Callable[[str], Any], lines: list[str]) -> None:
    began = time.monotonic()
    start(DOWN)
    assert time.monotonic() - began < 4, "it is not waited for"
    (line,) = lines
    assert line.startswith("Redis at 127.0.0.1:1 cannot be used: ")
    assert "nobody listens there" in line


@pytest.mark.parametrize("start", STARTS)
def test_all_is_well(start: Callable[[str], Any], lines: list[str], redis_url: str) -> None:
    start(redis_url)
    assert not lines


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("url", ["rediss//nonsense", "postgres://localhost", "redis://localhost:port"])
def test_a_url_that_makes_no_sense_is_an_error(start: Callable[[str], Any], url: str) -> None:
    with pytest.raises(ConfigurationError):
        start(url)
