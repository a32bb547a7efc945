"""The protocol without any I/O: typed calls out, typed outcomes in.

Every function here either turns a request into a :class:`Call` (script, keys, arguments) or a script's reply into
an outcome. Nothing waits, nothing is sent; so every race can be written down as a table of calls and outcomes.

States of one acquisition, by what Redis holds of its token::

    unknown ──acquire──▶ holder (granted)            lock = token
       │                   │ ▲
       │                   │ └── handed over (claim) ◀── waiting
       └──acquire──▶ waiting (queued) ─────abandon──▶ finished
    holder ──release / abandon──▶ finished           receipt: later calls of this token change nothing
    holder ──lease lapses / force_release──▶ lost     save refused: `lost`
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeAlias, TypeVar, cast

from ..durability import Safety
from ..errors import CodecError, SessionDestroyed, SessionNotFound
from ..policies import LeasePolicy, SessionPolicy
from .keys import SessionKeys

__all__ = [
    "PATIENCE",
    "Busy",
    "Call",
    "Change",
    "Committed",
    "Conflict",
    "Granted",
    "Handover",
    "Holder",
    "Queued",
    "Refused",
    "Snapshot",
    "fingerprint",
]

P = ParamSpec("P")
R = TypeVar("R")
PATIENCE = 30.0  # seconds after which a waiter that was not heard of is taken for dead
DIGITS = 16  # of the largest fence, 2^53
RECENTLY_US = 15_000_000  # as lua/_ids.lua has it
SHORT = 64  # bytes; longer values are compared by their SHA-1
Word: TypeAlias = "bytes | str | int"


class Call(NamedTuple):
    """One script call. ``keys`` of one call lie in one Cluster slot, except those of ``renew``."""

    script: str
    keys: Sequence[bytes]
    args: Sequence[Word]


class Change(NamedTuple):
    """One changed field: ``op`` is ``s`` set, ``d`` delete or ``i`` increment; or a condition: ``c`` the field is as it
    was read, ``n`` there are ``value`` fields, ``f`` nobody holds the lock; or ``e``: the record ends if this leaves it
    empty.

    ``base`` is the :func:`fingerprint` of the bytes that were read, ``"*"`` for "whatever is there". The store
    refuses the whole commit when a base does not match.
    """

    op: str
    field: bytes
    value: bytes
    base: bytes | str


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
    """``kind``: missing, destroyed, finished, exists, gone, or lost (then ``fence`` is the highest one seen)."""

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
    safety: Safety | None = None  # how far it came, when that was waited for


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


@dataclass(slots=True)
class Inspected:
    token: str | None
    left: float | None
    server_us: int
    fence: int
    version: int
    created_us: int
    destroyed: bool
    holder: Holder | None
    waiters: list[Holder]
    record_left: float | None


# --- calls -----------------------------------------------------------------------------------------------------------


def acquire(
    keys: SessionKeys,
    token: str,
    lease: LeasePolicy,
    session: SessionPolicy | None,
    *,
    channel: str = "-",
    label: str = "",
    missing: str = "create",
    queueing: bool = True,
    max_waiters: int = 64,
    ticket: str = "0",
    push_limit: int = 65536,
    deaf: bool = False,
) -> Call:
    """``session`` None: only the lock. ``ticket``: a waiter's place as it was told, to get it back."""
    return Call(
        "acquire",
        keys.all,
        (
            token,
            lease.ttl_ms,
            lease.claim_ms,
            channel,
            label,
            missing,
            1 if queueing else 0,
            max_waiters,
            ticket,
            session.idle_ms if session else 0,
            session.refresh_ms if session else 0,
            int(PATIENCE * 1000),
            push_limit,
            1 if deaf else 0,
            keys.proof,
        ),
    )


def install(
    keys: SessionKeys,
    token: str,
    ttl_ms: int,
    vector: Iterable[tuple[str, int]],
    majority: int,
    session: SessionPolicy | None,
    *,
    channel: str = "-",
    label: str = "",
    missing: str = "create",
) -> Call:
    """What a quorum granted takes effect at the session's store. ``vector``: master and counter of each grant."""
    counters = " ".join(f"{master}:{counter}" for master, counter in vector)
    idle_ms, refresh_ms = (session.idle_ms, session.refresh_ms) if session else (0, 0)
    return Call(
        "install",
        keys.all,
        (token, ttl_ms, counters, majority, channel, label, missing, idle_ms, refresh_ms, keys.proof),
    )


