"""Flask's own conventions, and what a locked session adds, over a real server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask, Response, flash, get_flashed_messages, jsonify, request, session, stream_with_context
from flask.testing import FlaskClient
from flask.views import MethodView
from markupsafe import Markup

from sessionlock import LeasePolicy, SessionConflict, SessionGuard, WaitTimedOut
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.blocking.portal import portal
from sessionlock.errors import ReadOnlySession
from sessionlock.integrations.flask.extension import SessionLock
from sessionlock.integrations.flask.session import LockedSession
from sessionlock.integrations.web.decorators import locks_session, session_lock_exempt, session_policy, session_readonly
from sessionlock.integrations.web.rules import RoutePolicy
from tests.harness.commands import CommandCounter, connect

WAIT = 10.0


def held(app: Flask, sid: str) -> bool:
    guard = BlockingGuard(app.session_interface.guard)  # type: ignore[attr-defined]
    try:
        return guard.inspect(sid).holder is not None
    finally:
        guard.close()


def sid_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    assert cookie is not None
    return cookie.value


@pytest.fixture
def app(redis_url: str) -> Iterator[Flask]:
    app = Flask(__name__)
    app.testing = True
    app.config["SESSION_LOCK_URL"] = redis_url
    app.config["SESSION_LOCK_WAIT"] = 0.2
    SessionLock().init_app(app)

    @app.post("/add/<item>")
    def add(item: str) -> list[str]:
        session.setdefault("cart", []).append(item)
        return list(session["cart"])

    @app.get("/cart")
    def cart() -> list[str]:
        return list(session.get("cart", []))

    @app.route("/quiet", methods=["GET", "POST"])
    def quiet() -> str:
        return "nothing"

    yield app
    close(app)


def close(app: Flask) -> None:
    portal().call(app.session_interface.guard.aclose)  # type: ignore[attr-defined]


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


# --- the conventions


def test_deep_changes_are_kept(client: FlaskClient) -> None:
    first = client.post("/add/a")
    assert first.json == ["a"]
    assert "HttpOnly" in first.headers["Set-Cookie"]
    assert "SameSite=Lax" in first.headers["Set-Cookie"]
    assert first.headers["Vary"] == "Cookie"
    assert client.post("/add/b").json == ["a", "b"]
    assert client.get("/cart").json == ["a", "b"]


def test_nothing_happens_until_the_session_is_touched(app: Flask, client: FlaskClient, redis_url: str) -> None:
    client.post("/add/a")
    with CommandCounter(redis_url) as ran:
        for path in ("/quiet", "/static/none.css", "/nowhere"):
            answer = client.get(path)
            assert "Vary" not in answer.headers
            assert "Set-Cookie" not in answer.headers
        client.post("/quiet")
        assert not ran.counts


def test_an_empty_session_is_not_stored(client: FlaskClient, redis_url: str) -> None:
    answer = client.get("/cart")
    assert "Set-Cookie" not in answer.headers
    assert answer.headers["Vary"] == "Cookie"
    with connect(redis_url) as redis:
        assert redis.dbsize() == 0


def test_a_locked_request_costs_two_round_trips(client: FlaskClient, redis_url: str) -> None:
    client.post("/add/a")
    client.post("/add/b")  # now the scripts are known there
    with CommandCounter(redis_url) as ran:
        client.post("/add/c")
        assert ran.script_calls == 2


def test_an_unknown_id_is_not_adopted(app: Flask, client: FlaskClient) -> None:
    client.set_cookie("session", "chosen-by-somebody-else")
    client.post("/add/a")
    assert sid_of(client) != "chosen-by-somebody-else"


@pytest.mark.parametrize("value", ["", "\x01", "x" * 5000, "ä"])
def test_nonsense_in_the_cookie(client: FlaskClient, value: str) -> None:
    assert client.get("/cart", headers={"Cookie": f"session={value}"}).json == []


def test_permanent(app: Flask, client: FlaskClient) -> None:
    app.permanent_session_lifetime = timedelta(hours=1)

    @app.post("/login")
    def login() -> str:
        session.permanent = True
        return str(session.permanent)

    @app.get("/off")
    def off() -> str:
        session.permanent = False
        return ""

    assert "Expires" not in client.post("/add/a").headers["Set-Cookie"]
    assert "Expires" in client.post("/login").headers["Set-Cookie"]
    assert "Expires" in client.post("/add/b").headers["Set-Cookie"]
    app.config["SESSION_REFRESH_EACH_REQUEST"] = False
    assert "Set-Cookie" not in client.get("/cart").headers
    assert "Expires" not in client.get("/off").headers["Set-Cookie"]


def test_lifetime_is_that_of_the_record(redis_url: str) -> None:
    app = Flask(__name__)
    app.config["PERMANENT_SESSION_LIFETIME"] = timedelta(minutes=5)
    SessionLock(app, redis_url)
    assert app.session_interface.guard.session_policy.idle == 300  # type: ignore[attr-defined]


def test_cookie_settings(app: Flask, client: FlaskClient) -> None:
    app.config.update(
        SESSION_COOKIE_NAME="__Host-shop",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_PARTITIONED=True,
    )
    cookie = client.post("/add/a", base_url="https://localhost").headers["Set-Cookie"]
    assert cookie.startswith("__Host-shop=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert ("Partitioned" in cookie) == ("SESSION_COOKIE_PARTITIONED" in Flask("plain").config)  # since Flask 3.1


def test_clearing_deletes(app: Flask, client: FlaskClient) -> None:
    @app.post("/logout")
    def logout() -> str:
        session.clear()
        return ""

    client.post("/add/a")
    sid = sid_of(client)
    answer = client.post("/logout")
    assert "Max-Age=0" in answer.headers["Set-Cookie"]
    assert client.get_cookie("session") is None
    client.set_cookie("session", sid)
    assert client.get("/cart").json == []


def test_clear_and_begin_anew(app: Flask, client: FlaskClient) -> None:
    """As Flask's tutorial logs in."""

    @app.post("/login")
    def login() -> str:
        session.clear()
        session["user_id"] = 1
        return ""

    client.post("/add/a")
    client.post("/login")
    with client.session_transaction() as seen:
        assert dict(seen) == {"user_id": 1}


