"""The extension: what an application calls."""

from __future__ import annotations

from quart import Quart
from quart.sessions import SecureCookieSessionInterface

from ...errors import SessionLockError
from ...guard import SessionGuard
from ..flask_family.application import EXTENSION, Extension, expect_no_other, mix_in
from ..flask_family.command import add_command
from .application import GuardedQuart
from .interface import SessionLockInterface

__all__ = ["SessionLock"]


class SessionLock(Extension[Quart, SessionGuard]):
    """Quart's :class:`.Extension`."""

    def init_app(self, app: Quart) -> None:
        expect_no_other(app, SecureCookieSessionInterface)
        interface = SessionLockInterface(app, self._settings)
        app.session_interface = interface  # type: ignore[assignment]  # Quart declares the kind that it begins with
        app.extensions[EXTENSION] = interface
        app.register_error_handler(SessionLockError, interface.answer)
        app.before_serving(interface.begin_serving)
        app.after_serving(interface.end_serving)
        mix_in(app, GuardedQuart)
        add_command(app)
