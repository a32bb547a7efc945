"""A safe request that met a conflict runs once more, under the lock, whatever the application is made of."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from sessionlock import SessionGuard
from sessionlock.integrations.asgi.middleware import SessionLockMiddleware
from tests.harness.asgi_calls import Call, app_of, browser
from tests.harness.asgi_visits import App, Visits, around, called, dying_of_it, in_another_task, plain

pytestmark = pytest.mark.anyio

# Older ones let background tasks begin while the answer has not been sent, whatever becomes of it.
WAITS = 'pathsend" or (' in inspect.getsource(BaseHTTPMiddleware)
OLD = {"version": "3.0", "spec_version": "2.0"}


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"n": 0})).sid


# --- many at once -----------------------------------------------------------------------------------------------------


async def counting(request: Request) -> Response:
    n = request.session.get("n", 0)
    await asyncio.sleep(0.002)
    request.session["n"] = n + 1
    request.session["seen"] = [*request.session.get("seen", []), request.query_params["who"]]
    return JSONResponse(n)


def counting_in_fastapi(guard: SessionGuard) -> FastAPI:
    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=guard)

    @app.get("/async")
    async def count(request: Request) -> Any:
        return await counting(request)

    @app.get("/sync")
    def count_in_a_thread(request: Request, who: str) -> int:
        request.session["n"] = request.session.get("n", 0) + 1
        request.session["seen"] = [*request.session.get("seen", []), who]
        return 0

    return app


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "fastapi-threads", "through-base-middleware"])
async def test_twenty_gets_count_twenty(guard: SessionGuard, sid: str, framework: str) -> None:
    async def passing_on(request: Request, call_next: Any) -> Any:
        return await call_next(request)

    if framework == "starlette":
        app: Any = app_of(guard, counting)
    elif framework == "through-base-middleware":
        layers = [
            Middleware(SessionLockMiddleware, guard=guard),
            *[Middleware(BaseHTTPMiddleware, dispatch=passing_on)] * 2,
        ]
        app = Starlette(routes=[Route("/", counting)], middleware=layers)
    else:
        app = counting_in_fastapi(guard)
    path = {"fastapi": "/async", "fastapi-threads": "/sync"}.get(framework, "/")
    async with browser(app, sid) as client:
        answers = await asyncio.gather(*(client.get(path, params={"who": str(n)}) for n in range(20)))
        assert [answer.status_code for answer in answers] == [200] * 20, [answer.text for answer in answers]
    stored = await guard.read(sid)
    assert stored["n"] == 20
    assert sorted(map(int, stored["seen"])) == list(range(20))
    assert (await guard.inspect(sid)).holder is None


# --- whatever it is made of -------------------------------------------------------------------------------------------


def base_middleware(visits: Visits, folder: Path) -> App:
    async def dispatch(request: Request, call_next: Any) -> Any:
        answer = await call_next(request)
        answer.headers["x-through"] = "1"
        return answer

    async def swallowing(request: Request, call_next: Any) -> Any:
        try:
            return await call_next(request)
        except Exception:
            return PlainTextResponse("an error page", 500)

    return BaseHTTPMiddleware(BaseHTTPMiddleware(plain(visits, folder), dispatch=dispatch), dispatch=swallowing)


def compressed(visits: Visits, folder: Path) -> App:
    return GZipMiddleware(plain(visits, folder), minimum_size=10_000)


def streamed(visits: Visits, _: Path) -> App:
    async def view(request: Request) -> Response:
        run = await visits(request.session)

        async def parts() -> AsyncIterator[str]:
            yield "run "
            await asyncio.sleep(0)
            yield str(run)

        return StreamingResponse(parts(), background=BackgroundTask(visits.later, run))

    return Starlette(routes=[Route("/", view)])


def streamed_from_a_thread(visits: Visits, _: Path) -> App:
    async def view(request: Request) -> Response:
        run = await visits(request.session)

        def parts() -> Iterator[str]:
            yield "run "
            yield str(run)

        return StreamingResponse(parts(), background=BackgroundTask(visits.later, run))

    return Starlette(routes=[Route("/", view)])


def a_file(visits: Visits, folder: Path) -> App:
    async def view(request: Request) -> Response:
        run = await visits(request.session)
        where = folder / f"{run}.txt"
        where.write_text(f"run {run}")
        return FileResponse(where, background=BackgroundTask(visits.later, run))

    return Starlette(routes=[Route("/", view)])


def in_an_anyio_group(visits: Visits, folder: Path) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(plain(visits, folder), scope, receive, send)
            with anyio.move_on_after(10):
                async with anyio.create_task_group() as inner:
                    inner.start_soon(anyio.sleep, 0.001)

    return app


def in_time(visits: Visits, folder: Path) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with anyio.fail_after(10):
            await asyncio.wait_for(called(plain(visits, folder), scope, receive, send), 10)

    return app


def shielded(visits: Visits, folder: Path) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.shield(called(plain(visits, folder), scope, receive, send))

    return app


def swallowing(visits: Visits, folder: Path) -> App:
    """Takes every exception for one that it can go on after, and answers with an error page."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await plain(visits, folder)(scope, receive, send)
        except BaseException:
            with suppress(BaseException):
                await PlainTextResponse("an error page", 500)(scope, receive, send)

    return app


