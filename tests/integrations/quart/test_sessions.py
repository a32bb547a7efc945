"""Quart's own conventions for sessions, and its settings, over a real server."""

from __future__ import annotations

import asyncio
import copy
import json
import logging
from collections import OrderedDict
from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup
from quart import Quart, flash, get_flashed_messages, jsonify, make_response, render_template_string, session
from quart.sessions import NullSession, SessionInterface
from quart.typing import ResponseReturnValue
from quart.typing import TestClientProtocol as Client
from quart.views import MethodView

from sessionlock import ConfigurationError, SessionGuard, SessionPolicy
from sessionlock.integrations.asgi import SessionLockMiddleware
from sessionlock.integrations.quart.extension import SessionLock
from sessionlock.integrations.quart.interface import visit_of
from sessionlock.integrations.quart.session import LockedSession
from sessionlock.integrations.takeover.cookies import FlaskCookie
from sessionlock.integrations.web.decorators import locks_session, session_readonly
from tests.harness.commands import aged, connect
from tests.harness.polling import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def app(guard: SessionGuard) -> Quart:
    app = Quart(__name__)
    SessionLock(app, guard, wait=0.2)

    @app.post("/add/<item>")
    async def add(item: str) -> list[str]:
        session.setdefault("cart", []).append(item)
        return list(session["cart"])

    @app.get("/cart")
    async def cart() -> list[str]:
        return list(session.get("cart", []))

    return app


@pytest.fixture
def client(app: Quart) -> Client:
    return app.test_client()


def sid_of(client: Client) -> str:
    assert client.cookie_jar is not None
    (cookie,) = [cookie for cookie in client.cookie_jar if cookie.name == "session"]
    assert cookie.value is not None
    return cookie.value


def lives(redis_url: str, guard: SessionGuard) -> float:
    """Seconds for which the only record will be there."""
    with connect(redis_url) as redis:
        (key,) = redis.keys(f"{guard.prefix}*:session")
        return float(redis.pttl(key)) / 1000


def shorten(url: str, guard: SessionGuard, milliseconds: int) -> None:
    """Let the only record end by then."""
    with connect(url) as redis:
        (key,) = redis.keys(f"{guard.prefix}*:session")
        aged(redis, key, milliseconds)


# --- a session as Quart has it ----------------------------------------------------------------------------------------


async def test_deep_changes_are_kept(client: Client) -> None:
    first = await client.post("/add/a")
    assert "HttpOnly" in first.headers["Set-Cookie"]
    assert "SameSite=Lax" in first.headers["Set-Cookie"]
    assert first.headers["Vary"] == "Cookie"
    await client.post("/add/b")
    assert await (await client.get("/cart")).get_json() == ["a", "b"]


async def test_it_is_a_session_interface_of_quarts(app: Quart, client: Client) -> None:
    interface: Any = app.session_interface
    assert isinstance(interface, SessionInterface)
    assert isinstance(await interface.make_null_session(app), NullSession)
    async with app.test_request_context("/"):
        assert not interface.is_null_session(session._get_current_object())  # type: ignore[attr-defined]


async def test_its_attributes(app: Quart, client: Client) -> None:
    @app.route("/seen", methods=["GET", "POST"])
    async def seen() -> dict[str, Any]:
        before = [session.new, session.modified, session.permanent]
        session["a"] = {"b": 1}
        session.modified = True
        return {"before": before, "after": [session.new, session.modified, session.permanent]}

    assert await (await client.post("/seen")).get_json() == {
        "before": [True, False, False],
        "after": [True, True, False],
    }
    assert await (await client.get("/seen")).get_json() == {
        "before": [False, False, False],
        "after": [False, True, False],
    }


async def test_only_the_conventional_names_are_attributes(app: Quart, client: Client) -> None:
    """A8: a template that asks for a user's own key gets that key, or nothing."""

    @app.get("/hello")
    async def hello() -> str:
        names = ("name", "sid", "visit", "lease", "version", "save", "failed", "finish", "use", "end", "state", "data")
        shown = "".join(f"{{{{ session.{name} }}}}" for name in names)
        return await render_template_string(f"[{shown}]")

    @app.post("/name")
    async def name() -> str:
        session["name"] = "Ada"
        return ""

    assert await (await client.get("/hello")).get_data(as_text=True) == "[]"
    await client.post("/name")
    assert await (await client.get("/hello")).get_data(as_text=True) == "[Ada]"
    public = {name for name in dir(LockedSession) if not name.startswith("_")} - set(dir(dict))
    assert public == {"new", "modified", "accessed", "permanent", "sessionlock"}


