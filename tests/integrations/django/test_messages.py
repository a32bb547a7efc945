"""Django's messages, kept in the session as documented: each is shown once, to one tab, and none is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.contrib import messages
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect
from django.test import Client
from django.urls import path
from django.utils.safestring import SafeData, mark_safe

from sessionlock.embedded import EmbeddedServer
from tests.harness.django_site import configure, override_settings

IN_SESSION = "django.contrib.messages.storage.session.SessionStorage"
TABS = 6
Request = Any
both_here = threading.Barrier(TABS)
added = threading.Event()
looked = threading.Event()
here = threading.local()


def add(request: Request, text: str) -> Any:
    messages.info(request, text)
    return redirect("/")


def add_safe(request: Request) -> HttpResponse:
    messages.success(request, mark_safe("<b>safe</b>"), extra_tags="big")
    return HttpResponse()


def show(request: Request) -> JsonResponse:
    return JsonResponse([str(message) for message in messages.get_messages(request)], safe=False)


def show_together(request: Request) -> JsonResponse:
    """Every tab has read its messages before one of them answers."""
    found = [str(message) for message in messages.get_messages(request)]
    if not getattr(here, "waited", False):
        here.waited = True
        both_here.wait(20)
    return JsonResponse(found, safe=False)


def show_slowly(request: Request) -> JsonResponse:
    """While it has its answer ready, another tab adds one."""
    found = [str(message) for message in messages.get_messages(request)]
    if not looked.is_set():
        looked.set()
        assert added.wait(20)
    return JsonResponse(found, safe=False)


def add_in_a_get(request: Request, text: str) -> JsonResponse:
    """As a page does whose filter found nothing; it shows none."""
    messages.warning(request, text)
    if not getattr(here, "waited", False):
        here.waited = True
        both_here.wait(20)
    return JsonResponse([], safe=False)


def kinds(request: Request) -> JsonResponse:
    found = messages.get_messages(request)
    return JsonResponse([[str(m), isinstance(m.message, SafeData), m.tags, m.level] for m in found], safe=False)


urlpatterns = [
    path("", show),
    path("add/<text>", add),
    path("add-safe", add_safe),
    path("together", show_together),
    path("slowly", show_slowly),
    path("adds/<text>", add_in_a_get),
    path("kinds", kinds),
]


@pytest.fixture(autouse=True)
def site(server: EmbeddedServer, flush: None) -> Iterator[None]:
    configure(server.unix_url)
    both_here.reset()
    added.clear()
    looked.clear()
    with override_settings(ROOT_URLCONF=__name__, MESSAGE_STORAGE=IN_SESSION):
        yield


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(TABS) as pool:
        yield pool


@pytest.fixture
def browser() -> Client:
    client = Client()
    client.post("/add/hello")
    assert client.get("/").json() == ["hello"]
    return client


def tab_of(browser: Client) -> Client:
    tab = Client()
    tab.cookies.load(browser.cookies)
    return tab


def in_tabs(pool: ThreadPoolExecutor, browser: Client, paths: list[str]) -> list[Any]:
    tabs = [tab_of(browser) for _ in paths]
    answers = list(pool.map(lambda tab, where: tab.get(where), tabs, paths))
    assert [answer.status_code for answer in answers] == [200] * len(paths)
    return [answer.json() for answer in answers]


def test_a_message_that_six_tabs_find_is_shown_once(browser: Client, pool: ThreadPoolExecutor) -> None:
    for text in ("one", "two"):
        browser.post(f"/add/{text}")
    shown = in_tabs(pool, browser, ["/together"] * TABS)
    assert sorted(text for found in shown for text in found) == ["one", "two"]
    assert browser.get("/").json() == []


def test_one_that_is_added_while_others_are_shown_stays(browser: Client, pool: ThreadPoolExecutor) -> None:
    browser.post("/add/one")
    slow = pool.submit(tab_of(browser).get, "/slowly")
    assert looked.wait(20)
    assert tab_of(browser).post("/add/two").status_code == 302
    added.set()
    assert sorted(slow.result(20).json() + browser.get("/").json()) == ["one", "two"]


def test_all_that_six_pages_add_at_once_are_shown(browser: Client, pool: ThreadPoolExecutor) -> None:
    in_tabs(pool, browser, [f"/adds/{number}" for number in range(TABS)])
    assert sorted(browser.get("/").json()) == [str(number) for number in range(TABS)]


def test_the_same_text_twice_is_two_messages(browser: Client, pool: ThreadPoolExecutor) -> None:
    in_tabs(pool, browser, ["/adds/again"] * TABS)
    assert browser.get("/").json() == ["again"] * TABS


def test_a_message_stays_what_it_is(browser: Client) -> None:
    browser.post("/add-safe")
    assert browser.get("/kinds").json() == [["<b>safe</b>", True, "big success", messages.SUCCESS]]


@pytest.mark.parametrize(
    "storage",
    [
        "django.contrib.messages.storage.fallback.FallbackStorage",
        "django.contrib.messages.storage.cookie.CookieStorage",
    ],
)
def test_in_a_cookie_they_are_doubled(browser: Client, pool: ThreadPoolExecutor, storage: str) -> None:
    """Why the check sessionlock.W003 warns of Django's default."""
    with override_settings(MESSAGE_STORAGE=storage):
        browser.post("/add/one")
        assert in_tabs(pool, browser, ["/together"] * TABS) == [["one"]] * TABS
