"""``flask.session`` of one request."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ...errors import LeaseLost, RedisUnavailable, SessionLockError
from ...selfcalls.nesting import Held, hold_here
from ...session.mapping import Session
from ..flask_family.session import FamilySession, show, use_of
from ..flask_family.use import Phase, Use, only_read
from ..web.problems import may_still_read
from ..web.request_session import RequestSession
from .handle import GuardedSession
from .waiting import wait_for

__all__ = ["FlaskUse", "LockedSession", "renew"]

log: logging.Logger = logging.getLogger("sessionlock.web")


class FlaskUse(Use):
    """What one request of Flask's does with its session, by threads that wait.

    ``begin``: makes the visit; with True one that only reads and never waits.
    """

    def __init__(self, begin: Callable[[bool], RequestSession]) -> None:
        super().__init__()
        self.opening: AbstractContextManager[object] = threading.RLock()
        self._begin = begin
        self._failure: SessionLockError | None = None
        self._held: Held | None = None
        self._context: weakref.ref[Any] | None = None

    def open(self) -> RequestSession:
        """Lock and load. Once the lock was refused, or an answer is ready, only read, without waiting.

        Raises:
            SessionLockError: the session cannot be had; the same one each time.
        """
        if self._failure is not None and not may_still_read(self._failure):
            raise self._failure
        reads = self._failure is not None or self.phase is not Phase.HANDLED
        visit = self._begin(reads)
        if reads:
            wait_for(only_read, visit)
            self.only_reads()
        else:
            try:
                wait_for(visit.open)
            except SessionLockError as error:
                self._failure = error
                raise
            self.hold(visit)
        self.opened(visit)
        return visit

    def do_without(self, failure: SessionLockError) -> None:
        """The session is empty for who looks into it from now on."""
        self._failure = failure

    def had(self) -> RequestSession:
        """The visit.

        Raises:
            SessionLockError: why there is none.
        """
        if self.visit is None:
            assert self._failure is not None
            raise self._failure
        return self.visit

    def check_lease(self, lease: Any) -> None:
        """A thread cannot be cancelled: that its lock was lost, and with it what it changed, is told at the next use.

        Raises:
            LeaseLost: so it is.
        """
        if lease.is_lost and not lease.released and not self._given_up and self.differs:
            raise LeaseLost(lease.why_lost())

    def hold(self, visit: RequestSession) -> None:
        """The loop's context knows what this request holds; calls that this view makes must find it in the view's."""
        if self._held is None:
            self._held = hold_here(visit.guard, visit.session, "this view")

    # --- for the interface: the beginning and the end

    def begin_in(self, context: Any) -> None:
        """It belongs to the request that this context of Flask's is for."""
        self._context = weakref.ref(context)

    def began_in(self, context: Any) -> bool:
        """Whether that very context: a copy of it, for another thread, may end earlier than the request itself."""
        return self._context is not None and self._context() is context

    def finish(self, *, failed: bool, live: Callable[[], float | None]) -> None:
        """The answer is ready: save and release. Arguments and errors as :meth:`settle` has them."""
        visit = self.to_be_settled()
        if visit is not None:
            try:
                wait_for(self.settle, visit, failed, live, cancel=False)
            finally:
                self._let_go()

    def leave(self, error: BaseException | None) -> None:
        """The request is over, whatever became of it: release, without saving if nothing has saved yet."""
        visit = self.to_be_closed()
        if visit is not None:
            try:
                wait_for(visit.aclose, error, cancel=False)
            finally:
                self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.leave()
            self._held = None


class LockedSession(FamilySession[FlaskUse]):
    """``flask.session`` of one request. What touches it first locks and loads it."""

    accessed: bool = False

    @property
    def modified(self) -> bool:
        return super().modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self._use.force(value)
        if value:
            self._live()

    @property
    def sessionlock(self) -> GuardedSession:
        """What it has beside its data: ``sid``, ``lease``, ``save()``, ``regenerate()``, ``destroy()`` ..."""
        return GuardedSession(self, self._use, self._opened)

    # --- the visit

    def _live(self) -> Session | None:
        if self._visit is None and not self._is_over:
            with self._use.opening:
                if self._visit is None and not self._is_over:
                    self._open_or_do_without()
        session = super()._live()
        if session is not None and session.lease is not None:
            self._use.check_lease(session.lease)
        return session

    def _opened(self) -> RequestSession:
        self._live()
        return self._use.had()

    def _open_or_do_without(self) -> None:
        self.accessed = True
        is_answered = self._use.phase is not Phase.HANDLED
        visit = None
        try:
            visit = self._use.open()
        except SessionLockError as error:
            if not is_answered:
                raise
            self._use.do_without(error)
            level = logging.DEBUG if isinstance(error, RedisUnavailable) else logging.WARNING  # an outage is told once
            log.log(level, "after the answer was ready, a session could not be read and is empty: %s", error)
        show(self, visit, ends=is_answered)


def renew(session: LockedSession, visit: RequestSession, live: float) -> bool:
    """For a request that has not touched it, of a visitor who only follows links: renew a permanent session.

    Whether it is one. Raises what opening and saving raise.
    """
    use = use_of(session)
    use.only_reads()
    try:
        wait_for(_ask_and_renew, visit, live, cancel=False)
    except SessionLockError as error:
        use.do_without(error)
        raise
    use.opened(visit)
    show(session, visit, ends=True)
    return use.is_permanent


async def _ask_and_renew(visit: RequestSession, live: float) -> None:
    async with visit:
        if visit.session.peek("_permanent"):
            await visit.finish(live=live)