def test_new_modified_accessed(app: Flask, client: FlaskClient) -> None:
    seen: list[tuple[bool, ...]] = []

    @app.post("/look")
    def look() -> str:
        assert isinstance(session, LockedSession)
        before = session.modified
        session.setdefault("list", [])
        session["list"].append(1)
        seen.append((session.new, before, session.modified, session.accessed))
        return ""

    client.post("/look")
    client.post("/look")
    assert seen == [(True, False, True, True), (False, False, True, True)]


def test_session_transaction_and_after(client: FlaskClient) -> None:
    with client.session_transaction() as prepared:
        prepared["cart"] = ["z"]
    assert client.get("/cart").json == ["z"]
    with client:
        client.post("/add/a")
        assert session["cart"] == ["z", "a"]
        assert session.modified


def test_flash(app: Flask, client: FlaskClient) -> None:
    @app.post("/flash")
    def say() -> str:
        flash("plain")
        flash(Markup("<b>bold</b>"), "html")
        return ""

    @app.get("/show")
    def show() -> dict[str, Any]:
        messages: Any = get_flashed_messages(with_categories=True)
        return {"all": messages, "markup": [isinstance(message, Markup) for _, message in messages]}

    client.post("/flash")
    assert client.get("/show").json == {
        "all": [["message", "plain"], ["html", "<b>bold</b>"]],
        "markup": [False, True],
    }
    assert client.get("/show").json == {"all": [], "markup": []}


def test_parallel_flashes_without_the_lock(app: Flask, client: FlaskClient) -> None:
    both = threading.Barrier(2, timeout=WAIT)

    @app.get("/say/<what>")
    def say(what: str) -> str:
        flash(what)
        both.wait()
        return ""

    @app.get("/show")
    def show() -> list[str]:
        return sorted(map(str, get_flashed_messages()))

    client.post("/add/a")
    assert in_parallel(app, client, ["/say/a", "/say/b"]) == [200, 200]
    assert client.get("/show").json == ["a", "b"]


def in_parallel(app: Flask, client: FlaskClient, paths: list[str], method: str = "GET") -> list[int]:
    answers: list[int] = []
    cookie = f"session={sid_of(client)}"

    def ask(path: str) -> None:
        answers.append(
            app.test_client(use_cookies=False).open(path, method=method, headers={"Cookie": cookie}).status_code
        )

    threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    return sorted(answers)


