"""Sessions for Flask: ``flask.session``, locked, loaded and saved over all processes and nodes.

::

    app = Flask(__name__)
    SessionLock(app, "redis://localhost:6379/0")          # or init_app(), or app.config["SESSION_LOCK_URL"]

    @app.post("/cart")
    def add():                                            # POST: locked when the session is touched first
        session.setdefault("cart", []).append("A")        # deep changes are noticed

Nothing happens until a view touches ``session``: static files and views without a session cost nothing. GET, HEAD and
OPTIONS read without waiting; if one did change something, that is committed and merged at the end, and where it cannot
be merged the request is run once more, under the lock, before anything of its answer is sent: such a view may run
twice. Before the answer begins the session is saved and the lock released, so a stream never holds it; a request that
fails saves nothing.

``session`` is what Flask's documentation says, a dict with ``permanent``, ``modified``, ``new`` and ``accessed``. All
else is under the one name ``session.sessionlock``: ``sid``, ``version``, ``lease``, ``save()``, ``release()``,
``regenerate()``, ``destroy()``, ``incr()``, ``locked()`` (:class:`GuardedSession`). See ``docs/flask.md``.
"""

from __future__ import annotations

from ..web.decorators import locks_session, session_lock, session_lock_exempt, session_policy, session_readonly
from .extension import SessionLock
from .handle import GuardedSession
from .interface import SessionLockInterface
from .session import LockedSession

__all__ = [
    "GuardedSession",
    "LockedSession",
    "SessionLock",
    "SessionLockInterface",
    "locks_session",
    "session_lock",
    "session_lock_exempt",
    "session_policy",
    "session_readonly",
]
