"""What all faces promise, tried on the piece that they share: one request's use of a session."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import copy
import enum
import json
import logging
import pickle
import re
from typing import Any

import orjson
import pytest
from cryptography.fernet import Fernet

from sessionlock import SessionConflict, SessionDestroyed, SessionGuard, SessionNotFound, SessionPolicy
from sessionlock.codecs import FernetCodec, default_codec
from sessionlock.errors import CodecError, LeaseLost, ReadOnlySession
from sessionlock.integrations.web.asked import Asked
from sessionlock.integrations.web.learning import MOST, Learnt
from sessionlock.integrations.web.mapping import WebSession
from sessionlock.integrations.web.request_session import RequestSession, RunAgain
from sessionlock.integrations.web.rules import RoutePolicy, Rules
from sessionlock.integrations.web.values import for_framework
from sessionlock.views.cookies import CookieSettings
from tests.harness.commands import aged
from tests.harness.stored import Stored

pytestmark = pytest.mark.anyio

AUTO = RoutePolicy()


@pytest.fixture
def rules() -> Rules:
    return Rules()


class Requests:
    """Makes visits as a face does."""

    def __init__(self, guard: SessionGuard, rules: Rules) -> None:
        self.guard, self.rules = guard, rules

    def __call__(self, method: str, sid: str | None, policy: RoutePolicy = AUTO, **options: Any) -> RequestSession:
        on_loss = options.pop("on_loss", None)
        how: dict[str, Any] = {"method": method, "path": "/page", "rules": self.rules, **options}
        return RequestSession(Asked.of(self.guard, CookieSettings(), policy, sid, **how), on_loss=on_loss)


@pytest.fixture
def request_of(guard: SessionGuard, rules: Rules) -> Requests:
    return Requests(guard, rules)


async def data_of(guard: SessionGuard, sid: str) -> dict[str, Any]:
    return dict(await guard.read(sid))


async def made(guard: SessionGuard, **data: Any) -> str:
    return (await guard.create(data)).sid


# --- a safe request that met a conflict


async def test_a_safe_request_that_met_a_conflict_is_run_again(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, n=0)
    first = request_of("GET", sid)
    async with first:
        first.mapping["n"] += 1
        await guard.transaction(sid, lambda other: other.__setitem__("n", 1))
        with pytest.raises(RunAgain):
            await first.finish()
    assert await data_of(guard, sid) == {"n": 1}, "nothing of the first run is kept"
    async with first.again() as second:
        assert second.session.lease is not None
        second.mapping["n"] += 1
        await second.finish()
    assert await data_of(guard, sid) == {"n": 2}


async def test_its_route_takes_the_lock_at_once_from_then_on(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, n=0)
    async with request_of("GET", sid) as visit:
        assert visit.session.lease is None
        visit.mapping["n"] += 1
        await guard.transaction(sid, lambda other: other.__setitem__("n", 1))
        with pytest.raises(RunAgain):
            await visit.finish()
    async with request_of("GET", sid) as visit:
        assert visit.session.lease is not None
        await visit.finish()


@pytest.mark.parametrize(
    ("method", "policy"),
    [
        ("GET", RoutePolicy(on_conflict="answer")),
        ("GET", RoutePolicy("optimistic")),
        ("GET", RoutePolicy("last_write_wins")),
        ("POST", RoutePolicy("optimistic")),
    ],
)
async def test_who_asked_for_the_conflict_gets_it(
    guard: SessionGuard, request_of: Requests, method: str, policy: RoutePolicy
) -> None:
    sid = await made(guard, n=0)
    async with request_of(method, sid, policy) as visit:
        visit.mapping["n"] += 1
        await guard.transaction(sid, lambda other: other.__setitem__("n", 1))
        with pytest.raises(SessionConflict):
            await visit.finish()


async def test_a_conflict_that_the_handler_met_itself(guard: SessionGuard, request_of: Requests) -> None:
    """Its save() failed, and then the whole request: not because of the application."""
    sid = await made(guard, n=0)
    async with request_of("GET", sid) as visit:
        visit.mapping["n"] += 1
        await guard.transaction(sid, lambda other: other.__setitem__("n", 7))
        with pytest.raises(SessionConflict):
            await visit.mapping.sessionlock.save()
        with pytest.raises(RunAgain):
            await visit.finish(failed=True)


@pytest.mark.parametrize("step", ["save", "incr"])
async def test_what_the_handler_has_stored_by_itself_is_not_done_twice(
    guard: SessionGuard, request_of: Requests, step: str
) -> None:
    """Then the conflict is told; and from the next time on the route takes the lock at once."""
    sid = await made(guard, n=0, hits=0)
    async with request_of("GET", sid) as visit:
        session = visit.mapping.sessionlock
        if step == "incr":
            await session.incr("hits")
        else:
            visit.mapping["hits"] += 1
            await session.save()
        visit.mapping["n"] += 1
        await guard.transaction(sid, lambda other: other.__setitem__("n", 7))
        with pytest.raises(SessionConflict):
            await visit.finish()
    assert await data_of(guard, sid) == {"n": 7, "hits": 1}
    async with request_of("GET", sid) as visit:
        assert visit.session.lease is not None
        await visit.finish()


async def test_a_browser_that_never_got_its_new_id_is_a_stranger(guard: SessionGuard, request_of: Requests) -> None:
    """Not one who is refused for as long as the session lives that it knows nothing of."""
    for how in ("regenerate", "clear"):
        sid = await made(guard, cart=["A"])
        async with request_of("POST", sid) as login:
            if how == "clear":
                login.mapping.clear()
            login.mapping["user_id"] = 7
            await login.finish()
        with Stored(_url(guard), sid) as stored:  # half a minute later
            for field in (b"#old", b"#destroyed"):
                was: Any = stored.client.hget(stored.keys.session, field)
                if was:
                    then = re.sub(rb"[0-9]{16}$", lambda found: b"%d" % (int(found[0]) - 30_000_000), was)
                    stored.client.hset(stored.keys.session, field, then)
        async with request_of("POST", sid) as again:
            again.mapping["user_id"] = 7
            await again.finish()
            assert again.answer.new_sid not in (None, sid)


async def test_learnt_routes_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    learnt = Learnt()
    for number in range(MOST + 10):
        learnt.add(f"GET /{number}")
    assert len(learnt) == MOST
    assert "GET /0" not in learnt
    assert f"GET /{MOST + 9}" in learnt
    learnt.add("GET /slow", took=30.0)
    assert "GET /slow" not in learnt, "holding the lock that long would hold up the visitor's other requests"
    monkeypatch.setattr("sessionlock.integrations.web.learning.FORGET_AFTER", -1.0)
    learnt.add("GET /old")
    assert "GET /old" not in learnt


# --- emptied is not ended


async def test_a_get_that_takes_the_last_message_leaves_the_cart(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, msg="hello")
    async with request_of("GET", sid) as get:
        get.mapping.pop("msg")
        async with request_of("POST", sid) as post:
            post.mapping["cart"] = ["A"]
            await post.finish()
        await get.finish()
        assert not get.answer.clears_cookie
    assert await data_of(guard, sid) == {"cart": ["A"]}


async def test_the_other_way_round_nothing_acknowledged_is_lost(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, msg="hello")
    async with request_of("POST", sid) as post:
        async with request_of("GET", sid) as get:
            get.mapping.pop("msg")
            await get.finish()
            assert not get.answer.clears_cookie
        post.mapping["cart"] = ["A"]
        await post.finish()
    assert await data_of(guard, sid) == {"cart": ["A"]}


async def test_nor_that_of_a_post_that_waits(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, msg="hello")
    elsewhere = contextvars.copy_context()  # what this request holds is not known to the other
    async with request_of("POST", sid) as first:
        waiting = elsewhere.run(asyncio.ensure_future, request_of("POST", sid).__aenter__())
        with Stored(_url(guard), sid) as stored:
            await stored.until(lambda stored: len(stored.waiting) == 1)
        first.mapping.pop("msg")
        await first.finish()
        assert not first.answer.clears_cookie
    second = await waiting
    second.mapping["cart"] = ["A"]
    await second.finish()
    await second.aclose()
    assert await data_of(guard, sid) == {"cart": ["A"]}


async def test_an_optimistic_one_begun_before_the_end_is_refused_aloud(
    guard: SessionGuard, request_of: Requests
) -> None:
    sid = await made(guard, msg="hello")
    late = request_of("GET", sid)
    async with late:
        late.mapping["seen"] = 1
        async with request_of("GET", sid) as get:
            get.mapping.pop("msg")
            await get.finish()
            assert get.answer.clears_cookie
        with pytest.raises(RunAgain):
            await late.finish()
    async with late.again() as again:
        again.mapping["seen"] = 1
        await again.finish()
        assert again.answer.new_sid not in (None, sid)
        assert await data_of(guard, again.session.sid) == {"seen": 1}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("engine", ["script", "watch"])
async def test_a_session_that_is_left_empty_ends(redis_url: str, rules: Rules, method: str, engine: Any) -> None:
    async with SessionGuard.from_url(redis_url, commit_by=engine) as guard:
        sid = await made(guard, a=1, b=2)
        async with Requests(guard, rules)(method, sid) as visit:
            for key in list(visit.mapping):
                del visit.mapping[key]
            await visit.finish()
            assert visit.answer.clears_cookie
        assert not (await guard.inspect(sid)).exists
        with pytest.raises(SessionNotFound):
            await guard.read(sid)


async def test_also_when_it_was_saved_in_between(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, a=1)
    async with request_of("POST", sid) as visit:
        del visit.mapping["a"]
        await visit.mapping.sessionlock.save()
        await finish_without_cookie(visit)
    assert not (await guard.inspect(sid)).exists


# --- clear(): a logout, or the first half of a login


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_clear_is_a_logout(guard: SessionGuard, request_of: Requests, method: str) -> None:
    """Also of what another request has put in meanwhile: it is gone, and stays gone."""
    sid = await made(guard, user_id=1)
    async with request_of(method, sid) as visit:
        visit.mapping.clear()
        async with guard.session_lock(sid, mode="optimistic") as other:
            other["cart"] = ["A"]
        await finish_without_cookie(visit)
    await assert_destroyed(guard, sid)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_clear_and_fill_is_a_login(guard: SessionGuard, request_of: Requests, method: str) -> None:
    sid = await made(guard, planted=True)
    async with request_of(method, sid) as visit:
        visit.mapping.clear()
        visit.mapping["user_id"] = 7
        async with guard.session_lock(sid, mode="optimistic") as other:
            other["of the attacker"] = True
        await visit.finish()
        new = visit.answer.new_sid
        assert new not in (None, sid)
    assert await data_of(guard, new) == {"user_id": 7}
    with pytest.raises(SessionNotFound) as caught:
        await guard.read(sid)
    assert caught.value.replaced


# --- who is logged in


@pytest.mark.parametrize("key", ["user_id", "_user_id", "user", "username"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_login_gives_a_new_id(guard: SessionGuard, request_of: Requests, method: str, key: str) -> None:
    planted = await made(guard, cart=["A"])
    async with request_of(method, planted) as visit:
        visit.mapping[key] = "ada"
        await visit.finish()
        new = visit.answer.new_sid
        assert new not in (None, planted)
    assert await data_of(guard, new) == {"cart": ["A"], key: "ada"}
    with pytest.raises(SessionNotFound):
        await guard.read(planted)


async def test_another_user_too_and_keys_by_choice_and_the_hook(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, user_id=1, member=1)
    async with request_of("POST", sid) as visit:
        visit.mapping["user_id"] = 1
        await visit.finish()
        assert not visit.answer.has_new_id, "it is the same user"
    async with request_of("POST", sid, identity=("member",)) as visit:
        visit.mapping["user_id"] = 2
        await visit.finish()
        assert not visit.answer.has_new_id
    async with request_of("POST", sid, identity=("member",)) as visit:
        visit.mapping["member"] = 2
        await visit.finish()
        assert visit.answer.has_new_id
        sid = visit.session.sid
    async with request_of("POST", sid) as visit:
        visit.identity_changed()
        await visit.finish()
        assert visit.answer.has_new_id


async def test_who_gave_a_new_id_himself_gets_no_other(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, cart=["A"])
    async with request_of("POST", sid) as visit:
        chosen = await visit.mapping.sessionlock.regenerate()
        visit.mapping["user_id"] = 7
        await visit.finish()
        assert visit.answer.new_sid == chosen


@pytest.mark.parametrize("how", ["regenerate", "clear"])
async def test_a_late_request_with_the_replaced_id_gets_no_cookie(
    guard: SessionGuard, request_of: Requests, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It would take the place of the new id's, and the user would be logged out again."""
    sid = await made(guard, cart=["A"])
    async with request_of("POST", sid) as login:
        if how == "clear":
            login.mapping.clear()
        login.mapping["user_id"] = 7
        await login.finish()
    async with request_of("GET", sid) as late:
        late.mapping["last_seen"] = 1
        await late.finish()
        assert late.answer.set_cookie is None
    assert "replaced" in caplog.text
    async with request_of("POST", sid) as late:
        late.mapping["cart"] = ["B"]
        with pytest.raises(SessionNotFound):
            await late.finish()
        assert late.answer.set_cookie is None


