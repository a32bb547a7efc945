"""For whoever runs an application: see who holds which session's lock and who waits, and act on it.

One layer for the command line, the framework commands and the admin page. It needs a Redis, and no guard.
"""

from .board import Board, HotSession, RouteWaits, View
from .operator import Operator
from .told import Inspection, LockHolder, LocksSeen, LockState, LockWaiter, SessionField, SessionsCounted, SessionState

__all__ = [
    "Board",
    "HotSession",
    "Inspection",
    "LockHolder",
    "LockState",
    "LockWaiter",
    "LocksSeen",
    "Operator",
    "RouteWaits",
    "SessionField",
    "SessionState",
    "SessionsCounted",
    "View",
]
