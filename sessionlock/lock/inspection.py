"""What an administrator sees of a session."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol.inspected import Inspected
from ..protocol.keys import SessionKeys

__all__ = ["HolderInfo", "SessionInfo", "session_info"]


@dataclass(frozen=True, slots=True)
class HolderInfo:
    """Who holds a session's lock. ``token`` is what :meth:`SessionGuard.force_release` wants to see.

    ``age`` and ``remaining`` in seconds, None when unknown or endless (a foreign Redlock client).
    """

    token: str
    label: str
    age: float | None
    remaining: float | None


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What :meth:`SessionGuard.inspect` tells. ``waiters`` are labels in queue order; ``expires_in`` in seconds.

    ``riders``: how many more waited in the holder's process when it was granted the lock; those are not in the queue.
    """

    name: str
    holder: HolderInfo | None
    fencing_token: int
    waiters: tuple[str, ...]
    exists: bool
    destroyed: bool
    version: int
    expires_in: float | None
    riders: int = 0


def session_info(keys: SessionKeys, seen: Inspected) -> SessionInfo:
    holder = None
    if seen.token is not None and seen.holder is not None:
        holder = HolderInfo(seen.token, seen.holder.label, seen.holder.age, seen.left)
    return SessionInfo(
        name=keys.digest,
        holder=holder,
        fencing_token=seen.fence,
        waiters=tuple(waiter.label for waiter in seen.waiters),
        exists=seen.created_us > 0,
        destroyed=seen.destroyed,
        version=seen.version,
        expires_in=seen.record_left,
        riders=seen.riders,
    )
