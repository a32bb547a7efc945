"""The merge strategies one by one: base was loaded, ours is here, theirs is in the store."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionlock import (
    MISSING,
    Clash,
    CodecError,
    ConfigurationError,
    SessionConflict,
    SessionGuard,
    SessionPolicy,
    by_id,
)
from sessionlock.session.merge import STRATEGIES, strategy_for
from tests.harness.deployments import MakeGuard
from tests.harness.stored import Look

CLASH = object()
M = MISSING
ROWS: list[tuple[str, Any, Any, Any, Any]] = [
    # strategy, base, ours, theirs, result
    ("critical", 1, 2, 3, CLASH),
    ("critical", 1, 2, 2, CLASH),  # n + 1, twice
    ("critical", 1, M, M, CLASH),  # taken by both
    ("critical", 1, M, 2, CLASH),
    ("critical", 1, 2, M, CLASH),
    ("critical", M, 1, 1, CLASH),
    ("critical", M, 1, True, CLASH),
    ("critical", 0, 1, 1.0, CLASH),
    ("last_write_wins", 1, 2, 3, 2),
    ("last_write_wins", 1, M, 3, M),
    ("last_write_wins", 1, 2, M, 2),
    ("counter", 5, 6, 6, 7),
    ("counter", 5, 4, 8, 7),
    ("counter", M, 1, 1, 2),
    ("counter", 5, 6, M, 1),
    ("counter", 0.5, 1.0, 1.5, 2.0),
    ("counter", 5, M, 6, CLASH),
    ("counter", 5, "6", 6, CLASH),
    ("counter", 5, 6, "x", CLASH),
    ("counter", False, True, 6, CLASH),
    ("append", ["a"], ["a", "b"], ["a", "c"], ["a", "c", "b"]),
    ("append", M, ["b"], ["c"], ["c", "b"]),
    ("append", ["a", "b"], ["b"], ["a", "b", "c"], ["b", "c"]),
    ("append", ["a", "b"], ["b"], ["a"], []),
    ("append", ["a", "a"], ["a"], ["a", "a", "b"], ["a", "b"]),
    ("append", ["a"], ["a", "b"], M, ["b"]),
    ("append", ["a"], M, ["a", "b"], ["b"]),
    ("append", ["a"], "a", ["a", "b"], CLASH),
    ("append", [{"x": [1]}], [{"x": [1]}, {"x": [2]}], [{"x": [1]}, {"y": 1}], [{"x": [1]}, {"y": 1}, {"x": [2]}]),
    ("deliver_once", ["m"], [], ["m", "n"], ["n"]),
    ("deliver_once", ["m"], [], [], CLASH),
    ("deliver_once", ["m"], [], M, CLASH),
    ("deliver_once", ["m"], ["m", "n"], [], ["n"]),
    ("deliver_once", M, ["n"], ["m"], ["m", "n"]),
    ("union", ["a"], ["a", "b"], ["a", "b"], ["a", "b"]),
    ("union", ["a"], ["a", "b"], ["a", "c"], ["a", "c", "b"]),
    ("union", ["a", "b"], ["a"], ["a", "b", "c"], ["a", "c"]),
    ("union", ["a"], M, ["a", "b"], ["b"]),
    ("union", M, ["a"], ["a"], ["a"]),
    ("union", {}, ["a"], ["a"], CLASH),
    ("set_once", M, "ours", "theirs", "theirs"),
    ("set_once", M, "ours", M, "ours"),
    ("set_once", "base", M, "theirs", "theirs"),
    ("set_once", "base", M, M, M),
]


@pytest.mark.parametrize(("name", "base", "ours", "theirs", "result"), ROWS)
def test_a_strategy(name: str, base: Any, ours: Any, theirs: Any, result: Any) -> None:
    merge = STRATEGIES[name]
    if result is CLASH:
        with pytest.raises(Clash):
            merge(base, ours, theirs)
    else:
        merged = merge(base, ours, theirs)
        assert merged == result
        assert type(merged) is type(result)


def item(name: Any, **rest: Any) -> dict[str, Any]:
    return {"id": name, **rest}


BY_ID: list[tuple[Any, Any, Any, Any]] = [
    (M, [item(1)], [item(2)], [item(2), item(1)]),
    (
        [item(1, n=1), item(2, n=1)],
        [item(1, n=2), item(2, n=1)],
        [item(1, n=1), item(2, n=3)],
        [item(1, n=2), item(2, n=3)],
    ),
    ([item(1), item(2)], [item(2)], [item(1), item(2), item(3)], [item(2), item(3)]),
    ([item(1), item(2)], [item(1), item(2), item(4)], [item(2)], [item(2), item(4)]),
    ([item(1, n=1)], [item(1, n=2)], [item(1, n=2)], CLASH),  # one more of it, twice
    ([item(1, n=1)], [item(1, n=2)], [item(1, n=3)], CLASH),
    ([item(1, n=1)], [item(1, n=2)], [], CLASH),
    ([item(1, n=1)], [], [item(1, n=2)], CLASH),
    ([item(1)], [], M, []),
    (M, [item(1, n=1)], [item(1, n=2)], CLASH),
    ([], [{"name": 1}], [], CLASH),
    ([], [item(1), item(1)], [], CLASH),
    ([], ["text"], [], CLASH),
    ([], [item([1])], [], CLASH),
    ([], item(1), [], CLASH),
]


@pytest.mark.parametrize(("base", "ours", "theirs", "result"), BY_ID)
def test_by_id(base: Any, ours: Any, theirs: Any, result: Any) -> None:
    if result is CLASH:
        with pytest.raises(Clash):
            by_id()(base, ours, theirs)
    else:
        assert by_id()(base, ours, theirs) == result


class Counted(str):
    """Tells how often one was compared."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return str.__eq__(self, str(other))

    __hash__ = str.__hash__


