"""New ids, destruction, the sessions of a user, several sessions at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from sessionlock import LeasePolicy, SessionGuard, SessionPolicy
from sessionlock.errors import (
    ConfigurationError,
    InvalidSessionId,
    LeaseLost,
    LockNotAcquired,
    ReadOnlySession,
    RedisUnavailable,
    ReentrantLock,
    SessionConflict,
    SessionDestroyed,
    SessionNotFound,
    WaitTimedOut,
)
from sessionlock.protocol.keys import keys_for, renewed_sid, user_digest, user_key
from sessionlock.protocol.record_calls import Regenerate
from tests.harness.commands import connect, keys_without_ttl
from tests.harness.deployments import MakeGuard
from tests.harness.intruders import Intruder
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look
from tests.session import MODES

pytestmark = pytest.mark.anyio

MERGING = SessionPolicy(merge={"n": "counter", "who": "append"})


async def opens(guard: SessionGuard, sid: str) -> bool:
    """Whether this id opens an existing session, in every mode alike."""
    answers = set()
    modes: tuple[Any, ...] = ("lock", "read", "optimistic", "last_write_wins")
    for mode in modes:
        try:
            async with guard.session_lock(sid, mode=mode, missing="reject"):
                answers.add(True)
        except SessionNotFound:
            answers.add(False)
    assert len(answers) == 1, "the modes do not agree"
    return answers.pop()


async def readable(guard: SessionGuard, sid: str) -> bool:
    try:
        await guard.read(sid)
    except SessionNotFound:
        return False
    return True


async def until_dead(guard: SessionGuard, sid: str, within: float = 5.0) -> None:
    with anyio.fail_after(within):
        while await readable(guard, sid):
            await asyncio.sleep(0.005)
    assert not await opens(guard, sid)


# --- regenerate


async def test_the_new_id_works_and_the_old_one_in_its_grace(node: MakeGuard, redis_url: str) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="old")
    new = await guard.regenerate("old")
    assert new != "old"
    assert "old" not in new
    assert dict(await guard.read(new)) == dict(await guard.read("old")) == {"a": 1}
    async with guard.session_lock(new) as session:
        session["b"] = 1
    async with guard.session_lock("old") as session:
        session["c"] = 1
    assert dict(await guard.read(new)) == {"a": 1, "b": 1, "c": 1}
    assert keys_without_ttl(redis_url) == []


async def test_the_old_id_is_dead_after_its_grace(node: MakeGuard) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="old")
    new = await guard.regenerate("old", grace=0.1)
    assert await opens(guard, "old")
    await until_dead(guard, "old")
    assert await opens(guard, new)
    assert dict(await guard.read(new)) == {"a": 1}


@pytest.mark.parametrize("engine", ["script", "watch"])
@MODES
async def test_a_dead_id_is_refused_also_where_a_new_one_would_begin_a_session(
    node: MakeGuard, stored: Look, mode: Any, engine: Any
) -> None:
    """``missing="create"`` is for ids without a record; a dead id has one, and must not look like a new visitor's."""
    guard = node(commit_by=engine)
    await guard.create({"a": 1}, sid="old")
    new = await guard.regenerate("old", grace=0)
    before = stored("old").data
    with pytest.raises(SessionNotFound):
        async with guard.session_lock("old", mode=mode, missing="create"):
            raise AssertionError("entered")
    assert stored("old").data == before
    assert await opens(guard, new)


@MODES
async def test_regenerate_inside_a_block(node: MakeGuard, mode: Any) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="old")
    async with guard.session_lock("old", mode=mode) as session:
        session["before"] = 1
        new = await session.regenerate(grace=0)
        assert session.sid == new
        assert dict(session) == {"a": 1, "before": 1}
        session["after"] = 1
    assert not await opens(guard, "old")
    assert dict(await guard.read(new)) == {"a": 1, "before": 1, "after": 1}


async def test_regenerate_a_new_session_at_its_first_request(node: MakeGuard) -> None:
    """A login on the very first request."""
    guard = node()
    async with guard.session_lock("old") as session:
        new = await session.regenerate(grace=0)
        session["user"] = 1
    assert dict(await guard.read(new)) == {"user": 1}
    assert not await opens(guard, "old")