def swallowing_elsewhere(visits: Visits, folder: Path) -> App:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.create_task(called(plain(visits, folder), scope, receive, send))

    return app


SHAPES = [
    *(plain, base_middleware, compressed, streamed, streamed_from_a_thread, a_file, in_another_task),
    *(in_an_anyio_group, in_time, shielded, swallowing, swallowing_elsewhere, dying_of_it),
]


@pytest.mark.parametrize("asgi", [None, OLD], ids=["new", "old"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_only_the_second_run_is_seen(
    guard: SessionGuard, sid: str, visits: Visits, tmp_path: Path, shape: Any, asgi: Any
) -> None:
    tasks = asyncio.all_tasks()
    scope = {} if asgi is None else {"asgi": asgi}
    async with Call(around(shape(visits, tmp_path), guard), sid=sid, **scope) as call:
        call.body()
        await call.ended()
        starts = [message for message in call.sent if message["type"] == "http.response.start"]
        assert [start["status"] for start in starts] == [200]
        assert b"".join(message.get("body", b"") for message in call.sent) == b"run 2"
        assert not call.sent[-1].get("more_body", False)
        assert not call.cancelling
    assert visits.runs == 2
    if shape is not base_middleware or WAITS:
        assert visits.background == [2]
    assert await visits.stored() == 11
    assert (await guard.inspect(sid)).holder is None
    await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - tasks if "sessionlock" not in str(task.get_coro())}
    assert not [task for task in left if "app" in str(task.get_coro())]


async def test_what_fastapi_gives_to_a_handler(guard: SessionGuard, sid: str, visits: Visits) -> None:
    """Exit code runs for both runs, tasks for later only for the one that is answered."""
    ends: list[str] = []
    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=guard)

    async def database() -> AsyncIterator[list[str]]:
        done: list[str] = []
        try:
            yield done
            ends.append("committed")
        except BaseException as error:
            ends.append(type(error).__name__)
            raise
        finally:
            done.append("closed")

    def in_a_thread() -> Iterator[None]:
        try:
            yield
        finally:
            ends.append("thread")

    @app.get("/")
    async def view(
        request: Request,
        later: BackgroundTasks,
        db: list[str] = Depends(database),  # noqa: B008
        thread: None = Depends(in_a_thread),
    ) -> str:
        run = await visits(request.session)
        later.add_task(visits.later, run)
        return f"run {run}"

    async with browser(app, sid) as client:
        answer = await client.get("/")
        assert (answer.status_code, answer.json()) == (200, "run 2")
    assert visits.background == [2]
    first = (
        "CancelledError" if "scope" in inspect.signature(Depends).parameters else ends[1]
    )  # older: before the answer
    assert ends == ["thread", first, "thread", "committed"]
    assert await visits.stored() == 11
