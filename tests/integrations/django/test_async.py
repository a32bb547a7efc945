"""The same site under ASGI: coroutines and sync views, without load and save going through threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from django.http import HttpResponse, JsonResponse
from django.test import AsyncClient, AsyncRequestFactory

from sessionlock import SessionGuard
from sessionlock.embedded import EmbeddedServer
from sessionlock.integrations.django import records
from sessionlock.integrations.django.homes import close
from sessionlock.integrations.django.middleware import SessionLockMiddleware
from sessionlock.integrations.django.store import SessionStore
from tests.harness.commands import CommandCounter
from tests.harness.django_site import override_settings
from tests.harness.django_site.calls import entered, go_on, sid_of

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("site")]


@pytest.fixture(autouse=True)
async def connections(site: None) -> AsyncIterator[None]:
    yield
    await close()


@pytest.fixture
async def client() -> AsyncClient:
    client = AsyncClient()
    assert (await client.post("/aadd/first")).status_code == 200
    return client


def twin_of(client: AsyncClient) -> AsyncClient:
    other = AsyncClient()
    other.cookies["sessionid"] = sid_of(client)
    return other


@pytest.mark.parametrize("path", ["/aadd", "/add"])
async def test_coroutines_and_sync_views(client: AsyncClient, path: str) -> None:
    response = await client.post(f"{path}/x")
    assert response.json() == {"cart": ["first", "x"]}
    assert response.cookies["sessionid"].value == sid_of(client)
    assert (await client.get("/cart")).json() == {"cart": ["first", "x"]}


async def test_a_coroutine_may_use_the_session_as_a_sync_view_does(client: AsyncClient) -> None:
    for ask in (client.get, client.post, client.get):
        response = await ask("/in_memory")
    assert response.json() == {"count": 3}


@pytest.mark.parametrize("path", ["/aadd", "/add"])
async def test_fifty_at_once_lose_nothing(client: AsyncClient, path: str) -> None:
    with override_settings(SESSION_LOCK_WAIT=30):
        answers = await asyncio.gather(*(twin_of(client).post(f"{path}/{n}") for n in range(50)))
    assert {answer.status_code for answer in answers} == {200}
    cart = (await client.get("/cart")).json()["cart"]
    assert sorted(cart) == sorted(["first", *map(str, range(50))])


async def test_it_stays_on_the_event_loop(client: AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the middleware runs in a thread, and no thread of the blocking face is asked."""
    seen: list[Any] = []

    async def view(request: Any) -> HttpResponse:
        request.session["x"] = 1
        return HttpResponse()

    def watched(method: Any) -> Any:
        async def watching(*args: Any) -> Any:
            seen.append((method.__name__, threading.current_thread()))
            return await method(*args)

        return watching

    for kind, name in ((records.Opening, "open"), (records.HeldRecord, "finish")):
        monkeypatch.setattr(kind, name, watched(getattr(kind, name)))
    middleware = SessionLockMiddleware(view)
    request = AsyncRequestFactory().post("/quiet")
    request.COOKIES["sessionid"] = sid_of(client)
    response = await middleware(request)
    assert seen == [("open", threading.current_thread()), ("finish", threading.current_thread())]
    assert response.cookies["sessionid"].value == sid_of(client)


async def test_login_and_logout(client: AsyncClient) -> None:
    visitor = sid_of(client)
    for into, out in (("/alogin/ada", "/alogout"), ("/login/ada", "/logout")):
        await client.post(into)
        assert sid_of(client) != visitor
        assert (await client.get("/awho")).content == b"ada"
        assert (await client.get("/who")).content == b"ada"
        await client.post(out)
        assert (await client.get("/awho")).content == b""


@pytest.mark.parametrize("path", ["/acycle", "/cycle"])
async def test_cycle_key(client: AsyncClient, path: str) -> None:
    before = sid_of(client)
    await client.post(path)
    assert sid_of(client) != before
    assert (await client.get("/cart")).json() == {"cart": ["first"]}
    assert not await SessionStore().aexists(before)


async def test_messages(client: AsyncClient) -> None:
    await client.post("/say/one")
    assert (await client.get("/heard")).json() == {"messages": ["one"]}
    assert (await client.get("/heard")).json() == {"messages": []}


