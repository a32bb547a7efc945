"""Quart's requests: run again on a conflict, answered when something went wrong, and what goes on after the answer."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import pytest
from quart import (
    Quart,
    Response,
    after_this_request,
    copy_current_request_context,
    flash,
    g,
    make_response,
    render_template_string,
    request,
    session,
    stream_template_string,
    stream_with_context,
)
from quart.typing import ResponseReturnValue

from sessionlock import LeasePolicy, SessionConflict, SessionGuard, WaitTimedOut
from sessionlock.integrations.quart.extension import SessionLock
from sessionlock.integrations.quart.interface import visit_of
from sessionlock.integrations.web.decorators import locks_session, session_policy
from sessionlock.integrations.web.rules import RoutePolicy
from tests.harness.asgi_calls import Call, eventually
from tests.harness.proxy import FaultyProxy

pytestmark = pytest.mark.anyio


@pytest.fixture
async def sid(guard: SessionGuard) -> str:
    return (await guard.create({"n": 0})).sid


def app_of(guard: SessionGuard, **options: Any) -> Quart:
    app = Quart(__name__)
    SessionLock(app, guard, **options)
    return app


def with_cookie(sid: str) -> dict[str, Any]:
    return {"headers": {"cookie": f"session={sid}"}}


class Somebody:
    """Changes the session while a view runs for the first time."""

    def __init__(self, guard: SessionGuard, sid: str) -> None:
        self.guard, self.sid, self.runs = guard, sid, 0

    async def interferes(self) -> None:
        self.runs += 1
        if self.runs == 1:
            async with self.guard.session_lock(self.sid) as other:
                other["n"] += 10

    async def interferes_with_adding_one(self) -> None:
        n = session["n"]
        await self.interferes()
        session["n"] = n + 1

    async def stored(self) -> Any:
        return (await self.guard.read(self.sid))["n"]


@pytest.fixture
def somebody(elsewhere: SessionGuard, sid: str) -> Somebody:
    return Somebody(elsewhere, sid)


# --- run again --------------------------------------------------------------------------------------------------------


async def test_twenty_gets_count_twenty(guard: SessionGuard, sid: str) -> None:
    """A1, B1"""
    app = app_of(guard)

    @app.get("/")
    async def count() -> str:
        n = session["n"]
        await asyncio.sleep(0.002)
        session["n"] = n + 1
        return ""

    @app.get("/sync")
    def count_in_a_thread() -> str:
        session["n"] += 1
        return ""

    for path, n in (("/", 20), ("/sync", 40)):
        client = app.test_client()
        answers = await asyncio.gather(*(client.get(path, **with_cookie(sid)) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        assert (await guard.read(sid))["n"] == n
    assert (await guard.inspect(sid)).holder is None


async def test_nothing_of_the_first_run_is_left(guard: SessionGuard, sid: str, somebody: Somebody) -> None:
    app = app_of(guard)
    kept: ContextVar[list[str]] = ContextVar("kept")
    kept.set([])
    seen: list[tuple[Any, ...]] = []
    ended: list[BaseException | None] = []

    @app.teardown_request
    async def end(error: BaseException | None) -> None:
        ended.append(error)

    @app.before_request
    async def begin() -> None:
        seen.append((hasattr(g, "user"), len(kept.get())))
        g.user = somebody.runs
        kept.set([*kept.get(), "one"])

    @app.get("/")
    async def count() -> str:
        n = session["n"]
        await flash("counted")
        await somebody.interferes()
        session["n"] = n + 1

        @after_this_request
        async def mark(response: Any) -> Any:
            response.headers.add("x-run", str(somebody.runs))
            return response

        return await render_template_string("{{ get_flashed_messages()|length }}")

    answer = await app.test_client().get("/", **with_cookie(sid))
    assert (answer.status_code, await answer.get_data(as_text=True)) == (200, "1")
    assert answer.headers.getlist("x-run") == ["2"]
    assert (somebody.runs, await somebody.stored()) == (2, 11)
    assert seen == [(False, 0), (False, 0)]
    assert len(ended) == 2  # a database's rollback hangs there
    assert ended[0] is not None
    assert ended[1] is None


@pytest.mark.parametrize("how", ["form", "json", "stream"])
async def test_a_body_comes_twice(guard: SessionGuard, sid: str, somebody: Somebody, how: str) -> None:
    """A GET may have one: Elasticsearch's searches, GraphQL."""
    app = app_of(guard)

    @app.get("/")
    async def search() -> Any:
        if how == "form":
            got: Any = dict(await request.form)
        elif how == "json":
            got = await request.get_json()
        else:
            got = {"raw": b"".join([part async for part in request.body]).decode()}
        await somebody.interferes_with_adding_one()
        return got

    kinds: dict[str, Any] = {"form": {"form": {"q": "x"}}, "json": {"json": {"q": "x"}}, "stream": {"data": "text"}}
    answer = await app.test_client().get("/", **with_cookie(sid), **kinds[how])
    assert await answer.get_json() == ({"raw": "text"} if how == "stream" else {"q": "x"})
    assert (somebody.runs, await somebody.stored()) == (2, 11)


