"""Why a lock was not granted, or nothing was saved, in the same words whichever topology it is."""

from __future__ import annotations

from ..errors import (
    LeaseLost,
    LockNotAcquired,
    QueueFull,
    RedisUnavailable,
    SessionDestroyed,
    SessionLockError,
    SessionNotFound,
    StaleFencingToken,
    WaitTimedOut,
)
from ..lease import Lease
from ..protocol.replies import Busy, Holder, Queued, refusal
from .request import LockRequest

__all__ = ["forked", "lease_lost", "not_granted", "not_saved", "note", "outrun", "queue_full", "refused", "timed_out"]

LATE_SAVE = "the late save was refused, nothing of it was stored. Load the session again"
LATE_WORK = "what the lock guards should refuse this token. Take the lock again"
NOBODY_CERTAIN = "others, none by a majority"


def forked(digest: str = "") -> LeaseLost:
    """For a child that goes on with its parent's block."""
    return LeaseLost("this process was forked inside the block; the lock and the session are its parent's").about(
        digest
    )


def refused(request: LockRequest, kind: str) -> SessionLockError:
    """For the outcome :class:`~sessionlock.protocol.Refused` of an acquire."""
    if kind == "already":
        return LockNotAcquired(f"the acquisition of {request.title} had ended already").about(request.digest)
    return refusal(request.digest, kind)


def queue_full(request: LockRequest, busy: Busy, riding: int = 0) -> QueueFull:
    """``riding``: so many of this process wait beside the queue."""
    waiting = busy.waiting + riding
    return QueueFull(
        f"{waiting} requests already wait for {request.title}, held by {_described(busy.holder)};"
        " try again later, or raise WaitPolicy.max_waiters",
        holder=busy.holder.label,
        holder_age=busy.holder.age,
        position=waiting,
    ).about(request.digest)


def not_granted(
    request: LockRequest, holder: Holder | None, *, waited: float | None = None, position: int | None = None
) -> WaitTimedOut:
    """``holder`` None: of a quorum, where nobody has a majority. ``waited``: seconds; None: not at all."""
    who = NOBODY_CERTAIN if holder is None else _described(holder)
    if waited is None:
        message = f"{request.title} is held by {who} and this request does not wait; nothing was changed"
    else:
        message = (
            f"{request.title} was still held after {waited:.2f} s by {who};"
            f" {position or 0} were ahead when last heard of. Nothing was changed; try again"
        )
    told = WaitTimedOut(message, holder=holder and holder.label, holder_age=holder and holder.age, position=position)
    return told.about(request.digest)


def timed_out(request: LockRequest, last: Queued | None, waited: float) -> SessionLockError:
    """For whose wait is over. ``last``: what Redis has told it; None: nothing at all."""
    if last is not None:
        return not_granted(request, last.holder, waited=waited, position=last.position)
    return RedisUnavailable(
        f"Redis has not answered for {waited:.2f} s, and this request waits no longer for {request.title}; a lock that"
        " it is granted all the same is given back. Try again when Redis is back"
    )


def outrun(request: LockRequest, elapsed: float) -> WaitTimedOut:
    """For who got a majority of a quorum's masters, again and again, and lost it before it could take effect."""
    return WaitTimedOut(
        f"{request.title}: the majority that was won has been found to be over, for {elapsed:.2f} s. Another request"
        " was faster each time, or a master's clock was set back. Nothing was changed; try again"
    ).about(request.digest)


def _described(holder: Holder) -> str:
    return holder.label if holder.age is None else f"{holder.label} for {holder.age:.2f} s"


def lease_lost(lease: Lease, fence: int) -> LeaseLost:
    """For a lease that is marked as lost. ``fence``: the highest fencing token that was seen since."""
    if fence <= lease.fencing_token:
        return LeaseLost(lease.why_lost()).about(lease.digest)
    return StaleFencingToken(
        f"{lease.title} was lost and has been granted again since (fencing token {lease.fencing_token}, now {fence});"
        f" {LATE_WORK if lease.is_alone else LATE_SAVE}",
        ours=lease.fencing_token,
        current=fence,
    ).about(lease.digest)


def not_saved(name: str, kind: str) -> SessionNotFound:
    """The session of this request's changes is not there any more."""
    if kind != "destroyed":
        return refusal(name, kind)
    return SessionDestroyed(
        f"session {name} was destroyed while this request held it; its changes were not saved and the session stays"
        " destroyed"
    ).about(name)


def note(error: BaseException | None, trouble: SessionLockError) -> None:
    """The body's own exception comes first; what happened to the lock is told beside it (Python 3.11+)."""
    add_note = getattr(error, "add_note", None)
    if add_note is not None:
        add_note(f"sessionlock, while leaving: {type(trouble).__name__}: {trouble}")
