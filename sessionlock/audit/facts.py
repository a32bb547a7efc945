"""What a stored session says, as facts that two versions of it can be compared by.

A fact is at a *path* (the keys that lead to it): one scalar, or a list, which is taken for a bag of items: two requests
that append something each change different items of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .formats.reading import Stored

__all__ = ["NOTHING", "Facts", "Path", "facts_of", "is_number", "looks_like_time"]

Path = tuple[str, ...]

_DEEPEST = 32
_MOST = 20_000  # facts, with all items of lists
_DAY = 86_400.0
_DOTNET_EPOCH = 62_135_596_800  # seconds from the year 1 to 1970
_TIME_AS_TEXT = re.compile(r".{0,12}?\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\w{3}, \d\d \w{3} \d{4} \d\d:")


class _Missing:
    def __repr__(self) -> str:
        return "NOTHING"


NOTHING = _Missing()


class _TooMuch(ValueError):
    pass


@dataclass(slots=True)
class Facts:
    """By path. ``folders``: where dicts and lists are. ``opaque``: where only the bytes are known."""

    scalars: dict[Path, Any] = field(default_factory=dict)
    bags: dict[Path, Counter[Any]] = field(default_factory=dict)
    folders: set[Path] = field(default_factory=set)
    opaque: set[Path] = field(default_factory=set)

    def scalar(self, path: Path) -> Any:
        return self.scalars.get(path, NOTHING)

    def bag(self, path: Path) -> Counter[Any]:
        return self.bags.get(path) or _NOTHING

    def take(self, others: Facts) -> None:
        """Those of another part."""
        self.scalars |= others.scalars
        self.bags |= others.bags
        self.folders |= others.folders
        self.opaque |= others.opaque

    @property
    def nothing(self) -> bool:
        """Whether there is not even an empty record."""
        return not (self.scalars or self.bags or self.folders)

    def __len__(self) -> int:
        return len(self.scalars) + len(self.bags)

    def differ(self, other: Facts) -> tuple[set[Path], set[Path]]:
        """The paths of scalars, and of lists, at which the two say something else."""
        scalars = {path for path, _ in self.scalars.items() ^ other.scalars.items()}
        bags = {path for path in self.bags.keys() | other.bags.keys() if self.bag(path) != other.bag(path)}
        return scalars, bags


_NOTHING: Counter[Any] = Counter()


def facts_of(contents: Mapping[str | None, tuple[Stored, bytes]]) -> Facts:
    """``contents``: of each part of a record what was read in it, and its bytes, which are compared where that is
    nothing, or too much; a record that is one string has one part, None.
    """
    found = Facts()
    for part, (stored, raw) in contents.items():
        path: Path = () if part is None else (part,)
        walked = Facts()
        try:
            if not stored.readable:
                raise _TooMuch
            _Walk(walked).put(path, stored.value)
        except _TooMuch:
            walked = Facts({path: raw}, opaque={path})
        found.take(walked)
    return found


class _Walk:
    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._left = _MOST

    def put(self, path: Path, value: Any) -> None:
        self._count(len(path))
        facts = self._facts
        if isinstance(value, dict):
            facts.folders.add(path)
            for key, inner in value.items():
                self.put((*path, key if isinstance(key, str) else str(_leaf(key))), inner)
        elif isinstance(value, (list, tuple, set, frozenset)):
            facts.folders.add(path)
            facts.bags[path] = Counter(self._item(one, len(path) + 1) for one in value)
        else:
            facts.scalars[path] = _leaf(value)

    def _item(self, value: Any, depth: int) -> Any:
        """Something hashable that is equal where ``value`` is."""
        self._count(depth)
        if isinstance(value, dict):
            return (
                "dict",
                frozenset((str(_leaf(key)), self._item(inner, depth + 1)) for key, inner in value.items()),
            )
        if isinstance(value, (list, tuple, set, frozenset)):
            return ("list", *(self._item(one, depth + 1) for one in value))
        return _leaf(value)

    def _count(self, depth: int) -> None:
        # A pickle's lists may hold themselves, and each other many times over.
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            raise _TooMuch


def _leaf(value: Any) -> Any:
    """Equal only to its like: True is not 1, and a NaN is what it was."""
    if isinstance(value, (str, bytes)) or (is_number(value) and value == value):
        return value
    return (type(value).__name__, repr(value)[:1000])


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def looks_like_time(value: Any, now: float) -> bool:
    """Whether it is a date, or a number of (milli)seconds, not far from ``now``; an expiry is ahead of it."""
    if isinstance(value, str):
        return _TIME_AS_TEXT.match(value) is not None
    if not is_number(value) or not 0 < value < 1e20:
        return False
    seconds = (value, value / 1e3, value / 1e6, value / 1e9, value / 1e7 - _DOTNET_EPOCH)
    return any(now - _DAY <= one <= now + 400 * _DAY for one in seconds)
