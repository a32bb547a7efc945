"""What did a save overwrite that its request had not seen? And is that sure, or only likely?

Which read a save belongs to is found by what is likeliest (:mod:`.bases`). Whether a loss is *sure* is asked apart from
that (:meth:`Judge._is_sure`).
"""

from __future__ import annotations

from collections.abc import Iterable

from .bases import Base, base_of, latest
from .compare import Token, Undone, changes, deeds, missing, undone
from .facts import is_number, looks_like_time
from .verdict import Example, Grade, Tally, digest_of, shown_name
from .versions import EXPIRED, NOT_HELD, Happening, History, Version

__all__ = ["Judge"]

ENVELOPES = ("session", "data", "passport", "m")  # aiohttp-session's, Quart's, pyramid_session_redis' and others'
LEARNS_FROM = 0.6  # surety
THE_VALUE, THE_RECORD = "(the value)", "(the record)"


class Judge:
    """Looks at what happened to a key, in order, and counts. ``learns_from``: how sure a base must be, to learn from it
    what requests usually do.
    """

    def __init__(self, tally: Tally, *, learns_from: float = LEARNS_FROM) -> None:
        self._tally = tally
        self._learns_from = learns_from
        self._began = 0.0

    def begin(self, at: float) -> None:
        """The time of the first line."""
        self._began = at

    def look_at(self, record: History, event: Happening) -> None:
        record.pass_time(event.at)
        if event.act.what == "read":
            record.note_read(event)
            return
        if event.act.what == "extend":
            record.extend(event)
            return
        version = record.next_version(event)
        if version is None:
            return
        if event.act.what == "put" or event.act.parts is not None:
            self._save(record, event, version)
        else:
            # Deleted or changed by the server's own means: nobody's value is overwritten by an old one.
            mine = latest(record.reads, event)
            if mine is not None and event.act.what == "drop":
                record.answered(mine)
            version.rest_on(record.current)
        record.add(version)

    def _save(self, record: History, event: Happening, version: Version) -> None:
        tally, current = self._tally, record.current
        if event.locked_since is not None:
            record.see_lock()
            tally.locked.save()
        base = base_of(record, event, version)
        how = base.how
        version.rest_on(base.version)
        if base.surety > self._learns_from:
            _learn(record, event, version, base)
        for answered in base.answered:
            record.answered(answered)
        if base.answered and record.judge():
            tally.judge(record.key)
        tally.saves[how] += 1
        if record.ledger.lost and version.parts is not None:
            self._see_what_came_back(record, version)
        if version.base is not None and version.base is not current and how == "overlapping":
            self._compare(record, event, version, base)
        for form in version.forms:
            tally.forms[form] += 1

    # --- what it overwrote

    def _compare(self, record: History, event: Happening, version: Version, known: Base) -> None:
        base, seen = known.version, record.current
        if base is None or seen.parts is None or version.parts is None:
            return
        if seen.act == "drop" and seen.wrote is None:
            self._brought_back(record, event, known)
            return
        expired = next((one for one in record.between(base, seen) if one.act == EXPIRED), None)
        base = expired or base  # what had been read was over: nobody has overwritten that
        found: Iterable[Undone]
        if base.knows(version.wrote):
            found = undone(base.facts, seen.facts, version.facts, version.wrote_names, event.at)
        elif seen.knows(version.wrote):
            found = missing(seen.facts, version.facts, version.wrote_names)
        else:
            return
        chain = record.between(base, seen)
        own = {one.number: record.own_changes(one) for one in chain}
        hurt: dict[int, list[Undone]] = {}
        for one in found:
            if one.how == "contested":
                self._tally.contested[_field_of(one.token)] += 1
            elif (
                base.parts is not None
                and one.token.item is None
                and is_number(base.facts.scalar(one.token.path))
                and _is_count(seen.facts.scalar(one.token.path), event.at)
            ):
                gone, again = record.counted(base, version, one.token)
                for number in gone:
                    hurt.setdefault(number, []).append(one)
                self._bring_back(record, version, [(number, one.token) for number in again])
            else:
                whose = _whose(one, chain, own, record)
                if whose is not None:
                    hurt.setdefault(whose, []).append(one)
        for number, what in hurt.items():
            victim = next((one for one in chain if one.number == number), seen)
            fields = {_field_of(one.token) for one in what}
            fields -= {_field_of(token) for token in record.ledger.lost.get(number, ())}
            if fields:
                back = {_field_of(one.token) for one in what if not one.token.added}
                plain = any(one.plain for one in what)
                more = number in record.ledger.lost
                self._lose(record, event, victim, known, fields, back, plain=plain, more=more)
            record.ledger.lose(number, {one.token: seen.facts.scalar(one.token.path) for one in what})

    def _brought_back(self, record: History, event: Happening, known: Base) -> None:
        """A record that somebody deleted is stored again, by one who had read it before. (Deleting and storing anew is
        how some save: then it is the same connection.)
        """
        base, dropped = known.version, record.current
        if base is not None and not base.absent and dropped.who != event.who and known.read is not None:
            self._lose(record, event, dropped, known, {THE_RECORD}, {THE_RECORD}, plain=True)

    def _lose(
        self,
        record: History,
        event: Happening,
        victim: Version,
        known: Base,
        fields: set[str],
        back: set[str],
        *,
        plain: bool,
        more: bool = False,
    ) -> None:
        """``more``: of an update of which something is lost already."""
        read = known.read
        grade: Grade = "sure" if plain and _is_sure(record, event, victim, known) else "likely"
        example = Example(
            digest_of(record.key),
            tuple(sorted(fields)),
            grade,
            None if read is None else round(read.at - self._began, 6),
            round(victim.at - self._began, 6),
            round(event.at - self._began, 6),
        )
        if more:
            self._tally.lose_more(grade, fields, back)
            return
        self._tally.lose(record.key, grade, fields, example, back)
        if record.locked:
            since = event.locked_since
            held = since is not None and since != NOT_HELD
            self._tally.locked.lose(held=held, read_before=held and read is not None and read.at < (since or 0.0))

    # --- what comes back later

    def _see_what_came_back(self, record: History, version: Version) -> None:
        """A save whose base still had what was lost since brings it back: not for good, then, but for a while."""
        seen, base = record.current, version.base
        if seen.parts is None or base is None or not version.knows(None):
            return
        back = []
        changed = changes(seen.facts, version.facts)
        for number, tokens in record.ledger.lost.items():
            for token in tokens.keys() & changed:
                value = tokens[token]
                was, now = seen.facts.scalar(token.path), version.facts.scalar(token.path)
                if token.item is not None or (now == value and not (is_number(was) and _is_count(value, version.at))):
                    back.append((number, token))
        self._bring_back(record, version, back)

    def _bring_back(self, record: History, version: Version, back: list[tuple[int, Token]]) -> None:
        for number, token in back:
            if token in record.ledger.lost.get(number, ()):
                record.ledger.bring_back(number, token, version.number)
                left = {_field_of(one) for one in record.ledger.lost.get(number, ())}
                if _field_of(token) not in left:
                    self._tally.bring_back(_field_of(token), whole=not left)