async def test_it_is_a_dict_where_people_take_it_for_one(app: Quart, client: Client) -> None:
    """B7"""

    @app.get("/forms")
    async def forms() -> ResponseReturnValue:
        whole: Any = session._get_current_object()  # type: ignore[attr-defined]
        assert json.loads(json.dumps(whole)) == {"cart": ["a"]}
        assert (whole | {"b": 1}, {"b": 1} | whole) == ({"cart": ["a"], "b": 1}, {"b": 1, "cart": ["a"]})
        assert copy.deepcopy(whole) == whole.copy() == dict(whole) == {**whole} == {"cart": ["a"]}
        assert await render_template_string("{{ session|tojson }}") == '{"cart": ["a"]}'
        return jsonify(whole)

    @app.get("/returned")
    async def returned() -> Any:
        return session._get_current_object()  # type: ignore[attr-defined]

    await client.post("/add/a")
    assert await (await client.get("/forms")).get_json() == {"cart": ["a"]}
    assert await (await client.get("/returned")).get_json() == {"cart": ["a"]}


class Colour(str, Enum):
    RED = "red"


class Name(str):
    pass


VALUES: dict[str, Any] = {
    "tuple": (1, ("a", 2)),
    "bytes": b"\x00\xff",
    "markup": Markup("<b>x</b>"),
    "token": OrderedDict(access_token="x", expires_in=3600),
    "enum": Colour.RED,
    "name": Name("Ada"),
    "numbers": {1: "a", None: "b"},
    "when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
    "nothing": float("nan"),
    "lazily": [Markup("<i>"), {"deep": Name("er")}],
}


@pytest.mark.parametrize("kind", VALUES)
async def test_what_quarts_own_session_takes(guard: SessionGuard, kind: str) -> None:
    """B3: and it comes back as there, or better."""
    value = VALUES[kind]

    def app_with(ours: bool) -> Quart:
        app = Quart(__name__)
        app.testing, app.secret_key = True, "for tests only"
        if ours:
            SessionLock(app, guard)

        @app.post("/")
        async def put() -> str:
            session["value"] = value
            return ""

        @app.get("/")
        async def shown() -> list[str]:
            found = session["value"]
            return [repr(found), type(found).__name__]

        return app

    found = []
    for ours in (False, True):
        client = app_with(ours).test_client()
        assert (await client.post("/")).status_code == 200
        found.append(await (await client.get("/")).get_json())
    theirs, ours_ = found
    assert ours_ == theirs or ours_ == [repr(value), type(value).__name__]


async def test_what_no_serializer_takes(app: Quart, guard: SessionGuard) -> None:
    @app.post("/mistake")
    async def mistake() -> str:
        session["what"] = object()
        return ""

    assert (await app.test_client().post("/mistake")).status_code == 500


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def messages(app: Quart) -> Client:
    @app.post("/flash")
    async def put() -> str:
        await flash("saved", "info")
        await flash(Markup("<b>bold</b>"), "html")
        return ""

    @app.get("/flashes")
    async def shown() -> str:
        return await render_template_string(
            "{% for category, message in get_flashed_messages(with_categories=true) %}{{ category }}:{{ message }};"
            "{% endfor %}"
        )

    return app.test_client()


async def test_messages(messages: Client) -> None:
    await messages.post("/flash")
    assert await (await messages.get("/flashes")).get_data(as_text=True) == "info:saved;html:<b>bold</b>;"
    assert await (await messages.get("/flashes")).get_data(as_text=True) == ""


async def test_three_tabs_show_a_message_once(messages: Client) -> None:
    """B1, B8"""
    await messages.post("/flash")
    answers = await asyncio.gather(*(messages.get("/flashes") for _ in range(3)))
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    shown = sorted([await answer.get_data(as_text=True) for answer in answers])
    assert shown == ["", "", "info:saved;html:<b>bold</b>;"]


