"""One session, one request at a time, over all nodes: at the price of an unguarded session.

::

    guard = SessionGuard.from_url("redis://localhost:6379/0")
    async with guard.session_lock(sid) as session:      # acquire + load: one round trip
        session["cart"].append("A")                     # deep changes are noticed
                                                        # save + release + handoff: one round trip

Read ``lock/context``, ``lock/acquire``, ``protocol/replies`` and ``protocol/lua/acquire.lua``, in this order, and you
know how it works. :mod:`sessionlock.errors` shows what can go wrong.
"""

from typing import TYPE_CHECKING

from .codecs.base import Codec
from .codecs.fast import MsgspecCodec, OrjsonCodec
from .codecs.fernet import FernetCodec
from .codecs.json import JsonCodec
from .decorator import session_locked
from .default import configure, default_guard, session_lock
from .errors import (
    CodecError,
    ConfigurationError,
    EmbeddedServerUnavailable,
    InvalidSessionId,
    LeaseLost,
    LockNotAcquired,
    LockNotHeld,
    NotDurable,
    OutcomeUnknown,
    QueueFull,
    QuorumNotReached,
    ReadOnlySession,
    RedisUnavailable,
    ReentrantLock,
    ScriptsForbidden,
    SessionConflict,
    SessionDestroyed,
    SessionLockError,
    SessionNotFound,
    SessionTooLarge,
    StaleFencingToken,
    WaitTimedOut,
)
from .guard import SessionGuard
from .lease import Lease
from .lock.by_hand import Lock
from .lock.inspection import HolderInfo, SessionInfo
from .policies import LeasePolicy, Replicated, Replication, SessionPolicy, WaitPolicy
from .session.mapping import Session
from .session.merge import MISSING, Clash, by_id
from .urls import MemoryStoreWarning
from .version import __version__
from .views.session_id import cookie, header

if TYPE_CHECKING:
    from .quorum.config import Quorum

__all__ = [
    "MISSING",
    "Clash",
    "Codec",
    "CodecError",
    "ConfigurationError",
    "EmbeddedServerUnavailable",
    "FernetCodec",
    "HolderInfo",
    "InvalidSessionId",
    "JsonCodec",
    "Lease",
    "LeaseLost",
    "LeasePolicy",
    "Lock",
    "LockNotAcquired",
    "LockNotHeld",
    "MemoryStoreWarning",
    "MsgspecCodec",
    "NotDurable",
    "OrjsonCodec",
    "OutcomeUnknown",
    "QueueFull",
    "Quorum",
    "QuorumNotReached",
    "ReadOnlySession",
    "RedisUnavailable",
    "ReentrantLock",
    "Replicated",
    "Replication",
    "ScriptsForbidden",
    "Session",
    "SessionConflict",
    "SessionDestroyed",
    "SessionGuard",
    "SessionInfo",
    "SessionLockError",
    "SessionNotFound",
    "SessionPolicy",
    "SessionTooLarge",
    "StaleFencingToken",
    "WaitPolicy",
    "WaitTimedOut",
    "__version__",
    "by_id",
    "configure",
    "cookie",
    "default_guard",
    "header",
    "session_lock",
    "session_locked",
]

if TYPE_CHECKING:
    Wait = Replicated
    Safety = Replication
else:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        """``Quorum`` is loaded when somebody wants it: most guards have one Redis. And what has a new name."""
        if name == "Quorum":
            from .quorum.config import Quorum

            return Quorum
        if name in ("Wait", "Safety"):
            from warnings import warn

            now = Replicated if name == "Wait" else Replication
            warn(f"sessionlock.{name} is {now.__name__} now", DeprecationWarning, stacklevel=2)
            return now
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "Wait", "Safety"})