async def test_regenerate_twice(node: MakeGuard) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="first")
    second = await guard.regenerate("first", grace=30)
    third = await guard.regenerate(second, grace=0)
    assert not await opens(guard, "first"), (
        "none outlives the grace that was given last: who logs out everywhere means it"
    )
    assert not await opens(guard, second)
    assert await opens(guard, third)
    assert len({"first", second, third}) == 3


async def test_regenerate_twice_in_one_block(node: MakeGuard) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="first")
    async with guard.session_lock("first") as session:
        second = await session.regenerate(grace=0)
        third = await session.regenerate(grace=0)
        session["b"] = 1
    assert not await opens(guard, "first")
    assert not await opens(guard, second)
    assert dict(await guard.read(third)) == {"a": 1, "b": 1}


async def test_regenerate_by_the_old_id_in_its_grace(node: MakeGuard) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="first")
    second = await guard.regenerate("first", grace=30)
    with pytest.raises(SessionNotFound):  # who stole it would get a lasting id for it, and the owner's would die
        await guard.regenerate("first", grace=30)
    for sid in ("first", second):
        assert dict(await guard.read(sid)) == {"a": 1}


async def test_regenerate_by_an_id_that_is_dead(node: MakeGuard) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="first")
    second = await guard.regenerate("first", grace=0)
    with pytest.raises(SessionNotFound):
        await guard.regenerate("first")
    assert await opens(guard, second)


async def test_no_session_to_regenerate(node: MakeGuard, stored: Look) -> None:
    guard = node()
    with pytest.raises(SessionNotFound):
        await guard.regenerate("s")
    await guard.destroy("s")
    with pytest.raises(SessionDestroyed):
        await guard.regenerate("s")


@pytest.mark.parametrize("grace", [-1, 86_401, float("nan"), float("inf")])
async def test_an_impossible_grace(node: MakeGuard, grace: float) -> None:
    guard = node()
    await guard.create({}, sid="s")
    with pytest.raises(ConfigurationError):
        await guard.regenerate("s", grace=grace)


async def test_a_regenerate_whose_reply_is_lost(proxy: FaultyProxy, node: MakeGuard) -> None:
    guard = node(proxy.url)
    await guard.create({"a": 1}, sid="old")
    fault = proxy.drop_next_reply(calls_of("regenerate"))
    new = await guard.regenerate("old", grace=0)
    assert fault.count == 1
    assert await opens(guard, new)
    assert not await opens(guard, "old")


async def test_a_regenerate_that_arrives_once_more_and_late(node: MakeGuard) -> None:
    """A delayed duplicate must not bring an earlier id back in the place of the latest."""
    guard = node()
    await guard.create({"a": 1}, sid="first")
    keys = keys_for("sl", "first")
    second = renewed_sid(keys)
    call = Regenerate(keys, keys_for("sl", second).proof, 30_000, None)
    assert await guard.runtime().executor.run(call) is None
    third = await guard.regenerate(second, grace=0.2)
    await guard.runtime().executor.run(call)
    await until_dead(guard, second)
    assert await opens(guard, third), "the latest id must live"


async def test_regenerate_under_a_lock_that_was_lost(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="old")
    with pytest.raises(LeaseLost):
        async with guard.session_lock("old", lease=LeasePolicy(on_lost="flag")) as session:
            stored("old").client.delete(keys_for("sl", "old").lock)
            await session.regenerate()
    assert await opens(guard, "old")


