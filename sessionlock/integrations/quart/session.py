"""``quart.session`` of one request or websocket, and what is done with it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask.sessions import SessionMixin

from ...errors import SessionLockError
from ...session.mapping import Session
from ..web.mapping import WebSession
from ..web.request_session import RunAgain, Visit

if TYPE_CHECKING:
    from .again import Run

__all__ = ["LockedSession", "Use", "use_of"]

log = logging.getLogger("sessionlock.web")


class LockedSession(WebSession, SessionMixin):
    """``quart.session`` of one request. It is loaded before the view, for nothing can be awaited in ``session["key"]``.

    One that could not be had raises why where it is touched first, so that views without a session go on. Once an
    answer is ready nothing here raises any more, for it would take the answer's place or break it off: neither for
    hooks that look into a session which could not be had, nor in a stream.
    """

    def __init__(self, use: Use) -> None:
        super().__init__()
        self._use = use

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether there was no such session when this request began."""
        self._live()
        return self._use.was_new

    @property
    def modified(self) -> bool:
        """Whether this request changed anything, however deep. Setting it sends the cookie, and renews the session."""
        return self._use.modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self._use.forced = value

    @property
    def accessed(self) -> bool:
        """Whether this request looked at its session."""
        visit = self._use.visit
        return self._use.looked or (visit is not None and visit.vary)

    @accessed.setter
    def accessed(self, value: bool) -> None:
        self._use.looked = value

    def _live(self) -> Session | None:
        if self._visit is None and not self._is_over:
            self._show_visit(self._use.instead())
            self._end()
        return super()._live()

    def _show_visit(self, visit: Visit | None) -> None:
        if visit is not None:
            self._visit, visit.mapping = visit, self
            self._show(visit.session)

    def _end(self) -> None:
        if self._visit is None:
            dict.clear(self)
        super()._end()

    def _too_late(self, key: object) -> None:
        if self._visit is None:
            log.warning("%s changed %r of a session that it could not have: that is not saved", self._use.label, key)
        super()._too_late(key)


class Use:
    """What a request does with its session. ``label``: the request's, see :func:`.rules.label_of`."""

    def __init__(self, label: str) -> None:
        self.label = label
        self.session = LockedSession(self)
        self.visit: Visit | None = None
        """None when it could not be opened."""
        self.run: Run | None = None
        """None: nobody runs it, and it cannot be run again (a request context of a test's own, say)."""
        self.forced = self.looked = self.was_new = False
        self._failure: SessionLockError | None = None
        self._instead: Visit | None = None
        self._was_modified = self._given_up = self._answering = self._left = False

    # --- it begins

    def opened(self, visit: Visit) -> None:
        self.visit = visit
        self.was_new = visit.session.new
        self.session._show_visit(visit)

    def failed(self, error: SessionLockError, instead: Visit | None) -> None:
        """It could not be opened. ``instead``: what can be read of it by who has been told; settled already."""
        self._failure, self._instead = error, instead

    def instead(self) -> Visit | None:
        """What is to be read of a session that could not be had, if anything is.

        Raises:
            SessionLockError: why not, while no answer is ready; to who has been told only where nothing is to be read.
        """
        assert self._failure is not None
        told, self.looked = self.looked, True
        if not self._answering and (not told or self._instead is None):
            raise self._failure
        return self._instead

    # --- what is asked about it

    @property
    def modified(self) -> bool:
        return self.forced or self._was_modified or self._differs()

    def _differs(self) -> bool:
        return self.visit is not None and not self._left and self.visit.session.modified

    @property
    def is_permanent(self) -> bool:
        """Without counting as a look at the session."""
        return self.visit is not None and bool(self.visit.session.peek("_permanent"))

    # --- it ends

    def give_up(self) -> None:
        """An error is being answered: nothing of this request is saved, whatever the answer's status will be."""
        self._given_up = self._answering = True

    def answer_is_ready(self) -> None:
        """From now on nothing raises because the session could not be had."""
        self._answering = True

    async def finish(self, *, failed: bool, live: Callable[[], float | None]) -> None:
        """The answer is ready: save and release.

        ``live``: gives what :meth:`.visit.Visit.finish` takes, whose errors are raised; the lock is released then, too.
        """
        self._answering = True
        visit = self.visit
        if visit is None or self._left:
            return
        try:
            self._was_modified = self._differs()
        except SessionLockError:
            self._was_modified = True  # what cannot be saved: saving tells
        self._left = True
        try:
            await visit.finish(failed=failed or self._given_up, live=live())
        except RunAgain:
            await visit.aclose()
            raise
        except BaseException as error:
            await visit.aclose(error)
            raise
        await visit.aclose()

    async def leave(self, error: BaseException | None) -> None:
        """The request is over, whatever became of it: release, without saving if nothing has saved yet."""
        visit, left = self.visit, self._left
        self._answering = self._left = True
        if visit is None:
            return
        if left:
            if visit.saved:
                visit.tell_unsaved()
            return
        try:
            await visit.aclose(error)
        except SessionLockError as trouble:
            log.warning("%s, after the request: %s", self.label, trouble)


def use_of(session: Any) -> Use | None:
    """None for a session that is none of ours."""
    return session._use if isinstance(session, LockedSession) else None
