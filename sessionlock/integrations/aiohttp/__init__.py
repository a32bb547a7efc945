"""Sessions for aiohttp's servers."""

from ..web.decorators import locks_session, session_lock, session_lock_exempt, session_policy, session_readonly
from .middleware import get_session, locked_session, setup, visit_of

__all__ = [
    "get_session",
    "locked_session",
    "locks_session",
    "session_lock",
    "session_lock_exempt",
    "session_policy",
    "session_readonly",
    "setup",
    "visit_of",
]
