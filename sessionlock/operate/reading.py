"""What Redis holds about a session, by plain commands: which, and what the replies mean. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import ConfigurationError
from ..protocol.inspected import Inspected
from ..protocol.keys import RECORD, SessionKeys, keys_for, keys_of_record
from ..protocol.labels import told_apart
from ..protocol.records import created_in, fence_in, id_in
from .shards import NOT_TOLD, Words, as_bytes
from .told import LockHolder, LockState, LockWaiter, SessionState

__all__ = [
    "about_lock",
    "about_session",
    "about_waiters",
    "digest_in",
    "digest_of_key",
    "digest_of_sid",
    "is_name",
    "keys_named",
    "lock_state",
    "lock_told",
    "pattern",
    "session_state",
    "with_waiters",
]

WAITERS_SHOWN = 64  # of one queue
SAMPLES = 32  # fields that are weighed where a hash has many; of a small one all, so that it weighs the same each time
RESERVED = (
    *("#state", "#version", "#destroyed", "#user", "#expires"),
    *("#replaced", "#holder", "#old", "#refused", "#forced", "#floor", "#away", "#indexed", "#vector"),
)
# A digest as it stands alone, in the braces of a key, or in a key with its prefix; with what is copied around it.
_NAMED = re.compile(rf"\s*(?:({RECORD})|(?:([^{{}} ]+):)?\{{({RECORD})\}}(?::[a-z]+)?)\s*")
_IN_A_KEY = re.compile(rf"\{{({RECORD})\}}:[a-z]+\Z".encode())


def digest_in(text: str, prefix: str) -> str | None:
    """The digest in ``text``, which is one or the key of a session; None: it is neither.

    Raises:
        ConfigurationError: it is the key of another prefix.
    """
    match = _NAMED.fullmatch(text)
    if match is not None and match[2] not in (None, prefix):
        raise ConfigurationError(
            f"that is a key of the prefix {match[2]!r}, and this looks at {prefix!r}: give that prefix (--prefix)"
        )
    return None if match is None else match[1] or match[3]


def digest_of_sid(prefix: str, sid: str) -> str:
    return keys_for(prefix, sid).digest


def is_name(digest: object) -> bool:
    """Whether it is a digest."""
    return isinstance(digest, str) and re.fullmatch(RECORD, digest) is not None


def keys_named(prefix: str, digest: str) -> SessionKeys:
    """Raises :class:`~sessionlock.ConfigurationError`: this is no digest."""
    if not is_name(digest):
        raise ConfigurationError("a session's digest has 14 characters of [a-z0-9]")
    return keys_of_record(prefix, digest)


def pattern(prefix: str, parts: str) -> bytes:
    """For SCAN: the keys of all sessions, of those parts (their names, or a pattern)."""
    literal = re.sub(r"([\\*?\[\]^-])", r"\\\1", prefix)
    return f"{literal}:{{{'?' * 14}}}:{parts}".encode()


def digest_of_key(key: bytes) -> str | None:
    match = _IN_A_KEY.search(key)
    return None if match is None else match[1].decode()


# --- the lock


def about_lock(keys: SessionKeys) -> list[Words]:
    return [
        ("GET", keys.lock),
        ("PTTL", keys.lock),
        ("HMGET", keys.session, "#state", "#version", "#holder"),
        ("ZCARD", keys.queue),
        ("ZRANGE", keys.queue, 0, WAITERS_SHOWN - 1, "WITHSCORES"),
    ]


def lock_state(
    digest: str, replies: Sequence[Any], now: float
) -> tuple[LockState, list[tuple[bytes, float | None]]] | None:
    """What is known without the waiters' labels; and their tokens, with how long they waited. None: its keys are not
    there, or are somebody else's. ``now``: microseconds of the server's clock.
    """
    if NOT_TOLD in replies:
        return None
    token, left, fields, queue, order = replies
    state, version, said = (_bytes(field) for field in fields)
    holder = None if token is None else _holder(as_bytes(token), left, said or b"", now)
    waiting = [(name, _since(score, now)) for name, score in _pairs(order)]
    return LockState(digest, holder, int(queue), _fence(state), _number(version)), waiting


def _holder(token: bytes, left: Any, said: bytes, now: float) -> LockHolder:
    node, route, trace, age, kind = "", "", "", None, b"held"
    match said.split(b" ", 4):
        case [owner, kind, since, _, label] if owner == token:
            node, route, trace = _label(label)
            age = _since(since, now)
        case _:
            kind = b"held"  # by another client, which says nothing about itself
    riders = kind.partition(b"+")[2]
    return LockHolder(
        token=token.decode(errors="replace"),
        node=node,
        route=route,
        held_for=age,
        lease_left=_left(left),
        claim=kind == b"claim",
        riders=_number(riders),
        trace=trace,
    )


def about_waiters(keys: SessionKeys, tokens: Sequence[bytes]) -> Words:
    return ("HMGET", keys.waiters, *tokens)


def with_waiters(lock: LockState, waiting: Sequence[tuple[bytes, float | None]], reply: Any) -> LockState:
    records = [None] * len(waiting) if reply is NOT_TOLD else reply
    waiters = []
    for (_, waited), record in zip(waiting, records, strict=True):
        parts = as_bytes(record or b"").split(b" ", 4)
        node, route, trace = _label(parts[4]) if len(parts) == 5 else ("", "", "")
        waiters.append(LockWaiter(node, route, waited, trace))
    return LockState(lock.digest, lock.holder, lock.queue, lock.fence, lock.version, tuple(waiters))


def _label(said: bytes) -> tuple[str, str, str]:
    """Node, route and trace."""
    label, trace = told_apart(said.decode(errors="replace"))
    node, _, route = label.partition(" ")
    return node, route, trace


def _pairs(order: Sequence[Any]) -> list[tuple[bytes, Any]]:
    """Members with their scores, as RESP2 or RESP3 tells them."""
    if order and isinstance(order[0], (list, tuple)):
        return [(as_bytes(name), score) for name, score in order]
    return [(as_bytes(name), score) for name, score in zip(order[::2], order[1::2], strict=True)]


def lock_told(digest: str, seen: Inspected) -> LockState:
    """The same of what the masters of a quorum agree on."""
    holder = None
    if seen.token is not None and seen.holder is not None:
        node, _, route = seen.holder.label.partition(" ")
        age, trace = seen.holder.age, seen.holder.trace
        holder = LockHolder(seen.token, node, route, age, seen.left, False, seen.riders, trace)
    told = [(*waiter.label.partition(" "), waiter.trace) for waiter in seen.waiters]
    waiters = tuple(LockWaiter(node, route, None, trace) for node, _, route, trace in told[:WAITERS_SHOWN])
    return LockState(digest, holder, len(seen.queue), seen.fence, seen.version, waiters)


# --- the record


def about_session(keys: SessionKeys) -> list[Words]:
    return [
        ("HMGET", keys.session, *RESERVED),
        ("PTTL", keys.session),
        ("HLEN", keys.session),
        ("MEMORY", "USAGE", keys.session, "SAMPLES", SAMPLES),
    ]


def session_state(digest: str, replies: Sequence[Any], now: float) -> SessionState | None:
    """None: as of :func:`lock_state`."""
    fields, left, length, size = replies
    if NOT_TOLD in (fields, left, length):
        return None
    values = [_bytes(field) for field in fields]
    state, version, destroyed, user, expires = values[:5]
    created = _created(state)
    ends = _number(expires)
    return SessionState(
        digest=digest,
        exists=created > 0,
        destroyed=destroyed is not None,
        version=_number(version),
        age=max(0.0, (now - created) / 1e6) if created else None,
        expires_in=_left(left),
        ends_in=max(0.0, (ends - now) / 1e6) if ends else None,
        keys=max(0, int(length) - sum(value is not None for value in values)),
        bytes=size if isinstance(size, int) else None,
        user=(user or b"").decode(errors="replace"),
    )


def _created(state: bytes | None) -> int:
    """Microseconds; 0: there is no record."""
    if state is None or id_in(state) is None:
        return 0
    return _number(created_in(state).encode())


# --- replies


def _bytes(field: Any) -> bytes | None:
    return None if field is None else as_bytes(field)


def _number(text: bytes | None) -> int:
    return int(text) if text and text.isdigit() else 0


def _fence(state: bytes | None) -> int:
    return fence_in(state) if state and state[:16].isdigit() else 0


def _left(milliseconds: Any) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int) and milliseconds >= 0 else None


def _since(microseconds: Any, now: float) -> float | None:
    try:
        return max(0.0, (now - float(microseconds)) / 1e6)
    except ValueError:
        return None