async def test_regenerate_races_three_requests(node: MakeGuard) -> None:
    """None is lost, and the old id is dead after its grace."""
    guards = [node(session=MERGING), node(session=MERGING), node(session=MERGING, commit_by="watch")]
    await guards[0].create({"n": 0, "who": []}, sid="old")
    entered = asyncio.Event()

    async def login() -> str:
        async with guards[0].session_lock("old") as session:
            entered.set()
            while len((await guards[0].inspect("old")).waiters) < 2:
                await asyncio.sleep(0.002)
            new = await session.regenerate(grace=5)
            session["user"] = 1
        return new

    async def locked(name: str, guard: SessionGuard) -> None:
        await entered.wait()
        async with guard.session_lock("old", wait=10) as session:
            session["n"] += 1
            session["who"].append(name)

    async def optimistic(name: str, guard: SessionGuard) -> None:
        await entered.wait()
        async with guard.session_lock("old", mode="optimistic") as session:
            session["n"] += 1
            session["who"].append(name)

    new, *_ = await asyncio.gather(
        login(), locked("b", guards[1]), locked("c", guards[2]), optimistic("d", guards[2]), optimistic("e", guards[1])
    )
    session = await guards[0].read(new)
    assert session["user"] == 1
    assert session["n"] == 4
    assert sorted(session["who"]) == ["b", "c", "d", "e"]
    await guards[0].regenerate(new, grace=0)
    assert not await opens(guards[0], new)


async def waiting(guard: SessionGuard, sid: str, count: int = 1) -> None:
    with anyio.fail_after(10):
        while len((await guard.inspect(sid)).waiters) < count:
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("size", [1, 100_000], ids=["pushed", "too large to be pushed"])
@pytest.mark.parametrize("grace", [0, 0.05])
async def test_a_waiter_under_an_old_id_whose_grace_is_over(
    node: MakeGuard, stored: Look, grace: float, size: int
) -> None:
    """Session fixation: the intruder knows the id from before the login and waits in the queue during it. With his turn
    comes no session, and the lock goes on."""
    guard, other = node(), node()
    await guard.create({"big": "x" * size}, sid="old")
    async with guard.session_lock("old") as session:
        intruder = Intruder(other, "old")
        await waiting(guard, "old")
        new = await session.regenerate(grace=grace)
        session["secret"] = 1
        await session.save()
        if grace:
            with anyio.fail_after(5):
                while await readable(guard, "old"):
                    await asyncio.sleep(0.005)
    with pytest.raises(SessionNotFound):
        await intruder.task
    assert intruder.saw == []
    async with guard.session_lock(new, wait=1) as session:
        assert session["secret"] == 1
    assert stored(new).free


async def test_a_waiter_under_the_old_id_within_its_grace(node: MakeGuard) -> None:
    guard, other = node(), node()
    await guard.create({"n": 0}, sid="old")

    async def wait() -> None:
        async with other.session_lock("old", wait=10) as session:
            session["n"] += 1

    async with guard.session_lock("old") as session:
        task = asyncio.ensure_future(wait())
        await waiting(guard, "old")
        new = await session.regenerate(grace=30)
        session["n"] += 1
    await task
    assert dict(await guard.read(new)) == {"n": 2}


# --- ids that nobody gave out


@pytest.mark.parametrize("missing", ["create", "reject"])
@pytest.mark.parametrize("mode", ["lock", "read", "optimistic", "last_write_wins"])
async def test_a_forged_id_of_an_existing_session(node: MakeGuard, stored: Look, mode: Any, missing: Any) -> None:
    """The record's name is no secret; without the secret part it opens nothing and changes nothing."""
    guard = node()
    await guard.create({"a": 1}, sid="s")
    keys = keys_for("sl", "s")
    before = stored("s").client.hgetall(keys.session)
    with pytest.raises(SessionNotFound):
        async with guard.session_lock(renewed_sid(keys), mode=mode, missing=missing):
            raise AssertionError("entered")
    assert not await guard.destroy(renewed_sid(keys))
    with pytest.raises(SessionNotFound):
        await guard.incr(renewed_sid(keys), "a")
    with pytest.raises(SessionNotFound):
        await guard.regenerate(renewed_sid(keys))
    with pytest.raises(SessionNotFound):
        await guard.bind(renewed_sid(keys), "somebody")
    assert stored("s").client.hgetall(keys.session) == before
    assert stored("s").free


async def test_a_forged_id_of_a_regenerated_session(node: MakeGuard) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="s")
    new = await guard.regenerate("s", grace=0)
    forged = renewed_sid(keys_for("sl", "s"))
    assert not await opens(guard, forged)
    assert await opens(guard, new)
    changed = new[:-1] + ("a" if new[-1] != "a" else "b")
    assert not await opens(guard, changed)


