"""One key of Redis as the commands leave it: its versions, and who has read which.

``MONITOR`` shows what is written, never what a read returns; what was written last is what a read has returned.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from .commands import WHOLE, Act
from .compare import Token, changes
from .facts import Facts, facts_of
from .formats.reading import Stored, read_value
from .habits import Habits
from .ledger import Ledger
from .lines import plain

__all__ = ["EXPIRED", "NOT_HELD", "RECENT", "Happening", "History", "Host", "Read", "Version", "Who", "host_of"]

Who = tuple[int, bytes]  # which server's lines, and the client's address

EXPIRED = "expired"  # as a version's act
NOT_HELD = -1.0  # as locked_since: a lock was seen, and nobody holds it
MOST_VERSIONS = 64  # of one key
MOST_READS = 64
CLEARLY = 1.5  # a difference in oddness that tells something
RECENT = 1.0  # seconds in which a read may still be a request's that is at work
MOST_PARTS = 128  # of one hash; a larger one is an index or a cache, and no session
SHORT = 500  # bytes, of which it is remembered what was read in them
PART_WEIGHS = 100  # bytes of a part that another version has, too
FACTS_WEIGH = 6  # times the bytes that they were read from
EVENT_WEIGHS = 300  # bytes of one that waits, or of a version, beside its values


@dataclass(slots=True)
class Host:
    """What is known of the connections from one address.

    ``paired``: saves whose connection had read the key before. ``late``: saves whose connection had not, while another
    read of it was unanswered: a pool, or one connection for many requests at once. ``gaps``: seconds from read to save.
    ``twice``: saves whose connection had read the key more than once. ``base_was_…``: what their values then said.
    ``stayed``, ``changed``: whether by the values a save's base was read by its own connection or by another.
    ``alone``: saves while nobody else had the key; ``unchanged``: those of them that stored what stood there.
    """

    one_name: bool = False  # a unix socket: all connections have the same name
    paired: int = 0
    late: int = 0
    gaps: float = 0.0
    gap_count: int = 0
    twice: int = 0
    alone: int = 0
    unchanged: int = 0
    base_was_last: int = 0
    base_was_earlier: int = 0
    stayed: int = 0
    changed: int = 0

    @property
    def hops(self) -> bool:
        """Whether a request's read and its save may come by different connections."""
        return self.late > self.paired / 100 or self.changed > 2 + self.stayed / 10

    @property
    def keeps(self) -> bool:
        """Whether each request was seen to stay with one connection that serves no other meanwhile."""
        return self.late == 0 and self.changed <= self.paired / 50 and self.paired >= 20 and not self.one_name

    def compare(self, earlier: float, last: float) -> None:
        """How odd a save would be, by what its connection had read last, and before that."""
        self.base_was_earlier += earlier + CLEARLY < last
        self.base_was_last += last + CLEARLY < earlier

    def compare_connections(self, own: float, others: float) -> None:
        """How odd a save would be, by what its own connection had read, and by what others had."""
        self.stayed += own + CLEARLY < others
        self.changed += others + CLEARLY < own

    @property
    def looks_twice(self) -> bool:
        """Whether its requests read once more right before they save, and use what they had read before."""
        if self.base_was_earlier or self.base_was_last:
            return self.base_was_earlier > 2 * self.base_was_last
        return self.paired >= 5 and self.twice >= 0.9 * self.paired

    @property
    def may_look_twice(self) -> bool:
        """Whether that cannot be ruled out."""
        return self.twice > self.paired / 4

    @property
    def saves_always(self) -> bool:
        """Whether its requests are seen to save what they did not change, too."""
        return self.unchanged > self.alone / 20

    @property
    def usual_gap(self) -> float:
        return max(0.001, self.gaps / self.gap_count) if self.gap_count else 0.05


class Happening(NamedTuple):
    """Something that happened to a key at once. ``safe``: why a save cannot have overwritten what it does not know.

    ``locked_since``: when the lock was taken that is held around it; None where no lock of that key was seen.
    """

    at: float
    who: Who
    host: Host
    act: Act
    safe: str = ""
    locked_since: float | None = None


class Read(NamedTuple):
    at: float
    who: Who
    host: Host
    version: Version


