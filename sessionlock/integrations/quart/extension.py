"""The extension: what an application calls."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Quart
from quart.sessions import SecureCookieSessionInterface

from ...errors import SessionLockError
from ...guard import SessionGuard
from ..flasklike import Settings, expect_no_other, mix_in
from ..settings.options import FaceOptions
from .application import EXTENSION, GuardedQuart
from .interface import SessionLockInterface

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SessionLock"]


class SessionLock:
    """The extension. Arguments win over ``app.config["SESSION_LOCK_…"]``, whose names are the same in capitals.

    ``guard_or_url`` (``SESSION_LOCK_URL``): a guard, or a URL for one of its own, which is closed as the application
    shuts down; None: that of :func:`sessionlock.configure`. ``guard``: the same by another name. How long sessions live
    is Quart's to say, at each request: ``PERMANENT_SESSION_LIFETIME`` and ``SESSION_REFRESH_EACH_REQUEST``, for cookie
    and record together. A guard's own ``SessionPolicy(idle=…)`` counts where it is shorter (and not the default), its
    ``absolute`` always. ``mode``, ``wait``, ``lease`` (policy or seconds), ``save_on_error``, ``body_limit``,
    ``on_conflict``: for all requests that neither a decorator nor ``routes`` (see :class:`.rules.Rules`) says anything
    else about. ``identity``: the keys that tell who is logged in; a change gives the session a new id. ``problems``:
    what errors of the session become; ``app.errorhandler(WaitTimedOut)`` and the like win over it. ``read_from``: where
    sessions are that visitors have already (:mod:`.takeover`). The cookie is Quart's (``SESSION_COOKIE_…``), only that
    ``SESSION_COOKIE_SAMESITE`` None means Lax here.

    Raises:
        ConfigurationError: a value that makes no sense; an application that has another session interface, or this one
            already.
    """

    def __init__(
        self,
        app: Quart | None = None,
        guard_or_url: SessionGuard | str | None = None,
        *,
        guard: SessionGuard | str | None = None,
        **options: Unpack[FaceOptions],
    ) -> None:
        self._guard_or_url = guard_or_url if guard_or_url is not None else guard
        self._settings = Settings(self._guard_or_url, options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Quart) -> None:
        """Put the locked session in the place of ``app``'s own.

        Raises:
            ConfigurationError: as above.
        """
        expect_no_other(app, SecureCookieSessionInterface, EXTENSION)
        interface = SessionLockInterface(app, self._guard_or_url, self._settings)
        app.session_interface = interface  # type: ignore[assignment]  # Quart declares the kind that it begins with
        app.extensions[EXTENSION] = interface
        app.register_error_handler(SessionLockError, interface.answer)
        app.before_serving(interface.begin_serving)
        app.after_serving(interface.end_serving)
        mix_in(app, GuardedQuart)
