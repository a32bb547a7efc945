"""One suite over both engines of the optimistic commit, and what a Redis user without scripts can do."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from typing import Any, Literal

import anyio
import pytest
import redis.asyncio
from tenacity import AsyncRetrying, stop_after_attempt

from sessionlock import SessionGuard, SessionPolicy
from sessionlock.embedded import EmbeddedServer
from sessionlock.errors import (
    ReadOnlySession,
    RedisUnavailable,
    ScriptsForbidden,
    SessionConflict,
    SessionDestroyed,
    SessionNotFound,
)
from sessionlock.protocol.calls import Release
from sessionlock.protocol.keys import keys_for
from tests.harness.choice import NO_RESP3, speaks_resp3
from tests.harness.commands import aged, connect, keys_without_ttl
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look

pytestmark = pytest.mark.anyio

EngineName = Literal["script", "watch"]
MERGING = SessionPolicy(merge={"n": "counter", "cart": "append"})


@pytest.fixture(params=["script", "watch"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    name: EngineName = request.param
    return name


@pytest.fixture
def guard(node: MakeGuard, engine: EngineName) -> SessionGuard:
    return node(commit_by=engine)


def optimistic(guard: SessionGuard, **options: Any) -> Any:
    return guard.session_lock("s", mode="optimistic", **options)


async def test_a_commit(guard: SessionGuard, stored: Look) -> None:
    await guard.create({"a": 1, "b": 1}, sid="s")
    async with optimistic(guard) as session:
        assert dict(session) == {"a": 1, "b": 1}
        assert not session.new
        session["a"], session["c"] = 2, [1]
        del session["b"]
    assert stored("s").data == {"a": 2, "c": [1]}
    assert session.version == stored("s").version == 2


async def test_a_new_session(guard: SessionGuard, stored: Look, redis_url: str) -> None:
    async with optimistic(guard) as session:
        assert session.new
        session["a"] = 1
    assert stored("s").data == {"a": 1}
    assert stored("s").version == 1
    assert keys_without_ttl(redis_url) == []
    assert (await guard.inspect("s")).exists


async def test_nothing_written_to_a_new_session(guard: SessionGuard, redis_url: str) -> None:
    async with optimistic(guard):
        pass
    with connect(redis_url) as client:
        assert client.dbsize() == 0


async def test_two_create_the_same_session(guard: SessionGuard, stored: Look) -> None:
    async with optimistic(guard) as first:
        async with optimistic(guard) as second:
            second["b"] = 1
        first["a"] = 1
    assert stored("s").data == {"a": 1, "b": 1}


async def test_several_saves_in_one_request(guard: SessionGuard, stored: Look) -> None:
    await guard.create({}, sid="s")
    async with optimistic(guard) as session:
        for n in range(3):
            session["n"] = n
            await session.save()
            assert stored("s").data == {"n": n}
            assert session.version == stored("s").version == n + 2
    assert stored("s").version == 4


async def test_a_conflict(guard: SessionGuard, stored: Look) -> None:
    await guard.create({"a": 1, "b": 1}, sid="s")
    with pytest.raises(SessionConflict) as caught:
        async with optimistic(guard) as session:
            async with optimistic(guard) as other:
                other["a"] = 3
            session["a"], session["b"] = 2, 2
    assert (caught.value.keys, caught.value.ours, caught.value.theirs) == (("a",), {"a": 2}, {"a": 3})
    assert stored("s").data == {"a": 3, "b": 1}


@pytest.mark.parametrize("size", [1, 39, 40, 41, 500, 70_000])
async def test_a_conflict_is_noticed_whatever_the_size(guard: SessionGuard, stored: Look, size: int) -> None:
    """Short values are compared as they are, long ones by their digest."""
    await guard.create({"a": "x" * size}, sid="s")
    async with optimistic(guard) as session:
        session["a"] += "y"
    with pytest.raises(SessionConflict):
        async with optimistic(guard) as session:
            async with optimistic(guard) as other:
                other["a"] = "z" * (size + 1)
            session["a"] = "u" * (size + 1)
    assert stored("s").data == {"a": "z" * (size + 1)}


async def test_a_key_deleted_meanwhile_is_a_conflict(guard: SessionGuard, stored: Look) -> None:
    await guard.create({"a": 1}, sid="s")
    with pytest.raises(SessionConflict) as caught:
        async with optimistic(guard) as session:
            async with optimistic(guard) as other:
                del other["a"]
            session["a"] = 2
    assert (caught.value.ours, caught.value.theirs) == ({"a": 2}, {})
    assert stored("s").data == {}


async def test_a_key_changed_by_an_increment_or_a_foreign_hand(guard: SessionGuard, stored: Look) -> None:
    """Versions would not notice these; contents do."""
    await guard.create({"n": 5, "b": 1}, sid="s")
    keys = keys_for("sl", "s")
    with pytest.raises(SessionConflict) as caught:
        async with optimistic(guard) as session:
            stored("s").client.hincrby(keys.session, "n", 1)
            stored("s").client.hset(keys.session, "b", "2")
            session["n"], session["b"] = 9, 9
    assert set(caught.value.keys) == {"n", "b"}


async def test_a_merge(guard: SessionGuard, stored: Look) -> None:
    await guard.create({"n": 5, "cart": []}, sid="s")
    async with optimistic(guard, session=MERGING) as session:
        async with optimistic(guard, session=MERGING) as other:
            other["n"] += 1
            other["cart"].append("B")
        session["n"] += 1
        session["cart"].append("A")
    assert stored("s").data == {"n": 7, "cart": ["B", "A"]}
    assert dict(session) == {"n": 7, "cart": ["B", "A"]}
    assert session.version == stored("s").version


async def test_the_record_expired_meanwhile(guard: SessionGuard, stored: Look) -> None:
    await guard.create({"a": 1, "b": 1}, sid="s")
    with pytest.raises(SessionNotFound, match="revive") as caught:
        async with optimistic(guard) as session:
            stored("s").client.delete(keys_for("sl", "s").session)
            session["a"] = 2
    assert not isinstance(caught.value, SessionDestroyed)
    assert stored("s").data == {}


@pytest.mark.parametrize("policy", [SessionPolicy(), SessionPolicy(merge={"*": "last_write_wins"})])
async def test_the_record_was_replaced_meanwhile(guard: SessionGuard, stored: Look, policy: SessionPolicy) -> None:
    await guard.create({"a": 1}, sid="s")
    with pytest.raises(SessionNotFound):
        async with optimistic(guard, session=policy) as session:
            stored("s").client.delete(keys_for("sl", "s").session)
            await guard.create({"a": 1}, sid="s")
            session["a"] = 2
    assert stored("s").data == {"a": 1}


@pytest.mark.parametrize("new", [True, False])
async def test_destroyed_meanwhile(guard: SessionGuard, stored: Look, new: bool) -> None:
    if not new:
        await guard.create({"a": 1}, sid="s")
    with pytest.raises(SessionDestroyed):
        async with optimistic(guard) as session:
            await guard.destroy("s")
            session["a"] = 2
    assert stored("s").data == {}


@pytest.mark.parametrize("mode", ["read", "optimistic", "last_write_wins"])
async def test_destroyed_before(guard: SessionGuard, mode: Any) -> None:
    await guard.create({"a": 1}, sid="s")
    await guard.destroy("s")
    with pytest.raises(SessionDestroyed):
        async with guard.session_lock("s", mode=mode):
            raise AssertionError("entered")


async def test_missing(guard: SessionGuard, redis_url: str) -> None:
    with pytest.raises(SessionNotFound):
        async with optimistic(guard, missing="reject"):
            raise AssertionError("entered")
    with pytest.raises(SessionNotFound):
        await guard.read("s")
    with connect(redis_url) as client:
        assert client.dbsize() == 0


async def test_the_shell_of_a_lock_is_no_session(guard: SessionGuard) -> None:
    """A lock leaves a fence behind; that is no record."""
    async with guard.session_lock("s"):
        pass
    with pytest.raises(SessionNotFound):
        await guard.read("s")
    async with optimistic(guard) as session:
        assert session.new
        session["a"] = 1
    assert dict(await guard.read("s")) == {"a": 1}


# --- expected_version


async def test_the_expected_version(guard: SessionGuard, stored: Look) -> None:
    created = await guard.create({"a": 1}, sid="s")
    async with optimistic(guard, expected_version=created.version) as session:
        session["a"] = 2
    assert stored("s").data == {"a": 2}


async def test_another_version_than_expected(guard: SessionGuard, stored: Look) -> None:
    """Even when nobody touched the keys in question."""
    created = await guard.create({"a": 1, "b": 1}, sid="s")
    async with optimistic(guard) as other:
        other["b"] = 2
    with pytest.raises(SessionConflict, match="version 2, not 1"):
        async with optimistic(guard, expected_version=created.version) as session:
            session["a"] = 2
    assert stored("s").data == {"a": 1, "b": 2}


async def test_another_version_appears_meanwhile(guard: SessionGuard, stored: Look) -> None:
    created = await guard.create({"a": 1, "b": 1}, sid="s")
    with pytest.raises(SessionConflict) as caught:
        async with optimistic(guard, expected_version=created.version, session=MERGING) as session:
            async with optimistic(guard) as other:
                other["b"] = 2
            session["a"] = 2
    assert set(caught.value.keys) == {"a", "b"}
    assert stored("s").data == {"a": 1, "b": 2}


async def test_the_expected_version_is_checked_without_changes(guard: SessionGuard, stored: Look) -> None:
    await guard.create({"a": 1}, sid="s")
    with pytest.raises(SessionConflict):
        async with optimistic(guard, expected_version=7):
            pass
    assert stored("s").version == 1


async def test_a_clean_request_with_the_right_version_writes_nothing(guard: SessionGuard, stored: Look) -> None:
    created = await guard.create({"a": 1}, sid="s")
    before = stored("s").client.hgetall(stored("s").keys.session)
    async with optimistic(guard, expected_version=created.version):
        pass
    assert stored("s").client.hgetall(stored("s").keys.session) == before


async def test_the_expected_version_and_a_save_in_between(guard: SessionGuard, stored: Look) -> None:
    """What this very request saved is not somebody else's version."""
    created = await guard.create({"a": 1}, sid="s")
    async with optimistic(guard, expected_version=created.version) as session:
        session["a"] = 2
        await session.save()
        session["b"] = 2
    assert stored("s").data == {"a": 2, "b": 2}