async def test_one_that_was_under_way_when_the_id_was_replaced(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, cart=["A"])
    async with request_of("GET", sid) as under_way:
        async with request_of("POST", sid) as login:
            login.mapping["user_id"] = 7
            await login.finish()
        under_way.mapping["last_seen"] = 1
        with pytest.raises(RunAgain):
            await under_way.finish()
        assert under_way.answer.set_cookie is None
    async with under_way.again() as again:
        again.mapping["last_seen"] = 1
        await again.finish()
        assert again.answer.set_cookie is None


async def test_a_second_login_by_an_id_that_has_been_replaced(guard: SessionGuard, request_of: Requests) -> None:
    """A double click: the first login counts, and its id stays; the other one is told to try again."""
    sid = await made(guard, user_id=1)
    async with request_of("POST", sid) as first:
        chosen = await first.mapping.sessionlock.regenerate()
        await first.finish()
    async with request_of("POST", sid) as second:
        second.mapping["user_id"] = 2
        with pytest.raises(SessionNotFound) as told:
            await second.finish()
        assert told.value.replaced
        assert second.answer.set_cookie is None
    assert await data_of(guard, chosen) == {"user_id": 1}


# --- ended meanwhile


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_was_changed_in_a_session_that_was_ended_is_refused(
    guard: SessionGuard, request_of: Requests, method: str
) -> None:
    sid = await made(guard, cart=[])
    async with request_of(method, sid) as visit:
        visit.mapping["cart"].append("A")
        await guard.destroy(sid)
        with pytest.raises(RunAgain if method == "GET" else SessionDestroyed):
            await visit.finish()
        assert visit.answer.clears_cookie


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_who_changed_nothing_keeps_the_answer(guard: SessionGuard, request_of: Requests, method: str) -> None:
    sid = await made(guard, cart=[])
    async with request_of(method, sid) as visit:
        assert visit.mapping["cart"] == []
        await guard.destroy(sid)
        await visit.finish()
        assert visit.answer.clears_cookie == (method == "POST"), "a GET does not look again"


