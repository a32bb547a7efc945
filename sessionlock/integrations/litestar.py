"""Litestar: a session backend of its own kind, so that ``SessionAuth``, ``FlashPlugin``, ``skip_session`` work as ever.

::

    sessions = SessionLockConfig("redis://localhost:6379/0")
    app = Litestar(handlers, plugins=[SessionLockPlugin(sessions)])       # or middleware=[sessions.middleware]

    @post("/cart")
    async def add(request: Request) -> None:                              # locked, loaded; saved as the answer begins
        request.session.setdefault("cart", []).append("A")

``request.session`` is a dict, ``request.session.sessionlock`` the :class:`sessionlock.Session` behind it.
``set_session()`` and ``clear_session()`` are what Litestar says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypedDict

from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType
from litestar.middleware.base import DefineMiddleware
from litestar.middleware.session.base import BaseBackendConfig, BaseSessionBackend, SessionMiddleware
from litestar.openapi import ResponseSpec
from litestar.plugins import InitPlugin, ReceiveRoutePlugin
from litestar.routes import BaseRoute, HTTPRoute
from litestar.serialization import decode_json, default_serializer, encode_json
from litestar.types import Empty, Scopes
from litestar.utils import get_serializer_from_scope
from litestar.utils.scope.state import ScopeState

from ..codecs.base import Codec
from ..default import default_guard
from ..errors import SessionNotFound
from ..guard import SessionGuard
from ..policies import LeasePolicy, SessionPolicy, WaitPolicy
from ..views.cookies import CookieSettings, usable_sid
from .asgi.middleware import SessionLockMiddleware
from .settings import check_arguments
from .settings.options import FaceOptions, FaceSettings
from .takeover.taking import Origin
from .web.identity import IDENTITY
from .web.openapi import described
from .web.problems import JSON, Problems
from .web.request_session import RequestSession
from .web.rules import Mode, OnConflict, RoutePolicy, Rules
from .web.starting import look_at_start
from .web.values import for_framework

__all__ = ["SessionLockBackend", "SessionLockConfig", "SessionLockPlugin"]

AS_IT_CAME = "sessionlock.litestar"  # what Litestar knew of the request before the application saw it


class SessionLockBackend(BaseSessionBackend["SessionLockConfig"]):
    """What Litestar asks for sessions outside of a request (its test client does): each call is complete in itself."""

    def get_session_id(self, connection: ASGIConnection[Any, Any, Any, Any]) -> str | None:
        """The id that the request came with; None for none that can be one."""
        return usable_sid(connection.cookies.get(self.config.key))

    async def load_from_connection(self, connection: ASGIConnection[Any, Any, Any, Any]) -> dict[str, Any]:
        """The session as it stands; empty for an unknown one."""
        sid = self.get_session_id(connection)
        try:
            async with self.config.session_guard.session_lock(
                sid or "", mode="read", missing="reject", codec=_codec(self.config.session_guard, connection.scope)
            ) as session:
                return dict(session)
        except (SessionNotFound, ValueError):
            return {}

    async def store_in_message(
        self, scope_session: Any, message: Any, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> None:
        """Make ``scope_session`` the session's content, under its lock, and tell the cookie in ``message``."""
        guard, cookie = self.config.session_guard, self.config.cookie
        sid, headers = self.get_session_id(connection), MutableScopeHeaders.from_message(message)
        codec = _codec(guard, connection.scope)
        if scope_session is Empty or not scope_session:
            if sid is not None:
                await guard.destroy(sid)
            headers.add("Set-Cookie", cookie.render_deletion())
            return
        content = _as_dict(scope_session, connection.scope)
        try:
            async with guard.session_lock(sid or "", missing="reject", codec=codec) as session:
                _fill(session, content)
        except (SessionNotFound, ValueError):
            session = await guard.create(content, codec=codec)
        headers.add("Set-Cookie", cookie.lasting(guard.session_policy.idle).render(session.sid))


@dataclass
class SessionLockConfig(BaseBackendConfig[SessionLockBackend]):
    """``guard``: a guard, or a URL for one of its own, whose sessions live ``max_age`` seconds after their last use;
    None: that of :func:`sessionlock.configure`. ``key`` to ``exclude_opt_key``: the cookie and the exceptions, as
    Litestar's other configurations have them. The rest: as :class:`.asgi.SessionLockMiddleware` has it.

    Raises:
        ConfigurationError: a value that makes no sense.
    """

    _backend_class = SessionLockBackend

    guard: SessionGuard | str | None = None
    key: str = "session"
    max_age: int = 14 * 86_400
    scopes: Scopes = field(default_factory=lambda: {ScopeType.HTTP, ScopeType.WEBSOCKET})
    path: str = "/"
    domain: str | None = None
    secure: bool | Literal["auto"] = "auto"  # type: ignore[assignment]  # more than Litestar's own
    httponly: bool = True
    samesite: Literal["lax", "strict", "none"] = "lax"
    exclude: str | list[str] | None = None
    exclude_opt_key: str = "skip_session"
    mode: Mode = "auto"
    routes: Mapping[str, RoutePolicy | Mode] | None = None
    wait: WaitPolicy | float | None = None
    lease: LeasePolicy | float | None = None
    save_on_error: bool = False
    body_limit: int | None = None
    on_conflict: OnConflict | None = None
    identity: Iterable[str] = IDENTITY
    problems: Problems | None = None
    read_from: Origin | None = None

    def __post_init__(self) -> None:
        options = {name: getattr(self, name) for name in FaceOptions.__annotations__}
        check_arguments(**options, guard=self.guard)
        self.cookie: CookieSettings = CookieSettings(
            self.key,
            max_age=self.max_age if isinstance(self.guard, str) else "idle",
            path=self.path,
            domain=self.domain,
            secure=self.secure,
            httponly=self.httponly,
            samesite=self.samesite,
        )
        self.rules: Rules = FaceSettings.of(options).rules
        self.checked = False
        if isinstance(self.guard, str):
            self.session_guard  # noqa: B018  # a URL that cannot be understood is an error now

    @cached_property
    def session_guard(self) -> SessionGuard:
        """The guard of all routes: Litestar makes a middleware for each."""
        if isinstance(self.guard, str):
            return SessionGuard.from_url(self.guard, session=SessionPolicy(idle=self.max_age))
        return self.guard or default_guard()

    @property
    def middleware(self) -> DefineMiddleware:
        """For ``middleware=[...]`` of any layer."""
        return DefineMiddleware(LockedSessionMiddleware, backend=SessionLockBackend(config=self))

    async def aclose(self) -> None:
        """Close what was opened for a URL."""
        if isinstance(self.guard, str):
            await self.session_guard.aclose()
        if self.read_from is not None:
            await self.read_from.aclose()


