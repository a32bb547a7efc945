"""Data that is wrong, huge or strange: a clear error or an exact round trip, and what is stored stays as it is."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from cryptography.fernet import Fernet

from sessionlock import (
    Codec,
    CodecError,
    FernetCodec,
    JsonCodec,
    MsgspecCodec,
    OrjsonCodec,
    SessionConflict,
    SessionLockError,
    SessionPolicy,
    SessionTooLarge,
)
from sessionlock.protocol.keys import keys_for
from tests.harness.deployments import MakeGuard
from tests.harness.stored import Look, Stored

pytestmark = pytest.mark.anyio

WAYS = ("lock", "read", "optimistic", "optimistic by watch", "last_write_wins", "transaction", "save")
WRITING = tuple(way for way in WAYS if way != "read")
KEY = keys_for("sl", "s").session
FERNET = Fernet.generate_key()
CODECS: dict[str, Callable[[], Codec]] = {
    "json": JsonCodec,
    "orjson": OrjsonCodec,
    "msgspec": MsgspecCodec,
    "fernet": lambda: FernetCodec(JsonCodec(), FERNET),
}


async def use(node: MakeGuard, way: str, body: Callable[[Any], Any], **options: Any) -> None:
    """Open the session in this way and run ``body`` with it."""
    guard = node(commit_by="watch" if way.endswith("watch") else "auto", **options)
    if way == "transaction":
        await guard.transaction("s", body)
        return
    mode: Any = "lock" if way == "save" else way.split()[0]
    async with guard.session_lock("s", mode=mode) as session:
        body(session)
        if way == "save":
            await session.save()


def raw(seen: Stored) -> dict[bytes, bytes]:
    """All that is stored, except for what every acquisition writes."""
    fields: dict[Any, Any] = seen.client.hgetall(KEY)
    return {name: value for name, value in fields.items() if name not in (b"#state", b"#holder", b"#away")}


# --- stored fields that cannot be read

CORRUPT = {
    "cut off": b'{"a": [1, 2',
    "empty": b"",
    "not utf-8": b"\xff\xfe\x00",
    "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94K\x01s.",
    "two values": b"1 2",
    "a bare word": b"hello",
    "python": b"{'a': 1}",
    "nan": b"NaN",
    "infinity": b"[-Infinity]",
    "too large for a float": b"1e999",
    "a lone surrogate": b'"\\ud800"',
    "an unknown tag": b'{"~object": "os.system"}',
    "the same name twice": b'{"a": 1, "a": 2}',
    "1000 levels": b"[" * 1000 + b"]" * 1000,
    "100000 levels": b'{"a":' * 100_000,
    "100000 digits": b"1" * 100_000,
    "a wrong base64": b'{"~bytes": "!"}',
    "zeros": b"\x00" * 100,
}


@pytest.mark.parametrize("codec", ["json", "orjson", "msgspec"])
@pytest.mark.parametrize("corrupt", CORRUPT)
async def test_a_corrupt_field_is_an_error_that_names_it(
    node: MakeGuard, stored: Look, corrupt: str, codec: str
) -> None:
    guard = node(codec=CODECS[codec]())
    await guard.create({"good": 1, "bad": 1}, sid="s")
    stored("s").client.hset(KEY, "bad", CORRUPT[corrupt])
    before = raw(stored("s"))
    with pytest.raises(CodecError, match="bad") as caught:
        async with guard.session_lock("s") as session:
            session["good"] = 2
            session.get("bad")
    assert caught.value.key == "bad"
    assert len(str(caught.value)) < 1000, "an error shows where, not all of it"
    assert raw(stored("s")) == before
    assert stored("s").free


async def damaged(node: MakeGuard, stored: Look) -> None:
    """A session with a field that can be read, and one that cannot."""
    await node().create({"good": 1, "bad": 1}, sid="s")
    stored("s").client.hset(KEY, "bad", b'{"a": ')


@pytest.mark.parametrize("way", WAYS)
async def test_a_corrupt_field_in_every_way_of_opening(node: MakeGuard, stored: Look, way: str) -> None:
    await damaged(node, stored)
    before = raw(stored("s"))
    with pytest.raises(CodecError, match="bad"):
        await use(node, way, lambda session: session["bad"])
    assert raw(stored("s")) == before
    assert stored("s").free


@pytest.mark.parametrize("way", WRITING)
async def test_a_corrupt_field_does_not_hinder_work_on_the_others(node: MakeGuard, stored: Look, way: str) -> None:
    await damaged(node, stored)
    await use(node, way, lambda session: session.__setitem__("good", session["good"] + 1))
    fields = raw(stored("s"))
    assert (fields[b"good"], fields[b"bad"]) == (b"2", b'{"a": ')


@pytest.mark.parametrize("way", WRITING)
async def test_a_corrupt_field_can_be_deleted(node: MakeGuard, stored: Look, way: str) -> None:
    await damaged(node, stored)
    await use(node, way, lambda session: session.__delitem__("bad"))
    assert stored("s").data == {"good": 1}


@pytest.mark.parametrize("way", WRITING)
async def test_a_corrupt_field_is_replaced_or_refused(node: MakeGuard, stored: Look, way: str) -> None:
    """Assigning to it never leaves a mixture."""
    await damaged(node, stored)
    try:
        await use(node, way, lambda session: session.__setitem__("bad", 2))
    except CodecError:
        assert raw(stored("s"))[b"bad"] == b'{"a": '
    else:
        assert raw(stored("s"))[b"bad"] == b"2"


@pytest.mark.parametrize("way", ["lock", "optimistic", "optimistic by watch"])
async def test_what_somebody_else_wrote_meanwhile_cannot_be_read(node: MakeGuard, stored: Look, way: str) -> None:
    """The merge of a conflict meets it."""
    await node().create({"n": 1, "m": 1}, sid="s")

    def body(session: Any) -> None:
        session["n"] += 1
        session["m"] += 1
        stored("s").client.hset(KEY, "n", b"\xff")

    with pytest.raises((CodecError, SessionConflict), match="n"):
        await use(node, way, body, session=SessionPolicy(merge={"n": "counter"}))
    fields = raw(stored("s"))
    assert (fields[b"n"], fields[b"m"]) == (b"\xff", b"1")
    assert stored("s").free


async def test_sealed_fields_that_were_tampered_with(node: MakeGuard, stored: Look) -> None:
    guard = node(codec=CODECS["fernet"]())
    await guard.create({"a": 1, "b": 2}, sid="s")
    client = stored("s").client
    client.hset(KEY, "a", client.hget(KEY, "b"))
    before = raw(stored("s"))
    with pytest.raises(CodecError, match="another field"):
        async with guard.session_lock("s") as session:
            session.get("a")
    with pytest.raises(CodecError, match="a"):
        async with node(codec=FernetCodec(JsonCodec(), Fernet.generate_key())).session_lock("s") as session:
            session.get("a")
    assert raw(stored("s")) == before


# --- a record that this library did not write


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["string", "list", "set", "zset"])
async def test_a_key_of_another_type(node: MakeGuard, stored: Look, way: str, kind: str) -> None:
    client = stored("s").client
    make: dict[str, Callable[[], Any]] = {
        "string": lambda: client.set(KEY, b"\x80\x04pickle", px=60_000),
        "list": lambda: client.rpush(KEY, "a"),
        "set": lambda: client.sadd(KEY, "a"),
        "zset": lambda: client.zadd(KEY, {"a": 1}),
    }
    make[kind]()
    before = client.dump(KEY)
    with pytest.raises(SessionLockError, match="WRONGTYPE"):
        await use(node, way, lambda session: None)
    assert client.dump(KEY) == before
    assert stored("s").free


@pytest.mark.parametrize("way", WAYS)
async def test_a_field_name_that_is_not_utf8(node: MakeGuard, stored: Look, way: str) -> None:
    await node().create({"good": 1}, sid="s")
    stored("s").client.hset(KEY, b"\xff\xfe", b"1")
    before = raw(stored("s"))
    with pytest.raises(CodecError, match="UTF-8"):
        await use(node, way, lambda session: None)
    assert raw(stored("s")) == before
    assert stored("s").free


@pytest.mark.parametrize("way", ["lock", "optimistic", "optimistic by watch"])
async def test_a_hash_without_our_fields_is_not_ours_to_expire(node: MakeGuard, stored: Look, way: str) -> None:
    """Somebody else's hash under our key: it is no session, and opening it does not give it a minute to live."""
    client = stored("s").client
    client.hset(KEY, mapping={"name": "theirs", "n": "5"})
    try:
        await use(node, way, lambda session: None)
    except SessionLockError:
        pass
    fields = client.hgetall(KEY)
    assert (fields[b"name"], fields[b"n"]) == (b"theirs", b"5")
    left = client.pttl(KEY)
    assert left == -1 or left > 600_000, "it would be gone soon"