async def test_a_new_session_is_version_0(guard: SessionGuard, stored: Look) -> None:
    async with optimistic(guard, expected_version=0) as session:
        session["a"] = 1
    with pytest.raises(SessionConflict):
        async with optimistic(guard, expected_version=0) as session:
            session["a"] = 2
    assert stored("s").data == {"a": 1}


# --- how long it lives


async def test_the_idle_time_starts_anew_on_a_late_load(guard: SessionGuard, stored: Look) -> None:
    policy = SessionPolicy(idle=100)
    await guard.create({"a": 1}, sid="s")
    client, key = stored("s").client, keys_for("sl", "s").session
    aged(client, key, 60_000)
    async with optimistic(guard, session=policy):
        pass
    assert client.pttl(key) <= 60_000, "more than half is left: nothing to write"
    aged(client, key, 40_000)
    before = client.hgetall(key)
    async with optimistic(guard, session=policy):
        pass
    assert 90_000 < client.pttl(key) <= 100_000
    after = client.hgetall(key)
    assert {**after, b"#state": b""} == {**before, b"#state": b""}  # there it says when its life needs a look next


@pytest.mark.parametrize(("share", "left", "refreshed"), [(0.0, 100, False), (1.0, 99_000, True)])
async def test_when_the_idle_time_starts_anew(
    guard: SessionGuard, stored: Look, share: float, left: int, refreshed: bool
) -> None:
    await guard.create({"a": 1}, sid="s")
    client, key = stored("s").client, keys_for("sl", "s").session
    aged(client, key, left)
    async with optimistic(guard, session=SessionPolicy(idle=100, refresh_below=share)):
        pass
    assert (client.pttl(key) > left) is refreshed


