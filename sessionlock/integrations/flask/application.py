"""The few places of a Flask application that a session interface does not reach."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Response

from ...errors import SessionLockError
from ..flask_family.application import EXTENSION, mix_in

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .interface import SessionLockInterface

__all__ = ["guard_application"]


class GuardedFlask(Flask):
    """What an application is from ``init_app`` on, beside its own class.

    A class and no wrapper around ``app.wsgi_app``: a wrapper that keeps the application alive would be a reference
    cycle with it, and one that does not would be left alone where only ``app.wsgi_app`` is handed on. Who wraps
    ``app.wsgi_app`` (ProxyFix, DispatcherMiddleware), before or after, wraps this.
    """

    @property
    def _guarded_by(self) -> SessionLockInterface:
        return cast("SessionLockInterface", self.extensions[EXTENSION])

    def wsgi_app(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Run a request; a safe one whose session met a conflict once more, before anything of it is sent."""
        return self._guarded_by.run(self, super().wsgi_app, environ, start_response)

    # Flask 3.2 gives these a context as first argument.

    def handle_user_exception(self, *args: Any) -> Any:
        """As Flask's; from here on a session that could not be had is no error any more."""
        self._guarded_by.is_being_answered(args[-1])
        return super().handle_user_exception(*args)

    def handle_exception(self, *args: Any) -> Response:
        """As Flask's; the session may have been touched first before there was a view (by a URL converter), or after it
        (by a hook, an extension's): that is answered through the hooks, too.
        """
        if isinstance(args[-1], SessionLockError):
            try:
                answer = self.handle_user_exception(*args)
            except Exception:
                return super().handle_exception(*args)  # a mistake in the program
            finalize: Any = self.finalize_request
            return cast(Response, finalize(*args[:-1], answer, from_error_handler=True))
        return super().handle_exception(*args)

    def process_response(self, *args: Any) -> Response:
        """As Flask's, with hooks that do not spoil an error's answer."""
        if args[-1].status_code >= 500:
            self._guarded_by.answer_is_ready()
        return super().process_response(*args)


def guard_application(app: Flask) -> None:
    """Make ``app`` a :class:`GuardedFlask`, which is still of its own class."""
    mix_in(app, GuardedFlask)
    if "wsgi_app" in vars(app):  # it wraps the method of the class that the application had before
        cast(Any, app).wsgi_app = partial(_run, cast("GuardedFlask", app), app.wsgi_app)


def _run(
    app: GuardedFlask, wrapped: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse
) -> Iterable[bytes]:
    return app._guarded_by.run(app, wrapped, environ, start_response)