@pytest.mark.parametrize("mode", ["lock", "optimistic"])
async def test_a_forged_id_while_the_session_comes_to_be(node: MakeGuard, mode: Any) -> None:
    """The owner's first request runs; a forged id of the same record must neither take it over nor lock him out."""
    guard, intruder = node(), node()
    forged = renewed_sid(keys_for("sl", "s"))
    saw: list[Any] = []

    async def intrude() -> None:
        async with intruder.session_lock(forged, mode=mode, wait=10) as session:
            saw.append(dict(session))

    async with guard.session_lock("s") as session:
        session["secret"] = 1
        task = asyncio.ensure_future(intrude())
        with anyio.move_on_after(0.3):
            await waiting(guard, "s")
    await asyncio.gather(task, return_exceptions=True)
    assert {"secret": 1} not in saw
    assert dict(await guard.read("s")) == {"secret": 1}


async def test_an_id_in_the_shape_of_ours_that_is_none(node: MakeGuard) -> None:
    """It is an id like any other."""
    guard = node()
    for sid in (
        "sl",
        f"sl{'a' * 37}",
        f"sl{'a' * 39}",
        f"sl{'a' * 37}A",
        f"sL{'a' * 38}",
        f"sl{'a' * 37}-",
        f"{'a' * 40}",
    ):
        await guard.create({"a": 1}, sid=sid)
        assert await opens(guard, sid)


async def test_create_under_an_id_that_regenerate_gave_out(node: MakeGuard, stored: Look) -> None:
    """Such an id names one record and cannot begin another."""
    guard = node()
    await guard.create({"a": 1}, sid="s")
    new = await guard.regenerate("s", grace=0)
    stored("s").client.delete(keys_for("sl", "s").session)
    with pytest.raises(InvalidSessionId):
        await guard.create({"a": 2}, sid=new)
    assert not stored("s").client.exists(keys_for("sl", "s").session)


@MODES
@pytest.mark.parametrize("engine", ["script", "watch"])
async def test_a_returning_visitor_whose_regenerated_session_expired(
    node: MakeGuard, stored: Look, mode: Any, engine: Any
) -> None:
    """An id that regenerate() once gave out never begins a session; the visitor gets a fresh id. Nothing is written
    under the old record's name, so its first id, which somebody else may know, is not given new life either."""
    guard = node(commit_by=engine)
    await guard.create({"a": 1}, sid="s")
    new = await guard.regenerate("s", grace=30)
    stored("s").client.delete(keys_for("sl", "s").session)
    with pytest.raises(SessionNotFound):
        async with guard.session_lock(new, mode=mode, missing="create") as session:
            session["b"] = 1
    assert not stored("s").client.exists(keys_for("sl", "s").session)
    assert stored("s").free


# --- destroy


async def test_destroy(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="s")
    assert await guard.destroy("s")
    assert not await opens(guard, "s")
    assert stored("s").data == {}
    assert 0 < stored("s").client.pttl(stored("s").keys.session) <= 300_000
    with pytest.raises(SessionConflict):
        await guard.create({}, sid="s")


async def test_destroy_by_the_new_or_the_old_id(node: MakeGuard) -> None:
    guard = node()
    for grace, by, expected in ((30, "new", True), (30, "old", True), (0, "old", False)):
        sid = f"{grace}{by}"
        await guard.create({"a": 1}, sid=sid)
        new = await guard.regenerate(sid, grace=grace)
        assert await guard.destroy(new if by == "new" else sid) is expected
        assert await opens(guard, new) is not expected


async def test_destroyed_under_every_id(node: MakeGuard) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="s")
    new = await guard.regenerate("s", grace=30)
    await guard.destroy(new)
    for sid in ("s", new):
        with pytest.raises(SessionDestroyed):
            await guard.read(sid)


