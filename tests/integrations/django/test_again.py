"""A safe request that met somebody else's change runs again, under the lock, as if it came just now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib import messages
from django.contrib.auth import login
from django.core.signals import request_finished
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.test import AsyncClient, Client
from django.urls import path
from django.utils.deprecation import MiddlewareMixin

from sessionlock import SessionConflict
from sessionlock.embedded import EmbeddedServer
from sessionlock.integrations.django.decorators import session_policy
from sessionlock.integrations.django.homes import close
from sessionlock.integrations.django.store import SessionStore
from tests.harness.django_site import configure, override_settings

Request = Any
runs: list[Any] = []
meanwhile: list[Callable[[SessionStore], None]] = []


class Meanwhile(MiddlewareMixin):  # type: ignore[misc]
    """Inside our middleware: when a run has its answer, somebody else changes the session."""

    def process_response(self, request: Request, response: Any) -> Any:
        change(request)
        return response


def change(request: Request) -> None:
    while meanwhile:
        store = SessionStore(request.COOKIES["sessionid"])
        meanwhile.pop()(store)
        store.save()


@pytest.fixture(autouse=True)
def site(server: EmbeddedServer, flush: None) -> Iterator[None]:
    configure(server.unix_url)
    from django.conf import settings

    runs.clear()
    meanwhile.clear()
    begun.clear()
    go_on.clear()
    within = [*settings.MIDDLEWARE, f"{__name__}.Meanwhile"]
    within.insert(1, "django.middleware.csrf.CsrfViewMiddleware")
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=within):
        yield


@pytest.fixture
def client() -> Client:
    client = Client()
    client.post("/seen")
    runs.clear()
    return client


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def twin_of(client: Client) -> Client:
    """Another tab of the same browser."""
    other = Client()
    other.cookies["sessionid"] = client.cookies["sessionid"].value
    return other


def another_counts(store: SessionStore) -> None:
    store["number"] = store.get("number", 0) + 100


# --- views


def seen(request: Request) -> HttpResponse:
    """Counts, and tells what it finds in the request."""
    runs.append(request.session.sessionlock.mode)
    request.session["number"] = request.session.get("number", 0) + 1
    told = {
        "number": request.session["number"],
        "body": request.body.decode(),
        "left": getattr(request, "left", None),
        "name": request.GET.get("name"),
        "cookie": "left" in request.COOKIES,
        "meta": request.META.get("LEFT"),
        "user": request.user.username,
    }
    request.left = request.META["LEFT"] = request.COOKIES["left"] = "by the first run"
    return JsonResponse(told)


async def aseen(request: Request) -> HttpResponse:
    await request.auser()
    return seen(request)


def once(request: Request) -> HttpResponse:
    return seen(request)


def says(request: Request) -> HttpResponse:
    runs.append(request.session.sessionlock.mode)
    request.session["number"] = request.session.get("number", 0) + 1
    messages.info(request, "hello")
    request.session["token"] = get_token(request)
    return HttpResponse(status=204)


def hears(request: Request) -> HttpResponse:
    return JsonResponse([str(message) for message in messages.get_messages(request)], safe=False)


begun = threading.Event()
go_on = threading.Event()


def waits(request: Request) -> HttpResponse:
    runs.append(request.session.sessionlock.mode)
    number = request.session.get("number", 0)
    begun.set()
    assert go_on.wait(10)
    request.session["number"] = number + 1
    return HttpResponse()


def saves(request: Request) -> HttpResponse:
    """Saves by itself, after somebody else did."""
    runs.append(request.session.sessionlock.mode)
    number = request.session.get("number", 0)
    change(request)
    request.session["number"] = number + 1
    request.session.save()
    return HttpResponse()


def handles(request: Request) -> HttpResponse:
    try:
        return saves(request)
    except SessionConflict:
        return HttpResponse("handled")


def counts(request: Request) -> HttpResponse:
    runs.append(request.session.sessionlock.mode)
    request.session.get("number")
    change(request)
    request.session["other"] = request.session.get("other", 0) + 1
    request.session.sessionlock.incr("number")
    return HttpResponse()


def saves_twice(request: Request) -> HttpResponse:
    """Saves in between; the second save meets somebody else's change."""
    runs.append(request.session.sessionlock.mode)
    request.session["saved"] = request.session.get("saved", 0) + 1
    other = request.session.get("number", 0)
    request.session.save()
    change(request)
    request.session["number"] = other + 1
    return HttpResponse()


def counts_and_conflicts(request: Request) -> HttpResponse:
    runs.append(request.session.sessionlock.mode)
    request.session.sessionlock.incr("visits")
    request.session.sessionlock.incr("visits", 2)
    return seen(request)


def opens_anew(request: Request) -> HttpResponse:
    """As mozilla-django-oidc does in its callback: saves, and goes on with a store of its own."""
    request.session.setdefault("states", {})[request.GET["state"]] = 1
    request.session.save()
    time.sleep(0.003)
    request.session = request.session.__class__(request.session.session_key)
    request.session["number"] = request.session.get("number", 0) + 1
    return HttpResponse()


