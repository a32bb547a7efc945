"""Requests to a Django site: who waits for whom, and what it costs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.test import Client

from sessionlock import SessionLockError
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.embedded import EmbeddedServer
from sessionlock.integrations.django.store import SessionStore
from sessionlock.integrations.web.problems import Problems
from tests.harness.commands import CommandCounter
from tests.harness.django_site import override_settings
from tests.harness.django_site.calls import entered, go_on, held, sid_of, twin_of

pytestmark = pytest.mark.usefixtures("site")


# --- the lock


def test_fifty_at_once_lose_nothing(client: Client, pool: ThreadPoolExecutor) -> None:
    with override_settings(SESSION_LOCK_WAIT=30):
        answers = list(pool.map(lambda n: twin_of(client).post(f"/slow_add/{n}").status_code, range(50)))
    assert set(answers) == {200}
    assert sorted(client.get("/cart").json()["cart"]) == sorted(["first", *map(str, range(50))])


def test_reading_does_not_wait(client: Client, pool: ThreadPoolExecutor, redis_url: str) -> None:
    slow = pool.submit(twin_of(client).post, "/wait")
    entered()
    assert held(redis_url, sid_of(client))
    answers = list(pool.map(lambda _: twin_of(client).get("/cart").json(), range(20)))
    assert answers == [{"cart": ["first"]}] * 20
    assert not slow.done()
    go_on()
    assert slow.result(10).status_code == 200


def test_writers_wait_and_are_told_when_it_takes_too_long(client: Client, holder: Callable[[str], Any]) -> None:
    with holder(sid_of(client)), override_settings(SESSION_LOCK_WAIT=0.05):
        response = client.post("/add/x")
        assert response.status_code == 503
        assert response["Retry-After"] == "1"
        assert response["Content-Type"] == "application/problem+json"
        assert response.json()["status"] == 503
        assert response.cookies == {}
    assert client.post("/add/x").json() == {"cart": ["first", "x"]}


def test_the_log_names_the_route(
    client: Client, holder: Callable[[str], Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A path may be a token for a new password."""
    with holder(sid_of(client)), override_settings(SESSION_LOCK_WAIT=0.05), caplog.at_level(logging.DEBUG):
        assert client.post("/say/alice").status_code == 503
        assert client.generic("ALICE", "/say/alice").status_code == 503
        client.post("/nowhere/alice")
    ours = [record for record in caplog.records if record.name == "sessionlock.web"]
    assert [record.__dict__["route"] for record in ours][:2] == ["POST /say/<text>", "_OTHER /say/<text>"]
    assert "alice" not in "".join(f"{record.getMessage()} {record.__dict__['route']}" for record in ours).lower()


def test_the_answers_can_be_changed(client: Client, holder: Callable[[str], Any]) -> None:
    said = Problems({SessionLockError: 423}, retry_after=7)
    with holder(sid_of(client)), override_settings(SESSION_LOCK_WAIT=0.05, SESSION_LOCK_PROBLEMS=said):
        response = client.post("/add/x")
    assert (response.status_code, response["Retry-After"]) == (423, "7")


def test_a_full_queue(client: Client, holder: Callable[[str], Any]) -> None:
    from sessionlock import WaitPolicy

    with holder(sid_of(client)), override_settings(SESSION_LOCK_WAIT=WaitPolicy(max_waiters=0)):
        assert client.post("/add/x").status_code == 429


def test_redis_is_gone(client: Client, own_server: Callable[..., EmbeddedServer]) -> None:
    server = own_server()
    said = {"reply_within": 0.2, "retry_for": 0.1}
    with override_settings(SESSION_LOCK_URL=server.unix_url, SESSION_LOCK_OPTIONS=said):
        client = Client()
        client.post("/add/x")
        server.stop()
        for ask in (client.get, client.post):
            response = ask("/cart")
            assert (response.status_code, response["Retry-After"]) == (503, "1")


def overtaken(client: Client, pool: ThreadPoolExecutor, path: str, *, by: str) -> Any:
    """What a GET in another tab is answered, while which a POST comes and goes."""
    waiting = pool.submit(twin_of(client).get, path)
    entered()
    client.post(by)
    go_on()
    return waiting.result(10)


def test_a_safe_request_that_changes_something_is_merged(client: Client, pool: ThreadPoolExecutor) -> None:
    assert overtaken(client, pool, "/wait", by="/add/x").status_code == 200
    assert (client.session["cart"], client.session["waited"]) == (["first", "x"], True)


def test_or_runs_again(client: Client, pool: ThreadPoolExecutor) -> None:
    assert overtaken(client, pool, "/wait", by="/put/waited/no").status_code == 200
    assert client.session["waited"] is True


@pytest.mark.parametrize("path", ["/once_wait", "/exempt_wait"])
def test_or_is_refused_where_it_must_not_run_twice(client: Client, pool: ThreadPoolExecutor, path: str) -> None:
    answer = overtaken(client, pool, path, by="/put/waited/no")
    assert (answer.status_code, answer.json()["status"]) == (409, 409)
    assert client.session["waited"] == "no"