RESERVED = ("#version", "#state", "#expires", "#holder", "#old", "#user")
GARBAGE = {"text": b"garbage", "bytes": b"\xff\xfe", "empty": b"", "number": b"-1", "huge": b"9" * 400, "nan": b"nan"}


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("field", RESERVED)
async def test_a_reserved_field_that_is_garbage(node: MakeGuard, stored: Look, field: str, garbage: str) -> None:
    """It works or it is one of our errors; nothing of the data is half changed, and no lock stays."""
    guards = {"script": node(), "watch": node(commit_by="watch")}
    cases: list[tuple[str, Any]] = [
        ("script", "lock"),
        ("script", "read"),
        ("script", "optimistic"),
        ("watch", "optimistic"),
    ]
    for engine, mode in cases:
        sid = f"{engine} {mode}"
        before = {"a": 1, "b": 1, "n": 1}
        await guards["script"].create(before, sid=sid)
        seen = stored(sid)
        seen.client.hset(seen.keys.session, field, GARBAGE[garbage])
        try:
            async with guards[engine].session_lock(sid, mode=mode) as session:
                if mode != "read":
                    session["a"], session["b"] = 2, 2
                    session.pop("n", None)
        except SessionLockError:
            expected = before
        else:
            expected = before if mode == "read" else {"a": 2, "b": 2}
        assert seen.data == expected, sid
        assert seen.free, sid


