"""Flask's hooks for sessions."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
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
from ...default import default_guard
from ...errors import ConfigurationError, SessionLockError
from ...guard import SessionGuard
from ...policies import SessionPolicy
from ...selfcalls.sockets import client_of_environ
from ...views.cookies import CookieSettings, usable_sid
from ..flasklike import (
    Settings,
    become,
    expect_still_there,
    guard_for,
    lifetime_of,
    live_of,
    policy_for,
    tell_cookie,
    tell_late,
)
from ..takeover.taking import Origin
from ..web.problems import tell
from ..web.request_session import RunAgain, Visit
from ..web.rules import BODY_LIMIT, RoutePolicy, label_of
from ..web.values import for_framework
from .again import Run, prepare_body, receive_body, run_of, run_request
from .permanence import Temporary
from .session import LockedSession

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["SessionLockInterface"]

log = logging.getLogger("sessionlock.web")

SESSION = "sessionlock.session"  # in a request's environ
LOCAL = ("embedded:", "memory:")  # begin with the guard, which is made when it is needed
OPENED = "_sessionlock_session"  # in a request context
# Flask's own settings make the cookie, and say when it is sent.
FLASKS_OWN = CookieSettings(rolling=False)


class SessionLockInterface(SessionInterface):
    """What stands in ``app.session_interface``. Its guard is made when a session is touched first."""

    session_class = LockedSession
    serializer: TaggedJSONSerializer = session_json_serializer
    """What it takes, a session takes; ``register()`` tags for types of your own, as in Flask."""

    def __init__(self, app: Flask, guard_or_url: SessionGuard | BlockingGuard | str | None, settings: Settings) -> None:
        self._app = weakref.ref(app)  # which has this one: many short-lived applications must not be kept by a cycle
        self._guard_or_url = guard_or_url
        self._guard: SessionGuard | None = None
        self._owns_guard = False
        self._said = settings.said(app)
        self.settings = settings.read(app)
        self._temporary = Temporary()

    # --- the guard

    @property
    def guard(self) -> SessionGuard:
        """The guard of all sessions of this application, for the loop of the thread face."""
        if self._guard is None:
            self._guard = self._find_guard()
        portal().guards.add(self._guard)
        if self.settings.origin is not None:
            portal().guards.add(self.settings.origin)
        return self._guard

    def _find_guard(self) -> SessionGuard:
        app = self._app()
        assert app is not None
        tell_late(app, self._said)
        given = self._guard_or_url or app.config.get("SESSION_LOCK_URL") or default_guard()
        check_guard(given)
        if isinstance(given, str):
            self._owns_guard = True
            return guard_for(app, given)
        face = given if isinstance(given, BlockingGuard) else blocking_guard(given)
        return face.inner

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
        session = self.session_class(partial(self._begin, app, request))
        context: Any = cast(Any, request_ctx)._get_current_object()
        if OPENED not in vars(context):  # a test's session_transaction() opens a second one, and saves it by itself
            setattr(context, OPENED, session)
            session._begin_in(context)
            request.environ[SESSION] = session
        if run_of(request.environ, self) is None:
            prepare_body(request.environ)
        return session

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        session = cast(LockedSession, session)
        try:
            visit = session._finish(failed=response.status_code >= 500, live=partial(self._live, app, session))
        except RunAgain:
            response.close()  # nobody will read it: a stream has to give its context up
            raise
        except SessionLockError as error:
            visit = session._visit
            become(response, app.make_response(app.handle_user_exception(error)))
        if visit is None and response.status_code < 500:
            visit = self._renewed(app, session)
        elif visit is not None and visit.saved:
            self._temporary.note(visit.session.sid, session._is_permanent, visit.lifetime.idle)
        if visit is not None and tell_cookie(self, app, session, visit, response):
            session.accessed = True
        if session.accessed:
            response.vary.add("Cookie")

    def teardown(self, error: BaseException | None) -> None:
        """For ``teardown_request``, which is called in any case."""
        context = cast(Any, request_ctx)._get_current_object()
        session = _session_of(context)
        if session is not None and session._began_in(context):
            try:
                session._leave(error)
            except SessionLockError as trouble:
                context.app.logger.warning("sessionlock, after the request: %s", trouble)

    def answer(self, error: SessionLockError) -> Response:
        """The error handler: the problem that ``error`` is for the client; a mistake in the program is raised."""
        problem = self.settings.problems.answer(error, current_request.headers.get("Accept"))
        if problem is None:
            raise error
        session = _session_of(request_ctx)
        if session is not None:
            session._give_up()  # the view ended in the middle, whatever the answer's status is
        return Response(problem.content(), problem.status, problem.headers())

    def get_cookie_samesite(self, app: Flask) -> str | None:
        """Not every browser takes a missing attribute for Lax, and without it other sites can use the session."""
        return super().get_cookie_samesite(app) or "Lax"

    def get_expiration_time(self, app: Flask, session: SessionMixin) -> datetime | None:
        """The cookie ends with the record."""
        if not session.permanent:
            return None
        return datetime.now(timezone.utc) + timedelta(seconds=self._lifetime(app).idle)

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
                session._leave(error)
            except SessionLockError as trouble:
                log.warning("after the request: %s", trouble)

    def is_being_answered(self, error: BaseException) -> None:
        """``error`` is about to become an answer."""
        if isinstance(error, SessionLockError):
            tell(error, label_of(current_request.method, current_request.path))
            self.answer_is_ready()

    def answer_is_ready(self) -> None:
        """It is an error's, and nothing of ours may spoil it."""
        session = _session_of(request_ctx)
        if session is not None:
            session._answer_is_ready()

    # --- parts

    def _begin(self, app: Flask, request: Request, only_reading: bool) -> Visit:
        run = run_of(request.environ, self)
        if run is not None and run.before is not None and not only_reading:
            visit = run.before.again()
        else:
            policy = policy_for(app, self.settings.rules, request, request.endpoint)
            if only_reading:
                policy = replace(policy, mode="off" if policy.mode == "off" else "read")
            visit = self._visit(app, request, policy, run, None if only_reading else self.settings.origin)
        if run is not None and not only_reading:
            run.visit = visit
        if visit.mode == "lock":
            limit = visit.policy.body_limit
            receive_body(request.environ, self._body_limit(request, BODY_LIMIT if limit is None else limit))
        return visit

    def _visit(
        self, app: Flask, request: Request, policy: RoutePolicy, run: Run | None, origin: Origin | None = None
    ) -> Visit:
        guard = self.guard
        sid = None if policy.mode == "off" else self._sid(app, request)
        if policy.mode == "off":
            policy, origin = replace(policy, mode="read"), None
        return Visit(
            guard,
            FLASKS_OWN,
            policy,
            sid,
            method=request.method,
            path=request.path,
            https=request.is_secure,
            client=partial(client_of_environ, request.environ),
            rules=None if run is None else self.settings.rules,
            identity=self.settings.identity,
            codec=for_framework(guard.codec, self.serializer.dumps, self.serializer.loads),
            lifetime=self._lifetime(app, locked=policy.mode_for(request.method) == "lock"),
            origin=origin,
            old_cookie=None if origin is None else request.cookies.get(origin.cookie or self.get_cookie_name(app)),
        )

    def _renewed(self, app: Flask, session: LockedSession) -> Visit | None:
        """The session of a request that has not touched it, if it lives on by being asked for at all: a permanent one.

        Static files renew nothing. What is known not to be permanent is not asked for again for a while.
        """
        request = current_request
        sid = self._sid(app, request)
        endpoint = (request.endpoint or "static").rpartition(".")[2]
        if sid is None or endpoint == "static" or sid in self._temporary:
            return None
        if not app.config["SESSION_REFRESH_EACH_REQUEST"]:
            return None
        policy = policy_for(app, self.settings.rules, request, request.endpoint)
        if policy.mode == "off":
            return None
        visit = self._visit(app, request, replace(policy, mode="optimistic"), None)
        try:
            permanent = session._renew(visit, self._lifetime(app).idle)
        except SessionLockError as error:
            app.logger.debug("sessionlock: a session that was not used was not renewed: %s", error)
            permanent = False
        self._temporary.note(sid, permanent, self._lifetime(app).idle)
        return visit if permanent else None

    def _sid(self, app: Flask, request: Request) -> str | None:
        return usable_sid(request.cookies.get(self.get_cookie_name(app)))

    @staticmethod
    def _body_limit(request: Request, limit: int) -> int:
        """Nothing of a body that Flask is going to refuse for its length."""
        most, size = request.max_content_length, request.content_length
        return 0 if most is not None and size is not None and size > most else limit

    def _lifetime(self, app: Flask, *, locked: bool = False) -> SessionPolicy:
        return lifetime_of(app, self.guard, own=self._owns_guard, locked=locked)

    def _live(self, app: Flask, session: LockedSession) -> float | None:
        visit, idle = session._visit, self._lifetime(app).idle
        assert visit is not None
        permanent, refresh = session._is_permanent, app.config["SESSION_REFRESH_EACH_REQUEST"]
        # A session that ends with the browser, and is renewed by being used, needs no renewal for each change.
        modified = session._forced or (session.modified and (permanent or session._was_permanent or not refresh))
        return live_of(app, visit, idle, modified=modified, permanent=permanent)


def check_guard(given: object) -> None:
    """What is wrong with it is told when the application is set up. Nothing is connected.

    Raises:
        ConfigurationError: neither a guard nor a URL, or one that cannot be understood.
    """
    if isinstance(given, str):
        if not given.startswith(LOCAL):
            SessionGuard.from_url(given)
    elif given is not None and not isinstance(given, (SessionGuard, BlockingGuard)):
        raise ConfigurationError(f"SessionLock wants a guard or a URL, not {given!r}")


def _session_of(context: Any) -> LockedSession | None:
    """What was opened for it, also where an extension (Flask-SocketIO) has put a session of its own in the place."""
    return cast("LockedSession | None", getattr(context, OPENED, None))