def test_a_lost_lease_is_a_conflict_and_saves_nothing(client: Client, pool: ThreadPoolExecutor, redis_url: str) -> None:
    waiting = pool.submit(twin_of(client).post, "/wait")
    entered()
    with BlockingGuard.from_url(redis_url) as guard:
        holder = guard.inspect(sid_of(client)).holder
        assert holder is not None
        assert "POST /wait" in holder.label
        assert guard.force_release(sid_of(client), holder.token)
    client.post("/add/x")
    go_on()
    assert waiting.result(10).status_code == 409
    assert dict(client.session.items()) == {"cart": ["first", "x"]}


@pytest.mark.parametrize("end", ["/flush", "/logout"])
def test_a_session_that_ends_under_its_holder(client: Client, pool: ThreadPoolExecutor, end: str) -> None:
    """A GET ends it, which waits for nobody: what the holder has changed is not acknowledged, and revives nothing."""
    before = sid_of(client)
    late = twin_of(client)
    late.raise_request_exception = False
    waiting = pool.submit(late.post, "/wait")
    entered()
    twin_of(client).get(end)
    go_on()
    assert waiting.result(10).status_code == 400
    assert not SessionStore().exists(before)


def test_a_holder_that_changed_nothing_keeps_its_answer(client: Client, pool: ThreadPoolExecutor) -> None:
    waiting = pool.submit(twin_of(client).post, "/wait_and_see")
    entered()
    twin_of(client).get("/flush")
    go_on()
    assert waiting.result(10).json() == {"cart": ["first"]}


@override_settings(SESSION_SAVE_EVERY_REQUEST=True)
@pytest.mark.parametrize("method", ["get", "post"])
@pytest.mark.parametrize("where", ["/wait_and_see", "/readonly_wait"])
def test_also_where_each_request_is_saved(client: Client, pool: ThreadPoolExecutor, method: str, where: str) -> None:
    waiting = pool.submit(getattr(twin_of(client), method), where)
    entered()
    twin_of(client).get("/flush")
    go_on()
    answer = waiting.result(10)
    assert (answer.json(), answer.cookies) == ({"cart": ["first"]}, {})


def test_a_stream_holds_nothing(client: Client, redis_url: str) -> None:
    response = client.post("/stream")
    parts = iter(response)
    assert next(parts) == b"one"
    assert not held(redis_url, sid_of(client))
    assert client.session["streamed"]
    assert client.post("/add/x").status_code == 200
    go_on()
    assert list(parts) == [b"two"]


def test_a_handler_that_calls_its_own_application(client: Client) -> None:
    """Under the lock a safe request is answered, another refused at once; without it both are answered."""
    assert client.post("/call_self").json() == {"answers": [200, 409]}
    assert client.get("/call_self").json() == {"answers": [200, 200]}


@pytest.mark.parametrize(
    "path", ["/add/x", "/broken", "/nowhere", "/flush", "/login/nobody", "/login/ada", "/cycle", "/logout", "/expire/0"]
)
def test_the_lock_is_released_whatever_happens(client: Client, redis_url: str, path: str) -> None:
    client.raise_request_exception = False
    sid = sid_of(client)
    client.post(path)
    assert not held(redis_url, sid)
    assert sid_of(client) in (sid, "") or not held(redis_url, sid_of(client))


def test_threads_do_not_pile_up(client: Client) -> None:
    client.post("/add/x")
    before = threading.active_count()
    for _ in range(50):
        client.post("/add/x")
        client.get("/cart")
    assert threading.active_count() == before


def test_who_waited_with_a_planted_key_does_not_share_the_login(
    client: Client, pool: ThreadPoolExecutor, redis_url: str
) -> None:
    """The planter queues behind the login request; when it is his turn, his key has ended."""
    planted = sid_of(client)
    with BlockingGuard.from_url(redis_url) as guard:
        with guard.session_lock(planted) as session:
            waiting = pool.submit(twin_of(client).post, "/add/mine")
            until = time.monotonic() + 10
            while not guard.inspect(planted).waiters:
                assert time.monotonic() < until
            session["_auth_user_id"] = "1"
            session.regenerate(grace=0)
            new = session.sid
        assert waiting.result(10).status_code == 400, "and no cookie of his takes the place of the login's"
        assert "sessionid" not in waiting.result(10).cookies
        assert dict(guard.read(new)) == {"cart": ["first"], "_auth_user_id": "1"}


def test_what_is_answered_as_saved_is_counted(client: Client, pool: ThreadPoolExecutor) -> None:
    """Without the lock some are refused, as those views want it; the others all count."""
    statuses = list(pool.map(lambda _: twin_of(client).post("/exempt_count").status_code, range(20)))
    assert set(statuses) <= {200, 409}
    assert client.session["count"] == statuses.count(200)


def test_what_a_request_costs(client: Client, redis_url: str) -> None:
    """The life of a session is set in the same round trip that saves and releases it."""
    client.post("/add/x")
    client.get("/cart")  # now the scripts are known there
    for ask, path, calls in (
        (client.get, "/quiet", 0),
        (client.get, "/cart", 1),
        (client.post, "/quiet", 2),
        (client.post, "/add/y", 3),
    ):
        with CommandCounter(redis_url) as ran:
            ask(path)
        assert ran.script_calls == calls, (path, ran.counts)