async def test_the_absolute_end_is_not_put_off(guard: SessionGuard, stored: Look) -> None:
    policy = SessionPolicy(idle=100, absolute=50)
    async with optimistic(guard, session=policy) as session:
        session["a"] = 1
    client, key = stored("s").client, keys_for("sl", "s").session
    assert 45_000 < client.pttl(key) <= 50_000
    aged(client, key, 10_000)
    async with optimistic(guard, session=policy) as session:
        session["a"] = 2
    assert 10_000 < client.pttl(key) <= 50_000


async def test_the_absolute_end_comes(guard: SessionGuard) -> None:
    policy = SessionPolicy(idle=100, absolute=0.15)
    async with optimistic(guard, session=policy) as session:
        session["a"] = 1
    began = time.monotonic()
    with pytest.raises(SessionNotFound):
        while time.monotonic() < began + 5:
            async with optimistic(guard, session=policy, missing="reject"):
                await asyncio.sleep(0.005)
    assert time.monotonic() - began < 1.0


# --- faults


def commits_by(engine: EngineName) -> re.Pattern[bytes] | bytes:
    return calls_of("commit") if engine == "script" else b"EXEC"


async def test_a_commit_whose_reply_is_lost(
    proxy: FaultyProxy, node: MakeGuard, engine: EngineName, stored: Look
) -> None:
    """It is repeated, and takes effect once."""
    guard = node(proxy.url, commit_by=engine, session=MERGING)
    await node().create({"n": 5, "cart": []}, sid="s")
    async with optimistic(guard) as session:
        session["n"] += 1
        session["cart"].append("A")
        fault = proxy.drop_next_reply(commits_by(engine))
    assert fault.count == 1
    assert stored("s").data == {"n": 6, "cart": ["A"]}
    assert stored("s").version == 2


