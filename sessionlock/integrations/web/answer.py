"""What the answer of one request tells the browser of its session: a new id, to forget it, or nothing."""

from __future__ import annotations

from ...session.mapping import Session
from ...views.cookies import CookieSettings

__all__ = ["CookieAnswer"]


class CookieAnswer:
    """Known once the session is settled. ``told``: the id that the browser has.

    ``saved``: the request was not refused. ``gone``: the session is no more. ``by_old_id``: the request came with an id
    that has been replaced. ``rolled``: the cookie may be sent again, for the record's life began anew and the id is
    the current one.
    """

    def __init__(self, cookie: CookieSettings, told: str | None, https: bool) -> None:
        self.cookie = cookie
        self.told = told
        self.https = https
        # The session as it is now: a login or a logout begins another.
        self._session: Session
        # What became of it, noted as the request goes on.
        self._accessed = self._has_ended = self._told_late = False
        self.gone: bool = False
        self.saved: bool = False
        self.by_old_id: bool = False
        self.rolled: bool = False

    def about(self, session: Session) -> None:
        """From now on it tells of ``session``."""
        self._session = session

    def note(self, **noted: bool) -> None:
        """Set ``gone``, ``saved``, ``by_old_id`` or ``rolled``."""
        for name, value in noted.items():
            setattr(self, name, value)

    def note_access(self) -> None:
        """Before the session is closed or replaced: whether it was used."""
        self._accessed |= self._session.accessed

    def note_end(self) -> None:
        """The handler has ended the session, and may begin another."""
        self._has_ended = True

    def note_discarded(self) -> None:
        """Nothing of the request is saved."""
        self.note_access()
        self.gone |= self._session.destroyed or self._has_ended

    def note_kept(self) -> None:
        """What the request did has taken effect."""
        self.gone = self._session.happened.ended or (self._has_ended and self._session.new)

    def is_first_late_change(self) -> bool:
        """True once: for the first change that came when nothing is saved any more."""
        told, self._told_late = self._told_late, True
        return not told

    @property
    def new_sid(self) -> str | None:
        """The id for the cookie: of a new session, a regenerated one, or the same once more (rolling)."""
        if self.gone or self._session.new:
            return None
        if self._session.sid != self.told or (
            self.cookie.rolling and self.cookie.max_age is not None and self.may_tell_again
        ):
            return self._session.sid
        return None

    @property
    def may_tell_again(self) -> bool:
        """Whether the id that the browser has may be sent once more: it lives on with the record, and is current."""
        return self.rolled and self.saved and not self.by_old_id

    @property
    def has_new_id(self) -> bool:
        """Whether :attr:`new_sid` is another one than the request came with."""
        return self.new_sid not in (None, self.told)

    @property
    def clears_cookie(self) -> bool:
        """The session is no more, and the browser should forget its id."""
        return self.gone and self.told is not None

    @property
    def set_cookie(self) -> str | None:
        """The value for a Set-Cookie header, None for no such header."""
        if self.clears_cookie:
            return self.cookie.render_deletion(https=self.https)
        sid = self.new_sid
        return None if sid is None else self.cookie.render(sid, https=self.https)

    @property
    def vary(self) -> bool:
        """Whether the answer depends on the session, so that a cache must be told ``Vary: Cookie``."""
        return self._accessed or self.set_cookie is not None
