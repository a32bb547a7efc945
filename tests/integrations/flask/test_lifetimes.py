"""PERMANENT_SESSION_LIFETIME, session.permanent and SESSION_REFRESH_EACH_REQUEST at each request; record and cookie end
together (A6, A7)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from flask import Flask, session

from sessionlock import SessionGuard, SessionPolicy
from sessionlock.integrations.flask.extension import SessionLock
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import connect, older
from tests.harness.flask_apps import close, guarded, sid_of

HOUR = 3600.0


@pytest.fixture
def app(redis_url: str) -> Iterator[Flask]:
    app = guarded(redis_url, PERMANENT_SESSION_LIFETIME=timedelta(hours=1))

    @app.post("/login")
    def login() -> str:
        session["user_id"] = 1
        session.permanent = True
        return ""

    @app.post("/begin")
    def begin() -> str:
        session["a"] = 1
        return ""

    @app.route("/look", methods=["GET", "POST"])
    def look() -> str:
        return str(session.get("user_id"))

    @app.route("/change", methods=["GET", "POST"])
    def change() -> str:
        session["n"] = session.get("n", 0) + 1
        return ""

    @app.route("/touch", methods=["GET", "POST"])
    def touch() -> str:
        session.modified = True
        return ""

    @app.get("/page")
    def page() -> str:
        return "does not look into its session"

    yield app
    close(app)


class Browser:
    """Sees the cookie, and what Redis says of the record."""

    def __init__(self, app: Flask, url: str) -> None:
        self.app = app
        self.client = app.test_client()
        self.url = url
        self.cookie: str | None = None

    def ask(self, path: str, method: str = "GET") -> str:
        answer = self.client.open(path, method=method)
        assert answer.status_code == 200
        told = [c for c in answer.headers.getlist("Set-Cookie") if c.startswith("session=")]
        self.cookie = told[0] if told else None
        return answer.text

    @property
    def key(self) -> bytes:
        guard = self.app.session_interface.guard  # type: ignore[attr-defined]
        return keys_for(guard.prefix, sid_of(self.client)).session

    def left(self) -> float:
        """Seconds that the record has."""
        with connect(self.url) as redis:
            return float(redis.pttl(self.key)) / 1000

    def passes(self, seconds: float) -> None:
        """So much of its life has gone by."""
        with connect(self.url) as redis:
            older(redis, self.key, int(seconds * 1000))

    def cookie_left(self) -> float | None:
        assert self.cookie is not None
        for part in self.cookie.split("; "):
            if part.startswith("Expires="):
                return (parsedate_to_datetime(part[8:]) - datetime.now(timezone.utc)).total_seconds()
        return None


@pytest.fixture
def browser(app: Flask, redis_url: str) -> Browser:
    return Browser(app, redis_url)


def near(seconds: float, by: float = 40) -> Any:
    return pytest.approx(seconds, abs=by)


def test_the_record_lives_as_long_as_the_cookie(browser: Browser) -> None:
    browser.ask("/login", "POST")
    assert (browser.left(), browser.cookie_left()) == (near(HOUR), near(HOUR))


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/look", "/change", "/touch"])
def test_a_permanent_session_is_renewed_by_each_request(browser: Browser, path: str, method: str) -> None:
    browser.ask("/login", "POST")
    browser.passes(600)
    browser.ask(path, method)
    assert (browser.left(), browser.cookie_left()) == (near(HOUR), near(HOUR))


def test_who_only_follows_links_stays(browser: Browser) -> None:
    """Also where the pages do not look into the session."""
    browser.ask("/login", "POST")
    for _ in range(5):
        browser.passes(2000)
        browser.ask("/page")
        assert (browser.left(), browser.cookie_left()) == (near(HOUR), near(HOUR))
    assert browser.ask("/look") == "1"


def test_static_files_renew_nothing(browser: Browser) -> None:
    browser.ask("/login", "POST")
    browser.passes(2000)
    for path in ("/static/none.css", "/nowhere"):
        answer = browser.client.get(path)
        assert answer.status_code == 404
        assert "Set-Cookie" not in answer.headers
    assert browser.left() == near(HOUR - 2000)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_refreshing_it_ends_when_it_was_said(app: Flask, browser: Browser, method: str) -> None:
    app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    browser.ask("/login", "POST")
    browser.passes(3000)  # long past the half
    for path in ("/look", "/page") if method == "GET" else ("/look",):
        browser.ask(path, method)
        assert browser.cookie is None
    assert browser.left() == near(HOUR - 3000)
    for path in ("/change", "/touch"):
        browser.ask(path, method)
        assert (browser.left(), browser.cookie_left()) == (near(HOUR), near(HOUR))
        browser.passes(3000)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_modified_sends_the_cookie_and_renews(browser: Browser, method: str) -> None:
    browser.ask("/begin", "POST")
    browser.passes(1000)
    browser.ask("/look")
    assert browser.cookie is None  # not permanent: until the browser is closed
    browser.ask("/touch", method)
    assert browser.left() == near(HOUR)
    assert browser.cookie_left() is None  # sent, without an end
    browser.passes(3000)
    browser.ask("/look")
    assert browser.left() == near(HOUR)  # the record of an active visitor does not end


def test_lifetime_and_permanence_are_read_at_each_request(app: Flask, redis_url: str) -> None:
    """As the documentation of many applications has it."""
    app = guarded(redis_url)

    @app.before_request
    def short() -> None:
        session.permanent = True
        app.permanent_session_lifetime = timedelta(seconds=300)

    @app.route("/", methods=["GET", "POST"])
    def page() -> str:
        session.setdefault("a", 1)
        return ""

    browser = Browser(app, redis_url)
    for method in ("POST", "GET", "POST", "GET"):
        browser.ask("/", method)
        assert (browser.left(), browser.cookie_left()) == (near(300, 3), near(300, 3))
        browser.passes(100)
    close(app)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_shorter_lifetime_counts_for_sessions_that_are_there(app: Flask, browser: Browser, method: str) -> None:
    browser.ask("/login", "POST")
    app.config["PERMANENT_SESSION_LIFETIME"] = 60
    browser.ask("/change", method)
    assert (browser.left(), browser.cookie_left()) == (near(60, 3), near(60, 3))


def test_permanent_off(app: Flask, browser: Browser) -> None:
    @app.get("/off")
    def off() -> str:
        session.permanent = False
        return ""

    browser.ask("/login", "POST")
    browser.ask("/off")
    assert browser.cookie_left() is None
    browser.ask("/page")
    assert browser.cookie is None


def test_a_late_answer_does_not_bring_an_old_id_back(app: Flask, browser: Browser) -> None:
    @app.get("/late")
    def late() -> str:
        session.get("user_id")
        other = app.test_client()
        other.set_cookie("session", sid_of(browser.client))
        answers.append(other.post("/again").headers["Set-Cookie"])  # a login in another tab
        return ""

    @app.post("/again")
    def again() -> str:
        session.sessionlock.regenerate()  # type: ignore[attr-defined]
        return ""

    answers: list[str] = []
    browser.ask("/login", "POST")
    browser.ask("/late")
    assert answers
    assert browser.cookie is None


@pytest.mark.parametrize(("idle", "expected"), [(600.0, 600), (7200.0, 3600), (SessionPolicy().idle, 3600)])
def test_a_guard_of_ones_own_may_only_shorten(redis_url: str, idle: float, expected: float) -> None:
    app = Flask("own")
    app.permanent_session_lifetime = timedelta(hours=1)
    SessionLock(app, SessionGuard.from_url(redis_url, session=SessionPolicy(idle=idle)))

    @app.post("/")
    def view() -> str:
        session["a"] = 1
        session.permanent = True
        return ""

    browser = Browser(app, redis_url)
    browser.ask("/", "POST")
    assert (browser.left(), browser.cookie_left()) == (near(expected), near(expected))
    close(app)


def test_what_it_costs(app: Flask, browser: Browser, redis_url: str) -> None:
    """Sessions that end with the browser: one call for a page, two for a change."""
    from tests.harness.commands import CommandCounter

    browser.ask("/begin", "POST")
    browser.ask("/change", "POST")
    browser.ask("/look")  # now the scripts are known there
    browser.ask("/change")
    asked = [
        ("/look", "GET", 1),
        ("/change", "POST", 2),
        ("/look", "POST", 2),
        ("/page", "GET", 0),
        ("/change", "GET", 2),
    ]
    for path, method, calls in asked:
        with CommandCounter(redis_url) as ran:
            browser.ask(path, method)
        assert (path, method, ran.script_calls) == (path, method, calls)