async def test_a_commit_whose_reply_is_lost_and_others_commit_meanwhile(
    proxy: FaultyProxy, node: MakeGuard, engine: EngineName, stored: Look
) -> None:
    """The receipt of a commit outlives the commits that follow it."""
    guard, others = node(proxy.url, commit_by=engine, session=MERGING), node(commit_by=engine, session=MERGING)
    await others.create({"n": 5}, sid="s")

    async def commit() -> None:
        async with optimistic(guard) as session:
            session["n"] += 1

    fault = proxy.drop_next_reply(commits_by(engine))
    task = asyncio.ensure_future(commit())
    await fault.wait()
    proxy.refuse()
    for _ in range(5):
        async with optimistic(others) as session:
            session["n"] += 1
    proxy.accept()
    await task
    assert stored("s").data == {"n": 11}


async def test_a_request_that_never_arrives(
    proxy: FaultyProxy, node: MakeGuard, engine: EngineName, stored: Look
) -> None:
    guard = node(proxy.url, commit_by=engine, session=MERGING)
    await node().create({"n": 5}, sid="s")
    async with optimistic(guard) as session:
        session["n"] += 1
        fault = proxy.drop_next_request(commits_by(engine))
    assert fault.count == 1
    assert stored("s").data == {"n": 6}


async def test_a_load_whose_reply_is_lost(proxy: FaultyProxy, node: MakeGuard, engine: EngineName) -> None:
    guard = node(proxy.url, commit_by=engine)
    await node().create({"n": 5}, sid="s")
    fault = proxy.drop_next_reply(calls_of("load") if engine == "script" else b"HGETALL")
    assert dict(await guard.read("s")) == {"n": 5}
    assert fault.count == 1


async def test_an_increment_whose_reply_is_lost(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    guard = node(proxy.url)
    await guard.create({"n": 5}, sid="s")
    fault = proxy.drop_next_reply(calls_of("incr"))
    assert await guard.incr("s", "n") == 6
    assert fault.count == 1
    assert stored("s").data == {"n": 6}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["load", "commit"])
