"""Packages that people install beside Flask, driven as they are driven there (B1, B3, B18)."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import flask_login
import pytest
from authlib.integrations.flask_client import OAuth
from flask import Flask, Response, flash, get_flashed_messages, redirect, request, session
from flask_session import Session as FlaskSessionExtension
from flask_sock import Sock
from flask_socketio import SocketIO, emit
from flask_wtf import CSRFProtect, FlaskForm
from flask_wtf.csrf import generate_csrf
from redis import Redis
from websockets.sync.client import connect
from werkzeug.serving import make_server
from wtforms import StringField

from sessionlock.integrations.flask.extension import SessionLock
from sessionlock.integrations.takeover.cookies import FlaskCookie
from sessionlock.integrations.takeover.origins import FlaskSession
from tests.harness.flask_apps import WAIT, asked, close, guard_of, guarded, sid_of, together


@pytest.fixture
def app(redis_url: str) -> Iterator[Flask]:
    app = guarded(redis_url)
    yield app
    close(app)


def begun(app: Flask, **content: Any) -> str:
    with guard_of(app) as guard:
        return guard.create({"known": True, **content}).sid


# --- Flask-WTF


def test_forms_in_forty_tabs(app: Flask) -> None:
    """Each page makes a token if there is none; whichever page is sent, its token is right."""
    app.config["WTF_CSRF_SSL_STRICT"] = False
    CSRFProtect(app)

    @app.get("/form")
    def form() -> str:
        return str(generate_csrf())

    @app.post("/form")
    def send() -> str:
        return str(request.form["name"])

    sid = begun(app)
    pages = together(app, sid, ["/form"] * 40)
    assert [page.status_code for page in pages] == [200] * 40
    for page in pages[::8]:
        answer = asked(app, sid, "/form", "POST", data={"name": "Ada", "csrf_token": page.text})
        assert (answer.status_code, answer.text) == (200, "Ada")
    assert asked(app, sid, "/form", "POST", data={"name": "Eve"}).status_code == 400


def test_a_form_by_class(app: Flask) -> None:
    class Form(FlaskForm):
        name = StringField()

    @app.route("/form", methods=["GET", "POST"])
    def form() -> str:
        one = Form()
        return f"sent {one.name.data}" if one.validate_on_submit() else str(one.hidden_tag())

    client = app.test_client()
    token = re.search(r'value="([^"]+)"', client.get("/form").text)
    assert token is not None
    assert client.post("/form", data={"name": "Ada", "csrf_token": token[1]}).text == "sent Ada"


# --- Authlib


def test_logins_begun_in_eight_tabs(app: Flask) -> None:
    """The state of each of them is there when its answer comes back."""
    oauth = OAuth(app)
    oauth.register(
        "idp",
        client_id="shop",
        client_secret="secret",
        authorize_url="https://idp.example/authorize",
        access_token_url="https://idp.example/token",
        client_kwargs={"code_challenge_method": "S256"},
    )

    @app.get("/login")
    def login() -> Any:
        return oauth.idp.authorize_redirect("http://localhost/back")

    sid = begun(app)
    answers = together(app, sid, ["/login"] * 8)
    assert [answer.status_code for answer in answers] == [302] * 8
    states = {re.search(r"state=([^&]+)", answer.headers["Location"])[1] for answer in answers}  # type: ignore[index]
    assert len(states) == 8
    with guard_of(app) as guard:
        stored = dict(guard.read(sid))
    assert {key for key in stored if key.startswith("_state_idp_")} == {f"_state_idp_{state}" for state in states}
    for state in states:
        assert "code_verifier" in stored[f"_state_idp_{state}"]["data"]


def test_a_token_in_the_session(app: Flask) -> None:
    from authlib.oauth2.rfc6749 import OAuth2Token

    @app.post("/back")
    def back() -> str:
        session["token"] = OAuth2Token({"access_token": "x", "expires_in": 60, "scope": "a b"})
        return ""

    @app.get("/use")
    def use() -> str:
        return f"{type(session['token']).__name__} {session['token']['access_token']}"

    client = app.test_client()
    client.post("/back")
    assert client.get("/use").text == "dict x"


# --- Flask-Login


def test_pages_of_a_user_in_twenty_tabs(app: Flask) -> None:
    class User(flask_login.UserMixin):
        id = "ada"

    flask_login.LoginManager(app).user_loader(lambda _: User())

    @app.post("/login")
    def log_in() -> str:
        flask_login.login_user(User(), remember=True)
        return ""

    @app.get("/page")
    @flask_login.login_required
    def page() -> str:
        session["pages"] = session.get("pages", 0) + 1
        return str(flask_login.current_user.id)

    client = app.test_client()
    client.post("/login")
    answers = together(app, sid_of(client), ["/page"] * 20)
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "ada")] * 20
    with guard_of(app) as guard:
        assert guard.read(sid_of(client))["pages"] == 20


def test_a_message_of_the_login_view(app: Flask) -> None:
    manager = flask_login.LoginManager(app)
    manager.user_loader(lambda _: None)
    manager.login_view = "log_in"

    @app.get("/page")
    @flask_login.login_required
    def page() -> str:
        return ""

    @app.get("/login")
    def log_in() -> str:
        return "|".join(map(str, get_flashed_messages()))

    client = app.test_client()
    assert client.get("/page", follow_redirects=True).text == "Please log in to access this page."
    assert client.get("/login").text == ""


# --- flashes, as everybody shows them


def told_that_it_is_saved(app: Flask) -> str:
    """The id of a session in which that message waits."""

    @app.post("/say")
    def say() -> str:
        flash("saved")
        return ""

    client = app.test_client()
    client.post("/say")
    return sid_of(client)


def test_messages_of_one_tab_do_not_cost_what_another_stores(app: Flask) -> None:
    """A page shows the last message, while a form stores a cart (A2)."""

    @app.post("/buy")
    def buy() -> Response:
        session["cart"] = ["book"]
        return redirect("/shown")  # type: ignore[return-value]

    @app.get("/show")
    def show() -> str:
        shown = get_flashed_messages()
        asked(app, sid, "/buy", "POST")
        return "|".join(map(str, shown))

    sid = told_that_it_is_saved(app)
    assert asked(app, sid, "/show").text == "saved"
    with guard_of(app) as guard:
        assert dict(guard.read(sid)) == {"cart": ["book"]}


def test_messages_in_three_tabs(app: Flask) -> None:
    app.add_url_rule("/show", view_func=lambda: "|".join(map(str, get_flashed_messages())))
    sid = told_that_it_is_saved(app)
    answers = together(app, sid, ["/show"] * 3)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert sorted(answer.text for answer in answers) == ["", "", "saved"]
    assert asked(app, sid, "/show").text == ""


# --- sockets


@pytest.mark.parametrize("manage_session", [True, False])
def test_flask_socketio(app: Flask, manage_session: bool) -> None:
    """It puts a session of its own into the request's place, or saves ours by itself after each event."""

    @app.post("/begin")
    def begin() -> str:
        session["a"] = 1
        return ""

    sockets = SocketIO(app, manage_session=manage_session, async_mode="threading")

    @sockets.on("hello")
    def hello(_: Any) -> None:
        session["n"] = session.get("n", 0) + 1
        emit("said", [session["a"], session["n"]])

    client = app.test_client()
    client.post("/begin")
    socket = sockets.test_client(app, flask_test_client=client)
    socket.emit("hello", 1)
    socket.emit("hello", 2)
    assert [event["args"] for event in socket.get_received()] == [[[1, 1]], [[1, 2]]]
    with guard_of(app) as guard:
        assert dict(guard.read(sid_of(client))) == ({"a": 1} if manage_session else {"a": 1, "n": 2})
        assert guard.inspect(sid_of(client)).holder is None


