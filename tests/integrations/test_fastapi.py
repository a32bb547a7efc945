"""The session as a FastAPI dependency: locked where it is asked for, saved inside."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from sessionlock import Session, SessionGuard
from sessionlock.integrations.asgi.middleware import SessionLockMiddleware
from sessionlock.integrations.fastapi import LockedSession, locked_session
from tests.harness import import_path
from tests.harness.asgi_calls import Call, browser

pytestmark = pytest.mark.anyio

LateSession = Annotated[Session, Depends(locked_session)]  # FastAPI leaves it only after the answer


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"cart": []})).sid


def app_of(guard: SessionGuard, mode: Any = "read") -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=guard, mode=mode, wait=0)

    async def held(session: Session) -> bool:
        return (await guard.inspect(session.sid)).holder is not None

    @app.post("/add")
    async def add(item: str, session: LockedSession) -> bool:
        cart = session.setdefault("cart", [])
        cart.append(item)
        return await held(session)

    @app.get("/late")
    async def late(item: str, session: LateSession, request: Request) -> list[Any]:
        assert request.session.sessionlock is session  # type: ignore[attr-defined]
        assert request.session == session
        session["cart"].append(item)
        return [await held(session)]

    @app.get("/threads")
    def threads(item: str, session: LockedSession) -> None:
        session["cart"].append(item)

    @app.get("/stream")
    async def stream(session: LateSession) -> StreamingResponse:
        session["cart"].append("streamed")

        async def told() -> AsyncIterator[str]:
            yield str(await held(session))

        return StreamingResponse(told())

    @app.post("/refuse")
    async def refuse(session: LockedSession) -> None:
        session["cart"].append("refused")
        raise HTTPException(404)

    @app.post("/destroyed")
    async def destroyed(session: LockedSession) -> str:
        session["cart"].append("late")
        await guard.destroy(session.sid)
        return "bought"

    @app.post("/login")
    async def login(session: LockedSession) -> None:
        await session.regenerate()

    @app.get("/before")
    async def before(request: Request, session: Annotated[Session, Depends(changed_before)]) -> None:
        session["cart"].append("after")

    @app.get("/public")
    async def public() -> None: ...

    return app


async def first_change(request: Request) -> None:
    request.session["cart"].append("before")


async def changed_before(_: Annotated[None, Depends(first_change)], session: LockedSession) -> Session:
    return session


@pytest.mark.parametrize("mode", ["read", "auto", "lock"])
async def test_it_is_locked_and_saved(guard: SessionGuard, sid: str, mode: str) -> None:
    async with browser(app_of(guard, mode), sid) as client:
        assert (await client.post("/add?item=a")).json() is True
        assert (await client.get("/late?item=b")).json() == [True]
        assert (await client.get("/threads?item=c")).status_code == 200
        assert (await guard.inspect(sid)).holder is None
    assert dict(await guard.read(sid)) == {"cart": ["a", "b", "c"]}


@pytest.mark.parametrize("mode", ["read", "auto"])
async def test_a_new_session(guard: SessionGuard, mode: str) -> None:
    async with browser(app_of(guard, mode)) as client:
        assert (await client.post("/add?item=a")).json() is False
        assert dict(await guard.read(client.cookies["session_id"])) == {"cart": ["a"]}


async def test_a_stream_does_not_hold_it(guard: SessionGuard, sid: str) -> None:
    async with Call(app_of(guard), "GET", "/stream", sid=sid) as call:
        call.body()
        await call.until("http.response.start")
        assert (await guard.inspect(sid)).holder is None
        await call.ended()
        assert b"False" in [message.get("body") for message in call.sent]
    assert dict(await guard.read(sid)) == {"cart": ["streamed"]}


async def test_what_was_changed_before_it_was_locked_is_saved(guard: SessionGuard, sid: str) -> None:
    async with browser(app_of(guard, "auto"), sid) as client:
        assert (await client.get("/before")).status_code == 200
    assert dict(await guard.read(sid)) == {"cart": ["before", "after"]}


async def test_only_who_asks_for_it_waits(guard: SessionGuard, redis_url: str, sid: str) -> None:
    async with (
        SessionGuard.from_url(redis_url) as elsewhere,
        elsewhere.session_lock(sid),
        browser(app_of(guard), sid) as client,
    ):
        assert (await client.get("/public")).status_code == 200
        assert (await client.post("/add?item=a")).status_code == 503


async def test_a_handler_that_refuses(guard: SessionGuard, sid: str) -> None:
    async with browser(app_of(guard), sid) as client:
        assert (await client.post("/refuse")).status_code == 404
        assert (await guard.inspect(sid)).holder is None
    assert dict(await guard.read(sid)) == {"cart": ["refused"]}, "a 404 is an answer"


@pytest.mark.parametrize(
    ("mode", "method"), [("optimistic", "POST"), ("auto", "POST"), ("auto", "GET"), ("lock", "GET")]
)
@pytest.mark.parametrize(("status", "tries"), [(401, 3), (303, 3), (503, 0)])
async def test_an_answer_that_is_raised(
    guard: SessionGuard, sid: str, mode: Any, method: str, status: int, tries: int
) -> None:
    """A failed login is counted, as it is when the 401 is returned. Only a 5xx saves nothing."""
    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=guard, mode=mode)

    @app.api_route("/login", methods=["GET", "POST"])
    async def login(session: LockedSession) -> None:
        session["tries"] = session.get("tries", 0) + 1
        raise HTTPException(status)

    async with browser(app, sid) as client:
        for _ in range(3):
            assert (await client.request(method, "/login")).status_code == status
    assert (await guard.read(sid)).get("tries", 0) == tries


async def test_destroyed_meanwhile(guard: SessionGuard, sid: str) -> None:
    async with browser(app_of(guard), sid) as client:
        answer = await client.post("/destroyed")
        assert answer.status_code == 409  # what it changed is refused, not dropped with a kept answer
        assert not client.cookies


async def test_a_new_id(guard: SessionGuard, sid: str) -> None:
    async with browser(app_of(guard), sid) as client:
        await client.post("/login")
        assert client.cookies["session_id"] != sid


@pytest.mark.parametrize("mode", ["read", "auto", "lock"])
async def test_logins_and_logouts_by_the_dependency(guard: SessionGuard, sid: str, mode: Any) -> None:
    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=guard, mode=mode)

    @app.post("/login")
    def login(session: LockedSession, user: int) -> None:
        session["user_id"] = user

    @app.post("/again")
    async def again(session: LockedSession) -> None:
        session.clear()
        session["user_id"] = 9

    @app.post("/logout")
    def logout(session: LockedSession) -> None:
        session.destroy()  # type: ignore[unused-coroutine]  # in a thread it is done at once

    @app.post("/clear")
    async def clear(session: LockedSession) -> None:
        session.clear()

    @app.get("/", response_model=None)
    async def show(request: Request) -> Any:
        return request.session

    async with browser(app, sid) as client:
        ids = [sid]
        for path in ("/login?user=1", "/login?user=2", "/again"):
            assert (await client.post(path)).status_code == 200
            ids.append(client.cookies["session_id"])
        assert len(set(ids)) == 4
        assert (await client.get("/")).json() == {"user_id": 9}
        for path in ("/logout", "/clear"):
            before = client.cookies["session_id"]
            assert (await client.post(path)).status_code == 200
            assert not client.cookies
            assert (await guard.inspect(before)).destroyed
            await client.post("/login?user=3")


async def test_a_middleware_that_writes_after_it(guard: SessionGuard, sid: str) -> None:
    """The request held the lock before the dependency did, and holds it still."""
    app = FastAPI()

    @app.middleware("http")
    async def writes(request: Request, call_next: Any) -> Any:
        answer = await call_next(request)
        request.session["after"] = request.session["n"]
        return answer

    app.add_middleware(SessionLockMiddleware, guard=guard)

    @app.post("/")
    async def view(session: LockedSession) -> None:
        session["n"] = 5

    async with browser(app, sid) as client:
        assert (await client.post("/")).status_code == 200
    assert await guard.read(sid) == {"cart": [], "n": 5, "after": 5}


async def test_without_the_middleware() -> None:
    app = FastAPI()

    @app.post("/")
    async def view(session: LockedSession) -> None: ...

    async with browser(app) as client:
        assert (await client.post("/")).status_code == 500


async def test_parallel_requests(redis_url: str) -> None:
    async with SessionGuard.from_url(redis_url) as guard:
        sid = (await guard.create({"cart": []})).sid
        app = FastAPI()
        app.add_middleware(SessionLockMiddleware, guard=guard, mode="read")

        @app.post("/add")
        async def add(item: str, session: LockedSession) -> None:
            cart = session["cart"]
            await asyncio.sleep(0.001)
            cart.append(item)

        async with browser(app, sid) as client:
            started = time.monotonic()
            await asyncio.gather(*(client.post(f"/add?item={number}") for number in range(20)))
            assert time.monotonic() - started < 4
        assert len((await guard.read(sid))["cart"]) == 20


OLDER = """
import asyncio, sys
import fastapi, fastapi.params

def depends(dependency=None, *, use_cache=True):
    return fastapi.params.Depends(dependency, use_cache=use_cache)

fastapi.Depends = depends
from sessionlock import SessionGuard
from sessionlock.integrations.fastapi import LockedSession, SessionLockMiddleware
from tests.harness.asgi_calls import browser

async def main(url):
    async with SessionGuard.from_url(url) as guard:
        app = fastapi.FastAPI()
        app.add_middleware(SessionLockMiddleware, guard=guard, mode="read")

        @app.post("/")
        async def view(session: LockedSession) -> bool:
            session["n"] = session.get("n", 0) + 1
            return session.lease is not None

        sid = (await guard.create({"n": 0})).sid
        async with browser(app, sid) as client:
            answers = await asyncio.gather(*(client.post("/") for _ in range(10)))
        print([answer.json() for answer in answers], (await guard.read(sid))["n"])

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.slow
def test_fastapi_before_dependencies_had_scopes(redis_url: str) -> None:
    """0.115 to 0.120, which our extra allows: the middleware saves instead."""
    environment = {**os.environ, "PYTHONPATH": import_path()}
    command = [sys.executable, "-c", OLDER, redis_url]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == f"{[True] * 10} 10", ran.stderr
