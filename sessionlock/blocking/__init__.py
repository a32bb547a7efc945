"""The same guard for threads: plain calls, plain blocks, one event loop behind them for the whole process."""

from ..views.session_id import cookie, header
from .by_hand import Lock
from .guard import (
    SessionGuard,
    blocking_guard,
    configure,
    default_guard,
    session_lock,
    session_locked,
)
from .session import Attempt, Session

__all__ = [
    "Attempt",
    "Lock",
    "Session",
    "SessionGuard",
    "blocking_guard",
    "configure",
    "cookie",
    "default_guard",
    "header",
    "session_lock",
    "session_locked",
]