def vote(
    keys: SessionKeys, token: str, lease: LeasePolicy, *, channel: str = "-", label: str = "", proposed: int = 0
) -> Call:
    """The lock of one master of a quorum, if it is free and nobody waits for it. For a token's very first call.

    ``proposed``: the counter that all masters are to give, if they can.
    """
    return Call("vote", keys.all, (token, lease.ttl_ms, channel, label, proposed))


def raise_fence(keys: SessionKeys, token: str, fence: int) -> Call:
    """The highest of the counters that masters gave ``token`` becomes that of all."""
    return Call("raise_fence", keys.all, (token, fence))


def adopt(keys: SessionKeys, token: str, *, channel: str = "-", label: str = "") -> Call:
    """The plain lock that somebody took for ``token`` becomes a grant, with a counter."""
    return Call("adopt", keys.all, (token, channel, label))


def release(
    keys: SessionKeys,
    token: str,
    fence: int,
    created: str,
    session: SessionPolicy | None,
    changes: Iterable[Change] = (),
    *,
    push_limit: int = 65536,
    deaf: bool = False,
    channel: str = "-",
) -> Call:
    """``created``: the stamp of the record that was loaded, ``""`` when there was none.

    ``channel``: a waiter of this very process gets its grant with the reply, not by a push.
    """
    idle_ms, absolute_ms = _life(session)
    refresh_ms = session.refresh_ms if session else 0
    stamp = created or keys.proof
    head: list[Word] = [token, fence, stamp, idle_ms, absolute_ms, refresh_ms, push_limit, 1 if deaf else 0, channel]
    return Call("release", keys.all, _with_changes(head, changes))


def releases_only_a_lock(call: Call) -> bool:
    """Whether a ``release`` is that of a lock without a session, whose life it would give otherwise."""
    return call.args[3] == 0


def save(
    keys: SessionKeys,
    token: str,
    fence: int,
    op: str,
    created: str,
    session: SessionPolicy,
    changes: Iterable[Change],
) -> Call:
    return Call("save", keys.all, _with_changes([token, fence, op, created or keys.proof, *_life(session)], changes))


def abandon(keys: SessionKeys, token: str, *, push_limit: int = 65536, deaf: bool = False, once: bool = False) -> Call:
    """``once``: the token was in a single call before, which was not and will not be repeated."""
    return Call("abandon", keys.all, (token, push_limit, 1 if deaf else 0, 1 if once else 0))


def renew(leases: Sequence[tuple[SessionKeys, str, int]]) -> Call:
    """Extend each (keys, token, ttl_ms)."""
    keys: list[bytes] = []
    args: list[Word] = []
    for session_keys, token, ttl_ms in leases:
        keys += (session_keys.lock, session_keys.session)
        args += (token, ttl_ms)
    return Call("renew", keys, args)


def load(keys: SessionKeys, session: SessionPolicy) -> Call:
    return Call("load", keys.all, (session.idle_ms, session.refresh_ms, keys.proof))


def create(keys: SessionKeys, op: str, session: SessionPolicy, changes: Iterable[Change]) -> Call:
    return Call("create", keys.all, _with_changes([op, *_life(session), keys.proof], changes))


def commit(
    keys: SessionKeys,
    op: str,
    created: str,
    expected_version: int | None,
    session: SessionPolicy,
    changes: Iterable[Change],
) -> Call:
    """``op`` names this commit; ``expected_version`` None: any version whose fields are as they were read."""
    expected: Word = "" if expected_version is None else expected_version
    return Call("commit", keys.all, _with_changes([op, created, expected, *_life(session), keys.proof], changes))


def increment(
    keys: SessionKeys, op: str, lease: tuple[str, int] | None, created: str, session: SessionPolicy, change: Change
) -> Call:
    """``lease``: token and fence when it is done under the lock."""
    token, fence = lease or ("", 0)
    return Call("incr", keys.all, _with_changes([op, token, fence, created, *_life(session), keys.proof], [change]))


