"""What a second run finds, what else may end a run, and conflicts that a handler meets by itself."""

from __future__ import annotations

import asyncio
import logging
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import Depends, FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sessionlock import Session, SessionConflict, SessionGuard
from sessionlock.integrations.asgi.middleware import SessionLockMiddleware
from sessionlock.integrations.fastapi import locked_session
from sessionlock.integrations.web.rules import RoutePolicy
from tests.harness.asgi_calls import Call, app_of, browser, eventually
from tests.harness.asgi_visits import Visits, around, dying_of_it, in_another_task, plain

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"n": 0})).sid


# --- fresh ------------------------------------------------------------------------------------------------------------

OUTER: ContextVar[str] = ContextVar("outer", default="nobody's")
INNER: ContextVar[str] = ContextVar("inner", default="nobody's")


async def test_the_second_run_finds_the_request_as_it_came(guard: SessionGuard, sid: str, visits: Visits) -> None:
    found: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append([sorted(scope), dict(scope["state"]), list(scope["headers"]), OUTER.get(), INNER.get()])
        scope["user"] = scope["state"]["user"] = "somebody"
        scope["headers"].append((b"x-changed", b"1"))
        OUTER.set("changed")
        INNER.set("changed")
        run = await visits(scope["session"])
        scope["route"] = f"of run {run}"
        await PlainTextResponse(f"run {run}")(scope, receive, send)

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        OUTER.set("set outside")
        INNER.set("before")
        scope["state"] = {"request": 7}

        async def sending(message: Any) -> None:
            seen.append((scope.get("route"), scope["state"].get("user")))
            await send(message)

        await around(app, guard)(scope, receive, sending)

    seen: list[Any] = []
    async with Call(outer, sid=sid) as call:
        await call.ended()
        assert call.sent[-1]["body"] == b"run 2"
    first, second = found
    assert first == second
    assert second[1:] == [{"request": 7}, [(b"cookie", f"session_id={sid}".encode())], "set outside", "before"]
    assert seen == [("of run 2", "somebody")] * 2


@pytest.mark.parametrize("parts", [[b"one ", b"two"], [b"x" * 40_000, b""]])
async def test_a_body_is_given_to_both(guard: SessionGuard, sid: str, visits: Visits, parts: list[bytes]) -> None:
    async def view(request: Request) -> Response:
        body = await request.body()
        run = await visits(request.session)
        return JSONResponse([run, len(body), await request.is_disconnected()])

    async with Call(app_of(guard, view), sid=sid) as call:
        for part in parts:
            call.body(part, more=part is not parts[-1])
        await call.ended()
        size = sum(map(len, parts))
        assert call.sent[-1]["body"] == f"[2,{size},false]".encode()


async def test_a_body_that_is_too_long_to_be_kept(guard: SessionGuard, sid: str, visits: Visits) -> None:
    async def view(request: Request) -> Response:
        await request.body()
        return JSONResponse(await visits(request.session))

    async with Call(app_of(guard, view), sid=sid) as call:
        call.body(b"x" * 40_000, more=True)
        call.body(b"x" * 40_000)
        await call.ended()
        assert [message.get("status") for message in call.sent] == [409, None]
    assert visits.runs == 1
    assert await visits.stored() == 10


