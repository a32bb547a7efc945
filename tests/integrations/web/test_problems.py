"""What a client is told when its session cannot be used, and what the log is told."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sessionlock import (
    LeaseLost,
    LeasePolicy,
    QueueFull,
    RedisUnavailable,
    SessionConflict,
    SessionDestroyed,
    SessionGuard,
    SessionLockError,
    SessionPolicy,
    SessionTooLarge,
    WaitPolicy,
    WaitTimedOut,
)
from sessionlock.errors import NotDurable
from sessionlock.integrations.web.problems import Problem, Problems, prefers_html, tell

pytestmark = pytest.mark.anyio

CHROME = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "html"),
    [
        (CHROME, True),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("text/*", True),
        ("application/xhtml+xml, */*;q=0.1", True),
        ("text/html, */*", True),
        ("text/html;q=0.9, application/json;q=0.5", True),
        ("text/html, application/json", True),
        (None, False),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/problem+json, text/html;q=0.9", False),
        ("application/json, text/html", False),
        ("application/json, text/plain, */*", False),
        ("application/json, text/javascript, */*; q=0.01", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=0.5, */*", False),
        ("text/html;q=many", False),
        ("text/plain", False),
        (";;,,q=1", False),
    ],
)
def test_who_gets_a_page(accept: str | None, html: bool) -> None:
    assert prefers_html(accept) is html


def test_the_page_tells_the_same_in_words() -> None:
    error = WaitTimedOut("session DIGEST was still locked")
    plain, page = Problems(retry_after=7).answer(error), Problems(retry_after=7).answer(error, CHROME)
    assert plain is not None
    assert page is not None
    assert (page.status, page.detail) == (plain.status, plain.detail)
    headers = dict(page.headers())
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["retry-after"] == "7"
    assert headers["cache-control"] == "no-store"
    assert int(headers["content-length"]) == len(page.content())
    text = page.content().decode()
    assert plain.detail in text
    assert "again in 7 seconds" in text
    assert "DIGEST" not in text
    assert 'name="color-scheme"' in text
    assert "<script" not in text
    assert "http" not in text, "it needs nothing from elsewhere"
    assert json.loads(plain.content())["detail"] == plain.detail


@pytest.mark.parametrize(("seconds", "words"), [(1, "1 second."), (60, "60 seconds."), (300, "5 minutes.")])
def test_retry_after_in_words(seconds: int, words: str) -> None:
    page = Problems(retry_after=seconds).answer(QueueFull(), "text/html")
    assert page is not None
    assert f"again in {words}" in page.content().decode()


def test_a_change_of_the_problem_is_on_the_page_and_nothing_is_markup() -> None:
    problems = Problems(change=lambda _, problem: replace(problem, title="<b>", detail="a & <i>b</i>"))
    page = problems.answer(SessionConflict(), "text/html")
    assert page is not None
    seen: list[str] = []

    class Seen(HTMLParser):
        def handle_data(self, data: str) -> None:
            seen.append(data)

    Seen().feed(page.content().decode())
    assert {"<b>", "a & <i>b</i>"} <= set(seen)


def test_an_answer_of_ones_own_stays_as_it_is() -> None:
    problems = Problems(change=lambda _, problem: Problem(503, "", content_type="text/plain", body=b"busy"))
    for accept in (None, CHROME):
        answer = problems.answer(WaitTimedOut(), accept)
        assert answer is not None
        assert answer.content() == b"busy"
        assert dict(answer.headers())["content-type"] == "text/plain"


def test_ended_meanwhile() -> None:
    told = Problems().answer(SessionDestroyed())
    assert told is not None
    assert (told.status, told.retry_after) == (409, None)
    assert told.detail == "The session was ended meanwhile; nothing of this request was saved in it."


async def _conflict(guard: SessionGuard, sid: str) -> None:
    async with guard.session_lock(sid, mode="optimistic") as mine:
        mine["cart"] = [*mine["cart"], "a secret of mine"]
        async with guard.session_lock(sid) as other:
            other["cart"] = ["theirs"]


async def _too_large_a_value(guard: SessionGuard, sid: str) -> None:
    async with guard.session_lock(sid, session=SessionPolicy(max_field=1000)) as session:
        session["small"], session["avatar"] = 1, "a secret of mine" * 100


async def _too_large_a_session(guard: SessionGuard, sid: str) -> None:
    async with guard.session_lock(sid, session=SessionPolicy(max_session=1000)) as session:
        session["small"], session["avatar"] = 1, "a secret of mine" * 100


async def _too_late(guard: SessionGuard, sid: str) -> None:
    async with guard.session_lock(sid, lease=LeasePolicy(ttl=0.05, renew=False, on_lost="flag")) as session:
        await session.lease.lost.wait() if session.lease else None


async def _busy(guard: SessionGuard, sid: str) -> None:
    other = SessionGuard(guard._client, wait=0)
    async with guard.session_lock(sid, label="GET /slow"), other, other.session_lock(sid):
        pass


async def _crowded(guard: SessionGuard, sid: str) -> None:
    other = SessionGuard(guard._client, wait=WaitPolicy(max_waiters=0))
    async with guard.session_lock(sid, label="GET /slow"), other, other.session_lock(sid):
        pass


async def _ended(guard: SessionGuard, sid: str) -> None:
    async with guard.session_lock(sid) as session:
        await guard.destroy(sid)
        session["cart"] = ["a secret of mine"]


@pytest.mark.parametrize(
    ("meet", "kind", "tells"),
    [
        (_conflict, SessionConflict, ("'cart'",)),
        (_too_large_a_value, SessionTooLarge, ("'avatar'",)),
        (_too_large_a_session, SessionTooLarge, ("'avatar'",)),
        (_too_late, LeaseLost, ()),
        (_busy, WaitTimedOut, ("GET /slow",)),
        (_crowded, QueueFull, ("GET /slow",)),
        (_ended, SessionDestroyed, ()),
    ],
)
async def test_one_warning_tells_what_is_needed(
    meet: object, kind: type[SessionLockError], tells: tuple[str, ...], redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with SessionGuard.from_url(redis_url) as guard:
        sid = (await guard.create({"cart": []})).sid
        digest = (await guard.inspect(sid)).name
        with pytest.raises(kind) as met:
            await meet(guard, sid)  # type: ignore[operator]
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sessionlock"):
        tell(met.value, "POST /cart/add")
    (record,) = caplog.records
    line = record.getMessage()
    assert record.levelno == logging.WARNING
    assert met.value.digest == digest
    for told in ("POST /cart/add", kind.__name__, digest, *tells):
        assert told in line, line
    assert sid not in line
    assert "secret" not in line


def test_what_the_message_does_not_say_is_added(caplog: pytest.LogCaptureFixture) -> None:
    tell(WaitTimedOut("busy", holder="node:1 GET /x").about("DIGEST"), "POST /")
    assert caplog.messages == ["POST /: WaitTimedOut: busy (session: DIGEST; holder: node:1 GET /x)"]
    caplog.clear()
    tell(SessionTooLarge("big", keys=("b", "a")), "POST /")
    assert caplog.messages == ["POST /: SessionTooLarge: big (keys: ('b', 'a'))"]


def test_an_outage_is_not_told_by_each_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sessionlock"):
        tell(RedisUnavailable("down"), "POST /")
        assert not caplog.records
        tell(NotDurable("saved on the master only"), "POST /")
        assert len(caplog.records) == 1


async def test_too_large_names_the_key_to_the_client(redis_url: str) -> None:
    async with SessionGuard.from_url(redis_url) as guard:
        sid = (await guard.create({})).sid
        with pytest.raises(SessionTooLarge) as met:
            await _too_large_a_value(guard, sid)
    assert (met.value.keys, met.value.limit) == (("avatar",), 1000)
    problem = Problems().answer(met.value)
    assert problem is not None
    assert problem.status == 413
    assert "'avatar'" in problem.detail
    assert "secret" not in problem.detail