async def test_a_message_shown_does_not_end_what_was_stored_meanwhile(app: Quart, guard: SessionGuard) -> None:
    """A2: a slow page takes the only thing in the session while a POST stores a cart."""
    taken, stored = asyncio.Event(), asyncio.Event()

    @app.post("/flash")
    async def put() -> str:
        await flash("saved")
        return ""

    @app.get("/slow")
    async def slow() -> list[str]:
        shown = [str(message) for message in get_flashed_messages()]
        taken.set()
        await stored.wait()
        return shown

    client = app.test_client()
    await client.post("/flash")
    page = asyncio.create_task(client.get("/slow"))
    await taken.wait()
    assert (await client.post("/add/a")).status_code == 200
    stored.set()
    assert await (await page).get_json() == ["saved"]
    assert await (await client.get("/cart")).get_json() == ["a"]
    assert dict(await guard.read(sid_of(client))) == {"cart": ["a"]}


# --- settings of the cookie -------------------------------------------------------------------------------------------


async def test_the_settings_of_the_cookie_are_quarts(app: Quart) -> None:
    """B8: they were ignored."""
    app.config.update(
        SESSION_COOKIE_NAME="shop",
        SESSION_COOKIE_DOMAIN="shop.test",
        SESSION_COOKIE_PATH="/app",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_HTTPONLY=False,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_PARTITIONED=True,
    )
    answer = await app.test_client().post("/add/a")
    name, _, rest = answer.headers["Set-Cookie"].partition("=")
    attributes = set(rest.split("; ")[1:])
    assert name == "shop"
    assert attributes == {"Domain=shop.test", "Path=/app", "Secure", "SameSite=Strict", "Partitioned"}


async def test_a_cookie_ends_with_its_settings(app: Quart, client: Client) -> None:
    app.config.update(SESSION_COOKIE_PATH="/", SESSION_COOKIE_SECURE=True)

    @app.post("/logout")
    async def logout() -> str:
        session.clear()
        return ""

    sid = (await client.post("/add/a")).headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    answer = await app.test_client().post("/logout", headers={"cookie": f"session={sid}"})
    told = answer.headers["Set-Cookie"]
    assert told.startswith("session=;")
    assert "Max-Age=0" in told
    assert "Secure" in told


# --- how long it lives ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "post"])
async def test_a_permanent_session_lives_as_the_settings_say_now(
    app: Quart, client: Client, guard: SessionGuard, redis_url: str, method: str
) -> None:
    """A6, A7: by what they are at this request; record and cookie together; for who only follows links, too."""

    @app.before_request
    def permanent() -> None:
        session.permanent = True

    @app.route("/look", methods=["GET", "POST"])
    async def look() -> list[str]:
        return list(session)

    await client.post("/add/a")
    app.permanent_session_lifetime = timedelta(seconds=50)
    answer = await getattr(client, method)("/look")
    assert "Expires=" in answer.headers["Set-Cookie"]
    assert 45 < lives(redis_url, guard) <= 50
    app.config["PERMANENT_SESSION_LIFETIME"] = 3000
    answer = await getattr(client, method)("/look")
    assert "Expires=" in answer.headers["Set-Cookie"]
    assert 2990 < lives(redis_url, guard) <= 3000


