"""Sessions for Quart: ``quart.session``, locked, loaded and saved over all processes and nodes.

::

    app = Quart(__name__)
    SessionLock(app, "redis://localhost:6379/0")          # or init_app(), or app.config["SESSION_LOCK_URL"]

    @app.post("/cart")
    async def add():                                      # POST: locked while the view runs
        session.setdefault("cart", []).append("A")        # deep changes are noticed

GET, HEAD and OPTIONS read without waiting; if one did change something, that is committed and merged at the end, and
where it cannot be merged the request is run once more, under the lock, before anything of its answer is sent: such a
view may run twice. Before the answer begins the session is saved and the lock released, so a stream never holds it; a
request that fails saves nothing. A websocket reads, and what it writes is committed by itself when it ends.

``session`` is what Quart's documentation says, a dict with ``permanent``, ``modified``, ``new`` and ``accessed``. All
else is under the one name ``session.sessionlock`` (:class:`sessionlock.Session`). See ``docs/quart.md``.
"""

from __future__ import annotations

from ..web.decorators import locks_session, session_lock, session_lock_exempt, session_policy, session_readonly
from .extension import SessionLock
from .interface import SessionLockInterface, visit_of
from .session import LockedSession

__all__ = [
    "LockedSession",
    "SessionLock",
    "SessionLockInterface",
    "locks_session",
    "session_lock",
    "session_lock_exempt",
    "session_policy",
    "session_readonly",
    "visit_of",
]