async def test_a_redis_that_does_not_answer(
    proxy: FaultyProxy, node: MakeGuard, engine: EngineName, stored: Look, what: str
) -> None:
    """``reply_within`` and ``retry_for`` bound every way to Redis."""
    guard = node(proxy.url, commit_by=engine, reply_within=0.3, retry_for=0.3)
    await node().create({"n": 5}, sid="s")
    await guard.read("s")
    began = time.monotonic()
    with pytest.raises(RedisUnavailable), anyio.fail_after(6):
        if what == "load":
            proxy.blackhole()
        async with optimistic(guard) as session:
            proxy.blackhole()
            session["n"] = 6
    proxy.heal()
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("word", [b"TIME", b"HGETALL", b"EXEC"])
async def test_a_redis_that_stops_answering_within_a_transaction(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, word: bytes
) -> None:
    """Giving up must not wait for an UNWATCH either."""
    guard = node(proxy.url, commit_by="watch", reply_within=0.3, retry_for=0.3)
    await node().create({"n": 5}, sid="s")
    await guard.read("s")

    async def vanish() -> None:
        await proxy.held.wait()
        proxy.blackhole()

    with pytest.raises(RedisUnavailable), anyio.fail_after(6):
        async with optimistic(guard) as session:
            proxy.hold_requests(word)
            vanishing = asyncio.ensure_future(vanish())
            session["n"] = 6
            began = time.monotonic()
    assert time.monotonic() - began < 3
    await vanishing
    proxy.heal()
    assert stored("s").data == {"n": 5}


@pytest.mark.parametrize(("parked", "ends"), [(b"WATCH", True), (b"PEXPIRE", True), (b"PEXPIRE", False)])
async def test_a_load_that_is_late_does_not_prolong_what_came_instead(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, parked: bytes, ends: bool
) -> None:
    """Between its looking and its touching the session was destroyed, or given an end by somebody else."""
    loads, other, session = node(proxy.url, commit_by="watch"), node(), stored("s")
    await other.create({"n": 1}, sid="s")
    await loads.read("s")
    aged(session.client, session.keys.session, 1_000_000)
    proxy.hold_requests(parked)
    reading = asyncio.ensure_future(loads.read("s"))
    await proxy.held.wait()
    if ends:
        await other.destroy("s")
    else:
        aged(session.client, session.keys.session, 250_000)
    await proxy.let_go()
    assert dict(await reading) == {"n": 1}
    assert session.client.pttl(session.keys.session) <= 300_000


# --- at once


@pytest.mark.parametrize("requests", [40])
async def test_many_at_once_merge(node: MakeGuard, engine: EngineName, stored: Look, requests: int) -> None:
    guards = [node(commit_by=engine, session=MERGING) for _ in range(4)]
    await guards[0].create({"n": 0, "cart": []}, sid="s")
    committed = 0

    async def request(number: int) -> None:
        nonlocal committed
        try:
            async with optimistic(guards[number % 4]) as session:
                session["n"] += 1
                session["cart"].append(number)
        except SessionConflict:
            return  # ten merges in a row met another commit: said, not lost
        committed += 1

    await asyncio.gather(*map(request, range(requests)))
    data = stored("s").data
    assert data["n"] == len(data["cart"]) == len(set(data["cart"])) == committed
    assert committed >= requests / 4


async def test_many_transactions_at_once(node: MakeGuard, engine: EngineName, stored: Look) -> None:
    guards = [node(commit_by=engine) for _ in range(4)]
    await guards[0].create({"n": 0}, sid="s")
    patient = AsyncRetrying(stop=stop_after_attempt(200))

    def add(session: Any) -> int:
        session["n"] += 1
        return int(session["n"])

    seen = await asyncio.gather(*(guards[i % 4].transaction("s", add, retry=patient) for i in range(40)))
    assert stored("s").data == {"n": 40}
    assert sorted(seen) == list(range(1, 41)), "each saw a state of its own: serializable"


async def test_both_engines_at_once(node: MakeGuard, stored: Look) -> None:
    """Receipts, versions and fences are the same record, whoever writes."""
    guards = [node(commit_by="script", session=MERGING), node(commit_by="watch", session=MERGING)]
    await guards[0].create({"n": 0}, sid="s")
    patient = AsyncRetrying(stop=stop_after_attempt(200))

    async def request(number: int) -> None:
        guard = guards[number % 2]
        if number % 3 == 0:
            async with guard.session_lock("s", wait=15) as session:
                session["n"] += 1
        else:
            await guard.transaction("s", lambda s: s.update(n=s["n"] + 1), retry=patient)

    async with anyio.create_task_group() as tasks:  # which ends them all, if one fails, before their guards are closed
        for number in range(45):
            tasks.start_soon(request, number)
    assert stored("s").data == {"n": 45}
    assert stored("s").free