@pytest.mark.parametrize("shape", [lambda name: name, lambda name: {"of": [name]}, lambda name: (1, {"a": name})])
@pytest.mark.parametrize("name", ["append", "deliver_once", "union"])
def test_long_lists_are_not_compared_each_with_each(name: str, shape: Callable[[str], Any]) -> None:
    """A merge runs in the event loop: 10,000 items must not bring it to a stand."""
    size = 2000

    def items(prefix: str) -> list[Any]:
        return [shape(Counted(f"{prefix}{number}")) for number in range(size)]

    base, ours, theirs = items("a"), items("a")[::-1] + items("b"), items("a") + items("c")
    Counted.comparisons = 0
    merged = STRATEGIES[name](base, ours, theirs)
    assert Counted.comparisons < 30 * size
    assert len(merged) == 3 * size


ITEMS: st.SearchStrategy[list[Any]] = st.lists(
    st.recursive(
        st.sampled_from([None, 0, 1, 1.0, True, "1", b"1", bytearray(b"1"), {1}, {2}, SimpleNamespace(a=1)]),
        lambda inner: st.one_of(
            st.lists(inner, max_size=2),
            st.lists(inner, max_size=2).map(tuple),
            st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
        ),
        max_leaves=3,
    ),
    max_size=6,
)


@given(ITEMS, ITEMS)
def test_equal_is_what_python_says(items: list[Any], others: list[Any]) -> None:
    """Also across types, and for what cannot be hashed."""
    rest, left = list(others), []
    for item in items:
        if item in rest:
            rest.remove(item)
        else:
            left.append(item)
    append = STRATEGIES["append"]
    assert append(others, items, []) == left
    assert append(others, [], items) == left


def test_by_id_with_another_name() -> None:
    merged = by_id("sku")([], [{"sku": "a"}], [{"sku": "b"}])
    assert merged == [{"sku": "b"}, {"sku": "a"}]


@pytest.mark.parametrize("name", ["append", "deliver_once", "union", "by_id"])
def test_merging_does_not_change_what_it_is_given(name: str) -> None:
    base, ours, theirs = [item(1)], [item(1), item(2)], [item(1), item(3)]
    STRATEGIES[name](base, ours, theirs)
    assert (base, ours, theirs) == ([item(1)], [item(1), item(2)], [item(1), item(3)])


