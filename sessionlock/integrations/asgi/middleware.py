"""Sessions for ASGI applications: Starlette, FastAPI, Litestar, and whatever else speaks ASGI.

::

    app = Starlette(routes=routes, middleware=[Middleware(SessionLockMiddleware, guard="redis://localhost:6379/0")])

    async def add(request):                            # POST: locked, loaded; saved and released as the answer begins
        request.session.setdefault("cart", []).append("A")

``scope["session"]`` (``request.session``) is a dict; ``request.session.sessionlock`` is the
:class:`sessionlock.Session` behind it. GET, HEAD and OPTIONS do not wait; one that changed the session and met a
conflict runs once more, under the lock.
"""

from __future__ import annotations

import json
import logging
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...codecs.base import Codec
from ...default import default_guard
from ...errors import ConfigurationError, SessionLockError
from ...guard import SessionGuard
from ...selfcalls.sockets import client_of_scope
from ...views.cookies import CookieSettings, value_of
from ..settings import check_arguments
from ..settings.options import FaceOptions, FaceSettings
from ..web.asked import Asked
from ..web.problems import Problem, tell
from ..web.request_session import RequestSession
from ..web.rules import RoutePolicy
from ..web.starting import look_at_start
from ..web.values import for_framework
from .checks import around, is_mounted, layers, misplaced, outside, taken_by_another
from .exchange import VISIT, App, Exchange, Message, Receive, Scope, Send, header_of
from .routes import route_of_scope

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SessionLockMiddleware", "visit_of"]

log: logging.Logger = logging.getLogger("sessionlock.web")

OURS = "sessionlock.middleware"
TWICE = (
    "SessionLockMiddleware stands around itself with different settings: the inner one would take the outer one's"
    " place. Remove one of them; a mounted application may have one with another cookie name"
)
TRY_AGAIN_LATER = 1013  # a websocket's close code