async def test_a_body_that_comes_while_the_view_runs(guard: SessionGuard, sid: str, somebody: Somebody) -> None:
    app = app_of(guard)
    got: list[bytes] = []

    @app.get("/")
    async def search() -> str:
        async for part in request.body:
            got.append(part)
            break
        await somebody.interferes_with_adding_one()
        return ""

    async with Call(app, "GET", "/", headers=[(b"cookie", f"session={sid}".encode())]) as call:
        call.body(b"begun, ", more=True)

        async def is_read() -> bool:
            return somebody.runs == 1

        await eventually(is_read)
        call.body(b"and ended")
        assert (await call.until("http.response.start"))["status"] == 200
    assert got == [b"begun, ", b"begun, and ended"]
    assert (somebody.runs, await somebody.stored()) == (2, 11)


async def test_a_body_too_long_to_be_kept(guard: SessionGuard, sid: str, somebody: Somebody) -> None:
    app = app_of(guard, routes={"/": RoutePolicy(body_limit=3)})

    @app.get("/")
    async def search() -> str:
        await somebody.interferes_with_adding_one()
        return ""

    answer = await app.test_client().get("/", **with_cookie(sid), data="longer")
    assert answer.status_code == 409
    assert (somebody.runs, await somebody.stored()) == (1, 10)


async def test_it_may_be_turned_off(guard: SessionGuard, sid: str, somebody: Somebody) -> None:
    app = app_of(guard)

    @app.get("/")
    @session_policy(on_conflict="answer")
    async def count() -> str:
        await somebody.interferes_with_adding_one()
        return ""

    assert (await app.test_client().get("/", **with_cookie(sid))).status_code == 409
    assert (somebody.runs, await somebody.stored()) == (1, 10)


async def test_a_route_that_counts_is_learnt(guard: SessionGuard, sid: str, somebody: Somebody) -> None:
    app = app_of(guard)
    locked = []

    @app.get("/")
    async def count() -> str:
        locked.append(session.sessionlock.lease is not None)  # type: ignore[attr-defined]
        await somebody.interferes_with_adding_one()
        return ""

    for _ in range(2):
        await app.test_client().get("/", **with_cookie(sid))
    assert locked == [False, True, True]


@pytest.mark.parametrize("how", ["raised", "hidden", "propagated"])
async def test_a_save_of_its_own_that_meets_a_conflict(
    guard: SessionGuard, sid: str, somebody: Somebody, how: str
) -> None:
    app = app_of(guard)

    @app.get("/")
    async def count() -> str:
        await somebody.interferes_with_adding_one()
        try:
            await session.sessionlock.save()  # type: ignore[attr-defined]
        except SessionConflict:
            if how == "raised":
                raise
            app.config["PROPAGATE_EXCEPTIONS"] = how == "propagated"
            raise RuntimeError("it went wrong") from None
        return "saved"

    answer = await app.test_client().get("/", **with_cookie(sid))
    assert await answer.get_data(as_text=True) == "saved"
    assert (somebody.runs, await somebody.stored()) == (2, 11)


async def test_no_handler_of_the_applications_takes_it_for_an_error(
    guard: SessionGuard, sid: str, somebody: Somebody
) -> None:
    app = app_of(guard)

    @app.errorhandler(Exception)
    async def any_error(error: Exception) -> ResponseReturnValue:
        return f"error: {error}", 500

    @app.get("/")
    async def count() -> str:
        await somebody.interferes_with_adding_one()
        return "fine"

    assert await (await app.test_client().get("/", **with_cookie(sid))).get_data(as_text=True) == "fine"


