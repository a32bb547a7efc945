"""Locks and sessions as rows of tables, and in JSON."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ...operate import LockHolder, LocksSeen, LockState, SessionState
from ..tables import Column, Table
from ..units import count, duration, share, size

__all__ = ["MORE", "UNKNOWN_HOLDER", "as_json", "found", "locks_table", "looked_at", "sessions_table", "who"]

UNKNOWN_HOLDER = "another client"
MORE = "there are more locks than these, and they were not looked at"
LOCKS = (
    Column("session"),
    Column("waiting", right=True),
    Column("longest", rank=3, right=True),
    Column("held for", rank=1, right=True),
    Column("lease left", rank=4, right=True),
    Column("route", cut=True),
    Column("node", rank=2, cut=True),
)
SESSIONS = (
    Column("session"),
    Column("memory", right=True),
    Column("keys", rank=2, right=True),
    Column("saves", rank=3, right=True),
    Column("age", right=True),
    Column("expires in", rank=1, right=True),
)


def locks_table(title: str, locks: Iterable[LockState]) -> Table:
    return Table(title, LOCKS, [_lock(lock) for lock in locks])


def _lock(lock: LockState) -> tuple[str, ...]:
    holder = lock.holder
    return (
        lock.digest,
        f"{lock.waiting:,}" if lock.waiting else "-",
        duration(lock.longest_wait) if lock.queue else "-",
        "-" if holder is None else _or(holder.held_for, "unknown"),
        "-" if holder is None else _or(holder.lease_left, "no end"),
        (holder.route or "-") if holder is not None and (holder.node or holder.route) else who(holder),
        (holder.node or "-") if holder is not None else "-",
    )


def who(holder: LockHolder | None) -> str:
    """Node and route, as its label has them."""
    if holder is None:
        return "nobody"
    return f"{holder.node} {holder.route}".strip() or UNKNOWN_HOLDER


def sessions_table(title: str, states: Iterable[SessionState], empty: str = "none") -> Table:
    rows = [
        (
            state.digest,
            "unknown" if state.bytes is None else size(state.bytes),
            f"{state.keys:,}",
            f"{state.version:,}",
            _or(state.age, "-"),
            _or(state.expires_in, "never"),
        )
        for state in states
    ]
    return Table(title, SESSIONS, rows, empty)


def _or(seconds: float | None, otherwise: str) -> str:
    return otherwise if seconds is None else duration(seconds)


def looked_at(part: float, keys: int) -> str:
    """How much of all keys a search has seen."""
    return count(keys, "key") if part >= 1 else f"{share(part)} of {count(keys, 'key')}"


def found(seen: LocksSeen, held: int, waiting: int) -> str:
    """How many hold and wait; where not all were looked at, it says so."""
    least = "at least " if seen.full or seen.share < 1 else ""
    return f"{least}{count(held, 'lock')} held, {least}{count(waiting, 'request')} waiting"


def as_json(lock: LockState | SessionState) -> dict[str, Any]:
    return {**asdict(lock), "waiting": lock.waiting} if isinstance(lock, LockState) else asdict(lock)


def locks_json(seen: LocksSeen, locks: Iterable[LockState]) -> dict[str, Any]:
    return {
        "share": seen.share,
        "keys": seen.keys,
        "full": seen.full,
        "held": sum(lock.holder is not None for lock in seen.locks),
        "waiting": seen.waiting,
        "locks": [as_json(lock) for lock in locks],
    }
