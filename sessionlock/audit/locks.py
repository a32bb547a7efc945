"""Locks that an application takes around its saves, as they are seen: ``SET … NX PX``, given back by DEL or a script.

A reply is not seen. Whoever asks for a lock that nobody holds, or whose time has run out, has got it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass

from .commands import Act
from .versions import Who

__all__ = ["SeenLock", "SeenLocks", "same_session"]

_MOST = 20_000
_LONGEST_TOKEN = 128  # bytes; a session that is stored with NX is longer
_ID = re.compile(rb"[A-Za-z0-9]{8,}")
_ID_LENGTHS = (64, 48, 43, 40, 36, 32, 26, 24, 20, 16)


@dataclass(slots=True)
class SeenLock:
    """``since``, ``until``: by the server's clock; ``since`` is None while nobody holds it."""

    who: Who | None = None
    since: float | None = None
    until: float = 0.0
    proven: bool = False

    def held_at(self, at: float) -> bool:
        return self.since is not None and at <= self.until


class SeenLocks:
    """All that were seen; of too many, the latest."""

    def __init__(self) -> None:
        self._by_key: OrderedDict[bytes, SeenLock] = OrderedDict()
        self._by_id: dict[bytes, bytes] = {}

    @property
    def count(self) -> int:
        """Keys that were used as locks: given back, or asked for again. (A session that is begun is stored so, too.)"""
        return sum(lock.proven for lock in self._by_key.values())

    def note(self, at: float, who: Who, act: Act) -> None:
        """Take notice of what may be about a lock."""
        if act.what == "put" and act.only == "nx" and act.whole and len(act.values) == 1:
            (token,) = act.values.values()
            if len(token) <= _LONGEST_TOKEN:
                self._asked(at, who, act)
            return
        lock = self._by_key.get(act.key)
        if lock is None:
            return
        if act.what == "drop":
            lock.since, lock.proven = None, True
        elif act.what in ("extend", "put") and lock.since is not None and act.lasts is not None:
            lock.until = at + act.lasts

    def around(self, key: bytes) -> SeenLock | None:
        """The lock whose name has the same id in it as that key."""
        identity = _longest(key)
        if identity is None:
            return None
        name = self._by_id.get(identity)
        if name is None:  # the id may stand right behind a word
            ends = (identity[-length:] for length in _ID_LENGTHS if length < len(identity))
            name = next((self._by_id[end] for end in ends if end in self._by_id), None)
        return None if name is None or name == key else self._by_key.get(name)

    def _asked(self, at: float, who: Who, act: Act) -> None:
        lock = self._by_key.setdefault(act.key, SeenLock())
        self._by_key.move_to_end(act.key)
        if not lock.held_at(at):
            lock.who, lock.since = who, at
            lock.until = at + act.lasts if act.lasts is not None else float("inf")
        else:
            lock.proven = True
        identity = _longest(act.key)
        if identity is not None:
            self._by_id[identity] = act.key
        if len(self._by_key) > _MOST:
            gone, _ = self._by_key.popitem(last=False)
            identity = _longest(gone)
            if identity is not None and self._by_id.get(identity) == gone:
                del self._by_id[identity]


def same_session(key: bytes, other: bytes) -> bool:
    """Whether it is one key, or the same id is in both names."""
    return key == other or (_longest(key) is not None and _longest(key) == _longest(other))


def _longest(key: bytes) -> bytes | None:
    """What may be an id in it."""
    return max(_ID.findall(key), key=len, default=None)
