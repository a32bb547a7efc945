"""``flask.session`` of one request."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

from flask.sessions import SessionMixin

from ...errors import LeaseLost, LockNotAcquired, RedisUnavailable, ReentrantLock, SessionLockError
from ...selfcalls.nesting import Held
from ...session.mapping import Session
from ..web.mapping import WebSession
from ..web.request_session import RunAgain, Visit
from .handle import GuardedSession
from .waiting import wait_for

__all__ = ["LockedSession"]

log = logging.getLogger("sessionlock.web")


class LockedSession(WebSession, SessionMixin):
    """``flask.session`` of one request. What touches it first locks and loads it.

    Once an answer is ready nothing here raises any more, for it would take the answer's place or break it off: neither
    for hooks that look into a session which could not be had, nor in a stream.
    """

    accessed = False

    def __init__(self, begin: Callable[[bool], Visit]) -> None:
        """``begin``: makes the visit; with True one that only reads and never waits."""
        super().__init__()
        self._begin = begin
        self._opening = threading.RLock()
        self._held: Held | None = None
        self._failure: SessionLockError | None = None
        self._context: weakref.ref[Any] | None = None
        self._forced = False
        self._was_modified = False
        self._was_new = self._was_permanent = False
        self._failed = False
        self._answered = False
        self._left = False

    # --- Flask's conventions

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether there was no such session when this request touched it."""
        self._live()
        return self._was_new

    @property
    def modified(self) -> bool:
        """Whether this request changed anything, however deep. Setting it sends the cookie, and renews the session."""
        return self._forced or self._was_modified or self._differs()

    @modified.setter
    def modified(self, value: bool) -> None:
        self._forced = value
        if value:
            self._live()

    @property
    def sessionlock(self) -> GuardedSession:
        """What it has beside its data: ``sid``, ``lease``, ``save()``, ``regenerate()``, ``destroy()`` ..."""
        return GuardedSession(self, self._opened)

    # --- the visit

    def _live(self) -> Session | None:
        if self._visit is None and not self._is_over:
            with self._opening:
                if self._visit is None and not self._is_over:
                    self._open_or_do_without()
        session = super()._live()
        lease = session.lease if session is not None else None
        if lease is not None and lease.is_lost and not lease.released and not self._failed and self._differs():
            raise LeaseLost(lease.why_lost())  # a thread cannot be cancelled: it is told at the next use
        return session

    def _opened(self) -> Visit:
        self._live()
        if self._visit is None:
            assert self._failure is not None
            raise self._failure
        return self._visit

    def _open_or_do_without(self) -> None:
        self.accessed = True
        if not self._answered:
            self._visit = self._open()
            return
        try:
            self._visit = self._open()
        except SessionLockError as error:
            self._failure = error
            level = logging.DEBUG if isinstance(error, RedisUnavailable) else logging.WARNING  # an outage is told once
            log.log(level, "after the answer was ready, a session could not be read and is empty: %s", error)
        self._end()

    def _end(self) -> None:
        if self._visit is None:
            dict.clear(self)
        super()._end()

    def _open(self) -> Visit:
        if self._failure is not None and not self._may_still_read(self._failure):
            raise self._failure
        if self._answered or self._failure is not None:
            visit = self._begin(True)
            wait_for(_only_read, visit)
            self._left = True
            return self._keep(visit)
        visit = self._begin(False)
        try:
            wait_for(visit.open)
        except SessionLockError as error:
            self._failure = error
            raise
        self._hold(visit)
        return self._keep(visit)

    def _keep(self, visit: Visit) -> Visit:
        visit.mapping = self
        self._was_new, self._was_permanent = visit.session.new, bool(visit.session.peek("_permanent"))
        return visit

    @staticmethod
    def _may_still_read(failure: SessionLockError) -> bool:
        """The error's page may greet the user by name; it must not wait for the lock once more."""
        return isinstance(failure, (LockNotAcquired, ReentrantLock))

    def _hold(self, visit: Visit) -> None:
        """The loop's context knows what this request holds; calls that this view makes must find it in the view's."""
        lease = visit.session.lease
        if lease is not None and self._held is None:
            self._held = Held(visit.guard, visit.session.sid, lambda: not lease.released, "this view")
            self._held.enter()

    def _note_change(self) -> None:
        """Before a save, after which nothing differs any more."""
        self._was_modified = self._forced or self._was_modified or self._differs_somehow()

    def _differs_somehow(self) -> bool:
        try:
            return self._differs()
        except SessionLockError:
            return True  # what cannot be saved: saving tells

    def _differs(self) -> bool:
        return self._visit is not None and not self._left and self._visit.session.modified

    # --- for the interface: the beginning and the end

    def _begin_in(self, context: Any) -> None:
        """It belongs to the request that this context of Flask's is for."""
        self._context = weakref.ref(context)

    def _began_in(self, context: Any) -> bool:
        """Whether that very context: a copy of it, for another thread, may end earlier than the request itself."""
        return self._context is not None and self._context() is context

    @property
    def _is_permanent(self) -> bool:
        """:attr:`permanent`, without counting as a look at the session."""
        if self._visit is None or self._is_over:
            return bool(dict.get(self, "_permanent", False))
        return bool(self._visit.session.peek("_permanent"))

    def _give_up(self) -> None:
        """Nothing of this request is to be saved, whatever the answer's status will be."""
        self._failed = True

    def _answer_is_ready(self) -> None:
        """From now on nothing raises: who has not touched the session yet gets what can be read without waiting."""
        if self._visit is None:
            self._answered = True

    def _finish(self, *, failed: bool, live: Callable[[], float | None]) -> Visit | None:
        """The answer is ready: save and release. None: the session was never touched.

        ``live``: gives what :meth:`.visit.Visit.finish` takes, whose errors are raised; the lock is released then, too.
        """
        visit = self._visit
        if visit is not None and not self._left and not self._answered:
            self._was_modified = self._forced or self._was_modified or self._differs_somehow()
            self._left = self._answered = True
            try:
                wait_for(_settle, visit, failed or self._failed, live(), cancel=False)
            finally:
                self._let_go()
        self._answered = True
        return visit

    def _renew(self, visit: Visit, live: float) -> bool:
        """For a request that has not touched it, of a visitor who only follows links: renew a permanent session.

        Whether it is one. Raises as :meth:`_finish`.
        """
        self._left = self._answered = True
        try:
            wait_for(_ask_and_renew, visit, live, cancel=False)
        except SessionLockError as error:
            self._failure = error
            raise
        self._visit = visit
        visit.mapping = self
        self._end()
        return self._is_permanent

    def _leave(self, error: BaseException | None) -> None:
        """The request is over, whatever became of it: release, without saving if nothing has saved yet."""
        visit, answered = self._visit, self._answered
        self._answered = True
        if visit is None:
            return
        if self._left or answered:
            if visit.saved:
                visit.tell_unsaved()
            return
        self._left = True
        try:
            wait_for(visit.aclose, error, cancel=False)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.leave()
            self._held = None


async def _only_read(visit: Visit) -> None:
    async with visit:
        visit.settle_as_snapshot("belongs to a request that is answered already")


async def _ask_and_renew(visit: Visit, live: float) -> None:
    async with visit:
        if visit.session.peek("_permanent"):
            await visit.finish(live=live)


async def _settle(visit: Visit, failed: bool, live: float | None) -> None:
    """Both in one visit to the loop's thread: after the save there is nothing left to wait for."""
    try:
        await visit.finish(failed=failed, live=live)
    except RunAgain:
        await visit.aclose()
        raise
    except BaseException as error:
        await visit.aclose(error)
        raise
    await visit.aclose()