# --- lifetimes


async def test_cookie_and_record_are_renewed_together(guard: SessionGuard, request_of: Requests) -> None:
    """By a safe request too, once less than half of the idle time is left."""
    sid = await made(guard, a=1)
    with Stored(_url(guard), sid) as stored:
        for left, renewed in ((10 * 86_400, False), (5 * 86_400, True)):
            aged(stored.client, stored.keys.session, left * 1000)
            async with request_of("GET", sid) as visit:
                await visit.finish()
                assert (visit.answer.new_sid is not None) == renewed
            assert stored.client.ttl(stored.keys.session) > (13 if renewed else 9) * 86_400


async def test_the_cookie_of_a_replaced_id_is_not_renewed(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, a=1)
    with Stored(_url(guard), sid) as stored:
        aged(stored.client, stored.keys.session, 100_000)
    async with request_of("GET", sid) as visit:
        await guard.regenerate(sid)
        await visit.finish()
        assert visit.answer.new_sid is None


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_life_of_its_own(guard: SessionGuard, request_of: Requests, method: str) -> None:
    for change in (False, True):
        sid = await made(guard, a=1)
        async with request_of(method, sid) as visit:
            if change:
                visit.mapping["a"] = 2
            await visit.finish(live=50)
            assert visit.answer.rolled
        with Stored(_url(guard), sid) as stored:
            assert 40 < stored.client.ttl(stored.keys.session) <= 50
    async with request_of(method, None) as visit:
        visit.mapping["a"] = 1
        await visit.finish(live=50)
    with Stored(_url(guard), visit.session.sid) as stored:
        assert 40 < stored.client.ttl(stored.keys.session) <= 50


