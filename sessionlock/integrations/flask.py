"""Sessions for Flask: ``flask.session``, locked, loaded and saved over all processes and nodes.

::

    app = Flask(__name__)
    SessionLock(app, "redis://localhost:6379/0")          # or init_app(), or app.config["SESSION_LOCK_URL"]

    @app.post("/cart")
    def add():                                            # POST: locked when the session is touched first
        session.setdefault("cart", []).append("A")        # deep changes are noticed

Nothing happens until a view touches ``session``: static files and views without a session cost nothing. GET, HEAD and
OPTIONS read without waiting; if one did change something, it is committed and merged at the end. Before the answer
begins the session is saved and the lock released, so a stream never holds it; a request that fails saves nothing.

``session`` is what Flask's documentation says (``permanent``, ``modified``, ``new``, ``flash()``), and has ``sid``,
``version``, ``lease``, ``save()``, ``release()``, ``regenerate()``, ``destroy()``, ``incr()`` and ``locked()`` besides.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from flask import Flask, Request, Response
from flask import request as current_request
from flask.globals import request_ctx
from flask.sessions import SessionInterface, SessionMixin

from ..blocking import SessionGuard as BlockingGuard
from ..blocking import blocking_guard
from ..default import default_guard
from ..errors import ConfigurationError, LeaseLost, LockNotAcquired, ReentrantLock, SessionLockError
from ..guard import SessionGuard
from ..lease import Lease
from ..peers import client_of_environ
from ..policies import LeasePolicy, WaitPolicy
from ..portal import portal
from ..session import Session
from .flasklike import (
    FLASHES,
    Settings,
    become,
    flashes_in,
    flashes_out,
    guard_for,
    policy_for,
    tell_cookie,
    with_flashes,
)
from .marks import session_lock, session_lock_exempt, session_readonly
from .rules import Mode
from .web import CookieSettings, Held, Problems, RoutePolicy, Rules, Visit, usable_sid

__all__ = [
    "LockedSession",
    "SessionLock",
    "SessionLockInterface",
    "session_lock",
    "session_lock_exempt",
    "session_readonly",
]

T = TypeVar("T")
SESSION = "sessionlock.session"  # in a request's environ
# Flask's own settings make the cookie; a visit only has to know that it may be sent again.
ROLLING = CookieSettings()


class SessionLock:
    """The extension. Arguments win over ``app.config["SESSION_LOCK_…"]``, whose names are the same in capitals.

    ``guard_or_url`` (``SESSION_LOCK_URL``): a guard of either face, or a URL for one of its own, whose sessions live
    ``PERMANENT_SESSION_LIFETIME`` after their last request; None: that of :func:`sessionlock.configure`.
    ``mode``, ``wait``, ``lease`` (policy or seconds), ``save_on_error``: for all requests that neither a decorator nor
    ``routes`` (see :class:`.rules.Rules`) says anything else about. ``problems``: what errors of the session become;
    ``app.errorhandler(WaitTimedOut)`` and the like win over it. The cookie is Flask's (``SESSION_COOKIE_…``), only
    that ``SESSION_COOKIE_SAMESITE`` None means Lax here.

    Raises:
        ConfigurationError: a value that makes no sense.
    """

    def __init__(
        self,
        app: Flask | None = None,
        guard_or_url: SessionGuard | BlockingGuard | str | None = None,
        *,
        mode: Mode | None = None,
        routes: Mapping[str, RoutePolicy | Mode] | None = None,
        wait: WaitPolicy | float | None = None,
        lease: LeasePolicy | float | None = None,
        save_on_error: bool | None = None,
        problems: Problems | None = None,
    ) -> None:
        self._guard_or_url = guard_or_url
        self._settings = Settings(
            mode=mode, routes=routes, wait=wait, lease=lease, save_on_error=save_on_error, problems=problems
        )
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Put the locked session in the place of ``app``'s own."""
        interface = SessionLockInterface(
            partial(self._guard, app), self._settings.rules(app), self._settings.problems(app)
        )
        app.session_interface = interface
        app.extensions["session_lock"] = interface
        app.teardown_request(interface.teardown)
        app.register_error_handler(SessionLockError, interface.answer)

    def _guard(self, app: Flask) -> SessionGuard:
        given = self._guard_or_url or app.config.get("SESSION_LOCK_URL") or default_guard()
        if isinstance(given, str):
            return guard_for(app, given)
        if not isinstance(given, (SessionGuard, BlockingGuard)):
            raise ConfigurationError(f"SessionLock wants a guard or a URL, not {given!r}")
        face = given if isinstance(given, BlockingGuard) else blocking_guard(given)
        return with_flashes(face.inner)


