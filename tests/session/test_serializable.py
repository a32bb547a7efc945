"""Transactions are serializable: whatever happens at once, the outcome is that of some order, one after the other."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sessionlock import SessionConflict, SessionGuard, SessionPolicy
from sessionlock.embedded import EmbeddedServer

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.slow]

ENGINES = ("script", "watch")
Work = Callable[[Any], None]


@pytest.fixture(params=ENGINES)
def guard(request: pytest.FixtureRequest, node: Any) -> SessionGuard:
    guard: SessionGuard = node(commit_by=request.param)
    return guard


async def data_of(guard: SessionGuard) -> dict[str, Any]:
    return dict(await guard.read("s"))


async def against(guard: SessionGuard, ours: Work, theirs: Work) -> int:
    """A transaction during whose first attempt another one commits; how many attempts it took."""
    tries = 0

    async def change(session: Any) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            ours(session)
            await guard.transaction("s", theirs)
        else:
            ours(session)

    await guard.transaction("s", change)
    return tries


def copy(source: str, target: str) -> Work:
    def work(session: Any) -> None:
        session[target] = session.get(source, 0)

    return work


async def test_each_copies_the_others_key(guard: SessionGuard) -> None:
    await guard.create({"a": 1, "b": 2}, sid="s")
    assert await against(guard, copy("a", "b"), copy("b", "a")) == 2
    assert await data_of(guard) in ({"a": 1, "b": 1}, {"a": 2, "b": 2})


async def test_a_key_that_was_looked_for_and_is_there_now(guard: SessionGuard) -> None:
    await guard.create({"x": 0}, sid="s")

    def unless_closed(session: Any) -> None:
        session["x"] = "shut" if "closed" in session else "open"

    assert await against(guard, unless_closed, lambda session: session.__setitem__("closed", True)) == 2
    assert (await data_of(guard))["x"] == "shut"


async def test_a_key_that_was_read_and_is_gone(guard: SessionGuard) -> None:
    await guard.create({"x": 0, "limit": 3}, sid="s")

    def up_to(session: Any) -> None:
        session["x"] = session.get("limit", 0)

    assert await against(guard, up_to, lambda session: session.__delitem__("limit")) == 2
    assert await data_of(guard) == {"x": 0}


@pytest.mark.parametrize("look", [len, list, dict, lambda s: s == {}, lambda s: [*s.values()]])
async def test_iterating_sees_a_key_that_came_meanwhile(guard: SessionGuard, look: Any) -> None:
    await guard.create({"a": 1}, sid="s")

    def count(session: Any) -> None:
        look(session)
        session["seen"] = sorted(session.data.keys())

    assert await against(guard, count, lambda session: session.__setitem__("b", 2)) == 2
    assert (await data_of(guard))["seen"] == ["a", "b"]


async def test_what_was_not_read_does_not_count(guard: SessionGuard) -> None:
    await guard.create({"a": 1, "b": 2, "c": 3}, sid="s")
    assert await against(guard, copy("a", "b"), lambda session: session.__setitem__("c", 4)) == 1
    assert await data_of(guard) == {"a": 1, "b": 1, "c": 4}


async def test_a_value_too_large_to_be_sent_back_is_compared_too(guard: SessionGuard) -> None:
    await guard.create({"a": "x" * 10_000, "n": 0}, sid="s")

    def measure(session: Any) -> None:
        session["n"] = len(session["a"])

    assert await against(guard, measure, lambda session: session.__setitem__("a", "y" * 9_000)) == 2
    assert (await data_of(guard))["n"] == 9_000


async def test_a_key_that_was_written_and_is_as_it_was(guard: SessionGuard) -> None:
    """It would be otherwise if this one came second."""
    await guard.create({"x": 0, "a": 1}, sid="s")

    def nothing_much(session: Any) -> None:
        session["a"] = 1
        session["b"] = 2
        del session["b"]
        session["x"] = 1

    def both(session: Any) -> None:
        session["a"] = session["b"] = 7

    assert await against(guard, nothing_much, both) == 2
    assert await data_of(guard) == {"x": 1, "a": 1}


async def test_mode_optimistic_by_option(guard: SessionGuard) -> None:
    await guard.create({"a": 1, "b": 2}, sid="s")
    with pytest.raises(SessionConflict) as caught:
        async with guard.session_lock("s", mode="optimistic", serializable=True) as session:
            copy("a", "b")(session)
            await guard.transaction("s", copy("b", "a"))
    assert caught.value.keys == ("a",)
    assert caught.value.theirs == {"a": 2}
    async with guard.session_lock("s", mode="optimistic") as session:  # the default compares what is changed
        copy("a", "b")(session)
        await guard.transaction("s", lambda other: other.__setitem__("a", 7))
    assert await data_of(guard) == {"a": 7, "b": 2}


async def test_a_key_declared_last_write_wins_is_not_compared(node: Any) -> None:
    guard = node(session=SessionPolicy(merge={"a": "last_write_wins"}))
    await guard.create({"a": 1, "b": 2}, sid="s")
    assert await against(guard, copy("a", "b"), lambda session: session.__setitem__("a", 9)) == 1


# --- random transactions over three keys: every outcome is that of some serial order

KEYS = ("a", "b", "c")
STEPS = st.tuples(st.sampled_from(["copy", "plus", "put", "drop", "absent", "count"]), *[st.sampled_from(KEYS)] * 2)
TRANSACTION = st.lists(STEPS, min_size=1, max_size=3)


def do(steps: list[Any], session: Any) -> None:
    for name, one, other in steps:
        if name == "copy":
            session[one] = session.get(other, 0)
        elif name == "plus":
            session[one] = session.get(one, 0) + 1
        elif name == "put":
            session[one] = 7
        elif name == "drop":
            session.pop(one, None)
        elif name == "absent":
            if one not in session:
                session[other] = 100
        else:
            session[one] = len(session)


def serial_outcomes(begin: dict[str, Any], transactions: list[list[Any]]) -> list[dict[str, Any]]:
    outcomes = []
    for order in itertools.permutations(transactions):
        data = dict(begin)
        for steps in order:
            do(steps, data)
        outcomes.append(data)
    return outcomes


@pytest.fixture(scope="module")
def own() -> Any:
    with EmbeddedServer() as server:
        yield server.url


@pytest.mark.parametrize("engine", ENGINES)
def test_every_outcome_equals_some_serial_order(own: str, engine: Any) -> None:
    @settings(deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        begin=st.dictionaries(st.sampled_from(KEYS), st.integers(0, 2)),
        transactions=st.lists(TRANSACTION, min_size=2, max_size=3),
    )
    def holds(begin: dict[str, Any], transactions: list[list[Any]]) -> None:
        outcome = asyncio.run(at_once(own, engine, begin, transactions))
        assert outcome in serial_outcomes({"keep": 0, **begin}, transactions)

    holds()


async def at_once(url: str, engine: Any, begin: dict[str, Any], transactions: list[list[Any]]) -> dict[str, Any]:
    async with SessionGuard.from_url(url, commit_by=engine) as guard:
        session = await guard.create({"keep": 0, **begin})
        all_loaded = asyncio.Event()
        loaded = 0

        async def run(steps: list[Any]) -> None:
            first = True

            async def change(current: Any) -> None:
                nonlocal first, loaded
                if first:
                    first, loaded = False, loaded + 1
                    if loaded == len(transactions):
                        all_loaded.set()
                    await all_loaded.wait()
                do(steps, current)

            await guard.transaction(session.sid, change)

        await asyncio.gather(*(run(steps) for steps in transactions))
        return dict(await guard.read(session.sid))