# --- regenerate, destroy, incr, save, release


def test_regenerate(app: Flask, client: FlaskClient) -> None:
    @app.post("/login")
    def login() -> str:
        session["user"] = "eve"
        return session.sessionlock.regenerate(grace=0)  # type: ignore[attr-defined, no-any-return]

    client.post("/add/a")
    old = sid_of(client)
    new = client.post("/login").text
    assert sid_of(client) == new != old
    assert client.get("/cart").json == ["a"]
    client.set_cookie("session", old)
    assert client.get("/cart").json == []


def test_destroy_incr_save(app: Flask, client: FlaskClient) -> None:
    @app.post("/count")
    def count() -> str:
        session["a"] = 1
        own: Any = session.sessionlock  # type: ignore[attr-defined]
        own.save()
        return f"{own.incr('n')} {own.incr('n', 2)} {own.lease is not None} {own.version > 0}"

    @app.post("/end")
    def end() -> str:
        session.sessionlock.destroy()  # type: ignore[attr-defined]
        return ""

    client.post("/add/a")
    assert client.post("/count").text == "1 3 True True"
    assert "Max-Age=0" in client.post("/end").headers["Set-Cookie"]
    assert client.get("/cart").json == []


def test_release_in_the_view(app: Flask, client: FlaskClient) -> None:
    @app.post("/early")
    def early() -> str:
        session["n"] = 1
        sid = session.sessionlock.sid  # type: ignore[attr-defined]
        before = held(app, sid)
        session.sessionlock.release()  # type: ignore[attr-defined]
        with pytest.raises(ReadOnlySession):
            session["n"] = 2
        return f"{before} {held(app, sid)}"

    client.post("/add/a")
    assert client.post("/early").text == "True False"


def test_locked_within_a_get(app: Flask, client: FlaskClient) -> None:
    @app.get("/upgrade")
    def upgrade() -> str:
        own: Any = session
        before = own["cart"]
        with own.sessionlock.locked() as locked:
            assert locked.sessionlock.lease is not None
            locked["cart"] = [*before, "locked"]
            inside = held(app, own.sessionlock.sid)
        return f"{inside} {held(app, own.sessionlock.sid)}"

    client.post("/add/a")
    assert client.get("/upgrade").text == "True False"
    assert client.get("/cart").json == ["a", "locked"]


# --- modes


@pytest.fixture
def modes(app: Flask) -> Flask:
    def mode() -> str:
        session.get("cart")
        return str(session.sessionlock.lease is not None)  # type: ignore[attr-defined]

    def bound(name: str, mark: Callable[[Any], Any]) -> None:
        def view() -> str:
            return mode()

        app.add_url_rule(f"/{name}", name, mark(view), methods=["GET", "POST"])

    bound("auto", lambda view: view)
    bound("lock", locks_session)
    bound("lock-for", locks_session(wait=1, lease=5))
    bound("read", session_readonly)
    bound("exempt", session_lock_exempt)

    class Class(MethodView):
        @session_readonly
        def post(self) -> str:
            return mode()

        @locks_session
        def get(self) -> str:
            return mode()

    app.add_url_rule("/class", view_func=Class.as_view("class"))
    return app


@pytest.mark.parametrize(
    ("path", "get", "post"),
    [
        ("/auto", "False", "True"),
        ("/lock", "True", "True"),
        ("/lock-for", "True", "True"),
        ("/read", "False", "False"),
        ("/exempt", "False", "False"),
        ("/class", "True", "False"),
    ],
)
def test_decorators(modes: Flask, client: FlaskClient, path: str, get: str, post: str) -> None:
    client.post("/add/a")
    assert (client.get(path).text, client.post(path).text) == (get, post)


def test_a_readonly_view_that_writes(app: Flask, client: FlaskClient) -> None:
    @app.post("/wrong")
    @session_readonly
    def wrong() -> str:
        session["a"] = 1
        return ""

    app.testing = False
    client.post("/add/a")
    assert client.post("/wrong").status_code == 500


