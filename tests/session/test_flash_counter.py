"""Flash messages and counters."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cryptography.fernet import Fernet

from sessionlock import FernetCodec, JsonCodec, LeasePolicy, SessionGuard, SessionPolicy
from sessionlock.errors import (
    CodecError,
    ConfigurationError,
    LeaseLost,
    ReadOnlySession,
    SessionConflict,
    SessionDestroyed,
    SessionNotFound,
)
from tests.harness.deployments import MakeGuard
from tests.harness.stored import Look
from tests.session import MODES

pytestmark = pytest.mark.anyio


# --- flash messages


@MODES
async def test_messages_are_delivered_in_order_and_once(node: MakeGuard, mode: Any) -> None:
    guard = node()
    async with guard.session_lock("s", mode=mode) as session:
        session.flash("info", "one")
        session.flash("error", {"text": "two", "field": ["name"]})
    async with guard.session_lock("s", mode=mode) as session:
        session.flash("info", "one")
        assert session.pop_flashes() == [
            ("info", "one"),
            ("error", {"text": "two", "field": ["name"]}),
            ("info", "one"),
        ]
        assert session.pop_flashes() == []
    async with guard.session_lock("s", mode=mode) as session:
        assert session.pop_flashes() == []


async def test_nothing_to_pop_is_no_change(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"a": 1}, sid="s")
    async with guard.session_lock("s") as session:
        assert session.pop_flashes() == []
    assert stored("s").data == {"a": 1}
    assert stored("s").version == 1


async def test_the_same_message_twice_is_two_messages(node: MakeGuard) -> None:
    guard = node()
    await guard.create({}, sid="s")
    async with guard.session_lock("s", mode="optimistic") as one:
        async with guard.session_lock("s", mode="optimistic") as two:
            two.flash("info", "saved")
        one.flash("info", "saved")
    async with guard.session_lock("s") as session:
        assert session.pop_flashes() == [("info", "saved")] * 2


@MODES
async def test_a_message_that_two_pop_is_delivered_to_one(node: MakeGuard, mode: Any) -> None:
    guard = node()
    async with guard.session_lock("s") as session:
        session.flash("info", "once")
    delivered = []
    with pytest.raises(SessionConflict) as caught:
        async with guard.session_lock("s", mode=mode) as one:
            async with guard.session_lock("s", mode="optimistic") as two:
                shown = two.pop_flashes()
            delivered += shown
            shown = one.pop_flashes()
        delivered += shown
    assert caught.value.keys == ("_flashes",)
    assert delivered == [("info", "once")]
    async with guard.session_lock("s") as session:
        assert session.pop_flashes() == []


@MODES
async def test_popping_while_another_leaves_one_keeps_that(node: MakeGuard, mode: Any) -> None:
    guard = node()
    async with guard.session_lock("s") as session:
        session.flash("info", "old")
    async with guard.session_lock("s", mode=mode) as one:
        async with guard.session_lock("s", mode="optimistic") as two:
            two.flash("info", "new")
        assert one.pop_flashes() == [("info", "old")]
    async with guard.session_lock("s") as session:
        assert session.pop_flashes() == [("info", "new")]


async def test_many_leave_and_many_pop(node: MakeGuard) -> None:
    guards = [node(), node(), node(commit_by="watch")]
    await guards[0].create({}, sid="s")
    delivered: list[Any] = []
    acknowledged: list[Any] = []

    async def leave(number: int) -> None:
        mode: Any = ("lock", "optimistic")[number % 2]
        async with guards[number % 3].session_lock("s", mode=mode) as session:
            session.flash("info", number)
        acknowledged.append(number)

    async def pop(number: int) -> None:
        guard = guards[number % 3]
        if number % 2:
            async with guard.session_lock("s") as session:
                shown = session.pop_flashes()
        else:
            shown = await guard.transaction("s", lambda session: session.pop_flashes())
        delivered.extend(message for _, message in shown)

    results = await asyncio.gather(*map(leave, range(24)), *map(pop, range(8)), return_exceptions=True)
    assert all(isinstance(result, (SessionConflict, type(None))) for result in results), results
    async with guards[0].session_lock("s") as session:
        delivered.extend(message for _, message in session.pop_flashes())
    assert sorted(delivered) == sorted(acknowledged)


async def test_a_message_that_cannot_be_stored(node: MakeGuard, stored: Look) -> None:
    guard = node()
    with pytest.raises(CodecError, match="_flashes"):
        async with guard.session_lock("s") as session:
            session.flash("info", object())
    assert stored("s").data == {}


async def test_read_mode_does_not_pop(node: MakeGuard) -> None:
    guard = node()
    async with guard.session_lock("s") as session:
        session.flash("info", "hello")
    seen = await guard.read("s")
    with pytest.raises(ReadOnlySession):
        seen.pop_flashes()
    async with guard.session_lock("s") as session:
        assert session.pop_flashes() == [("info", "hello")]


# --- counters


@MODES
async def test_an_increment_takes_effect_at_once(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node()
    await guard.create({"n": 5, "a": 1}, sid="s")
    async with guard.session_lock("s", mode=mode) as session:
        session["a"] = 2
        assert await session.incr("n") == 6
        assert stored("s").data == {"n": 6, "a": 1}, "the counter at once, the other change at the end"
        assert session["n"] == 6
        assert await session.incr("n", -10) == -4
        assert await session.incr("new", 3) == 3
    assert stored("s").data == {"n": -4, "a": 2, "new": 3}
    assert session.version == stored("s").version


@MODES
async def test_an_increment_survives_the_bodys_error(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node()
    await guard.create({"n": 5}, sid="s")
    with pytest.raises(ZeroDivisionError):
        async with guard.session_lock("s", mode=mode) as session:
            await session.incr("n")
            raise ZeroDivisionError
    assert stored("s").data == {"n": 6}


@MODES
async def test_incr_and_plus_together(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node(session=SessionPolicy(merge={"n": "counter"}))
    await guard.create({"n": 5}, sid="s")
    async with guard.session_lock("s", mode=mode) as session:
        session["n"] += 1
        assert await session.incr("n") == 7
        session["n"] += 1
        await guard.incr("s", "n")
    assert stored("s").data == {"n": 9}


async def test_incr_after_an_unsaved_change_of_that_key(node: MakeGuard, stored: Look) -> None:
    """As documented: then everything is saved before."""
    guard = node()
    await guard.create({"n": 5, "a": 1}, sid="s")
    async with guard.session_lock("s") as session:
        session["n"], session["a"] = 10, 2
        assert await session.incr("n") == 11
        assert stored("s").data == {"n": 11, "a": 2}


@pytest.mark.parametrize("mode", ["lock", "optimistic"])
async def test_incr_in_a_new_session(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node()
    async with guard.session_lock("s", mode=mode) as session:
        assert session.new
        assert await session.incr("n", 2) == 2
        session["a"] = 1
    assert stored("s").data == {"n": 2, "a": 1}
    assert stored("s").client.pttl(stored("s").keys.session) > 3_600_000


@pytest.mark.parametrize("value", ["text", 1.5, [1], None, True, 10**15, "5"])
async def test_what_is_not_a_counter(node: MakeGuard, stored: Look, value: Any) -> None:
    guard = node()
    await guard.create({"n": value, "a": 1}, sid="s")
    with pytest.raises(SessionConflict, match="'n'"):
        await guard.incr("s", "n")
    with pytest.raises(SessionConflict, match="'n'"):
        async with guard.session_lock("s") as session:
            await session.incr("n")
    assert stored("s").data == {"n": value, "a": 1}
    assert stored("s").version == 1


@pytest.mark.parametrize("by", [1.5, "1", True, None, 10**15])
async def test_what_is_not_a_step(node: MakeGuard, stored: Look, by: Any) -> None:
    guard = node()
    await guard.create({"n": 1}, sid="s")
    with pytest.raises(ConfigurationError):
        await guard.incr("s", "n", by)
    assert stored("s").data == {"n": 1}


async def test_the_largest_steps_stay_exact(node: MakeGuard, stored: Look) -> None:
    """Beyond 2^53 a double would not."""
    guard = node()
    await guard.create({"n": 10**15 - 1}, sid="s")
    assert await guard.incr("s", "n", 10**15 - 1) == 2 * 10**15 - 2
    assert stored("s").data == {"n": 2 * 10**15 - 2}
    await guard.create({"n": -(10**15 - 1)}, sid="t")
    assert await guard.incr("t", "n", -(10**15 - 1)) == -2 * 10**15 + 2


async def test_no_session(node: MakeGuard, stored: Look) -> None:
    guard = node()
    with pytest.raises(SessionNotFound):
        await guard.incr("s", "n")
    await guard.destroy("s")
    with pytest.raises(SessionDestroyed):
        await guard.incr("s", "n")
    assert stored("s").data == {}


async def test_an_increment_under_a_lost_lock(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"n": 5}, sid="s")
    with pytest.raises(LeaseLost):
        async with guard.session_lock("s", lease=LeasePolicy(on_lost="flag")) as session:
            stored("s").client.delete(stored("s").keys.lock)
            await session.incr("n")
    assert stored("s").data == {"n": 5}


async def test_an_increment_of_an_expired_session_does_not_revive_it(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"n": 5}, sid="s")
    with pytest.raises(SessionNotFound):
        async with guard.session_lock("s", mode="optimistic") as session:
            stored("s").client.delete(stored("s").keys.session)
            await session.incr("n")
    assert stored("s").data == {}


async def test_in_read_mode(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"n": 5}, sid="s")
    with pytest.raises(ReadOnlySession):
        async with guard.session_lock("s", mode="read") as session:
            await session.incr("n")
    assert stored("s").data == {"n": 5}


async def test_a_codec_that_hides_numbers(node: MakeGuard, stored: Look) -> None:
    guard = node(codec=FernetCodec(JsonCodec(), Fernet.generate_key()), session=SessionPolicy(merge={"n": "counter"}))
    await guard.create({"n": 5}, sid="s")
    with pytest.raises(ConfigurationError, match="fernet"):
        await guard.incr("s", "n")
    async with guard.session_lock("s", mode="optimistic") as one:
        async with guard.session_lock("s", mode="optimistic") as two:
            two["n"] += 1
        one["n"] += 1
    assert (await guard.read("s"))["n"] == 7, "merging needs no digits in Redis"


async def test_many_increments_at_once(node: MakeGuard, stored: Look) -> None:
    guards = [node(), node()]
    await guards[0].create({"n": 0}, sid="s")

    policy = SessionPolicy(merge={"n": "counter"})

    async def held(guard: SessionGuard) -> None:
        async with guard.session_lock("s", wait=15, session=policy) as session:
            session["n"] += 1
            await session.incr("n")

    await asyncio.gather(
        *(guards[i % 2].incr("s", "n") for i in range(60)),
        *(held(guards[i % 2]) for i in range(10)),
    )
    assert stored("s").data == {"n": 80}
