"""A safe request whose session met a conflict runs once more, and its visitor notices nothing (A1, B1)."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from flask import Flask, Response, g, jsonify, request, session, stream_with_context
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from sessionlock import SessionConflict
from sessionlock.integrations.web.decorators import session_policy
from tests.harness.flask_apps import WAIT, asked, close, guard_of, guarded, in_threads, together

TABS = 20


@pytest.fixture
def app(redis_url: str) -> Iterator[Flask]:
    app = guarded(redis_url)

    @app.get("/count")
    def count() -> dict[str, int]:
        session["n"] = session.get("n", 0) + 1
        return {"n": session["n"]}

    @app.get("/see/<page>")
    def see(page: str) -> str:
        session["seen"].append(page)  # deep inside
        return ""

    @app.get("/all")
    def all_of_it() -> Any:
        return jsonify(dict(session))

    yield app
    close(app)


@pytest.fixture
def sid(app: Flask) -> str:
    with guard_of(app) as guard:
        return guard.create({"n": 0, "seen": []}).sid


class Meeting:
    """Two requests read the session before either saves; what runs later goes on at once."""

    def __init__(self) -> None:
        self.runs = 0
        self._both = threading.Barrier(2, timeout=WAIT)

    def __call__(self) -> None:
        self.runs += 1
        if self.runs <= 2:
            self._both.wait()


# --- the numbers


def test_twenty_gets_that_count(app: Flask, sid: str) -> None:
    answers = together(app, sid, ["/count"] * TABS)
    assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers if a.status_code != 200]
    assert sorted(answer.json["n"] for answer in answers) == list(range(1, TABS + 1))  # type: ignore[index]
    assert asked(app, sid, "/all").json["n"] == TABS  # type: ignore[index]


def test_twenty_gets_that_append(app: Flask, sid: str) -> None:
    answers = together(app, sid, [f"/see/{number}" for number in range(TABS)])
    assert {answer.status_code for answer in answers} == {200}, [a.text for a in answers if a.status_code != 200]
    assert sorted(asked(app, sid, "/all").json["seen"], key=int) == [str(n) for n in range(TABS)]  # type: ignore[index]


def test_gets_and_posts_that_count(app: Flask, sid: str) -> None:
    app.add_url_rule("/buy", view_func=app.view_functions["count"], endpoint="buy", methods=["POST"])
    answers: list[int] = []

    def ask(path: str, method: str) -> None:
        answers.append(asked(app, sid, path, method).status_code)

    in_threads([partial(ask, "/count", "GET"), partial(ask, "/buy", "POST")] * 8)
    assert answers == [200] * 16
    assert asked(app, sid, "/all").json["n"] == 16  # type: ignore[index]


# --- what the second run finds


def test_the_second_run_begins_with_fresh_state(app: Flask, sid: str) -> None:
    meet = Meeting()
    events: list[str] = []

    @app.before_request
    def load_user() -> None:
        assert not hasattr(g, "user")
        g.user = request.args.get("user")

    @app.teardown_request
    def tear_down(error: BaseException | None) -> None:
        events.append(f"ended {g.user}")

    @app.get("/fresh")
    def fresh() -> Response:
        session["n"] += 1
        meet()
        answer = jsonify(g.user, session["n"])
        answer.set_cookie("run", str(session["n"]))
        return answer

    @app.after_request
    def after(response: Response) -> Response:
        response.headers["X-User"] = g.user
        return response

    answers = together(app, sid, ["/fresh?user=a", "/fresh?user=b"])
    assert [answer.status_code for answer in answers] == [200, 200]
    assert sorted(answer.json[1] for answer in answers) == [1, 2]  # type: ignore[index]
    for name, answer in zip("ab", answers, strict=True):
        assert answer.json[0] == answer.headers["X-User"] == name  # type: ignore[index]
        assert len([cookie for cookie in answer.headers.getlist("Set-Cookie") if cookie.startswith("run=")]) == 1
    assert meet.runs == 3
    assert sorted(events) in (["ended a", "ended a", "ended b"], ["ended a", "ended b", "ended b"])


def test_the_body_of_a_get_is_there_again(app: Flask, sid: str) -> None:
    meet = Meeting()

    @app.get("/search")
    def search() -> Any:
        session["n"] += 1
        meet()
        return jsonify(request.get_json(), session["n"])

    answers = together(app, sid, ["/search", "/search"], json={"query": "x" * 3_000_000})
    assert [len(answer.json[0]["query"]) for answer in answers] == [3_000_000] * 2  # type: ignore[index]
    assert meet.runs == 3


def test_an_explicit_save_that_conflicts(app: Flask, sid: str) -> None:
    meet = Meeting()

    @app.get("/save")
    def save() -> str:
        session["n"] += 1
        meet()
        session.sessionlock.save()  # type: ignore[attr-defined]
        return ""

    assert [answer.status_code for answer in together(app, sid, ["/save", "/save"])] == [200, 200]
    assert asked(app, sid, "/all").json["n"] == 2  # type: ignore[index]


def test_the_own_error_page_is_not_shown(app: Flask, sid: str) -> None:
    meet = Meeting()

    @app.errorhandler(SessionConflict)
    def clashed(error: SessionConflict) -> tuple[str, int]:
        return "clash", 409

    @app.get("/set/<value>")
    def put(value: str) -> str:
        try:
            session["n"] += 1
            meet()
        except Exception:
            return "swallowed"
        return ""

    assert {answer.status_code for answer in together(app, sid, ["/set/x", "/set/y"])} == {200}


def test_async_views(app: Flask, sid: str) -> None:
    meet = Meeting()

    @app.get("/async")
    async def view() -> dict[str, int]:
        session["n"] += 1
        meet()
        return {"n": session["n"]}

    answers = together(app, sid, ["/async", "/async"])
    assert sorted(answer.json["n"] for answer in answers) == [1, 2]  # type: ignore[index]


def test_a_stream_begins_once(app: Flask, sid: str) -> None:
    meet = Meeting()

    @app.get("/stream")
    def stream() -> Response:
        session["n"] += 1
        n = session["n"]
        meet()
        return Response(stream_with_context(iter(["<", str(n), ">"])))

    assert sorted(answer.text for answer in together(app, sid, ["/stream", "/stream"])) == ["<1>", "<2>"]


def test_only_the_run_that_counts_is_kept_for_a_test(app: Flask, sid: str) -> None:
    seen: list[object] = []

    @app.get("/kept")
    def kept() -> str:
        seen.append(request._get_current_object())  # type: ignore[attr-defined]
        session["n"] += 10
        if len(seen) == 1:
            asked(app, sid, "/count")
        g.run = len(seen)
        return ""

    client = app.test_client()
    client.set_cookie("session", sid)
    with client:
        assert client.get("/kept").status_code == 200
        assert g.run == 2
        assert len(client._context_stack._exit_callbacks) == 2  # type: ignore[attr-defined]
        assert request._get_current_object() is seen[1]  # type: ignore[attr-defined]
        assert session["n"] == 11


def test_a_conflict_is_learnt(app: Flask, sid: str) -> None:
    meet = Meeting()

    @app.get("/learn")
    def learn() -> str:
        session["n"] += 1
        meet()
        return str(session.sessionlock.lease is not None)  # type: ignore[attr-defined]

    assert sorted(answer.text for answer in together(app, sid, ["/learn", "/learn"])) == ["False", "True"]
    assert meet.runs == 3
    assert asked(app, sid, "/learn").text == "True"
    assert asked(app, sid, "/learn").text == "True"
    assert meet.runs == 5


# --- around the application


@pytest.mark.parametrize("when", ["before", "after"])
def test_who_wraps_the_application(redis_url: str, when: str) -> None:
    from sessionlock.integrations.flask.extension import SessionLock

    app = Flask("wrapped")
    app.config["SESSION_LOCK_URL"] = redis_url
    extension = SessionLock()
    if when == "before":
        app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    extension.init_app(app)
    if when == "after":
        app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    meet = Meeting()

    @app.get("/count")
    def count() -> str:
        session["n"] = session.get("n", 0) + 1
        meet()
        return request.remote_addr or ""

    with guard_of(app) as guard:
        sid = guard.create({"n": 0}).sid
    answers = together(app, sid, ["/count"] * 2, headers={"X-Forwarded-For": "1.2.3.4"})
    assert [(answer.status_code, answer.text) for answer in answers] == [(200, "1.2.3.4")] * 2
    assert meet.runs == 3
    close(app)


def test_two_applications_under_one_roof(redis_url: str) -> None:
    outer, inner = guarded(redis_url), guarded(redis_url, SESSION_COOKIE_NAME="inner")
    for app in (outer, inner):

        @app.get("/count")
        def count() -> dict[str, int]:
            session["n"] = session.get("n", 0) + 1
            return {"n": session["n"]}

    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/inner": inner.wsgi_app})  # type: ignore[method-assign]
    client = Client(outer)
    client.get("/count")
    client.get("/inner/count")
    cookies = "; ".join(f"{name}={client.get_cookie(name).value}" for name in ("session", "inner"))  # type: ignore[union-attr]
    answers: list[int] = []

    def ask(path: str) -> None:
        answers.append(Client(outer, use_cookies=False).get(path, headers={"Cookie": cookies}).status_code)

    in_threads([partial(ask, "/count"), partial(ask, "/inner/count")] * 8)
    assert answers == [200] * 16
    assert client.get("/count").json == client.get("/inner/count").json == {"n": 10}
    close(outer)
    close(inner)


def test_only_app_wsgi_app_is_handed_on(redis_url: str) -> None:
    def factory() -> Any:
        app = guarded(redis_url)

        @app.get("/count")
        def count() -> dict[str, int]:
            session["n"] = session.get("n", 0) + 1
            return {"n": session["n"]}

        return app.wsgi_app

    client = Client(factory())
    assert client.get("/count").json == {"n": 1}
    assert client.get("/count").json == {"n": 2}


# --- where it must not run twice


def test_a_view_may_forbid_it(app: Flask, sid: str) -> None:
    meet = Meeting()

    @app.get("/once")
    @session_policy(on_conflict="answer")
    def once() -> str:
        session["n"] += 1
        meet()
        return ""

    answers = together(app, sid, ["/once", "/once"])
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    assert meet.runs == 2


def test_without_a_server_around_it_the_conflict_is_told(app: Flask, sid: str) -> None:
    with app.test_request_context("/count", headers={"Cookie": f"session={sid}"}):
        assert session["n"] == 0
        asked(app, sid, "/count")
        assert app.full_dispatch_request().status_code == 409