def test_rules(redis_url: str) -> None:
    app = Flask(__name__)
    SessionLock(app, redis_url, mode="read", routes={"/write/*": "lock", "/off": "off"})

    @app.route("/<path:anything>", methods=["GET", "POST"])
    def view(anything: str) -> str:
        keys = sorted(session)
        if request.method == "POST":
            session["a"] = 1
        return " ".join(keys)

    client = app.test_client()
    assert client.post("/else").status_code == 500
    assert client.post("/write/1").status_code == 200
    assert client.get("/else").text == "a"
    assert client.get("/off").text == ""
    close(app)


def test_a_get_that_changes_something_merges(app: Flask, client: FlaskClient) -> None:
    both = threading.Barrier(2, timeout=WAIT)

    @app.get("/visit/<page>")
    def visit(page: str) -> str:
        session[page] = True
        both.wait()
        return ""

    client.post("/add/a")
    assert in_parallel(app, client, ["/visit/x", "/visit/y"]) == [200, 200]
    with client.session_transaction() as seen:
        assert dict(seen) == {"cart": ["a"], "x": True, "y": True}


def clashing(app: Flask, **options: Any) -> list[str]:
    """``/set/<value>``, whose first two runs meet; returns the values of all runs."""
    both = threading.Barrier(2, timeout=WAIT)
    runs: list[str] = []

    @app.get("/set/<value>", **options)
    def put(value: str) -> str:
        runs.append(value)
        session["all"] = [*session.get("all", []), value]
        if len(runs) <= 2:
            both.wait()
        return ""

    return runs


def test_a_get_that_clashes_is_run_again(app: Flask, client: FlaskClient) -> None:
    runs = clashing(app)
    client.post("/add/a")
    assert in_parallel(app, client, ["/set/x", "/set/y"]) == [200, 200]
    assert len(runs) == 3
    with client.session_transaction() as seen:
        assert sorted(seen["all"]) == ["x", "y"]


def test_a_get_that_clashes_is_told_where_it_must_not_run_twice(app: Flask, client: FlaskClient) -> None:
    app.session_interface.settings.rules.default = RoutePolicy(on_conflict="answer")  # type: ignore[attr-defined]
    runs = clashing(app)
    client.post("/add/a")
    assert in_parallel(app, client, ["/set/x", "/set/y"]) == [200, 409]
    assert len(runs) == 2


def test_the_applications_own_error_pages(app: Flask, client: FlaskClient) -> None:
    @app.errorhandler(SessionConflict)
    def clashed(error: SessionConflict) -> tuple[str, int]:
        return f"own page {error.keys}", 418

    @app.errorhandler(WaitTimedOut)
    def busy(error: WaitTimedOut) -> tuple[str, int]:
        return f"still reading: {session['cart']}", 423

    @app.get("/clash")
    @session_policy(on_conflict="answer")
    def clash() -> str:
        session["one"] = "ours"
        headers = {"Cookie": f"session={sid_of(client)}"}
        app.test_client(use_cookies=False).post("/put", headers=headers)
        return ""

    @app.post("/put")
    def put() -> str:
        session["one"] = "theirs"
        return ""

    client.post("/add/a")
    answer = client.get("/clash")
    assert (answer.status_code, answer.text) == (418, "own page ('one',)")
    guard = BlockingGuard(app.session_interface.guard)  # type: ignore[attr-defined]
    with guard, guard.session_lock(sid_of(client)):
        answers: list[tuple[int, str]] = []

        def ask() -> None:
            headers = {"Cookie": f"session={sid_of(client)}"}
            answer = app.test_client(use_cookies=False).post("/add/b", headers=headers)
            answers.append((answer.status_code, answer.text))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(WAIT)
    assert answers == [(423, "still reading: ['a']")]


def test_posts_in_parallel_lose_nothing(app: Flask, client: FlaskClient) -> None:
    client.post("/add/0")
    app.session_interface.settings.rules.default = RoutePolicy(wait=WAIT)  # type: ignore[attr-defined]
    assert in_parallel(app, client, [f"/add/{n}" for n in range(1, 13)], "POST") == [200] * 12
    assert sorted(client.get("/cart").json or [], key=int) == [str(n) for n in range(13)]