@pytest.mark.parametrize("field", RESERVED)
@pytest.mark.parametrize("garbage", ["text", "bytes"])
async def test_administration_of_a_record_with_garbage(node: MakeGuard, stored: Look, field: str, garbage: str) -> None:
    guard = node()
    await guard.create({"n": 1}, sid="s")
    stored("s").client.hset(KEY, field, GARBAGE[garbage])
    calls: list[Callable[[], Any]] = [
        lambda: guard.inspect("s"),
        lambda: guard.incr("s", "n"),
        lambda: guard.bind("s", "user"),
        lambda: guard.sessions_of("user"),
        lambda: guard.repair_index(),
        lambda: guard.regenerate("s"),
        lambda: guard.destroy("s"),
    ]
    for call in calls:
        try:
            await call()
        except SessionLockError:
            continue


# --- values that cannot be stored


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


def itself() -> Any:
    value: list[Any] = []
    value.append(value)
    return value


class Opaque:
    pass


IMPOSSIBLE: dict[str, Callable[[], Any]] = {
    "nan": lambda: math.nan,
    "infinity deep inside": lambda: {"a": [1, {"b": -math.inf}]},
    "a lone surrogate": lambda: "x\ud800y",
    "a lone surrogate in a name": lambda: {"\udfff": 1},
    "1000 levels": lambda: nested(1000),
    "100000 levels": lambda: nested(100_000),
    "itself": itself,
    "an object": Opaque,
    "a function": lambda: print,
    "a complex": lambda: 1j,
    "int names": lambda: {1: 2},
    "a set with a list": lambda: [{(1, 2)}, Opaque()],
}


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("what", IMPOSSIBLE)
async def test_a_value_that_cannot_be_stored(node: MakeGuard, stored: Look, what: str, codec: str) -> None:
    guard = node(codec=CODECS[codec]())
    await guard.create({"good": 1}, sid="s")
    before = raw(stored("s"))
    with pytest.raises(CodecError) as caught:
        async with guard.session_lock("s") as session:
            session["good"] = 2
            session["bad"] = IMPOSSIBLE[what]()
    assert caught.value.key == "bad"
    assert caught.value.path is not None
    assert len(str(caught.value)) < 1000
    assert raw(stored("s")) == before
    assert stored("s").free


