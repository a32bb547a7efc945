"""What Redis answers: each reply is read once, here, into an outcome. No I/O; what is asked is in :mod:`.calls`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, NamedTuple, ParamSpec, TypeAlias, TypeVar

from ..errors import CodecError, SessionDestroyed, SessionNotFound
from ..policies import Replication
from .keys import SessionKeys

__all__ = [
    "Abandoned",
    "Acquired",
    "Bound",
    "Busy",
    "Committed",
    "Conflict",
    "Granted",
    "Handover",
    "Holder",
    "Inspected",
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
REFUSALS = frozenset(b"missing destroyed dead unknown finished exists gone lost stale busy".split())
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
    """Who holds the lock, as far as Redis knows; ``age`` in seconds, None for a foreign Redlock client."""

    label: str
    age: float | None


@dataclass(slots=True)
class Granted:
    """``asked_at``: monotonic instant before the call. ``trusted_for``: seconds, counted from there."""

    fence: int
    server_us: int
    asked_at: float
    trusted_for: float
    snapshot: Snapshot


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
    """``kind``: one of :data:`REFUSALS`; of lost, ``fence`` is the highest one seen."""

    kind: str
    fence: int = 0
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

    ``snapshot``: the whole current state, where the call tells it.
    """

    version: int
    theirs: dict[bytes, bytes | None]
    snapshot: Snapshot | None = None


@dataclass(slots=True)
class Handover:
    """What a push says: ``kind`` G granted, D session destroyed, L lease taken away.

    ``snapshot`` is None when the session was too large to be pushed.
    """

    kind: str
    token: str
    fence: int = 0
    server_us: int = 0
    claim: float = 0.0
    snapshot: Snapshot | None = None


@dataclass(frozen=True, slots=True)
class Inspected:
    """``queue``: who waits, by token, in that order; None where nothing but the token is known."""

    token: str | None
    left: float | None
    server_us: int
    fence: int
    version: int
    created_us: int
    destroyed: bool
    holder: Holder | None
    queue: dict[str, Holder | None]
    record_left: float | None

    @property
    def waiters(self) -> list[Holder]:
        return [holder for holder in self.queue.values() if holder is not None]


class Abandoned(NamedTuple):
    """``held``: it had the lock. If not, ``fence`` is the highest that was granted."""

    held: bool
    fence: int = 0


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


def _readable(parse: Callable[P, R]) -> Callable[P, R]:
    """Reserved fields may have been damaged: then a reply, or what it carries, is not what we wrote."""

    @wraps(parse)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return parse(*args, **kwargs)
        except (ValueError, IndexError, TypeError):
            raise CodecError(
                "a stored session has a reserved field (named #...) that is not as this library writes it;"
                " nothing was changed. Repair the record, or destroy the session"
            ) from None

    return checked


def _snapshot(flat: Sequence[bytes]) -> Snapshot:
    return snapshot_of(dict(zip(flat[::2], flat[1::2], strict=True)))


def snapshot_of(fields: dict[bytes, bytes]) -> Snapshot:
    return Snapshot(fields, int(fields.get(b"#version", b"0")), fields.get(b"#created", b"").decode())


def _seconds(milliseconds: int) -> float | None:
    return None if milliseconds < 0 else milliseconds / 1000


def _holder(label: bytes, age_us: bytes) -> Holder:
    age = int(age_us)
    return Holder(label.decode(errors="replace"), None if age < 0 else age / 1e6)


def kind_of(reply: Reply) -> str:
    """The word that a reply begins with."""
    kind: bytes = reply[0]
    return kind.decode()


@_readable
def acquired(reply: Reply, asked_at: float) -> Acquired:
    """The outcome of ``acquire``, and of ``install``; ``asked_at`` is the monotonic clock read before it was sent."""
    match reply:
        case [b"granted", fence, now_us, left_ms, fields]:
            return Granted(int(fence), int(now_us), asked_at, int(left_ms) / 1000, _snapshot(fields))
        case [b"queued", ticket, position, left_ms, label, age_us, now_us]:
            # -2: it lapsed between two commands of the script; look again at once.
            left = 0.0 if int(left_ms) == -2 else _seconds(int(left_ms))
            return Queued(ticket.decode(), int(position or 0), left, _holder(label, age_us), int(now_us), asked_at)
        case [b"busy" | b"full" as kind, label, age_us, waiting, _]:
            return Busy(_holder(label, age_us), int(waiting), kind == b"full")
    return refused(reply)


