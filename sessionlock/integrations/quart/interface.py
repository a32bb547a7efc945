"""Quart's hooks for sessions."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, cast

from flask.json.tag import TaggedJSONSerializer
from flask.sessions import SessionMixin
from quart import Quart, Response, current_app, has_request_context
from quart import request as current_request
from quart.globals import _cv_request, _cv_websocket
from quart.sessions import SessionInterface, session_json_serializer
from quart.wrappers import Websocket
from werkzeug.local import LocalProxy

from ...codecs.base import Codec
from ...default import default_guard
from ...errors import ConfigurationError, LockNotAcquired, ReentrantLock, SessionLockError
from ...guard import SessionGuard
from ...policies import SessionPolicy
from ...selfcalls.sockets import client_of_scope
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
from ..web.problems import tell
from ..web.request_session import RunAgain, Visit
from ..web.rules import Mode, RoutePolicy, label_of
from ..web.starting import look_at_start
from ..web.values import for_framework
from .again import Run, run_of
from .application import use_here
from .session import LockedSession, Use, use_of

__all__ = ["SessionLockInterface", "visit_of"]

log = logging.getLogger("sessionlock.web")

# Quart's own settings make the cookie, and say when it is sent.
QUARTS_OWN = CookieSettings(rolling=False)
UNLOCKED: dict[Mode, Mode] = {"auto": "optimistic", "lock": "optimistic"}  # for what nobody would release in time


def visit_of(session: Any) -> Visit | None:
    """What this request does with its session, for ``async with visit_of(session).locked()`` in a GET, and
    ``visit_of(session).identity_changed()`` after a login that no key tells. None: it could not be opened.
    """
    use = use_of(session._get_current_object() if isinstance(session, LocalProxy) else session)
    return None if use is None else use.visit


class SessionLockInterface(SessionInterface):
    """Quart's hooks. The guard is looked for as the application starts, or when a session is asked for first."""

    serializer: TaggedJSONSerializer = session_json_serializer
    """What it takes, a session takes; ``register()`` tags for types of your own, as in Quart."""

    def __init__(self, app: Quart, guard_or_url: SessionGuard | str | None, settings: Settings) -> None:
        self._guard_or_url = guard_or_url
        self._guard: SessionGuard | None = None
        self._codec: Codec
        self._told_replaced = False
        self._owns_guard = False
        self._said = settings.said(app)
        self.settings = settings.read(app)

    # --- the guard

    def guard(self, app: Quart) -> SessionGuard:
        """That of all sessions of this application.

        Raises:
            ConfigurationError: there is none, or its URL makes no sense.
        """
        if self._guard is None:
            tell_late(app, self._said)
            given = self._guard_or_url or app.config.get("SESSION_LOCK_URL") or default_guard()
            self._owns_guard = isinstance(given, str)
            if not isinstance(given, (str, SessionGuard)):
                raise ConfigurationError(f"SessionLock wants a guard for asyncio or a URL, not {given!r}")
            self._guard = guard_for(app, given) if isinstance(given, str) else given
            self._codec = for_framework(self._guard.codec, self.serializer.dumps, self.serializer.loads)
        return self._guard

    async def begin_serving(self) -> None:
        """A URL that makes no sense, or another session interface in the place of this one, is told as the application
        starts; a store that does not answer is logged.
        """
        expect_still_there(current_app, self)
        await look_at_start(self.guard(current_app))

    def tell_replaced(self, app: Quart) -> bool:
        """At a request, where no start has told. Always False."""
        if not self._told_replaced:
            self._told_replaced = True
            try:
                expect_still_there(app, self)
            except ConfigurationError as error:
                log.error("%s", error)
        return False

    async def end_serving(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None and self._owns_guard:
            await guard.aclose()
        if self.settings.origin is not None:
            await self.settings.origin.aclose()

    # --- Quart's hooks

    async def open_session(self, app: Quart, request: Any) -> LockedSession:
        run, use = run_of(request), Use(label_of(_method(request), request.path))
        if run is not None:
            run.use, use.run = use, run
        try:
            visit = await self._begin(app, request, run)
            await visit.open()
        except SessionLockError as error:
            instead = None
            if isinstance(error, (LockNotAcquired, ReentrantLock)):
                instead = await self._only_read(app, request)
            use.failed(error, instead)
        else:
            use.opened(visit)
        return use.session

    async def save_session(self, app: Quart, session: SessionMixin, response: Any) -> None:
        use = use_of(session)
        if use is None:
            return  # the application has put another in its place
        if response is None:
            return await self.end_socket(use)
        try:
            await use.finish(failed=response.status_code >= 500, live=partial(self._live, app, use))
        except RunAgain as again:
            assert use.run is not None
            await self._replace(app, response, await use.run.repeat(again))
        except SessionLockError as error:
            if use.run is None:
                raise  # a test's session_transaction()
            await self._replace(app, response, error)
        if use.visit is not None and tell_cookie(self, app, session, use.visit, response):
            session.accessed = True
        if session.accessed:
            response.vary.add("Cookie")
        return None

    async def _replace(self, app: Quart, response: Any, error: SessionLockError) -> None:
        become(response, await app.make_response(cast(Any, await app.handle_user_exception(error))))

    async def answer(self, error: SessionLockError) -> Response:
        """The error handler: the problem that ``error`` is for the client; a mistake in the program is raised."""
        problem = self.settings.problems.answer(error, _accept())
        if problem is None:
            raise error
        use = use_here()
        if use is not None:
            use.give_up()  # the view ended in the middle, whatever the answer's status is
            tell(error, use.label)
        return Response(problem.content(), problem.status, dict(problem.headers()))

    # --- parts

    async def _begin(self, app: Quart, request: Any, run: Run | None) -> Visit:
        if run is not None and run.before is not None:
            visit = run.before.again()
            visit.on_loss = run.lease_is_lost
            return visit
        policy = policy_for(app, self.settings.rules, request, _endpoint(request))
        if isinstance(request, Websocket) or run is None:
            policy = replace(policy, mode=UNLOCKED.get(policy.mode, policy.mode))
        else:
            await run.receive(policy)
        return self._visit(app, request, policy, run)

    async def _only_read(self, app: Quart, request: Any) -> Visit | None:
        """The error's page may greet the user by name; it must not wait for the lock once more."""
        visit = self._visit(app, request, RoutePolicy("read"), None)
        try:
            async with visit:
                visit.settle_as_snapshot("belongs to a request that is answered already")
        except SessionLockError:
            return None
        return visit

    def _visit(self, app: Quart, request: Any, policy: RoutePolicy, run: Run | None) -> Visit:
        guard, name = self.guard(app), self.get_cookie_name(app)
        off, answers = policy.mode == "off", not isinstance(request, Websocket)  # with a header for a new id
        origin = self.settings.origin if answers and run is not None and not off else None
        return Visit(
            guard,
            QUARTS_OWN,
            replace(policy, mode="read") if off else policy,
            None if off else usable_sid(request.cookies.get(name)),
            method=_method(request),
            path=request.path,
            https=request.scheme in ("https", "wss"),
            client=partial(client_of_scope, request.scope),
            rules=None if run is None else self.settings.rules,
            identity=self.settings.identity if answers else (),
            codec=self._codec,
            lifetime=self._lifetime(app, locked=policy.mode_for(request.method) == "lock"),
            on_loss=None if run is None else run.lease_is_lost,
            origin=origin,
            old_cookie=None if origin is None else request.cookies.get(origin.cookie or name),
        )

    def _lifetime(self, app: Quart, *, locked: bool = False) -> SessionPolicy:
        return lifetime_of(app, self.guard(app), own=self._owns_guard, locked=locked)

    def _live(self, app: Quart, use: Use) -> float | None:
        assert use.visit is not None
        if not use.visit.session.accessed and use.run is not None and _is_static(use.run.request):
            return None  # static files renew nothing
        idle = self._lifetime(app).idle
        return live_of(app, use.visit, idle, modified=use.modified, permanent=use.is_permanent)

    def get_cookie_samesite(self, app: Quart) -> str:
        """Not every browser takes a missing attribute for Lax, and without it other sites can use the session."""
        return super().get_cookie_samesite(app) or "Lax"

    def get_expiration_time(self, app: Quart, session: SessionMixin) -> datetime | None:
        """The cookie ends with the record."""
        if not session.permanent:
            return None
        return datetime.now(timezone.utc) + timedelta(seconds=self._lifetime(app).idle)

    async def end_socket(self, use: Use) -> None:
        """Commit what a websocket has written: the difference only, compared with what is there by now."""
        visit = use.visit
        if visit is None:
            return
        try:
            if visit.session.new and use.modified:  # no later moment to give the browser a cookie
                visit.note_late(visit.session.changed_keys()[0])
                await use.leave(None)
            else:
                await use.finish(failed=False, live=lambda: None)
        except SessionLockError as error:
            tell(error, use.label)


def _is_static(request: Any) -> bool:
    return (request.endpoint or "static").rpartition(".")[2] == "static"


def _method(request: Any) -> str:
    return "WEBSOCKET" if isinstance(request, Websocket) else str(request.method)


def _accept() -> str | None:
    return current_request.headers.get("Accept") if has_request_context() else None


def _endpoint(request: Any) -> str | None:
    """Of the view. Quart looks for it only after it has opened the session."""
    context: Any = _cv_websocket.get(None) if isinstance(request, Websocket) else _cv_request.get(None)
    if context is None or context.url_adapter is None:
        return None
    try:
        rule, _ = context.url_adapter.match(return_rule=True)
    except Exception:  # none, or a redirect, or a converter that needs what is not there yet: Quart tells in a moment
        return None
    return cast("str | None", rule.endpoint)