@pytest.mark.parametrize("way", WRITING)
async def test_it_is_refused_in_every_way_of_writing(node: MakeGuard, stored: Look, way: str) -> None:
    await node().create({"good": 1}, sid="s")
    before = raw(stored("s"))
    with pytest.raises(CodecError, match=r"bad\.list\[1\]"):
        await use(node, way, lambda session: session.update(good=2, bad={"list": [1, math.nan]}))
    assert raw(stored("s")) == before
    assert stored("s").free


async def test_create_refuses_it_too(node: MakeGuard, stored: Look) -> None:
    with pytest.raises(CodecError, match="bad"):
        await node().create({"good": 1, "bad": math.nan}, sid="s")
    assert not stored("s").client.exists(KEY)


# --- too large


@pytest.mark.parametrize("way", WRITING)
async def test_ten_megabytes_are_too_large_before_anything_is_sent(node: MakeGuard, stored: Look, way: str) -> None:
    await node().create({"good": 1}, sid="s")
    before = raw(stored("s"))
    received = stored("s").client.info("stats")["total_net_input_bytes"]
    with pytest.raises(SessionTooLarge, match="max_field"):
        await use(node, way, lambda session: session.update(good=2, big="x" * 10_000_000))
    assert stored("s").client.info("stats")["total_net_input_bytes"] - received < 1_000_000
    assert raw(stored("s")) == before
    assert stored("s").free


async def test_many_fields_are_too_large_together(node: MakeGuard, stored: Look) -> None:
    guard = node(session=SessionPolicy(max_session=10_000))
    await guard.create({"a": "x" * 6_000}, sid="s")
    before = raw(stored("s"))
    with pytest.raises(SessionTooLarge, match="max_session"):
        async with guard.session_lock("s") as session:
            session["b"] = "x" * 6_000
    assert raw(stored("s")) == before
    async with guard.session_lock("s") as session:
        session["b"] = "x" * 6_000
        session["a"] = ""
    async with guard.session_lock("s") as session:
        del session["b"]
        session["c"] = "x" * 9_000
    assert stored("s").data == {"a": "", "c": "x" * 9_000}


@pytest.mark.parametrize("way", ["lock", "optimistic by watch"])
async def test_ten_megabytes_that_are_allowed(node: MakeGuard, stored: Look, way: str) -> None:
    """Exactly as they were."""
    policy = SessionPolicy(max_field=20_000_000, max_session=40_000_000)
    big = "é" * 5_000_000
    await use(node, way, lambda session: session.update(big=big), session=policy)
    async with node().session_lock("s", mode="read") as session:
        assert session["big"] == big
    await use(node, way, lambda session: session.update(small=len(session["big"])), session=policy)
    assert stored("s").data["small"] == 5_000_000


async def test_a_large_session_for_a_waiter(node: MakeGuard) -> None:
    """Too large to be pushed with the lock: the waiter loads it."""
    guard, other = node(session=SessionPolicy(max_field=20_000_000, max_session=40_000_000)), node()
    big = "x" * 5_000_000

    async def wait() -> int:
        async with other.session_lock("s", wait=10) as session:
            return len(session["big"])

    async with guard.session_lock("s") as session:
        session["big"] = big
        task = asyncio.ensure_future(wait())
        while not (await guard.inspect("s")).waiters:
            await asyncio.sleep(0.002)
    assert await task == 5_000_000


# --- strange keys

STRANGE = (
    "",
    " ",
    "#",
    "##",
    "#fence",
    "##fence",
    "###",
    "#version",
    "#created",
    "#destroyed",
    "#id",
    "_flashes_",
    "*",
    "\0",
    "a\r\nb",
    "é",
    "\N{PILE OF POO}",
    "\u2028",
    "{tag}",
    "x" * 10_000,
    "__class__",
    "~dt",
    "0",
)


@pytest.mark.parametrize("way", WRITING)
async def test_key_names_that_look_like_ours(node: MakeGuard, stored: Look, way: str) -> None:
    """Any str is a key; the reserved fields stay what they are."""
    values = {key: [number] for number, key in enumerate(STRANGE)}
    await use(node, way, lambda session: session.update(values))
    assert dict(await node().read("s")) == values
    info = await node().inspect("s")
    assert (info.exists, info.destroyed, info.version) == (True, False, 1)

    def change(session: Any) -> None:
        for key in STRANGE:
            assert session[key] == values[key]
            session[key].append("more")

    await use(node, way, change)
    assert dict(await node().read("s")) == {key: [*value, "more"] for key, value in values.items()}
    await use(node, way, lambda session: [session.pop(key) for key in STRANGE])
    assert dict(await node().read("s")) == {}
    assert (await node().inspect("s")).exists