async def test_a_holder_among_many_writers(node: MakeGuard, stored: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty times in a row somebody without a lock is faster than its save, which comes through nevertheless."""
    holder, other = node(session=MERGING), node(session=MERGING)
    await other.create({"n": 0}, sid="s")
    executor = holder.runtime().executor
    run, ahead = executor.run, iter(range(30))

    async def late(call: Any, *limit: float) -> Any:
        if isinstance(call, Release) and next(ahead, None) is not None:
            await other.transaction("s", lambda s: s.update(n=s["n"] + 1))
        return await run(call, *limit)

    monkeypatch.setattr(executor, "run", late)
    async with holder.session_lock("s") as session:
        session["n"] += 1
    assert stored("s").data == {"n": 31}
    assert stored("s").free


# --- transactions


async def test_what_a_transaction_returns(guard: SessionGuard) -> None:
    await guard.create({"n": 1}, sid="s")

    async def change(session: Any) -> str:
        session["n"] = 2
        await asyncio.sleep(0)
        return "done"

    assert await guard.transaction("s", change) == "done"
    assert await guard.transaction("s", lambda session: session["n"]) == 2


async def test_a_transaction_gives_up(guard: SessionGuard, stored: Look) -> None:
    await guard.create({"n": 0, "m": 0}, sid="s")
    tries = 0

    async def change(session: Any) -> None:
        nonlocal tries
        tries += 1
        async with optimistic(guard) as other:
            other["n"] = tries
        session["n"], session["m"] = -tries, 1

    with pytest.raises(SessionConflict) as caught:
        await guard.transaction("s", change, retry=AsyncRetrying(stop=stop_after_attempt(3)))
    assert tries == 3
    assert (caught.value.keys, caught.value.ours, caught.value.theirs) == (("n",), {"n": -3}, {"n": 3})
    assert stored("s").data == {"n": 3, "m": 0}


async def test_a_transaction_that_raises_saves_nothing(guard: SessionGuard, stored: Look) -> None:
    await guard.create({"n": 0}, sid="s")

    def change(session: Any) -> None:
        session["n"] = 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await guard.transaction("s", change)
    assert stored("s").data == {"n": 0}


async def test_an_attempts_session_is_over_when_the_attempt_is(guard: SessionGuard) -> None:
    """A change after the commit would be lost, so it raises."""
    await guard.create({"n": 0}, sid="s")
    async for attempt in guard.attempts("s"):
        async with attempt as session:
            session["n"] = 1
    with pytest.raises(ReadOnlySession):
        session["n"] = 2


async def test_incr_in_a_transaction_is_refused(guard: SessionGuard, stored: Look) -> None:
    """It takes effect at once, so an attempt that is repeated would count twice: refused with a reason."""
    await guard.create({"n": 0}, sid="s")
    with pytest.raises(ReadOnlySession, match=r"attempt|transaction"):
        async for attempt in guard.attempts("s"):
            async with attempt as session:
                await session.incr("n")
    assert stored("s").data == {"n": 0}


# --- a Redis user without scripts


@pytest.fixture
def no_scripts(own_server: Callable[..., EmbeddedServer]) -> str:
    """The url of a user that may do everything but run scripts."""
    server = own_server(tcp=True)
    return _url_of_user(server, "~*", "+@all", "-@scripting")


def _url_of_user(server: EmbeddedServer, *rules: str) -> str:
    """The url of a new user with these rules, and every channel."""
    if server.version < (6, 0):
        pytest.skip("this server is older than ACLs (Redis 6.0)")
    channels = ["&*"] if server.version >= (6, 2) else []  # Redis 6.0 has no rules for channels: all are open
    with connect(server.url) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">secret", *channels, *rules)
    return server.url.replace("redis://", "redis://app:secret@")


async def test_auto_falls_back_to_watch(no_scripts: str) -> None:
    async with SessionGuard.from_url(no_scripts, session=MERGING) as guard:
        async with optimistic(guard) as session:
            session["n"], session["cart"] = 5, []
        async with optimistic(guard) as session:
            async with optimistic(guard) as other:
                other["n"] += 1
                other["cart"].append("B")
            session["n"] += 1
            session["cart"].append("A")
        assert dict(await guard.read("s")) == {"n": 7, "cart": ["B", "A"]}
        await guard.transaction("s", lambda s: s.flash("info", "hello"))
        assert await guard.transaction("s", lambda s: s.pop_flashes()) == [("info", "hello")]


async def test_auto_asks_only_once(no_scripts: str) -> None:
    async with SessionGuard.from_url(no_scripts) as guard:
        async with optimistic(guard) as session:
            session["n"] = 5
        with connect(no_scripts.replace("app:secret@", "")) as admin:
            admin.execute_command("ACL", "LOG", "RESET")
            async with optimistic(guard) as session:
                session["n"] += 1
            assert admin.execute_command("ACL", "LOG") == [], "it tried a script again"


async def test_the_lock_says_that_it_needs_scripts(no_scripts: str) -> None:
    async with SessionGuard.from_url(no_scripts) as guard:
        began = time.monotonic()
        with pytest.raises(ScriptsForbidden, match="optimistic") as caught:
            async with guard.session_lock("s"):
                raise AssertionError("entered")
        assert "NOPERM" in str(caught.value)
        assert time.monotonic() - began < 2, "a refusal is not tried again"


async def test_commit_by_script_is_taken_at_its_word(no_scripts: str) -> None:
    async with SessionGuard.from_url(no_scripts, commit_by="script") as guard:
        with pytest.raises(ScriptsForbidden):
            async with optimistic(guard):
                raise AssertionError("entered")


@pytest.mark.parametrize(
    "what", ["create", "incr", "destroy", "regenerate", "inspect", "bind"], ids=lambda what: str(what)
)
async def test_what_else_needs_scripts_says_so(no_scripts: str, what: str) -> None:
    async with SessionGuard.from_url(no_scripts) as guard:
        calls: dict[str, Callable[[], Any]] = {
            "create": lambda: guard.create({}, sid="s"),
            "incr": lambda: guard.incr("s", "n"),
            "destroy": lambda: guard.destroy("s"),
            "regenerate": lambda: guard.regenerate("s"),
            "inspect": lambda: guard.inspect("s"),
            "bind": lambda: guard.bind("s", "user"),
        }
        with pytest.raises(ScriptsForbidden):
            await calls[what]()


async def test_another_missing_permission_is_not_mistaken(own_server: Callable[..., EmbeddedServer]) -> None:
    """A user whose key patterns do not fit is not a user without scripts."""
    server = own_server(tcp=True)
    async with SessionGuard.from_url(_url_of_user(server, "~other:*", "+@all")) as guard:
        with pytest.raises(RedisUnavailable) as caught:
            async with guard.session_lock("s"):
                raise AssertionError("entered")
    assert not isinstance(caught.value, ScriptsForbidden), (
        f"it may run scripts, but not touch these keys: {caught.value}"
    )


@pytest.mark.parametrize("resp", [2, 3])
async def test_clients_that_decode_replies(
    server: EmbeddedServer, flush: None, engine: EngineName, stored: Look, resp: int
) -> None:
    """The user's client may decode what it likes; session fields stay bytes."""
    if resp == 3 and not speaks_resp3(server):
        pytest.skip(NO_RESP3)
    client = redis.asyncio.Redis.from_url(server.unix_url, decode_responses=True, protocol=resp)
    async with client, SessionGuard(client, commit_by=engine, session=MERGING) as guard:
        await guard.create({"n": 5, "text": "é"}, sid="s")
        async with optimistic(guard) as session:
            async with optimistic(guard) as other:
                other["n"] += 1
            session["n"] += 1
            assert session["text"] == "é"
        await guard.bind("s", "user")
        assert len(await guard.sessions_of("user")) == 1
    assert stored("s").data == {"n": 7, "text": "é"}