@dataclass(slots=True)
class Version:
    """``parts``: what is known to stand there, by part, escaped; None: nothing is. ``complete``: that is all.

    ``wrote``: which parts this save was about, None where about all. ``reads_before``: of the key, in the capture.
    ``base``: what the request that saved it had read, as far as can be told; ``own``: what that request changed, once
    asked for. ``ends``: when the key expires.
    """

    number: int
    at: float
    who: Who | None
    act: str
    parts: dict[bytes, bytes] | None
    complete: bool
    wrote: frozenset[bytes] | None = None
    reads_before: int = 0
    base: Version | None = None
    forms: set[str] = field(default_factory=set)
    own: set[Token] | None = None
    ends: float = math.inf
    _facts: Facts | None = None

    @property
    def absent(self) -> bool:
        return self.complete and not self.parts

    @property
    def size(self) -> int:
        """Bytes that it holds, about; of a hash, those that it brought."""
        if not self.parts:
            return EVENT_WEIGHS
        wrote = self.parts if self.wrote is None else self.wrote
        raw = sum(len(self.parts.get(part, b"")) for part in wrote)
        return (raw if self._facts is None else raw * (1 + FACTS_WEIGH)) + PART_WEIGHS * len(self.parts) + EVENT_WEIGHS

    @property
    def wrote_names(self) -> set[str] | None:
        return None if self.wrote is None else {name_of(part) or "" for part in self.wrote}

    def knows(self, wrote: frozenset[bytes] | None) -> bool:
        """Whether what stood in these parts is known."""
        if self.parts is None:
            return False
        return self.complete or (wrote is not None and wrote <= self.parts.keys())

    @property
    def facts(self) -> Facts:
        if self._facts is None:
            contents: dict[str | None, tuple[Stored, bytes]] = {}
            for part, escaped in (self.parts or {}).items():
                content, raw = (_read_short if part != WHOLE and len(escaped) <= SHORT else _read)(
                    escaped, part != WHOLE
                )
                self.forms.add(content.form)
                contents[name_of(part)] = (content, raw)
            self._facts = facts_of(contents)
        return self._facts

    def last_until(self, ends: float) -> None:
        """Its time is another now."""
        self.ends = ends

    def rest_on(self, base: Version | None) -> None:
        self.base = base

    def forget(self) -> None:
        self.base = self._facts = self.own = None


def _read(escaped: bytes, part: bool) -> tuple[Stored, bytes]:
    raw = plain(escaped)
    return read_value(raw, part=part), raw


_read_short = lru_cache(2048)(_read)  # most parts of a hash stay as they are from version to version


def host_of(who: Who) -> bytes:
    """The address without the port of one connection."""
    return who[1] if who[1].startswith(b"unix:") else who[1].rpartition(b":")[0]


def name_of(part: bytes) -> str | None:
    return None if part == WHOLE else plain(part).decode(errors="backslashreplace")


class Usage:
    """Who reads and who saves one key, as it comes: what shows how a host uses its connections."""

    def __init__(self) -> None:
        self._open: dict[Who, list[float]] = {}  # since its last save, from before, since when
        self._stored: dict[bytes, bytes] = {}

    def note(self, event: Happening) -> None:
        """Take notice of who reads and who saves, for ``event.host``."""
        now = event.at
        if event.safe:
            self._open.pop(event.who, None)
            return
        if event.act.what == "read":
            mine = self._open.setdefault(event.who, [0, 0, now])
            if len(self._open) > MOST_READS:
                del self._open[next(iter(self._open))]
            if now - mine[2] > RECENT:
                mine[2] = now
            mine[0] += 1
            return
        host, opened = event.host, self._open.get(event.who)
        others = [
            who
            for who, (since, before, at) in self._open.items()
            if now - at < RECENT and (since or before) and who != event.who and host_of(who) == host_of(event.who)
        ]
        if opened is not None and opened[0]:
            host.paired += 1
            host.twice += opened[0] > 1
            host.gaps += now - opened[2]
            host.gap_count += 1
            if not others and opened[0] == 1 and not opened[1]:
                host.alone += 1
                host.unchanged += event.act.values == self._stored
            opened[1] += opened[0] - 1
            opened[0] = 0
            if not opened[1]:
                del self._open[event.who]
        elif others or (opened is not None and now - opened[2] < RECENT):
            host.late += 1
            if opened is not None:
                opened[1] = max(0, opened[1] - 1)
        self._stored = event.act.values


