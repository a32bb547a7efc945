"""Every framework as people run it, with two workers on one port, over real HTTP and a real Redis.

The handlers are the same everywhere; ``python -m benchmarks.frameworks`` shows what the sessions that people usually
have there lose in the first of these tests.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import anyio
import pytest
import websockets

from sessionlock import SessionGuard
from sessionlock.integrations.web.problems import BUSY, NESTED
from tests.harness.asgi_calls import eventually
from tests.harness.commands import connect, keys_without_ttl
from tests.harness.sites import BRIEF, NAMES, STREAMING, TABS, WITHIN, Site, Visitor

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture(scope="module", params=NAMES)
def site(request: pytest.FixtureRequest, store: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Running; that it ended as it should is seen at the end."""
    with Site(request.param, store, tmp_path_factory.mktemp("site")) as site:
        yield site
        ends_cleanly(site)


@pytest.fixture
def guard(guard_at_store: SessionGuard) -> SessionGuard:
    return guard_at_store


@pytest.fixture
async def visitor(site: Site) -> AsyncIterator[Visitor]:
    async with site.visitor() as visitor:
        yield visitor


def ends_cleanly(site: Site) -> None:
    assert set(site.stop()) == {0}, site.told()
    assert "Traceback" not in site.told()
    assert "ERROR" not in site.told()


async def holder(guard: SessionGuard, sid: str) -> str | None:
    """Which request holds the session's lock, by method and path."""
    found = (await guard.inspect(sid)).holder
    return " ".join(found.label.split()[-2:]) if found else None


async def test_a_cart_loses_nothing(visitor: Visitor, store: str) -> None:
    filled = await visitor.fill_the_cart()
    assert max(filled.statuses) < 300
    assert sorted(map(int, filled.cart)) == list(range(TABS))
    assert len(filled.pids) == 2
    assert keys_without_ttl(store) == []


async def test_who_only_reads_does_not_wait(site: Site, visitor: Visitor, guard: SessionGuard) -> None:
    """For a request that holds the session until the others are answered."""

    async def it_holds() -> bool:
        return await holder(guard, visitor.sid) == "POST /hold"

    slow = asyncio.create_task(visitor.ask("POST", "/hold?gate=read"))
    await eventually(it_holds)
    answers = await visitor.together("GET", ["/cart"] * 20)
    assert [answer.json() for answer in answers] == [["first"]] * 20
    assert not slow.done()
    assert await it_holds()
    site.open("read")
    assert (await slow).is_success
    assert await guard.read(visitor.sid) == {"cart": ["first"], "held": "read"}


@pytest.mark.parametrize("worker", ["same", "other"])
async def test_a_handler_that_calls_its_own_site(
    visitor: Visitor, guard: SessionGuard, store: str, worker: str
) -> None:
    """As any client would, with the cookie of its visitor: refused, though the route would wait for twice as long.

    Whether the process that holds the session answers, or its sibling.
    """
    inner = await called(visitor, worker=worker, path="/add?item=inner")
    assert inner["status"] == 409
    assert inner["headers"]["content-type"] == "application/problem+json"
    assert inner["body"]["detail"] == NESTED
    assert (await called(visitor, worker=worker, method="GET", path="/cart"))["body"] == ["first"]
    await nothing_is_left(visitor, guard, store)


async def test_who_calls_its_own_site_through_a_proxy(visitor: Visitor, guard: SessionGuard, store: str) -> None:
    """It cannot be known that one waits for the other; the wait that the route allows bounds it."""
    async with relay(visitor.url) as where:
        inner = await called(visitor, where=where, path="/brief?item=inner")
        assert (inner["status"], inner["headers"]["retry-after"]) == (503, "1")
        assert inner["body"]["detail"] == BUSY
        assert (await called(visitor, where=where, method="GET", path="/cart"))["body"] == ["first"]
    await nothing_is_left(visitor, guard, store)


async def test_a_second_tab_waits(site: Site, visitor: Visitor, guard: SessionGuard) -> None:
    """It comes from this host, too, but not from the process that holds the session."""
    slow = asyncio.create_task(visitor.ask("POST", "/hold?gate=tab"))

    async def it_holds() -> bool:
        return await holder(guard, visitor.sid) == "POST /hold"

    await eventually(it_holds)
    impatient = await visitor.together("POST", ["/brief?item=second"] * 4)
    assert [answer.status_code for answer in impatient] == [503] * 4
    patient = asyncio.create_task(visitor.together("POST", ["/add?item=second", "/add?item=third"]))

    async def both_wait() -> bool:
        return len((await guard.inspect(visitor.sid)).waiters) == 2

    await eventually(both_wait)
    site.open("tab")
    assert (await slow).is_success
    assert all(answer.is_success for answer in await patient)
    assert sorted((await guard.read(visitor.sid))["cart"]) == ["first", "second", "third"]