async def test_a_test_client_that_keeps_the_context(guard: SessionGuard, sid: str, somebody: Somebody) -> None:
    app = app_of(guard)

    @app.get("/")
    async def count() -> str:
        assert not hasattr(g, "run")
        g.run = somebody.runs
        await somebody.interferes_with_adding_one()
        return ""

    async with app.test_client() as client:
        assert (await client.get("/", **with_cookie(sid))).status_code == 200
        assert session["n"] == 11


async def test_the_lock_by_request(guard: SessionGuard, sid: str, elsewhere: SessionGuard) -> None:
    app = app_of(guard)

    @app.get("/decorated")
    @locks_session
    async def decorated() -> str:
        assert session.sessionlock.lease is not None  # type: ignore[attr-defined]
        session["n"] += 1
        return ""

    @app.get("/block")
    async def block() -> str:
        visit = visit_of(session)
        assert visit is not None
        async with visit.locked():
            assert (await elsewhere.inspect(sid)).holder is not None
            session["n"] += 1
        assert (await elsewhere.inspect(sid)).holder is None
        return ""

    for n, path in enumerate(("/decorated", "/block"), 1):
        assert (await app.test_client().get(path, **with_cookie(sid))).status_code == 200
        assert (await guard.read(sid))["n"] == n


# --- errors as answers ------------------------------------------------------------------------------------------------


def with_hooks(guard: SessionGuard, where: str) -> Quart:
    """Touches its session where it is said, as extensions do."""
    app = app_of(guard, wait=0.05)

    async def touch() -> None:
        session.get("anything")

    if where == "before":
        app.before_request(touch)

    @app.route("/", methods=["GET", "POST"])
    async def view() -> str:
        if where == "view":
            session["n"] = 1
        return "done"

    @app.after_request
    async def header(response: Response) -> Response:
        response.headers["x-hook"] = "yes"
        response.set_cookie("theme", "dark")
        return response

    @app.after_request
    async def after(response: Response) -> Response:
        if where in ("after", "view"):  # also a second time, after a failure
            session.get("anything")
        return response

    @app.teardown_request
    async def end(error: BaseException | None) -> None:
        if where == "teardown":
            session.get("anything")

    return app


def is_a_problem(answer: Response, status: int) -> None:
    assert (answer.status_code, answer.mimetype) == (status, "application/problem+json")
    assert answer.headers["x-hook"] == "yes"
    assert any("theme=dark" in cookie for cookie in answer.headers.getlist("Set-Cookie"))


@pytest.mark.parametrize("where", ["before", "view", "after", "teardown", "nowhere"])
async def test_another_tab_holds_the_lock(guard: SessionGuard, elsewhere: SessionGuard, sid: str, where: str) -> None:
    """B2, B13"""
    client = with_hooks(guard, where).test_client()
    async with elsewhere.session_lock(sid):
        answer = await client.post("/", **with_cookie(sid))
        if where in ("teardown", "nowhere"):
            assert (answer.status_code, await answer.get_data(as_text=True)) == (200, "done")
        else:
            is_a_problem(answer, 503)
            assert answer.headers["retry-after"] == "1"
    assert (await client.post("/", **with_cookie(sid))).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("where", ["before", "view", "after", "teardown", "nowhere"])
async def test_redis_is_down(redis_url: str, sid: str, where: str) -> None:
    """B2, B14: a view without a session goes on."""
    async with (
        FaultyProxy(redis_url) as proxy,
        SessionGuard.from_url(proxy.url, reply_within=0.3, retry_for=0.5) as guard,
    ):
        client = with_hooks(guard, where).test_client()
        assert (await client.post("/", **with_cookie(sid))).status_code == 200
        proxy.refuse()
        proxy.cut_all()
        answer = await client.post("/", **with_cookie(sid))
        if where in ("teardown", "nowhere"):
            assert (answer.status_code, await answer.get_data(as_text=True)) == (200, "done")
        else:
            is_a_problem(answer, 503)


async def test_a_refused_save_keeps_what_hooks_added(guard: SessionGuard, sid: str, somebody: Somebody) -> None:
    """B13: the save comes last, after all hooks."""
    app = with_hooks(guard, "nowhere")

    @app.get("/clash")
    @session_policy(on_conflict="answer")
    async def clash() -> ResponseReturnValue:
        await somebody.interferes_with_adding_one()
        return "done", 201, {"ETag": '"x"', "Content-Language": "en"}

    answer = await app.test_client().get("/clash", **with_cookie(sid))
    is_a_problem(answer, 409)
    assert "ETag" not in answer.headers
    assert "Content-Language" not in answer.headers


