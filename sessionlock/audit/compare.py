"""Three-way: what a save undid of what others had changed since it was read.

*Base* is what the save's request had read, *seen* what stood there when it was saved, *saved* what stands there now.
Where *seen* differs from *base*, somebody else has changed something; where *saved* still says what *base* said, that
change is undone, by somebody who had not seen it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, Literal, NamedTuple

from .facts import NOTHING, Facts, Path, is_number, looks_like_time

__all__ = ["Deed", "Token", "Undone", "changes", "deeds", "missing", "same", "takes_back", "undone"]

How = Literal["undone", "same", "both", "contested"]
Deed = float | str  # by how much a number changed; or a word


class Token(NamedTuple):
    """One change: at a path, and of which item there (None: the scalar). ``added``: of an item, or of a value."""

    path: Path
    item: Any
    added: bool


class Undone(NamedTuple):
    """``how``: ``undone`` (the save has what its base had), ``same`` (both made the same change of a number or a list:
    one of two is gone), ``both`` (each changed it, the save lacks the other's part), ``contested`` (each assigned
    something: no loss where whoever comes last may decide). ``plain``: there is no other reading of the values.
    """

    token: Token
    how: How
    plain: bool


def undone(base: Facts, seen: Facts, saved: Facts, parts: Collection[str] | None, at: float) -> Iterator[Undone]:
    """``parts``: the save wrote only these of the record. ``at``: when, by the server's clock.

    Of a record that both requests began, where there was none, the last may decide: only whole keys are missed.
    """
    began = base.nothing
    scalars, bags = base.differ(seen)
    for path in sorted(bags | scalars | base.differ(saved)[0]):
        if parts is not None and (not path or path[0] not in parts):
            continue
        if path in bags:
            if not began:
                yield from _undone_items(path, base, seen, saved)
            elif path not in saved.bags:
                yield Undone(Token(path, None, True), "both", False)
            elif _more(seen.bags[path], saved.bags[path]):
                yield Undone(Token(path, None, True), "contested", False)
        if path in base.scalars or path in seen.scalars:
            yield from _undone_scalar(path, base, seen, saved, at)


def _undone_scalar(path: Path, base: Facts, seen: Facts, saved: Facts, at: float) -> Iterator[Undone]:
    was, stood, now = base.scalar(path), seen.scalar(path), saved.scalar(path)
    token = Token(path, None, stood is not NOTHING)
    if was == stood:
        # Of a number that others have counted up and, by overwriting each other, down again, some is gone all the same.
        if is_number(was) and was != now and not looks_like_time(now, at):
            yield Undone(token, "both", False)
        return
    if path in seen.opaque or path in saved.opaque or path in base.opaque:
        if stood != now:
            yield Undone(token, "contested" if base.nothing else "both", False)
        return
    numbers = is_number(stood) and is_number(now) and not looks_like_time(now, at)
    if now == was:
        yield Undone(token, "undone", not _both_began(path, base, seen, saved))
    elif now == stood:
        if numbers and is_number(was):
            yield Undone(token, "same", False)
    elif numbers and is_number(was):
        yield Undone(token, "both", False)
    elif not looks_like_time(now, at) and now is not NOTHING and stood is not NOTHING:
        yield Undone(token, "contested", False)


def _undone_items(path: Path, base: Facts, seen: Facts, saved: Facts) -> Iterator[Undone]:
    was, stood, now = base.bag(path), seen.bag(path), saved.bag(path)
    if was == stood:
        return
    # The save changed this list as one it had read, or not at all; else it may have put another in its place.
    kept = now == was or (bool(was) and _holds(now, was))
    plain = kept and not _both_began(path, base, seen, saved)
    for item in _more(_more(stood, was), now):
        yield Undone(Token(path, item, True), "undone" if plain else "both", plain)
    for item in _more(was, stood) & now:
        yield Undone(Token(path, item, False), "undone", plain)
    if kept and was and now == stood:
        for item in _more(stood, was):
            yield Undone(Token(path, item, True), "same", False)


def missing(seen: Facts, saved: Facts, parts: Collection[str] | None) -> Iterator[Undone]:
    """The same where the base is not known: what stood there, and is gone with the save, or was taken out by it."""
    for path in seen.scalars.keys() | seen.bags.keys():
        if parts is not None and (not path or path[0] not in parts):
            continue
        for item in _more(seen.bag(path), saved.bag(path)):
            yield Undone(Token(path, item, True), "both", False)
        if path in seen.scalars and saved.scalar(path) is NOTHING:
            yield Undone(Token(path, None, True), "both", False)


def _both_began(path: Path, base: Facts, seen: Facts, saved: Facts) -> bool:
    """Two requests put a dict or list where there was none: perhaps each meant to have its own."""
    return any(
        above not in base.folders and above in seen.folders and above in saved.folders
        for above in (path[:length] for length in range(1, len(path) + 1))
    )


def changes(before: Facts, after: Facts) -> set[Token]:
    """What was done between two versions; also with a number that both have."""
    scalars, bags = before.differ(after)
    found = {Token(path, None, path in after.scalars) for path in scalars}
    for path in bags:
        was, now = before.bag(path), after.bag(path)
        found.update(Token(path, item, True) for item in _more(now, was))
        found.update(Token(path, item, False) for item in _more(was, now))
    return found


def deeds(before: Facts, after: Facts, parts: Collection[str] | None, at: float) -> dict[Path, Deed]:
    """What a request has done that made this of that, by path; what it left alone is not in it, nor are times.

    ``parts``, ``at``: as :func:`undone` has them.
    """
    done: dict[Path, Deed] = {}
    scalars, bags = before.differ(after)
    for path in scalars:
        was, now = before.scalar(path), after.scalar(path)
        if looks_like_time(now, at):
            continue
        if was is NOTHING:
            done[path] = "new"
        elif now is NOTHING:
            done[path] = "gone"
        elif is_number(was) and is_number(now):
            done[path] = now - was
        else:
            done[path] = "set"
    for path in bags:
        was, now = before.bag(path), after.bag(path)
        gone, come = _more(was, now).total(), _more(now, was).total()
        words = (
            ("emptied" if gone == was.total() else "shrunk") if gone else "",
            f"grown {min(come, 3)}" if come else "",
        )
        done[path] = " ".join(filter(None, words))
    if parts is not None:
        return {path: deed for path, deed in done.items() if path and path[0] in parts}
    return done


def same(base: Facts, seen: Facts, saved: Facts) -> bool:
    """Whether two have put the same in where *base* has it not; numbers do not count, as all count from 5 to 6."""
    scalars, bags = base.differ(seen)
    for path in scalars:
        now = saved.scalar(path)
        if now is not NOTHING and now == seen.scalar(path) and not is_number(now):
            return True
    for path in bags & saved.bags.keys() & seen.bags.keys():
        now, stood = saved.bags[path], seen.bags[path]
        if _more(now, base.bag(path)) & _more(stood, base.bag(path)):
            return True
    return False


def takes_back(older: Facts, newer: Facts, saved: Facts) -> bool:
    """Whether *saved* has all of *older* and more, but nothing of what *newer* has added to that."""
    for path in newer.bags.keys() & saved.bags.keys() & older.bags.keys():
        was, stood, now = older.bags[path], newer.bags[path], saved.bags[path]
        if was and now != was != stood and _holds(now, was):
            added = _more(stood, was)
            if added and not added & now:
                return True
    for path in newer.scalars.keys() - older.scalars.keys():
        if path not in saved.scalars and saved.scalars.keys() - older.scalars.keys():
            return True
    return False


def _holds(whole: Counter[Any], part: Counter[Any]) -> bool:
    return not _more(part, whole)


def _more(than: Counter[Any], other: Counter[Any]) -> Counter[Any]:
    """``than - other``, quickly where they are long and differ little."""
    return Counter({item: count - other[item] for item, count in than.items() - other.items() if count > other[item]})
