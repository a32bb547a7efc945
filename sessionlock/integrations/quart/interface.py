"""Quart's hooks for sessions."""

from __future__ import annotations

import logging
from dataclasses import replace
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

from ...errors import ConfigurationError, SessionLockError
from ...guard import SessionGuard
from ...selfcalls.sockets import client_of_scope
from ..flask_family.answers import become
from ..flask_family.application import AppSettings, expect_still_there
from ..flask_family.hooks import SessionHooks
from ..flask_family.use import only_read
from ..web.naming import NO_ROUTE, RouteName
from ..web.problems import may_still_read, tell
from ..web.request_session import RequestSession, RunAgain
from ..web.rules import Mode, RoutePolicy
from ..web.starting import look_at_start
from .again import QuartRun
from .application import use_here
from .session import LockedSession, QuartUse, ours

__all__ = ["SessionLockInterface", "visit_of"]

log: logging.Logger = logging.getLogger("sessionlock.web")

UNLOCKED: dict[Mode, Mode] = {"auto": "optimistic", "lock": "optimistic"}  # for what nobody would release in time


def visit_of(session: Any) -> RequestSession | None:
    """What this request does with its session, for ``async with visit_of(session).locked()`` in a GET, and
    ``visit_of(session).identity_changed()`` after a login that no key tells. None: it could not be opened.
    """
    use = ours(session._get_current_object() if isinstance(session, LocalProxy) else session)
    return None if use is None else use.visit


class SessionLockInterface(SessionHooks, SessionInterface):
    """Quart's hooks. The guard is looked for as the application starts, or when a session is asked for first."""

    serializer: TaggedJSONSerializer = session_json_serializer
    """What it takes, a session takes; ``register()`` tags for types of your own, as in Quart."""

    def __init__(self, app: Quart, settings: AppSettings) -> None:
        super().__init__(app, settings)
        self._told_replaced = False

    # --- the guard

    def guard(self, app: Quart) -> SessionGuard:
        """That of all sessions of this application.

        Raises:
            ConfigurationError: there is none, or its URL makes no sense.
        """
        return self._guard if self._guard is not None else self._find_guard(app, _for_asyncio)

    _guard_for = guard

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
        run = QuartRun.of(request)
        use = QuartUse(RouteName(_method(request), partial(_route, request)), run)
        try:
            visit = await self._begin(app, request, run)
            await visit.open()
        except SessionLockError as error:
            instead = None
            if may_still_read(error):
                instead = await self._only_read(app, request)
            use.failed(error, instead)
        else:
            use.opened(visit)
        return use.session

    async def save_session(self, app: Quart, session: SessionMixin, response: Any) -> None:
        use = ours(session)
        if use is None:
            return  # the application has put another in its place
        if response is None:
            return await self.end_socket(use)
        try:
            await use.finish(failed=response.status_code >= 500, live=partial(self._live_unless_static, app, use))
        except RunAgain as again:
            assert use.run is not None
            await self._replace(app, response, await use.run.repeat(again))
        except SessionLockError as error:
            if use.run is None:
                raise  # a test's session_transaction()
            await self._replace(app, response, error)
        self._tell_headers(app, session, use.visit, response)
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

    async def _begin(self, app: Quart, request: Any, run: QuartRun | None) -> RequestSession:
        if run is not None and run.before is not None:
            visit = run.before.again()
            visit.when_lost(run.lease_is_lost)
            return visit
        policy = self._policy(app, request, _endpoint(request))
        if isinstance(request, Websocket) or run is None:
            policy = replace(policy, mode=UNLOCKED.get(policy.mode, policy.mode))
        else:
            await run.receive(policy)
        return self._visit(app, request, policy, run)

    async def _only_read(self, app: Quart, request: Any) -> RequestSession | None:
        visit = self._visit(app, request, RoutePolicy("read"), None)
        try:
            await only_read(visit)
        except SessionLockError:
            return None
        return visit

    def _visit(self, app: Quart, request: Any, policy: RoutePolicy, run: QuartRun | None) -> RequestSession:
        answers = not isinstance(request, Websocket)  # with a header for a new id
        return self._make_visit(
            app,
            request,
            policy,
            takes_over=answers and run is not None,
            method=_method(request),
            route=partial(_route, request),
            https=request.scheme in ("https", "wss"),
            client=partial(client_of_scope, request.scope),
            rules=None if run is None else self.settings.rules,
            identity=self.settings.identity if answers else (),
            on_loss=None if run is None else run.lease_is_lost,
        )

    def _live_unless_static(self, app: Quart, use: QuartUse) -> float | None:
        """Static files renew nothing."""
        assert use.visit is not None
        if not use.visit.session.accessed and use.run is not None and _is_static(use.run.request):
            return None
        return self._live(app, use)

    async def end_socket(self, use: QuartUse) -> None:
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


def _for_asyncio(given: object) -> SessionGuard:
    if not isinstance(given, SessionGuard):
        raise ConfigurationError(f"SessionLock wants a guard for asyncio or a URL, not {given!r}")
    return given


def _is_static(request: Any) -> bool:
    return (request.endpoint or "static").rpartition(".")[2] == "static"


def _method(request: Any) -> str:
    return "WEBSOCKET" if isinstance(request, Websocket) else str(request.method)


def _accept() -> str | None:
    return current_request.headers.get("Accept") if has_request_context() else None


def _route(request: Any) -> str:
    rule = _rule(request)
    return NO_ROUTE if rule is None else str(rule.rule)


def _endpoint(request: Any) -> str | None:
    """Of the view."""
    rule = _rule(request)
    return None if rule is None else cast("str", rule.endpoint)


def _rule(request: Any) -> Any:
    """Which fits; None where none does. Quart looks for it only after it has opened the session."""
    if request.url_rule is not None:
        return request.url_rule
    context: Any = _cv_websocket.get(None) if isinstance(request, Websocket) else _cv_request.get(None)
    if context is None or context.url_adapter is None:
        return None
    try:
        rule, _ = context.url_adapter.match(return_rule=True)
    except Exception:  # none, or a redirect, or a converter that needs what is not there yet: Quart tells in a moment
        return None
    return rule