@MODES
async def test_destroy_inside_a_block(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="s")
    async with guard.session_lock("s", mode=mode) as session:
        session["b"] = 1
        await session.destroy()
        with pytest.raises(ReadOnlySession, match="destroyed"):
            session["c"] = 1
    assert stored("s").data == {}
    assert stored("s").free
    assert not await opens(guard, "s")


Slow = Callable[[SessionGuard, Callable[[], Awaitable[None]]], Awaitable[None]]


def slow_block(**options: Any) -> Slow:
    async def run(guard: SessionGuard, logout: Callable[[], Awaitable[None]]) -> None:
        async with guard.session_lock("s", **options) as session:
            session["late"] = 1
            if options.get("session"):
                await session.save()
            await logout()
            session["later"] = 1

    return run


async def slow_transaction(guard: SessionGuard, logout: Callable[[], Awaitable[None]]) -> None:
    async def change(session: Any) -> None:
        session["late"] = 1
        await logout()

    await guard.transaction("s", change)


async def slow_incr(guard: SessionGuard, logout: Callable[[], Awaitable[None]]) -> None:
    async with guard.session_lock("s", mode="optimistic") as session:
        await logout()
        await session.incr("n")


async def slow_regenerate(guard: SessionGuard, logout: Callable[[], Awaitable[None]]) -> None:
    async with guard.session_lock("s") as session:
        await logout()
        await session.regenerate()


async def slow_error(guard: SessionGuard, logout: Callable[[], Awaitable[None]]) -> None:
    async with guard.session_lock("s", save_on_error=True) as session:
        session["late"] = 1
        await logout()
        raise SessionDestroyed("the body's own")


LWW = SessionPolicy(merge={"*": "last_write_wins"})
SLOW: dict[str, Slow] = {
    "lock": slow_block(),
    "lock, immediate": slow_block(session=SessionPolicy(save="immediate")),
    "lock, last_write_wins": slow_block(session=LWW),
    "optimistic": slow_block(mode="optimistic"),
    "last_write_wins": slow_block(mode="last_write_wins", session=LWW),
    "transaction": slow_transaction,
    "incr": slow_incr,
    "regenerate": slow_regenerate,
    "save_on_error": slow_error,
}


@pytest.mark.parametrize("engine", ["script", "watch"])
@pytest.mark.parametrize("slow", SLOW)
@pytest.mark.parametrize("how", ["destroy", "session.destroy", "destroy_all"])
async def test_logged_out_stays_logged_out(node: MakeGuard, stored: Look, slow: str, engine: Any, how: str) -> None:
    """Logout races a slow save: whatever the mode, the save does not bring the session back, and is told."""
    guard, other = node(commit_by=engine), node(commit_by=engine)
    await guard.create({"user": 1, "n": 1}, sid="s")
    await guard.bind("s", "user")

    async def logout() -> None:
        if how == "destroy":
            assert await other.destroy("s")
        elif how == "destroy_all":
            assert await other.destroy_all("user") == 1
        else:
            async with other.session_lock("s", mode="optimistic") as session:
                await session.destroy()

    with pytest.raises(SessionDestroyed):
        await SLOW[slow](guard, logout)
    assert stored("s").data == {}
    assert stored("s").free
    assert not await opens(guard, "s")


async def test_waiters_are_told_of_the_logout(node: MakeGuard) -> None:
    guard, other = node(), node()
    await guard.create({"user": 1}, sid="s")

    async def wait() -> None:
        async with other.session_lock("s", wait=10):
            raise AssertionError("entered")

    with pytest.raises(SessionDestroyed):
        async with guard.session_lock("s"):
            tasks = [asyncio.ensure_future(wait()) for _ in range(3)]
            await waiting(guard, "s", 3)
            await guard.destroy("s")
            for task in tasks:
                with pytest.raises(SessionDestroyed), anyio.fail_after(1):
                    await task


async def test_a_holder_that_changed_nothing_learns_of_the_logout(node: MakeGuard) -> None:
    """Its answer was made from a session that is no more."""
    guard = node()
    await guard.create({"user": 1}, sid="s")
    with pytest.raises(SessionDestroyed):
        async with guard.session_lock("s"):
            await guard.destroy("s")


# --- a user's sessions