def test_a_websocket_is_never_run_again(app: Flask) -> None:
    """What it changed too late meets a conflict, which is told; its browser has spoken with it already."""
    runs: list[str] = []
    over = threading.Event()

    @app.post("/begin")
    def begin() -> str:
        session["n"] = session.get("n", 0) + 1
        return ""

    @app.teardown_request
    def ended(error: BaseException | None) -> None:
        if request.path == "/echo":
            over.set()

    @Sock(app).route("/echo")
    def echo(socket: Any) -> None:
        runs.append(request.path)
        session["n"] += 100
        while True:
            socket.send(f"{socket.receive()} {session['n']}")

    client = app.test_client()
    client.post("/begin")
    server = make_server("127.0.0.1", 0, app, threaded=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        cookie = {"Cookie": f"session={sid_of(client)}"}
        with connect(f"ws://127.0.0.1:{server.port}/echo", additional_headers=cookie) as socket:
            socket.send("x")
            assert socket.recv() == "x 101"
            assert client.post("/begin").status_code == 200  # not held up
        assert over.wait(WAIT)
    finally:
        server.shutdown()
        serving.join(WAIT)
        server.server_close()
    assert runs == ["/echo"]
    with guard_of(app) as guard:
        assert guard.read(sid_of(client))["n"] == 2


# --- B18: visitors who have sessions already


def in_the_old_way(app: Flask) -> Any:
    @app.post("/login")
    def log_in() -> str:
        session["user_id"] = 7
        session["cart"] = ["book"]
        return ""

    client = app.test_client()
    client.post("/login")
    cookie = client.get_cookie("session")
    assert cookie is not None
    return cookie.value


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("before", ["cookie", "flask-session"])
def test_nobody_is_logged_out_by_the_switch(redis_url: str, before: str, method: str) -> None:
    old = Flask("old")
    old.secret_key = "as ever"
    with Redis.from_url(redis_url) as redis:
        if before == "flask-session":
            old.config.update(SESSION_TYPE="redis", SESSION_REDIS=redis)
            FlaskSessionExtension(old)
        cookie = in_the_old_way(old)
    new = Flask("new")
    origin = FlaskCookie("as ever") if before == "cookie" else FlaskSession(redis_url)
    SessionLock(new, redis_url, read_from=origin)

    @new.route("/who", methods=["GET", "POST"])
    def who() -> list[Any]:
        return [session.get("user_id"), session.get("cart")]

    client = new.test_client()
    client.set_cookie("session", cookie)
    for _ in range(2):
        assert client.open("/who", method=method).json == [7, ["book"]]
    with guard_of(new) as guard:
        stored = dict(guard.read(sid_of(client)))
    assert (stored["user_id"], stored["cart"]) == (7, ["book"])
    close(new)
