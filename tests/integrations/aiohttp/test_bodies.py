"""aiohttp: the body of a request comes before its lock, and can still be read in every way."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import FormData, web

from sessionlock import LeasePolicy, SessionGuard
from sessionlock.integrations.aiohttp import get_session, locks_session, session_policy, session_readonly, setup
from tests.harness.aiohttp_calls import WAIT, Shop, until

pytestmark = pytest.mark.anyio
MEBI = 1_048_576


class Upload:
    """A body that comes in two parts; between them the client waits."""

    def __init__(self, first: bytes = b"first ", second: bytes = b"second") -> None:
        self.first = first
        self.second = second
        self.begun = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.first
        self.begun.set()
        await asyncio.wait_for(self.go_on.wait(), WAIT)
        yield self.second


async def read(request: web.Request) -> bytes:
    return await request.read()


async def by_content(request: web.Request) -> bytes:
    return b"".join([piece async for piece in request.content.iter_chunked(1000)])


async def by_chunks(request: web.Request) -> bytes:
    return b"".join([piece async for piece, _ in request.content.iter_chunks()])


async def by_any(request: web.Request) -> bytes:
    return b"".join([piece async for piece in request.content.iter_any()])


async def by_lines(request: web.Request) -> bytes:
    return b"".join([line async for line in request.content])


async def to_the_end(request: web.Request) -> bytes:
    found = b""
    while not request.content.at_eof():
        found += await request.content.readany()
    return found


async def exactly(request: web.Request) -> bytes:
    head = await request.content.readexactly(5)
    rest = await request.content.read()
    assert await request.content.read() == b""
    return head + rest


WAYS = [read, by_content, by_chunks, by_any, by_lines, to_the_end, exactly]


@pytest.mark.parametrize("size", [10, 100_000, 3 * MEBI])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("session", ["before", "after", "never"])
async def test_it_is_read_in_every_way(guard: SessionGuard, way: Callable[..., Any], size: int, session: str) -> None:
    app = web.Application(client_max_size=4 * MEBI)
    seen: list[str] = []

    async def take(request: web.Request) -> web.Response:
        assert request.body_exists
        assert request.can_read_body
        if session == "before":
            (await get_session(request))["n"] = 1
        body = await way(request)
        seen.append(hashlib.sha256(body).hexdigest())
        assert request.content.at_eof()
        assert request.content.is_eof()
        assert not request.can_read_body
        assert await request.content.readany() == b""
        if session == "after":
            (await get_session(request))["n"] = 1
        return web.Response()

    setup(app, guard)
    app.router.add_post("/take", take)
    shop = Shop(guard, app)
    await shop.start()
    try:
        sent = os.urandom(size - 1) + b"\n"
        for _ in range(2):  # the second time there is a session to lock, and the connection is used again
            assert (await shop.ask("POST", "/take", data=io.BytesIO(sent)))[0] == 200
        assert seen == [hashlib.sha256(sent).hexdigest()] * 2
    finally:
        await shop.browser.close()
        await shop.server.close()


async def test_a_slow_body_holds_up_nobody(shop: Shop) -> None:
    @shop.on("POST", "/upload")
    async def upload(request: web.Request) -> web.Response:
        session = await get_session(request)
        session["uploaded"] = (await request.text()).split()
        return web.Response()

    await shop.start()
    await shop.ask("POST", "/add/a")
    sending = Upload()
    uploading = asyncio.create_task(shop.ask("POST", "/upload", data=sending))
    await asyncio.wait_for(sending.begun.wait(), WAIT)
    for item in "bc":
        assert (await asyncio.wait_for(shop.ask("POST", f"/add/{item}"), WAIT))[0] == 200
    assert not uploading.done()
    assert not await shop.held()
    sending.go_on.set()
    assert (await uploading)[0] == 200
    assert await shop.stored() == {"cart": ["a", "b", "c"], "uploaded": ["first", "second"]}


async def test_a_body_that_the_handler_has_begun_to_read(shop: Shop) -> None:
    """Part of a form first, then the session, then the file: whoever holds a reader reads on."""

    @shop.on("POST", "/form")
    async def form(request: web.Request) -> web.Response:
        reader: Any = await request.multipart()
        name = await (await reader.next()).text()
        session = await get_session(request)
        held = await shop.held()
        file = await reader.next()
        size = 0
        while piece := await file.read_chunk():
            size += len(piece)
        session["file"] = [name, size]
        return web.json_response(held)

    await shop.start()
    await shop.ask("POST", "/add/a")
    data = FormData()
    data.add_field("name", "a name")
    data.add_field("file", io.BytesIO(os.urandom(3 * MEBI)), filename="big")
    assert await shop.ask("POST", "/form", data=data) == (200, "true")
    assert (await shop.stored())["file"] == ["a name", 3 * MEBI]


async def test_forms(shop: Shop) -> None:
    @shop.on("POST", "/form")
    async def form(request: web.Request) -> web.Response:
        session = await get_session(request)
        posted = await request.post()
        file: Any = posted["file"]
        with file.file:  # aiohttp 3.9 does not close it
            session["got"] = [posted["name"], file.file.read().decode()]
        return web.Response()

    @shop.on("POST", "/plain")
    async def plain(request: web.Request) -> web.Response:
        (await get_session(request))["plain"] = (await request.post())["a"]
        return web.json_response(await request.post() == {"a": "1"})

    await shop.start()
    await shop.ask("POST", "/add/a")
    data = FormData()
    data.add_field("name", "a name")
    data.add_field("file", b"content", filename="small")
    assert (await shop.ask("POST", "/form", data=data))[0] == 200
    assert await shop.ask("POST", "/plain", data={"a": "1"}) == (200, "true")
    assert await shop.stored() == {"cart": ["a"], "got": ["a name", "content"], "plain": "1"}


async def test_too_large_stays_413(shop: Shop) -> None:
    @shop.on("POST", "/read")
    async def reads(request: web.Request) -> web.Response:
        (await get_session(request))["read"] = len(await request.read())
        return web.Response()

    await shop.start()
    await shop.ask("POST", "/add/a")
    assert (await shop.ask("POST", "/read", data=io.BytesIO(b"x" * (2 * MEBI))))[0] == 413
    assert not await shop.held()
    assert await shop.stored() == {"cart": ["a"]}


async def test_the_limit(shop: Shop) -> None:
    """Beyond it the lock is taken while the rest is still to come; 0: at once."""
    held = asyncio.Event()

    @shop.on("POST", "/upload")
    @session_policy(body_limit=0)
    async def upload(request: web.Request) -> web.Response:
        await get_session(request)
        held.set()
        return web.Response(body=await request.read())

    await shop.start()
    await shop.ask("POST", "/add/a")
    sending = Upload()
    uploading = asyncio.create_task(shop.ask("POST", "/upload", data=sending))
    await asyncio.wait_for(held.wait(), WAIT)
    assert await shop.held()
    sending.go_on.set()
    assert await uploading == (200, "first second")


async def test_a_client_that_goes_away_while_it_sends(shop: Shop) -> None:
    began, went = asyncio.Event(), asyncio.Event()
    opened: list[web.Request] = []

    @shop.on("POST", "/upload")
    async def upload(request: web.Request) -> web.Response:
        began.set()
        try:
            await get_session(request)
            opened.append(request)
        finally:
            went.set()
        return web.Response()

    await shop.start()
    await shop.ask("POST", "/add/a")
    sending = await shop.send("POST", "/upload", length=1000)
    sending.write(b"begun")
    await asyncio.wait_for(began.wait(), WAIT)
    sending.close()
    await asyncio.wait_for(went.wait(), WAIT)
    assert not opened


async def test_a_lost_lease_ends_only_who_changed_something(shop: Shop, guard: SessionGuard) -> None:
    """A handler that only looks goes on, and its answer is as it should be."""

    async def lost(request: web.Request) -> web.Response:
        session = await get_session(request)
        found = list(session["cart"])
        if request.query:
            session["n"] = 1

        async def is_lost() -> bool:
            return bool(session.sessionlock.lease.is_lost)

        await until(is_lost)
        await asyncio.sleep(0)
        return web.json_response(found)

    shop.on("POST", "/lost")(locks_session(lease=LeasePolicy(ttl=0.1, renew=False))(lost))
    await shop.start()
    await shop.ask("POST", "/add/a")
    assert await shop.ask("POST", "/lost") == (200, '["a"]')
    assert (await shop.ask("POST", "/lost?change=1"))[0] == 409
    assert await shop.stored() == {"cart": ["a"]}


async def test_who_only_reads_receives_nothing_ahead(shop: Shop) -> None:
    """A stream of events from the client, say, with its session at hand."""

    @shop.on("POST", "/echo")
    @session_readonly
    async def echo(request: web.Request) -> web.Response:
        (await get_session(request)).get("cart")
        first = await request.content.readany()
        sending.go_on.set()
        return web.Response(body=first + await request.content.read())

    await shop.start()
    await shop.ask("POST", "/add/a")
    sending = Upload()
    assert await shop.ask("POST", "/echo", data=sending) == (200, "first second")