class LockedSession(SessionMixin):
    """``flask.session`` of one request. What touches it first locks and loads it."""

    accessed = False

    def __init__(self, begin: Callable[[bool], Visit]) -> None:
        self._begin = begin
        self._visit: Visit | None = None
        self._held: Held | None = None
        self._opening = threading.RLock()
        self._failure: SessionLockError | None = None
        self._context: weakref.ref[Any] | None = None
        self._forced = False
        self._was_modified = False
        self._was_new = False
        self._was_permanent = False
        self._failed = False
        self._answered = False
        self._left = False

    # --- the mapping

    def __getitem__(self, key: str) -> Any:
        value = self._data[key]
        return flashes_out(value) if key == FLASHES else value

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[key] = flashes_in(value) if key == FLASHES else value

    def __delitem__(self, key: str) -> None:
        del self._data[key]

    def __contains__(self, key: object) -> bool:
        return key in self._data

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def __repr__(self) -> str:
        return f"<LockedSession {'not touched yet' if self._visit is None else repr(self._visit.session)}>"

    # --- Flask's conventions

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether there was no such session when this request touched it."""
        self._touch()
        return self._was_new

    @property
    def modified(self) -> bool:
        """Whether this request changed anything, however deep; never needs to be set."""
        return self._forced or self._was_modified or (self._visit is not None and self._visit.session.modified)

    @modified.setter
    def modified(self, value: bool) -> None:
        self._forced = value

    # --- what a locked session has besides

    @property
    def sid(self) -> str:
        """The secret id, as in the cookie."""
        return self._data.sid

    @property
    def name(self) -> str:
        """The digest under which logs and ``sessionlock inspect`` know it."""
        return self._data.name

    @property
    def version(self) -> int:
        """Counts the commits of this session."""
        return self._data.version

    @property
    def lease(self) -> Lease | None:
        """None when this request has no lock."""
        return self._data.lease

    def save(self) -> None:
        """Save now what changed, and go on. Raises as :meth:`sessionlock.Session.save`."""
        self._note_change()
        self._do(self._data.save)

    def release(self) -> None:
        """Save and give the lock up now, before a slow end of the view. Later changes raise."""
        self._note_change()
        self._do(self._data.release)

    def incr(self, key: str, by: int = 1) -> int:
        """Add to an integer, in Redis and at once; returns the new value.

        Raises as :meth:`sessionlock.Session.incr`.
        """
        self._forced = True
        return self._do(self._data.incr, key, by)

    def regenerate(self, *, grace: float = 30.0) -> str:
        """Give the session a new id (at login); the old one works ``grace`` seconds longer. Returns the new one.

        Raises as :meth:`sessionlock.Session.regenerate`.
        """
        return self._do(partial(self._data.regenerate, grace=grace))

    def destroy(self) -> None:
        """End the session (log out) at once; the cookie goes with the answer."""
        self._forced = True
        self._do(self._data.destroy)

    @contextmanager
    def locked(self) -> Iterator[LockedSession]:
        """Hold the lock in this block, in a request that otherwise does not (a GET); saved and released at its end.

        Raises what opening and saving a locked session raises.
        """
        self._touch()
        assert self._visit is not None
        block = self._visit.locked()
        self._do(block.__aenter__)
        self._hold(self._visit)
        try:
            yield self
        except BaseException as error:
            self._do(block.__aexit__, type(error), error, error.__traceback__)
            raise
        self._note_change()
        self._do(block.__aexit__, None, None, None)

    # --- the visit

    @property
    def _data(self) -> Session:
        session = self._touch()
        lease = session.lease
        if lease is not None and lease.is_lost and not lease.released:
            raise LeaseLost(lease.why_lost())  # a thread cannot be cancelled: it is told at the next use
        return session

    def _touch(self) -> Session:
        self.accessed = True
        if self._visit is None:
            with self._opening:
                if self._visit is None:
                    self._open()
        assert self._visit is not None
        return self._visit.session

    def _open(self) -> None:
        if self._failure is not None and not self._may_still_read(self._failure):
            raise self._failure
        visit = self._begin(self._answered or self._failure is not None)
        try:
            self._do(visit.open)
        except SessionLockError as error:
            self._failure = error
            raise
        self._was_new = visit.session.new
        self._was_permanent = bool(visit.session.get("_permanent", False))
        self._hold(visit)
        self._visit = visit

    @staticmethod
    def _may_still_read(failure: SessionLockError) -> bool:
        """The error's page may greet the user by name; it must not wait for the lock once more."""
        return isinstance(failure, (LockNotAcquired, ReentrantLock))

    def _hold(self, visit: Visit) -> None:
        """The loop's context knows what this request holds; calls that this view makes must find it in the view's."""
        lease = visit.session.lease
        if lease is not None and self._held is None:
            self._held = Held(visit.guard, visit.session.sid, lambda: not lease.released, "this view")
            self._held.enter()

    def _note_change(self) -> None:
        self._was_modified = self.modified

    @staticmethod
    def _do(work: Callable[..., Coroutine[Any, Any, T]], *args: Any, cancel: bool = True) -> T:
        return _call(work, *args, cancel=cancel)

    # --- for the interface: the beginning and the end

    def begin_in(self, context: Any) -> None:
        """It belongs to the request that this context of Flask's is for."""
        self._context = weakref.ref(context)

    def began_in(self, context: Any) -> bool:
        """Whether that very context: a copy of it, for another thread, may end earlier than the request itself."""
        return self._context is not None and self._context() is context

    @property
    def visit(self) -> Visit | None:
        """What the request did with its session; None when it has not touched it."""
        return self._visit

    @property
    def permanence_changed(self) -> bool:
        """Whether ``permanent`` is another than it was when the session was loaded."""
        return self.permanent != self._was_permanent

    def give_up(self) -> None:
        """Nothing of this request is to be saved, whatever the answer's status will be."""
        self._failed = True

    def finish(self, *, failed: bool) -> Visit | None:
        """The answer is ready: save and release. None: the session was never touched.

        Raises what saving raises; the lock is released then, too.
        """
        self._answered = True
        visit = self._visit
        if visit is not None and not self._left:
            self._left = True
            self._note_change()
            try:
                self._do(_finish, visit, failed or self._failed, cancel=False)
            finally:
                self._let_go()
        return visit

    def leave(self, error: BaseException | None) -> None:
        """The request is over, whatever became of it: release, without saving if nothing has saved yet."""
        visit = self._visit
        if visit is None:
            return
        if self._left:
            if visit.saved:
                visit.tell_unsaved()
            return
        self._left = True
        try:
            self._do(visit.aclose, error, cancel=False)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.leave()
            self._held = None