def destroy(keys: SessionKeys, session: SessionPolicy, *, replaced: bool = False) -> Call:
    """``replaced``: a new session has taken its place, so whoever still comes with its id is to be told that."""
    return Call("destroy", keys.all, (session.tombstone_ms, keys.proof, 1 if replaced else 0))


def dismiss(keys: SessionKeys) -> Call:
    """Tell the waiters at a master of a quorum that the session was destroyed."""
    return Call("dismiss", keys.all, ())


def regenerate(keys: SessionKeys, new_proof: str, grace_ms: int, lease: tuple[str, int] | None) -> Call:
    """``lease``: token and fence when it is done under the lock."""
    token, fence = lease or ("", 0)
    return Call("regenerate", keys.all, (keys.proof, new_proof, grace_ms, token, fence))


def expire(keys: SessionKeys, ttl_ms: int) -> Call:
    """Let the record end ``ttl_ms`` from now, sooner or later than it would."""
    return Call("expire", keys.all, (ttl_ms, keys.proof))


def bind(keys: SessionKeys, user: str) -> Call:
    return Call("bind", keys.all, (user, keys.proof))


def inspect(keys: SessionKeys) -> Call:
    return Call("inspect", keys.all, ())


def force_release(keys: SessionKeys, token: str, *, push_limit: int = 65536, deaf: bool = False) -> Call:
    return Call("force_release", keys.all, (token, push_limit, 1 if deaf else 0))


def _life(session: SessionPolicy | None) -> tuple[int, int]:
    return (session.idle_ms, session.absolute_ms) if session else (0, 0)


def _with_changes(head: list[Word], changes: Iterable[Change]) -> list[Word]:
    for change in changes:
        head += change
    return head


def fingerprint(raw: bytes | None, *, exact: bool = False) -> bytes | str:
    """What a commit is compared by: a field's bytes when short (or ``exact``), else their SHA-1; ``""`` if absent.

    Content instead of a counter, so that changes by HINCRBY and by foreign writers are noticed too.
    """
    if raw is None:
        return ""
    if exact or len(raw) <= SHORT:
        return b"=" + raw
    return "#" + hashlib.sha1(raw, usedforsecurity=False).hexdigest()


# --- outcomes --------------------------------------------------------------------------------------------------------


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
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    return Snapshot(fields, int(fields.get(b"#version", b"0")), fields.get(b"#created", b"").decode())


def _seconds(milliseconds: int) -> float | None:
    return None if milliseconds < 0 else milliseconds / 1000


def _holder(label: bytes, age_us: bytes) -> Holder:
    age = int(age_us)
    return Holder(label.decode(errors="replace"), None if age < 0 else age / 1e6)


@_readable
def acquired(reply: list[object], asked_at: float) -> Granted | Queued | Busy | Refused:
    """The outcome of ``acquire``, and of ``install``; ``asked_at`` is the monotonic clock read before it was sent."""
    words: list[bytes] = reply  # type: ignore[assignment]
    kind = words[0]
    if kind == b"granted":
        left = int(words[3]) / 1000
        return Granted(int(words[1]), int(words[2]), asked_at, left, _snapshot(words[4]))  # type: ignore[arg-type]
    if kind == b"queued":
        left_ms = int(words[3])
        # -2: it lapsed between two commands of the script; look again at once.
        left_s = 0.0 if left_ms == -2 else _seconds(left_ms)
        return Queued(
            words[1].decode(),
            int(words[2] or 0),
            left_s,
            _holder(words[4], words[5]),
            int(words[6]),
            asked_at,
        )
    if kind in (b"busy", b"full"):
        return Busy(_holder(words[1], words[2]), int(words[3]), kind == b"full")
    return Refused(kind.decode())


@_readable
def voted(reply: list[object], asked_at: float) -> Granted | Refused:
    """The outcome of ``vote`` and ``adopt``: no session comes with it."""
    words: list[bytes] = reply  # type: ignore[assignment]
    if words[0] not in (b"granted", b"adopted"):
        return Refused(words[0].decode())
    return Granted(int(words[1]), int(words[2]), asked_at, int(words[3]) / 1000, EMPTY)