async def test_static_files_renew_nothing(guard: SessionGuard, redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("* {}")
    app = Quart(__name__, static_folder=str(tmp_path), static_url_path="/static")
    SessionLock(app, guard)

    @app.post("/begin")
    async def begin() -> str:
        session.permanent = True
        return ""

    @app.get("/page")
    async def page() -> str:
        return ""

    client = app.test_client()
    await client.post("/begin")
    shorten(redis_url, guard, 20 * 86_400_000)
    answer = await client.get("/static/style.css")
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers
    assert "Cookie" not in answer.headers.get("Vary", "")
    assert lives(redis_url, guard) <= 20 * 86_400
    assert "Set-Cookie" in (await client.get("/page")).headers
    assert lives(redis_url, guard) > 30 * 86_400


async def begin_for_100_seconds(app: Quart, client: Client, **held: Any) -> None:
    """A permanent session that holds this, and that is not renewed by every request."""
    app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    app.permanent_session_lifetime = timedelta(seconds=100)

    @app.post("/begin")
    async def begin() -> str:
        session.permanent = True
        for key, value in held.items():
            session[key] = value
        return ""

    await client.post("/begin")


async def test_without_refresh_only_a_change_renews(
    app: Quart, client: Client, guard: SessionGuard, redis_url: str
) -> None:
    await begin_for_100_seconds(app, client, cart=[])
    shorten(redis_url, guard, 20_000)
    for _ in range(2):
        assert "Set-Cookie" not in (await client.get("/cart")).headers
    assert lives(redis_url, guard) <= 20
    assert "Expires=" in (await client.post("/add/b")).headers["Set-Cookie"]
    assert lives(redis_url, guard) > 90


async def test_modified_renews_cookie_and_record(
    app: Quart, client: Client, guard: SessionGuard, redis_url: str
) -> None:
    """flask-session#221: by ``session.modified = True`` in a GET, without anything to save."""

    @app.get("/here")
    async def here() -> str:
        session.modified = True
        return ""

    await begin_for_100_seconds(app, client)
    shorten(redis_url, guard, 20_000)
    assert "Expires=" in (await client.get("/here")).headers["Set-Cookie"]
    assert lives(redis_url, guard) > 90


async def test_a_guards_shorter_idle_time_counts(redis_url: str) -> None:
    async with SessionGuard.from_url(redis_url, session=SessionPolicy(idle=40)) as guard:
        app = Quart(__name__)
        SessionLock(app, guard)

        @app.post("/")
        async def begin() -> str:
            session.permanent = True
            return ""

        answer = await app.test_client().post("/")
        assert 35 < lives(redis_url, guard) <= 40
        expires = datetime.strptime(answer.headers["Set-Cookie"].split("Expires=")[1][:29], "%a, %d %b %Y %H:%M:%S %Z")
        left = expires.replace(tzinfo=timezone.utc) - datetime.now(timezone.utc)
        assert left <= timedelta(seconds=40)


# --- who is logged in -------------------------------------------------------------------------------------------------


async def test_a_login_gives_a_new_id(app: Quart, guard: SessionGuard) -> None:
    """A4: also as the tutorial does it, by an attacker's id that was planted in the victim's browser."""

    @app.post("/login/<how>")
    async def login(how: str) -> str:
        if how == "clear":
            session.clear()
        session["user_id"] = 7
        return ""

    @app.get("/who")
    async def who() -> list[Any]:
        return [session.get("user_id")]

    for how in ("clear", "plainly"):
        attacker = app.test_client()
        await attacker.post("/add/bait")
        planted = sid_of(attacker)
        answer = await app.test_client().post(f"/login/{how}", headers={"cookie": f"session={planted}"})
        given = answer.headers["Set-Cookie"].partition("=")[2].partition(";")[0]
        assert given != planted
        assert await (await attacker.get("/who")).get_json() == [None]
        victim = app.test_client()
        assert await (await victim.get("/who", headers={"cookie": f"session={given}"})).get_json() == [7]


async def test_a_login_that_no_key_tells(app: Quart, client: Client) -> None:
    @app.post("/login")
    async def login() -> str:
        session["profile"] = {"of": "somebody"}
        visit = visit_of(session)
        assert visit is not None
        visit.identity_changed()
        return ""

    await client.post("/add/a")
    before = sid_of(client)
    await client.post("/login")
    assert sid_of(client) != before


@pytest.mark.parametrize("kind", ["async", "sync", "not awaited"])
async def test_logout(app: Quart, client: Client, guard: SessionGuard, kind: str) -> None:
    """A5: also in a ``def`` view, which cannot await."""

    async def awaited() -> str:
        await session.sessionlock.destroy()  # type: ignore[attr-defined]
        return "bye"

    def in_a_thread() -> str:
        session.sessionlock.destroy()  # type: ignore[attr-defined]
        return "bye"

    async def forgotten() -> str:
        session.sessionlock.destroy()  # type: ignore[attr-defined]
        return "bye"

    views: dict[str, Any] = {"async": awaited, "sync": in_a_thread, "not awaited": forgotten}
    app.post("/logout")(views[kind])
    await client.post("/add/a")
    sid = sid_of(client)
    answer = await client.post("/logout")
    assert await answer.get_data(as_text=True) == "bye"
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert (await guard.inspect(sid)).destroyed


# --- Quart's tools for tests ------------------------------------------------------------------------------------------


async def test_a_session_transaction(client: Client, guard: SessionGuard) -> None:
    """B8"""
    async with client.session_transaction() as inner:
        inner["cart"] = ["begun"]
        inner.permanent = True
    await client.post("/add/b")
    async with client.session_transaction() as inner:
        assert inner["cart"] == ["begun", "b"]
        assert inner.permanent
        inner["cart"].append("c")
    assert await (await client.get("/cart")).get_json() == ["begun", "b", "c"]


async def test_a_session_transaction_never_loses(client: Client) -> None:
    await client.post("/add/a")
    with pytest.raises(Exception, match="cart"):
        async with client.session_transaction() as inner:
            inner["cart"].append("b")
            assert (await client.post("/add/c")).status_code == 200
    assert await (await client.get("/cart")).get_json() == ["a", "c"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_request_context_of_a_test(app: Quart, guard: SessionGuard, method: str) -> None:
    """B8: it holds nothing, and what it does is forgotten, as with Quart's own."""
    sid = (await guard.create({"cart": ["a"]})).sid
    async with app.test_request_context("/", method=method, headers={"cookie": f"session={sid}"}):
        assert session["cart"] == ["a"]
        session["cart"].append("b")
        session.permanent = True
        assert session.modified
        assert (await guard.inspect(sid)).holder is None
    assert dict(await guard.read(sid)) == {"cart": ["a"]}
    async with app.test_request_context("/"):
        session["new"] = 1
        assert dict(session) == {"new": 1}


async def test_a_dispatch_by_hand(app: Quart, guard: SessionGuard) -> None:
    async with app.test_request_context("/add/x", method="POST"):
        answer = await app.full_dispatch_request()
        assert await answer.get_json() == ["x"]
        assert "Set-Cookie" in answer.headers


async def test_a_context_that_a_test_keeps(client: Client) -> None:
    async with client:
        await client.post("/add/a")
        assert session["cart"] == ["a"]
        await client.post("/add/b")
        assert session["cart"] == ["a", "b"]


# --- set-up -----------------------------------------------------------------------------------------------------------


async def test_settings_by_configuration(redis_url: str) -> None:
    app = Quart(__name__)
    app.config.update(SESSION_LOCK_URL=redis_url, SESSION_LOCK_MODE="read")
    SessionLock().init_app(app)

    @app.post("/")
    async def write() -> str:
        session["a"] = 1
        return ""

    async with app.test_app() as running:
        assert (await running.test_client().post("/")).status_code == 500  # nothing may be changed here


async def test_its_own_guard_is_closed_with_the_application(redis_url: str) -> None:
    with connect(redis_url) as redis:
        before = len(redis.client_list())
        app = Quart(__name__)
        SessionLock(app, redis_url)

        @app.post("/")
        async def write() -> str:
            session["a"] = 1
            return ""

        for _ in range(2):  # it may start again
            async with app.test_app() as running:
                assert (await running.test_client().post("/")).status_code == 200
                assert len(redis.client_list()) > before
            until(lambda: len(redis.client_list()) == before, "the server sees that the connections are closed")


async def test_a_url_that_makes_no_sense_is_told_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="url"):
        SessionLock(Quart(__name__), "rediss//typo")
    app = Quart(__name__)
    SessionLock(app)
    app.config["SESSION_LOCK_URL"] = "rediss//typo"  # said later
    with pytest.raises(ConfigurationError):
        await app.startup()


async def test_a_store_that_does_not_answer_is_told_at_the_start(caplog: pytest.LogCaptureFixture) -> None:
    """B15: and the application starts all the same, maybe before its store."""
    app = Quart(__name__)
    SessionLock(app, "redis://localhost:1/0")
    async with app.test_app():
        assert [record.levelno for record in caplog.records if record.levelno >= logging.ERROR] == [logging.ERROR]


async def test_settings_that_do_not_exist_are_told(guard: SessionGuard) -> None:
    """B19: with the nearest one; and a value by the setting's own name."""
    for wrong, told in (
        ({"SESSION_LOCK_WIAT": 3}, "SESSION_LOCK_WAIT"),
        ({"SESSION_LOCK_MODE": "x"}, "SESSION_LOCK_MODE"),
    ):
        app = Quart(__name__)
        app.config.update(wrong)
        with pytest.raises(ConfigurationError, match=told):
            SessionLock(app, guard)


async def test_only_one_keeps_the_sessions(guard: SessionGuard, caplog: pytest.LogCaptureFixture) -> None:
    app = Quart(__name__)
    SessionLock(app, guard)
    with pytest.raises(ConfigurationError, match="already"):
        SessionLock(app, guard)

    class Other(SessionInterface):
        async def open_session(self, app: Quart, request: Any) -> None:
            return None

    taken = Quart(__name__)
    taken.session_interface = Other()  # type: ignore[assignment]
    with pytest.raises(ConfigurationError, match="Other"):
        SessionLock(taken, guard)
    app.session_interface = Other()  # type: ignore[assignment]

    @app.get("/")
    async def look() -> str:
        return ""

    with pytest.raises(ConfigurationError, match="Other"):
        await app.startup()
    for _ in range(2):  # where nobody told that it starts
        assert (await app.test_client().get("/")).status_code == 200
    assert [record.levelno for record in caplog.records if "Other" in record.getMessage()] == [logging.ERROR]


async def test_the_asgi_middleware_around_quart_is_named(guard: SessionGuard) -> None:
    """A12: Quart's session would go on in its own cookie, and nothing would be locked."""
    app = Quart(__name__)
    app.secret_key = "for tests only"
    app.asgi_app = SessionLockMiddleware(app.asgi_app, guard)  # type: ignore[method-assign]
    with pytest.raises(ConfigurationError, match=r"quart\.SessionLock\(app"):
        await app.test_client().get("/")


async def test_routes_and_decorators(guard: SessionGuard) -> None:
    app = Quart(__name__)
    SessionLock(guard=guard, routes={"/off": "off", "/read": "read"}).init_app(app)

    async def write() -> str:
        session["a"] = 1
        return ""

    for path in ("/off", "/read", "/plain"):
        app.add_url_rule(path, path, write, methods=["POST"])

    @session_readonly
    async def decorated() -> str:
        return await write()

    app.add_url_rule("/decorated", "decorated", decorated, methods=["POST"])
    for path, status in {"/off": 500, "/read": 500, "/decorated": 500, "/plain": 200}.items():
        assert (await app.test_client().post(path)).status_code == status


async def test_methods_of_a_view_class(guard: SessionGuard) -> None:
    app = Quart(__name__)
    SessionLock(app, guard)

    class Cart(MethodView):
        @locks_session
        async def get(self) -> str:
            return str(session.sessionlock.lease is not None)  # type: ignore[attr-defined]

        @session_readonly
        async def post(self) -> str:
            return str(session.sessionlock.lease is not None)  # type: ignore[attr-defined]

    app.add_url_rule("/", view_func=Cart.as_view("cart"))
    sid = (await guard.create({"a": 1})).sid
    client, headers = app.test_client(), {"cookie": f"session={sid}"}
    assert await (await client.get("/", headers=headers)).get_data(as_text=True) == "True"
    assert await (await client.post("/", headers=headers)).get_data(as_text=True) == "False"


async def test_an_application_stays_what_it_is(guard: SessionGuard) -> None:
    class Shop(Quart):
        pass

    app = Shop(__name__)
    SessionLock(app, guard)
    assert isinstance(app, Shop)
    assert type(app).__name__ == "Shop"

    @app.get("/")
    async def look() -> ResponseReturnValue:
        answer = await make_response("as ever", 204)
        return answer

    assert (await app.test_client().get("/")).status_code == 204


async def test_nobody_is_logged_out_by_the_switch(guard: SessionGuard) -> None:
    """B18: from Quart's own cookie, with all that it can hold; under its name, or another."""

    def shop(name: str) -> Quart:
        app = Quart(__name__)
        app.secret_key = "of the old application"
        app.config["SESSION_COOKIE_NAME"] = name

        @app.post("/login")
        async def login() -> str:
            session["user_id"], session["cart"], session.permanent = name, ("a", Markup("<b>")), True
            return ""

        @app.post("/add")
        async def add() -> str:
            session["cart"] = (*session["cart"], "b")
            return ""

        @app.get("/")
        async def shown() -> list[Any]:
            return [session.get("user_id"), repr(session.get("cart"))]

        return app

    for name in ("session", "shop"):
        old, new = shop(name), shop(name)
        old.config["SESSION_COOKIE_NAME"] = "session"
        SessionLock(new, guard, read_from=FlaskCookie("of the old application"))
        before = old.test_client()
        await before.post("/login")
        client = new.test_client()
        client.cookie_jar = before.cookie_jar
        tabs = await asyncio.gather(*(client.get("/") for _ in range(3)))
        assert [await tab.get_json() for tab in tabs] == [[name, repr(("a", Markup("<b>")))]] * 3
        await client.post("/add")
        assert await (await client.get("/")).get_json() == [name, repr(("a", Markup("<b>"), "b"))]
        forged = new.test_client()
        forged.set_cookie("localhost", "session", "eyJ1c2VyX2lkIjo3fQ.forged.forged")
        assert await (await forged.get("/")).get_json() == [None, "None"]
