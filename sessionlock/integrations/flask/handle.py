"""``flask.session.sessionlock``: what a locked session has beside its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ...lease import Lease
from ...session.mapping import Session
from .waiting import wait_for

if TYPE_CHECKING:
    from ..web.request_session import Visit
    from .session import FlaskUse, LockedSession

__all__ = ["GuardedSession"]


class GuardedSession:
    """:class:`sessionlock.Session` as a view sees it: the same names, and what is awaited there waits here."""

    def __init__(self, session: LockedSession, use: FlaskUse, find: Callable[[], Visit]) -> None:
        self._session = session
        self._use = use
        self._find = find

    def __repr__(self) -> str:
        return repr(self._guarded)

    @property
    def _guarded(self) -> Session:
        return self._find().session

    @property
    def sid(self) -> str:
        """The secret id, as in the cookie."""
        return self._guarded.sid

    @property
    def name(self) -> str:
        """The digest under which logs and ``sessionlock inspect`` know it."""
        return self._guarded.name

    @property
    def version(self) -> int:
        """Counts the commits of this session."""
        return self._guarded.version

    @property
    def lease(self) -> Lease | None:
        """None when this request has no lock."""
        return self._guarded.lease

    def save(self) -> None:
        """Save now what changed, and go on. Raises as :meth:`sessionlock.Session.save`."""
        self._use.note_change()
        wait_for(self._guarded.save)

    def release(self) -> None:
        """Save and give the lock up now, before a slow end of the view. Later changes raise."""
        self._use.note_change()
        wait_for(self._guarded.release)

    def incr(self, key: str, by: int = 1) -> int:
        """Add to an integer, in Redis and at once; returns the new value.

        Raises as :meth:`sessionlock.Session.incr`.
        """
        self._use.force(True)
        return wait_for(self._guarded.incr, key, by)

    def regenerate(self, *, grace: float = 30.0) -> str:
        """Give the session a new id; the old one works ``grace`` seconds longer. Returns the new one.

        A login needs no call: a change of who is logged in does it by itself. Raises as
        :meth:`sessionlock.Session.regenerate`.
        """
        return wait_for(partial(self._guarded.regenerate, grace=grace))

    def identity_changed(self) -> None:
        """Somebody logged in, and no key of the session tells: it gets a new id when it is saved."""
        self._find().identity_changed()
        self._use.force(True)

    def destroy(self) -> None:
        """End the session (log out) at once; the cookie goes with the answer."""
        self._use.force(True)
        wait_for(self._guarded.destroy)

    @contextmanager
    def locked(self) -> Iterator[LockedSession]:
        """Hold the lock in this block, in a request that otherwise does not (a GET); saved and released at its end.

        Raises what opening and saving a locked session raises.
        """
        visit = self._find()
        block = visit.locked()
        wait_for(block.__aenter__)
        self._use.hold(visit)
        try:
            yield self._session
        except BaseException as error:
            wait_for(block.__aexit__, type(error), error, error.__traceback__)
            raise
        self._use.note_change()
        wait_for(block.__aexit__, None, None, None)
