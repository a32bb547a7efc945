"""What connections are in the middle of: scripts, transactions, keys that they watch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from .commands import Act
from .versions import Who

__all__ = ["Connections", "Unit", "together"]

Key = tuple[bytes, bytes]  # database and name

MOST_CONNECTIONS = 20_000
LONGEST = 10_000  # commands of one transaction or script
MOST_BYTES = 16 * 1024 * 1024  # of all transactions that are not over; of some it is never seen that they end
COMMAND_WEIGHS = 300  # bytes, beside its values
MOST_WATCHED = 100_000  # keys, of all connections


class Unit:
    """Commands that the server runs as one. ``is_script``: else a transaction."""

    def __init__(self, who: Who, database: bytes, *, is_script: bool) -> None:
        self.who = who
        self.database = database
        self.is_script = is_script
        self.acts: list[tuple[float, Act]] = []
        self.size: int = 0

    def add(self, at: float, acts: Iterable[Act]) -> None:
        if len(self.acts) < LONGEST and self.size < MOST_BYTES:
            for act in acts:
                self.acts.append((at, act))
                self.size += COMMAND_WEIGHS + sum(map(len, act.values.values()))


class Connections:
    """By the client's address; a script's commands come right behind its call, on the same server."""

    def __init__(self) -> None:
        self._scripts: dict[int, Unit] = {}
        self._blocks: OrderedDict[Who, Unit] = OrderedDict()
        self._watched: OrderedDict[Who, dict[Key, bool]] = OrderedDict()
        self._size = self._watching = 0

    def begin_script(self, who: Who, database: bytes) -> None:
        self._scripts[who[0]] = Unit(who, database, is_script=True)

    def script(self, source: int) -> Unit | None:
        """The one that runs."""
        return self._scripts.get(source)

    def end_script(self, source: int) -> Unit | None:
        return self._scripts.pop(source, None)

    def end_scripts(self) -> list[Unit]:
        ended = list(self._scripts.values())
        self._scripts.clear()
        return ended

    def begin_transaction(self, who: Who, database: bytes) -> None:
        self.end_transaction(who)
        self._blocks[who] = Unit(who, database, is_script=False)
        while len(self._blocks) > MOST_CONNECTIONS:
            self.end_transaction(next(iter(self._blocks)))

    def in_transaction(self, who: Who, at: float, acts: Iterable[Act]) -> bool:
        """Keep them until it is over, if that client has begun one. Of too much at once, the oldest is forgotten."""
        unit = self._blocks.get(who)
        if unit is None:
            return False
        before = unit.size
        unit.add(at, acts)
        self._size += unit.size - before
        while self._size > MOST_BYTES and len(self._blocks) > 1:
            self.end_transaction(next(iter(self._blocks)))
        return True

    def end_transaction(self, who: Who) -> Unit | None:
        unit = self._blocks.pop(who, None)
        if unit is not None:
            self._size -= unit.size
        return unit

    def watch(self, who: Who, keys: Iterable[Key]) -> None:
        watched = self._watched.setdefault(who, {})
        before = len(watched)
        watched.update(dict.fromkeys(keys, False))
        self._watching += len(watched) - before
        while self._watching > MOST_WATCHED or len(self._watched) > MOST_CONNECTIONS:
            self.unwatch(next(iter(self._watched)))

    def unwatch(self, who: Who) -> None:
        self._watching -= len(self._watched.pop(who, ()))

    def has_read(self, who: Who, key: Key) -> None:
        watched = self._watched.get(who)
        if watched is not None and key in watched:
            watched[key] = True

    def has_watched(self, who: Who, key: Key) -> bool:
        """And read it since."""
        return self._watched.get(who, {}).get(key, False)


def together(acts: Sequence[Act]) -> Act:
    """What these do to one key, as one."""
    first, *more = acts
    if not more:
        return first
    values: dict[bytes, bytes] = {}
    gone: set[bytes] = set()
    whole = False
    for act in acts:
        if act.what not in ("put", "drop"):
            return Act(first.key, "unknown")
        if act.what == "drop" and act.parts is not None:
            gone |= set(act.parts)
            for part in act.parts:
                values.pop(part, None)
        elif act.what == "drop" or act.whole:
            values, gone, whole = dict(act.values), set(), True
        else:
            values.update(act.values)
            gone -= act.values.keys()
    if whole and not values:
        return Act(first.key, "drop")
    return Act(first.key, "put", parts=None if whole or not gone else tuple(gone), values=values, whole=whole)