class SessionLockMiddleware:
    """Locks, loads, saves and releases the session of each request, around any ASGI application.

    ``guard``: a guard, or a URL for one of its own, which is closed as the application shuts down; None: that of
    :func:`sessionlock.configure`. ``cookie``: settings, or just the name. ``mode``, ``wait``, ``lease`` (policy or
    seconds), ``save_on_error``, ``body_limit``, ``on_conflict``: for all requests that ``routes`` says nothing else
    about (see :class:`.rules.RoutePolicy` and :class:`.rules.Rules`; the paths are those within the application).
    ``problems``: what errors of the session become. ``identity``: the keys that tell who is logged in: when one of them
    gets another value, the session gets a new id. ``read_from``: where sessions are that visitors have already
    (:mod:`.takeover`).

    The session is saved and the lock released when the answer begins, before anything of it is sent: streams and
    server-sent events never hold it. A request that fails (an exception, or a status of 500 and above) saves nothing.
    A client that goes away while its request waits leaves the queue. Websockets get a snapshot for reading.

    Middlewares that keep sessions, too, are named as the application starts, or at its first request; so is a store
    that cannot be reached.

    Raises:
        ConfigurationError: an option or URL that makes no sense. When called: another session middleware takes this
            one's place.
    """

    def __init__(
        self,
        app: App,
        guard: SessionGuard | str | None = None,
        *,
        cookie: CookieSettings | str | None = None,
        **options: Unpack[FaceOptions],
    ) -> None:
        try:
            check_arguments(guard=guard, cookie=cookie, **options)
        except ConfigurationError as error:  # the frameworks make their middlewares late, where servers swallow it
            log.error("SessionLockMiddleware: %s", error)
            raise
        self.app = app
        self._url = guard if isinstance(guard, str) else None
        self._own_guard = SessionGuard.from_url(guard) if isinstance(guard, str) else None
        self._guard = self._own_guard or guard
        self.cookie: CookieSettings = CookieSettings(cookie) if isinstance(cookie, str) else cookie or CookieSettings()
        self.face: FaceSettings = FaceSettings.of(options)
        self._codec: tuple[SessionGuard, Codec] | None = None
        self._checked = False
        self._wrong: ConfigurationError | None = None
        self._told: set[str] = set()

    @property
    def guard(self) -> SessionGuard:
        guard = self._guard
        assert not isinstance(guard, str)
        return guard or default_guard()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        kind = scope["type"]
        if kind == "lifespan":
            await self._lifespan(scope, receive, send)
        elif kind not in ("http", "websocket"):
            await self.app(scope, receive, send)
        else:
            await self._check(scope.get("app"))
            if self._stands_aside(scope):
                await self.app(scope, receive, send)
            else:
                await self._request(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        http = scope["type"] == "http"
        method, path = scope["method"] if http else "WEBSOCKET", _path(scope)
        policy = self.face.rules.policy_for(method, path)
        if policy.mode == "off":
            await self.app(scope, receive, send)
            return
        if "session" in scope:
            scope = self._beside(scope)
        scope[OURS] = self, scope.get("root_path", "")
        cookies, origin = header_of(scope, b"cookie", "; "), self.face.origin
        asked = Asked.of(
            self.guard,
            self.cookie,
            policy if http else RoutePolicy("read"),
            self.cookie.find(cookies),
            method=method,
            path=path,
            route=partial(route_of_scope, dict(scope), self.app),
            https=scope.get("scheme") in ("https", "wss"),
            client=partial(client_of_scope, scope),
            rules=self.face.rules,
            identity=self.face.identity,
            codec=self.codec(scope),
            origin=origin,
            old_cookie=value_of(cookies, origin.cookie or self.cookie.name) if origin is not None else None,
        )
        visit = RequestSession(asked)
        if not http:
            await self._websocket(visit, scope, receive, send)
            return
        exchange = Exchange(
            visit,
            self.face.problems,
            scope,
            receive,
            send,
            around=self._around_answers,
            settling=self.settling,
            comes_back=bool(cookies),
        )
        await exchange.run(self.app)

    async def _websocket(self, visit: RequestSession, scope: Scope, receive: Receive, send: Send) -> None:
        """A websocket may live for hours: it gets the session as it stands, and no lock."""
        try:
            await visit.open()
        except SessionLockError as error:
            problem = self.face.problems.answer(error, header_of(scope, b"accept", ", "))
            if problem is None:
                raise
            tell(error, visit.label)
            return await _deny(problem, scope, send)
        session = visit.session
        if session.new:
            session.has_no_id()
        visit.settle_as_snapshot(
            "is a snapshot for this websocket; change it in a short `async with guard.session_lock(sid)`"
        )
        scope["session"], scope[VISIT] = visit.mapping, visit
        await self.app(scope, receive, send)
        visit.tell_unsaved()

    # --- for frameworks

    def codec(self, scope: Scope) -> Codec:
        """What the application may put into its session: here, what Starlette's own takes."""
        guard = self.guard
        if self._codec is None or self._codec[0] is not guard:
            self._codec = guard, for_framework(guard.codec, json.dumps, json.loads)
        return self._codec[1]

    def settling(self, scope: Scope, visit: RequestSession) -> None:
        """The answer begins, and ``visit`` is about to be finished. What was put into the scope is not ours to take."""
        found = scope.get("session")
        if found is visit.mapping or found is None or scope.get("root_path", "") != scope[OURS][1]:
            return  # an application that is mounted below keeps sessions of its own
        if "litestar_app" in scope:
            import_module("sessionlock.integrations.litestar").take(scope, visit)  # it is there, then
        else:
            self._tell(taken_by_another(found))

    # --- the set-up

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            kind = message["type"]
            if kind == "lifespan.startup.complete":
                await look_at_start(self.guard)
            elif kind in ("lifespan.shutdown.complete", "lifespan.shutdown.failed"):
                if self._own_guard is not None:
                    await self._own_guard.aclose()
                if self.face.origin is not None:
                    await self.face.origin.aclose()
            await send(message)

        self._checked = True
        self._find_mistakes(scope.get("app"))
        if self._wrong is not None:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(self._wrong)})
            raise self._wrong
        await self.app(scope, receive, sending)

    async def _check(self, scope_app: object) -> None:
        """Where nobody told that the application starts (a mounted one, some servers): at the first request."""
        if not self._checked:
            self._checked = True
            self._find_mistakes(scope_app)
            if self._wrong is None:
                await look_at_start(self.guard)
        if self._wrong is not None:
            raise self._wrong

    def _find_mistakes(self, scope_app: object) -> None:
        self._around_answers = around(self.app)
        wrong = misplaced(self, self.app, scope_app)
        if any(isinstance(one, SessionLockMiddleware) and not self._is_like(one) for one in layers(self.app)):
            wrong.append(TWICE)
        if wrong:
            self._wrong = ConfigurationError("; ".join(wrong))
            log.error("%s", self._wrong)

    def _tell(self, what: str) -> None:
        """Once."""
        if what not in self._told:
            self._told.add(what)
            log.error("%s", what)

    def _stands_aside(self, scope: Scope) -> bool:
        """Whether one of these middlewares is outside already, with whose session this one can do.

        Raises:
            ConfigurationError: the two are for the same application or cookie, and set up in different ways.
        """
        outer, root = scope.get(OURS, (None, ""))
        if outer is None:
            return False
        if self._is_like(outer):
            self._tell(
                "SessionLockMiddleware stands around itself: the outer one does all the work. Remove the inner one"
            )
            return True
        if self.cookie.name != outer.cookie.name and scope.get("root_path", "") != root:
            return False  # a mounted application with another kind of session
        raise ConfigurationError(TWICE)

    def _is_like(self, other: SessionLockMiddleware) -> bool:
        same = self._guard is other._guard or (self._url is not None and self._url == other._url)
        return same and self.cookie == other.cookie

    def _beside(self, scope: Scope) -> Scope:
        """A scope of our own, where somebody outside has a session in it: he is to find that there, not ours."""
        if OURS not in scope and not is_mounted(scope):
            self._tell(outside(scope["session"]))
        return {**scope}


def visit_of(scope: Scope) -> RequestSession | None:
    """The visit that the middleware has opened for this request, if it has."""
    visit: RequestSession | None = scope.get(VISIT)
    return visit


async def _deny(problem: Problem, scope: Scope, send: Send) -> None:
    """Refuse a websocket's handshake: with the problem where the server can send one, else with a code."""
    if "websocket.http.response" not in (scope.get("extensions") or {}):
        return await send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in problem.headers()]
    await send({"type": "websocket.http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": problem.content()})
    return None


def _path(scope: Scope) -> str:
    """Within the application: without the root path, which servers leave in front of it."""
    path, root = str(scope["path"]), str(scope.get("root_path", "")).rstrip("/")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path