async def test_with_quart_cors(guard: SessionGuard, elsewhere: SessionGuard, sid: str) -> None:
    from quart_cors import cors

    app = cors(app_of(guard, wait=0.05), allow_origin="https://shop.test")

    @app.post("/")
    async def view() -> str:
        session["n"] = 1
        return ""

    async with elsewhere.session_lock(sid):
        headers = {"cookie": f"session={sid}", "origin": "https://shop.test"}
        answer = await app.test_client().post("/", headers=headers)
    assert answer.status_code == 503
    assert answer.headers["access-control-allow-origin"] == "https://shop.test"


async def test_a_page_for_browsers(guard: SessionGuard, elsewhere: SessionGuard, sid: str) -> None:
    """B22"""
    client = with_hooks(guard, "view").test_client()
    async with elsewhere.session_lock(sid):
        headers = {"cookie": f"session={sid}", "accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        answer = await client.post("/", headers=headers)
    assert (answer.status_code, answer.mimetype) == (503, "text/html")


async def test_the_applications_own_page(guard: SessionGuard, elsewhere: SessionGuard) -> None:
    """It may greet the user by name, from what can be read without waiting."""
    app = app_of(guard, wait=0.05)
    sid = (await guard.create({"name": "Ada"})).sid

    @app.errorhandler(WaitTimedOut)
    async def busy(error: WaitTimedOut) -> ResponseReturnValue:
        session["late"] = "is not kept"
        return await render_template_string("Sorry, {{ session.name }}"), 423

    @app.post("/")
    async def view() -> str:
        session["name"] = "Bob"
        return ""

    async with elsewhere.session_lock(sid):
        answer = await app.test_client().post("/", **with_cookie(sid))
    assert (answer.status_code, await answer.get_data(as_text=True)) == (423, "Sorry, Ada")
    assert dict(await guard.read(sid)) == {"name": "Ada"}


async def test_an_error_of_the_views_own_lock(guard: SessionGuard, elsewhere: SessionGuard) -> None:
    app = app_of(guard)

    @app.post("/stock")
    async def stock() -> str:
        async with guard.lock("stock", wait=0):
            return "sold"

    async with elsewhere.lock("stock"):
        answer = await app.test_client().post("/stock")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == "application/problem+json"
    assert (await app.test_client().post("/stock")).status_code == 200


async def test_what_was_refused_is_in_the_log(
    guard: SessionGuard, elsewhere: SessionGuard, sid: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B14, B21: who, where, what; never the id."""
    client = with_hooks(guard, "view").test_client()
    async with elsewhere.session_lock(sid):
        await client.post("/", **with_cookie(sid))
    (told,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "POST /" in told
    assert "WaitTimedOut" in told
    assert sid not in caplog.text


async def test_a_view_that_fails_saves_nothing(guard: SessionGuard, sid: str) -> None:
    app = app_of(guard)

    @app.post("/raises")
    async def raises() -> str:
        session["n"] = 99
        raise RuntimeError("boom")

    @app.post("/says")
    async def says() -> ResponseReturnValue:
        session["n"] = 99
        return "boom", 500

    for path in ("/raises", "/says"):
        assert (await app.test_client().post(path, **with_cookie(sid))).status_code == 500
        assert dict(await guard.read(sid)) == {"n": 0}
        assert (await guard.inspect(sid)).holder is None


# --- a lease that is lost ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["view", "before"])
async def test_a_lost_lease_ends_who_has_changed_something(guard: SessionGuard, sid: str, where: str) -> None:
    """B6, and 409 through the application's hooks."""
    app = app_of(guard, lease=LeasePolicy(ttl=0.2, max_hold=0.2))
    ended = asyncio.Event()

    async def long() -> None:
        session["n"] += 1
        try:
            await asyncio.sleep(30)
        finally:
            ended.set()

    if where == "before":
        app.before_request(long)

    @app.post("/")
    async def view() -> str:
        await long()
        return ""

    @app.after_request
    async def header(response: Response) -> Response:
        response.headers["x-hook"] = "yes"
        return response

    answer = await asyncio.wait_for(app.test_client().post("/", **with_cookie(sid)), 10)
    assert (answer.status_code, answer.headers["x-hook"]) == (409, "yes")
    await asyncio.wait_for(ended.wait(), 5)
    assert dict(await guard.read(sid)) == {"n": 0}


async def test_a_lost_lease_leaves_who_has_only_looked(guard: SessionGuard, sid: str) -> None:
    """B6"""
    app = app_of(guard, lease=LeasePolicy(ttl=0.2, max_hold=0.2))

    @app.post("/")
    async def view() -> str:
        n = session["n"]

        async def is_lost() -> bool:
            lease = session.sessionlock.lease  # type: ignore[attr-defined]
            return bool(lease.is_lost)

        await eventually(is_lost)
        return f"saw {n}"

    answer = await app.test_client().post("/", **with_cookie(sid))
    assert (answer.status_code, await answer.get_data(as_text=True)) == (200, "saw 0")


# --- bodies and clients -----------------------------------------------------------------------------------------------


async def test_a_slow_upload_holds_up_nobody(guard: SessionGuard, elsewhere: SessionGuard, sid: str) -> None:
    """B6"""
    app = app_of(guard)

    @app.post("/upload")
    async def upload() -> dict[str, int]:
        session["n"] += 1
        return {"bytes": len(await request.get_data())}

    cookie = [(b"cookie", f"session={sid}".encode())]
    async with Call(app, "POST", "/upload", headers=cookie) as call:
        call.body(b"half", more=True)

        async def is_taken() -> bool:
            return call.unread == 0

        await eventually(is_taken)
        async with elsewhere.session_lock(sid, wait=1) as session_:
            session_["n"] += 10
        call.body(b" and half")
        assert (await call.until("http.response.start"))["status"] == 200
        assert (await call.until("http.response.body"))["body"] == b'{"bytes":13}\n'
    assert (await guard.read(sid))["n"] == 11


async def test_a_body_that_is_not_waited_for(guard: SessionGuard, elsewhere: SessionGuard, sid: str) -> None:
    """``body_limit=0``: a view that reads as it comes, and wants its session meanwhile."""
    app = app_of(guard, routes={"POST /upload": RoutePolicy(body_limit=0)})
    got: list[bytes] = []

    @app.post("/upload")
    async def upload() -> str:
        async for part in request.body:
            got.append(part)
        return ""

    cookie = [(b"cookie", f"session={sid}".encode())]
    async with Call(app, "POST", "/upload", headers=cookie) as call:
        call.body(b"half", more=True)

        async def is_there() -> bool:
            return got == [b"half"]

        await eventually(is_there)
        assert (await elsewhere.inspect(sid)).holder is not None
        call.body(b"rest")
        assert (await call.until("http.response.start"))["status"] == 200


async def test_a_body_that_quart_refuses_is_not_waited_for(guard: SessionGuard, sid: str) -> None:
    app = app_of(guard)
    app.config["MAX_CONTENT_LENGTH"] = 10

    @app.post("/")
    async def view() -> Any:
        return await request.get_data()

    headers = [(b"cookie", f"session={sid}".encode()), (b"content-length", b"1000")]
    async with Call(app, "POST", "/", headers=headers) as call:
        call.body(b"begun", more=True)
        assert (await call.until("http.response.start"))["status"] == 413


async def test_who_hangs_up_leaves_the_queue(guard: SessionGuard, elsewhere: SessionGuard, sid: str) -> None:
    app = app_of(guard)

    @app.post("/")
    async def view() -> str:
        session["n"] += 1
        return ""

    async def waiters() -> int:
        return len((await elsewhere.inspect(sid)).waiters)

    async def one_waits() -> bool:
        return await waiters() == 1

    async def nobody_waits() -> bool:
        return await waiters() == 0

    cookie = [(b"cookie", f"session={sid}".encode())]
    async with elsewhere.session_lock(sid), Call(app, "POST", "/", headers=cookie) as call:
        call.body()
        await eventually(one_waits)
        call.tell("http.disconnect")
        await eventually(nobody_waits)
    assert (await guard.read(sid))["n"] == 0


async def test_who_hangs_up_in_a_view_leaves_no_lock(guard: SessionGuard, sid: str) -> None:
    app = app_of(guard)
    begun = asyncio.Event()

    @app.post("/")
    async def view() -> str:
        session["n"] += 1
        begun.set()
        await asyncio.sleep(30)
        return ""

    async def is_free() -> bool:
        return (await guard.inspect(sid)).holder is None

    async with Call(app, "POST", "/", headers=[(b"cookie", f"session={sid}".encode())]) as call:
        call.body()
        await begun.wait()
        call.tell("http.disconnect")
        await eventually(is_free)
    assert (await guard.read(sid))["n"] == 0


# --- after the answer has begun ---------------------------------------------------------------------------------------


async def test_streams_are_not_broken_by_what_they_write(
    guard: SessionGuard, sid: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B4: a page that shows messages and a form's token while it is streamed."""
    app = app_of(guard)

    @app.get("/page")
    async def page() -> Any:
        @stream_with_context
        async def parts() -> AsyncIterator[str]:
            yield f"n={session['n']} "
            session["token"] = "x"
            yield session.setdefault("token", "y")
            session.modified = True
            session.permanent = True

        return parts()

    @app.get("/template")
    async def template() -> Any:
        return await stream_template_string(
            "{% for message in get_flashed_messages() %}[{{ message }}]{% endfor %}{{ session.pop('n') }}."
        )

    client = app.test_client()
    answer = await client.get("/page", **with_cookie(sid))
    assert await answer.get_data(as_text=True) == "n=0 x"
    answer = await client.get("/template", **with_cookie(sid))
    assert await answer.get_data(as_text=True) == "0."
    assert dict(await guard.read(sid)) == {"n": 0}
    assert [record.levelno for record in caplog.records if "not saved" in record.getMessage()] == [logging.WARNING] * 2


async def test_streams_and_background_tasks_hold_no_lock(guard: SessionGuard, sid: str) -> None:
    app = app_of(guard)
    go_on, seen = asyncio.Event(), asyncio.Queue[Any]()

    @app.post("/")
    async def view() -> Any:
        session["n"] += 1

        @copy_current_request_context
        async def later() -> None:
            await go_on.wait()
            session["late"] = True
            await seen.put(dict(session))

        app.add_background_task(later)

        @stream_with_context
        async def parts() -> AsyncIterator[str]:
            yield "begun "
            await go_on.wait()
            yield "ended"

        return parts()

    cookie = [(b"cookie", f"session={sid}".encode())]
    async with Call(app, "POST", "/", headers=cookie) as call:
        call.body()
        await call.until("http.response.body")
        assert (await guard.inspect(sid)).holder is None
        async with guard.session_lock(sid, wait=1) as other:
            assert other["n"] == 1
        go_on.set()
        assert await asyncio.wait_for(seen.get(), 5) == {"n": 1, "late": True}
    assert dict(await guard.read(sid)) == {"n": 1}


async def test_a_copy_of_the_context_that_ends_early(guard: SessionGuard, sid: str) -> None:
    app = app_of(guard)

    @app.post("/")
    async def view() -> str:
        @copy_current_request_context
        async def inner() -> None:
            session["a"] = 1

        await asyncio.create_task(inner())
        session["n"] += 1
        return ""

    assert (await app.test_client().post("/", **with_cookie(sid))).status_code == 200
    assert dict(await guard.read(sid)) == {"n": 1, "a": 1}


async def test_a_thread_that_outlives_its_request(
    guard: SessionGuard, sid: str, caplog: pytest.LogCaptureFixture
) -> None:
    """B5: it reads what was there, and what it writes is told not to be saved."""
    app = app_of(guard)
    answered, seen = threading.Event(), []
    threads: list[threading.Thread] = []

    @app.post("/")
    async def view() -> str:
        session["n"] += 1
        here: Any = session._get_current_object()  # type: ignore[attr-defined]

        def later() -> None:
            answered.wait(10)
            here["late"] = True
            here.setdefault("cart", []).append("a")
            seen.append(dict(here))

        threads.append(threading.Thread(target=later))
        threads[0].start()
        return ""

    assert (await app.test_client().post("/", **with_cookie(sid))).status_code == 200
    answered.set()
    await asyncio.to_thread(threads[0].join)
    assert seen == [{"n": 1, "late": True, "cart": ["a"]}]
    assert dict(await guard.read(sid)) == {"n": 1}
    assert len([record for record in caplog.records if "not saved" in record.getMessage()]) == 1


async def test_early_release(guard: SessionGuard, sid: str) -> None:
    app = app_of(guard)

    @app.post("/")
    async def view() -> ResponseReturnValue:
        session["n"] += 1
        await session.sessionlock.release()  # type: ignore[attr-defined]
        assert (await guard.inspect(sid)).holder is None
        return await make_response("slow end")

    assert (await app.test_client().post("/", **with_cookie(sid))).status_code == 200
    assert dict(await guard.read(sid)) == {"n": 1}
