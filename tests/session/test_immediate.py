"""Saving in the middle of a request: ``save="immediate"`` and ``await session.save()``."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from sessionlock import (
    CodecError,
    LeaseLost,
    LeasePolicy,
    ReadOnlySession,
    Session,
    SessionConflict,
    SessionDestroyed,
    SessionPolicy,
    SessionTooLarge,
)
from sessionlock.protocol import replies as protocol
from sessionlock.protocol.changes import Change
from sessionlock.protocol.record_calls import Save
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look

pytestmark = pytest.mark.anyio

IMMEDIATE = SessionPolicy(save="immediate")


async def ticks(count: int = 10) -> None:
    """Let the loop turn: what is ready to run runs."""
    for _ in range(count):
        await asyncio.sleep(0)


SAVE, RELEASE = calls_of("save"), calls_of("release")


async def test_each_change_is_stored_while_the_request_runs(node: MakeGuard, stored: Look) -> None:
    guard, seen = node(), stored("s")
    async with guard.session_lock("s", session=IMMEDIATE) as session:
        session["a"] = 1
        await seen.until(lambda s: s.data == {"a": 1})
        session["b"] = 2
        await seen.until(lambda s: s.data == {"a": 1, "b": 2})
        del session["a"]
        await seen.until(lambda s: s.data == {"b": 2})
        assert session.lease is not None
        assert seen.lock == session.lease.token, "the lock is kept"


async def test_what_the_body_raises_does_not_take_back_what_was_stored(node: MakeGuard, stored: Look) -> None:
    guard, seen = node(), stored("s")
    with pytest.raises(ZeroDivisionError):
        async with guard.session_lock("s", session=IMMEDIATE) as session:
            session["a"] = 1
            await seen.until(lambda s: s.data == {"a": 1})
            raise ZeroDivisionError
    assert seen.data == {"a": 1}
    assert seen.free


async def test_without_it_nothing_is_stored_before_the_end(node: MakeGuard, stored: Look) -> None:
    guard = node()
    async with guard.session_lock("s") as session:
        session["a"] = 1
        await asyncio.sleep(0)
        assert stored("s").data == {}
        await session.save()
        assert stored("s").data == {"a": 1}
        session["b"] = 1
    assert stored("s").data == {"a": 1, "b": 1}


async def test_assignments_of_one_tick_travel_together(node: MakeGuard, stored: Look) -> None:
    guard = node()
    async with guard.session_lock("s", session=IMMEDIATE) as session:
        for n in range(10):
            session[f"k{n}"] = n
        await session.save()
        assert stored("s").version == 1
        assert len(stored("s").data) == 10


async def test_saves_are_in_order(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """However slow one is: the next one follows it."""
    guard = node(proxy.url)
    async with guard.session_lock("s", session=IMMEDIATE) as session:
        proxy.delay(0.02, "requests")
        for n in range(5):
            session["n"] = n
            await ticks()
        await session.save()
        assert stored("s").data == {"n": 4}
        assert 2 <= stored("s").version <= 5
        proxy.delay(0)


async def test_a_change_during_a_save_is_not_lost(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    guard = node(proxy.url)
    async with guard.session_lock("s", session=IMMEDIATE) as session:
        proxy.hold_requests(SAVE)
        session["n"], session["list"] = 1, [1]
        await proxy.held.wait()
        session["n"] = 2
        session["list"].append(2)
        session["new"] = 1
        await proxy.let_go()
        await session.save()
        assert stored("s").data == {"n": 2, "list": [1, 2], "new": 1}


async def test_a_deep_change_during_an_explicit_save(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    guard = node(proxy.url)
    async with guard.session_lock("s") as session:
        proxy.hold_requests(SAVE)
        session["list"] = [1]
        saving = asyncio.ensure_future(session.save())
        await proxy.held.wait()
        session["list"].append(2)
        await proxy.let_go()
        await saving
    assert stored("s").data == {"list": [1, 2]}


@pytest.mark.parametrize("existed", [True, False])
@pytest.mark.parametrize("again", [True, False])
async def test_a_delete_during_a_save(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, existed: bool, again: bool
) -> None:
    guard = node(proxy.url)
    await node().create({"k": 0} if existed else {}, sid="s")
    async with guard.session_lock("s", session=IMMEDIATE) as session:
        proxy.hold_requests(SAVE)
        session["k"] = 1
        await proxy.held.wait()
        del session["k"]
        assert "k" not in session
        if again:
            session["k"] = 1
        await proxy.let_go()
    assert stored("s").data == ({"k": 1} if again else {})


async def test_setting_again_during_the_save_of_a_delete(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    guard = node(proxy.url)
    await node().create({"k": 0}, sid="s")
    async with guard.session_lock("s", session=IMMEDIATE) as session:
        proxy.hold_requests(SAVE)
        del session["k"]
        await proxy.held.wait()
        session["k"] = 0
        await proxy.let_go()
        await session.save()
        assert stored("s").data == {"k": 0}
        assert dict(session) == {"k": 0}


async def test_a_save_whose_reply_is_lost(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    guard = node(proxy.url)
    await node().create({"n": 1}, sid="s")
    async with guard.session_lock("s", session=IMMEDIATE) as session:
        fault = proxy.drop_next_reply(SAVE)
        session["n"] += 1
        await session.save()
        session["n"] += 1
    assert fault.count == 1
    assert stored("s").data == {"n": 3}
    assert stored("s").version == 3


# --- errors


async def test_an_error_surfaces_at_the_next_save(node: MakeGuard, stored: Look) -> None:
    guard = node()
    async with guard.session_lock("s", session=IMMEDIATE) as session:
        session["bad"] = object()
        with pytest.raises(CodecError, match="bad"):
            await session.save()
        del session["bad"]
        session["good"] = 1
    assert stored("s").data == {"good": 1}


async def test_an_error_surfaces_at_the_end(node: MakeGuard, stored: Look) -> None:
    guard = node()
    with pytest.raises(CodecError, match="bad"):
        async with guard.session_lock("s", session=IMMEDIATE) as session:
            session["bad"] = object()
            await ticks()
    assert stored("s").free


async def test_an_error_is_raised_once(node: MakeGuard, stored: Look) -> None:
    guard = node()
    async with guard.session_lock("s", session=SessionPolicy(save="immediate", max_field=10)) as session:
        session["k"] = "x" * 20
        with pytest.raises(SessionTooLarge):
            await session.save()
        session["k"] = "x"
        await session.save()
        assert stored("s").data == {"k": "x"}


async def test_an_error_nobody_asks_for_does_not_hide_the_bodys_own(node: MakeGuard, stored: Look) -> None:
    guard = node()
    with pytest.raises(ZeroDivisionError):
        async with guard.session_lock("s", session=IMMEDIATE) as session:
            session["bad"] = object()
            await ticks()
            raise ZeroDivisionError
    assert stored("s").free


async def test_a_conflict_of_an_immediate_save(node: MakeGuard, stored: Look) -> None:
    guard = node()
    await guard.create({"k": 1}, sid="s")
    with pytest.raises(SessionConflict) as caught:
        async with guard.session_lock("s", session=IMMEDIATE) as session:
            async with guard.session_lock("s", mode="optimistic") as other:
                other["k"] = 2
            session["k"] = 3
            await session.save()
    assert caught.value.keys == ("k",)
    assert stored("s").data == {"k": 2}
    assert stored("s").free


async def test_the_session_is_destroyed_meanwhile(node: MakeGuard, stored: Look) -> None:
    guard = node()
    with pytest.raises(SessionDestroyed):
        async with guard.session_lock("s", session=IMMEDIATE) as session:
            session["k"] = 1
            await session.save()
            await guard.destroy("s")
            session["k"] = 2
            await session.save()
    assert stored("s").data == {}
    assert stored("s").free


async def test_the_lease_is_lost_meanwhile(node: MakeGuard, stored: Look) -> None:
    guard = node()
    with pytest.raises(LeaseLost):
        async with guard.session_lock("s", lease=LeasePolicy(on_lost="flag"), session=IMMEDIATE) as session:
            stored("s").client.delete(stored("s").keys.lock)
            session["k"] = 2
            await session.save()
    assert stored("s").data == {}


# --- cancellation


async def test_a_cancelled_save_is_not_a_lost_one(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    guard = node(proxy.url)
    await node().create({"n": 1}, sid="s")
    async with guard.session_lock("s") as session:
        proxy.hold_requests(SAVE)
        session["n"] = 2
        with anyio.move_on_after(0.02):
            await session.save()
        session["n"] = 3
        await proxy.let_go()
    assert stored("s").data == {"n": 3}
    assert stored("s").free


async def test_a_cancelled_save_and_no_change_after_it(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    guard = node(proxy.url)
    async with guard.session_lock("s") as session:
        proxy.hold_requests(SAVE)
        session["n"] = 2
        with anyio.move_on_after(0.02):
            await session.save()
        letting = asyncio.ensure_future(proxy.let_go())
    await letting
    assert stored("s").data == {"n": 2}
    assert stored("s").version == 1
    assert session.version == 1


async def test_the_whole_body_is_cancelled_during_a_save(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """It is stored whole or not at all, and no lock is left."""
    guard = node(proxy.url)

    async def body() -> None:
        async with guard.session_lock("s", session=IMMEDIATE) as session:
            session["a"], session["b"] = 1, 1
            await session.save()
            await asyncio.Event().wait()

    proxy.hold_requests(SAVE)
    task = asyncio.ensure_future(body())
    await proxy.held.wait()
    task.cancel()
    await asyncio.sleep(0)
    await proxy.let_go()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stored("s").until(lambda s: s.free)
    assert stored("s").data in ({"a": 1, "b": 1}, {})


# --- after a merge


async def test_a_value_that_is_kept_over_a_merging_save_stays_the_sessions_own(node: MakeGuard, stored: Look) -> None:
    """The application holds on to ``cart``; a save merges; what it appends to ``cart`` afterwards must not vanish."""
    guard = node(session=SessionPolicy(merge={"cart": "append"}))
    await guard.create({"cart": []}, sid="s")
    async with guard.session_lock("s") as session:
        cart = session["cart"]
        cart.append("A")
        async with guard.session_lock("s", mode="optimistic") as other:
            other["cart"].append("B")
        await session.save()
        assert stored("s").data == {"cart": ["B", "A"]}
        cart.append("C")
    assert stored("s").data == {"cart": ["B", "A", "C"]}


# --- after the end


async def test_a_change_while_the_end_is_under_way_is_refused_or_stored(
    proxy: FaultyProxy, node: MakeGuard, stored: Look
) -> None:
    """A task of the handler goes on after the block has begun to end: its change is stored, or it is told."""
    await late_change(proxy, node, stored, SessionPolicy())


async def test_an_immediate_change_while_the_end_is_under_way_is_refused_or_stored(
    proxy: FaultyProxy, node: MakeGuard, stored: Look
) -> None:
    await late_change(proxy, node, stored, IMMEDIATE)


async def late_change(proxy: FaultyProxy, node: MakeGuard, stored: Look, policy: SessionPolicy) -> None:
    guard = node(proxy.url)
    await node().create({}, sid="s")
    told: list[BaseException] = []

    async def later(session: Session) -> None:
        await proxy.held.wait()
        try:
            session["late"] = 1
        except ReadOnlySession as error:
            told.append(error)
        await ticks()
        await proxy.let_go()

    async with guard.session_lock("s", session=policy) as session:
        session["early"] = 1
        await session.save()
        proxy.hold_requests(RELEASE)
        task = asyncio.ensure_future(later(session))
    await task
    assert told or stored("s").data.get("late") == 1, "lost without a word"


async def test_a_save_behind_the_release_is_not_reported_as_done(node: MakeGuard, stored: Look) -> None:
    """A save that reaches Redis after its own acquisition was released did nothing, and says so."""
    guard = node()
    async with guard.session_lock("s") as session:
        lease = session.lease
        assert lease is not None
        session["a"] = 1
    keys = stored("s").keys
    call = Save(keys, lease.token, lease.fencing_token, "", SessionPolicy(), [Change("s", b"b", b"1", "")])
    outcome = await guard.runtime().executor.run(call)
    assert stored("s").data == {"a": 1}
    assert not isinstance(outcome, protocol.Committed), "what was never stored is reported as stored"


@pytest.mark.parametrize("mode", ["optimistic", "last_write_wins"])
async def test_without_the_lock_changes_are_saved_at_the_end(node: MakeGuard, stored: Look, mode: Any) -> None:
    """Documented: without the lock ``immediate`` does not save by itself (a merge may be needed); ``save()`` does."""
    guard = node()
    async with guard.session_lock("s", mode=mode, session=IMMEDIATE) as session:
        session["a"] = 1
        await ticks()
        assert stored("s").data == {}
        await session.save()
        assert stored("s").data == {"a": 1}
        session["b"] = 1
    assert stored("s").data == {"a": 1, "b": 1}