def test_gets_do_not_wait(app: Flask, client: FlaskClient) -> None:
    inside, go_on = threading.Event(), threading.Event()

    @app.post("/slow")
    def slow() -> str:
        session["slow"] = True
        inside.set()
        go_on.wait(WAIT)
        return ""

    client.post("/add/a")
    slow_one = threading.Thread(target=in_parallel, args=(app, client, ["/slow"], "POST"))
    slow_one.start()
    try:
        assert inside.wait(WAIT)
        assert in_parallel(app, client, ["/cart"] * 20) == [200] * 20
        assert slow_one.is_alive()
        refused = client.post("/add/b")
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert refused.content_type == "application/problem+json"
    finally:
        go_on.set()
        slow_one.join(WAIT)
    with client.session_transaction() as seen:
        assert dict(seen) == {"cart": ["a"], "slow": True}


# --- errors and ends


@pytest.mark.parametrize("propagate", [True, False])
def test_a_failing_view_saves_nothing_and_releases(app: Flask, client: FlaskClient, propagate: bool) -> None:
    @app.post("/fail")
    def fail() -> str:
        session["bad"] = 1
        assert held(app, session.sessionlock.sid)  # type: ignore[attr-defined]
        raise ZeroDivisionError

    @app.post("/five")
    def five() -> tuple[str, int]:
        session["bad"] = 1
        return "", 502

    @app.post("/four")
    def four() -> tuple[str, int]:
        session["good"] = 1
        return "", 404

    app.config["PROPAGATE_EXCEPTIONS"] = propagate
    client.post("/add/a")
    if propagate:
        with pytest.raises(ZeroDivisionError):
            client.post("/fail")
    else:
        assert client.post("/fail").status_code == 500
    assert not held(app, sid_of(client))
    assert client.post("/five").status_code == 502
    assert client.post("/four").status_code == 404
    with client.session_transaction() as seen:
        assert dict(seen) == {"cart": ["a"], "good": 1}


def test_a_view_that_an_error_of_the_session_ended(app: Flask, client: FlaskClient) -> None:
    @app.post("/half")
    def half() -> str:
        session["half"] = True
        session.sessionlock.incr("cart")  # type: ignore[attr-defined]
        return ""

    client.post("/add/a")
    answer = client.post("/half")
    assert answer.status_code == 409
    assert "nothing" in answer.text
    with client.session_transaction() as seen:
        assert dict(seen) == {"cart": ["a"]}


def test_save_on_error(app: Flask, client: FlaskClient) -> None:
    @app.post("/five")
    @locks_session(save_on_error=True)
    def five() -> tuple[str, int]:
        session["tries"] = 1
        return "", 500

    client.post("/add/a")
    client.post("/five")
    with client.session_transaction() as seen:
        assert seen["tries"] == 1


def test_a_stream_holds_no_lock(app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture) -> None:
    told: list[Any] = []

    @app.post("/stream")
    def stream() -> Response:
        session["n"] = 1
        sid = session.sessionlock.sid  # type: ignore[attr-defined]

        def parts() -> Iterator[str]:
            yield "first"
            told.append((session["n"], held(app, sid)))
            session["n"] = 2
            told.append(session["n"])
            yield "last"

        return Response(stream_with_context(parts()))

    @app.post("/late")
    def late() -> Response:
        def parts() -> Iterator[str]:
            yield "first"
            told.append((session["n"], session.sessionlock.lease))  # type: ignore[attr-defined]
            yield "last"

        return Response(stream_with_context(parts()))

    @app.get("/stored")
    def stored() -> Any:
        return jsonify(session["n"])

    client.post("/add/a")
    assert client.post("/stream").text == "firstlast"
    assert told[0] == (1, False)
    assert told[1] == 2
    assert "changed 'n'" in caplog.text
    assert "not saved" in caplog.text
    assert client.get("/stored").json == 1
    assert client.post("/late").text == "firstlast"
    assert told[2] == (1, None)


def test_the_own_application_is_not_waited_for(app: Flask, client: FlaskClient) -> None:
    @app.post("/self")
    def self_request() -> dict[str, Any]:
        cookie = {"Cookie": f"session={session.sessionlock.sid}"}  # type: ignore[attr-defined]
        inner = app.test_client(use_cookies=False)
        session["n"] = 1
        return {
            "post": inner.post("/add/b", headers=cookie).status_code,
            "get": inner.get("/cart", headers=cookie).json,
        }

    client.post("/add/a")
    assert client.post("/self").json == {"post": 409, "get": ["a"]}
    assert client.post("/add/c").status_code == 200


