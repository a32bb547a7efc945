"""The ids that are given out, and that no id but the right one opens a session."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Awaitable, Callable

import pytest

from sessionlock import SessionConflict, SessionGuard, SessionNotFound
from sessionlock.protocol.keys import new_sid
from tests.conformance.topologies import Node, Record
from tests.harness import stable_name
from tests.harness.intruders import Intruder

pytestmark = pytest.mark.anyio

Look = Callable[[str], Record]
FORM = re.compile(r"[a-z0-9]{32,40}")
NAME = "samename000001"
FOREIGN = ["s", "Ünïcode", "a.b-c_d" * 60, secrets.token_urlsafe(32), "x" * 40, secrets.token_hex(20), "sl" + "a" * 37]


def looks_right(sid: str) -> bool:
    return FORM.fullmatch(sid) is not None


async def test_fresh_ids(guard: SessionGuard) -> None:
    sids = {(await guard.create({})).sid for _ in range(20)}
    assert all(map(looks_right, sids))
    assert len(sids) == 20
    async with guard.session_lock(sid := new_sid()) as session:
        session["a"] = 1
    assert session.sid == sid
    assert looks_right(sid)


@pytest.mark.parametrize("sid", [None, *FOREIGN], ids=["a fresh one", *map(stable_name, range(len(FOREIGN)))])
async def test_ids_after_regenerate(guard: SessionGuard, sid: str | None) -> None:
    """As often as one likes; however the session began."""
    current = (await guard.create({"n": 0}, sid=sid)).sid
    seen = {current}
    for _ in range(3):
        current = await guard.regenerate(current, grace=0)
        seen.add(current)
        async with guard.session_lock(current) as session:
            session["n"] += 1
            current = await session.regenerate(grace=0)
            assert session.sid == current
        assert looks_right(current)
        seen.add(current)
    assert len(seen) == 7
    assert dict(await guard.read(current)) == {"n": 3}


async def test_as_many_secret_bits_as_are_promised(guard: SessionGuard) -> None:
    """At least 120 beside what the record's name, which is no secret, tells: of each character at least 5."""
    old = (await guard.create({"n": 0})).sid
    secret = [set[str]() for _ in range(40)]
    for _ in range(100):
        old = await guard.regenerate(old, grace=0)
        for place, character in enumerate(old.ljust(40)):
            secret[place].add(character)
    varied = [len(characters) for characters in secret]
    # A hundred draws of 36 characters show 34 of them; that all of 24 places show less than 20 does not happen.
    assert sum(count >= 20 for count in varied) * 5 >= 120
    fresh = [set(characters) for characters in zip(*(new_sid() for _ in range(100)), strict=True)]
    assert sum(len(characters) >= 20 for characters in fresh) * 5 >= 120


# --- two ids that give their records the same (short) name, which somebody may search for


@pytest.fixture
def same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessionlock.protocol.keys.record_name", lambda sha: NAME)


@pytest.fixture(params=["script", pytest.param("watch", marks=pytest.mark.needs("watch"))])
def both(request: pytest.FixtureRequest, node: Node, same_name: None) -> SessionGuard:
    return node(commit_by=request.param)


async def is_refused(guard: SessionGuard, sid: str) -> None:
    """Whatever is done with ``sid``, it meets no session."""
    for mode in ("lock", "read", "optimistic", "last_write_wins"):
        for missing in ("create", "reject"):
            with pytest.raises(SessionNotFound):
                async with guard.session_lock(sid, mode=mode, missing=missing):
                    pytest.fail("entered")
    with pytest.raises(SessionNotFound):
        await guard.read(sid)
    with pytest.raises(SessionNotFound):
        await guard.transaction(sid, lambda session: session.update(a=2))
    with pytest.raises(SessionNotFound):
        await guard.incr(sid, "a")
    with pytest.raises(SessionNotFound):
        await guard.regenerate(sid)
    with pytest.raises(SessionNotFound):
        await guard.bind(sid, "somebody")
    with pytest.raises(SessionConflict):
        await guard.create({"a": 2}, sid=sid)
    assert not await guard.destroy(sid)


@pytest.mark.parametrize("begun", ["create", "lock", "optimistic", "incr"])
async def test_another_session_of_the_same_name(both: SessionGuard, record: Look, begun: str) -> None:
    """However the record came to be, it knows from its beginning whose it is."""
    if begun == "create":
        await both.create({"a": 1}, sid="mine")
    elif begun == "incr":
        async with both.session_lock("mine", mode="optimistic") as session:
            assert await session.incr("a") == 1
    else:
        async with both.session_lock("mine", mode=begun) as session:  # type: ignore[call-overload]
            session["a"] = 1
    before = record("mine").data_and_version
    await is_refused(both, "other")
    assert record("mine").data_and_version == before
    new = await both.regenerate("mine", grace=0)
    await is_refused(both, "other")
    await is_refused(both, "mine")
    assert dict(await both.read(new)) == {"a": 1}
    assert record("mine").lock is None


async def test_the_name_is_free_when_its_session_has_ended(both: SessionGuard, record: Look) -> None:
    await both.create({"a": 1}, sid="mine")
    record("mine").client.delete(record("mine").keys.session)
    async with both.session_lock("other") as session:
        assert dict(session) == {}
        session["b"] = 1
    await is_refused(both, "mine")


@pytest.mark.parametrize("how", ["save", "release", "incr", "regenerate", "end"])
async def test_it_begins_while_another_is_about_to(both: SessionGuard, record: Look, how: str) -> None:
    """Neither had a record when it looked. The later one is refused; nothing of the two comes together."""
    with pytest.raises(SessionNotFound):
        async with both.session_lock("other") as session:
            assert session.new
            async with both.session_lock("mine", mode="optimistic") as mine:
                mine["a"] = 1
            if how in ("save", "release", "end"):
                session["a"] = session.get("a", 0) + 1
            ways: dict[str, Callable[[], Awaitable[object]]] = {
                "save": session.save,
                "release": session.release,
                "incr": lambda: session.incr("a"),
                "regenerate": session.regenerate,
            }
            if how != "end":
                await ways[how]()
    assert record("mine").data == {"a": 1}
    assert dict(await both.read("mine")) == {"a": 1}


@pytest.mark.parametrize("how", ["save", "incr", "end"])
async def test_without_the_lock_too(both: SessionGuard, record: Look, how: str) -> None:
    with pytest.raises(SessionNotFound):
        async with both.session_lock("other", mode="optimistic") as session:
            async with both.session_lock("mine", mode="optimistic") as mine:
                mine["a"] = 1
            if how == "incr":
                await session.incr("b")
            session["b"] = 1
            if how == "save":
                await session.save()
    assert record("mine").data == {"a": 1}
    with contextlib.suppress(SessionNotFound):
        await both.incr("other", "a")
    assert dict(await both.read("mine")) == {"a": 1}


@pytest.mark.needs("queue")
async def test_a_waiter_of_the_same_name(node: Node, record: Look, same_name: None) -> None:
    guard, other = node(), node()
    async with guard.session_lock("mine") as session:
        intruder = Intruder(other, "other")
        await record("mine").until(lambda stored: len(stored.waiting) == 1)
        session["secret"] = 1
    with pytest.raises(SessionNotFound):
        await intruder.task
    assert intruder.saw == []
    assert dict(await guard.read("mine")) == {"secret": 1}