@_readable
def voted(reply: Reply, asked_at: float) -> Voted:
    """The outcome of ``vote`` and ``adopt``: no session comes with it."""
    match reply:
        case [b"granted" | b"adopted", fence, now_us, left_ms]:
            return Granted(int(fence), int(now_us), asked_at, int(left_ms) / 1000, EMPTY)
    return refused(reply)


@_readable
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
            theirs = {bytes(f or b""): v for f, v in zip(flat[::2], flat[1::2], strict=True)}
            return Conflict(int(version), theirs, _snapshot(rest[0]) if rest else None)
    return refused(reply)


@_readable
def refused(reply: Reply) -> Refused:
    kind, *rest = reply
    if kind not in REFUSALS:
        raise ValueError(kind)
    return Refused(kind.decode(), int(rest[0]) if kind == b"lost" and rest else 0)


@_readable
def released(reply: Reply) -> Saved:
    """The outcome of ``release``; with the grant of this process' next waiter, if it came with the reply."""
    match reply:
        case [b"saved", version, message]:
            return Committed(int(version), handover=pushed(message))
        case [b"clean", message]:
            return Committed(None, changed=False, handover=pushed(message))
        case [b"gone" | b"destroyed" | b"dead" as kind, message]:
            return Refused(kind.decode(), handover=pushed(message))
    return committed(reply)


@_readable
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
        case [b"left", fence]:
            return Abandoned(False, int(fence) if fence.isdigit() else 0)
    return Abandoned(True)


@_readable
def kept(reply: Reply) -> Kept | Refused:
    match reply:
        case [b"kept", current]:
            return Kept(bool(current))
    return refused(reply)


@_readable
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


@_readable
def inspected(reply: Reply) -> Inspected:
    token, left_ms, now_us, state, order, records, record_left_ms = reply
    fence, version, created, destroyed, holder = state
    by_token = dict(zip(records[::2], records[1::2], strict=True))
    who = None
    if token is not None:
        who = Holder("another client", None)
        match holder.split(b" ", 4) if holder else ():
            case [owner, _, since, _, label] if owner == token:
                who = Holder(label.decode(errors="replace"), (int(now_us) - int(since)) / 1e6)
    return Inspected(
        token=None if token is None else token.decode(errors="replace"),
        left=None if token is None else _seconds(left_ms),
        server_us=int(now_us),
        fence=int(fence or 0),
        version=int(version or 0),
        created_us=int(created or 0),
        destroyed=destroyed is not None,
        holder=who,
        queue={waiter.decode(errors="replace"): _waiter(by_token.get(waiter)) for waiter in order},
        record_left=_seconds(record_left_ms),
    )


def _waiter(record: bytes | None) -> Holder | None:
    return None if record is None else Holder(record.split(b" ", 4)[4].decode(errors="replace"), None)


def admitted(keys: SessionKeys, fields: Mapping[bytes, bytes], now_us: int) -> bool:
    """Whether the id behind ``keys`` may see the record, as ``lua/_ids.lua`` has it."""
    proof, current = keys.proof.encode(), fields.get(b"#id")
    if current is None:
        return keys.proof.startswith("p:")
    old = (entry.rpartition(b"@") for entry in fields.get(b"#old", b"").split())
    return current == proof or any(other == proof and int(until) > now_us for other, _, until in old)


def not_admitted(keys: SessionKeys, fields: Mapping[bytes, bytes], now_us: int) -> str:
    """What an id that is not admitted is told: ``dead`` if it was replaced a moment ago, else ``unknown``."""
    old = (entry.rpartition(b"@") for entry in fields.get(b"#old", b"").split())
    recently = any(other == keys.proof.encode() and int(until) > now_us - RECENTLY_US for other, _, until in old)
    return "dead" if recently else "unknown"


def ended(fields: Mapping[bytes, bytes], now_us: int) -> str:
    """The same for a session that was destroyed: ``dead`` if another took its place a moment ago."""
    recently = int(fields[b"#destroyed"]) > now_us - RECENTLY_US
    return "dead" if fields.get(b"#id") == b"-" and recently else "destroyed"


def outdated(keys: SessionKeys, snapshot: Snapshot) -> bool:
    """Whether the session has a newer id, and the one of ``keys`` only works for its grace."""
    newest = snapshot.fields.get(b"#id")
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
