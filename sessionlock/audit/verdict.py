"""What an audit has found: counted while it goes on (:class:`Tally`), and told at its end (:class:`Verdict`)."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .keys import family_of, tells_nobody
from .lines import plain

__all__ = ["Example", "Grade", "Locked", "OfField", "OfSession", "Tally", "Verdict", "digest_of"]

Grade = Literal["sure", "likely"]

MOST_SESSIONS = 100_000  # of which it is known how much each lost
MOST_FIELDS = 1_000
MOST_FAMILIES = 200
EXAMPLES = 5
SHORTEST = 5.0  # seconds, from which so much an hour can be said
SHOWN = 20
MOST_UNCLEAR = 0.02  # of all saves, where none lost something that can be seen
_SECRET = re.compile(r"(?=\D*\d)[A-Za-z0-9+/=-]{10,}|\S+@\S+|\d{4,}")
_RUN = re.compile(r"[A-Za-z]{8,}")
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_NUMBER = re.compile(r"\d+$|\d{2,}")
_VOWEL = re.compile(r"[aeiouyAEIOUY]")
_LEAST_WORD = 3.5  # letters, on average, of names that people give


def digest_of(key: bytes) -> str:
    """Of a key's name as ``MONITOR`` escaped it: ``printf %s NAME | sha256sum | cut -c1-16``."""
    return hashlib.sha256(plain(key)).hexdigest()[:16]


def shown_name(name: str) -> str:
    """A field's name, as it may be printed: some applications put ids there. Those that only differ by a number are
    one.
    """
    told = _NUMBER.sub("#", _RUN.sub(_told, _SECRET.sub("…", name)))
    told = "".join(letter if letter.isprintable() else "?" for letter in told)
    return told if len(told) <= 40 else told[:39] + "…"


def _told(match: re.Match[str]) -> str:
    """Letters in a row: words, or some of an id's."""
    run = match[0]
    words = _WORD.findall(run)
    spelled = len(run) / max(1, len(words)) >= _LEAST_WORD and len(_VOWEL.findall(run)) >= len(run) / 6
    return run if spelled else "…"


@dataclass(slots=True)
class OfField:
    """How often changes of one field were lost. ``came_back``: how many of them were there again later. ``undone``: of
    how many something had been taken out, and was in it again.
    """

    sure: int = 0
    likely: int = 0
    came_back: int = 0
    undone: int = 0


@dataclass(slots=True)
class OfSession:
    """One key's losses, its name as a digest."""

    sure: int = 0
    likely: int = 0
    fields: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Example:
    """One loss, in seconds since the first line. ``read``, ``saved``: when the save that overwrote had read, and was
    made; ``lost``: when what it overwrote had been saved.
    """

    session: str
    fields: tuple[str, ...]
    grade: Grade
    read: float | None
    lost: float
    saved: float


@dataclass(slots=True)
class Locked:
    """Saves of keys for which a lock was seen, and what became of losses there."""

    saves: int = 0
    lost: int = 0
    not_held: int = 0
    read_before: int = 0

    def save(self) -> None:
        self.saves += 1

    def lose(self, *, held: bool, read_before: bool) -> None:
        self.lost += 1
        self.not_held += not held
        self.read_before += read_before


@dataclass(slots=True)
class Tally:
    """What is counted while lines come."""

    updates: Counter[str] = field(default_factory=Counter)  # by grade, and "came back"
    saves: Counter[str] = field(default_factory=Counter)  # how each save came about
    contested: Counter[str] = field(default_factory=Counter)  # by field
    forms: Counter[str] = field(default_factory=Counter)
    families: dict[str, list[int]] = field(default_factory=dict)  # keys judged, updates lost
    fields: dict[str, OfField] = field(default_factory=dict)
    sessions: dict[str, OfSession] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)
    locked: Locked = field(default_factory=Locked)
    judged: int = 0
    dropped: int = 0
    more_sessions: int = 0

    def lose(self, key: bytes, grade: Grade, fields: set[str], example: Example, back: set[str]) -> None:
        """One update was lost. ``back``: the fields in which something that was taken out came back."""
        self.updates[grade] += 1
        session = self.sessions.get(example.session)
        if session is None:
            if len(self.sessions) < MOST_SESSIONS:
                session = self.sessions[example.session] = OfSession()
            else:
                session = OfSession()
                self.more_sessions += 1
        _one_more(session, grade)
        session.fields |= fields
        self.lose_more(grade, fields, back)
        same = sum(one.grade == grade for one in self.examples)
        if same < EXAMPLES:
            self.examples.append(example)
        self.family(key)[1] += 1

    def lose_more(self, grade: Grade, fields: set[str], back: set[str]) -> None:
        """These fields of an update were lost."""
        for name in fields:
            if name in self.fields or len(self.fields) < MOST_FIELDS:
                of_field = self.fields.setdefault(name, OfField())
                _one_more(of_field, grade)
                of_field.undone += name in back

    def bring_back(self, name: str, *, whole: bool) -> None:
        """What an update had done to that field is there again. ``whole``: so is all that it had done."""
        self.updates["came back"] += whole
        if name in self.fields:
            self.fields[name].came_back += 1

    def drop(self) -> None:
        """A key was forgotten, for want of memory."""
        self.dropped += 1

    def judge(self, key: bytes) -> None:
        """One key more was read and saved."""
        self.judged += 1
        self.family(key)[0] += 1

    def family(self, key: bytes) -> list[int]:
        name = family_of(key)
        if name not in self.families and len(self.families) >= MOST_FAMILIES:
            name = ""
        return self.families.setdefault(name, [0, 0])

    def shown_families(self) -> list[tuple[str, int, int]]:
        """What keys begin with, how many of them were judged, how many updates lost; "" where that might be somebody's
        name. Where most was lost first.
        """
        shown: dict[str, list[int]] = {}
        for name, (judged, lost) in self.families.items():
            counts = shown.setdefault(name if tells_nobody(name, judged) else "", [0, 0])
            counts[0] += judged
            counts[1] += lost
        return sorted(
            ((name, judged, lost) for name, (judged, lost) in shown.items()), key=lambda one: (-one[2], -one[1])
        )


