"""Load, change, save: only what changed, however deep, and nothing when nothing changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sessionlock import CodecError, ReadOnlySession, SessionGuard, SessionPolicy
from tests.conformance.topologies import Node, Record

pytestmark = pytest.mark.anyio

Look = Callable[[str], Record]


async def test_what_one_request_saves_the_next_one_loads(node: Node) -> None:
    data = {
        "text": "žluťoučký kůň",
        "none": None,
        "yes": True,
        "float": 0.1,
        "big": 2**80,
        "deep": {"a": [1, {"b": 2}]},
    }
    async with node().session_lock("s") as session:
        assert (dict(session), session.new, session.version) == ({}, True, 0)
        session.update(data)
    async with node().session_lock("s") as session:
        assert (dict(session), session.new, session.version) == (data, False, 1)


async def test_only_changed_keys_are_written(guard: SessionGuard, record: Look) -> None:
    await guard.create({"ours": 1, "theirs": 1, "gone": 1, "read": [1]}, sid="s")
    async with guard.session_lock("s") as session:
        assert session["theirs"] == 1
        assert session["read"] == [1]
        for key, value in (("theirs", b"2"), ("new", b"3"), ("read", b"[2]")):
            record("s").write(key, value)
        session["ours"] = 10
        del session["gone"]
    assert record("s").data == {"ours": 10, "theirs": 2, "new": 3, "read": [2]}


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s["list"].append(4),
        lambda s: s["list"][1].update(x=2),
        lambda s: s["dict"]["a"]["b"]["c"].append(1),
        lambda s: s["dict"]["a"].pop("b"),
        lambda s: s["dict"].setdefault("new", 1),
        lambda s: s.setdefault("fresh", []).append(1),
        lambda s: s.get("list").sort(key=str),
        lambda s: s.pop("list"),
        lambda s: s.update(one=True),  # not the integer 1
        lambda s: s.update(one=1.0),
        lambda s: s.clear(),
    ],
)
async def test_deep_changes_are_noticed(guard: SessionGuard, record: Look, change: Callable[[Any], object]) -> None:
    start: dict[str, Any] = {"list": [3, {"x": 1}, 1], "dict": {"a": {"b": {"c": []}}}, "one": 1}
    await guard.create(start, sid="s")
    async with guard.session_lock("s") as session:
        assert not session.modified
        change(session)
        assert session.modified
        expected = dict(session)
    stored = record("s").data
    assert (stored, repr(stored)) == (expected, repr({key: expected[key] for key in stored}))
    assert record("s").version == 2


@pytest.mark.parametrize(
    "request_",
    [
        lambda s: None,
        lambda s: dict(s),
        lambda s: s["list"],
        lambda s: s.update(n=1),  # the same value again
        lambda s: (s["list"].append(3), s["list"].pop()),
        lambda s: s.update(list=[1, 2]),
        lambda s: (s.update(other=1), s.pop("other")),
    ],
)
async def test_a_clean_request_writes_no_data(
    guard: SessionGuard, record: Look, request_: Callable[[Any], object]
) -> None:
    await guard.create({"n": 1, "list": [1, 2]}, sid="s")
    before = record("s").data_and_version
    async with guard.session_lock("s") as session:
        request_(session)
        assert not session.modified
    assert record("s").data_and_version == before


async def test_a_clean_request_for_no_session_makes_none(guard: SessionGuard, record: Look) -> None:
    async with guard.session_lock("s") as session:
        assert session.new
    info = await guard.inspect("s")
    assert (info.exists, info.version) == (False, 0)
    assert record("s").data == {}


async def test_a_foreign_spelling_is_no_change(guard: SessionGuard, record: Look) -> None:
    """JSON of another writer: other spaces, other escapes, the same value."""
    await guard.create({"text": "é", "list": [1, 2]}, sid="s")
    record("s").write("text", b'"\\u00e9"')
    record("s").write("list", b"[1,\n  2]")
    before = record("s").data_and_version
    async with guard.session_lock("s") as session:
        assert session["text"] == "é"
        session["list"] = [1, 2]
        assert not session.modified
    assert record("s").data_and_version == before


async def test_the_version_counts_commits(guard: SessionGuard) -> None:
    for expected in range(3):
        async with guard.session_lock("s") as session:
            assert session.version == expected
            session["n"] = expected
    assert (await guard.read("s")).version == 3


# --- when the body raises


async def test_when_the_body_raised_nothing_is_saved(guard: SessionGuard, record: Look) -> None:
    await guard.create({"n": 1, "list": []}, sid="s")
    before = record("s").data_and_version
    with pytest.raises(ZeroDivisionError):
        async with guard.session_lock("s") as session:
            session["n"] = 2
            session["list"].append(1)
            raise ZeroDivisionError
    assert record("s").data_and_version == before
    assert record("s").free


async def test_save_on_error(guard: SessionGuard, record: Look) -> None:
    with pytest.raises(ZeroDivisionError):
        async with guard.session_lock("s", save_on_error=True) as session:
            session["n"] = 2
            raise ZeroDivisionError
    assert record("s").data == {"n": 2}
    assert record("s").free


async def test_save_on_error_does_not_save_what_was_cancelled(guard: SessionGuard, record: Look) -> None:
    """A cancelled body was stopped at any point: half of a change is no change."""
    entered = asyncio.Event()

    async def body() -> None:
        async with guard.session_lock("s", save_on_error=True) as session:
            session["n"] = 2
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert record("s").data == {}
    assert record("s").free


async def test_a_value_that_cannot_be_stored(guard: SessionGuard, record: Look) -> None:
    await guard.create({"n": 1}, sid="s")
    with pytest.raises(CodecError) as caught:
        async with guard.session_lock("s") as session:
            session["n"] = 2
            session["bad"] = {"deep": object()}
    assert caught.value.key == "bad"
    assert record("s").data == {"n": 1}
    assert record("s").free


async def test_a_field_that_cannot_be_read_is_an_error_and_stays(guard: SessionGuard, record: Look) -> None:
    await guard.create({"n": 1, "m": 1}, sid="s")
    record("s").write("n", b"\x80 not JSON")
    with pytest.raises(CodecError) as caught:
        async with guard.session_lock("s") as session:
            session["m"] = 2
            session["n"]
    assert caught.value.key == "n"
    stored = record("s").raw
    assert (stored[b"n"], stored[b"m"]) == (b"\x80 not JSON", b"1")
    assert record("s").free


async def test_an_unreadable_field_does_no_harm_to_the_others(guard: SessionGuard, record: Look) -> None:
    await guard.create({"n": 1, "m": 1}, sid="s")
    record("s").write("n", b"\x80 not JSON")
    async with guard.session_lock("s") as session:
        session["m"] = 2
    stored = record("s").raw
    assert (stored[b"n"], stored[b"m"]) == (b"\x80 not JSON", b"2")


async def test_a_foreign_field_name_is_an_error_that_leaves_no_lock(guard: SessionGuard, record: Look) -> None:
    await guard.create({"n": 1}, sid="s")
    record("s").client.hset(record("s").keys.session, b"\xff\xfe", b"1")
    with pytest.raises(CodecError):
        async with guard.session_lock("s"):
            pytest.fail("entered")
    assert record("s").free
    assert record("s").raw[b"\xff\xfe"] == b"1"


# --- before the end


async def test_an_early_release_saves_and_frees(guard: SessionGuard, node: Node, record: Look) -> None:
    async with guard.session_lock("s") as session:
        session["n"] = 1
        lease = session.lease
        assert lease is not None
        await session.release()
        assert (lease.released, lease.remaining(), record("s").free) == (True, 0.0, True)
        assert record("s").data == {"n": 1}
        async with node().session_lock("s", wait=0) as other:
            other["n"] += 1
        assert session["n"] == 1  # reading stays possible
        with pytest.raises(ReadOnlySession):
            session["n"] = 5
        with pytest.raises(ReadOnlySession):
            del session["n"]
        await session.release()  # a second time does nothing
    assert record("s").data == {"n": 2}


async def test_save_saves_now_and_keeps_the_lock(guard: SessionGuard, record: Look) -> None:
    with pytest.raises(ZeroDivisionError):
        async with guard.session_lock("s") as session:
            lease = session.lease
            assert lease is not None
            session["list"] = [1]
            await session.save()
            assert (record("s").data, record("s").lock, session.version) == ({"list": [1]}, lease.token, 1)
            assert not session.new
            session["list"].append(2)
            await session.save()
            assert (record("s").data, record("s").version, session.version) == ({"list": [1, 2]}, 2, 2)
            await session.save()  # nothing to do
            assert record("s").version == 2
            assert record("s").fence == lease.fencing_token
            session["list"].append(3)
            raise ZeroDivisionError
    assert record("s").data == {"list": [1, 2]}


async def test_a_save_after_a_save_sends_only_what_is_new(guard: SessionGuard, record: Look) -> None:
    await guard.create({"a": 1, "b": 1}, sid="s")
    async with guard.session_lock("s") as session:
        session["a"] = 2
        await session.save()
        record("s").write("a", b"7")
        session["b"] = 2
    assert record("s").data == {"a": 7, "b": 2}


async def test_immediate_saves(guard: SessionGuard, record: Look) -> None:
    async with guard.session_lock("s", session=SessionPolicy(save="immediate")) as session:
        session["a"] = 1
        session["b"] = 2
        await record("s").until(lambda stored: stored.data == {"a": 1, "b": 2})
        assert record("s").lock is not None


async def test_after_the_block_a_change_is_an_error(guard: SessionGuard) -> None:
    async with guard.session_lock("s") as session:
        session["n"] = 1
    with pytest.raises(ReadOnlySession):
        session["n"] = 2
    with pytest.raises(ReadOnlySession):
        await session.save()


# --- names of keys


@pytest.mark.parametrize(
    "key", ["#", "##", "#fence", "#version", "#created", "##fence", "#destroyed", "", " ", "}{", "ключ"]
)
async def test_a_key_may_have_any_name(guard: SessionGuard, record: Look, key: str) -> None:
    async with guard.session_lock("s") as session:
        session[key] = {"is": key}
    async with guard.session_lock("s") as session:
        assert dict(session) == {key: {"is": key}}
        session[key]["changed"] = True
    async with guard.session_lock("s") as session:
        assert dict(session) == {key: {"is": key, "changed": True}}
        assert (session.version, record("s").version) == (2, 2)
        del session[key]
    assert dict(await guard.read("s")) == {}
    info = await guard.inspect("s")
    assert (info.exists, info.destroyed) == (True, False)


async def test_a_key_must_be_text(guard: SessionGuard) -> None:
    with pytest.raises(CodecError):
        async with guard.session_lock("s") as session:
            session[1] = 1  # type: ignore[index]
    with pytest.raises(CodecError):
        async with guard.session_lock("s") as session:
            session["\ud800"] = 1