async def test_what_is_told_before_the_answer_is_the_second_runs(guard: SessionGuard, sid: str, visits: Visits) -> None:
    """Starlette's templates show themselves to its test client before they answer."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        run = await visits(scope["session"])
        await send({"type": "http.response.debug", "info": {"run": run}})
        await PlainTextResponse(f"run {run}")(scope, receive, send)

    async with Call(around(app, guard), sid=sid) as call:
        await call.ended()
        assert [message["type"].split(".")[-1] for message in call.sent] == ["debug", "start", "body"]
        assert call.sent[0]["info"] == {"run": 2}


# --- who else may end it ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 11), reason="nobody counts cancellations")
async def test_a_server_that_gives_up_meanwhile(guard: SessionGuard, sid: str, visits: Visits) -> None:
    """Cancelled by somebody else, too: then it is not run again."""
    clean_up, cleaning = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        run = await visits(scope["session"])
        try:
            await PlainTextResponse(f"run {run}")(scope, receive, send)
        except asyncio.CancelledError:
            cleaning.set()
            try:
                await clean_up.wait()
            finally:
                clean_up.set()
            raise

    async with Call(around(app, guard), sid=sid) as call:
        await asyncio.wait_for(cleaning.wait(), 5)
    assert clean_up.is_set()
    assert call.sent == []
    assert visits.runs == 1
    assert (await guard.inspect(sid)).holder is None


async def test_a_time_limit_around(guard: SessionGuard, sid: str, visits: Visits) -> None:
    """anyio's and asyncio's time limits around the middleware do not take our cancellation for theirs."""

    async def outer(scope: Any, receive: Any, send: Any) -> None:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as group:
                group.start_soon(around(in_another_task(visits, Path()), guard), scope, receive, send)

    async with Call(outer, sid=sid) as call:
        await call.ended()
        assert call.sent[-1]["body"] == b"run 2"


async def test_an_abandoned_run_that_fails_is_told(
    guard: SessionGuard, sid: str, visits: Visits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sessionlock.web"):
        async with Call(around(dying_of_it(visits, tmp_path), guard), sid=sid) as call:
            await call.ended()
    (record,) = [record for record in caplog.records if "abandoned" in record.getMessage()]
    assert record.exc_info is not None
    assert "cannot stand it" in str(record.exc_info[1])


async def test_an_unsafe_request_is_not_run_again(guard: SessionGuard, sid: str) -> None:
    visits = Visits(guard, sid, clashes=0)
    async with browser(around(plain(visits, Path()), guard), sid) as client:
        assert (await client.post("/")).status_code == 405
        assert (await client.get("/")).text == "run 1"
    assert visits.background == [1]


# --- conflicts before the answer --------------------------------------------------------------------------------------


async def saves(visits: Visits, session: Any, how: str) -> Response:
    run = await visits(session)
    try:
        await session.sessionlock.save()
    except SessionConflict:
        if how == "raises":
            raise
        if how == "raises another":
            raise LookupError("could not save") from None
        return PlainTextResponse(f"run {run} could not save", 500 if how == "answers 500" else 200)
    return PlainTextResponse(f"run {run}")


@pytest.mark.parametrize("how", ["raises", "raises another", "answers 500"])
async def test_a_save_of_the_handlers_own(guard: SessionGuard, sid: str, visits: Visits, how: str) -> None:
    async def view(request: Request) -> Response:
        return await saves(visits, request.session, how)

    async with browser(app_of(guard, view), sid) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.text) == (200, "run 2")
    assert await visits.stored() == 11


async def test_a_save_from_a_thread(guard: SessionGuard, sid: str, visits: Visits) -> None:
    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=guard)

    @app.get("/")
    def view(request: Request) -> str:
        run = anyio.from_thread.run(visits, request.session)
        request.session.sessionlock.save()  # type: ignore[attr-defined]
        return f"run {run}"

    async with browser(app, sid) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.json()) == (200, "run 2")
    assert await visits.stored() == 11


async def test_a_lock_that_a_handler_takes_too_late(guard: SessionGuard, sid: str, visits: Visits) -> None:
    """What was changed before FastAPI's dependency locks is saved first; that it cannot be is no conflict, either."""
    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=guard)

    async def counted(request: Request) -> int:
        return await visits(request.session)

    @app.get("/")
    async def view(
        run: int = Depends(counted),
        session: Session = Depends(locked_session),  # noqa: B008
    ) -> list[Any]:
        session["n"] += 1
        return [run, session.lease is not None]

    async with browser(app, sid) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.json()) == (200, [2, True])
    assert visits.runs == 2
    assert await visits.stored() == 12


async def test_turned_off(guard: SessionGuard, sid: str, visits: Visits, tmp_path: Path) -> None:
    routes: dict[str, Any] = {"/": RoutePolicy(on_conflict="answer")}
    for options in ({"routes": routes}, {"on_conflict": "answer"}, {"mode": "optimistic"}):
        visits.left, visits.runs = 1, 0
        async with browser(around(plain(visits, tmp_path), guard, **options), sid) as client:
            assert (await client.get("/")).status_code == 409
        assert visits.runs == 1


async def test_a_route_that_conflicted_is_locked_at_once(guard: SessionGuard, sid: str) -> None:
    seen: list[bool] = []

    async def view(request: Request) -> Response:
        seen.append(request.session.sessionlock.lease is not None)  # type: ignore[attr-defined]
        return PlainTextResponse(str(await visits(request.session)))

    visits = Visits(guard, sid)
    async with browser(app_of(guard, view), sid) as client:
        for _ in range(2):
            assert (await client.get("/counter")).status_code == 200
        assert (await client.get("/other")).status_code == 200
    assert seen == [False, True, True, False]


@pytest.mark.parametrize("reads", [True, False])
async def test_a_client_that_leaves_between_the_runs(
    guard: SessionGuard, redis_url: str, sid: str, visits: Visits, reads: bool
) -> None:
    """The second run waits for the lock; nobody waits for its answer any more."""

    async def view(request: Request) -> Response:
        if reads:
            await request.body()
        run = await visits(request.session)
        await elsewhere.__aenter__()  # somebody takes the lock before the second run can
        return PlainTextResponse(f"run {run}")

    async def one_waits() -> bool:
        return len((await guard.inspect(sid)).waiters) == 1

    async with SessionGuard.from_url(redis_url) as other:
        elsewhere = other.session_lock(sid)
        async with Call(app_of(guard, view, wait=30), sid=sid) as call:
            call.body()
            await eventually(one_waits)
            call.tell("http.disconnect")
            await call.ended()
            assert call.sent == []
            assert not call.cancelling
            assert (await guard.inspect(sid)).waiters == ()
        await elsewhere.__aexit__(None, None, None)
    assert visits.runs == 1
    assert await visits.stored() == 10


async def test_a_second_run_that_waits_in_vain(guard: SessionGuard, redis_url: str, sid: str, visits: Visits) -> None:
    async def view(request: Request) -> Response:
        run = await visits(request.session)
        await elsewhere.__aenter__()
        return PlainTextResponse(f"run {run}")

    async with SessionGuard.from_url(redis_url) as other:
        elsewhere = other.session_lock(sid)
        async with browser(app_of(guard, view, wait=0.1), sid) as client:
            answer = await client.get("/")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        await elsewhere.__aexit__(None, None, None)
    assert await visits.stored() == 10
