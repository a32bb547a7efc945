"""The middleware in each framework: what it locks, what it lets through, and what errors become."""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import anyio
import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sessionlock import LeasePolicy, Session, SessionGuard, SessionPolicy, WaitPolicy, configure
from sessionlock.errors import ConfigurationError, SessionConflict, WaitTimedOut
from sessionlock.integrations.asgi import SessionLockMiddleware
from sessionlock.integrations.web.problems import Problem, Problems
from sessionlock.integrations.web.rules import RoutePolicy
from tests.harness.asgi_calls import Call, Called, app_of, browser, eventually
from tests.harness.asgi_shops import SHOPS, guarded
from tests.harness.faulty import FaultyServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"cart": []})).sid


class Empty(enum.Enum):
    """As Litestar marks a session that is to be cleared."""

    EMPTY = "empty"


async def data(guard: SessionGuard, sid: str) -> dict[str, Any]:
    return dict(await guard.read(sid))


async def free(guard: SessionGuard, sid: str) -> bool:
    return (await guard.inspect(sid)).holder is None


# --- the four frameworks ----------------------------------------------------------------------------------------------


@pytest.fixture(params=SHOPS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def visitor(framework: str, guard: SessionGuard) -> AsyncIterator[httpx.AsyncClient]:
    async with browser(guarded(framework, guard)) as client:
        yield client


async def test_parallel_requests_lose_nothing(visitor: httpx.AsyncClient) -> None:
    first = await visitor.post("/add", params={"item": "first"})
    assert first.status_code < 300
    answers = await asyncio.gather(*(visitor.post("/add", params={"item": str(n)}) for n in range(20)))
    assert sorted(answer.json()["items"] for answer in answers) == list(range(2, 22))
    cart = (await visitor.get("/cart")).json()
    assert cart[0] == "first"
    assert sorted(map(int, cart[1:])) == list(range(20))


async def test_a_handler_that_fails_saves_nothing(visitor: httpx.AsyncClient, guard: SessionGuard) -> None:
    await visitor.post("/add", params={"item": "kept"})
    assert (await visitor.post("/boom")).status_code == 500
    assert await free(guard, visitor.cookies["session_id"])
    assert (await visitor.get("/cart")).json() == ["kept"]


async def test_who_reads_nothing_stored_gets_no_session(visitor: httpx.AsyncClient) -> None:
    answer = await visitor.get("/cart")
    assert answer.json() == []
    assert "set-cookie" not in answer.headers


async def test_an_emptied_session_ends(visitor: httpx.AsyncClient, guard: SessionGuard) -> None:
    await visitor.post("/add", params={"item": "a"})
    sid = visitor.cookies["session_id"]
    answer = await visitor.post("/empty")
    assert answer.status_code < 300
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert not visitor.cookies
    info = await guard.inspect(sid)
    assert (info.destroyed, info.holder) == (True, None)


def through_starlette(app: Any) -> list[str]:
    from starlette.testclient import TestClient

    with TestClient(app) as client:
        client.post("/add", params={"item": "a"})
        client.post("/add", params={"item": "b"})
        return list(client.get("/cart").json())


def through_litestar(app: Any) -> list[str]:
    from litestar.testing import TestClient

    with TestClient(app) as client:
        client.post("/add", params={"item": "a"})
        client.post("/add", params={"item": "b"})
        return list(client.get("/cart").json())


def through_quart(app: Any) -> list[str]:
    async def visit() -> list[str]:
        async with app.test_app() as running:
            client = running.test_client()
            await client.post("/add?item=a")
            await client.post("/add?item=b")
            return list(await (await client.get("/cart")).get_json())

    return asyncio.run(visit())


OWN_CLIENTS: dict[str, Callable[[Any], list[str]]] = {
    "starlette": through_starlette,
    "fastapi": through_starlette,
    "litestar": through_litestar,
    "quart": through_quart,
}


@pytest.mark.filterwarnings("ignore:Using `httpx` with")  # Starlette would rather have another one
async def test_their_own_test_clients(framework: str, redis_url: str, guard: SessionGuard) -> None:
    """With an application that starts and ends; its guard is closed then."""
    client = guard.runtime().topology.client
    connections = len(await client.client_list())
    if framework == "litestar":
        own = SessionGuard.from_url(redis_url)
        app = guarded(framework, own)
        app.on_shutdown.append(own.aclose)
    else:
        app = guarded(framework, redis_url)
    assert await anyio.to_thread.run_sync(OWN_CLIENTS[framework], app) == ["a", "b"]
    assert len(await client.client_list()) == connections


# --- what waits and what does not -------------------------------------------------------------------------------------


class Slow:
    """A view that holds its session until it is told to go on; GET answers at once."""

    def __init__(self) -> None:
        self.inside = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        if request.method == "POST":
            request.session["n"] = request.session.get("n", 0) + 1
            self.inside.set()
            await self.go_on.wait()
        return JSONResponse(request.session.get("n", 0))


async def test_reads_do_not_wait_for_a_slow_handler(guard: SessionGuard, sid: str) -> None:
    slow = Slow()

    async def view(request: Request) -> Response:
        return await slow(request)

    async with browser(app_of(guard, view), sid) as client:
        post = asyncio.create_task(client.post("/"))
        await asyncio.wait_for(slow.inside.wait(), 5)
        answers = await asyncio.wait_for(asyncio.gather(*(client.get("/") for _ in range(20))), 3)
        assert [answer.json() for answer in answers] == [0] * 20
        assert not await free(guard, sid)
        slow.go_on.set()
        assert (await post).json() == 1
        assert (await client.get("/")).json() == 1


async def test_the_holder_is_named_by_its_route(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        holder = (await guard.inspect(sid)).holder
        return PlainTextResponse(holder.label if holder else "nobody")

    async with browser(app_of(guard, view), sid) as client:
        assert (await client.post("/checkout/7?card=secret")).text.endswith(" POST /{rest:path}")
        assert (await client.get("/checkout/7")).text == "nobody"


async def test_a_safe_request_that_changed_something_merges(redis_url: str) -> None:
    policy = SessionPolicy(merge={"visits": "counter"})
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def view(request: Request) -> Response:
        request.session["visits"] = request.session.get("visits", 0) + 1
        if request.url.path == "/slow":
            entered.set()
            await go_on.wait()
        return Response()

    async with SessionGuard.from_url(redis_url, session=policy) as guard:
        sid = (await guard.create({"visits": 10})).sid
        async with browser(app_of(guard, view), sid) as client:
            slow = asyncio.create_task(client.get("/slow"))
            await asyncio.wait_for(entered.wait(), 5)
            assert (await client.get("/")).status_code == 200
            go_on.set()
            assert (await slow).status_code == 200
        assert await data(guard, sid) == {"visits": 12}


async def test_routes_have_modes_of_their_own(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        session = request.scope.get("session")
        return JSONResponse("none" if session is None else "lock" if session.sessionlock.lease else "free")

    routes: dict[str, Any] = {
        "/static/**": "off",
        "POST /search": "optimistic",
        "GET /report/{name}": RoutePolicy("lock"),
    }
    async with browser(app_of(guard, view, routes=routes), sid) as client:
        assert (await client.get("/static/css/site.css")).json() == "none"
        assert (await client.post("/search")).json() == "free"
        assert (await client.get("/report/7")).json() == "lock"
        assert (await client.get("/report/7/more")).json() == "free"
        assert (await client.post("/")).json() == "lock"


async def test_a_mounted_application_with_the_same_middleware(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        request.session["n"] = 1
        return Response()

    async with browser(SessionLockMiddleware(app_of(guard, view), guard), sid) as client:
        assert (await client.post("/")).status_code == 200
    assert (await data(guard, sid))["n"] == 1


async def test_the_default_guard(guard: SessionGuard, sid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessionlock.default._default", None)

    async def view(request: Request) -> Response:
        request.session["n"] = 1
        return Response()

    app = app_of(None, view)
    async with browser(app, sid) as client:
        assert (await client.post("/")).status_code == 500
        configure(guard)
        assert (await client.post("/")).status_code == 200
    assert (await data(guard, sid))["n"] == 1


async def test_what_makes_no_sense_is_refused_at_once() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None: ...

    for options in ({"mode": "sometimes"}, {"routes": {"cart": "lock"}}, {"wait": -1}, {"cookie": "a b"}):
        with pytest.raises(ConfigurationError):
            SessionLockMiddleware(app, **options)


@pytest.mark.parametrize("put", [{"new": 1}, None, Empty.EMPTY, ["list"], {}])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_stands_in_its_place_is_not_taken(guard: SessionGuard, sid: str, put: Any, method: str) -> None:
    """It is somebody else's; what the application had done with the session before stays."""

    async def view(request: Request) -> Response:
        request.session["n"] = 1
        request.scope["session"] = put
        return Response()

    async with browser(app_of(guard, view), sid) as client:
        assert (await client.request(method, "/")).status_code == 200
        assert client.cookies["session_id"] == sid
    assert await data(guard, sid) == {"cart": [], "n": 1}
    assert await free(guard, sid)


# --- errors -----------------------------------------------------------------------------------------------------------


def told(answer: httpx.Response, sid: str) -> dict[str, Any]:
    """The problem that an answer tells; never the id."""
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert sid not in answer.text
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == answer.status_code
    assert set(problem) == {"type", "title", "status", "detail"}
    return problem


async def ok(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return Response()


async def test_waiting_in_vain_is_503(guard: SessionGuard, elsewhere: SessionGuard, sid: str) -> None:
    routes: dict[str, Any] = {"/patient": RoutePolicy(wait=30)}
    async with browser(app_of(guard, ok, wait=0.05, routes=routes), sid) as client:
        async with elsewhere.session_lock(sid):
            answer = await client.post("/")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            assert "being handled" in told(answer, sid)["detail"]
            patient = asyncio.create_task(client.post("/patient"))
            await eventually(lambda: waiting(guard, sid, 1))
        assert (await patient).status_code == 200


async def waiting(guard: SessionGuard, sid: str, number: int) -> bool:
    return len((await guard.inspect(sid)).waiters) == number


async def test_a_full_queue_is_429(guard: SessionGuard, elsewhere: SessionGuard, sid: str) -> None:
    async with browser(app_of(guard, ok, wait=WaitPolicy(max_waiters=1)), sid) as client:
        async with elsewhere.session_lock(sid):
            patient = asyncio.create_task(client.post("/"))
            await eventually(lambda: waiting(guard, sid, 1))
            answer = await client.post("/")
            assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
            told(answer, sid)
        assert (await patient).status_code == 200


async def test_redis_away_is_503(own_server: Callable[..., FaultyServer]) -> None:
    server = own_server()
    async with SessionGuard.from_url(server.unix_url, retry_for=0.1, reply_within=0.5) as guard:
        sid = (await guard.create({"a": 1})).sid
        async with browser(app_of(guard, ok), sid) as client:
            assert (await client.post("/")).status_code == 200
            server.kill()
            for method in ("POST", "GET"):
                answer = await client.request(method, "/")
                assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                told(answer, sid)


@pytest.mark.slow
async def test_redis_away_when_it_is_to_be_saved_is_503(own_server: Callable[..., FaultyServer]) -> None:
    server = own_server()

    async def view(request: Request) -> Response:
        request.session["n"] = 1
        server.kill()
        return PlainTextResponse("saved")

    async with SessionGuard.from_url(server.unix_url, retry_for=0.1, reply_within=0.5) as guard:
        sid = (await guard.create({"a": 1})).sid
        async with browser(app_of(guard, view), sid) as client:
            answer = await client.post("/")
            assert answer.status_code == 503
            told(answer, sid)


async def test_a_conflict_is_409(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        request.session["cart"].append("mine")
        async with guard.session_lock(sid) as session:
            session["cart"].append("theirs")
        return PlainTextResponse("bought")

    async with browser(app_of(guard, view, mode="optimistic"), sid) as client:
        answer = await client.get("/")
        assert answer.status_code == 409
        assert "nothing of this request was saved" in told(answer, sid)["detail"]
    assert await data(guard, sid) == {"cart": ["theirs"]}


async def test_a_lock_that_was_taken_away_is_409(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        request.session["cart"].append("late")
        holder = (await guard.inspect(sid)).holder
        assert holder is not None
        assert await guard.force_release(sid, holder.token)
        return PlainTextResponse("bought")

    async with browser(app_of(guard, view), sid) as client:
        answer = await client.post("/")
        assert answer.status_code == 409
        told(answer, sid)
    assert await data(guard, sid) == {"cart": []}


@pytest.mark.parametrize("framework", SHOPS)
async def test_a_handler_that_takes_too_long_is_ended(
    guard: SessionGuard, sid: str, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def add(session: Session, item: str) -> dict[str, Any]:
        session["cart"].append(item)
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()
        return {}

    monkeypatch.setattr("tests.harness.asgi_shops.handlers.add", add)
    lease = LeasePolicy(ttl=0.2, max_hold=0.2)
    async with browser(guarded(framework, guard, lease=lease), sid) as client:
        answer = await asyncio.wait_for(client.post("/add?item=late"), 10)
        assert answer.status_code == 409
        told(answer, sid)
        await asyncio.wait_for(ended.wait(), 5)
    assert await data(guard, sid) == {"cart": []}


async def test_an_error_of_the_handlers_own_lock(guard: SessionGuard, elsewhere: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        async with guard.lock("stock", wait=0):
            return Response()

    async with browser(app_of(guard, view), sid) as client:
        async with elsewhere.lock("stock"):
            told(await client.post("/"), sid)
        assert (await client.post("/")).status_code == 200


async def test_answers_of_ones_own(guard: SessionGuard, elsewhere: SessionGuard, sid: str) -> None:
    def change(error: Exception, problem: Problem) -> Problem | None:
        if isinstance(error, SessionConflict):
            return None
        return Problem(problem.status, "", content_type="text/html", body=b"<h1>Busy</h1>")

    async def view(request: Request) -> Response:
        request.session["cart"] = ["mine"]
        async with guard.session_lock(sid) as session:
            session["cart"] = ["theirs"]
        return Response()

    problems = Problems({WaitTimedOut: 423}, change=change)
    routes: Any = {"GET /": "optimistic"}
    async with browser(app_of(guard, view, wait=0, problems=problems, routes=routes), sid) as client:
        assert (await client.get("/")).status_code == 500
        async with elsewhere.session_lock(sid):
            answer = await client.post("/")
            assert (answer.status_code, answer.text) == (423, "<h1>Busy</h1>")
            assert answer.headers["content-type"] == "text/html"
            assert (await client.post("/", headers={"x": "y"})).status_code == 423
    with pytest.raises(ConfigurationError):
        Problems({WaitTimedOut: 200})


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html; charset=utf-8"),
        ("application/json", "application/problem+json"),
        ("*/*", "application/problem+json"),
    ],
)
async def test_a_page_for_browsers(
    guard: SessionGuard, elsewhere: SessionGuard, sid: str, accept: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with browser(app_of(guard, ok, wait=0), sid) as client, elsewhere.session_lock(sid):
        with caplog.at_level(logging.WARNING, "sessionlock.web"):
            answer = await client.post("/cart", headers={"accept": accept})
        assert (answer.status_code, answer.headers["content-type"]) == (503, kind)
        assert sid not in answer.text
    (record,) = caplog.records
    assert record.getMessage().startswith("POST /{rest:path}: WaitTimedOut")


async def test_a_problem_has_no_body_for_head(guard: SessionGuard, elsewhere: SessionGuard, sid: str) -> None:
    async with browser(app_of(guard, ok, mode="lock", wait=0), sid) as client, elsewhere.session_lock(sid):
        answer = await client.head("/")
        assert (answer.status_code, answer.content) == (503, b"")


async def test_failed_requests_are_saved_if_that_is_wanted(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        request.session["tries"] = request.session.get("tries", 0) + 1
        if request.url.path == "/raise":
            raise RuntimeError
        return Response(status_code=int(request.url.path[1:]))

    async with browser(app_of(guard, view), sid) as client:
        await client.post("/404")
        assert (await data(guard, sid))["tries"] == 1
        await client.post("/503")
        await client.post("/raise")
        await client.get("/500")
        assert (await data(guard, sid))["tries"] == 1
    async with browser(app_of(guard, view, save_on_error=True), sid) as client:
        await client.post("/503")
        await client.post("/raise")
        assert (await data(guard, sid))["tries"] == 3
    assert await free(guard, sid)


async def test_an_application_that_answers_nothing(guard: SessionGuard, sid: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["session"]["cart"].append("a")

    async with Call(SessionLockMiddleware(app, guard), "POST", sid=sid) as call:
        call.body()
        await call.ended()
        assert call.sent == []
    assert await free(guard, sid)
    assert await data(guard, sid) == {"cart": []}


# --- a request that makes another one ---------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", SHOPS)
async def test_an_application_that_calls_itself(
    guard: SessionGuard, sid: str, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def add(session: Any, item: str) -> dict[str, Any]:
        if item == "inner":
            return {"items": len(session["cart"])}
        session["cart"].append(item)
        async with browser(app, sid) as client:
            started = time.monotonic()
            post = await client.post("/add?item=inner")
            get = await client.get("/cart")
            assert time.monotonic() - started < 2
            if item == "release":
                await session.sessionlock.release()
            again = await client.post("/add?item=inner")
        return {"post": [post.status_code, post.json()], "get": get.json(), "again": again.status_code}

    monkeypatch.setattr("tests.harness.asgi_shops.handlers.add", add)
    app = guarded(framework, guard)
    async with browser(app, sid) as client:
        answer = (await client.post("/add?item=outer")).json()
        status, problem = answer["post"]
        assert (status, answer["get"], answer["again"]) == (409, [], 409)
        assert "while handling another request that holds the same session" in problem["detail"]
        released = (await client.post("/add?item=release")).json()
        assert released["again"] < 300
    assert await data(guard, sid) == {"cart": ["outer", "release"]}


# --- clients that leave -----------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_leaves_the_queue(guard: SessionGuard, sid: str) -> None:
    view = Called()
    app = app_of(guard, view, wait=30)
    async with guard.session_lock(sid), Call(app, "POST", sid=sid) as call:
        call.body()
        await eventually(lambda: waiting(guard, sid, 1))
        call.tell("http.disconnect")
        await call.ended()
        assert (await guard.inspect(sid)).waiters == ()
    assert not view.was
    assert call.sent == []
    assert await free(guard, sid)


async def test_a_body_that_came_while_waiting_is_complete(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        body = await request.body()
        gone = await request.is_disconnected()
        return JSONResponse([body.decode(), gone])

    async with Call(app_of(guard, view, wait=30), "POST", sid=sid) as call:
        async with guard.session_lock(sid):
            call.body(b"one ", more=True)
            call.body(b"two ", more=True)
            await eventually(lambda: nothing_unread(call))
            assert await waiting(guard, sid, 0)
            call.body(b"three")
            await eventually(lambda: waiting(guard, sid, 1))
        answer = await call.until("http.response.body")
        assert answer["body"] == b'["one two three",false]'
        await call.ended()


async def nothing_unread(call: Call) -> bool:
    return call.unread == 0


async def test_not_more_than_a_little_is_read_ahead(guard: SessionGuard, sid: str) -> None:
    async def view(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async with Call(app_of(guard, view, wait=30, body_limit=0), "POST", sid=sid) as call:
        async with guard.session_lock(sid):
            for _ in range(4):
                call.body(b"x" * 40_000, more=True)
            await eventually(lambda: waiting(guard, sid, 1))
            await eventually(lambda: unread_is(call, 2))
        call.body()
        assert (await call.until("http.response.body"))["body"] == b"160000"


async def unread_is(call: Call, number: int) -> bool:
    return call.unread == number


async def test_a_server_that_gives_up_in_the_handler(guard: SessionGuard, sid: str) -> None:
    slow = Slow()

    async def view(request: Request) -> Response:
        return await slow(request)

    async with Call(app_of(guard, view), "POST", sid=sid) as call:
        call.body()
        await asyncio.wait_for(slow.inside.wait(), 5)
        assert not await free(guard, sid)
    await eventually(lambda: free(guard, sid))
    assert "n" not in await data(guard, sid)