class History:
    """One key. ``habits``: of those that save such keys. ``waiting``: what happened and was not looked at yet, so that
    more is known of its hosts by then.
    """

    def __init__(self, key: bytes, habits: Habits | None = None) -> None:
        self.key = key
        self.habits: Habits = Habits() if habits is None else habits
        self.waiting: deque[Happening] = deque()
        self.reads: list[Read] = []
        self.reads_seen: int = 0
        self.ledger: Ledger = Ledger()
        self.judged: bool = False
        self.locked: bool = False
        self._held = self._awaited = 0
        self._chain: deque[Version] = deque((Version(0, 0.0, None, "start", None, False),))
        self.usage: Usage = Usage()

    @property
    def current(self) -> Version:
        return self._chain[-1]

    @property
    def size(self) -> int:
        """Bytes that it holds, about."""
        return self._held + self._awaited

    def await_look(self, event: Happening) -> None:
        self.waiting.append(event)
        self._awaited += _weight(event)

    def next_to_look_at(self) -> Happening:
        event = self.waiting.popleft()
        self._awaited -= _weight(event)
        return event

    def rehearse(self, look_at: Callable[[History, Happening], None], most: int) -> int:
        """Let what waits be looked at, without coming to anything but habits; how many bytes that was, ``most`` at
        most.
        """
        stage, weight = History(self.key, self.habits), 0
        for event in self.waiting:
            weight += _weight(event)
            if weight > most:
                break
            look_at(stage, event)
        return weight

    def judge(self) -> bool:
        """It was read and saved; whether that is new."""
        new, self.judged = not self.judged, True
        return new

    def see_lock(self) -> None:
        self.locked = True

    def pass_time(self, now: float) -> None:
        """What has an end is not there any more when that is over."""
        ended = self.current
        if now > ended.ends:
            self.add(Version(ended.number + 1, ended.ends, None, EXPIRED, {}, True, None, self.reads_seen))

    def extend(self, event: Happening) -> None:
        if event.act.lasts is not None:
            self.current.last_until(event.at + event.act.lasts)

    def note_read(self, event: Happening) -> None:
        self.reads_seen += 1
        self.reads.append(Read(event.at, event.who, event.host, self.current))
        if len(self.reads) > MOST_READS:
            del self.reads[0]

    def answered(self, read: Read) -> None:
        """That read's request has saved."""
        self.reads.remove(read)

    def add(self, version: Version) -> None:
        self._chain.append(version)
        oldest = min((read.version.number for read in self.reads), default=version.number)
        while len(self._chain) > 1 and (self._chain[0].number < oldest - 1 or len(self._chain) > MOST_VERSIONS):
            self._chain.popleft().forget()
        first = self._chain[0].number
        self.reads = [read for read in self.reads if read.version.number >= first]
        self._held = sum(one.size for one in self._chain)

    def between(self, older: Version, newer: Version) -> list[Version]:
        """The versions behind ``older`` up to ``newer``, that one included; the newest first."""
        return [version for version in reversed(self._chain) if older.number < version.number <= newer.number]

    def last_of(self, who: Who) -> Version | None:
        """What that client saved last, if it is still known."""
        return next((version for version in reversed(self._chain) if version.who == who), None)

    def before(self, version: Version) -> Version | None:
        return next((one for one in reversed(self._chain) if one.number < version.number), None)

    def own_changes(self, version: Version) -> set[Token]:
        """What the request that saved it had changed of what it had read."""
        if version.own is None:
            base = version.base or self.before(version)
            known = base is not None and base.parts is not None and version.parts is not None
            version.own = changes(base.facts, version.facts) if base is not None and known else set()
        return version.own

    def counted(self, base: Version, saved: Version, token: Token) -> tuple[list[int], list[int]]:
        """As :meth:`.Ledger.counted`."""
        makers = [one.number for one in self.between(base, self.current) if token in self.own_changes(one)]
        was, stood, now = (one.facts.scalar(token.path) for one in (base, self.current, saved))
        return self.ledger.counted(token, base.number, makers, (was, stood, now))

    def next_version(self, event: Happening) -> Version | None:
        """What the event makes of the current one; None where it does nothing."""
        now, act = self.current, event.act
        make = _Making(now.number + 1, event, self.reads_seen)
        if act.only == "nx" and ((act.whole and now.parts) or (not act.whole and _has(now, act))):
            return None
        if act.only == "xx" and now.absent:
            return None
        if act.what == "unknown":
            return make(None, False)
        if act.what == "drop" and act.parts is None:
            return make({}, True)
        if act.whole:
            return make(act.values, True, ends=now.ends if act.keeps else event.at + (act.lasts or math.inf))
        gone = act.parts or ()
        parts = {part: value for part, value in (now.parts or {}).items() if part not in gone}
        if act.what == "add":
            return self._added(make, parts, act)
        wrote = frozenset((*act.values, *(act.parts or ())))
        if len(parts) > MOST_PARTS:
            return make(dict(act.values), False, wrote, ends=now.ends)
        return make({**parts, **act.values}, now.complete, wrote, ends=now.ends)

    def _added(self, make: _Making, parts: dict[bytes, bytes], act: Act) -> Version:
        ((part, by),) = act.values.items()
        before = parts.get(part, b"0" if self.current.complete else b"?")
        wrote = None if part == WHOLE else frozenset((part,))
        if len(before) < 20 and before.lstrip(b"-").isdigit():
            parts[part] = b"%d" % (int(before) + int(by))
            return make(parts, self.current.complete, wrote, ends=self.current.ends)
        parts.pop(part, None)
        return make(parts or None, False, wrote, ends=self.current.ends)


class _Making:
    def __init__(self, number: int, event: Happening, reads_before: int) -> None:
        self._number = number
        self._event = event
        self._reads_before = reads_before

    def __call__(
        self,
        parts: dict[bytes, bytes] | None,
        complete: bool,
        wrote: frozenset[bytes] | None = None,
        *,
        ends: float = math.inf,
    ) -> Version:
        event = self._event
        made = Version(self._number, event.at, event.who, event.act.what, parts, complete, wrote, self._reads_before)
        made.last_until(ends)
        return made


def _weight(event: Happening) -> int:
    """Bytes that it holds, about."""
    return EVENT_WEIGHS + sum(map(len, event.act.values.values()))


def _has(version: Version, act: Act) -> bool:
    return bool(version.parts) and any(part in (version.parts or {}) for part in act.values)