async def test_lifetimes_other_than_the_guards(guard: SessionGuard, request_of: Requests) -> None:
    short = SessionPolicy(idle=60, absolute=30)
    async with request_of("POST", None, lifetime=short) as visit:
        visit.mapping["a"] = 1
        await visit.finish()
    with Stored(_url(guard), visit.session.sid) as stored:
        assert 20 < stored.client.ttl(stored.keys.session) <= 30


# --- a lease that is lost


@pytest.mark.slow
async def test_a_request_that_only_looks_is_not_ended_for_its_lease(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, a=1)
    ended: list[str] = []
    async with request_of("POST", sid, on_loss=lambda: ended.append("only looked")) as visit:
        assert visit.mapping["a"] == 1
        await _taken_away(guard, visit)
        await visit.finish()
    async with request_of("POST", sid, on_loss=lambda: ended.append("changed")) as visit:
        visit.mapping["a"] = 2
        await _taken_away(guard, visit)
        with pytest.raises(LeaseLost):
            await visit.finish()
    assert ended == ["changed"]
    assert await data_of(guard, sid) == {"a": 1}


async def _taken_away(guard: SessionGuard, visit: RequestSession) -> None:
    lease = visit.session.lease
    assert lease is not None
    assert await guard.force_release(visit.session.sid, lease.token)
    await asyncio.wait_for(lease.lost.wait(), 20)


