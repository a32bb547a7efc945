"""Flask's hooks for sessions."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from flask import Flask, Request, Response
from flask import request as current_request
from flask.globals import request_ctx
from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionInterface, SessionMixin, session_json_serializer

from ...blocking.guard import SessionGuard as BlockingGuard
from ...blocking.guard import blocking_guard
from ...blocking.portal import portal
from ...errors import ConfigurationError, SessionLockError
from ...guard import SessionGuard
from ...selfcalls.sockets import client_of_environ
from ...session.block import digest_of
from ..flask_family.answers import become
from ..flask_family.application import AppSettings, expect_still_there
from ..flask_family.hooks import SessionHooks
from ..flask_family.session import use_of
from ..web.learning import Remembered
from ..web.naming import NO_ROUTE, label_of
from ..web.problems import tell
from ..web.request_session import RequestSession, RunAgain
from ..web.rules import RoutePolicy
from .again import FlaskRun, prepare_body, receive_body, run_request
from .session import FlaskUse, LockedSession, renew

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["SessionLockInterface"]

log: logging.Logger = logging.getLogger("sessionlock.web")

MOST = 10_000  # sessions that are known not to be permanent
LONGEST = 60.0  # seconds for which that is believed
SESSION = "sessionlock.session"  # in a request's environ
OPENED = "_sessionlock_session"  # in a request context


class SessionLockInterface(SessionHooks, SessionInterface):
    """What stands in ``app.session_interface``. Its guard is made when a session is touched first."""

    session_class = LockedSession
    serializer: TaggedJSONSerializer = session_json_serializer
    """What it takes, a session takes; ``register()`` tags for types of your own, as in Flask."""

    def __init__(self, app: Flask, settings: AppSettings) -> None:
        super().__init__(app, settings)
        self._app = weakref.ref(app)  # which has this one: many short-lived applications must not be kept by a cycle
        # Sessions that are known not to be permanent: a request which does not use its session need not ask again.
        self._temporary = Remembered(MOST)

    # --- the guard

    @property
    def guard(self) -> SessionGuard:
        """The guard of all sessions of this application, for the loop of the thread face."""
        guard = self._guard
        if guard is None:
            app = self._app()
            assert app is not None
            guard = self._find_guard(app, _for_threads)
        portal().guards.add(guard)
        if self.settings.origin is not None:
            portal().guards.add(self.settings.origin)
        return guard

    def _guard_for(self, app: Flask) -> SessionGuard:
        return self.guard

    def app_is_gone(self) -> None:
        """The connections of its own guard, and to the old sessions, go with it."""
        guard, self._guard = self._guard, None
        if guard is None:
            return  # no session was touched
        if self.settings.origin is not None:
            portal().begin(self.settings.origin.aclose)
        if self._owns_guard:
            portal().begin(guard.aclose)

    # --- Flask's hooks

    def open_session(self, app: Flask, request: Request) -> LockedSession:
        use = FlaskUse(partial(self._begin, app, request))
        session = self.session_class(use)
        context: Any = cast(Any, request_ctx)._get_current_object()
        if OPENED not in vars(context):  # a test's session_transaction() opens a second one, and saves it by itself
            setattr(context, OPENED, session)
            use.begin_in(context)
            request.environ[SESSION] = session
        if FlaskRun.of(request.environ, self) is None:
            prepare_body(request.environ)
        return session

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        session = cast(LockedSession, session)
        use = use_of(session)
        try:
            use.finish(failed=response.status_code >= 500, live=partial(self._live, app, use))
        except RunAgain:
            response.close()  # nobody will read it: a stream has to give its context up
            raise
        except SessionLockError as error:
            become(response, app.make_response(app.handle_user_exception(error)))
        visit = use.visit
        if visit is None and response.status_code < 500:
            visit = self._renewed(app, session)
        elif visit is not None and visit.saved:
            self._note(visit.session.sid, use.is_permanent, visit.lifetime.idle)
        self._tell_headers(app, session, visit, response)

    def teardown(self, error: BaseException | None) -> None:
        """For ``teardown_request``, which is called in any case."""
        context = cast(Any, request_ctx)._get_current_object()
        use = _use_in(context)
        if use is not None and use.began_in(context):
            try:
                use.leave(error)
            except SessionLockError as trouble:
                context.app.logger.warning("sessionlock, after the request: %s", trouble)

    def answer(self, error: SessionLockError) -> Response:
        """The error handler: the problem that ``error`` is for the client; a mistake in the program is raised."""
        problem = self.settings.problems.answer(error, current_request.headers.get("Accept"))
        if problem is None:
            raise error
        use = _use_in(request_ctx)
        if use is not None:
            use.give_up()
        return Response(problem.content(), problem.status, problem.headers())

    # --- for the application's class

    def run(
        self,
        app: Flask,
        application: Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]],
        environ: WSGIEnvironment,
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        """One request, run twice if need be.

        Raises:
            ConfigurationError: something else took this interface's place.
        """
        expect_still_there(app, self)
        try:
            return run_request(self, application, environ, start_response)
        except BaseException as error:
            self._leave_after(error, environ)
            raise

    @staticmethod
    def _leave_after(error: BaseException, environ: WSGIEnvironment) -> None:
        """Flask ends its teardown with the first function that raises, and ours is called last."""
        session = environ.get(SESSION)
        if isinstance(session, LockedSession):
            try:
                use_of(session).leave(error)
            except SessionLockError as trouble:
                log.warning("after the request: %s", trouble)

    def is_being_answered(self, error: BaseException) -> None:
        """``error`` is about to become an answer."""
        if isinstance(error, SessionLockError):
            tell(error, label_of(current_request.method, _route(current_request)))
            self.answer_is_ready()

    def answer_is_ready(self) -> None:
        """It is an error's, and nothing of ours may spoil it."""
        use = _use_in(request_ctx)
        if use is not None:
            use.answer_is_ready()

    # --- parts

    def _begin(self, app: Flask, request: Request, only_reading: bool) -> RequestSession:
        run = FlaskRun.of(request.environ, self)
        if run is not None and run.before is not None and not only_reading:
            visit = run.before.again()
        else:
            policy = self._policy(app, request, request.endpoint)
            if only_reading:
                policy = replace(policy, mode="off" if policy.mode == "off" else "read")
            visit = self._visit(app, request, policy, run, takes_over=not only_reading)
        if run is not None and not only_reading:
            run.begin(visit)
        if visit.mode == "lock":
            receive_body(request.environ, self._body_limit(request, visit.policy.body_ahead))
        return visit

    def _visit(
        self, app: Flask, request: Request, policy: RoutePolicy, run: FlaskRun | None, *, takes_over: bool = False
    ) -> RequestSession:
        return self._make_visit(
            app,
            request,
            policy,
            takes_over=takes_over,
            method=request.method,
            route=partial(_route, request),
            https=request.is_secure,
            client=partial(client_of_environ, request.environ),
            rules=None if run is None else self.settings.rules,
            identity=self.settings.identity,
        )

    def _renewed(self, app: Flask, session: LockedSession) -> RequestSession | None:
        """The session of a request that has not touched it, if it lives on by being asked for at all: a permanent one.

        Static files renew nothing. What is known not to be permanent is not asked for again for a while.
        """
        request = current_request
        sid = self._sid(app, request)
        endpoint = (request.endpoint or "static").rpartition(".")[2]
        if sid is None or endpoint == "static" or digest_of(sid) in self._temporary:
            return None
        if not app.config["SESSION_REFRESH_EACH_REQUEST"]:
            return None
        policy = self._policy(app, request, request.endpoint)
        if policy.mode == "off":
            return None
        visit = self._visit(app, request, replace(policy, mode="optimistic"), None)
        try:
            permanent = renew(session, visit, self._lifetime(app).idle)
        except SessionLockError as error:
            app.logger.debug("sessionlock: a session that was not used was not renewed: %s", error)
            permanent = False
        self._note(sid, permanent, self._lifetime(app).idle)
        return visit if permanent else None

    def _note(self, sid: str, permanent: bool, idle: float) -> None:
        """Another process may make the session permanent, so it is not believed for long."""
        if permanent:
            self._temporary.forget(digest_of(sid))
        else:
            self._temporary.note(digest_of(sid), min(LONGEST, idle / 4))

    @staticmethod
    def _body_limit(request: Request, limit: int) -> int:
        """Nothing of a body that Flask is going to refuse for its length."""
        most, size = request.max_content_length, request.content_length
        return 0 if most is not None and size is not None and size > most else limit


def _for_threads(given: object) -> SessionGuard:
    """The guard for the loop of the thread face."""
    if isinstance(given, BlockingGuard):
        return given.inner
    if not isinstance(given, SessionGuard):
        raise ConfigurationError(f"SessionLock wants a guard or a URL, not {given!r}")
    return blocking_guard(given).inner


def _route(request: Request) -> str:
    return NO_ROUTE if request.url_rule is None else request.url_rule.rule


def _use_in(context: Any) -> FlaskUse | None:
    """Of what was opened for it, also where an extension (Flask-SocketIO) has put a session of its own in the place."""
    session: LockedSession | None = getattr(context, OPENED, None)
    return None if session is None else use_of(session)