def enters(request: Request) -> HttpResponse:
    """Logs somebody in by a link, as magic links and callbacks of OpenID do."""
    from tests.harness.django_site.people import person

    runs.append(request.session.sessionlock.mode)
    number = request.session.get("number", 0)
    login(request, person(1), backend="tests.harness.django_site.people.Backend")
    request.session["number"] = number + 1
    if len(runs) == 1:
        store = SessionStore(request.session.session_key)
        another_counts(store)
        store.save()
    return HttpResponse(status=int(request.GET.get("status", 200)))


def who(request: Request) -> HttpResponse:
    return HttpResponse(request.user.username)


closed: list[str] = []


def streams(request: Request) -> HttpResponse:
    runs.append(request.session.sessionlock.mode)
    request.session["number"] = request.session.get("number", 0) + 1
    run = f"run {len(runs)}"

    def parts() -> Iterator[str]:
        yield run

    response = StreamingHttpResponse(parts())
    response._resource_closers.append(lambda: closed.append(run))
    return response


urlpatterns = [
    path("seen", seen),
    path("aseen", aseen),
    path("once", session_policy(on_conflict="answer")(once)),
    path("page/<name>", lambda request, name: seen(request)),
    path("says", says),
    path("hears", hears),
    path("waits", waits),
    path("saves", saves),
    path("handles", handles),
    path("counts", counts),
    path("opens_anew", opens_anew),
    path("saves_twice", saves_twice),
    path("counts_and_conflicts", counts_and_conflicts),
    path("enters", enters),
    path("who", who),
    path("streams", streams),
]


# --- what comes of it


def test_it_counts_on_what_the_other_has_left(client: Client) -> None:
    meanwhile.append(another_counts)
    assert client.get("/seen").json()["number"] == 102
    assert runs == ["optimistic", "lock"]
    assert client.session["number"] == 102


def test_the_request_is_as_it_came(client: Client) -> None:
    """Attributes, META, cookies and body: nothing of the first run is left, and the body can be read again."""
    meanwhile.append(another_counts)
    told = client.generic("GET", "/seen?name=ada", b"a body").json()
    assert len(runs) == 2
    assert told == {
        "number": 102,
        "body": "a body",
        "left": None,
        "name": "ada",
        "cookie": False,
        "meta": None,
        "user": "",
    }


@pytest.mark.parametrize(("limit", "runs_twice"), [(0, True), (5, False), (100, True)])
def test_a_body_that_is_not_received_ahead(client: Client, limit: int, runs_twice: bool) -> None:
    """What can be read once only is not run twice."""
    meanwhile.append(another_counts)
    with override_settings(SESSION_LOCK_BODY_LIMIT=limit):
        answer = client.generic("GET", "/seen", b"a body of some length")
    assert answer.status_code == (200 if runs_twice else 409)
    assert len(runs) == (2 if runs_twice else 1)
    assert not runs_twice or answer.json()["body"] == "a body of some length"


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["/seen", "/aseen"])
async def test_under_asgi_too(where: str) -> None:
    client = AsyncClient()
    await client.post("/seen")
    runs.clear()
    meanwhile.append(another_counts)
    told = (await client.generic("GET", where, b"a body")).json()
    assert runs == ["optimistic", "lock"]
    assert (told["number"], told["body"], told["left"], told["cookie"]) == (102, "a body", None, False)
    await close()


def test_head_and_options_are_safe_too(client: Client) -> None:
    for ask in (client.head, client.options):
        meanwhile.append(another_counts)
        assert ask("/seen").status_code == 200
    assert client.session["number"] == 1 + 2 * 101


def test_messages_and_tokens_are_those_of_the_run_that_is_sent(client: Client) -> None:
    meanwhile.append(another_counts)
    assert client.get("/says").status_code == 204
    assert runs == ["optimistic", "lock"]
    assert client.get("/hears").json() == ["hello"]
    assert client.cookies["csrftoken"].value


def test_a_route_that_writes_is_learnt_by_its_pattern(client: Client) -> None:
    meanwhile.append(another_counts)
    client.get("/page/one")
    client.get("/page/two")
    client.get("/seen")
    assert runs == ["optimistic", "lock", "lock", "optimistic"]


def test_unless_the_view_must_not_run_twice(client: Client) -> None:
    meanwhile.append(another_counts)
    assert client.get("/once").status_code == 409
    assert runs == ["optimistic"]
    assert client.session["number"] == 101


def test_nor_do_others(client: Client) -> None:
    """A POST has the lock; what somebody without it wrote meanwhile is a conflict, for nobody may run a POST twice."""
    meanwhile.append(another_counts)
    assert client.post("/seen").status_code == 409
    assert runs == ["lock"]