# --- steps from threads, and steps that nobody awaited


async def finish_without_cookie(visit: Any) -> None:
    await visit.finish()
    assert visit.answer.clears_cookie


async def assert_destroyed(guard: SessionGuard, sid: str) -> None:
    with pytest.raises(SessionDestroyed):
        await guard.read(sid)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_destroy_and_regenerate_from_a_thread(guard: SessionGuard, request_of: Requests, method: str) -> None:
    sid = await made(guard, a=1)
    async with request_of(method, sid) as visit:
        new = await asyncio.to_thread(lambda: visit.mapping.sessionlock.regenerate())
        assert new == visit.session.sid != sid
        assert await asyncio.to_thread(lambda: visit.mapping.sessionlock.incr("a")) == 2
        await asyncio.to_thread(lambda: visit.mapping.sessionlock.destroy())
        await finish_without_cookie(visit)
    with pytest.raises(SessionNotFound):
        await guard.read(new)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_logout_that_nobody_awaited_takes_place(guard: SessionGuard, request_of: Requests, method: str) -> None:
    sid = await made(guard, a=1)
    async with request_of(method, sid) as visit:
        visit.mapping.sessionlock.destroy()
        await finish_without_cookie(visit)
    await assert_destroyed(guard, sid)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_goodbye_after_the_end(guard: SessionGuard, request_of: Requests, method: str) -> None:
    """It begins a session of its own; ending twice, or clearing what has ended, does no harm."""
    sid = await made(guard, user_id=1)
    async with request_of(method, sid) as visit:
        await visit.mapping.sessionlock.destroy()
        await visit.mapping.sessionlock.destroy()
        visit.mapping.clear()
        assert visit.mapping == {}
        visit.mapping["msg"] = "bye"
        await visit.finish()
        assert visit.answer.new_sid not in (None, sid)
    assert await data_of(guard, visit.session.sid) == {"msg": "bye"}
    async with request_of(method, visit.session.sid) as visit:
        await visit.mapping.sessionlock.destroy()
        visit.mapping.clear()
        await finish_without_cookie(visit)
    await assert_destroyed(guard, sid)


