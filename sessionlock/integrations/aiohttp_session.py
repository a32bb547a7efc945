"""A storage for the package ``aiohttp-session``: its sessions, locked, loaded and saved by sessionlock.

::

    sessionlock.integrations.aiohttp.setup(app, "redis://localhost:6379/0", cookie="AIOHTTP_SESSION")
    aiohttp_session.setup(app, SessionLockStorage())

    session = await aiohttp_session.get_session(request)      # as ever

aiohttp-session by itself saves only what its own session object noticed, and not at all when a handler fails; so the
save and the release are those of :func:`sessionlock.integrations.aiohttp.setup`, whose cookie settings count.
"""

from __future__ import annotations

from typing import Any, cast

import aiohttp_session
from aiohttp import web

from ..session import Session
from .aiohttp import get_session, visit_of

__all__ = ["SessionLockStorage"]


class SessionLockStorage(aiohttp_session.AbstractStorage):
    """``new_session(request)`` gives the session a new id and drops its content; the old id works no more."""

    async def load_session(self, request: web.Request) -> aiohttp_session.Session:
        return _Locked(await get_session(request), self.max_age)

    async def save_session(
        self, request: web.Request, response: web.StreamResponse, session: aiohttp_session.Session
    ) -> None:
        """Called for what changed, shortly before sessionlock saves: only a session that took another's place needs
        anything done.
        """
        if isinstance(session, _Locked):
            return
        locked = await get_session(request)
        await locked.regenerate(grace=0)
        visit = visit_of(request)
        assert visit is not None
        visit.replace(dict(session))


class _Locked(aiohttp_session.Session):
    """aiohttp-session's interface over a locked session."""

    def __init__(self, locked: Session, max_age: int | None) -> None:
        new = locked.new
        super().__init__(None if new else locked.sid, data=None, new=new, max_age=max_age)
        self._mapping = cast("dict[str, Any]", locked)
        if locked.created.isdigit():
            self._created = int(locked.created) // 1_000_000

    def invalidate(self) -> None:
        self._mapping.clear()
        self.changed()

    def __setitem__(self, key: str, value: Any) -> None:
        self._mapping[key] = value
        self.changed()

    def __delitem__(self, key: str) -> None:
        del self._mapping[key]
        self.changed()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._mapping!r}>"
