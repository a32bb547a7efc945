"""Who logs in gets a new id, by whatever extension, and a planted one is dead (A4, A5)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import flask_login
import pytest
from flask import Flask, current_app, session
from flask.testing import FlaskClient
from flask_principal import Identity, Principal, identity_changed

from tests.harness.flask_apps import WAIT, asked, close, guard_of, guarded, sid_of, together


class User(flask_login.UserMixin):
    def __init__(self, name: str) -> None:
        self.id = name


@pytest.fixture
def app(redis_url: str) -> Iterator[Flask]:
    app = guarded(redis_url)
    manager = flask_login.LoginManager(app)
    manager.user_loader(User)
    Principal(app)

    @app.post("/cart")
    def cart() -> str:
        session["cart"] = ["book"]
        return ""

    @app.get("/who")
    def who() -> dict[str, Any]:
        user = flask_login.current_user.get_id() if flask_login.current_user.is_authenticated else None
        return {"user": user or session.get("user_id") or session.get("identity.id"), "cart": session.get("cart")}

    def view(name: str, login: Callable[[], object]) -> None:
        def run() -> str:
            login()
            return ""

        app.add_url_rule(f"/{name}", name, run, methods=["GET", "POST"])

    def tutorial() -> None:
        session.clear()
        session["user_id"] = "victim"

    def principal() -> None:
        identity_changed.send(current_app._get_current_object(), identity=Identity("victim"))  # type: ignore[attr-defined]

    def by_a_hook() -> None:
        session["whoever"] = "victim"
        session.sessionlock.identity_changed()  # type: ignore[attr-defined]

    view("tutorial", tutorial)
    view("flask-login", lambda: flask_login.login_user(User("victim")))
    view("flask-login-remember", lambda: flask_login.login_user(User("victim"), remember=True))
    view("principal", principal)
    view("plain", lambda: session.update(user="victim"))
    view("other", lambda: session.update(user="other"))
    view("hook", by_a_hook)
    view("itself", lambda: (session.update(user="victim"), session.sessionlock.regenerate(grace=0)))  # type: ignore[attr-defined]
    view("logout", flask_login.logout_user)
    view("clear", lambda: session.clear())
    view("destroy", lambda: session.sessionlock.destroy())  # type: ignore[attr-defined]
    yield app
    close(app)


@pytest.fixture
def planted(app: Flask) -> str:
    """An id that an attacker had given out to himself, with a cart in it."""
    client = app.test_client()
    client.post("/cart")
    return sid_of(client)


WAYS = ["tutorial", "flask-login", "flask-login-remember", "principal", "plain", "hook", "itself"]


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("way", WAYS)
def test_a_planted_id_is_dead_after_a_login(app: Flask, planted: str, way: str, method: str) -> None:
    victim = app.test_client()
    victim.set_cookie("session", planted)
    assert victim.open(f"/{way}", method=method).status_code == 200
    assert sid_of(victim) != planted
    with guard_of(app) as guard:
        stored = dict(guard.read(sid_of(victim)))
    assert "victim" in stored.values()
    assert ("cart" in stored) == (way != "tutorial")
    assert asked(app, planted, "/who").json == {"user": None, "cart": None}


@pytest.mark.parametrize("way", ["flask-login", "plain"])
def test_who_is_logged_in_already_keeps_the_id(app: Flask, planted: str, way: str) -> None:
    client = app.test_client()
    client.set_cookie("session", planted)
    client.post(f"/{way}")
    known = sid_of(client)
    client.post(f"/{way}")
    client.post("/cart")
    assert sid_of(client) == known


def test_another_user_in_the_same_browser(app: Flask) -> None:
    client = app.test_client()
    client.post("/plain")
    first = sid_of(client)
    client.post("/other")
    assert sid_of(client) != first


def test_keys_of_ones_own(redis_url: str) -> None:
    app = guarded(redis_url, SESSION_LOCK_IDENTITY=("member",))

    @app.post("/<key>")
    def put(key: str) -> str:
        session[key] = "x"
        return ""

    client = app.test_client()
    client.post("/anything")
    first = sid_of(client)
    client.post("/user_id")
    assert sid_of(client) == first
    client.post("/member")
    assert sid_of(client) != first
    close(app)


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("way", ["clear", "destroy"])
def test_a_logout_ends_the_session(app: Flask, way: str, method: str) -> None:
    client = app.test_client()
    client.post("/plain")
    sid = sid_of(client)
    answer = client.open(f"/{way}", method=method)
    assert answer.status_code == 200
    assert client.get_cookie("session") is None
    assert asked(app, sid, "/who").json["user"] is None  # type: ignore[index]


def test_flask_login_logs_out(app: Flask, planted: str) -> None:
    client = app.test_client()
    client.set_cookie("session", planted)
    client.post("/flask-login")
    known = sid_of(client)
    client.get("/logout")
    assert client.get("/who").json == {"user": None, "cart": ["book"]}
    assert asked(app, known, "/who").json["user"] is None  # type: ignore[index]


def test_a_remembered_user_comes_back_in_eight_tabs(app: Flask) -> None:
    """Each of them finds nobody logged in, and logs the user in by the other cookie."""
    client = app.test_client()
    client.post("/flask-login-remember")
    remember = client.get_cookie("remember_token")
    assert remember is not None
    client.post("/clear")  # or the session's end
    client.post("/cart")
    headers = {"Cookie": f"session={sid_of(client)}; remember_token={remember.value}"}
    answers: list[Any] = []

    def ask() -> None:
        tab = app.test_client(use_cookies=False)
        answers.append(tab.get("/who", headers=headers))

    tabs = [threading.Thread(target=ask) for _ in range(8)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join(WAIT)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert {answer.json["user"] for answer in answers} == {"victim"}
    told = {c for a in answers for c in a.headers.getlist("Set-Cookie") if c.startswith("session=")}
    assert len(told) == 1  # one new id, whichever answer comes last
    (new,) = told
    assert asked(app, new.split(";")[0].removeprefix("session="), "/who").json == {"user": "victim", "cart": ["book"]}


def test_last_activity_of_a_user_in_many_tabs(app: Flask) -> None:
    stamps = iter(range(1000))

    @app.before_request
    def note() -> None:
        session["last_activity"] = max(session.get("last_activity", 0), next(stamps))

    client: FlaskClient = app.test_client()
    client.post("/flask-login")
    answers = together(app, sid_of(client), ["/who"] * 12)
    assert [answer.status_code for answer in answers] == [200] * 12
    assert {answer.json["user"] for answer in answers} == {"victim"}  # type: ignore[index]


def test_who_is_logged_in_as_an_object(app: Flask) -> None:
    """As Authlib's documentation has it. What changes in the object besides the user is no login."""

    @app.post("/guest")
    def guest() -> str:
        session["user"] = {"role": "guest"}
        return ""

    @app.post("/inside")
    def inside() -> str:
        session["user"].update(sub="42", name="Ada", role="member")  # the very object
        return ""

    @app.post("/renamed")
    def renamed() -> str:
        session["user"] = {**session["user"], "name": "Ada L.", "seen": 5}
        return ""

    @app.post("/someone")
    def someone() -> str:
        session["user"] = {**session["user"], "sub": "43"}
        return ""

    client = app.test_client()
    ids = []
    for path in ("/guest", "/inside", "/renamed", "/someone"):
        client.post(path)
        ids.append(sid_of(client))
    assert ids[0] != ids[1] == ids[2] != ids[3]
    assert asked(app, ids[0], "/who").json == {"user": None, "cart": None}
