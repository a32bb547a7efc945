"""Requests to a Django site: the middleware, the decorators, and Django's own users of the session."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import Client

from sessionlock import ReadOnlySession
from sessionlock.integrations.django.middleware import SessionLockMiddleware
from sessionlock.integrations.django.store import SessionStore
from tests.harness.django_site import override_settings
from tests.harness.django_site.calls import entered, go_on, held, sid_of, twin_of

pytestmark = pytest.mark.usefixtures("site")


# --- cookies and headers, as Django documents them


def test_no_session_no_cookie() -> None:
    response = Client().get("/quiet")
    assert (response.cookies, response.has_header("Vary")) == ({}, False)


def test_reading_varies_and_sets_nothing(client: Client) -> None:
    response = client.get("/cart")
    assert (response.json(), response["Vary"], response.cookies) == ({"cart": ["first"]}, "Cookie", {})


def test_changing_sets_the_cookie_as_the_settings_say() -> None:
    said: dict[str, Any] = {
        "SESSION_COOKIE_NAME": "other",
        "SESSION_COOKIE_SECURE": True,
        "SESSION_COOKIE_SAMESITE": "Strict",
        "SESSION_COOKIE_PATH": "/shop",
        "SESSION_COOKIE_AGE": 77,
    }
    with override_settings(**said):
        response = Client().post("/put/a/b")
    cookie = response.cookies["other"]
    assert cookie["max-age"] == 77
    assert (cookie["path"], cookie["secure"], cookie["httponly"], cookie["samesite"]) == ("/shop", True, True, "Strict")
    assert response["Vary"] == "Cookie"


def test_untouched_sessions_are_neither_varied_on_nor_saved(client: Client) -> None:
    for ask in (client.get, client.post):
        response = ask("/quiet")
        assert (response.cookies, response.has_header("Vary")) == ({}, False)


@override_settings(SESSION_SAVE_EVERY_REQUEST=True)
def test_save_every_request(client: Client) -> None:
    for ask in (client.get, client.post):
        response = ask("/quiet")
        assert response.cookies["sessionid"].value == sid_of(client)
        assert response["Vary"] == "Cookie"


@override_settings(SESSION_EXPIRE_AT_BROWSER_CLOSE=True)
def test_a_cookie_until_the_browser_closes() -> None:
    cookie = Client().post("/put/a/b").cookies["sessionid"]
    assert (cookie["max-age"], cookie["expires"]) == ("", "")


def test_an_expiry_of_its_own() -> None:
    client = Client()
    assert client.post("/expire/60").cookies["sessionid"]["max-age"] == 60
    assert client.post("/expire/0").cookies["sessionid"]["max-age"] == ""


def test_a_flushed_session_loses_its_cookie(client: Client) -> None:
    sid = sid_of(client)
    response = client.post("/flush")
    assert response.cookies["sessionid"]["max-age"] == 0
    assert response["Vary"] == "Cookie"
    assert not SessionStore().exists(sid)


def test_a_session_without_keys_keeps_its_cookie(client: Client) -> None:
    client.post("/put/a/b")
    client.post("/take/cart")
    client.post("/take/a")
    assert SessionStore().exists(sid_of(client))


def test_an_unknown_cookie_is_not_adopted() -> None:
    client = Client()
    client.cookies["sessionid"] = "planted-planted-planted"
    client.post("/add/x")
    assert sid_of(client) != "planted-planted-planted"
    assert not SessionStore().exists("planted-planted-planted")
    client.cookies["sessionid"] = "planted-planted-planted"
    assert client.get("/cart").cookies["sessionid"]["max-age"] == 0


@pytest.mark.parametrize("status", [500, 503])
def test_a_failed_request_is_not_saved(client: Client, redis_url: str, status: int) -> None:
    response = client.post(f"/put/a/b?status={status}")
    assert (response.status_code, response.cookies) == (status, {})
    assert "a" not in client.session
    assert not held(redis_url, sid_of(client))


def test_nor_is_one_whose_view_raised(client: Client, redis_url: str) -> None:
    client.raise_request_exception = False
    assert client.post("/broken").status_code == 500
    assert "half" not in client.session
    assert not held(redis_url, sid_of(client))


def test_other_errors_are(client: Client) -> None:
    client.post("/put/a/b?status=404")
    assert client.session["a"] == "b"


def test_cycle_key_gives_a_new_cookie_and_keeps_the_data(client: Client) -> None:
    before = sid_of(client)
    client.post("/cycle")
    assert sid_of(client) != before
    assert client.get("/cart").json() == {"cart": ["first"]}
    assert twin_with(before).get("/cart").json() == {"cart": []}


def twin_with(sid: str) -> Client:
    client = Client()
    client.cookies["sessionid"] = sid
    return client


def test_a_request_with_the_old_key_does_not_put_it_back_into_the_browser() -> None:
    client = Client()
    client.post("/login/ada")
    late = twin_of(client)
    client.post("/cycle")
    response = late.post("/add/x")
    assert (response.status_code, response.cookies) == (200, {})
    assert client.get("/cart").json() == {"cart": ["x"]}


@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("kind", ["dict", "none", "gone"])
def test_something_else_in_the_session_s_place(client: Client, redis_url: str, method: str, kind: str) -> None:
    """Is not an assignment: the session has what it had; what was changed before is dropped, as in Django."""
    answer = getattr(client, method)(f"/replaced/{kind}")
    assert (answer.status_code, answer.cookies) == (200, {})
    assert dict(client.session.items()) == {"cart": ["first"]}
    assert not held(redis_url, sid_of(client))


@pytest.mark.parametrize("method", ["get", "post"])
def test_another_session_in_its_place(client: Client, method: str) -> None:
    before = sid_of(client)
    getattr(client, method)("/replaced/session")
    assert sid_of(client) != before
    assert dict(client.session.items()) == {"of": "another"}
    assert dict(SessionStore(before).items()) == {"cart": ["first"]}


# --- Django's own users of the session


def test_login_and_logout(client: Client) -> None:
    visitor = sid_of(client)
    assert client.get("/who").content == b""
    client.post("/login/ada")
    assert client.get("/who").content == b"ada"
    assert client.get("/cart").json() == {"cart": ["first"]}
    assert twin_with(visitor).get("/who").content == b""
    user = sid_of(client)
    client.post("/logout")
    assert client.get("/who").content == b""
    assert twin_with(user).get("/who").content == b""


@pytest.mark.parametrize(("method", "status"), [("post", 400), ("get", 200)])
def test_who_comes_with_a_key_that_a_login_replaced(client: Client, method: str, status: int) -> None:
    """It waited behind that login, say. A new session's cookie would take the place of the login's."""
    late = twin_with(sid_of(client))
    late.raise_request_exception = False
    client.post("/login/ada")
    answer = getattr(late, method)("/add/late")
    assert answer.status_code == status
    assert "sessionid" not in answer.cookies


def test_somebody_else_logs_in_and_finds_nothing(client: Client) -> None:
    client.post("/login/ada")
    before = sid_of(client)
    client.post("/login/bob")
    assert client.get("/who").content == b"bob"
    assert client.get("/cart").json() == {"cart": []}
    assert not SessionStore().exists(before)


def logged_out_under(client: Client, pool: ThreadPoolExecutor, path: str) -> tuple[Client, Any]:
    """Another tab asks for ``path``, and while that runs the user logs out: that tab, and its answer."""
    client.post("/login/ada")
    late = twin_of(client)
    late.raise_request_exception = False
    waiting = pool.submit(late.get, path)
    entered()
    client.post("/logout")
    go_on()
    return late, waiting.result(10)


def test_a_late_request_does_not_undo_a_logout(client: Client, pool: ThreadPoolExecutor) -> None:
    late, answer = logged_out_under(client, pool, "/wait")
    assert answer.status_code == 200  # it ran again, as the stranger that the visitor is by now
    assert not SessionStore().exists(sid_of(client))
    assert late.get("/who").content == b""


def test_a_late_request_that_must_not_run_twice_is_told_of_a_logout(client: Client, pool: ThreadPoolExecutor) -> None:
    late, answer = logged_out_under(client, pool, "/once_wait")
    assert answer.status_code == 400  # SessionInterrupted, as in Django
    assert not SessionStore().exists(sid_of(late))


def test_messages(client: Client) -> None:
    client.post("/say/one")
    client.post("/say/two")
    assert client.get("/heard").json() == {"messages": ["one", "two"]}
    assert client.get("/heard").json() == {"messages": []}


@override_settings(
    CSRF_USE_SESSIONS=True,
    MIDDLEWARE=[
        "sessionlock.integrations.django.SessionLockMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
    ],
)
def test_csrf_secrets_in_the_session(client: Client) -> None:
    client = Client(enforce_csrf_checks=True)
    assert client.post("/put/a/b").status_code == 403
    client.get("/put/a/b")
    assert client.post("/put/a/c").status_code == 403


# --- what a view says


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        ("get", "/mode", "optimistic"),
        ("head", "/mode", "optimistic"),
        ("options", "/mode", "optimistic"),
        ("post", "/mode", "lock"),
        ("put", "/mode", "lock"),
        ("delete", "/mode", "lock"),
        ("get", "/amode", "optimistic"),
        ("post", "/amode", "lock"),
        ("get", "/locked_mode", "lock"),
        ("get", "/alocked_mode", "lock"),
        ("post", "/readonly_mode", "read"),
        ("post", "/exempt_mode", "optimistic"),
        ("get", "/class_modes", "optimistic"),
        ("post", "/class_modes", "lock"),
        ("put", "/class_modes", "optimistic"),
        ("post", "/class_readonly", "read"),
    ],
)
def test_modes(client: Client, method: str, path: str, mode: str) -> None:
    response = getattr(client, method)(path)
    assert method == "head" or response.content.decode() == mode


@override_settings(SESSION_LOCK_MODE="optimistic")
def test_the_mode_of_the_whole_site(client: Client) -> None:
    assert client.post("/mode").content == b"optimistic"
    assert client.post("/locked_mode").content == b"lock"


@override_settings(SESSION_LOCK_ROUTES={"/mode": "lock", "POST /class_*": "read", "/exempt_*": "lock"})
def test_the_modes_of_paths(client: Client) -> None:
    """A decorator of the view wins."""
    assert client.get("/mode").content == b"lock"
    assert client.post("/class_modes").content == b"read"
    assert client.get("/class_modes").content == b"optimistic"
    assert client.post("/exempt_mode").content == b"optimistic"
    assert client.post("/amode").content == b"lock"


@override_settings(SESSION_LOCK_SAVE_ON_ERROR=True)
def test_a_site_that_saves_on_errors(client: Client) -> None:
    client.post("/put/a/b?status=500")
    assert client.session["a"] == "b"


@override_settings(SESSION_LOCK_IDENTITY=["member"])
def test_a_key_of_the_site_s_own_that_tells_who_is_logged_in(client: Client) -> None:
    before = sid_of(client)
    client.post("/put/user_id/7")
    assert sid_of(client) == before
    client.post("/put/member/ada")
    assert sid_of(client) != before


def test_a_wait_of_its_own(client: Client, holder: Callable[[str], Any]) -> None:
    with holder(sid_of(client)):
        assert client.get("/impatient").status_code == 503
        assert client.post("/readonly_mode").status_code == 200
        assert client.post("/exempt_mode").status_code == 200


@pytest.mark.parametrize("path", ["/change_though_readonly", "/change_deep_though_readonly"])
def test_a_view_that_only_reads_must_not_change(client: Client, path: str) -> None:
    with pytest.raises(ReadOnlySession):
        client.post(path)
    assert client.get("/cart").json() == {"cart": ["first"]}
    with pytest.raises((ReadOnlySession, KeyError)):
        Client().post(path)


# --- what is set up wrong is told when Django starts


def test_wrong_settings() -> None:
    wrong: list[dict[str, Any]] = [
        {"SESSION_LOCK_URL": ""},
        {"SESSION_LOCK_MODE": "sometimes"},
        {"SESSION_LOCK_MODE": "off"},
        {"SESSION_LOCK_WAIT": -1},
        {"SESSION_LOCK_LEASE": "long"},
        {"SESSION_LOCK_MERGE": {"cart": "somehow"}},
        {"SESSION_ENGINE": "django.contrib.sessions.backends.cache"},
    ]
    for said in wrong:
        with override_settings(**said), pytest.raises(ImproperlyConfigured):
            SessionLockMiddleware(lambda request: None)


def test_django_s_own_middleware_works_with_the_engine_alone() -> None:
    with override_settings(MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"]):
        client = Client()
        client.post("/add/x")
        assert client.get("/cart").json() == {"cart": ["x"]}
