"""``session`` of one request, as the frameworks' documentation has it."""

from __future__ import annotations

from typing import Generic, TypeVar

from flask.sessions import SessionMixin

from ..web.mapping import WebSession
from ..web.request_session import RequestSession
from .use import Use

__all__ = ["FamilySession", "show", "use_of"]

AnyUse = TypeVar("AnyUse", bound=Use)


class FamilySession(WebSession, SessionMixin, Generic[AnyUse]):
    """A dict with ``permanent``, ``modified``, ``new`` and ``accessed``.

    Once an answer is ready nothing here raises any more, for it would take the answer's place or break it off: neither
    for hooks that look into a session which could not be had, nor in a stream.
    """

    def __init__(self, use: AnyUse) -> None:
        super().__init__()
        self._use = use

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether there was no such session when this request came to it."""
        self._live()
        return self._use.was_new

    @property
    def modified(self) -> bool:
        """Whether this request changed anything, however deep. Setting it sends the cookie, and renews the session."""
        return self._use.modified

    @modified.setter
    def modified(self, value: bool) -> None:
        self._use.force(value)

    def _stand_for(self, visit: RequestSession | None, ends: bool) -> None:
        if visit is not None:
            self._visit = visit
            visit.show_in(self)
            self._show(visit.session)
        if ends:
            self._end()

    def _end(self) -> None:
        if self._visit is None:
            dict.clear(self)
        super()._end()


def use_of(session: FamilySession[AnyUse]) -> AnyUse:
    return session._use


def show(session: FamilySession[AnyUse], visit: RequestSession | None, *, ends: bool = False) -> None:
    """From now on ``session`` shows what this visit is about. ``ends``: and is a dict and nothing more; None: an empty
    one.
    """
    session._stand_for(visit, ends)
