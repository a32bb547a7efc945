"""The time that a body takes, and that of a view which changes nothing, is nobody's time under the lock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.urls import path

from sessionlock import LeasePolicy, SessionGuard
from sessionlock.embedded import EmbeddedServer
from sessionlock.integrations.django.decorators import session_policy
from sessionlock.integrations.django.homes import close
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import connect
from tests.harness.django_site import configure, override_settings
from tests.harness.sites import Site

Request = Any
FORM = (
    b"--x\r\n"
    b'Content-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + b"x" * 300_000 + b"\r\n--x--\r\n"
)
FORM_TYPE = "multipart/form-data; boundary=x"


# --- real servers


async def slowly(body: bytes, seconds: float) -> AsyncIterator[bytes]:
    for begin in range(0, len(body), len(body) // 10 + 1):
        yield body[begin : begin + len(body) // 10 + 1]
        await anyio.sleep(seconds / 10)


async def send(tab: httpx.AsyncClient, body: bytes, seconds: float, kind: str) -> httpx.Response:
    headers = {"content-length": str(len(body)), "content-type": kind}
    return await tab.post("/upload", content=slowly(body, seconds), headers=headers)


@pytest.mark.anyio
@pytest.mark.slow
@pytest.mark.parametrize("name", ["django-wsgi", "django-asgi"])
async def test_uploads(name: str, store: str, tmp_path: Path) -> None:
    """Six slow ones at once, and somebody in a hurry; with all defaults."""
    with Site(name, store, tmp_path, DEFAULTS="1") as site:
        async with site.visitor() as visitor, SessionGuard.from_url(store) as guard:
            bodies = [(FORM, FORM_TYPE), (b"y" * 2_000_000, "application/octet-stream")] * 3
            uploads = [
                asyncio.ensure_future(send(tab, body, 2, kind))
                for tab, (body, kind) in zip(visitor.tabs[1:], bodies, strict=False)
            ]
            await anyio.sleep(0.5)
            hurried = await visitor.ask("POST", "/brief?item=quick")
            assert hurried.status_code == 200
            assert not any(upload.done() for upload in uploads)
            answers = await asyncio.gather(*uploads)
            assert [answer.status_code for answer in answers] == [200] * 6
            assert [answer.json()["size"] for answer in answers] == [300_000, 2_000_000] * 3
            stored = await guard.read(visitor.sid)
            assert sorted(stored["sizes"]) == [300_000] * 3 + [2_000_000] * 3
            assert stored["cart"] == ["first", "quick"]
        site.stop()
        assert "Traceback" not in site.told()


# --- in this process


@pytest.fixture
def site(server: EmbeddedServer, flush: None) -> Iterator[None]:
    configure(server.unix_url)
    with override_settings(ROOT_URLCONF=__name__, SESSION_LOCK_LEASE=LeasePolicy(ttl=0.4, max_hold=0.5)):
        yield


def put(request: Request) -> HttpResponse:
    request.session.update(request.GET.dict())
    return HttpResponse()


def body(request: Request) -> HttpResponse:
    request.session["size"] = len(request.body)
    return HttpResponse(request.session["size"])


def form(request: Request) -> HttpResponse:
    request.session["fields"] = request.POST.dict()
    return HttpResponse(request.POST["a"] + (request.FILES["file"].read().decode() if request.FILES else ""))


def piecewise(request: Request) -> HttpResponse:
    """A view that reads the stream by itself, line by line."""
    request.session["seen"] = True
    lines = list(request)
    return HttpResponse(f"{len(lines)} {len(request.read())}")


def past_the_request(request: Request) -> HttpResponse:
    """As libraries do it that know WSGI, not Django."""
    request.session["seen"] = request.session.get("seen", 0) + 1
    return HttpResponse(request.environ["wsgi.input"].read(int(request.environ["CONTENT_LENGTH"])))


def long(request: Request) -> HttpResponse:
    request.session.get("first")
    time.sleep(1.5)
    if "write" in request.GET:
        request.session["late"] = True
    return HttpResponse("done")


async def along(request: Request) -> HttpResponse:
    await request.session.aget("first")
    await asyncio.sleep(1.5)
    if "write" in request.GET:
        await request.session.aset("late", True)
    return HttpResponse("done")


ended: list[str] = []


async def awrites(request: Request) -> HttpResponse:
    """Has changed the session when its lease is lost: what it does from then on would be for nothing."""
    await request.session.aset("early", True)
    await asyncio.sleep(5)
    ended.append("by itself")
    return HttpResponse("done")


urlpatterns = [
    path(view.__name__, view) for view in (put, body, form, piecewise, past_the_request, long, along, awrites)
]
urlpatterns.append(path("body_as_it_comes", session_policy(body_limit=0)(body)))
urlpatterns.append(path("body_by_half", session_policy(body_limit=1000)(body)))


@pytest.mark.usefixtures("site")
def test_a_body_is_as_it_was() -> None:
    client = Client()
    for _ in range(2):  # without a session, and with one
        assert client.post("/body", b"z" * 2_000, content_type="text/plain").content == b"2000"
        assert client.post("/body_as_it_comes", b"z" * 2_000, content_type="text/plain").content == b"2000"
        assert client.post("/body_by_half", b"z" * 2_000, content_type="text/plain").content == b"2000"
        assert client.post("/form", {"a": "b"}).content == b"b"
        with Path(__file__).open("rb") as file:
            assert client.post("/form", {"a": "b", "file": file}).content == b"b" + Path(__file__).read_bytes()
        assert client.post("/piecewise", b"one\ntwo\nthree", content_type="text/plain").content == b"3 0"
        assert client.post("/past_the_request", b"raw", content_type="text/plain").content == b"raw"
        assert client.put("/body", b"", content_type="text/plain").content == b"0"


@pytest.mark.usefixtures("site")
def test_a_body_comes_before_the_lock(server: EmbeddedServer) -> None:
    client = Client()
    client.post("/put?first=1")
    lock = keys_for("sl", client.cookies["sessionid"].value).lock
    while_it_came: list[int] = []

    class Body(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            while_it_came.append(int(raw.exists(lock)))
            return super().read(size)

    with connect(server.unix_url) as raw:
        sent = {"wsgi.input": Body(b"z" * 2_000), "CONTENT_LENGTH": "2000"}
        answer = client.generic("POST", "/body", b"", "text/plain", **sent)
    assert answer.content == b"2000"
    assert set(while_it_came) == {0}


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("limit", [10, 100_000])
def test_what_is_too_large_for_django_is_so_still(limit: int) -> None:
    client = Client()
    client.post("/put?first=1")
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=limit):
        assert client.post("/body", b"z" * 200_000, content_type="text/plain").status_code == 400


@pytest.mark.slow
@pytest.mark.usefixtures("site")
def test_a_view_that_only_reads_is_not_ended() -> None:
    client = Client()
    client.post("/put?first=1")
    assert client.post("/long").content == b"done"
    assert client.post("/long?write").status_code == 409
    assert "late" not in client.session


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.usefixtures("site")
async def test_nor_is_a_coroutine() -> None:
    client = AsyncClient()
    await client.post("/put?first=1")
    for where in ("/long", "/along"):
        assert (await client.post(where)).content == b"done"
        assert (await client.post(f"{where}?write")).status_code == 409
    await close()


@pytest.mark.anyio
@pytest.mark.usefixtures("site")
async def test_one_that_has_changed_it_is() -> None:
    client = AsyncClient()
    await client.post("/put?first=1")
    with anyio.fail_after(4):
        assert (await client.post("/awrites")).status_code == 409
    assert ended == []
    await close()
