"""``flask.session.sessionlock``: what a locked session has beside its data."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ...blocking.session import Moments
from ...session.mapping import Session
from .waiting import wait_for

if TYPE_CHECKING:
    from ..web.request_session import RequestSession
    from .session import FlaskUse, LockedSession

__all__ = ["GuardedSession"]

T = TypeVar("T")


class GuardedSession(Moments):
    """:class:`sessionlock.Session` as a view sees it. A login needs no ``regenerate()``: a change of who is logged in
    does it by itself. After ``destroy()`` the cookie goes with the answer.
    """

    def __init__(self, session: LockedSession, use: FlaskUse, find: Callable[[], RequestSession]) -> None:
        self._session = session
        self._use = use
        self._find = find

    @property
    def core(self) -> Session:
        return self._find().session

    def _wait_for(self, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        self._use.note_change()
        return wait_for(work, *args)

    def incr(self, key: str, by: int = 1) -> int:
        self._use.force(True)
        return super().incr(key, by)

    def destroy(self) -> None:
        self._use.force(True)
        super().destroy()

    def identity_changed(self) -> None:
        """Somebody logged in, and no key of the session tells: it gets a new id when it is saved."""
        self._find().identity_changed()
        self._use.force(True)

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