async def called(visitor: Visitor, **asked: str) -> dict[str, Any]:
    """What a handler that holds the session was answered by its own site."""
    query = urlencode({"method": "POST", **asked})
    with anyio.fail_after(WITHIN):
        answer = await visitor.ask("POST", f"/call?{query}")
    assert answer.is_success
    told: dict[str, Any] = answer.json()
    return told


async def nothing_is_left(visitor: Visitor, guard: SessionGuard, store: str) -> None:
    """Neither lock nor place in the queue; and what the calling handler changed was saved."""
    seen = await guard.inspect(visitor.sid)
    assert (seen.holder, list(seen.waiters)) == (None, [])
    with connect(store) as redis:
        assert list(redis.scan_iter(match="*:lock")) == []
    assert await guard.read(visitor.sid) == {"cart": ["first"], "called": True}
    assert (await visitor.ask("POST", "/brief?item=after")).is_success


@asynccontextmanager
async def relay(url: str) -> AsyncIterator[str]:
    """A proxy that passes everything on, both ways; where it is to be found."""
    where = urlsplit(url)

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(where.hostname, where.port)
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


@pytest.mark.parametrize("name", ["starlette", "flask"])
async def test_a_site_of_one_process_that_calls_itself(
    name: str, store: str, guard: SessionGuard, tmp_path: Path
) -> None:
    with Site(name, store, tmp_path, workers=1) as site:
        async with site.visitor() as visitor:
            assert (await called(visitor, path="/add?item=inner"))["status"] == 409
            await nothing_is_left(visitor, guard, store)
        assert "Traceback" not in site.told()


@pytest.mark.parametrize("site", [*STREAMING, "django-asgi"], indirect=True)
async def test_who_hangs_up_leaves_the_queue(site: Site, visitor: Visitor, guard: SessionGuard) -> None:
    async def waiters() -> int:
        return len((await guard.inspect(visitor.sid)).waiters)

    async def one_waits() -> bool:
        return await waiters() == 1

    async def nobody_waits() -> bool:
        return await waiters() == 0

    async with guard.session_lock(visitor.sid):
        waiting = asyncio.create_task(visitor.ask("POST", "/add?item=late"))
        await eventually(one_waits)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await visitor.tabs[0].aclose()
        await eventually(nobody_waits)
    assert (await visitor.tabs[1].get("/cart")).json() == ["first"]


@pytest.mark.parametrize("site", STREAMING, indirect=True)
async def test_what_lives_long_holds_no_lock(site: Site, visitor: Visitor, guard: SessionGuard) -> None:
    async with LongLived(site, visitor, "short", every=0.01) as long_lived:
        assert await long_lived.tick() == 1
        assert await holder(guard, visitor.sid) is None
        async with guard.session_lock(visitor.sid, wait=BRIEF) as session:
            assert session["streamed"] is True
            session["cart"].append("second")
        assert (await visitor.ask("POST", "/brief?item=third")).is_success
        await long_lived.end()
    assert (await visitor.ask("GET", "/cart")).json() == ["first", "second", "third"]


SECONDS = 30
PER_SECOND = 4


async def test_half_a_minute_of_streams(store: str, guard: SessionGuard, tmp_path: Path) -> None:
    """All frameworks in the same half minute: events each second, a websocket, a long poll, and who needs the lock."""
    with ExitStack() as stack:
        sites = []
        for name in STREAMING:
            (tmp_path / name).mkdir()
            sites.append(stack.enter_context(Site(name, store, tmp_path / name)))
        await asyncio.gather(*(half_a_minute(site, guard) for site in sites))
        for site in sites:
            ends_cleanly(site)


