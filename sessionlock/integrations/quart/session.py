"""``quart.session`` of one request or websocket, and what is done with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...errors import SessionLockError
from ...session.mapping import Session
from ..flask_family.session import FamilySession, show, use_of
from ..flask_family.use import Phase, Use
from ..web.naming import RouteName
from ..web.request_session import RequestSession

if TYPE_CHECKING:
    from .again import QuartRun

__all__ = ["LockedSession", "QuartUse", "ours"]

log: logging.Logger = logging.getLogger("sessionlock.web")


class QuartUse(Use):
    """What one request or websocket of Quart's does with its session. ``name``: its route. ``run`` None:
    nobody runs it, and it cannot be run again (a request context of a test's own, say).
    """

    def __init__(self, name: RouteName, run: QuartRun | None) -> None:
        super().__init__()
        self._name = name
        self.run = run
        self.session: LockedSession = LockedSession(self)
        self.looked: bool = False
        """Somebody looked at the session, or said ``session.accessed = True``."""
        # Where it could not be opened: why, and what can be read of it by who has been told; settled already.
        self._failure: SessionLockError | None = None
        self._instead: RequestSession | None = None
        if run is not None:
            run.begin(self)

    @property
    def label(self) -> str:
        """The route, for the log."""
        return str(self._name)

    def opened(self, visit: RequestSession) -> None:
        super().opened(visit)
        show(self.session, visit)

    def failed(self, error: SessionLockError, instead: RequestSession | None) -> None:
        self._failure, self._instead = error, instead

    def instead(self) -> RequestSession | None:
        """What is to be read of a session that could not be had, if anything is.

        Raises:
            SessionLockError: why not, while no answer is ready; to who has been told only where nothing is to be read.
        """
        assert self._failure is not None
        told, self.looked = self.looked, True
        if self.phase is Phase.HANDLED and (not told or self._instead is None):
            raise self._failure
        return self._instead

    async def finish(self, *, failed: bool, live: Callable[[], float | None]) -> None:
        """The answer is ready: save and release. Arguments and errors as :meth:`settle` has them."""
        visit = self.to_be_settled()
        if visit is not None:
            await self.settle(visit, failed, live)

    async def leave(self, error: BaseException | None) -> None:
        """The request is over, whatever became of it: release, without saving if nothing has saved yet."""
        visit = self.to_be_closed()
        if visit is not None:
            try:
                await visit.aclose(error)
            except SessionLockError as trouble:
                log.warning("%s, after the request: %s", self.label, trouble)


class LockedSession(FamilySession[QuartUse]):
    """``quart.session`` of one request. It is loaded before the view, for nothing can be awaited in ``session["key"]``.

    One that could not be had raises why where it is touched first, so that views without a session go on.
    """

    @property
    def accessed(self) -> bool:
        """Whether this request looked at its session."""
        visit = self._use.visit
        return self._use.looked or (visit is not None and visit.answer.vary)

    @accessed.setter
    def accessed(self, value: bool) -> None:
        self._use.looked = value

    def _live(self) -> Session | None:
        if self._visit is None and not self._is_over:
            show(self, self._use.instead(), ends=True)
        return super()._live()

    def _too_late(self, key: object) -> None:
        if self._visit is None:
            log.warning("%s changed %r of a session that it could not have: that is not saved", self._use.label, key)
        super()._too_late(key)


def ours(session: Any) -> QuartUse | None:
    """None for a session that is none of ours."""
    return use_of(session) if isinstance(session, LockedSession) else None