async def test_released_and_then_destroyed(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, user_id=1)
    async with request_of("POST", sid) as visit:
        await visit.mapping.sessionlock.release()
        await visit.mapping.sessionlock.destroy()
        await finish_without_cookie(visit)
    await assert_destroyed(guard, sid)


@pytest.mark.parametrize("how", ["release", "save", "regenerate before", "regenerate after"])
async def test_a_login_that_the_handler_stores_by_itself(guard: SessionGuard, request_of: Requests, how: str) -> None:
    """The planted id is dead as soon as the login stands in the store, whatever grace was said."""
    planted = await made(guard, cart=["A"])
    async with request_of("POST", planted) as visit:
        session = visit.mapping.sessionlock
        if how == "regenerate before":
            await session.regenerate()
        visit.mapping["user_id"] = 7
        if how == "regenerate after":
            await session.regenerate()
        elif how in ("release", "save"):
            await getattr(session, how)()
            with pytest.raises(SessionNotFound):
                await guard.read(planted)
        await visit.finish()
        assert visit.answer.has_new_id
    with pytest.raises(SessionNotFound):
        await guard.read(planted)
    assert (await data_of(guard, visit.session.sid))["user_id"] == 7


async def test_no_older_id_outlives_a_shorter_grace(guard: SessionGuard) -> None:
    oldest = await made(guard, a=1)
    older = await guard.regenerate(oldest, grace=30)
    newest = await guard.regenerate(older, grace=0)
    for sid in (oldest, older):
        with pytest.raises(SessionNotFound):
            await guard.read(sid)
    assert (await guard.read(newest))["a"] == 1


# --- a dict


async def test_it_is_a_dict_for_all_who_take_one(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, name="Ada", cart=["A"], n=1)
    want = {"name": "Ada", "cart": ["A"], "n": 1}
    async with request_of("POST", sid) as visit:
        session = visit.mapping
        assert isinstance(session, dict)
        assert json.loads(json.dumps(session)) == json.loads(json.dumps(session, indent=1)) == want
        assert json.loads(orjson.dumps(session)) == want
        assert {**session} == dict(session) == session.copy() == copy.copy(session) == copy.deepcopy(session) == want
        assert session == want
        assert want == session
        assert session != {}
        assert pickle.loads(pickle.dumps(session)) == want
        assert session | {"x": 1} == {**want, "x": 1}
        assert {"x": 1} | session == {**want, "x": 1}
        assert type(copy.deepcopy(session)) is type(session | {}) is dict
        assert sorted(session) == sorted(reversed(session)) == sorted(want)
        assert sorted(session.items()) == sorted(want.items())
        assert len(session) == 3
        session |= {"theme": "dark"}
        session.update({"a": 1}, b=2)
        assert session.setdefault("c", 3) == 3
        assert session.pop("a") == 1
        assert session.pop("a", None) is None
        with pytest.raises(KeyError):
            session.pop("a")
        assert session.popitem() == ("c", 3)
        copy.deepcopy(session)["cart"].append("not ours")
        session["cart"].append("B")
        await visit.finish()
    assert await data_of(guard, sid) == {"name": "Ada", "cart": ["A", "B"], "n": 1, "theme": "dark", "b": 2}


