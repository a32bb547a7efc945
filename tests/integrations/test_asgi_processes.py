"""Two uvicorn processes, one session: nothing is lost, and nothing that lives long holds the lock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import websockets
from support.asgi_calls import eventually
from support.asgi_shops import SHOPS
from support.commands import keys_without_ttl
from support.uvicorns import Servers

from sessionlock import SessionGuard

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

REQUESTS = 50


@pytest.fixture
async def guard(redis_url: str) -> AsyncIterator[SessionGuard]:
    async with SessionGuard.from_url(redis_url) as guard:
        yield guard


async def fill_the_cart(servers: Servers) -> tuple[list[int], list[str], set[int]]:
    """As many requests at once as a browser with too many tabs: statuses, the cart, who served it."""
    async with servers.client(0) as first:
        begun = await first.post("/add?item=first")
        sid = begun.cookies["session_id"]
    async with servers.client(0, sid) as one, servers.client(1, sid) as other:
        answers = await asyncio.gather(
            *((one, other)[number % 2].post(f"/add?item={number}") for number in range(REQUESTS))
        )
        cart = (await other.get("/cart")).json()
    return [answer.status_code for answer in answers], cart, {answer.json()["pid"] for answer in answers}


@pytest.mark.parametrize("framework", SHOPS)
async def test_a_cart_loses_nothing(framework: str, redis_url: str, tmp_path: Path) -> None:
    with Servers(framework, redis_url, tmp_path) as servers:
        statuses, cart, processes = await fill_the_cart(servers)
        assert max(statuses) < 300
        assert sorted(cart[1:], key=int) == [str(number) for number in range(REQUESTS)]
        assert len(processes) == 2
        assert set(servers.stop()) <= {0, -2}
    assert keys_without_ttl(redis_url) == []


async def test_the_usual_middleware_loses(redis_url: str, tmp_path: Path, record_property: object) -> None:
    """How much is a matter of luck; that this can be seen here shows that the test above can fail."""
    with Servers("starlette", redis_url, tmp_path, way="naive") as servers:
        statuses, cart, _ = await fill_the_cart(servers)
        print(f"without a lock {len(cart) - 1} of {REQUESTS} items are left")
        assert max(statuses) < 300
        assert len(cart) <= REQUESTS + 1


async def test_what_lives_long_holds_no_lock(redis_url: str, tmp_path: Path, guard: SessionGuard) -> None:
    sid = (await guard.create({"cart": []})).sid

    async def holder() -> str | None:
        found = (await guard.inspect(sid)).holder
        return found.label if found else None

    with Servers("live", redis_url, tmp_path) as servers:
        socket = websockets.unix_connect(
            str(servers.sockets[1]), "ws://shop.test/echo", additional_headers={"cookie": f"session_id={sid}"}
        )
        async with servers.client(0, sid) as client, client.stream("POST", "/events") as events, socket as echo:
            lines = events.aiter_lines()
            assert await anext(lines) == "data: 1"
            assert await holder() is None
            assert await echo.recv() == '["event"]'
            polls = [asyncio.create_task(client.request(method, "/poll?items=22")) for method in ("GET", "POST")]
            async with servers.client(1, sid) as other:
                for number in range(20):
                    assert (await asyncio.wait_for(other.post(f"/add?item={number}"), 5)).status_code == 200
            assert not any(poll.done() for poll in polls)
            assert await holder() is None
            assert await numbered(lines) > 1
            await echo.send("still there?")
            assert await echo.recv() == "still there?"
            async with guard.session_lock(sid, wait=1) as session:
                session["cart"].append("here")
            assert [len((await poll).json()) for poll in polls] == [22, 22]
        await eventually(lambda: gone(servers, sid))


async def numbered(lines: AsyncIterator[str]) -> int:
    """The number of the next event."""
    async for line in lines:
        if line:
            return int(line.removeprefix("data: "))
    raise AssertionError("the stream ended")


async def gone(servers: Servers, sid: str) -> bool:
    """The server is still well after the stream's client left."""
    async with servers.client(0, sid) as client:
        return (await client.post("/add?item=x")).status_code == 200


async def test_a_client_that_hangs_up_leaves_the_queue(redis_url: str, tmp_path: Path, guard: SessionGuard) -> None:
    sid = (await guard.create({"cart": []})).sid

    async def waiters() -> int:
        return len((await guard.inspect(sid)).waiters)

    async def one_waits() -> bool:
        return await waiters() == 1

    async def nobody_waits() -> bool:
        return await waiters() == 0

    with Servers("starlette", redis_url, tmp_path, number=1) as servers:
        async with guard.session_lock(sid):
            client = servers.client(0, sid)
            request = asyncio.create_task(client.post("/add?item=late"))
            await eventually(one_waits)
            request.cancel()
            with pytest.raises(asyncio.CancelledError):
                await request
            await client.aclose()
            await eventually(nobody_waits)
        async with servers.client(0, sid) as again:
            assert (await again.get("/cart")).json() == []


async def test_a_thousand_requests_leave_nothing_behind(redis_url: str, tmp_path: Path, guard: SessionGuard) -> None:
    client = guard.runtime().client
    with Servers("fastapi", redis_url, tmp_path) as servers:
        sids = [(await guard.create({"cart": []})).sid for _ in range(10)]

        async def shop(number: int) -> int:
            async with servers.client(number % 2, sids[number % 10]) as browser:
                answers = [await browser.post("/add?item=x") for _ in range(50)]
            return max(answer.status_code for answer in answers)

        assert await shop(0) == await shop(1) == 200
        connections = len(await client.client_list())
        statuses = await asyncio.gather(*(shop(number) for number in range(20)))
        assert statuses == [200] * 20
        assert len(await client.client_list()) <= connections + 2  # one for pushes, in each process that waited first
        assert sum([len((await guard.read(sid))["cart"]) for sid in sids]) == 1100
        assert set(servers.stop()) <= {0, -2}