def test_the_own_application_called_in_another_thread(app: Flask, client: FlaskClient) -> None:
    """What tells is the context, which async views and executors carry along, not only the thread."""

    @app.post("/self")
    def self_request() -> str:
        cookie = {"Cookie": f"session={session.sessionlock.sid}"}  # type: ignore[attr-defined]
        inner = app.test_client(use_cookies=False)
        with ThreadPoolExecutor(1) as other:
            answer = other.submit(copy_context().run, inner.post, "/add/b", headers=cookie).result(WAIT)
        return str(answer.status_code)

    client.post("/add/a")
    assert client.post("/self").text == "409"


def test_deleted_meanwhile(app: Flask, client: FlaskClient) -> None:
    @app.post("/deleted")
    def deleted() -> str:
        session["n"] = 1
        guard = BlockingGuard(app.session_interface.guard)  # type: ignore[attr-defined]
        guard.destroy(session.sessionlock.sid)  # type: ignore[attr-defined]
        guard.close()
        return "kept"

    @app.post("/looked")
    def looked() -> str:
        assert session["cart"] == ["a"]
        guard = BlockingGuard(app.session_interface.guard)  # type: ignore[attr-defined]
        guard.destroy(session.sessionlock.sid)  # type: ignore[attr-defined]
        guard.close()
        return "kept"

    client.post("/add/a")

    assert client.post("/deleted").status_code == 409
    assert client.get_cookie("session") is None
    client.post("/add/a")
    answer = client.post("/looked")
    assert (answer.status_code, answer.text) == (200, "kept")
    assert client.get_cookie("session") is None


def test_a_lost_lease(app: Flask, client: FlaskClient) -> None:
    @app.post("/lost")
    @locks_session(lease=LeasePolicy(ttl=0.1, renew=False))
    def lost() -> str:
        session["n"] = 1
        lease = session.sessionlock.lease  # type: ignore[attr-defined]
        gone = threading.Event()
        while not lease.is_lost:
            gone.wait(0.01)
        return "not seen"

    client.post("/add/a")
    answer = client.post("/lost")
    assert answer.status_code == 409
    assert "not seen" not in answer.text
    with client.session_transaction() as seen:
        assert dict(seen) == {"cart": ["a"]}


def test_redis_down(own_server: Callable[..., Any]) -> None:
    server = own_server()
    app = Flask(__name__)
    guard = SessionGuard.from_url(server.unix_url, retry_for=0.1)
    SessionLock(app, guard)
    app.add_url_rule("/", view_func=lambda: str(session.get("a")))
    client = app.test_client()
    client.set_cookie("session", "x" * 30)
    assert client.get("/").status_code == 200
    server.stop()
    answer = client.get("/")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    close(app)


def test_async_views(app: Flask, client: FlaskClient) -> None:
    @app.post("/async/<item>")
    async def awaited(item: str) -> str:
        session.setdefault("cart", []).append(item)
        session.sessionlock.save()  # type: ignore[attr-defined]
        return str(session.sessionlock.lease is not None)  # type: ignore[attr-defined]

    client.post("/add/a")
    assert client.post("/async/b").text == "True"
    assert client.get("/cart").json == ["a", "b"]
    assert not held(app, sid_of(client))


def test_before_and_after_request(app: Flask, client: FlaskClient) -> None:
    @app.before_request
    def before() -> None:
        session["before"] = session.get("before", 0) + 1

    @app.after_request
    def after(response: Response) -> Response:
        session["after"] = session.get("after", 0) + 1
        return response

    client.post("/add/a")
    client.get("/cart")
    with client.session_transaction() as seen:
        assert (seen["before"], seen["after"]) == (2, 2)


def test_a_copied_context_does_not_end_the_request(app: Flask, client: FlaskClient) -> None:
    from flask import copy_current_request_context

    @app.post("/threads")
    def threads() -> str:
        session["n"] = 1

        @copy_current_request_context
        def elsewhere() -> None:
            session["m"] = 2

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join(WAIT)
        return str(held(app, session.sessionlock.sid))  # type: ignore[attr-defined]

    client.post("/add/a")
    assert client.post("/threads").text == "True"
    with client.session_transaction() as seen:
        assert (seen["n"], seen["m"]) == (1, 2)
