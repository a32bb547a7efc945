"""Set-ups that would guard nothing are named, and applications leave nothing behind (A10, A12, B15, B29)."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask, session
from flask.sessions import SecureCookieSessionInterface
from flask_session import Session as FlaskSession
from redis import Redis

from sessionlock import SessionGuard
from sessionlock.errors import ConfigurationError
from sessionlock.integrations.flask.extension import SessionLock
from sessionlock.integrations.flask.interface import SessionLockInterface
from tests.harness.flask_apps import close, guarded
from tests.harness.polling import until


def by_flask_session(app: Flask, url: str) -> None:
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=Redis.from_url(url))
    FlaskSession(app)


class Api(SecureCookieSessionInterface):
    """As in recipes for answers without cookies."""


class WithItsOwn(Flask):
    session_interface = Api()


# --- A10


def test_flask_session_before(redis_url: str) -> None:
    app = Flask("shop")
    by_flask_session(app, redis_url)
    with pytest.raises(ConfigurationError, match="RedisSessionInterface already"):
        SessionLock(app, redis_url)


def test_flask_session_afterwards(redis_url: str) -> None:
    app = guarded(redis_url)
    by_flask_session(app, redis_url)
    app.add_url_rule("/", view_func=lambda: "x")
    for _ in range(2):  # every request: half guarded is not guarded
        with pytest.raises(ConfigurationError, match=r"RedisSessionInterface was put in its place.*Session\(app\)"):
            app.test_client().get("/")


def test_a_session_interface_of_ones_own(redis_url: str) -> None:
    app = WithItsOwn("shop")
    with pytest.raises(ConfigurationError, match="Api already"):
        SessionLock(app, redis_url)


@pytest.mark.parametrize("again", ["other", "same"])
def test_twice(redis_url: str, again: str) -> None:
    app = Flask("shop")
    extension = SessionLock(app, redis_url)
    with pytest.raises(ConfigurationError, match="guards this application already"):
        extension.init_app(app) if again == "same" else SessionLock(app, redis_url)


def test_two_applications_by_one_extension(redis_url: str) -> None:
    extension = SessionLock()
    apps = [guarded_by(extension, redis_url) for _ in range(2)]
    client = apps[0].test_client()
    client.post("/")
    with client.session_transaction() as seen:
        assert dict(seen) == {"a": 1}
    for app in apps:
        close(app)


def guarded_by(extension: SessionLock, url: str) -> Flask:
    app = Flask("shop")
    app.config["SESSION_LOCK_URL"] = url
    extension.init_app(app)

    @app.post("/")
    def view() -> str:
        session["a"] = 1
        return ""

    return app


# --- B15: at start-up


@pytest.mark.parametrize("url", ["redsi://localhost", "localhost:6379", 7, object()])
@pytest.mark.parametrize("how", ["argument", "config"])
def test_a_wrong_url_is_told_at_once(url: Any, how: str) -> None:
    app = Flask("shop")
    if how == "config":
        app.config["SESSION_LOCK_URL"] = url
    with pytest.raises(ConfigurationError):
        SessionLock(app, url if how == "argument" else None)
    assert type(app) is Flask
    assert type(app.session_interface) is SecureCookieSessionInterface


def test_wrong_values_are_told_at_once() -> None:
    app = Flask("shop")
    with pytest.raises(ConfigurationError, match="mode"):
        SessionLock(app, mode="locked")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="on_conflict"):
        SessionLock(app, on_conflict="never")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError):
        SessionLock(app, wait=-1)
    app.config["SESSION_LOCK_PROBLEMS"] = "of.django"  # else the first outage would be a 500
    with pytest.raises(ConfigurationError, match="SESSION_LOCK_PROBLEMS"):
        SessionLock(app)
    del app.config["SESSION_LOCK_PROBLEMS"]
    SessionLock(app)


# --- the application stays what it is


def test_its_class_looks_the_same(redis_url: str) -> None:
    class Shop(Flask):
        """A shop."""

        def wsgi_app(self, environ: Any, start_response: Any) -> Any:
            environ["seen"] = True
            return super().wsgi_app(environ, start_response)

    app = Shop("shop")
    before = repr(app)
    SessionLock(app, redis_url)
    assert isinstance(app, Shop)
    assert (type(app).__name__, type(app).__module__, type(app).__doc__) == ("Shop", __name__, "A shop.")
    assert repr(app) == before
    assert isinstance(app.session_interface, SessionLockInterface)
    other = Shop("other")
    SessionLock(other, redis_url)
    assert type(other) is type(app)
    assert type(Shop("plain")) is Shop

    @app.get("/")
    def view() -> str:
        from flask import request

        return str(request.environ["seen"])

    assert app.test_client().get("/").text == "True"


# --- B29


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def by_url(app: Flask, url: str) -> None:
    SessionLock(app, url)


def by_config(app: Flask, url: str) -> None:
    app.config["SESSION_LOCK_URL"] = url
    SessionLock().init_app(app)


def by_guard(app: Flask, url: str) -> None:
    SessionLock(app, SessionGuard.from_url(url))


@pytest.mark.parametrize("set_up", [by_url, by_config, by_guard])
def test_an_application_is_freed_at_once(redis_url: str, set_up: Callable[[Flask, str], None]) -> None:
    with no_collector():
        app = Flask("shop")
        set_up(app, redis_url)
        seen = weakref.ref(app)
        assert seen() is not None
        del app
        assert seen() is None


@pytest.mark.slow
def test_many_applications_that_were_used(redis_url: str) -> None:
    """As factories make them in tests: their guards and connections go with them."""
    kept: list[weakref.ref[Any]] = []

    def one() -> None:
        app = guarded(redis_url)

        @app.post("/")
        def view() -> str:
            session["n"] = session.get("n", 0) + 1
            return ""

        client = app.test_client()
        assert client.post("/").status_code == 200
        assert client.post("/").status_code == 200
        kept.extend([weakref.ref(app), weakref.ref(app.session_interface.guard)])  # type: ignore[attr-defined]

    with Redis.from_url(redis_url) as redis:
        before = len(redis.client_list())
        for _ in range(10):
            one()

        def gone() -> bool:
            gc.collect()
            return len(redis.client_list()) <= before + 2 and not any(of() for of in kept)

        until(gone, "applications, guards and connections are gone")
