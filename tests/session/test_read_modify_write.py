"""A value that was computed from one that was read is lost when somebody else's stands there, equal or not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sessionlock import SessionConflict, SessionGuard, SessionPolicy

pytestmark = pytest.mark.anyio

ENGINES = ("script", "watch")
MODES = ("optimistic", "last_write_wins", "lock")


@pytest.fixture(params=ENGINES)
def guard(request: pytest.FixtureRequest, node: Any) -> SessionGuard:
    guard: SessionGuard = node(commit_by=request.param)
    return guard


async def data_of(guard: SessionGuard, sid: str = "s") -> dict[str, Any]:
    return dict(await guard.read(sid))


def read_and_set(session: Any) -> None:
    session["k"] = session["k"] + 1


def change_in_place(session: Any) -> None:
    session["k"] += 1


def read_by_get(session: Any) -> None:
    session["k"] = (session.get("k") or 0) + 1


def read_by_items(session: Any) -> None:
    session["k"] = sum(value for _, value in session.items() if isinstance(value, int)) + 1


def read_before_a_blind_write(session: Any) -> None:
    before = session["k"]
    session["k"] = 0
    session["k"] = before + 1


WAYS = (read_and_set, change_in_place, read_by_get, read_by_items, read_before_a_blind_write)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("mode", MODES)
async def test_two_that_come_to_the_same_by_computing_it(guard: SessionGuard, mode: Any, way: Any) -> None:
    await guard.create({"k": 5}, sid="s")
    with pytest.raises(SessionConflict) as caught:
        async with guard.session_lock("s", mode=mode) as session:
            async with guard.session_lock("s", mode="optimistic") as other:
                way(other)
            way(session)
    assert caught.value.keys == ("k",)
    assert await data_of(guard) == {"k": 6}


@pytest.mark.parametrize("mode", MODES)
async def test_an_absent_key_that_both_found_absent(guard: SessionGuard, mode: Any) -> None:
    await guard.create({"other": 1}, sid="s")
    with pytest.raises(SessionConflict):
        async with guard.session_lock("s", mode=mode) as session:
            async with guard.session_lock("s", mode="optimistic") as other:
                other.setdefault("k", 1)
            if "k" not in session:
                session["k"] = 1
    assert await data_of(guard) == {"other": 1, "k": 1}


@pytest.mark.parametrize("mode", MODES)
async def test_a_change_deep_inside_that_both_made(guard: SessionGuard, mode: Any) -> None:
    await guard.create({"cart": {"A": {"qty": 1}}}, sid="s")
    with pytest.raises(SessionConflict):
        async with guard.session_lock("s", mode=mode) as session:
            async with guard.session_lock("s", mode="optimistic") as other:
                other["cart"]["A"]["qty"] += 1
            session["cart"]["A"]["qty"] += 1
    assert await data_of(guard) == {"cart": {"A": {"qty": 2}}}


@pytest.mark.parametrize("mode", MODES)
async def test_one_object_of_a_list_that_both_changed_equally(node: Any, mode: Any) -> None:
    guard = node(session=SessionPolicy(merge={"cart": "by_id"}))
    await guard.create({"cart": [{"id": 1, "qty": 1}, {"id": 2, "qty": 1}]}, sid="s")
    with pytest.raises(SessionConflict):
        async with guard.session_lock("s", mode=mode) as session:
            async with guard.session_lock("s", mode="optimistic") as other:
                other["cart"][0]["qty"] += 1
            session["cart"][0]["qty"] += 1
            session["cart"][1]["qty"] += 1
    assert (await data_of(guard))["cart"][0]["qty"] == 2


@pytest.mark.parametrize("mode", MODES)
async def test_equal_values_that_were_assigned_without_reading_agree(guard: SessionGuard, mode: Any) -> None:
    await guard.create({"theme": "light"}, sid="s")
    async with guard.session_lock("s", mode=mode) as session:
        async with guard.session_lock("s", mode="optimistic") as other:
            other["theme"] = "dark"
        session["theme"] = "dark"
        session["seen"] = True
    assert await data_of(guard) == {"theme": "dark", "seen": True}


async def test_what_a_merge_computed_from_another_does_not_agree_by_coincidence(node: Any) -> None:
    """The first conflict merged; a second one, met by the merged value, is judged as one that was read."""
    guard = node(session=SessionPolicy(merge={"k": lambda base, ours, theirs: 9}))
    await guard.create({"k": 1}, sid="s")
    async with guard.session_lock("s", mode="optimistic") as session:
        session["k"] = 2
        async with guard.session_lock("s", mode="last_write_wins") as other:
            other["k"] = 3
    assert await data_of(guard) == {"k": 9}


@pytest.mark.parametrize("save", ["end_of_request", "immediate"])
async def test_ten_increments_at_once(guard: SessionGuard, save: Any) -> None:
    """Counted = answered as saved."""
    await guard.create({"n": 5}, sid="s")
    policy = SessionPolicy(save=save)
    loaded = asyncio.Barrier(10) if hasattr(asyncio, "Barrier") else None

    async def one() -> bool:
        try:
            async with guard.session_lock("s", mode="optimistic", session=policy) as session:
                if loaded is not None:
                    await loaded.wait()
                session["n"] += 1
        except SessionConflict:
            return False
        return True

    saved = sum(await asyncio.gather(*(one() for _ in range(10))))
    assert await data_of(guard) == {"n": 5 + saved}
    assert saved >= 1