class SessionLockPlugin(InitPlugin, ReceiveRoutePlugin):
    """The configuration's middleware for the whole application; what was opened for it is closed with the application.
    The application's OpenAPI tells what a session may answer (409, 413, 429, 503, or what ``problems`` makes of them).

    Put it before plugins that need a session (``FlashPlugin``).
    """

    def __init__(self, config: SessionLockConfig) -> None:
        self.config = config

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        app_config.middleware = [self.config.middleware, *app_config.middleware]
        app_config.on_startup = [*app_config.on_startup, self._look]
        app_config.on_shutdown = [*app_config.on_shutdown, self.config.aclose]
        return app_config

    def receive_route(self, route: BaseRoute) -> None:
        """Of each route that uses its session, by the configuration's rules; what it declares itself stays."""
        for handler in route.route_handlers if isinstance(route, HTTPRoute) else ():
            if handler.opt.get(self.config.exclude_opt_key):
                continue
            answers: dict[str, Any] = {}
            for method in handler.http_methods:
                policy = self.config.rules.policy_for(method, route.path, handler.fn)
                answers.update(described(self.config.problems or Problems(), policy))
            told = {int(status): _response(answer) for status, answer in answers.items()}
            handler.responses = {**told, **(handler.responses or {})}

    async def _look(self) -> None:
        """Whether the store answers is told as the application starts."""
        await _look(self.config)


class ProblemDetails(TypedDict):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str


def _response(answer: Mapping[str, Any]) -> ResponseSpec:
    return ResponseSpec(ProblemDetails, generate_examples=False, description=answer["description"], media_type=JSON)


class LockedSessionMiddleware(SessionMiddleware[SessionLockBackend]):
    """Litestar's session middleware to those who ask; inside, ours does the work."""

    def __init__(self, app: Any, backend: SessionLockBackend) -> None:
        super().__init__(app, backend)
        self._ours = _Middleware(app, backend.config)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._ours(scope, receive, send)


class _Middleware(SessionLockMiddleware):
    """Of one route."""

    def __init__(self, app: Any, config: SessionLockConfig) -> None:
        async def known_to_litestar(scope: Any, receive: Any, send: Any) -> None:
            _begin_run(scope)
            await app(scope, receive, send)

        super().__init__(
            known_to_litestar,
            config.session_guard,
            cookie=config.cookie,
            identity=config.identity,
            problems=config.problems,
            read_from=config.read_from,
        )
        self.face = replace(self.face, rules=config.rules)
        self._around_answers = lambda answer: answer
        self._config = config

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self._config.checked:
            self._config.checked = True
            await _look(self._config)
        self._checked = True  # Litestar builds its stack anew for each route: what stands around is not ours to judge
        known = ScopeState.from_scope(scope)
        scope[AS_IT_CAME] = {name: getattr(known, name) for name in ScopeState.__slots__}
        await super().__call__(scope, receive, send)

    def codec(self, scope: Any) -> Codec:
        return _codec(self.guard, scope)

    def settling(self, scope: Any, visit: RequestSession) -> None:
        if scope.get("session") is not visit.mapping:
            take(scope, visit)


def take(scope: Any, visit: RequestSession) -> None:
    """``set_session()`` and ``clear_session()`` put what they are given in the session's place."""
    found = scope.get("session")
    if found is Empty or found is None:
        visit.session.clear()
    else:
        _fill(visit.session, _as_dict(found, scope))


def _begin_run(scope: Any) -> None:
    """What Litestar has cached of an earlier run of this request is not this one's; and it wants to know the id."""
    known = ScopeState.from_scope(scope)
    for name, value in scope[AS_IT_CAME].items():
        setattr(known, name, value.copy() if isinstance(value, (dict, list)) else value)
    known.session_id = scope["session"].sessionlock.sid or None


def _fill(session: Any, content: Mapping[str, Any]) -> None:
    """``content`` and nothing else. Who is logged in may have changed by that; the visit sees it."""
    for key, _ in list(session.data.items()):
        if key not in content:
            del session[key]
    session.update(content)


def _as_dict(value: Any, scope: Any) -> dict[str, Any]:
    """What Litestar would find there at the next request: also of a model or a dataclass."""
    if isinstance(value, dict):
        return dict(value)
    return dict(decode_json(encode_json(value, get_serializer_from_scope(scope))))


def _codec(guard: SessionGuard, scope: Any) -> Codec:
    """All that Litestar can encode can be stored, with the application's own encoders."""
    serializer = get_serializer_from_scope(scope) if "app" in scope else default_serializer
    return for_framework(guard.codec, lambda value: encode_json(value, serializer).decode(), decode_json)


async def _look(config: SessionLockConfig) -> None:
    config.checked = True
    await look_at_start(config.session_guard)