async def test_its_names_are_the_users(guard: SessionGuard, request_of: Requests) -> None:
    ours = {name for name in dir(WebSession) if not name.startswith("_")} - set(dir(dict))
    assert ours == {"sessionlock"}
    sid = await made(guard, a=1)
    async with request_of("POST", sid) as visit:
        for name in ("name", "sid", "lease", "version", "saved", "new", "modified", "regenerate", "destroy"):
            with pytest.raises(AttributeError, match=f"session.sessionlock.{name}"):
                getattr(visit.mapping, name)
        await visit.finish()


async def test_values_read_by_c_code_are_no_reads(guard: SessionGuard, request_of: Requests) -> None:
    """Nor does showing them: equal values assigned by two requests still agree."""
    sid = await made(guard, theme="light")
    async with request_of("POST", sid) as visit:
        visit.mapping["theme"] = "dark"
        await guard.transaction(sid, lambda other: other.__setitem__("theme", "dark"))
        await visit.finish()
    assert await data_of(guard, sid) == {"theme": "dark"}


async def test_an_object_that_the_application_holds_is_watched(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, cart=[], other=[])
    async with request_of("POST", sid) as visit:
        mine: list[str] = []
        visit.mapping["mine"] = mine
        await visit.mapping.sessionlock.save()
        mine.append("late")
        for value in visit.mapping.values():
            if isinstance(value, list):
                value.append("all")
        await visit.finish()
    assert await data_of(guard, sid) == {"cart": ["all"], "other": ["all"], "mine": ["late", "all"]}


