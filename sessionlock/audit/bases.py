"""What had the request of a save read?

``MONITOR`` does not say which read a save belongs to: connections are pooled, or one serves many requests at once. So
the likeliest is taken: by the connection, by age, and above all by what the request would have done to make the one
value of the other (:func:`_strangeness`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .compare import distance
from .versions import NOT_HELD, RECENT, Happening, History, Host, Read, Version

__all__ = ["Base", "base_of", "latest"]

OLDEST_READ = 60.0  # seconds; what was read before that is no request's any more
STALE = 0.5  # a save that knows less than it could have known, of a key with requests at once
NEVER_STALE = 1.5  # where no save was seen of which that is certain
OTHER_CONNECTION, ANOTHERS = 0.25, 4.0  # where a host's requests change their connections, and where they do not
AGED = 0.25  # for each doubling of the time that requests take there usually
UNKNOWN_DISTANCE = 1.0
ONCE_MORE = 1.25  # the same request saves a second time
NOTHING_DONE = 2.0  # where requests that change nothing were not seen to save
CLEARLY = 0.9  # a difference in strangeness that tells something
NOT_THE_LAST, LOOKS_TWICE, SEEN_TO_LOOK_TWICE = 1.5, 0.6, 0.3  # a base that is not what the connection read last


class Base(NamedTuple):
    """``how``: as :data:`.verdict.SAVES` has it. ``read``: the one that the save is based on, where it was one.

    ``answered``: reads that are no other save's. ``newest``: what this connection has read last.
    """

    how: str
    version: Version | None = None
    read: Read | None = None
    answered: tuple[Read, ...] = ()
    newest: Read | None = None


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
            read = _of_own(own, record, event, version)
            return _by(read, current, tuple(one for one in near if one.who == event.who), own[-1])
    if near and all(one.version is current for one in near):
        return _by(mine if mine in near else near[-1], current)
    choices: list[Read | Version] = [*near]
    if host.hops and current.who is not None and event.at - current.at < RECENT:
        choices.append(current)  # saved by the same request, by this or another connection of the pool
    elif last is not None and (last is current or not host.hops):
        choices.append(last)
    if not choices:
        return Base("early" if current.number == 0 and not record.reads_seen else "unread")
    done: dict[int, float] = {}
    best = min(choices, key=lambda one: _strangeness(one, record, event, version, done))
    if isinstance(best, Version):
        return Base("fresh" if best is current else "overlapping", best)
    return _by(best, current, newest=mine)


def latest(reads: list[Read], event: Happening) -> Read | None:
    """By the same client."""
    return next((one for one in reversed(reads) if one.who == event.who), None)


def _by(read: Read | None, current: Version, answered: tuple[Read, ...] = (), newest: Read | None = None) -> Base:
    assert read is not None
    how = "fresh" if read.version is current else "overlapping"
    return Base(how, read.version, read, answered or (read,), newest)


def _of_own(own: list[Read], record: History, event: Happening, version: Version) -> Read:
    """Of several reads by the save's own connection. Some were of requests that only read; and some applications look
    whether a session still exists before they save what they have made of an earlier read.
    """
    last = own[-1]
    if all(one.version is last.version for one in own):
        return last
    host = event.host
    strange = {id(one): _done(one.version, event, version) + _age(one, event) for one in own}
    before = own[-2]
    if before.version is not last.version:
        host.compare(
            earlier=strange[id(before)] + CLEARLY < strange[id(last)],
            last=strange[id(last)] + CLEARLY < strange[id(before)],
        )
    unlikely = _not_the_last(host)
    return min(reversed(own), key=lambda one: strange[id(one)] + (0.0 if one is last else unlikely))


def _not_the_last(host: Host) -> float:
    if host.base_was_earlier > 2 * host.base_was_last:
        return SEEN_TO_LOOK_TWICE
    if host.base_was_last:
        return NOT_THE_LAST
    return LOOKS_TWICE if host.twice > host.paired / 2 else NOT_THE_LAST


def _strangeness(
    choice: Read | Version, record: History, event: Happening, version: Version, done: dict[int, float]
) -> tuple[float, int]:
    """How odd it would be if that was the base of this save; the newer one among equals. ``done``: known by now."""
    base, current, host = choice.version if isinstance(choice, Read) else choice, record.current, event.host
    if base.number not in done:
        done[base.number] = _done(base, event, version)
    strange = done[base.number]
    if base is not current:
        strange += STALE if record.usage.overlaps else NEVER_STALE
    if isinstance(choice, Version):
        return strange + ONCE_MORE, -base.number
    if choice.who != event.who:
        strange += OTHER_CONNECTION if host.hops or host.one_name else ANOTHERS
    return strange + _age(choice, event), -base.number


def _done(base: Version, event: Happening, version: Version) -> float:
    """How much the request would have done."""
    if not base.knows(version.wrote) or version.parts is None:
        return UNKNOWN_DISTANCE
    done = distance(base.facts, version.facts, event.at)
    return done if done or event.host.saves_always else NOTHING_DONE


def _age(read: Read, event: Happening) -> float:
    return AGED * max(0.0, math.log2(max(1e-6, event.at - read.at) / event.host.usual_gap))