@pytest.mark.parametrize("key", ["#fence", "##version", "", "a b", "\0"])
async def test_counting_and_merging_under_such_names(node: MakeGuard, key: str) -> None:
    guard = node(session=SessionPolicy(merge={key: "counter"}))
    await guard.create({key: 5}, sid="s")
    async with guard.session_lock("s") as session:
        session[key] += 1
        assert await guard.incr("s", key) == 6
    assert dict(await guard.read("s")) == {key: 7}


@pytest.mark.parametrize("way", WRITING)
async def test_a_key_with_a_lone_surrogate(node: MakeGuard, stored: Look, way: str) -> None:
    await node().create({"good": 1}, sid="s")
    before = raw(stored("s"))
    with pytest.raises(CodecError, match="surrogate"):
        await use(node, way, lambda session: session.update({"good": 2, "\ud800": 1}))
    assert raw(stored("s")) == before
    with pytest.raises(CodecError, match="surrogate"):
        await node().incr("s", "\ud800")
    assert stored("s").free


@pytest.mark.parametrize("key", [1, None, b"bytes", 1.5, ("a",), True])
async def test_keys_that_are_not_text(node: MakeGuard, stored: Look, key: Any) -> None:
    guard = node()
    await guard.create({"good": 1}, sid="s")
    async with guard.session_lock("s") as session:
        with pytest.raises(CodecError, match="str"):
            session[key] = 1
        with pytest.raises(CodecError, match="str"):
            session.setdefault(key, 1)
        with pytest.raises(KeyError):
            session[key]
        with pytest.raises(KeyError):
            del session[key]
        assert key not in session
        assert session.get(key) is None
        session["good"] = 2
    with pytest.raises((CodecError, TypeError)):
        await guard.incr("s", key)
    assert stored("s").data == {"good": 2}


class Name(str):
    pass


async def test_a_key_of_a_str_subclass(node: MakeGuard, stored: Look) -> None:
    """Stored as the text that it is, or refused; nothing in between."""
    async with node().session_lock("s") as session:
        try:
            session[Name("k")] = 1
        except CodecError:
            session["k"] = 1
    assert stored("s").data == {"k": 1}


# --- everything that can be stored comes back

EXACT: dict[str, Any] = {
    "none": None,
    "bools": [True, False],
    "ints": [0, -1, 2**53, 2**53 + 1, 2**64, -(2**200), 10**600],
    "floats": [0.0, -0.0, 1e300, 5e-324, 0.1, 1e16, 123456789.123456789],
    "texts": ["", "é", "\0", "\u2028", "\\ud800", "\N{PILE OF POO}", "~x", "#", '"', "a\r\n"],
    "bytes": [b"", b"\xff\x00"],
    "times": [datetime(2024, 2, 29, 12, 0, 0, 1, tzinfo=timezone.utc)],
    "ids": UUID(int=1),
    "decimal": [Decimal("1.10"), Decimal("-0"), Decimal("Infinity")],
    "sets": [{1, 2}, frozenset({"a"}), set()],
    "tuple": (1, (2,), []),
    "looks like a tag": [{"~dt": 1}, {"~~dt": 1}, {"~bytes": "!"}],
    "deep": nested(99),
    "empty": [{}, [], ""],
}


@pytest.mark.parametrize("codec", CODECS)
async def test_exact_round_trips_through_redis(node: MakeGuard, codec: str) -> None:
    guard = node(codec=CODECS[codec]())
    async with guard.session_lock("s") as session:
        session.update(EXACT)
    loaded = dict(await node(codec=CODECS[codec]()).read("s"))
    assert loaded == EXACT
    for key, value in EXACT.items():
        assert repr(loaded[key]) == repr(value), "types and order, too"
    async with guard.session_lock("s") as session:
        for key in session:
            assert session[key] == EXACT[key]
        assert not session.modified, "what was only read is no change"