async def test_after_the_answer_began_nothing_raises(
    guard: SessionGuard, request_of: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    sid = await made(guard, a=1)
    async with request_of("POST", sid) as visit:
        await visit.finish()
        with caplog.at_level(logging.WARNING):
            visit.mapping["csrf"] = "x"
            visit.mapping.pop("a")
            visit.mapping.setdefault("b", [])
        assert visit.mapping == {"csrf": "x", "b": []}
        assert len(caplog.records) == 1, "once for each request"
        assert "'csrf'" in caplog.text
        assert sid not in caplog.text
    assert await data_of(guard, sid) == {"a": 1}


async def test_for_reading_only_a_change_is_an_error(guard: SessionGuard, request_of: Requests) -> None:
    sid = await made(guard, a=1)
    async with request_of("GET", sid, RoutePolicy("read")) as visit:
        with pytest.raises(ReadOnlySession):
            visit.mapping["a"] = 2
        assert visit.mapping == {"a": 1}
        await visit.finish()


async def test_a_value_that_cannot_be_read_is_an_error_where_it_is_read(
    guard: SessionGuard, request_of: Requests
) -> None:
    sid = await made(guard, a=1)
    with Stored(_url(guard), sid) as stored:
        stored.client.hset(stored.keys.session, "broken", "{")
    async with request_of("POST", sid) as visit:
        visit.mapping["a"] += 1
        with pytest.raises(CodecError):
            visit.mapping["broken"]
        await visit.finish()


# --- values


class Colour(str, enum.Enum):
    RED = "red"


class Token(dict[str, Any]):
    pass


TAKEN = [
    ({1: "a", None: "b"}, {"1": "a", "null": "b"}),
    (Token(a=1), {"a": 1}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (Colour.RED, "red"),
    ([Colour.RED], ["red"]),
    ((1, 2), (1, 2)),  # which JSON would not keep, and the core does
]


@pytest.mark.parametrize(("value", "back"), TAKEN)
@pytest.mark.parametrize("sealed", [False, True])
async def test_what_the_framework_takes_is_taken(value: Any, back: Any, sealed: bool) -> None:
    inner = FernetCodec(default_codec(), [Fernet.generate_key()]) if sealed else default_codec()
    codec = for_framework(inner, json.dumps, json.loads)
    assert codec.decode("k", codec.encode("k", value)) == back
    assert type(codec.decode("k", codec.encode("k", value))) is type(back)


async def test_not_a_number() -> None:
    codec = for_framework(default_codec(), json.dumps, json.loads)
    back: Any = codec.decode("k", codec.encode("k", [float("nan"), float("inf")]))
    assert back[0] != back[0]
    assert back[1] == float("inf")


async def test_what_the_framework_refuses_is_refused() -> None:
    codec = for_framework(default_codec(), json.dumps, json.loads)
    with pytest.raises(CodecError) as caught:
        codec.encode("k", object())
    assert isinstance(caught.value.__cause__, TypeError)


def _url(guard: SessionGuard) -> str:
    pool = guard._client.connection_pool
    return f"unix://{pool.connection_kwargs['path']}"


# --- a login that no list of keys knows


@pytest.mark.parametrize(
    "key",
    [
        "_logged_in_user",
        "github_oauth_token",
        "id_token",
        "userinfo",
        "DISCORD_USER_ID",
        "token",
        "logged_in",
        "samlNameId",
        "email",
        "admin",
        "current_user",
        "customer_id",
        "access_token",
        "profile",
        "userId",
        "member",
        "_auth0_session",
        "keycloak_token",
        "CAS_USERNAME",
        "principal",
        "signed_in",
        "isLoggedIn",
        "loginId",
    ],
)
async def test_a_login_by_a_key_that_looks_like_one(guard: SessionGuard, request_of: Requests, key: str) -> None:
    planted = await made(guard, cart=["A"], theme="dark")
    async with request_of("POST", planted) as visit:
        visit.mapping[key] = {"sub": "ada"}
        await visit.finish()
        assert visit.answer.has_new_id
    with pytest.raises(SessionNotFound):
        await guard.read(planted)


@pytest.mark.parametrize(
    "key",
    [
        "csrf_token",
        "_csrf_token",
        "csrftoken",
        "oauth_state",
        "_state_github_abc",
        "oidc_nonce",
        "login_next",
        "cart",
        "user_agent",
        "authors",
        "login_attempts",
        "code_verifier",
        "_flashes",
        "theme",
        "auth_redirect",
        "last_login_at",
    ],
)
async def test_what_is_none_keeps_the_id(guard: SessionGuard, request_of: Requests, key: str) -> None:
    sid = await made(guard, theme="dark")
    async with request_of("POST", sid) as visit:
        visit.mapping[key] = ["x"]
        await visit.finish()
        assert not visit.answer.has_new_id


async def test_a_guess_is_made_once_and_leaves_requests_in_flight_their_time(
    guard: SessionGuard, request_of: Requests
) -> None:
    sid = await made(guard, user_id=1, email="a@b.c")
    async with request_of("POST", sid) as visit:
        visit.mapping["email"] = "new@b.c"
        await visit.finish()
        assert not visit.answer.has_new_id, "it is known who is logged in: that is the same user"
    async with request_of("POST", sid) as visit:
        visit.mapping["logged_in"] = False
        await visit.finish()
        assert not visit.answer.has_new_id
    async with request_of("POST", sid) as visit:
        visit.mapping["logged_in"] = True
        await visit.finish()
        assert visit.answer.has_new_id
    assert (await guard.read(sid))["user_id"] == 1, "in flight"