class SessionLockInterface(SessionInterface):
    """Flask's hooks. ``find_guard`` is asked once, when a session is touched first."""

    session_class = LockedSession

    def __init__(self, find_guard: Callable[[], SessionGuard], rules: Rules, problems: Problems) -> None:
        self._find_guard = find_guard
        self._guard: SessionGuard | None = None
        self._rules = rules
        self._problems = problems

    @property
    def guard(self) -> SessionGuard:
        """The guard of all sessions of this application, for the loop of the thread face."""
        if self._guard is None:
            self._guard = self._find_guard()
        portal().guards.add(self._guard)
        return self._guard

    # --- Flask's hooks

    def open_session(self, app: Flask, request: Request) -> LockedSession:
        session = self.session_class(partial(self._begin, app, request))
        session.begin_in(request_ctx._get_current_object())  # type: ignore[attr-defined]
        request.environ[SESSION] = session
        return session

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        session = cast(LockedSession, session)
        visit = None
        try:
            visit = session.finish(failed=response.status_code >= 500)
        except SessionLockError as error:
            visit = session.visit
            become(response, app.make_response(app.handle_user_exception(error)))
        if visit is not None and tell_cookie(self, app, session, visit, response):
            session.accessed = True
        if session.accessed:
            response.vary.add("Cookie")

    def teardown(self, error: BaseException | None) -> None:
        """For ``teardown_request``, which is called in any case."""
        context = request_ctx._get_current_object()  # type: ignore[attr-defined]
        session = context.request.environ.get(SESSION)
        if isinstance(session, LockedSession) and session.began_in(context):
            try:
                session.leave(error)
            except SessionLockError as trouble:
                cast(Any, context).app.logger.warning("sessionlock, after the request: %s", trouble)

    def answer(self, error: SessionLockError) -> Response:
        """The error handler: the problem that ``error`` is for the client; a mistake in the program is raised."""
        problem = self._problems.answer(error)
        if problem is None:
            raise error
        session = current_request.environ.get(SESSION)
        if isinstance(session, LockedSession):
            session.give_up()  # the view ended in the middle, whatever the answer's status is
        return Response(problem.content(), problem.status, problem.headers())

    # --- parts

    def _begin(self, app: Flask, request: Request, only_reading: bool) -> Visit:
        guard = self.guard
        policy = policy_for(app, self._rules, request, request.endpoint)
        mode = "read" if only_reading or policy.mode == "off" else policy.mode
        # The thread cannot be cancelled, and it is not the loop's task: LockedSession looks itself.
        lease = replace(policy.lease or guard.lease_policy, on_lost="flag")
        return Visit(
            guard,
            ROLLING,
            replace(policy, mode=mode, lease=lease),
            None if policy.mode == "off" else usable_sid(request.cookies.get(self.get_cookie_name(app))),
            method=request.method,
            path=request.path,
            https=request.is_secure,
            client=partial(client_of_environ, request.environ),
        )


def _call(work: Callable[..., Coroutine[Any, Any, T]], *args: Any, cancel: bool = True) -> T:
    """Have the process' loop do it, and wait here.

    An async view runs in a thread of its own with an event loop that serves nothing else. ``session["key"]`` cannot be
    awaited, so there the view waits in still another thread.
    """
    if asyncio._get_running_loop() is None:
        return portal().call(work, *args, cancel=cancel)
    outcome: list[T] = []
    failure: list[BaseException] = []

    def ask() -> None:
        try:
            outcome.append(portal().call(work, *args, cancel=cancel))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=copy_context().run, args=(ask,), name="sessionlock-async-view")
    thread.start()
    thread.join()
    if failure:
        raise failure.pop()
    return outcome.pop()


async def _finish(visit: Visit, failed: bool) -> None:
    """Both in one visit to the loop's thread: after the save there is nothing left to wait for."""
    try:
        await visit.finish(failed=failed)
    except BaseException as error:
        await visit.aclose(error)
        raise
    await visit.aclose()
