"""Packages that people put on top of aiohttp-session, over a locked session."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp_csrf
import aiohttp_flashbag  # type: ignore[import-untyped]
import aiohttp_security
import aiohttp_session
import pytest
from aiohttp import web
from aiohttp_csrf.policy import HeaderPolicy
from aiohttp_csrf.storage import SessionStorage
from aiohttp_security.session_identity import SessionIdentityPolicy

from sessionlock.integrations.aiohttp_session import SessionLockStorage
from tests.harness.aiohttp_calls import Shop

# The package itself still uses strings where aiohttp 3.14 wants keys.
pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore:It is recommended to use web.RequestKey")]


@pytest.fixture
def shop(shop: Shop) -> Shop:
    aiohttp_session.setup(shop.app, SessionLockStorage())
    return shop


async def put(request: web.Request) -> web.Response:
    session = await aiohttp_session.get_session(request)
    session.update(request.query)
    return web.json_response(dict(session))


class Everybody(aiohttp_security.AbstractAuthorizationPolicy):  # type: ignore[misc]  # it has no types
    async def permits(self, identity: Any, permission: Any, context: Any = None) -> bool:
        return identity is not None

    async def authorized_userid(self, identity: Any) -> Any:
        return identity


@pytest.mark.filterwarnings("ignore::aiohttp.web_exceptions.NotAppKeyWarning")  # before 0.5; which installs `tests`
async def test_aiohttp_security(shop: Shop) -> None:
    """``remember`` gives a new id, ``forget`` none; ``check_authorized`` as ever."""
    aiohttp_security.setup(shop.app, SessionIdentityPolicy(), Everybody())

    @shop.on("POST", "/login")
    async def login(request: web.Request) -> web.Response:
        answer = web.HTTPFound("/me")
        await aiohttp_security.remember(request, answer, "Andrew")
        raise answer

    @shop.on("POST", "/logout")
    async def logout(request: web.Request) -> web.Response:
        answer = web.Response()
        await aiohttp_security.forget(request, answer)
        return answer

    @shop.on("GET", "/me")
    async def me(request: web.Request) -> web.Response:
        return web.Response(text=await aiohttp_security.check_authorized(request))

    shop.on("POST", "/put")(put)
    await shop.start()
    await shop.ask("POST", "/put?cart=1")
    planted = shop.sid
    assert (await shop.ask("GET", "/me"))[0] == 401
    assert await shop.ask("POST", "/login") == (200, "Andrew")
    assert shop.sid not in (None, planted)
    assert await shop.stored() == {"cart": "1", "AIOHTTP_SECURITY": "Andrew"}
    await shop.ask("POST", "/logout")
    assert (await shop.ask("GET", "/me"))[0] == 401
    assert await shop.stored() == {"cart": "1"}


async def test_aiohttp_flashbag(shop: Shop) -> None:
    """It writes with every request; messages of eight requests at once are each shown once, the carts stay."""
    shop.app.middlewares.append(aiohttp_flashbag.flashbag_middleware)

    @shop.on("POST", "/say/{what}")
    async def say(request: web.Request) -> web.Response:
        aiohttp_flashbag.flashbag_set(request, "said", request.match_info["what"])
        return web.Response()

    @shop.on("GET", "/said")
    async def said(request: web.Request) -> web.StreamResponse:
        if "stream" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"whole")
            return response
        return web.json_response(aiohttp_flashbag.flashbag_get(request, "said"))

    await shop.start()
    await shop.ask("POST", "/add/a")
    await shop.ask("POST", "/say/hello")
    answers = await asyncio.gather(*(shop.ask("GET", "/said") for _ in range(8)))
    assert sorted(answers) == [(200, '"hello"'), *[(200, "null")] * 7]
    assert await shop.ask("GET", "/said?stream=1") == (200, "whole")
    assert (await shop.stored())["cart"] == ["a"]


async def test_aiohttp_csrf(shop: Shop) -> None:
    """A token that is made on GET, by eight tabs at once: none of them fails, and the last one's is good."""
    aiohttp_csrf.setup(shop.app, HeaderPolicy("X-CSRF"), SessionStorage("csrf", secret_phrase="x" * 32))
    shop.app.middlewares.append(aiohttp_csrf.csrf_middleware)

    @shop.on("GET", "/form")
    async def form(request: web.Request) -> web.Response:
        return web.Response(text=await aiohttp_csrf.generate_token(request))

    shop.on("POST", "/put")(put)
    await shop.start()
    await shop.ask("GET", "/form")
    answers = await asyncio.gather(*(shop.ask("GET", "/form") for _ in range(8)))
    assert {status for status, _ in answers} == {200}
    assert (await shop.ask("POST", "/put?a=1"))[0] == 403
    token = (await shop.stored())["csrf"]
    assert token in [text for _, text in answers] or (await shop.ask("GET", "/form"))[0] == 200
    _, token = await shop.ask("GET", "/form")
    assert (await shop.ask("POST", "/put?a=1", headers={"X-CSRF": token}))[0] == 200
