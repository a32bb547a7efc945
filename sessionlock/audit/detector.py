"""Lines of ``MONITOR`` in, a verdict out. No I/O, and no more memory than it is told to use."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from .commands import CALL_SCRIPTS, Act, acts_of
from .habits import Habits
from .judge import Judge
from .keys import family_of, matching
from .lines import SCRIPT, Line, parse, plain
from .locks import SeenLocks, same_session
from .units import Connections, Unit, together
from .verdict import MOST_FAMILIES, Tally, Verdict
from .versions import NOT_HELD, Happening, History, Host, Who, host_of

__all__ = ["Detector"]

MOST_RECORDS = 50_000
MOST_BYTES = 64 * 1024 * 1024
MOST_WAITING = 32  # of one key: what is looked at later is looked at knowing more
MOST_HOSTS = 5_000
REHEARSALS = (0.98, 0.8)  # of a base: how sure it must be to learn from it
AT_THE_SAME_TIME = 1e-3  # seconds
MOST_REHEARSED = 1 << 20  # bytes
MOST_AT_ONCE = 4  # that waited, and are looked at while another comes: nobody waits for long


class Detector:
    """``match``: only keys like that (``session:*``, as ``SCAN`` has it). ``database``: only that one. Fed by
    :meth:`feed`, asked by :meth:`finish`.

    ``most_records``, ``most_bytes``: what is kept at a time; beyond that, the key that was used longest ago is judged
    by what was seen of it, and forgotten.
    """

    def __init__(
        self,
        match: str | None = None,
        *,
        database: int | None = None,
        most_records: int = MOST_RECORDS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._match = None if match is None else matching(match)
        self._database = None if database is None else b"%d" % database
        self._limits = (most_records, most_bytes)
        self._records: OrderedDict[tuple[bytes, bytes], History] = OrderedDict()
        self._size = 0
        self._hosts: dict[tuple[int, bytes], Host] = {}
        self._habits: dict[str, Habits] = {}
        self._connections = Connections()
        self._locks = SeenLocks()
        self._tally = Tally()
        self._judge = Judge(self._tally)
        self._clock = _Clock()

    @property
    def commands(self) -> int:
        """Lines that were understood."""
        return self._clock.commands

    @property
    def last(self) -> float:
        """The server's time in the last line; 0.0 before the first."""
        return self._clock.last

    def feed(self, line: bytes, source: int = 0) -> None:
        """Take one line. ``source``: which server's it is, where there are several. Never raises."""
        read = parse(line)
        if read is None or not read.words:
            self._clock.strange += line.strip() not in (b"", b"OK", b"+OK")
            return
        if self._clock.tick(read.at, source):
            self._judge.begin(read.at)
        if read.who == SCRIPT:
            unit = self._connections.script(source)
            if unit is not None:  # else its call was not seen
                unit.add(read.at, acts_of(read.words))
            return
        ended = self._connections.end_script(source)
        if ended is not None:
            self._happened_at_once(ended)
        self._said((source, read.who), read)

    def hear_of_cluster(self) -> None:
        """What is read is one server of several."""
        self._clock.in_cluster = True

    def finish(self, stopped: str = "") -> Verdict:
        """Look at what is left and tell. ``stopped``: why the reading ended before its time."""
        for ended in self._connections.end_scripts():
            self._happened_at_once(ended)
        while self._records:
            self._forget_oldest()
        clock = self._clock
        return Verdict(
            seconds=max(0.0, clock.last - clock.first),
            commands=clock.commands,
            strange=clock.strange,
            locks_seen=self._locks.count,
            one_name=any(host.one_name for host in self._hosts.values()),
            tracking=clock.tracking,
            in_cluster=clock.in_cluster,
            backwards=clock.backwards,
            unmatched=clock.unmatched,
            tally=self._tally,
            stopped=stopped,
        )

    # --- what was done at once

    def _said(self, who: Who, line: Line) -> None:
        connections, name = self._connections, line.words[0].upper()
        if name in CALL_SCRIPTS:
            connections.begin_script(who, line.database)
        elif name == b"MULTI":
            connections.begin_transaction(who, line.database)
        elif name == b"WATCH":
            connections.watch(who, [(line.database, key) for key in line.words[1:]])
        elif name in (b"EXEC", b"DISCARD", b"UNWATCH", b"RESET"):
            block = connections.end_transaction(who)
            if block is not None and name == b"EXEC":
                self._happened_at_once(block)
            connections.unwatch(who)
        elif name in _OF_ALL_KEYS:
            self._emptied(None if name != b"FLUSHDB" else line.database)
        elif name == b"CLIENT":
            self._clock.hear_client(line.words)
        else:
            acts = acts_of(line.words)
            if acts and not connections.in_transaction(who, line.at, acts):
                self._happened(who, line, acts)

    def _happened(self, who: Who, line: Line, acts: Iterable[Act]) -> None:
        host = self._host(who)
        for act in acts:
            self._locks.note(line.at, who, act)
            if act.what == "read":
                self._connections.has_read(who, (line.database, act.key))
            self._record(line.database, Happening(line.at, who, host, act))

    def _happened_at_once(self, unit: Unit) -> None:
        """Of each key: what was read before it was saved, and what stands there behind it."""
        saves: dict[bytes, list[Act]] = {}
        read: set[bytes] = set()
        extended: list[Happening] = []
        host, who = self._host(unit.who), unit.who
        why = "script" if unit.is_script else ""
        for at, act in unit.acts:
            self._locks.note(at, who, act)
            if act.what == "read" and act.key not in saves:
                read.add(act.key)
                self._record(unit.database, Happening(at, who, host, act, why))
            elif act.what == "extend":
                extended.append(Happening(at, who, host, act))
            elif act.what != "read":
                saves.setdefault(act.key, []).append(act)
        for key, acts in saves.items():
            # A script that looks before it writes decides by what is there: of that key, or of one beside it.
            safe = why if any(same_session(key, other) for other in read) else ""
            if self._connections.has_watched(who, (unit.database, key)):
                safe = "watched"
            self._record(unit.database, Happening(unit.acts[-1][0], who, host, together(acts), safe))
        for event in extended:
            self._record(unit.database, event)

    def _record(self, database: bytes, event: Happening) -> None:
        if self._database not in (None, database):
            self._clock.unmatched += 1
            return
        key = (database, event.act.key)
        record = self._records.get(key)
        if record is None:
            if event.act.what == "extend":
                return
            if self._match is not None and not self._match.fullmatch(plain(event.act.key)):
                self._clock.unmatched += 1
                return
            record = self._records[key] = History(event.act.key, self._habits_of(event.act.key))
            if len(self._records) > self._limits[0]:
                self._forget_oldest(dropping=True)
        self._records.move_to_end(key)
        if event.act.what not in ("read", "extend"):
            event = self._with_lock(event)
        before = record.size
        if event.act.what != "extend":
            record.usage.note(event)
        record.await_look(event)
        if record.habits.are_new:
            if record.habits.await_save(event.act.what):
                self._rehearse(record.habits)
        else:
            self._look(record, max(MOST_WAITING, len(record.waiting) - MOST_AT_ONCE))
        self._size += record.size - before
        while self._size > self._limits[1] and self._records:
            self._forget_oldest(dropping=True)

    def _look(self, record: History, most_waiting: int) -> None:
        while len(record.waiting) > most_waiting:
            self._judge.look_at(record, record.next_to_look_at())

    def _rehearse(self, habits: Habits) -> None:
        """Judge what came first without counting it: the habits are known then, when it is judged in earnest. At first
        only those saves say something of them whose base is beyond doubt.
        """
        habits.have_begun()
        for least in REHEARSALS:
            rehearsing, left = Judge(Tally(), learns_from=least), MOST_REHEARSED
            for record in self._records.values():
                if record.habits is habits and left > 0:
                    left -= record.rehearse(rehearsing.look_at, left)

    def _with_lock(self, event: Happening) -> Happening:
        lock = self._locks.around(event.act.key)
        if lock is None:
            return event
        return event._replace(locked_since=lock.since if lock.held_at(event.at) else NOT_HELD)

    def _emptied(self, database: bytes | None) -> None:
        """That database, or all of them."""
        for key in [key for key in self._records if database in (None, key[0])]:
            self._records.move_to_end(key, last=False)
            self._forget_oldest()

    def _forget_oldest(self, *, dropping: bool = False) -> None:
        if next(iter(self._records.values())).habits.are_new:
            self._rehearse(next(iter(self._records.values())).habits)
        _, record = self._records.popitem(last=False)
        self._size -= record.size
        self._look(record, 0)
        if dropping and record.current.number > 0:
            self._tally.drop()

    def _habits_of(self, key: bytes) -> Habits:
        name = family_of(key)
        habits = self._habits.get(name)
        if habits is None:
            if len(self._habits) >= MOST_FAMILIES:
                return Habits()
            habits = self._habits[name] = Habits()
        return habits

    def _host(self, who: Who) -> Host:
        name = (who[0], host_of(who))
        host = self._hosts.get(name)
        if host is None:
            if len(self._hosts) >= MOST_HOSTS:
                self._hosts.pop(next(iter(self._hosts)))
            host = self._hosts[name] = Host(one_name=who[1].startswith(b"unix:"))
        return host


_OF_ALL_KEYS = {b"FLUSHALL", b"FLUSHDB", b"SWAPDB"}


class _Clock:
    def __init__(self) -> None:
        self.first = self.last = 0.0
        self.commands = self.strange = self.backwards = self.unmatched = 0
        self.tracking = self.in_cluster = False
        self._by_source: dict[int, float] = {}

    def tick(self, at: float, source: int) -> bool:
        """Whether this was the first time."""
        self.commands += 1
        self.backwards += at < self._by_source.get(source, 0.0) - AT_THE_SAME_TIME
        self._by_source[source] = at
        self.last = max(self.last, at)
        if self.commands == 1:
            self.first = at
        return self.commands == 1

    def hear_client(self, words: Sequence[bytes]) -> None:
        """Whether somebody has the server tell what changes, and so reads from a copy of his own."""
        if len(words) > 2 and words[1].upper() == b"TRACKING" and words[2].upper() == b"ON":
            self.tracking = True
