"""A session that cannot be had: 503, 429, 409 or 413 wherever it is touched first, with the headers of others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from django.utils.deprecation import MiddlewareMixin

from sessionlock import LockNotAcquired, RedisUnavailable, SessionConflict, WaitPolicy
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.embedded import EmbeddedServer
from sessionlock.integrations.django.decorators import locks_session
from sessionlock.integrations.django.homes import close
from sessionlock.integrations.django.store import SessionStore
from tests.harness.django_site import configure, override_settings

Request = Any
BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
ran: list[str] = []


class Touching(MiddlewareMixin):  # type: ignore[misc]
    """Touches the session where the query says: as last-activity, locale and consent middlewares do."""

    def process_request(self, request: Request) -> None:
        if "request" in request.GET:
            request.session.get("x")

    def process_view(self, request: Request, *_: Any) -> None:
        if "process_view" in request.GET:
            request.session.get("x")

    def process_response(self, request: Request, response: Any) -> Any:
        if "response" in request.GET:
            request.session.get("x")
        if "late_write" in request.GET:
            request.session["seen"] = True
        if "late_save" in request.GET:
            request.session["seen"] = True
            request.session.save()
        return response


class Adding(MiddlewareMixin):  # type: ignore[misc]
    """What CORS, security and consent middlewares add; some stand further out than ours, most further in."""

    def process_response(self, request: Request, response: Any) -> Any:
        response["Access-Control-Allow-Origin"] = "https://shop.example"
        response["X-Trace"] = "7"
        response.set_cookie("consent", "yes", max_age=60)
        return response


@pytest.fixture(autouse=True)
def site(server: EmbeddedServer, flush: None) -> Iterator[None]:
    configure(server.unix_url)
    from django.conf import settings

    ran.clear()
    within = [settings.MIDDLEWARE[0], f"{__name__}.Adding", f"{__name__}.Touching", *settings.MIDDLEWARE[1:]]
    with override_settings(ROOT_URLCONF=__name__, MIDDLEWARE=within, SESSION_LOCK_WAIT=0.05):
        yield


@pytest.fixture
def client() -> Client:
    client = Client()
    client.post("/put")
    client.cookies.pop("consent")
    ran.clear()
    return client


@pytest.fixture
def down(client: Client, own_server: Callable[..., EmbeddedServer]) -> Iterator[None]:
    """Redis is not there any more."""
    server = own_server()
    said = {"reply_within": 0.2, "retry_for": 0.1}
    with override_settings(SESSION_LOCK_URL=server.unix_url, SESSION_LOCK_OPTIONS=said):
        SessionStore().save()
        server.stop()
        yield


@pytest.fixture
def busy(client: Client, redis_url: str) -> Iterator[None]:
    """Another request holds the session."""
    with BlockingGuard.from_url(redis_url) as guard, guard.session_lock(client.cookies["sessionid"].value):
        yield


# --- views


def put(request: Request) -> HttpResponse:
    ran.append("put")
    request.session["put"] = True
    return HttpResponse()


def quiet(request: Request) -> HttpResponse:
    ran.append("quiet")
    return HttpResponse("quiet", content_type="text/plain")


def handles(request: Request) -> HttpResponse:
    try:
        request.session["put"]
    except (RedisUnavailable, LockNotAcquired):
        return HttpResponse("without a session")
    return HttpResponse("with")


def mistaken(request: Request) -> HttpResponse:
    """Handles the failure as if it were an absent key, and takes the visitor for a stranger."""
    try:
        request.session["put"]
    except Exception:
        pass
    return HttpResponse("stranger" if "put" not in request.session else "known")


def conflicts(request: Request) -> HttpResponse:
    request.session.get("n")
    other = SessionStore(request.session.session_key)
    other["n"] = 1
    other.save()
    request.session["n"] = 2
    return HttpResponse("a page", headers={"ETag": '"1"', "Content-Disposition": "attachment", "X-View": "yes"})


def too_large(request: Request) -> HttpResponse:
    request.session["large"] = "x" * 5_000_000
    return HttpResponse()


def own_400(request: Request) -> HttpResponse:
    return HttpResponse("of the view's own", status=400)


urlpatterns = [path(view.__name__, view) for view in (put, quiet, handles, mistaken, conflicts, too_large, own_400)]
urlpatterns.append(path("locked", locks_session(quiet)))


def is_problem(answer: Any, status: int) -> None:
    assert (answer.status_code, answer["Content-Type"]) == (status, "application/problem+json")
    added(answer)


def added(answer: Any) -> None:
    """What the application's middlewares add is there."""
    assert answer["Access-Control-Allow-Origin"] == "https://shop.example"
    assert answer["X-Trace"] == "7"
    assert answer.cookies["consent"]["max-age"] == 60


# --- the first touch

HOOKS = ["request", "process_view", "response", "late_write", "late_save"]


