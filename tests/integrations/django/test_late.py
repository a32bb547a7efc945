"""What uses a session when its request is over, or from where an event loop runs."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.template import Context, Engine
from django.test import AsyncClient, Client
from django.urls import path

from sessionlock import SessionConflict
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.embedded import EmbeddedServer
from sessionlock.integrations.django.homes import close
from sessionlock.integrations.django.store import SessionStore
from tests.harness.django_site import configure, override_settings

Request = Any
threads: list[threading.Thread] = []
go_on = threading.Event()
met: list[BaseException] = []


@pytest.fixture(autouse=True)
def site(server: EmbeddedServer, flush: None) -> Iterator[None]:
    configure(server.unix_url)
    go_on.clear()
    threads.clear()
    met.clear()
    with override_settings(ROOT_URLCONF=__name__):
        yield


@pytest.fixture
def client(who_put: Client) -> Client:
    return who_put


def finish_threads() -> None:
    go_on.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def held(url: str, sid: str) -> bool:
    with BlockingGuard.from_url(url) as guard:
        return guard.inspect(sid).holder is not None


# --- views


def put(request: Request) -> HttpResponse:
    request.session.update(request.GET.dict())
    return HttpResponse()


def begin(job: Callable[[], None]) -> None:
    """In a thread; the test looks at what it met."""

    def run() -> None:
        try:
            job()
        except BaseException as error:
            met.append(error)

    threads.append(threading.Thread(target=run))
    threads[0].start()


def exports(request: Request) -> HttpResponse:
    """Begins a job, as people do it without a queue: the thread tells in the session how far it is."""
    request.session["job"] = "begun"
    list_of_steps = request.session.setdefault("steps", [])

    def job() -> None:
        go_on.wait(10)
        list_of_steps.append("one")
        request.session["job"] = "half"
        request.session.save()
        request.session["job"] = "done"
        request.session["seen"] = request.session.get("first")
        request.session.save()

    begin(job)
    return HttpResponse()


def exports_late(request: Request) -> HttpResponse:
    """The thread is the first to touch the session."""

    def job() -> None:
        go_on.wait(10)
        request.session["job"] = request.session["first"]
        request.session.save()

    begin(job)
    return HttpResponse()


def saves_on(request: Request) -> HttpResponse:
    seen = request.session.setdefault("seen", [])
    started = threading.Event()

    def job() -> None:
        for step in range(100):
            request.session["step"] = step
            request.session[f"step {step % 7}"] = step
            request.session.pop(f"step {(step + 3) % 7}", None)
            seen.append(step)
            request.session.save()
            started.set()

    begin(job)
    assert started.wait(10)
    request.session["own"] = True
    return HttpResponse()


def downloads(request: Request) -> HttpResponse:
    def parts() -> Iterator[str]:
        yield "one "
        request.session["downloaded"] = request.session.get("downloaded", 0) + 1
        request.session.save()
        yield "two"

    return StreamingHttpResponse(parts())


async def adownloads(request: Request) -> HttpResponse:
    async def parts() -> AsyncIterator[str]:
        yield "one "
        await request.session.aset("downloaded", await request.session.aget("downloaded", 0) + 1)
        await request.session.asave()
        yield "two "
        request.session["downloaded"] += 1
        request.session.save()  # blocks the loop for a moment, as Django's cache back end does
        yield "three"

    return StreamingHttpResponse(parts())


def forgets(request: Request) -> HttpResponse:
    """Writes in a stream, and does not save."""

    def parts() -> Iterator[str]:
        request.session["late"] = True
        yield "sent"

    return StreamingHttpResponse(parts())


PAGE = Engine().from_string("{{ session.first }}{% if session.nothing %}no{% endif %}")


def renders_late(request: Request) -> HttpResponse:
    """A streamed template: the session is touched when the answer is on its way already."""
    return StreamingHttpResponse(PAGE.render(Context({"session": request.session})) for _ in range(1))


async def reads(request: Request) -> HttpResponse:
    """A coroutine that uses the session as a sync view does: reads, writes, gives a new key, saves."""
    found = request.session.get("first")
    request.session["read"] = found
    request.session.save()
    if "cycle" in request.GET:
        request.session.cycle_key()
    return JsonResponse({"first": found, "keys": sorted(request.session.keys())})


async def counts(request: Request) -> HttpResponse:
    request.session["count"] = request.session.get("count", 0) + 1
    return HttpResponse()


def copies(request: Request) -> HttpResponse:
    session = request.session
    twins = [copy.copy(session), copy.deepcopy(session), pickle.loads(pickle.dumps(session))]
    as_dict = dict(session)
    return JsonResponse({"found": [twin["first"] for twin in twins], "items": as_dict, "content": {**session}})


urlpatterns = [
    path(view.__name__, view)
    for view in (
        put,
        exports,
        exports_late,
        saves_on,
        downloads,
        adownloads,
        forgets,
        renders_late,
        reads,
        counts,
        copies,
    )
]


# --- threads


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_thread_that_outlives_its_request(client: Client, redis_url: str, method: str) -> None:
    """Each save is a commit of its own; what others changed meanwhile stays."""
    getattr(client, method)("/exports")
    assert (client.session["job"], client.session["steps"]) == ("begun", [])
    assert not held(redis_url, client.cookies["sessionid"].value)
    client.post("/put?cart=full")
    finish_threads()
    assert met == []
    assert dict(client.session.items()) == {
        "first": "1",
        "cart": "full",
        "job": "done",
        "steps": ["one"],
        "seen": "1",
    }
    assert not held(redis_url, client.cookies["sessionid"].value)


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_thread_that_touches_the_session_first(client: Client, redis_url: str, method: str) -> None:
    getattr(client, method)("/exports_late")
    with BlockingGuard.from_url(redis_url) as guard, guard.session_lock(client.cookies["sessionid"].value):
        finish_threads()  # without waiting for whoever holds the session
    assert met == []
    assert client.session["job"] == "1"


def test_a_thread_is_told_of_a_conflict(client: Client) -> None:
    """It has read, or been given, another value than there is now: nothing is overwritten in silence."""
    client.get("/exports")
    client.post("/put?job=other")
    finish_threads()
    assert [type(error) for error in met] == [SessionConflict]
    assert client.session["job"] == "other"


@pytest.mark.parametrize("method", ["get", "post"] * 5)
def test_a_thread_while_the_answer_is_made(client: Client, redis_url: str, method: str) -> None:
    """It saves again and again, before, while and after the request itself does."""
    getattr(client, method)("/saves_on")
    finish_threads()
    assert met == []
    assert (client.session["step"], client.session["seen"], client.session["own"]) == (99, list(range(100)), True)
    assert not held(redis_url, client.cookies["sessionid"].value)


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["get", "post"] * 5)
async def test_a_thread_while_the_answer_is_made_under_asgi(redis_url: str, method: str) -> None:
    client = AsyncClient()
    await client.post("/put?first=1")
    await getattr(client, method)("/saves_on")
    await asyncio.to_thread(finish_threads)
    assert met == []
    store = SessionStore(client.cookies["sessionid"].value)
    assert (await store.aget("step"), await store.aget("seen")) == (99, list(range(100)))
    await close()


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["get", "post"])
async def test_a_thread_beside_an_asgi_server(method: str, server: EmbeddedServer) -> None:
    client = AsyncClient()
    await client.post("/put?first=1")
    await getattr(client, method)("/exports")
    await asyncio.to_thread(finish_threads)
    assert met == []
    assert await SessionStore(client.cookies["sessionid"].value).aget("job") == "done"
    await close()


@pytest.mark.anyio
async def test_steps_of_one_session_take_turns() -> None:
    """Its view and a thread of its view use one session: what each of them does is done before the other begins."""
    at_work: list[int] = []

    async def step(guard: Any, number: int) -> None:
        at_work.append(number)
        await asyncio.sleep(0)
        assert at_work == [number]
        at_work.clear()

    control, nobody = SessionStore().sessionlock, cast(Any, None)
    await asyncio.gather(*(control._in_turn(nobody, True, step, number) for number in range(3)))


# --- streams


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_stream_that_saves(client: Client, method: str) -> None:
    for number in (1, 2):
        answer = getattr(client, method)("/downloads")
        assert b"".join(answer) == b"one two"
        assert client.session["downloaded"] == number


@pytest.mark.anyio
async def test_an_async_stream_that_saves() -> None:
    client = AsyncClient()
    await client.post("/put?first=1")
    for method in (client.get, client.post):
        answer = await method("/adownloads")
        assert b"".join([part async for part in answer]) == b"one two three"
    assert await SessionStore(client.cookies["sessionid"].value).aget("downloaded") == 4
    await close()


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_streamed_template_that_touches_the_session_first(client: Client, redis_url: str, method: str) -> None:
    with BlockingGuard.from_url(redis_url) as guard:
        answer = getattr(client, method)("/renders_late")
        with guard.session_lock(client.cookies["sessionid"].value):
            assert b"".join(answer) == b"1"


def test_a_stream_that_forgets_to_save_is_told_so(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """Django drops that, too; the log tells."""
    with caplog.at_level(logging.WARNING, "sessionlock"):
        answer = client.post("/forgets")
        assert b"".join(answer) == b"sent"
        answer.close()
    assert "late" not in client.session
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("sessionlock")]
    assert "POST /forgets" in line
    assert "'late'" in line


# --- async views under WSGI


@pytest.mark.parametrize("method", ["get", "post"])
def test_an_async_view_under_wsgi(client: Client, method: str) -> None:
    assert getattr(client, method)("/reads").json() == {"first": "1", "keys": ["first", "read"]}
    assert client.session["read"] == "1"
    before = client.cookies["sessionid"].value
    assert getattr(client, method)("/reads?cycle").status_code == 200
    assert client.cookies["sessionid"].value != before
    for number in (1, 2):
        getattr(client, method)("/counts")
        assert client.session["count"] == number


# --- copies


def test_copies(client: Client) -> None:
    told = client.get("/copies").json()
    assert told == {"found": ["1", "1", "1"], "items": {"first": "1"}, "content": {"first": "1"}}
