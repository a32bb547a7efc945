"""``SessionLock(app)``: the extension."""

from __future__ import annotations

import weakref

from flask import Flask
from flask.sessions import SecureCookieSessionInterface

from ...blocking.guard import SessionGuard as BlockingGuard
from ...errors import SessionLockError
from ...guard import SessionGuard
from ..flask_family.application import EXTENSION, Extension, expect_no_other
from ..flask_family.command import add_command
from .application import guard_application
from .interface import SessionLockInterface

__all__ = ["SessionLock"]


class SessionLock(Extension[Flask, SessionGuard | BlockingGuard]):
    """Flask's :class:`.Extension`. A guard may be one of either face."""

    def init_app(self, app: Flask) -> None:
        expect_no_other(app, SecureCookieSessionInterface)
        interface = SessionLockInterface(app, self._settings)
        app.session_interface = interface
        app.extensions[EXTENSION] = interface
        app.teardown_request(interface.teardown)
        app.register_error_handler(SessionLockError, interface.answer)
        guard_application(app)
        add_command(app)
        weakref.finalize(app, interface.app_is_gone).atexit = False