def test_which_strategy_a_key_has() -> None:
    own: Callable[[Any, Any, Any], Any] = lambda base, ours, theirs: 1  # noqa: E731
    declared = {"a": "counter", "b": own, "*": "last_write_wins"}
    assert strategy_for(declared, "a") is STRATEGIES["counter"]
    assert strategy_for(declared, "b") is own
    assert strategy_for(declared, "c") is STRATEGIES["last_write_wins"]
    assert strategy_for({}, "c") is STRATEGIES["critical"]
    assert strategy_for(declared, "_flashes") is STRATEGIES["deliver_once"], "'*' must not weaken flash messages"
    assert strategy_for({"_flashes": "append"}, "_flashes") is STRATEGIES["append"]


@pytest.mark.anyio
async def test_a_strategy_that_does_not_exist(redis_url: str) -> None:
    wrong = SessionPolicy(merge={"n": "add"})
    with pytest.raises(ConfigurationError, match="'n'"):
        SessionGuard.from_url(redis_url, session=wrong)


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["lock", "optimistic", "last_write_wins"])
async def test_a_strategy_that_does_not_exist_in_one_request(node: MakeGuard, mode: Any) -> None:
    guard = node()
    with pytest.raises(ConfigurationError, match="'n'"):
        guard.session_lock("s", mode=mode, session=SessionPolicy(merge={"n": "add"}))


# --- in a session: what a merge leaves behind


Change = Callable[[Any], None]


async def clash(guard: SessionGuard, mode: Any, merge: dict[str, Any], ours: Change, theirs: Change) -> None:
    """Two requests that overlap; ``theirs`` is committed first."""
    async with guard.session_lock("s", mode=mode, session=SessionPolicy(merge=merge)) as session:
        async with guard.session_lock("s", mode="optimistic", session=SessionPolicy(merge=merge)) as other:
            theirs(other)
        ours(session)


def drop(key: str) -> Change:
    return lambda session: session.__delitem__(key)


def put(key: str, value: Any) -> Change:
    return lambda session: session.__setitem__(key, value)


BOTH = pytest.mark.parametrize("mode", ["lock", "optimistic"])


@pytest.mark.anyio
@BOTH
@pytest.mark.parametrize(
    "strategy", ["critical", "append", "deliver_once", "union", "by_id", "set_once", "last_write_wins"]
)
async def test_deleted_by_both_stays_deleted(node: MakeGuard, stored: Look, mode: Any, strategy: str) -> None:
    guard = node()
    await guard.create({"k": [{"id": 1}], "other": 1}, sid="s")
    await clash(guard, mode, {"k": strategy}, drop("k"), drop("k"))
    assert stored("s").data == {"other": 1}


@pytest.mark.anyio
@BOTH
@pytest.mark.parametrize("strategy", ["critical", "append", "deliver_once", "union", "set_once", "last_write_wins"])
async def test_taken_by_both(node: MakeGuard, stored: Look, mode: Any, strategy: str) -> None:
    """Who looked at it before taking it out did something with it: that must not happen twice."""
    guard = node()
    await guard.create({"k": [{"id": 1}], "other": 1}, sid="s")
    take: Change = lambda session: session.pop("k")  # noqa: E731
    try:
        await clash(guard, mode, {"k": strategy}, take, take)
        assert strategy not in ("critical", "deliver_once")
    except SessionConflict:
        assert strategy in ("critical", "deliver_once")
    assert stored("s").data == {"other": 1}