def _learn(record: History, event: Happening, version: Version, known: Base) -> None:
    """What the requests of such keys do."""
    base, habits = known.version, record.habits
    if base is None:
        return
    if known.how in ("fresh", "overlapping"):
        habits.was_timed(stale=base is not record.current, again=known.read is None, surety=known.surety)
    if version.parts is not None and base.knows(version.wrote) and habits.wants_more():
        habits.learn(deeds(base.facts, version.facts, version.wrote_names, event.at), known.surety)


def _is_sure(record: History, event: Happening, victim: Version, known: Base) -> bool:
    """Whether the save's request cannot have known the victim's: it had read before that was saved, and nobody has read
    since; or only others have, where each request keeps a connection of its own.
    """
    read, newest = known.read, known.newest
    if read is None or victim.who in (None, event.who) or event.host.one_name or read.version.number >= victim.number:
        return False
    if record.reads_seen == victim.reads_before:
        return True
    # Django reads once more before it saves, and does not use it; that nobody can know.
    return event.host.keeps and newest is not None and newest.who == event.who and newest.version.number < victim.number


def _whose(one: Undone, chain: list[Version], own: dict[int, set[Token]], record: History) -> int | None:
    """The last save that made that change. None: it is told already."""
    token, oldest = one.token, chain[-1].number
    told = {version.number for version in chain if token in record.ledger.lost.get(version.number, ())}
    makers = (version.number for version in chain if token in own[version.number] and version.number not in told)
    back = (number for (number, other), by in record.ledger.back.items() if other == token and by >= oldest)
    # What is missing without anybody having taken it out was lost before; now it comes back.
    nobody = chain[0].number if token.added and not told else None
    return next(makers, next(back, nobody))


def _is_count(value: object, at: float) -> bool:
    return is_number(value) and not looks_like_time(value, at)


def _field_of(token: Token) -> str:
    """Its name; where all of the session is in an envelope, with the envelope's."""
    path = token.path
    if len(path) > 1 and path[0] in ENVELOPES:
        return f"{path[0]}.{shown_name(path[1])}"
    return shown_name(path[0]) if path else THE_VALUE