async def test_the_sessions_of_a_user(node: MakeGuard, redis_url: str) -> None:
    guard = node()
    for sid in ("a", "b", "c", "other"):
        await guard.create({}, sid=sid)
        await guard.bind(sid, "somebody" if sid == "other" else "user")
    names = {keys_for("sl", sid).digest for sid in ("a", "b", "c")}
    assert {info.name for info in await guard.sessions_of("user")} == names
    assert all(info.exists for info in await guard.sessions_of("user"))
    assert await guard.sessions_of("nobody") == []
    assert keys_without_ttl(redis_url) == []
    with connect(redis_url) as client:
        assert not any(b"somebody" in key or b"user1" in key for key in client.scan_iter())


async def test_log_out_everywhere_but_here(node: MakeGuard) -> None:
    guard = node()
    for sid in ("a", "b", "c"):
        await guard.create({}, sid=sid)
        await guard.bind(sid, "user")
    here = await guard.regenerate("a", grace=0)
    assert await guard.destroy_all("user", keep=here) == 2
    assert await opens(guard, here)
    assert not await opens(guard, "b")
    assert [info.name for info in await guard.sessions_of("user")] == [keys_for("sl", "a").digest]
    assert await guard.destroy_all("user") == 1
    assert await guard.destroy_all("user") == 0
    assert not await opens(guard, here)
    assert await guard.sessions_of("user") == []


async def test_bind_anew_and_unbind(node: MakeGuard) -> None:
    guard = node()
    await guard.create({}, sid="s")
    await guard.bind("s", "one")
    await guard.bind("s", "one")
    assert len(await guard.sessions_of("one")) == 1
    await guard.bind("s", "two")
    assert await guard.sessions_of("one") == []
    assert len(await guard.sessions_of("two")) == 1
    await guard.bind("s", "")
    assert await guard.sessions_of("two") == []
    assert await guard.destroy_all("two") == 0
    assert await opens(guard, "s")


async def test_bind_what_is_not_there(node: MakeGuard) -> None:
    guard = node()
    with pytest.raises(SessionNotFound):
        await guard.bind("s", "user")
    await guard.destroy("s")
    with pytest.raises(SessionDestroyed):
        await guard.bind("s", "user")
    assert await guard.sessions_of("user") == []


@pytest.fixture
async def indexed(node: MakeGuard) -> SessionGuard:
    guard = node()
    for sid in ("a", "b"):
        await guard.create({}, sid=sid)
        await guard.bind(sid, "user")
    return guard


INDEX = user_key("sl", user_digest("user"))


async def test_entries_of_sessions_that_are_gone(indexed: SessionGuard, stored: Look) -> None:
    stored("a").client.delete(keys_for("sl", "a").session)
    assert [info.name for info in await indexed.sessions_of("user")] == [keys_for("sl", "b").digest]
    assert stored("a").client.zcard(INDEX) == 1, "taken out on the way"
    await indexed.destroy("b")
    assert await indexed.sessions_of("user") == []
    assert not stored("a").client.exists(INDEX)


async def test_entries_of_sessions_that_have_expired(indexed: SessionGuard, stored: Look) -> None:
    """Nobody reads the index: with each new session it loses old ones that are gone, and none that lives."""
    client, old = stored("a").client, [f"{n:014d}" for n in range(20)]
    names = [keys_for("sl", sid).digest for sid in ("a", "b")]
    client.zadd(INDEX, dict.fromkeys([*old, *names], 1.0))
    for number in range(11):
        await indexed.create({}, sid=f"new {number}")
        await indexed.bind(f"new {number}", "user")
    assert client.zcard(INDEX) == 2 + 11
    assert len(await indexed.sessions_of("user")) == 2 + 11


async def test_an_index_that_was_deleted_is_repaired(indexed: SessionGuard, stored: Look) -> None:
    stored("a").client.delete(INDEX)
    assert await indexed.sessions_of("user") == []
    assert await indexed.repair_index() == 2
    assert len(await indexed.sessions_of("user")) == 2
    assert stored("a").client.pttl(INDEX) > 0
    assert await indexed.destroy_all("user") == 2


