"""What Redis answers: each reply is read once, here, into an outcome. No I/O; what is asked is in :mod:`.calls`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

from ..errors import CodecError, SessionDestroyed, SessionNotFound
from ..policies import Replication
from .keys import SessionKeys
from .labels import told_apart
from .records import created_in, id_in

__all__ = [
    "Abandoned",
    "Acquired",
    "Bound",
    "Busy",
    "Committed",
    "Conflict",
    "Destroyed",
    "Granted",
    "Handover",
    "Holder",
    "Kept",
    "Queued",
    "Refused",
    "Saved",
    "Snapshot",
    "Voted",
]

P = ParamSpec("P")
R = TypeVar("R")
DIGITS = 16  # of the largest fence, 2^53
REFUSALS = frozenset(
    b"missing destroyed dead unknown already exists gone large lost stale busy untold forgotten".split()
)
NUMBERED = frozenset((b"lost", b"forgotten"))  # they tell a number: the highest fence, or what a new op must exceed
UNREADABLE = (ValueError, IndexError, TypeError)
RECENTLY_US = 15_000_000  # as lua/_ids.lua has it


class Snapshot(NamedTuple):
    """A session as it stands in Redis. ``created`` is ``""`` when there is no record yet. ``touched``: loading it began
    its idle time anew.
    """

    fields: dict[bytes, bytes]
    version: int
    created: str
    touched: bool = False


EMPTY = Snapshot({}, 0, "")  # of a lock without a session


class Holder(NamedTuple):
    """Who holds the lock, as far as Redis knows; ``age`` in seconds, None for a foreign Redlock client. ``trace``: of
    its request, as W3C ``traceparent``, "" where it tells none.
    """

    label: str
    age: float | None
    trace: str = ""

    @classmethod
    def of(cls, said: str, age: float | None) -> Holder:
        """``said``: its label as it stands in Redis, with the trace."""
        label, trace = told_apart(said)
        return cls(label, age, trace)


@dataclass(slots=True)
class Granted:
    """``asked_at``: an instant before the call, by the clock of leases. ``trusted_for``: seconds, counted from there.
    ``snapshot`` None: the session was not asked for.
    """

    fence: int
    server_us: int
    asked_at: float
    trusted_for: float
    snapshot: Snapshot | None

    @property
    def loaded(self) -> Snapshot:
        assert self.snapshot is not None
        return self.snapshot


@dataclass(slots=True)
class Queued:
    """``left``: seconds until the current lease ends, None if it has no end.

    ``server_us`` is the server's clock at some instant after the monotonic ``asked_at``.
    """

    ticket: str
    position: int
    left: float | None
    holder: Holder
    server_us: int
    asked_at: float


@dataclass(slots=True)
class Busy:
    """Not granted and not queued; ``full`` when that is because too many wait already."""

    holder: Holder
    waiting: int
    full: bool


@dataclass(slots=True)
class Refused:
    """``kind``: one of :data:`REFUSALS`. ``number``: of lost, the highest fence that was seen; of forgotten, what the
    number of a new call must exceed. Untold and forgotten: the store cannot tell whether an earlier try was done.
    """

    kind: str
    number: int = 0
    handover: Handover | None = None


@dataclass(slots=True)
class Committed:
    """``version`` of the session after it, 0 if it was left empty and has ended; ``repeated`` when an earlier try of
    the same call had done it.
    """

    version: int | None
    created: str = ""
    repeated: bool = False
    changed: bool = True
    value: int | None = None  # of the counter, after an increment
    handover: Handover | None = None  # the grant of a waiter of this process, after a release
    safety: Replication | None = None  # how far it came, when that was waited for

    def came_so_far(self, safety: Replication | None) -> None:
        self.safety = safety


@dataclass(slots=True)
class Conflict:
    """``theirs``: the current bytes of each field that somebody else changed, None where it was deleted.

    ``snapshot``: the whole current state, where the call tells it. ``fence``: what the holder has from now on, so that
    the refused call does nothing when it comes late.
    """

    version: int
    theirs: dict[bytes, bytes | None]
    snapshot: Snapshot | None = None
    fence: int = 0


@dataclass(slots=True)
class Handover:
    """What a push says: ``kind`` G granted, D session destroyed, L lease taken away, M somebody must ask again, because
    dead waiters were in the way.

    ``snapshot`` is None when the session was too large to be pushed.
    """

    kind: str
    token: str
    fence: int = 0
    server_us: int = 0
    claim: float = 0.0
    snapshot: Snapshot | None = None


class Abandoned(NamedTuple):
    """``held``: it had the lock; if not, ``fence`` is the highest granted. ``more``: dead waiters were in the way,
    somebody must ask again. ``known``: ``done``, it had been before; ``forgotten``, it may have been."""

    held: bool
    fence: int = 0
    more: bool = False
    known: str = ""


class Destroyed(NamedTuple):
    """``existed``: there was a session. ``user``: the digest of whose it was, or ``""``."""

    existed: bool
    user: str = ""


class Kept(NamedTuple):
    """``current``: the id is the newest one of its session."""

    current: bool


class Bound(NamedTuple):
    """``previous``: the digest of the user whose session it was, or ``""``."""

    previous: str


Acquired: TypeAlias = Granted | Queued | Busy | Refused
Voted: TypeAlias = Granted | Refused
Saved: TypeAlias = Committed | Conflict | Refused
Reply: TypeAlias = Sequence[Any]
Fields: TypeAlias = "Sequence[bytes] | dict[bytes, bytes]"  # of HGETALL: by RESP2 and RESP3


def readable(parse: Callable[P, R]) -> Callable[P, R]:
    """Reserved fields may have been damaged: then a reply, or what it carries, is not what we wrote."""

    @wraps(parse)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return parse(*args, **kwargs)
        except UNREADABLE:
            raise _damaged() from None

    return checked


def _damaged() -> CodecError:
    return CodecError(
        "a stored session has a reserved field (named #...) that is not as this library writes it;"
        " nothing was changed. Repair the record, or destroy the session"
    )


def _whole(fields: Fields) -> Snapshot:
    return snapshot_of(fields if isinstance(fields, dict) else dict(zip(fields[::2], fields[1::2], strict=True)))


def _snapshot(flat: Sequence[bytes]) -> Snapshot:
    return snapshot_of(dict(zip(flat[::2], flat[1::2], strict=True)))


def snapshot_of(fields: dict[bytes, bytes]) -> Snapshot:
    return Snapshot(fields, int(fields.get(b"#version", b"0")), created_in(fields.get(b"#state")))


def seconds(milliseconds: int) -> float | None:
    return None if milliseconds < 0 else milliseconds / 1000


def _holder(label: bytes, age_us: bytes) -> Holder:
    age = int(age_us)
    return Holder.of(label.decode(errors="replace"), None if age < 0 else age / 1e6)


def kind_of(reply: Reply) -> str:
    """The word that a reply begins with."""
    kind: bytes = reply[0]
    return kind.decode()


def acquired(reply: Reply, asked_at: float, ttl: float, fields: Fields | None) -> Acquired:
    """The outcome of ``acquire``, of which ``fields`` were read behind it; None: they were not, and are needed.

    ``asked_at``: the clock of leases, read before it was sent. ``ttl``: seconds for which it was asked.
    """
    try:
        if type(reply) is bytes:  # the lock was free, and its fence is the server's clock
            fence = server_us = int(reply)
        elif reply[0] == b"granted":
            fence, server_us = int(reply[1]), int(reply[2])
        else:
            return _not_granted(reply, asked_at)
        return Granted(fence, server_us, asked_at, ttl, None if fields is None else _whole(fields))
    except UNREADABLE:
        raise _damaged() from None


@readable
def installed(reply: Reply, asked_at: float, ttl: float) -> Acquired:
    """The outcome of ``install``."""
    match reply:
        case [b"granted", fence, now_us, fields]:
            return Granted(int(fence), int(now_us), asked_at, ttl, _snapshot(fields))
    return refused(reply)


@readable
def _not_granted(reply: Reply, asked_at: float) -> Acquired:
    match reply:
        case [b"queued", ticket, position, left_ms, label, age_us, now_us]:
            # -2: it lapsed between two commands of the script, or is free behind dead waiters; look again at once.
            left = 0.0 if int(left_ms) == -2 else seconds(int(left_ms))
            return Queued(ticket.decode(), int(position or 0), left, _holder(label, age_us), int(now_us), asked_at)
        case [b"busy" | b"full" as kind, label, age_us, waiting, _]:
            return Busy(_holder(label, age_us), int(waiting), kind == b"full")
    return refused(reply)


@readable
def voted(reply: Reply, asked_at: float, ttl_ms: int = 0) -> Voted:
    """The outcome of ``vote`` and ``adopt``: no session comes with it."""
    match reply:
        case [b"granted", fence, now_us]:
            return Granted(int(fence), int(now_us), asked_at, ttl_ms / 1000, EMPTY)
        case [b"adopted", fence, now_us, left_ms]:
            return Granted(int(fence), int(now_us), asked_at, int(left_ms) / 1000, EMPTY)
    return refused(reply)


@readable
def committed(reply: Reply) -> Saved:
    """The outcome of ``save``, ``commit`` and ``incr``."""
    match reply:
        case [b"saved" | b"already" as kind, version, *rest]:
            created, value = (*rest, None, None)[:2]
            return Committed(
                int(version),
                created.decode() if created else "",
                repeated=kind == b"already",
                value=None if value is None else int(value),
            )
        case [b"conflict", version, flat, *rest]:
            return Conflict(int(version), _theirs(flat), _snapshot(rest[0]) if rest else None)
    return refused(reply)


def _theirs(flat: Sequence[Any]) -> dict[bytes, bytes | None]:
    return {bytes(field or b""): value for field, value in zip(flat[::2], flat[1::2], strict=True)}


@readable
def refused(reply: Reply) -> Refused:
    kind, *rest = reply
    if kind not in REFUSALS:
        raise ValueError(kind)
    return Refused(kind.decode(), int(rest[0]) if kind in NUMBERED and rest else 0)


@readable
def released(reply: Reply, fields: Fields | None = None) -> Saved:
    """The outcome of ``release``; with the grant of this process' next waiter, if it came with the reply, and the
    session's ``fields`` if they were read behind it.
    """
    if type(reply) is bytes:  # saved, and nobody waits
        return Committed(int(reply))
    match reply:
        case [b"saved", version, message]:
            return Committed(int(version), handover=_handed(message, fields))
        case [b"clean", message]:
            return Committed(None, changed=False, handover=_handed(message, fields))
        case [b"gone" | b"destroyed" | b"dead" | b"large" as kind, message]:
            return Refused(kind.decode(), handover=_handed(message, fields))
        case [b"conflict", version, flat, fence]:
            return Conflict(int(version), _theirs(flat), fence=int(fence))
    return committed(reply)


def _handed(message: bytes, fields: Fields | None) -> Handover | None:
    if not message:
        return None
    if message == b"more":
        return Handover("M", "")
    handover = pushed(message)
    if handover is not None and fields is not None:
        handover.snapshot = _whole(fields)
    return handover


@readable
def destroyed(reply: Reply) -> Destroyed:
    kind, *rest = reply
    return Destroyed(kind == b"destroyed", rest[0].decode(errors="replace") if rest else "")


@readable
def loaded(reply: Reply) -> Snapshot | Refused:
    """The outcome of ``load``; also of ``create``, whose reply carries the new record."""
    match reply:
        case [b"found", touched, fields]:
            return _snapshot(fields)._replace(touched=touched == 1)
        case [b"saved", _, fields]:
            return _snapshot(fields)
    return refused(reply)


def abandoned(reply: Reply) -> Abandoned:
    match reply:
        case [b"left", fence, more, known]:
            return Abandoned(False, int(fence) if fence.isdigit() else 0, more == b"more", known.decode())
        case [_, more]:
            return Abandoned(True, more=more == b"more")
    return Abandoned(True)


@readable
def kept(reply: Reply) -> Kept | Refused:
    match reply:
        case [b"kept", current]:
            return Kept(bool(current))
    return refused(reply)


@readable
def bound(reply: Reply) -> Bound | Refused:
    match reply:
        case [b"bound", previous]:
            return Bound(previous.decode(errors="replace"))
    return refused(reply)


def pushed(message: bytes) -> Handover | None:
    """What a push says, None when it is not one of ours (anybody may publish)."""
    head, _, body = message.partition(b"\n")
    words = head.split(b" ")
    try:
        if words[0] in (b"D", b"L") and len(words) == 2:
            return Handover(words[0].decode(), words[1].decode())
        if words[0] != b"G" or len(words) != 6:
            return None
        _, token, fence, server_us, claim_ms, carried = words
        if max(map(len, (fence, server_us, claim_ms))) > DIGITS:
            return None
        snapshot = _snapshot(_unpack(body)) if carried == b"+" else None
        return Handover("G", token.decode(), int(fence), int(server_us), int(claim_ms) / 1000, snapshot)
    except ValueError:
        return None


def _unpack(body: bytes) -> list[bytes]:
    sizes, _, data = body.partition(b"\n")
    parts = []
    at = 0
    for size in map(int, sizes.split(b",")) if sizes else ():
        parts.append(data[at : at + size])
        at += size
    if at != len(data):
        raise ValueError("the parts of a push do not add up")
    return parts


def granted_by_push(push: Handover, snapshot: Snapshot, seen_us: int | None, seen_at: float, now: float) -> Granted:
    """A handed-over grant as a lease may trust it.

    The push was sent at ``push.server_us`` by the server's clock. An earlier reply that this process received showed
    the server at ``seen_us`` in answer to a call made at ``seen_at``; so by this process' monotonic clock the push was
    sent no earlier than ``seen_at + (server_us - seen_us)``, and no later than ``now``. The smaller is trusted; without
    an earlier reply, nothing is until the claim has been confirmed.
    """
    start = now - push.claim if seen_us is None else min(now, seen_at + (push.server_us - seen_us) / 1e6)
    return Granted(push.fence, push.server_us, start, push.claim, snapshot)


def admitted(keys: SessionKeys, fields: Mapping[bytes, bytes], now_us: int) -> bool:
    """Whether the id behind ``keys`` may see the record, as ``lua/_ids.lua`` has it."""
    proof, current = keys.proof.encode(), id_in(fields.get(b"#state"))
    if current == proof:
        return True
    if current is None:
        return keys.proof.startswith("p:")
    old = (entry.rpartition(b"@") for entry in fields.get(b"#old", b"").split())
    return any(other == proof and int(until) > now_us for other, _, until in old)


def not_admitted(keys: SessionKeys, fields: Mapping[bytes, bytes], now_us: int) -> str:
    """What an id that is not admitted is told: ``dead`` if it was replaced a moment ago, else ``unknown``."""
    old = (entry.rpartition(b"@") for entry in fields.get(b"#old", b"").split())
    recently = any(other == keys.proof.encode() and int(until) > now_us - RECENTLY_US for other, _, until in old)
    return "dead" if recently else "unknown"


def ended(fields: Mapping[bytes, bytes], now_us: int) -> str:
    """The same for a session that was destroyed: ``dead`` if another took its place a moment ago."""
    recently = int(fields[b"#destroyed"]) > now_us - RECENTLY_US
    return "dead" if b"#replaced" in fields and recently else "destroyed"


def outdated(keys: SessionKeys, snapshot: Snapshot) -> bool:
    """Whether the session has a newer id, and the one of ``keys`` only works for its grace."""
    newest = id_in(snapshot.fields.get(b"#state"))
    return newest is not None and newest != keys.proof.encode()


def refusal(name: str, kind: str) -> SessionNotFound:
    """Why there is no session."""
    return _refusal(name, kind).about(name)


def _refusal(name: str, kind: str) -> SessionNotFound:
    if kind == "destroyed":
        return SessionDestroyed(f"session {name} was destroyed; treat the request as logged out")
    if kind in ("dead", "unknown"):
        return SessionNotFound(
            f"this id of session {name} is not valid: it was replaced and its grace is over, or it was never given out",
            replaced=kind == "dead",
        )
    if kind == "gone":
        return SessionNotFound(
            f"the record of session {name} expired or was replaced since it was loaded; saving only the changes would"
            " revive a part of it, so nothing was saved"
        )
    return SessionNotFound(f"there is no session {name}: it never existed or has expired")
