"""What had the request of a save read?

``MONITOR`` does not say which read a save belongs to: connections are pooled, or one serves many requests at once. So
the likeliest is taken: by the connection, by age, and above all by what the request would have done to make the one
value of the other (:mod:`.habits`). All of it is in natural logarithms of probabilities, about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, TypeVar

from .compare import Deed, deeds, same, takes_back
from .facts import Path
from .versions import NOT_HELD, RECENT, Happening, History, Read, Version

__all__ = ["Base", "base_of", "latest"]

OLDEST_READ = 900.0  # seconds; what was read before that is no request's any more
OTHER_CONNECTION, ANOTHERS = 0.25, 4.0  # where a host's requests change their connections, and where they do not
AGED = 0.25  # for each doubling of the time that requests take there usually
UNKNOWN_DEEDS = 1.0
NOTHING_DONE = 2.0  # where requests that change nothing were not seen to save
BEFORE_LAST, LOOKS_TWICE, LONG_AGO = 1.5, 0.5, 3.0  # a base that is not what the connection usually reads last
BY_CHANCE = 2.5  # a request that does the same as another, which it had not seen
MOST_CHOICES, LEAST_CHOICES = 64, 4
MOST_COMPARED = 40_000  # facts, of all that a save may be based on

_Choice = TypeVar("_Choice", bound=object)


class Base(NamedTuple):
    """``how``: as :data:`.verdict.SAVES` has it. ``read``: the one that the save is based on, where it was one.

    ``answered``: reads that are no other save's. ``newest``: what this connection has read last. ``surety``: how
    likely it is, beside the next likely one.
    """

    how: str
    version: Version | None = None
    read: Read | None = None
    answered: tuple[Read, ...] = ()
    newest: Read | None = None
    surety: float = 1.0


def base_of(record: History, event: Happening, version: Version) -> Base:
    """Of the save that makes ``version``."""
    current, host = record.current, event.host
    mine = latest(record.reads, event)
    if event.safe:
        return Base(event.safe, current, answered=() if mine is None else (mine,))
    if event.act.only in ("nx", "if"):
        # It does nothing where something stands, or the server compares.
        return Base("created" if event.act.only == "nx" else "compared", current)
    near = [one for one in record.reads if one.host is host and event.at - one.at <= OLDEST_READ]
    if event.locked_since not in (None, NOT_HELD):
        since = [one for one in near if one.at >= (event.locked_since or 0.0)]
        near = since or near
    last = record.last_of(event.who)
    if not host.hops and not host.one_name:
        own = [one for one in near if one.who == event.who and (last is None or one.version.number >= last.number)]
        if own:
            return _of_own(own, near, record, event, version)
    if near and all(one.version is current for one in near):
        return _by(mine if mine in near else near[-1], current)
    choices: list[Read | Version] = [*near]
    if host.hops and current.who is not None and event.at - current.at < RECENT:
        choices.append(current)  # saved by the same request, by this or another connection of the pool
    elif last is not None and (last is current or not host.hops):
        choices.append(last)
    if not choices:
        return Base("early" if current.number == 0 and not record.reads_seen else "unread")
    if len(choices) == 1:  # most often; then nothing need be read
        return _chosen(choices[0], current, mine)
    choices = _not_too_many(choices, version)
    done = _Deeds([_version_of(one) for one in choices], record, event, version)
    if not done.known and any(_version_of(one) is not _version_of(choices[0]) for one in choices):
        return Base("unclear", answered=() if mine is None else (mine,), newest=mine)
    odd = {id(one): _oddness(one, record, event, done) for one in choices}
    best = min(choices, key=lambda one: (odd[id(one)], -_version_of(one).number))
    base = _version_of(best)
    other = min((odd[id(one)] for one in choices if _version_of(one) is not base), default=math.inf)
    return _chosen(best, current, mine, _surety(odd[id(best)], other))


def latest(reads: list[Read], event: Happening) -> Read | None:
    """By the same client."""
    return next((one for one in reversed(reads) if one.who == event.who), None)


def _not_too_many(choices: list[_Choice], version: Version) -> list[_Choice]:
    """The newest; each is compared with what was saved, and that may be long."""
    most = MOST_CHOICES if version.parts is None else max(LEAST_CHOICES, MOST_COMPARED // (1 + len(version.facts)))
    return choices[-most:]


def _version_of(choice: Read | Version) -> Version:
    return choice.version if isinstance(choice, Read) else choice


def _chosen(best: Read | Version, current: Version, newest: Read | None, surety: float = 1.0) -> Base:
    if isinstance(best, Version):
        return Base("fresh" if best is current else "overlapping", best, surety=surety)
    return _by(best, current, newest=newest, surety=surety)


def _by(
    read: Read | None,
    current: Version,
    answered: tuple[Read, ...] = (),
    newest: Read | None = None,
    *,
    surety: float = 1.0,
) -> Base:
    assert read is not None
    how = "fresh" if read.version is current else "overlapping"
    return Base(how, read.version, read, answered or (read,), newest, surety)


def _surety(best: float, other: float) -> float:
    """The share of the better of two, by how odd they are."""
    return 1 / (1 + math.exp(min(0.0, best - other)))


def _of_own(own: list[Read], near: list[Read], record: History, event: Happening, version: Version) -> Base:
    """Of several reads by the save's own connection. Some were of requests that only read; and some applications look
    whether a session still exists before they save what they have made of an earlier read. That one may have come by
    another connection, too.
    """
    mine = [one for one in near if one.who == event.who]
    last, host = own[-1], event.host
    others = [one for one in near if one.who != event.who and one.version.number <= last.version.number]
    if all(one.version is last.version for one in (*own, *others)):
        return _by(last, record.current, tuple(mine), last)
    own, others = _not_too_many(own, version), _not_too_many(others, version)
    done = _Deeds([one.version for one in (*own, *others)], record, event, version)
    before = own[-2] if len(own) > 1 else last
    if not done.known and before.version is not last.version and not host.looks_twice and host.may_look_twice:
        return Base("unclear", answered=tuple(mine), newest=last)
    if done.known:
        host.compare(*(done.oddness(one.version) + _age(one, event) for one in (before, last)))
        if others:
            host.compare_connections(*(min(done.oddness(one.version) for one in some) for some in (own, others)))
    odd = {id(one): done.oddness(one.version) + _age(one, event) for one in (*own, *others)}
    usual = before if host.looks_twice else last
    for one in own:
        if one is not usual:
            odd[id(one)] += (LOOKS_TWICE if host.looks_twice else BEFORE_LAST) if one in (before, last) else LONG_AGO
    for one in others:
        odd[id(one)] += ANOTHERS
    best = min(reversed((*others, *own)), key=lambda one: odd[id(one)])
    other = min((odd[id(one)] for one in (*own, *others) if one.version is not best.version), default=math.inf)
    answered = tuple(mine) if best.who == event.who else (*mine, best)
    return _by(best, record.current, answered, last, surety=_surety(odd[id(best)], other))


class _Deeds:
    """What the request of a save would have done, if it had read this version, or that; and how odd that would be.

    ``known``: that can be told of all of them, and the values can be read.
    """

    def __init__(self, bases: Sequence[Version], record: History, event: Happening, version: Version) -> None:
        self._habits = record.habits
        self._done: dict[int, dict[Path, Deed]] = {}
        self._back: dict[int, bool] = {}  # whether it would have taken back what another has done
        self._again: dict[int, bool] = {}  # whether it would have done something that another has done meanwhile
        self.known: bool = version.parts is not None and not version.facts.opaque
        names = version.wrote_names
        for base in bases:
            if base.number in self._done:
                continue
            if version.parts is None or not base.knows(version.wrote):
                self.known = False
                continue
            self._done[base.number] = deeds(base.facts, version.facts, names, event.at)
            if base is not record.current and record.current.knows(version.wrote):
                self._again[base.number] = same(base.facts, record.current.facts, version.facts)
        known = sorted(
            {base.number: base for base in bases if base.number in self._done}.values(), key=lambda one: one.number
        )
        for older, newer in pairwise(known):
            self._back[newer.number] = takes_back(older.facts, newer.facts, version.facts)
        self._nothing = 0.0 if event.host.saves_always else NOTHING_DONE
        self._paths = frozenset(path for done in self._done.values() for path in done)

    def oddness(self, base: Version) -> float:
        done = self._done.get(base.number)
        if done is None:
            return UNKNOWN_DEEDS
        odd = self._habits.oddness(done, self._paths) + (0.0 if done else self._nothing)
        return odd + BY_CHANCE * (self._again.get(base.number, False) + self._back.get(base.number, False))


def _oddness(choice: Read | Version, record: History, event: Happening, done: _Deeds) -> float:
    """Of that being the base of this save."""
    base, host = _version_of(choice), event.host
    odd = done.oddness(base) + record.habits.timing(stale=base is not record.current, again=isinstance(choice, Version))
    if isinstance(choice, Version):
        return odd
    if choice.who != event.who:
        odd += OTHER_CONNECTION if host.hops or host.one_name else ANOTHERS
    return odd + _age(choice, event)


def _age(read: Read, event: Happening) -> float:
    return AGED * max(0.0, math.log2(max(1e-6, event.at - read.at) / event.host.usual_gap))