@pytest.mark.parametrize("garbage", [b"garbage", b"", b"\xff\xfe", b"}:session", b"a b", b"x" * 10_000])
async def test_an_index_with_garbage_in_it(indexed: SessionGuard, stored: Look, garbage: bytes) -> None:
    stored("a").client.zadd(INDEX, {garbage: 0})
    stored("a").client.zadd(INDEX, {keys_for("sl", "stranger").digest: 0})
    assert len(await indexed.sessions_of("user")) == 2
    assert stored("a").client.zcard(INDEX) == 2
    assert await indexed.destroy_all("user") == 2


async def test_an_index_names_a_session_of_somebody_else(indexed: SessionGuard, stored: Look) -> None:
    """The record says whose it is, the index does not."""
    await indexed.create({}, sid="theirs")
    await indexed.bind("theirs", "somebody")
    stored("a").client.zadd(INDEX, {keys_for("sl", "theirs").digest: 0})
    assert await indexed.destroy_all("user") == 2
    assert await opens(indexed, "theirs")


async def test_an_index_that_is_no_index(indexed: SessionGuard, stored: Look) -> None:
    """A clear error, nothing bound by halves, and repair_index() repairs it."""
    stored("a").client.set(INDEX, b"something else", px=60_000)
    with pytest.raises(RedisUnavailable, match="WRONGTYPE"):
        await indexed.sessions_of("user")
    assert await indexed.repair_index() == 2
    assert len(await indexed.sessions_of("user")) == 2


async def test_repair_among_things_that_are_not_ours(indexed: SessionGuard, stored: Look) -> None:
    client = stored("a").client
    client.set("sl:{foreign}:session", b"not a hash", px=60_000)
    client.hset("sl:{other}:session", "a", "1")
    client.expire("sl:{other}:session", 60)
    client.set(b"sl:{\xff}:session", b"x", px=60_000)
    client.delete(INDEX)
    assert await indexed.repair_index() == 2


@pytest.mark.slow
async def test_the_index_lives_as_long_as_its_sessions(node: MakeGuard, stored: Look) -> None:
    """A session that is loaded now and then lives on; its user's index must not expire meanwhile."""
    guard = node(session=SessionPolicy(idle=0.6))
    await guard.create({}, sid="s")
    await guard.bind("s", "user")
    began = asyncio.get_running_loop().time()
    turn = 0
    while asyncio.get_running_loop().time() < began + 1.5:
        turn += 1
        mode: Any = ("lock", "read", "optimistic")[turn % 3]
        async with guard.session_lock("s", missing="reject", mode=mode):
            await asyncio.sleep(0.02)
    assert len(await guard.sessions_of("user")) == 1


async def test_a_user_is_bound_by_two_nodes_at_once(node: MakeGuard) -> None:
    guards = node(), node()
    sids = [f"s{n}" for n in range(20)]
    for sid in sids:
        await guards[0].create({}, sid=sid)
    await asyncio.gather(*(guards[n % 2].bind(sid, "user") for n, sid in enumerate(sids)))
    assert len(await guards[0].sessions_of("user")) == 20


# --- two sessions at once


async def test_a_guests_session_is_merged_into_a_users(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"cart": ["A"]}, sid="guest")
    await guard.create({"cart": ["B"]}, sid="user")
    async with guard.session_lock("guest", "user") as (guest, user):
        user["cart"].extend(guest["cart"])
        await guest.destroy()
    assert stored("user").data == {"cart": ["B", "A"]}
    assert not await opens(guard, "guest")
    assert stored("user").free
    assert stored("guest").free


async def test_in_the_order_in_which_they_were_named(node: MakeGuard) -> None:
    guard = node()
    for n in range(5):
        await guard.create({"n": n}, sid=f"s{n}")
    async with guard.session_lock("s3", "s0", "s4", "s1") as sessions:
        assert [session["n"] for session in sessions] == [3, 0, 4, 1]