@pytest.mark.usefixtures("down")
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("where", ["/quiet", "/put"])
@pytest.mark.parametrize("method", ["get", "post"])
def test_redis_is_gone(client: Client, hook: str, where: str, method: str) -> None:
    """The test client would raise what Django calls a crash."""
    answer = getattr(client, method)(f"{where}?{hook}")
    assert answer.status_code == 503
    if hook != "request":  # there, middlewares further in are not reached
        is_problem(answer, 503)
    assert answer["Retry-After"] == "1"
    assert "sessionid" not in answer.cookies


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("where", ["/quiet", "/put"])
def test_somebody_else_has_it(client: Client, hook: str, where: str) -> None:
    is_problem(client.post(f"{where}?{hook}"), 503)
    assert ran == []


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("where", ["/locked", "/locked?response", "/locked?request&response&late_write"])
def test_also_for_a_get_that_takes_the_lock(client: Client, where: str) -> None:
    is_problem(client.get(where), 503)
    assert ran == []


@pytest.mark.usefixtures("busy")
def test_a_full_queue(client: Client) -> None:
    with override_settings(SESSION_LOCK_WAIT=WaitPolicy(max_waiters=0)):
        is_problem(client.post("/quiet?response"), 429)


@pytest.mark.usefixtures("busy")
def test_a_browser_gets_a_page(client: Client) -> None:
    answer = client.post("/put?response", headers=BROWSER)
    assert (answer.status_code, answer["Content-Type"]) == (503, "text/html; charset=utf-8")
    assert b"<h1>Service Unavailable</h1>" in answer.content
    added(answer)


@pytest.mark.usefixtures("busy")
def test_it_is_logged_once_and_not_as_a_crash(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        client.post("/put?response&late_write")
    ours = [record for record in caplog.records if record.name == "sessionlock.web"]
    assert [record.levelname for record in ours] == ["WARNING"]
    assert "POST /put" in ours[0].getMessage()
    assert [record.name for record in caplog.records if record.exc_info] == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []  # which is sent by mail


@pytest.mark.usefixtures("down")
def test_an_outage_does_not_flood_the_log(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for hook in [*HOOKS, *HOOKS]:
            assert client.get(f"/put?{hook}").status_code == 503
    assert len([record for record in caplog.records if record.name.startswith("sessionlock")]) <= 1
    assert [record.getMessage() for record in caplog.records if record.name.startswith("django")] == []


@pytest.mark.slow
@pytest.mark.anyio
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("method", ["get", "post"])
async def test_under_asgi(hook: str, method: str, own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    said = {"reply_within": 0.2, "retry_for": 0.1}
    with override_settings(SESSION_LOCK_URL=server.unix_url, SESSION_LOCK_OPTIONS=said):
        client = AsyncClient()
        await client.post("/put")
        server.stop()
        answer = await getattr(client, method)(f"/quiet?{hook}")
        assert answer.status_code == 503
        await close()


# --- what is not touched, or handled, is not refused


@pytest.mark.usefixtures("down")
def test_a_page_without_a_session_is_served(client: Client) -> None:
    assert client.get("/quiet").content == b"quiet"


@pytest.mark.usefixtures("down")
def test_a_view_may_do_without(client: Client) -> None:
    assert client.get("/handles").content == b"without a session"


@pytest.mark.usefixtures("down")
def test_but_not_by_mistake(client: Client) -> None:
    """What looks again after the failure would see an empty session; its answer is not sent."""
    is_problem(client.get("/mistaken"), 503)


@pytest.mark.usefixtures("busy")
def test_a_page_that_is_not_there(client: Client) -> None:
    assert client.post("/nowhere").status_code == 404


def test_a_view_s_own_400_is_its_own(client: Client) -> None:
    assert client.post("/own_400").content == b"of the view's own"


# --- an answer in the place of another


def test_a_conflict_keeps_what_others_have_added(client: Client) -> None:
    answer = client.post("/conflicts")
    is_problem(answer, 409)
    assert answer["X-View"] == "yes"
    assert answer["Vary"] == "Cookie"
    assert not {"ETag", "Content-Disposition"} & set(answer.headers)
    assert int(answer["Content-Length"]) == len(answer.content)
    assert client.session["n"] == 1


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("place", [0, 1])
def test_what_a_script_of_another_origin_is_told(client: Client, place: int) -> None:
    """django-cors-headers, in front of our middleware or behind it: without its headers a script sees no status."""
    from django.conf import settings

    within = [name for name in settings.MIDDLEWARE if not name.endswith("Adding")]
    within.insert(place, "corsheaders.middleware.CorsMiddleware")
    with override_settings(MIDDLEWARE=within, CORS_ALLOW_ALL_ORIGINS=True):
        other = Client()
        other.cookies["sessionid"] = client.cookies["sessionid"].value
        answer = other.post("/put", headers={"origin": "https://elsewhere.example"})
    assert answer.status_code == 503
    assert answer["Access-Control-Allow-Origin"] == "*"
    assert "origin" in answer["Vary"].lower()


def test_too_large(client: Client) -> None:
    answer = client.post("/too_large")
    is_problem(answer, 413)
    assert "'large'" in answer.json()["detail"]


def test_what_is_raised_is_what_it_is_called() -> None:
    """Outside of requests nothing is made of the errors."""
    first, second = SessionStore(), SessionStore()
    first.save()
    second = SessionStore(first.session_key)
    assert second.get("n") is None
    first["n"] = 1
    first.save()
    second["n"] = 2
    with pytest.raises(SessionConflict) as met:
        second.save()
    assert type(met.value) is SessionConflict