async def half_a_minute(site: Site, guard: SessionGuard) -> None:
    async with site.visitor() as visitor, LongLived(site, visitor, "long", every=1) as long_lived:
        assert await long_lived.tick() == 1
        seen: set[str | None] = set()
        sampling = asyncio.create_task(sampled(guard, visitor.sid, seen))
        done = 0
        try:
            while await long_lived.tick() <= SECONDS:
                answers = await visitor.together("POST", [f"/add?item={done + n}" for n in range(PER_SECOND)])
                assert all(answer.is_success for answer in answers)
                done += PER_SECOND
        finally:
            sampling.cancel()
        assert done >= 100
        assert None in seen
        assert seen <= {None, "POST /add"}, site.name
        await long_lived.end()
        assert len((await visitor.ask("GET", "/cart")).json()) == 1 + done


async def sampled(guard: SessionGuard, sid: str, seen: set[str | None]) -> None:
    while True:
        seen.add(await holder(guard, sid))
        await anyio.sleep(0.02)


class LongLived:
    """A stream of events, a websocket, and long polls by GET and by POST, all of one session, open at the same time."""

    def __init__(self, site: Site, visitor: Visitor, gate: str, *, every: float) -> None:
        self._site = site
        self._visitor = visitor
        self._gate = gate
        self._every = every

    async def __aenter__(self) -> LongLived:
        async with AsyncExitStack() as stack:
            *_, one, other, third = self._visitor.tabs
            stream = await stack.enter_async_context(
                one.stream("POST", f"/events?gate={self._gate}&every={self._every}")
            )
            assert stream.headers["content-type"].startswith("text/event-stream")
            self._lines = stream.aiter_lines()
            cookie = "; ".join(f"{name}={value}" for name, value in one.cookies.items())
            self._socket = await stack.enter_async_context(
                websockets.connect(
                    f"{self._site.url.replace('http', 'ws')}/echo", additional_headers={"cookie": cookie}, proxy=None
                )
            )
            assert json.loads(await self._socket.recv()) == ["first"]
            self._polls = [
                asyncio.create_task(tab.request(method, f"/poll?gate={self._gate}", timeout=None))
                for tab, method in ((other, "GET"), (third, "POST"))
            ]
            stack.callback(lambda: [poll.cancel() for poll in self._polls])
            await eventually(self._polls_wait)
            self._stack = stack.pop_all()
        return self

    async def _polls_wait(self) -> bool:
        return self._site.polls(self._gate) == len(self._polls)

    async def tick(self) -> int:
        """The number of the next event."""
        async for line in self._lines:
            if line:
                return int(line.removeprefix("data: "))
        raise AssertionError("the stream ended")

    async def end(self) -> None:
        """All of them were there until now, and end well."""
        assert not any(poll.done() for poll in self._polls)
        await self._socket.send("still there?")
        assert await self._socket.recv() == "still there?"
        self._site.open(self._gate)
        assert all([(await poll).is_success for poll in self._polls])
        async for _ in self._lines:
            pass

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


@pytest.mark.parametrize(
    ("name", "more"),
    [("fastapi", []), ("flask", []), ("flask", ["--preload"])],
    ids=["fastapi", "flask", "flask-preloaded"],
)
async def test_a_thousand_requests_leave_nothing_behind(
    name: str, more: list[str], redis_url: str, tmp_path: Path
) -> None:
    """uvicorn with two workers, gunicorn with two of four threads: no thread, connection or lock is left over."""
    with connect(redis_url) as redis, Site(name, redis_url, tmp_path, *more) as site:
        others = {client["id"] for client in redis.client_list()}
        async with AsyncExitStack() as stack:
            visitors = [await stack.enter_async_context(site.visitor()) for _ in range(5)]
            carts = await asyncio.gather(*(visitor.fill_the_cart() for visitor in visitors))  # warms up
            pids = set().union(*(cart.pids for cart in carts))
            threads, connections = number_of_threads(pids), len(redis.client_list())
            for _ in range(4):
                for answers in await asyncio.gather(*(visitor.fill_more() for visitor in visitors)):
                    assert {answer.status_code for answer in answers} == {200}
                    assert {answer.json()["pid"] for answer in answers} == pids
            # A worker's pool of threads fills when it must, up to four; a leak would show a thousand times.
            assert number_of_threads(pids) <= threads + 2 * 4
            assert len(redis.client_list()) <= connections + 2 * 2
            for visitor in visitors:
                assert len((await visitor.ask("GET", "/cart")).json()) == 1 + 5 * TABS
            ends_cleanly(site)  # while the browsers are still there
        assert not any(map(is_there, pids))
        assert {client["id"] for client in redis.client_list()} <= others
        assert not list(redis.scan_iter(match="*:lock"))


def number_of_threads(pids: set[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in pids)


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