async def test_opposite_orders_do_not_deadlock(node: MakeGuard, stored: Look) -> None:
    guards = node(), node()
    for sid in ("a", "b", "c"):
        await guards[0].create({"n": 0}, sid=sid)

    async def both(guard: SessionGuard, *sids: str) -> None:
        for _ in range(10):
            async with guard.session_lock(*sids, wait=15) as sessions:
                for session in sessions:
                    session["n"] += 1

    orders = [("a", "b"), ("b", "a"), ("b", "c", "a"), ("c", "a"), ("c", "b")]
    with anyio.fail_after(15):
        await asyncio.gather(*(both(guards[n % 2], *order) for n, order in enumerate(orders)))
    assert [stored(sid).data["n"] for sid in ("a", "b", "c")] == [40, 40, 30]


async def test_all_or_none(node: MakeGuard, stored: Look) -> None:
    guard, other = node(), node()
    for sid in ("a", "b"):
        await guard.create({"n": 0}, sid=sid)
    for held in ("a", "b"):
        async with other.session_lock(held):
            with pytest.raises(WaitTimedOut):
                async with guard.session_lock("a", "b", wait=0.05):
                    raise AssertionError("entered")
            assert stored("a" if held == "b" else "b").free
    for sid in ("a", "b"):
        assert stored(sid).free


async def test_one_of_them_is_missing(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"n": 0}, sid="a")
    for pair in (("a", "nobody"), ("nobody", "a")):
        with pytest.raises(SessionNotFound):
            async with guard.session_lock(*pair, missing="reject"):
                raise AssertionError("entered")
        assert stored("a").free
    await guard.destroy("b")
    with pytest.raises(SessionDestroyed):
        async with guard.session_lock("a", "b"):
            raise AssertionError("entered")
    assert stored("a").free


async def test_cancelled_while_the_second_is_waited_for(node: MakeGuard, stored: Look) -> None:
    guard, other = node(), node()

    async def both() -> None:
        async with guard.session_lock("a", "b", wait=10):
            raise AssertionError("entered")

    later = max("a", "b", key=lambda sid: keys_for("sl", sid).digest)
    first = "a" if later == "b" else "b"
    async with other.session_lock(later):
        task = asyncio.ensure_future(both())
        await waiting(other, later)
        assert not stored(first).free
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stored(first).free
        assert stored(later).waiting == []


async def test_the_body_raises(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"n": 0}, sid="a")
    await guard.create({"n": 0}, sid="b")
    with pytest.raises(ZeroDivisionError):
        async with guard.session_lock("a", "b") as (one, two):
            one["n"] = two["n"] = 1
            raise ZeroDivisionError
    for sid in ("a", "b"):
        assert stored(sid).data == {"n": 0}
        assert stored(sid).free


async def test_the_lock_of_one_is_lost(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"n": 0}, sid="a")
    await guard.create({"n": 0}, sid="b")
    for lost in ("a", "b"):
        with pytest.raises(LeaseLost):
            async with guard.session_lock("a", "b", lease=LeasePolicy(ttl=0.3)) as (one, two):
                one["n"] = two["n"] = 1
                stored(lost).client.delete(keys_for("sl", lost).lock)
                await asyncio.Event().wait()
        for sid in ("a", "b"):
            assert stored(sid).data == {"n": 0}
            assert stored(sid).free


async def test_the_same_session_twice(node: MakeGuard) -> None:
    guard = node()
    await guard.create({}, sid="a")
    new = await guard.regenerate("a")
    for pair in (("a", "a"), ("a", new)):
        with pytest.raises(ConfigurationError, match="twice"):
            guard.session_lock(*pair)
    with pytest.raises(ConfigurationError):
        guard.session_lock("a", "b", mode="optimistic")  # type: ignore[call-overload]


async def test_locking_one_that_this_task_holds(node: MakeGuard, stored: Look) -> None:
    guard = node()
    async with guard.session_lock("a"):
        with pytest.raises(ReentrantLock):
            async with guard.session_lock("a", "b"):
                raise AssertionError("entered")
        assert stored("b").free
        assert not stored("a").free
    with pytest.raises(LockNotAcquired):
        async with guard.session_lock("a", "b"), node().session_lock("b", wait=0):
            raise AssertionError("entered")
