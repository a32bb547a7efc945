"""The admin page where frameworks mount it: each link and form leads back to it, and its cookie stays below it."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from flask import Flask
from hypercorn.middleware import DispatcherMiddleware as HypercornDispatcher
from litestar import Litestar, asgi
from litestar.types import Receive, Scope, Send
from quart import Quart
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from sessionlock.admin import asgi_admin, wsgi_admin

pytestmark = pytest.mark.anyio
AT = "/ops/sessions"
DIGEST = "0123456789abcd"


def _page(url: str, **how: Any) -> Any:
    return asgi_admin(url, allow=lambda scope: "act", **how)


def starlette(url: str) -> Any:
    return Starlette(routes=[Mount("/ops", Starlette(routes=[Mount("/sessions", _page(url))]))])


def fastapi(url: str) -> Any:
    app = FastAPI()
    app.mount(AT, _page(url))
    return app


def litestar(url: str) -> Any:
    page = _page(url)

    @asgi(AT, is_mount=True, copy_scope=True)
    async def sessions(scope: Scope, receive: Receive, send: Send) -> None:
        await page(scope, receive, send)

    return Litestar([sessions])


def quart(url: str) -> Any:
    return HypercornDispatcher({AT: _page(url), "": Quart("shop")})


def by_hand(url: str) -> Any:
    """No framework tells where it is; the host says it once."""
    page = _page(url, root=AT)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["path"].startswith(scope.get("root_path", "") + AT)
        await page(scope, receive, send)

    return app


def alone(url: str) -> Any:
    return _page(url)


MOUNTED: list[Callable[[str], Any]] = [starlette, fastapi, litestar, by_hand]


@pytest.mark.parametrize(
    ("make", "before"),
    [*product(MOUNTED, ["", "/pre"]), (quart, "")],  # Hypercorn's dispatcher knows no root_path
)
async def test_links_and_forms_lead_back(redis_url: str, make: Callable[[str], Any], before: str) -> None:
    """``before``: the application itself is below that, and its server says so (``root_path``)."""
    await _walk(make(redis_url), before, before + AT)


async def test_alone_it_is_at_the_root(redis_url: str) -> None:
    await _walk(_page(redis_url), "", "")


@pytest.mark.parametrize("make", [litestar, alone])
async def test_behind_a_proxy_that_cuts_its_prefix_off(redis_url: str, make: Callable[[str], Any]) -> None:
    """Links have the prefix, which the server says is there, and requests that arrive have not."""
    transport = httpx.ASGITransport(make(redis_url), root_path="/pre")
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        at = "" if make is alone else AT
        page = await client.get(f"{at}/session/{DIGEST}")
    assert f'href="/pre{at}/"' in page.text
    assert page.status_code == 200


async def _walk(app: Any, before: str, root: str) -> None:
    transport = httpx.ASGITransport(app, root_path=before)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        told = set()
        for home in (f"{root}/", root or "/"):
            page = await client.get(home, follow_redirects=True)
            assert page.status_code == 200
            assert _links(page.text) == {f"{root}/", f"{root}/find", f"{root}/user"}
            told.update(re.findall(r"Path=[^;]*", page.headers.get("set-cookie", "")))
        assert told == {f"Path={root or '/'}"}
        token = re.search(r'name="token" value="([^"]+)"', page.text)
        assert token is not None
        fields = {"token": token[1], "session": DIGEST, "user": "ann"}
        for action, found in (("find", f"/session/{DIGEST}"), ("user", "/user/")):
            sent = await client.post(f"{root}/{action}", data=fields)
            assert sent.status_code == 303, sent.text
            assert sent.headers["location"].startswith(root + found)
            there = await client.get(sent.headers["location"])
            assert there.status_code == 200
            assert _links(there.text) == {f"{root}/"}


def _links(page: str) -> set[str]:
    return set(re.findall(r'(?:href|action)="([^"#]+)"', page))


@pytest.mark.parametrize("before", ["", "/pre"])
def test_flask(redis_url: str, before: str) -> None:
    app = Flask("shop")
    mounted = DispatcherMiddleware(app.wsgi_app, {AT: wsgi_admin(redis_url, allow=lambda environ: "act")})
    app.wsgi_app = ProxyFix(mounted, x_prefix=1)  # type: ignore[method-assign]
    client, headers = Client(app), {"X-Forwarded-Prefix": before} if before else {}
    page = client.get(f"{AT}/", headers=headers)
    root = before + AT
    assert _links(page.text) == {f"{root}/", f"{root}/find", f"{root}/user"}
    assert f"Path={root};" in page.headers["set-cookie"]
    assert client.get(f"{AT}/session/{DIGEST}", headers=headers).status_code == 200