async def test_flush(client: AsyncClient, guard: SessionGuard) -> None:
    before = sid_of(client)
    response = await client.post("/flush")
    assert response.cookies["sessionid"]["max-age"] == 0
    assert (await guard.inspect(before)).destroyed


async def test_a_failed_request_is_not_saved(client: AsyncClient, guard: SessionGuard) -> None:
    client.raise_request_exception = False
    assert (await client.post("/broken")).status_code == 500
    assert "half" not in await guard.read(sid_of(client))
    assert (await guard.inspect(sid_of(client))).holder is None


async def test_reading_does_not_wait(client: AsyncClient, guard: SessionGuard) -> None:
    async with guard.session_lock(sid_of(client)):
        answers = await asyncio.gather(*(twin_of(client).get("/cart") for _ in range(20)))
    assert [answer.json() for answer in answers] == [{"cart": ["first"]}] * 20


async def test_a_writer_waits_and_is_told_when_it_takes_too_long(client: AsyncClient, guard: SessionGuard) -> None:
    with override_settings(SESSION_LOCK_WAIT=0.05):
        async with guard.session_lock(sid_of(client)):
            response = await client.post("/aadd/x")
        assert (response.status_code, response["Retry-After"]) == (503, "1")
        assert (await client.post("/aadd/x")).status_code == 200


@pytest.mark.parametrize("path", ["/await", "/wait"])
async def test_a_lost_lease_ends_the_request(client: AsyncClient, guard: SessionGuard, path: str) -> None:
    with override_settings(SESSION_LOCK_LEASE=1), anyio.fail_after(10):
        waiting = asyncio.ensure_future(twin_of(client).post(path))
        await asyncio.to_thread(entered)
        holder = (await guard.inspect(sid_of(client))).holder
        assert holder is not None
        assert await guard.force_release(sid_of(client), holder.token)
        if path == "/wait":  # a thread cannot be cancelled, so its answer is refused when it comes
            go_on()
        assert (await waiting).status_code == 409
    assert set(await guard.read(sid_of(client))) == {"cart"}


async def test_a_client_that_leaves_leaves_no_lock(client: AsyncClient, guard: SessionGuard) -> None:
    waiting = asyncio.ensure_future(twin_of(client).post("/await"))
    await asyncio.to_thread(entered)
    queued = asyncio.ensure_future(twin_of(client).post("/aadd/x"))
    with anyio.fail_after(10):
        while not (await guard.inspect(sid_of(client))).waiters:
            await asyncio.sleep(0.005)
    for request in (queued, waiting):
        request.cancel()
    await asyncio.wait([queued, waiting])
    seen = await guard.inspect(sid_of(client))
    assert (seen.holder, seen.waiters) == (None, ())


async def test_a_stream_holds_nothing(client: AsyncClient, guard: SessionGuard) -> None:
    response = await client.post("/astream")
    assert (await guard.inspect(sid_of(client))).holder is None
    assert (await guard.read(sid_of(client)))["streamed"]
    assert [part async for part in response.streaming_content] == [b"one", b"two"]


async def test_save_and_life_travel_together(client: AsyncClient, redis_url: str) -> None:
    await client.post("/aadd/x")
    with CommandCounter(redis_url) as ran:
        await client.post("/aadd/y")
    assert ran.script_calls == 3


async def test_a_handler_that_calls_its_own_application_is_told_at_once(client: AsyncClient) -> None:
    async def view(request: Any) -> HttpResponse:
        answers = [await twin_of(client).get("/cart"), await twin_of(client).post("/aadd/x")]
        return JsonResponse({"answers": [answer.status_code for answer in answers]})

    request = AsyncRequestFactory().post("/quiet")
    request.COOKIES["sessionid"] = sid_of(client)
    with anyio.fail_after(3):
        response = await SessionLockMiddleware(view)(request)
    assert response.content == b'{"answers": [200, 409]}'


async def test_a_loop_that_ends_closes_its_connections(server: EmbeddedServer) -> None:
    def another_loop() -> None:
        async def use() -> None:
            store = SessionStore()
            await store.aset("a", 1)
            await store.asave()

        asyncio.run(use())  # ResourceWarning, which is an error here, if a connection were left

    await asyncio.to_thread(another_loop)
