"""What changed in a session, and how two changes of one key become one.

A strategy is ``merge(base, ours, theirs) -> value``: ``base`` was loaded, ``ours`` is here, ``theirs`` is in the store
now; each is :data:`MISSING` where the key is absent, and :data:`MISSING` may be returned to delete it. Raising
:class:`Clash` makes it a :class:`~sessionlock.SessionConflict`.

A merge runs in the event loop. Each strategy here takes time in proportion to the items of its lists and to what is in
them: 10,000 small objects take some tens of milliseconds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, Final

from ..errors import ConfigurationError

__all__ = ["FLASHES", "MISSING", "Clash", "Merge", "by_id", "strategy_for"]


class _Missing(enum.Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing.MISSING
Merge = Callable[[Any, Any, Any], Any]


class Clash(Exception):
    """These two changes cannot be merged."""


def critical(base: Any, ours: Any, theirs: Any) -> Any:
    """Both sides changed it: that is an error, also when both came to the same value, for two read-modify-writes do
    that when one of them is lost. (Equal values that were assigned without reading never come here.)
    """
    raise Clash


def last_write_wins(base: Any, ours: Any, theirs: Any) -> Any:
    """Whatever is in the store is overwritten."""
    return ours


def counter(base: Any, ours: Any, theirs: Any) -> Any:
    """Both differences count. Deleting a counter that somebody else moved is a clash."""
    if ours is MISSING and theirs is MISSING:
        return MISSING
    values = [0 if value is MISSING else value for value in (base, ours, theirs)]
    if ours is MISSING or not all(type(value) in (int, float) for value in values):
        raise Clash
    return values[2] + (values[1] - values[0])


def append(base: Any, ours: Any, theirs: Any) -> Any:
    """A list to which both sides add and from which both take: every addition stays, every removal is kept."""
    old, mine, current = _lists(base, ours, theirs)
    removed = _without(old, mine)
    added = _without(mine, old)
    return _list_or_missing(_without(current, removed) + added, ours)


def deliver_once(base: Any, ours: Any, theirs: Any) -> Any:
    """As ``append``, but taking what somebody else took meanwhile is a clash: a message is delivered once."""
    old, mine, current = _lists(base, ours, theirs)
    if _without(_without(old, mine), current):
        raise Clash
    return append(base, ours, theirs)


def union(base: Any, ours: Any, theirs: Any) -> Any:
    """As ``append``, but an item that is there already is not added a second time."""
    old, mine, current = _lists(base, ours, theirs)
    kept = _without(current, _without(old, mine))
    there = _Items(kept)
    return _list_or_missing(kept + [item for item in _without(mine, old) if item not in there], ours)


def set_once(base: Any, ours: Any, theirs: Any) -> Any:
    """The first value stays (a CSRF token)."""
    return ours if theirs is MISSING else theirs


def by_id(field: str = "id") -> Merge:
    """For a list of objects with a name of their own: objects are merged one by one, a clash is one object's.

    Raises (when merging) :class:`Clash` if both sides changed the same object differently.
    """

    def merge_by_id(base: Any, ours: Any, theirs: Any) -> Any:
        old, mine, current = (_by_name(part, field) for part in _lists(base, ours, theirs))
        merged = {}
        for name in [*current, *(name for name in mine if name not in current)]:
            was, here, there = (part.get(name, MISSING) for part in (old, mine, current))
            if here is MISSING and there is MISSING:
                continue  # both took it out
            value = there if here == was else here if there == was else critical(was, here, there)
            if value is not MISSING:
                merged[name] = value
        return _list_or_missing(list(merged.values()), ours)

    return merge_by_id


def _list_or_missing(merged: list[Any], ours: Any) -> Any:
    """A key that was deleted here stays deleted unless the other side has put something new in."""
    return MISSING if ours is MISSING and not merged else merged


def _lists(*values: Any) -> list[list[Any]]:
    parts = [[] if value is MISSING else value for value in values]
    if not all(isinstance(part, (list, tuple)) for part in parts):
        raise Clash
    return [list(part) for part in parts]


def _without(items: list[Any], taken: list[Any]) -> list[Any]:
    """``items`` less each of ``taken`` once."""
    rest = _Items(taken)
    return [item for item in items if not rest.take(item)]


class _Items:
    """Equal items and how often they are there, found without comparing each with each."""

    def __init__(self, items: list[Any]) -> None:
        self._counts: dict[Any, int] = {}
        self._others: list[Any] = []  # of a kind that cannot be hashed: these are compared
        for item in items:
            try:
                key = _hashable(item)
                self._counts[key] = self._counts.get(key, 0) + 1
            except TypeError:
                self._others.append(item)

    def __contains__(self, item: Any) -> bool:
        try:
            return self._counts.get(_hashable(item), 0) > 0
        except TypeError:
            return item in self._others

    def take(self, item: Any) -> bool:
        """Whether it was there; then it is there once less."""
        if item not in self:
            return False
        try:
            self._counts[_hashable(item)] -= 1
        except TypeError:
            self._others.remove(item)
        return True


def _hashable(value: Any) -> Any:
    """What is equal where, and only where, the values are equal.

    Raises:
        TypeError: it contains what cannot be hashed.
    """
    if isinstance(value, dict):
        return dict, frozenset((key, _hashable(part)) for key, part in value.items())
    if isinstance(value, list):
        return list, tuple(map(_hashable, value))
    if isinstance(value, tuple):
        return tuple, tuple(map(_hashable, value))
    if isinstance(value, (set, bytearray)):
        return frozenset(value) if isinstance(value, set) else bytes(value)
    hash(value)
    return value


def _by_name(items: list[Any], field: str) -> dict[Any, Any]:
    try:
        named = {item[field]: item for item in items}
    except (TypeError, KeyError, IndexError):
        raise Clash from None
    if len(named) != len(items):
        raise Clash
    return named


STRATEGIES: Final[Mapping[str, Merge]] = {
    "critical": critical,
    "counter": counter,
    "append": append,
    "deliver_once": deliver_once,
    "union": union,
    "by_id": by_id(),
    "set_once": set_once,
    "last_write_wins": last_write_wins,
}

MAY_CLASH: Final = (critical, deliver_once)  # strategies under which two changes of one key can be an error
FLASHES: Final = "_flashes"
DEFAULTS: Final[Mapping[str, str]] = {FLASHES: "deliver_once"}


def strategy_for(declared: Mapping[str, Any], key: str) -> Merge:
    """The strategy declared for ``key``, or for ``"*"`` (all others); ``critical`` where nothing is declared."""
    choice = declared.get(key) or DEFAULTS.get(key) or declared.get("*", "critical")
    return STRATEGIES[choice] if isinstance(choice, str) else choice


def check_strategies(declared: Mapping[str, Any]) -> None:
    """Raise :class:`~sessionlock.errors.ConfigurationError` for a strategy that does not exist."""
    for key, choice in declared.items():
        if not callable(choice) and choice not in STRATEGIES:
            raise ConfigurationError(
                f"merge[{key!r}] must be one of {', '.join(STRATEGIES)} or a function, not {choice!r}"
            )
