"""A request that is made while handling another one of the same session would wait for itself: refuse it at once.

The handler's context (:mod:`contextvars`) knows which sessions its request holds; a call to the own application within
this process carries that context along. A call by HTTP does not: that is :mod:`sessionlock.selfcalls.check`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

from ..guard import SessionGuard
from ..observe import LockRefused
from ..protocol.keys import check_sid, keys_for
from ..session.mapping import Session
from .check import calls_itself

__all__ = ["Held", "held_here", "hold_here", "refuse_nested"]

_held: ContextVar[tuple[Held, ...]] = ContextVar("sessionlock_held", default=())


class Held:
    """One request's hold on one session. ``still``: whether it holds the lock at this moment."""

    def __init__(self, guard: SessionGuard, sid: str, still: Callable[[], bool], label: str = "") -> None:
        keys = keys_for(guard.prefix, check_sid(sid))
        self.name: tuple[str, str] = (keys.prefix, keys.digest)
        self.still = still
        self.label = label

    def enter(self) -> None:
        """From here on, for this context and those that are copied from it."""
        _held.set((*_held.get(), self))

    def leave(self) -> None:
        _held.set(tuple(held for held in _held.get() if held is not self))


def hold_here(guard: SessionGuard, session: Session, label: str) -> Held | None:
    """Tell this context that its request holds ``session``; None for one without a lock."""
    lease = session.lease
    if lease is None:
        return None
    held = Held(guard, session.sid, lambda: not lease.released, label)
    held.enter()
    return held


def held_here(guard: SessionGuard, sid: str) -> Held | None:
    """The hold of the request that is being handled in this context on that session, None when there is none."""
    keys = keys_for(guard.prefix, check_sid(sid))
    name = (keys.prefix, keys.digest)
    return next((held for held in _held.get() if held.name == name and held.still()), None)


def refuse_nested(guard: SessionGuard, sid: str) -> None:
    """Before waiting for a session's lock.

    Raises:
        ReentrantLock: the request that is being handled here holds it, and would wait for this one.
    """
    held = held_here(guard, sid)
    if held is not None:
        who = f"the request that is being handled here ({held.label or 'unnamed'})"
        error = calls_itself(held.name[1], who)
        guard.tell(LockRefused(held.name[1], "", 0.0, held.label, "", error))
        raise error
