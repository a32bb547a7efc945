"""The three losses of the analysis, in every mode and engine that promises to keep what two nodes add at once.

*Cart*: two nodes add a product each, both must be there. *Flash*: two nodes leave a message each, both are delivered.
*Counter*: 5, and two nodes add one each: 7.

Each way of writing is a function that opens the session, changes it and waits at the barrier while it is open, so that
the two nodes overlap for sure; under the lock the second one cannot reach the barrier, so there it is enough that the
first holds when the second asks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest

from sessionlock import Session, SessionConflict, SessionGuard, SessionPolicy
from tests.harness.deployments import MakeGuard
from tests.harness.stored import Look

pytestmark = pytest.mark.anyio

Loss = Literal["cart", "flash", "counter"]
LOSSES: tuple[Loss, ...] = ("cart", "flash", "counter")
MERGING = {"cart": "append", "visits": "counter"}


class Meeting:
    """Both nodes have loaded before either saves, where the mode lets both in."""

    def __init__(self, parties: int = 2) -> None:
        self._missing = parties
        self._all = asyncio.Event()
        self.overlapped = False

    async def meet(self, within: float | None = None) -> None:
        """Wait for the others; for at most ``within`` seconds where a lock may keep them out."""
        self._missing -= 1
        if self._missing <= 0:
            self.overlapped = True
            self._all.set()
        try:
            await asyncio.wait_for(self._all.wait(), within)
        except asyncio.TimeoutError:
            return


def change(session: Session, loss: Loss, node: int) -> None:
    if loss == "cart":
        session["cart"] = [*session.get("cart", []), f"product {node}"]
    elif loss == "flash":
        session.flash("info", f"message {node}")
    else:
        session["visits"] = session.get("visits", 0) + 1


def deep_change(session: Session, loss: Loss, node: int) -> None:
    if loss == "cart":
        session["cart"].append(f"product {node}")
    else:
        change(session, loss, node)


Way = Callable[[SessionGuard, Loss, int, Meeting], Awaitable[None]]


def with_lock(
    save: Literal["end_of_request", "immediate"], merge: dict[str, str], how: Any = change, patience: float = 0.03
) -> Way:
    """``patience``: seconds until the other one must have arrived; short where the lock keeps it out."""

    async def write(guard: SessionGuard, loss: Loss, node: int, meeting: Meeting) -> None:
        async with guard.session_lock("s", session=SessionPolicy(save=save, merge=merge)) as session:
            how(session, loss, node)
            await meeting.meet(patience)

    return write


async def with_explicit_saves(guard: SessionGuard, loss: Loss, node: int, meeting: Meeting) -> None:
    async with guard.session_lock("s") as session:
        change(session, loss, node)
        await session.save()
        await meeting.meet(0.03)


async def released_early(guard: SessionGuard, loss: Loss, node: int, meeting: Meeting) -> None:
    async with guard.session_lock("s") as session:
        change(session, loss, node)
        await meeting.meet(0.03)
        await session.release()


def without_lock(mode: Any, how: Any = change) -> Way:
    async def write(guard: SessionGuard, loss: Loss, node: int, meeting: Meeting) -> None:
        async with guard.session_lock("s", mode=mode, session=SessionPolicy(merge=MERGING)) as session:
            how(session, loss, node)
            await meeting.meet()

    return write


def as_transaction(merge: dict[str, str]) -> Way:
    async def write(guard: SessionGuard, loss: Loss, node: int, meeting: Meeting) -> None:
        first = True

        async def body(session: Session) -> None:
            nonlocal first
            change(session, loss, node)
            if first:
                first = False
                await meeting.meet()

        await guard.transaction("s", body, session=SessionPolicy(merge=merge))

    return write


async def as_attempts(guard: SessionGuard, loss: Loss, node: int, meeting: Meeting) -> None:
    first = True
    async for attempt in guard.attempts("s"):
        async with attempt as session:
            change(session, loss, node)
            if first:
                first = False
                await meeting.meet()


WAYS: dict[str, tuple[Way, Way]] = {
    "lock": (with_lock("end_of_request", {}),) * 2,
    "lock, deep changes": (with_lock("end_of_request", {}, deep_change),) * 2,
    "lock, strategies": (with_lock("end_of_request", MERGING),) * 2,
    "lock, immediate": (with_lock("immediate", {}),) * 2,
    "lock, explicit save": (with_explicit_saves,) * 2,
    "lock, released early": (released_early,) * 2,
    "optimistic": (without_lock("optimistic"),) * 2,
    "optimistic, deep changes": (without_lock("optimistic", deep_change),) * 2,
    "strategies in mode last_write_wins": (without_lock("last_write_wins"),) * 2,
    "transaction": (as_transaction({}),) * 2,
    "transaction, strategies": (as_transaction(MERGING),) * 2,
    "attempts": (as_attempts,) * 2,
    "one locked, one optimistic": (with_lock("end_of_request", MERGING, patience=5), without_lock("optimistic")),
    "one locked, one transaction": (with_lock("end_of_request", MERGING, patience=5), as_transaction({})),
    "one immediate, one optimistic": (with_lock("immediate", MERGING, patience=5), without_lock("optimistic")),
    "one optimistic, one transaction": (without_lock("optimistic"), as_transaction({})),
    "one optimistic, one last_write_wins": (without_lock("optimistic"), without_lock("last_write_wins")),
}
LOCK_ONLY = {name for name in WAYS if name.startswith("lock")}
CASES = [
    pytest.param(name, engine, id=f"{name}-{engine}")
    for name in WAYS
    for engine in (("auto",) if name in LOCK_ONLY else ("script", "watch"))
]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("way", "engine"), CASES)
async def test_nothing_is_lost(node: MakeGuard, stored: Look, way: str, engine: Any, loss: Loss) -> None:
    nodes = node(commit_by=engine), node(commit_by=engine)
    await nodes[0].create({"cart": [], "visits": 5}, sid="s")
    meeting = Meeting()
    first, second = WAYS[way]
    await asyncio.gather(first(nodes[0], loss, 1, meeting), second(nodes[1], loss, 2, meeting))
    assert meeting.overlapped, "the two did not meet: this shows nothing"
    await everything_kept(nodes[0], loss)
    assert stored("s").free


async def everything_kept(guard: SessionGuard, loss: Loss) -> None:
    """As a page that shows the session would see it."""
    async with guard.session_lock("s") as session:
        if loss == "cart":
            assert sorted(session["cart"]) == ["product 1", "product 2"]
        elif loss == "flash":
            assert sorted(session.pop_flashes()) == [("info", "message 1"), ("info", "message 2")]
        else:
            assert session["visits"] == 7
    async with guard.session_lock("s") as session:
        assert session.pop_flashes() == [], "delivered twice"


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("way", ["lock", "optimistic", "transaction", "attempts", "one locked, one optimistic"])
async def test_nothing_is_lost_in_a_session_that_both_create(node: MakeGuard, way: str, loss: Loss) -> None:
    nodes = node(), node()
    meeting = Meeting()
    first, second = WAYS[way]
    await asyncio.gather(first(nodes[0], loss, 1, meeting), second(nodes[1], loss, 2, meeting))
    assert meeting.overlapped
    async with nodes[0].session_lock("s") as session:
        if loss == "counter":
            assert session["visits"] == 2
        elif loss == "cart":
            assert sorted(session["cart"]) == ["product 1", "product 2"]
        else:
            assert len(session.pop_flashes()) == 2


# --- the counter as an operation of the server


async def incr_in_lock(guard: SessionGuard, meeting: Meeting) -> None:
    async with guard.session_lock("s") as session:
        await session.incr("visits")
        await meeting.meet(0.03)


async def incr_optimistic(guard: SessionGuard, meeting: Meeting) -> None:
    async with guard.session_lock("s", mode="optimistic") as session:
        await meeting.meet()
        await session.incr("visits")


async def incr_bare(guard: SessionGuard, meeting: Meeting) -> None:
    await meeting.meet()
    await guard.incr("s", "visits")


async def plus_in_lock(guard: SessionGuard, meeting: Meeting) -> None:
    async with guard.session_lock("s", session=SessionPolicy(merge=MERGING)) as session:
        session["visits"] += 1
        await meeting.meet(0.03)


async def plus_optimistic(guard: SessionGuard, meeting: Meeting) -> None:
    async with guard.session_lock("s", mode="optimistic", session=SessionPolicy(merge=MERGING)) as session:
        session["visits"] += 1
        await meeting.meet()


COUNTING = [incr_in_lock, incr_optimistic, incr_bare, plus_in_lock, plus_optimistic]


@pytest.mark.parametrize("second", COUNTING)
@pytest.mark.parametrize("first", COUNTING)
async def test_five_becomes_seven(node: MakeGuard, stored: Look, first: Any, second: Any) -> None:
    nodes = node(), node()
    await nodes[0].create({"visits": 5}, sid="s")
    meeting = Meeting()
    await asyncio.gather(first(nodes[0], meeting), second(nodes[1], meeting))
    assert stored("s").data == {"visits": 7}


# --- what is lost, and where


LOSSY = SessionPolicy(merge={"theme": "last_write_wins", "cart": "append"})


@pytest.mark.parametrize("engine", ["script", "watch"])
@pytest.mark.parametrize("mode", ["optimistic", "last_write_wins"])
async def test_last_write_wins_loses_where_it_was_declared(
    node: MakeGuard, stored: Look, engine: Any, mode: Any
) -> None:
    """Documented: of two values of a key declared ``last_write_wins`` one is gone, silently."""
    one, two = node(commit_by=engine, session=LOSSY), node(commit_by=engine, session=LOSSY)
    await one.create({"theme": [], "cart": []}, sid="s")
    async with one.session_lock("s", mode=mode) as first:
        async with two.session_lock("s", mode=mode) as second:
            second["theme"] = [*second["theme"], "two"]
            second["cart"].append("two")
        first["theme"] = [*first["theme"], "one"]
        first["cart"].append("one")
    assert stored("s").data == {"theme": ["one"], "cart": ["two", "one"]}


@pytest.mark.parametrize("engine", ["script", "watch"])
async def test_last_write_wins_loses_nothing_of_keys_that_were_not_changed(
    node: MakeGuard, stored: Look, engine: Any
) -> None:
    one, two = node(commit_by=engine, session=LOSSY), node(commit_by=engine, session=LOSSY)
    await one.create({"theme": "base", "cart": [], "user": 1}, sid="s")
    async with one.session_lock("s", mode="last_write_wins") as first:
        async with two.session_lock("s", mode="last_write_wins") as second:
            second["user"], second["new"] = 2, 1
            second["theme"] = "two"
        assert first["theme"] == "base"
        first["cart"] = ["one"]
    assert stored("s").data == {"theme": "two", "cart": ["one"], "user": 2, "new": 1}


@pytest.mark.parametrize("engine", ["script", "watch"])
async def test_the_mode_does_not_weaken_keys_that_were_not_declared(node: MakeGuard, stored: Look, engine: Any) -> None:
    """A key's strategy is stronger than a request's mode: an undeclared key is critical in last_write_wins, too."""
    one, two = node(commit_by=engine), node(commit_by=engine)
    await one.create({"user": 1}, sid="s")
    with pytest.raises(SessionConflict) as caught:
        async with one.session_lock("s", mode="last_write_wins") as first:
            async with two.session_lock("s", mode="last_write_wins") as second:
                second["user"] = 2
            first["user"] = 3
    assert caught.value.keys == ("user",)
    assert stored("s").data == {"user": 2}


async def test_the_lock_keeps_even_keys_declared_last_write_wins(node: MakeGuard, stored: Look) -> None:
    """Two requests that both hold the lock never overlap, so there is no last write to win."""
    one, two = node(session=LOSSY), node(session=LOSSY)
    await one.create({"theme": []}, sid="s")

    async def add(guard: SessionGuard, name: str) -> None:
        async with guard.session_lock("s") as session:
            session["theme"].append(name)
            await asyncio.sleep(0)

    await asyncio.gather(add(one, "one"), add(two, "two"))
    assert sorted(stored("s").data["theme"]) == ["one", "two"]


async def test_a_holder_overwrites_a_key_declared_last_write_wins(node: MakeGuard, stored: Look) -> None:
    """Documented: declared so, the holder's value wins over a commit that landed while it held the lock."""
    one, two = node(session=LOSSY), node(session=LOSSY)
    await one.create({"theme": "base"}, sid="s")
    async with one.session_lock("s") as first:
        async with two.session_lock("s", mode="optimistic") as second:
            second["theme"] = "two"
        first["theme"] = "one"
    assert stored("s").data == {"theme": "one"}


async def test_last_write_wins_does_not_revive_a_session(node: MakeGuard, stored: Look) -> None:
    guard = node(session=LOSSY)
    await guard.create({"theme": "base"}, sid="s")
    with pytest.raises(Exception, match="destroyed"):
        async with guard.session_lock("s", mode="last_write_wins") as session:
            session["theme"] = "late"
            await guard.destroy("s")
    assert stored("s").data == {}
