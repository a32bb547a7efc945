"""What one request does with its session, and how far it is with it."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from ...errors import SessionLockError
from ..web.request_session import RequestSession, RunAgain

__all__ = ["Phase", "Use", "only_read"]


class Phase(IntEnum):
    """A request only moves down."""

    HANDLED = 0
    """The view may use its session; what goes wrong is raised."""
    ANSWERED = 1
    """An answer is ready, or being made of an error: nothing raises any more because the session could not be had."""
    LEFT = 2
    """The session was saved and released, or is only read."""


class Use:
    """One request's."""

    def __init__(self) -> None:
        self.phase: Phase = Phase.HANDLED
        self.visit: RequestSession | None = None
        """None while it is not opened, and where it could not be."""
        # What the session is asked about, also when nothing differs any more.
        self.forced: bool = False
        self.was_new: bool = False
        self.was_permanent: bool = False
        self._was_modified = False
        # Nothing of this request is to be saved, whatever its answer's status is.
        self._given_up = False

    def opened(self, visit: RequestSession) -> None:
        self.visit = visit
        self.was_new = visit.session.new
        self.was_permanent = self.is_permanent

    # --- what is asked about it

    @property
    def modified(self) -> bool:
        """Whether this request changed anything, however deep."""
        return self.forced or self._was_modified or self.differs

    @property
    def differs(self) -> bool:
        return self.visit is not None and self.phase < Phase.LEFT and self.visit.session.modified

    @property
    def is_permanent(self) -> bool:
        """Without counting as a look at the session."""
        return self.visit is not None and bool(self.visit.session.peek("_permanent"))

    def force(self, modified: bool) -> None:
        """Somebody said ``session.modified = …``."""
        self.forced = modified

    # --- it ends

    def note_change(self) -> None:
        """Before a save, after which nothing differs any more."""
        try:
            self._was_modified = self.modified
        except SessionLockError:
            self._was_modified = True  # what cannot be saved: saving tells

    def give_up(self) -> None:
        """The view ended in the middle, by an error that is being answered: nothing is saved."""
        self._given_up = True
        self.answer_is_ready()

    def answer_is_ready(self) -> None:
        """From now on nothing of ours may spoil it."""
        self.phase = max(self.phase, Phase.ANSWERED)

    def only_reads(self) -> None:
        """Nothing is saved from now on."""
        self.phase = Phase.LEFT

    def to_be_settled(self) -> RequestSession | None:
        """The answer is complete: what is to be saved now, by :meth:`settle`; None for nothing."""
        visit = self.visit if self.phase < Phase.LEFT else None
        if visit is not None:
            self.note_change()
        self.phase = Phase.LEFT
        return visit

    async def settle(self, visit: RequestSession, failed: bool, live: Callable[[], float | None]) -> None:
        """Save and release. ``live``: gives what :meth:`.RequestSession.finish` takes.

        Raises what that raises, and what ``live`` does; the lock is released then, too.
        """
        try:
            await visit.finish(failed=failed or self._given_up, live=live())
        except RunAgain:
            await visit.aclose()
            raise
        except BaseException as error:
            await visit.aclose(error)
            raise
        await visit.aclose()

    def to_be_closed(self) -> RequestSession | None:
        """The request is over, whatever became of it: what holds its lock still; None for nothing."""
        visit, left = self.visit, self.phase is Phase.LEFT
        self.phase = Phase.LEFT
        if visit is not None and left and visit.saved:
            visit.tell_unsaved()
        return None if left else visit


async def only_read(visit: RequestSession) -> None:
    async with visit:
        visit.settle_as_snapshot("belongs to a request that is answered already")