def _one_more(of: OfField | OfSession, grade: Grade) -> None:
    if grade == "sure":
        of.sure += 1
    else:
        of.likely += 1


@dataclass(frozen=True)
class Verdict:
    """All of it. Times in seconds, by the server's clock.

    ``commands``: lines that were understood; ``strange``: those that were not; ``backwards``: that are older than the
    one before; ``unmatched``: whose keys are not meant. ``stopped``: why the reading ended before its time.
    ``one_name``: connections cannot be told apart (a unix socket). ``in_cluster``: one server of several was read.
    """

    seconds: float
    commands: int
    strange: int
    locks_seen: int
    one_name: bool
    tracking: bool
    tally: Tally
    stopped: str = ""
    in_cluster: bool = False
    backwards: int = 0
    unmatched: int = 0

    @property
    def lost(self) -> int:
        """Updates that were lost, sure and likely; some may have come back."""
        return self.tally.updates["sure"] + self.tally.updates["likely"]

    @property
    def told(self) -> Literal["loses", "likely", "none", "unknown"]:
        """In one word. ``unknown``: nothing was judged, or of too many saves nothing can be said."""
        if self.tally.updates["sure"]:
            return "loses"
        if self.tally.updates["likely"]:
            return "likely"
        few = self.tally.saves["unclear"] <= self.tally.saves.total() * MOST_UNCLEAR
        return "none" if self.tally.judged and few else "unknown"

    @property
    def per_hour(self) -> float | None:
        """Lost updates, at this rate; None where the capture is too short to say."""
        return None if self.seconds < SHORTEST else self.lost * 3600 / self.seconds

    def as_json(self) -> dict[str, Any]:
        tally = self.tally
        fields = sorted(tally.fields.items(), key=lambda pair: -(pair[1].sure + pair[1].likely))[:SHOWN]
        sessions = sorted(tally.sessions.items(), key=lambda pair: -(pair[1].sure + pair[1].likely))[:SHOWN]
        return {
            "verdict": self.told,
            "seconds": round(self.seconds, 3),
            "commands": self.commands,
            "not_understood": self.strange,
            "stopped": self.stopped or None,
            "sessions": {
                "judged": tally.judged,
                "lost_something": len(tally.sessions) + tally.more_sessions,
                "dropped": tally.dropped,
                "worst": [
                    {"digest": name, "sure": one.sure, "likely": one.likely, "fields": sorted(one.fields)[:SHOWN]}
                    for name, one in sessions
                ],
            },
            "updates": {
                "lost_sure": tally.updates["sure"],
                "lost_likely": tally.updates["likely"],
                "came_back": tally.updates["came back"],
                "lost_per_hour": None if self.per_hour is None else round(self.per_hour, 1),
            },
            "saves": {name: tally.saves[name] for name in SAVES},
            "fields": [{"name": name, **asdict(of)} for name, of in fields],
            "contested": [{"name": name, "saves": count} for name, count in tally.contested.most_common(SHOWN)],
            "keys": [
                {"prefix": name, "judged": judged, "lost": lost}
                for name, judged, lost in tally.shown_families()[:SHOWN]
            ],
            "forms": dict(tally.forms.most_common(SHOWN)),
            "locks": {"seen": self.locks_seen, **asdict(tally.locked)},
            "examples": [{**asdict(one), "fields": one.fields[:SHOWN]} for one in tally.examples],
            "doubts": {
                "one_name_for_all": self.one_name,
                "client_side_caching": self.tracking,
                "part_of_a_cluster": self.in_cluster,
                "out_of_order": self.backwards,
            },
        }


SAVES = ("fresh", "overlapping", "watched", "script", "compared", "created", "unread", "early", "unclear")
