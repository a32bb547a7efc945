"""The first touch of the session wherever it happens, and answers that nothing of ours spoils (B2, B4, B13)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
from flask import (
    Flask,
    Response,
    after_this_request,
    flash,
    get_flashed_messages,
    render_template_string,
    request_started,
    session,
    stream_template_string,
    stream_with_context,
)
from werkzeug.routing import BaseConverter

from sessionlock import LeasePolicy, SessionGuard, WaitTimedOut
from sessionlock.errors import RedisUnavailable
from sessionlock.integrations.flask.extension import SessionLock
from sessionlock.integrations.web.decorators import locks_session
from sessionlock.integrations.web.rules import RoutePolicy
from tests.harness.flask_apps import asked, close, guard_of, guarded, holding

SID = "s" * 32
SHOP = "https://shop.example"


class Trouble:
    """``with trouble():`` the session cannot be had. ``app`` has one session, ``SID``."""

    def __init__(self, app: Flask, begin: Callable[[], AbstractContextManager[None]], status: int) -> None:
        self.app = app
        self._begin = begin
        self.status = status

    def ask(self, path: str, **options: Any) -> Any:
        with self._begin():
            return asked(self.app, SID, path, "POST", **options)


@pytest.fixture(params=["held", "down"])
def trouble(request: pytest.FixtureRequest, redis_url: str, own_server: Callable[..., Any]) -> Iterator[Trouble]:
    if request.param == "held":
        app = guarded(redis_url, SESSION_LOCK_WAIT=0.2)
        trouble = Trouble(app, lambda: holding(app, SID), 503)
        begin(app)
        yield trouble
        close(app)
        return
    server = own_server()
    app = Flask("shop")
    app.secret_key = "for extensions that sign something"
    guard = SessionGuard.from_url(server.unix_url, retry_for=0.1)
    SessionLock(app, guard)
    begin(app)

    def stopped() -> AbstractContextManager[None]:
        server.stop()
        return nullcontext()

    yield Trouble(app, stopped, 503)
    close(app)


def begin(app: Flask) -> None:
    with guard_of(app) as guard:
        guard.create({"user": "eve", "n": 1}, sid=SID)


@pytest.fixture
def app(redis_url: str) -> Iterator[Flask]:
    app = guarded(redis_url)
    begin(app)
    yield app
    close(app)


# --- B2: hooks


def test_before_each_request(trouble: Trouble) -> None:
    trouble.app.before_request(lambda: session.get("user") and None)
    trouble.app.add_url_rule("/", view_func=lambda: "x", methods=["POST"])
    assert trouble.ask("/").status_code == trouble.status


def test_after_each_request(trouble: Trouble) -> None:
    """As Flask-Login does."""
    ran: list[str] = []

    @trouble.app.after_request
    def remember(response: Response) -> Response:
        ran.append("remember")
        if "_remember" in session:
            session.pop("_remember")
        return response

    @trouble.app.after_request
    def header(response: Response) -> Response:
        response.headers["X-Frame-Options"] = "DENY"
        response.set_cookie("theme", "dark")
        return response

    trouble.app.add_url_rule("/", view_func=lambda: "x", methods=["POST"])
    answer = trouble.ask("/")
    assert answer.status_code == trouble.status
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Set-Cookie"].startswith("theme=dark")
    assert ran == ["remember", "remember"]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["read", "write", "both"])
def test_a_503_that_is_ready_stays(trouble: Trouble, how: str) -> None:
    @trouble.app.after_request
    def count(response: Response) -> Response:
        if how != "write":
            session.get("n")
        if how != "read":
            session["n"] = 5
        return response

    @trouble.app.post("/")
    def view() -> str:
        return str(session["user"])

    answer = trouble.ask("/")
    assert answer.status_code == trouble.status
    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize("status", [502, 503])
def test_any_failure_that_is_ready_stays(trouble: Trouble, status: int) -> None:
    @trouble.app.after_request
    def count(response: Response) -> Response:
        session["n"] = session.get("n", 0) + 1
        return response

    trouble.app.add_url_rule("/", view_func=lambda: ("own page", status), methods=["POST"])
    answer = trouble.ask("/")
    assert (answer.status_code, answer.text) == (status, "own page")


def test_after_this_request(trouble: Trouble) -> None:
    @trouble.app.post("/")
    def view() -> str:
        @after_this_request
        def later(response: Response) -> Response:
            session["n"] = 2
            return response

        return "x"

    assert trouble.ask("/").status_code == trouble.status


def test_teardown(trouble: Trouble) -> None:
    """The answer is on its way: nothing takes its place."""
    seen: list[object] = []

    @trouble.app.teardown_request
    def tell(error: BaseException | None) -> None:
        session["last"] = "x"
        seen.append(session["last"])

    trouble.app.add_url_rule("/", view_func=lambda: "fine", methods=["POST"])
    answer = trouble.ask("/")
    assert (answer.status_code, answer.text) == (200, "fine")
    assert seen == ["x"]


def test_a_page_of_ones_own_for_the_error(trouble: Trouble) -> None:
    @trouble.app.errorhandler(WaitTimedOut)
    @trouble.app.errorhandler(RedisUnavailable)
    def busy(error: Exception) -> tuple[str, int]:
        return render_template_string("{{ session.user or 'whoever' }}, {{ get_flashed_messages()|length }}"), 418

    @trouble.app.post("/")
    def view() -> str:
        return str(session["user"])

    answer = trouble.ask("/")
    assert answer.status_code == 418
    assert answer.text in ("eve, 0", "whoever, 0")


def test_a_url_converter(trouble: Trouble) -> None:
    class Mine(BaseConverter):
        def to_python(self, value: str) -> str:
            return f"{session['user']} {value}"

    trouble.app.url_map.converters["mine"] = Mine

    @trouble.app.route("/<mine:what>", methods=["POST"])
    def view(what: str) -> str:
        return what

    with trouble.app.test_client() as client:
        client.set_cookie("session", SID)
        assert client.post("/cart").text == "eve cart"
    assert trouble.ask("/cart").status_code == trouble.status


@pytest.mark.slow
@pytest.mark.parametrize("place", ["context processor", "url_value_preprocessor", "template global", "signal"])
def test_other_places(trouble: Trouble, place: str) -> None:
    def look(*_: Any, **__: Any) -> dict[str, Any]:
        return {"user": session.get("user")}

    app = trouble.app
    if place == "context processor":
        app.context_processor(look)
    elif place == "url_value_preprocessor":

        @app.url_value_preprocessor
        def before(endpoint: str | None, values: dict[str, Any] | None) -> None:
            look()

    elif place == "template global":
        app.template_global("look")(look)
    else:
        request_started.connect(look, app)
    app.add_url_rule("/", view_func=lambda: render_template_string("{{ look and look() }}"), methods=["POST"])
    assert trouble.ask("/").status_code == trouble.status


def test_too_large_tells_the_key(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    @app.post("/")
    def view() -> str:
        session["photo"] = "x" * 2_000_000
        return ""

    answer = asked(app, SID, "/", "POST")
    assert answer.status_code == 413
    assert "'photo'" in answer.text
    assert "SessionTooLarge" in caplog.text


def test_views_without_a_session(trouble: Trouble) -> None:
    trouble.app.add_url_rule("/", view_func=lambda: "x", methods=["POST"])
    assert trouble.ask("/").status_code == 200


def test_a_view_that_handles_it_itself(trouble: Trouble) -> None:
    """What it then puts into the session is not dropped in silence."""

    @trouble.app.post("/")
    def view() -> str:
        try:
            session["n"] = 2
        except (WaitTimedOut, RedisUnavailable):
            pass
        session["n"] = 3
        return "saved"

    trouble.app.testing = False
    assert trouble.ask("/").status_code >= 500


def test_a_blueprint_of_its_own(trouble: Trouble) -> None:
    from flask import Blueprint

    admin = Blueprint("admin", __name__)

    @admin.after_request
    def after(response: Response) -> Response:
        session["seen"] = True
        return response

    admin.add_url_rule("/admin", "page", lambda: "x", methods=["POST"])
    trouble.app.register_blueprint(admin)
    assert trouble.ask("/admin").status_code == trouble.status


def test_a_hook_that_saves_by_itself_after_a_lost_lease(app: Flask) -> None:
    @app.post("/")
    @locks_session(lease=LeasePolicy(ttl=0.1, renew=False))
    def view() -> str:
        session["n"] = 7
        lease = session.sessionlock.lease  # type: ignore[attr-defined]
        while not lease.is_lost:
            time.sleep(0.01)
        return "x"

    @app.after_request
    def after(response: Response) -> Response:
        session["m"] = 1
        response.headers["X-Hook"] = "yes"
        return response

    answer = asked(app, SID, "/", "POST")
    assert (answer.status_code, answer.headers["X-Hook"]) == (409, "yes")
    with guard_of(app) as guard:
        assert guard.read(SID)["n"] == 1


# --- B13: what hooks put into the answer


def test_what_hooks_add_stays_on_a_409_at_the_end(app: Flask) -> None:
    from flask_cors import CORS

    CORS(app, supports_credentials=True)

    @app.post("/")
    def view() -> Response:
        session["n"] = 2
        with guard_of(app) as guard:
            guard.destroy(SID)
        return Response("done", headers={"ETag": '"1"', "Content-Disposition": "attachment"})

    @app.after_request
    def after(response: Response) -> Response:
        response.set_cookie("theme", "dark")
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    answer = asked(app, SID, "/", "POST", headers={"Origin": SHOP})
    assert answer.status_code == 409
    assert answer.headers["Access-Control-Allow-Origin"] == SHOP
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert "Origin" in answer.headers["Vary"]
    assert answer.headers["Content-Security-Policy"] == "default-src 'self'"
    assert any(cookie.startswith("theme=dark") for cookie in answer.headers.getlist("Set-Cookie"))
    assert "ETag" not in answer.headers
    assert "Content-Disposition" not in answer.headers


def test_cors_on_a_503(trouble: Trouble) -> None:
    from flask_cors import CORS

    CORS(trouble.app)

    @trouble.app.post("/")
    def view() -> str:
        return str(session["user"])

    answer = trouble.ask("/", headers={"Origin": SHOP})
    assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (trouble.status, SHOP)


# --- B14, B22: what is told


def test_a_page_for_browsers(trouble: Trouble) -> None:
    @trouble.app.post("/")
    def view() -> str:
        return str(session["user"])

    answer = trouble.ask("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (answer.status_code, answer.mimetype) == (trouble.status, "text/html")


def test_a_warning_that_tells_the_route_and_the_holder(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    app.session_interface.settings.rules.default = RoutePolicy(wait=0.1)  # type: ignore[attr-defined]
    app.add_url_rule("/buy", view_func=lambda: str(session["user"]), methods=["POST"])
    with holding(app, SID):
        asked(app, SID, "/buy", "POST")
    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "POST /buy: WaitTimedOut" in record.getMessage()
    assert SID not in record.getMessage()


# --- B4: streams


def test_a_streamed_page_that_looks_into_an_untouched_session(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    @app.post("/say")
    def say() -> str:
        flash("saved")
        return ""

    @app.get("/page")
    def page() -> Any:
        source = "<{{ session.user }}>{% for m in get_flashed_messages() %}{{ m }}{% endfor %}{{ token() }}</>"
        return stream_template_string(source, token=token)

    def token() -> str:
        if "csrf_token" not in session:
            session["csrf_token"] = "made late"
        return str(session["csrf_token"])

    asked(app, SID, "/say", "POST")
    for _ in range(3):  # later pages of that visitor, too
        assert asked(app, SID, "/page").text == "<eve>savedmade late</>"
    assert len([r for r in caplog.records if "not saved" in r.getMessage()]) == 3


def test_a_stream_in_an_outage(own_server: Callable[..., Any]) -> None:
    server = own_server()
    app = Flask("shop")
    app.config["SESSION_REFRESH_EACH_REQUEST"] = False  # or an untouched session is looked up for its renewal
    SessionLock(app, SessionGuard.from_url(server.unix_url, retry_for=0.1))

    @app.get("/page")
    def page() -> Response:
        def parts() -> Iterator[str]:
            yield "first "
            server.stop()
            session["late"] = 1
            yield f"{session.get('user')} {session['late']} {len(get_flashed_messages())}"

        return Response(stream_with_context(parts()))

    begin(app)
    assert asked(app, SID, "/page").text == "first None 1 0"
    close(app)


def test_late_messages_are_seen_by_a_test(app: Flask) -> None:
    """Flask-Login's own tests do that."""

    @app.post("/")
    def say() -> str:
        flash("hello")
        return ""

    client = app.test_client()
    with client:
        client.post("/")
        assert get_flashed_messages() == ["hello"]
