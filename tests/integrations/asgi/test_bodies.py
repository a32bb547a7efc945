"""A request's body is received before its lock is taken: what the network takes is nobody else's time."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from urllib.parse import urlsplit

import pytest
from fastapi import FastAPI, UploadFile
from fastapi import Request as FastAPIRequest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from sessionlock import LeasePolicy, SessionGuard
from sessionlock.integrations.asgi import SessionLockMiddleware
from sessionlock.integrations.web.rules import RoutePolicy
from tests.harness.asgi_calls import Call, Called, app_of, browser, eventually
from tests.harness.sites import Site

pytestmark = pytest.mark.anyio

PART = b"0123456789abcdef" * 4096  # 64 KiB


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"n": 0})).sid


async def upload(request: Request) -> Response:
    digest, size = hashlib.sha256(), 0
    async for part in request.stream():
        digest.update(part)
        size += len(part)
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse([size, digest.hexdigest()])


async def free(guard: SessionGuard, sid: str) -> bool:
    return (await guard.inspect(sid)).holder is None


async def all_read(call: Call) -> bool:
    return call.unread == 0


async def held(guard: SessionGuard, sid: str) -> bool:
    return not await free(guard, sid)


async def test_a_slow_upload_holds_up_nobody(guard: SessionGuard, sid: str) -> None:
    app = app_of(guard, upload, wait=0)
    async with browser(app, sid) as client, Call(app, "POST", sid=sid) as slow:
        for _ in range(3):
            slow.body(PART, more=True)
            await eventually(lambda: all_read(slow))
            assert await free(guard, sid)
            assert (await client.post("/")).status_code == 200
        slow.body(b"end")
        assert (await slow.until("http.response.start"))["status"] == 200
        await slow.ended()
    assert (await guard.read(sid))["n"] == 4


async def test_six_uploads_at_once(guard: SessionGuard, sid: str) -> None:
    """Each may take as long as it likes, though none would wait for another."""
    app = app_of(guard, upload, wait=1)
    calls = [Call(app, "POST", sid=sid) for _ in range(6)]
    for call in calls:
        await call.__aenter__()
    for _ in range(3):
        for call in calls:
            call.body(PART, more=True)
        await asyncio.sleep(0.01)
    for call in calls:
        call.body()
    for call in calls:
        await call.ended()
        assert call.sent[0]["status"] == 200
    assert (await guard.read(sid))["n"] == 6


@pytest.mark.parametrize("parts", [1, 15, 16, 17, 48])
@pytest.mark.parametrize("limit", [None, 0, 100_000, len(PART) * 20])
async def test_it_arrives_whole(guard: SessionGuard, sid: str, parts: int, limit: int | None) -> None:
    """In memory, in a file, and beyond the limit straight from the client."""
    body = b"".join(bytes([number]) + PART[1:] for number in range(parts))
    async with Call(app_of(guard, upload, body_limit=limit), "POST", sid=sid) as call:
        for number in range(parts):
            call.body(body[number * len(PART) : (number + 1) * len(PART)], more=True)
            await asyncio.sleep(0)
        call.body(b"the end")
        await call.ended()
        expected = JSONResponse([len(body) + 7, hashlib.sha256(body + b"the end").hexdigest()]).body
        assert call.sent[1]["body"] == expected
        assert await free(guard, sid)


async def test_what_comes_beyond_the_limit_comes_under_the_lock(guard: SessionGuard, sid: str) -> None:
    routes: dict[str, Any] = {"/big": RoutePolicy(body_limit=len(PART)), "/first": RoutePolicy(body_limit=0)}
    app = app_of(guard, upload, routes=routes)
    async with Call(app, "POST", "/big", sid=sid) as call:
        call.body(PART, more=True)
        await eventually(lambda: all_read(call))
        assert await free(guard, sid)
        call.body(PART, more=True)
        await eventually(lambda: held(guard, sid))
        call.body()
        await call.ended()
        assert call.sent[0]["status"] == 200
    async with Call(app, "POST", "/first", sid=sid) as call:
        await eventually(lambda: held(guard, sid))
        call.body()
        await call.ended()


async def test_no_file_is_left_open(guard: SessionGuard, sid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files: list[Any] = []

    def noticing(**options: Any) -> Any:
        files.append(TemporaryFile(**options))  # noqa: SIM115
        return files[-1]

    monkeypatch.setattr("sessionlock.integrations.asgi.ahead.TemporaryFile", noticing)

    async def refusing(request: Request) -> Response:
        return PlainTextResponse("no", 403)

    async with Call(app_of(guard, refusing), "POST", sid=sid) as call:
        for _ in range(40):
            call.body(PART, more=True)
        call.body()
        await call.ended()
        assert call.sent[0]["status"] == 403
    (file,) = files
    assert file.closed


async def test_a_client_that_goes_away_while_it_sends(guard: SessionGuard, sid: str) -> None:
    view = Called()
    async with Call(app_of(guard, view), "POST", sid=sid) as call:
        call.body(PART, more=True)
        call.tell("http.disconnect")
        await call.ended()
        assert call.sent == []
    assert not view.was
    assert await free(guard, sid)


async def test_a_client_that_goes_away_beyond_the_limit(guard: SessionGuard, sid: str) -> None:
    """The application is told as it would be without us."""
    gone = False

    async def view(request: Request) -> Response:
        nonlocal gone
        try:
            await request.body()
        except ClientDisconnect:
            gone = True
        return Response()

    async with Call(app_of(guard, view, body_limit=10), "POST", sid=sid) as call:
        call.body(PART, more=True)
        await eventually(lambda: held(guard, sid))
        call.tell("http.disconnect")
        await call.ended()
    assert gone
    assert await free(guard, sid)


async def test_a_visitor_without_a_session_locks_nothing(guard: SessionGuard) -> None:
    """So nothing of the body is kept for it: the application may refuse it half way."""
    entered = asyncio.Event()

    async def view(request: Request) -> Response:
        entered.set()
        return await upload(request)

    async with Call(app_of(guard, view), "POST") as call:
        call.body(PART, more=True)
        await asyncio.wait_for(entered.wait(), 5)
        call.body()
        await call.ended()
        assert call.sent[0]["status"] == 200


async def test_files_of_a_form(guard: SessionGuard, sid: str) -> None:
    app = FastAPI()
    app.add_middleware(SessionLockMiddleware, guard=guard)

    @app.post("/")
    async def view(request: FastAPIRequest, file: UploadFile) -> list[Any]:
        request.session["name"] = file.filename
        return [file.filename, hashlib.sha256(await file.read()).hexdigest()]

    content = PART * 40
    async with browser(app, sid) as client:
        answer = await client.post("/", files={"file": ("a.bin", content)})
        assert answer.json() == ["a.bin", hashlib.sha256(content).hexdigest()]
    assert (await guard.read(sid))["name"] == "a.bin"


# --- the lease --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("changes", [False, True])
async def test_who_changed_nothing_is_not_ended_for_its_lease(guard: SessionGuard, sid: str, changes: bool) -> None:
    async def view(request: Request) -> Response:
        request.session.get("n")
        if changes:
            request.session["n"] = 7
        await asyncio.sleep(0.8)
        return PlainTextResponse("done")

    async with browser(app_of(guard, view, lease=LeasePolicy(ttl=0.2, max_hold=0.2)), sid) as client:
        answer = await client.post("/")
        assert (answer.status_code, answer.text if not changes else "") == ((409, "") if changes else (200, "done"))
    assert (await guard.read(sid))["n"] == 0
    assert await free(guard, sid)


# --- a real server ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["starlette", "fastapi"])
async def test_an_upload_to_a_server(name: str, redis_url: str, guard: SessionGuard, tmp_path: Path) -> None:
    """It dawdles; meanwhile requests that would wait 0.3 s go through. Another one hangs up half way, and is gone."""
    with Site(name, redis_url, tmp_path, workers=1) as site:
        async with site.visitor() as visitor:
            where = urlsplit(site.url)
            head = (
                f"POST /add?item=slow HTTP/1.1\r\nhost: {where.netloc}\r\ncookie: session_id={visitor.sid}\r\n"
                "content-length: 6\r\nconnection: close\r\n\r\n"
            ).encode()
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            _, leaving = await asyncio.open_connection(where.hostname, where.port)
            for sending in (writer, leaving):
                sending.write(head + b"abc")
                await sending.drain()
            for number in range(3):
                assert (await visitor.ask("POST", f"/brief?item={number}")).status_code == 200
                await asyncio.sleep(0.05)
            leaving.close()
            writer.write(b"def")
            assert b" 200 " in (await reader.read()).splitlines()[0]
            writer.close()
            assert await free(guard, visitor.sid)
            assert (await visitor.ask("GET", "/cart")).json() == ["first", "0", "1", "2", "slow"]
        site.stop()
        assert "Traceback" not in site.told()