@pytest.mark.anyio
@BOTH
async def test_a_counter_deleted_by_both_stays_deleted(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node()
    await guard.create({"k": 5, "other": 1}, sid="s")
    await clash(guard, mode, {"k": "counter"}, drop("k"), drop("k"))
    assert stored("s").data == {"other": 1}


@pytest.mark.anyio
@BOTH
@pytest.mark.parametrize("strategy", ["append", "union", "by_id"])
async def test_a_list_that_was_deleted_is_not_left_as_an_empty_one(
    node: MakeGuard, stored: Look, mode: Any, strategy: str
) -> None:
    guard = node()
    await guard.create({"k": [{"id": 1}, {"id": 2}]}, sid="s")
    await clash(guard, mode, {"k": strategy}, drop("k"), put("k", [{"id": 1}]))
    assert stored("s").data == {}


@pytest.mark.anyio
@BOTH
async def test_deletes_in_different_keys_do_not_conflict(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node()
    await guard.create({"a": 1, "b": 1, "c": 1}, sid="s")
    await clash(guard, mode, {}, drop("a"), drop("b"))
    assert stored("s").data == {"c": 1}


@pytest.mark.anyio
@BOTH
async def test_own_functions(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node()
    await guard.create({"most": 3, "gone": 1, "new": 1}, sid="s")
    seen: list[Any] = []

    def most(base: Any, ours: Any, theirs: Any) -> Any:
        seen.append((base, ours, theirs))
        return max(ours, theirs)

    def nothing(base: Any, ours: Any, theirs: Any) -> Any:
        return MISSING

    merge = {"most": most, "gone": nothing}
    await clash(
        guard,
        mode,
        merge,
        lambda session: session.update(most=5, gone=2),
        lambda session: session.update(most=9, gone=3),
    )
    assert seen == [(3, 5, 9)]
    assert stored("s").data == {"most": 9, "new": 1}


@pytest.mark.anyio
@BOTH
@pytest.mark.parametrize("error", [Clash, ValueError])
async def test_an_own_function_that_raises(node: MakeGuard, stored: Look, mode: Any, error: type[Exception]) -> None:
    def refuse(base: Any, ours: Any, theirs: Any) -> Any:
        raise error

    guard = node()
    await guard.create({"k": 1, "j": 1}, sid="s")
    with pytest.raises(SessionConflict if error is Clash else error):
        await clash(guard, mode, {"k": refuse}, lambda session: session.update(k=2, j=2), put("k", 3))
    assert stored("s").data == {"k": 3, "j": 1}, "nothing of a save that failed is stored"
    assert stored("s").free


@pytest.mark.anyio
@BOTH
async def test_an_own_function_whose_result_cannot_be_stored(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node()
    await guard.create({"k": 1}, sid="s")
    with pytest.raises(CodecError, match="k"):
        await clash(guard, mode, {"k": lambda *_: object()}, put("k", 2), put("k", 3))
    assert stored("s").data == {"k": 3}
    assert stored("s").free


@pytest.mark.anyio
@BOTH
async def test_a_conflict_names_all_its_keys_with_both_values(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node()
    await guard.create({"a": 1, "b": 1, "c": 1, "n": 1, "same": 1}, sid="s")

    def ours(session: Any) -> None:
        session.update(a=2, c=2, n=2, same=2)
        del session["b"]

    def theirs(session: Any) -> None:
        session.update(a=3, b=3, n=3, same=2)
        del session["c"]

    with pytest.raises(SessionConflict) as caught:
        await clash(guard, mode, {"n": "counter"}, ours, theirs)
    assert set(caught.value.keys) == {"a", "b", "c"}
    assert caught.value.ours == {"a": 2, "c": 2}
    assert caught.value.theirs == {"a": 3, "b": 3}
    assert "'a'" in str(caught.value)
    assert stored("s").data == {"a": 3, "b": 3, "n": 3, "same": 2}


@pytest.mark.anyio
@BOTH
async def test_a_star_declares_all_other_keys(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard = node()
    await guard.create({"a": 1, "b": 1}, sid="s")
    merge = {"a": "counter", "*": "last_write_wins"}
    await clash(guard, mode, merge, lambda s: s.update(a=2, b=2), lambda s: s.update(a=3, b=3))
    assert stored("s").data == {"a": 4, "b": 2}


@pytest.mark.anyio
@BOTH
async def test_a_foreign_spelling_of_the_same_value_is_no_change(node: MakeGuard, stored: Look, mode: Any) -> None:
    guard, session = node(), stored("s")
    await guard.create({"k": {"a": 1, "b": [1]}}, sid="s")
    session.client.hset(session.keys.session, "k", '{"a": 1, "b": [1]}')
    before = session.version
    async with guard.session_lock("s", mode=mode) as ours:
        assert ours["k"] == {"a": 1, "b": [1]}
    assert session.client.hget(session.keys.session, "k") == b'{"a": 1, "b": [1]}'
    assert session.version == before