@_readable
def committed(reply: list[object]) -> Committed | Conflict | Refused:
    """The outcome of ``save``, ``commit`` and ``incr``."""
    words: list[bytes] = reply  # type: ignore[assignment]
    kind = words[0]
    if kind in (b"saved", b"already"):
        created = words[2].decode() if len(words) > 2 and words[2] else ""
        value = int(words[3]) if len(words) > 3 else None
        return Committed(int(words[1]), created, repeated=kind == b"already", value=value)
    if kind == b"conflict":
        flat: Sequence[bytes | None] = words[2]  # type: ignore[assignment]
        theirs = {bytes(f or b""): v for f, v in zip(flat[::2], flat[1::2], strict=True)}
        whole = _snapshot(words[3]) if len(words) > 3 else None  # type: ignore[arg-type]
        return Conflict(int(words[1]), theirs, whole)
    return Refused(kind.decode(), int(words[1]) if kind == b"lost" else 0)


def so_safe(outcome: Committed | Conflict | Refused, safety: Safety | None) -> Committed | Conflict | Refused:
    """The outcome, with what is known of how far it came."""
    if isinstance(outcome, Committed):
        outcome.safety = safety
    return outcome


@_readable
def released(reply: list[object]) -> Committed | Conflict | Refused:
    """The outcome of ``release``; with the grant of this process' next waiter, if it came with the reply."""
    words: list[bytes] = reply  # type: ignore[assignment]
    kind = words[0]
    if kind == b"saved":
        return Committed(int(words[1]), handover=pushed(words[2]))
    if kind == b"clean":
        return Committed(None, changed=False, handover=pushed(words[1]))
    if kind in (b"gone", b"destroyed", b"dead"):
        return Refused(kind.decode(), handover=pushed(words[1]) if len(words) > 1 else None)
    return committed(reply)


@_readable
def loaded(reply: list[object]) -> Snapshot | Refused:
    """The outcome of ``load``; also of ``create`` when ``reply`` carries the new record."""
    if reply[0] in (b"found", b"saved"):
        found = _snapshot(reply[-1])  # type: ignore[arg-type]
        return found._replace(touched=True) if reply[:2] == [b"found", 1] else found
    return Refused(bytes(reply[0]).decode())  # type: ignore[call-overload]


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
def inspected(reply: list[object]) -> Inspected:
    token, left, now_us, state, order, records, record_left = reply
    fence, version, created, destroyed, holder = cast("list[bytes | None]", state)
    flat: list[bytes] = records  # type: ignore[assignment]
    by_token = dict(zip(flat[::2], flat[1::2], strict=True))
    server_us = int(now_us)  # type: ignore[call-overload]
    who = None
    if token is not None:
        who = Holder("another client", None)
        words = holder.split(b" ", 4) if holder else []
        if len(words) == 5 and words[0] == token:
            who = Holder(words[4].decode(errors="replace"), (server_us - int(words[2])) / 1e6)
    waiters = [
        Holder(by_token[t].split(b" ", 4)[4].decode(errors="replace"), None)
        for t in order  # type: ignore[attr-defined]
        if t in by_token
    ]
    return Inspected(
        token=token.decode() if isinstance(token, bytes) else None,
        left=_seconds(left) if token is not None else None,  # type: ignore[arg-type]
        server_us=server_us,
        fence=int(fence or 0),
        version=int(version or 0),
        created_us=int(created or 0),
        destroyed=destroyed is not None,
        holder=who,
        waiters=waiters,
        record_left=_seconds(record_left),  # type: ignore[arg-type]
    )


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
        error = SessionNotFound(
            f"this id of session {name} is not valid: it was replaced and its grace is over, or it was never given out"
        )
        error.replaced = kind == "dead"
        return error
    if kind == "gone":
        return SessionNotFound(
            f"the record of session {name} expired or was replaced since it was loaded; saving only the changes would"
            " revive a part of it, so nothing was saved"
        )
    return SessionNotFound(f"there is no session {name}: it never existed or has expired")