@pytest.mark.parametrize("where", ["/saves", "/counts"])
def test_a_save_of_the_view_s_own_that_fails_the_request(client: Client, where: str) -> None:
    meanwhile.append(another_counts)
    assert client.get(where).status_code == 200  # the test client would raise what Django calls a crash
    assert client.session["number"] == 102
    assert len(runs) == (2 if where == "/saves" else 1)  # an atomic counter meets nobody


def test_what_a_view_saves_by_itself_is_saved_once(client: Client) -> None:
    """It takes the lock for that, and runs again before it saves, not after. Who changes the session without regard
    for the lock is a conflict then, for the request has done something that cannot be undone.
    """
    assert client.get("/saves_twice").status_code == 200
    assert runs == ["optimistic", "lock"]
    assert (client.session["saved"], client.session["number"]) == (1, 2)
    meanwhile.append(another_counts)
    assert client.get("/saves_twice").status_code == 409
    assert (client.session["saved"], client.session["number"]) == (2, 102)


def test_what_a_view_counts_is_counted_once(client: Client) -> None:
    meanwhile.append(another_counts)
    assert client.get("/counts_and_conflicts").status_code == 200
    assert [mode for mode in runs if mode == "lock"]
    assert (client.session["visits"], client.session["number"]) == (3, 102)


def test_tabs_that_log_in_by_openid(client: Client) -> None:
    """Twenty callbacks at once, each of which saves in between and opens the session anew."""

    def callback(number: int) -> int:
        ask = getattr(twin_of(client), "get" if number % 3 else "post")
        return int(ask(f"/opens_anew?state={number}").status_code)

    with ThreadPoolExecutor(20) as tabs:
        assert set(tabs.map(callback, range(20))) == {200}
    assert (client.session["number"], len(client.session["states"])) == (21, 20)


@pytest.mark.anyio
async def test_also_under_asgi() -> None:
    client = AsyncClient()
    await client.post("/seen")
    meanwhile.append(another_counts)
    assert (await client.get("/counts_and_conflicts")).status_code == 200
    assert (await client.get("/saves_twice")).status_code == 200
    store = SessionStore(client.cookies["sessionid"].value)
    assert (await store.aget("visits"), await store.aget("number"), await store.aget("saved")) == (3, 103, 1)
    await close()


def test_a_conflict_that_the_view_handled_and_the_end_met_again(client: Client) -> None:
    meanwhile.append(another_counts)
    assert client.get("/handles").content == b""
    assert runs == ["optimistic", "lock"]
    assert client.session["number"] == 102


def test_a_session_that_ended_meanwhile(client: Client) -> None:
    """As the stranger that the visitor is by now; what was logged out stays so."""
    before = client.cookies["sessionid"].value
    meanwhile.append(SessionStore.flush)
    assert client.get("/seen").json()["number"] == 1
    assert not SessionStore().exists(before)
    assert client.cookies["sessionid"].value != before


def test_who_holds_the_lock_is_not_disturbed(client: Client, pool: ThreadPoolExecutor) -> None:
    """A POST counts, and a GET that counts comes and wants to go while it does: the GET waits, both count."""
    slow = pool.submit(twin_of(client).post, "/waits")
    assert begun.wait(10)
    quick = pool.submit(twin_of(client).get, "/seen")
    until = time.monotonic() + 10
    while runs != ["lock", "optimistic"]:
        assert time.monotonic() < until
    go_on.set()
    assert (slow.result(10).status_code, quick.result(10).status_code) == (200, 200)
    assert client.session["number"] == 3


def test_a_login_whose_request_runs_again(client: Client) -> None:
    """It has given the session a new key already, which the second run goes on with and the browser is told."""
    before = client.cookies["sessionid"].value
    assert client.get("/enters").status_code == 200
    assert runs == ["optimistic", "lock"]
    assert client.cookies["sessionid"].value != before
    assert client.get("/who").content == b"ada"
    assert client.session["number"] == 102


@pytest.mark.parametrize("status", [200, 500])
def test_a_login_that_is_not_saved(client: Client, status: int) -> None:
    """It met a conflict, or failed: nobody is logged in. The session has a new key, and the browser is told."""
    client.raise_request_exception = False
    before = client.cookies["sessionid"].value
    answer = client.post(f"/enters?status={status}")
    assert answer.status_code == (409 if status == 200 else 500)
    assert client.cookies["sessionid"].value != before
    assert client.get("/who").content == b""
    assert client.session["number"] == 101


def test_what_is_not_sent_is_closed_with_what_is(client: Client) -> None:
    """And the request ends once."""
    ended: list[Any] = []

    def note(**_: Any) -> None:
        ended.append(1)

    closed.clear()
    meanwhile.append(another_counts)
    request_finished.connect(note)
    try:
        response = client.get("/streams")
        assert b"".join(response) == b"run 2"
    finally:
        request_finished.disconnect(note)
    assert sorted(closed) == ["run 1", "run 2"]
    assert len(ended) == 1
