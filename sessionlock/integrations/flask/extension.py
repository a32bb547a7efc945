"""``SessionLock(app)``: the extension."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from ...blocking.guard import SessionGuard as BlockingGuard
from ...errors import SessionLockError
from ...guard import SessionGuard
from ..flasklike import Settings, expect_no_other
from ..settings.options import FaceOptions
from .application import EXTENSION, guard_application
from .interface import SessionLockInterface

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SessionLock"]


class SessionLock:
    """The extension. Arguments win over ``app.config["SESSION_LOCK_…"]``, whose names are the same in capitals.

    ``guard_or_url`` (``SESSION_LOCK_URL``): a guard of either face, or a URL for one of its own; None: that of
    :func:`sessionlock.configure`. How long sessions live is Flask's to say, at each request:
    ``PERMANENT_SESSION_LIFETIME`` and ``SESSION_REFRESH_EACH_REQUEST``, for cookie and record together. A guard's own
    ``SessionPolicy(idle=…)`` counts where it is shorter (and not the default), its ``absolute`` always.
    ``mode``, ``wait``, ``lease`` (policy or seconds), ``save_on_error``, ``body_limit``, ``on_conflict``: for all
    requests that neither a decorator nor ``routes`` (see :class:`.rules.Rules`) says anything else about.
    ``identity``: the keys that tell who is logged in; a change gives the session a new id. ``problems``: what errors of
    the session become; ``app.errorhandler(WaitTimedOut)`` and the like win over it.
    ``read_from``: where sessions are that visitors have already (:mod:`.takeover`). The cookie is Flask's
    (``SESSION_COOKIE_…``), only that ``SESSION_COOKIE_SAMESITE`` None means Lax here.

    Raises:
        ConfigurationError: a value that makes no sense; an application that has another session interface, or this one
            already.
    """

    def __init__(
        self,
        app: Flask | None = None,
        guard_or_url: SessionGuard | BlockingGuard | str | None = None,
        **options: Unpack[FaceOptions],
    ) -> None:
        self._guard_or_url = guard_or_url
        self._settings = Settings(self._guard_or_url, options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Put the locked session in the place of ``app``'s own.

        Raises:
            ConfigurationError: as above.
        """
        expect_no_other(app, SecureCookieSessionInterface, EXTENSION)
        interface = SessionLockInterface(app, self._guard_or_url, self._settings)
        app.session_interface = interface
        app.extensions[EXTENSION] = interface
        app.teardown_request(interface.teardown)
        app.register_error_handler(SessionLockError, interface.answer)
        guard_application(app)
        weakref.finalize(app, interface.app_is_gone).atexit = False
