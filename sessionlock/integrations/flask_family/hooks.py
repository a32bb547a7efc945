"""The hooks of a session interface, as far as they wait for nothing: which guard, which visit, which cookie."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ...codecs.base import Codec
from ...default import default_guard
from ...guard import SessionGuard
from ...policies import SessionPolicy
from ...views.cookies import CookieSettings, usable_sid
from ..settings.options import FaceSettings
from ..web.asked import Asked
from ..web.request_session import RequestSession
from ..web.rules import RoutePolicy
from ..web.values import for_framework
from .application import AppSettings, tell_late

if TYPE_CHECKING:
    from .use import Use

__all__ = ["SessionHooks"]

SHORTEST = 0.01  # seconds that a session lives; the frameworks' own take 0 and less, too
# The frameworks' own settings make the cookie, and say when it is sent.
FRAMEWORKS_OWN = CookieSettings(rolling=False)


class SessionHooks:
    """What stands in ``app.session_interface``, before the framework's own class. The guard is looked for when a
    session is asked for first.
    """

    if TYPE_CHECKING:  # the framework's
        serializer: Any
        get_cookie_name: Callable[[Any], str]
        get_cookie_path: Callable[[Any], str]
        get_cookie_domain: Callable[[Any], str | None]
        get_cookie_secure: Callable[[Any], bool]
        get_cookie_httponly: Callable[[Any], bool]
        should_set_cookie: Callable[[Any, Any], bool]

    def __init__(self, app: Any, settings: AppSettings) -> None:
        # What the application said as it was set up.
        self._guard_or_url = settings.guard_or_url
        self._said = settings.said(app)
        self.settings: FaceSettings = settings.read(app)
        # What comes of it when a session is asked for first.
        self._guard: SessionGuard | None = None
        self._owns_guard = False
        self._codec: Codec

    # --- the guard

    def _guard_for(self, app: Any) -> SessionGuard:
        raise NotImplementedError

    def _find_guard(self, app: Any, inner: Callable[[object], SessionGuard]) -> SessionGuard:
        """``inner`` makes of what was handed over the guard that is used.

        Raises:
            ConfigurationError: there is none, or its URL makes no sense.
        """
        tell_late(app, self._said)
        given = self._guard_or_url or app.config.get("SESSION_LOCK_URL") or default_guard()
        self._owns_guard = isinstance(given, str)
        if isinstance(given, str):
            guard = SessionGuard.from_url(given, session=SessionPolicy(idle=_idle(app)))
        else:
            guard = inner(given)
        self._codec = for_framework(guard.codec, self.serializer.dumps, self.serializer.loads)
        self._guard = guard
        return guard

    def kept(self, app: Any) -> tuple[SessionGuard, Codec]:
        """The guard of this application's sessions, and how their values are written."""
        guard = self._guard_for(app)
        return guard, self._codec

    def url_of(self, app: Any) -> str | None:
        """Where they live, if that was said by a URL."""
        given = self._guard_or_url or app.config.get("SESSION_LOCK_URL")
        return given if isinstance(given, str) else None

    # --- the visit

    def _policy(self, app: Any, request: Any, endpoint: str | None) -> RoutePolicy:
        view = app.view_functions.get(endpoint or "")
        return self.settings.rules.policy_for(request.method, request.path, view)

    def _sid(self, app: Any, request: Any) -> str | None:
        return usable_sid(request.cookies.get(self.get_cookie_name(app)))

    def _make_visit(
        self,
        app: Any,
        request: Any,
        policy: RoutePolicy,
        *,
        takes_over: bool,
        on_loss: Callable[[], object] | None = None,
        **more: Any,
    ) -> RequestSession:
        """``takes_over``: a session that the visitor has elsewhere becomes one here. ``on_loss``: as
        :class:`.RequestSession` has it. ``more``: what else :meth:`.Asked.of` takes.
        """
        guard, off = self._guard_for(app), policy.mode == "off"
        origin = self.settings.origin if takes_over and not off else None
        asked = Asked.of(
            guard,
            FRAMEWORKS_OWN,
            replace(policy, mode="read") if off else policy,
            None if off else self._sid(app, request),
            path=request.path,
            codec=self._codec,
            lifetime=self._lifetime(app, locked=policy.mode_for(request.method) == "lock"),
            origin=origin,
            old_cookie=None if origin is None else request.cookies.get(origin.cookie or self.get_cookie_name(app)),
            **more,
        )
        return RequestSession(asked, on_loss=on_loss)

    # --- how long a session lives

    def _lifetime(self, app: Any, *, locked: bool = False) -> SessionPolicy:
        """By what the application's settings say now. ``locked``: the request takes the lock, and with it begins the
        session's life anew, at no cost.

        ``PERMANENT_SESSION_LIFETIME`` seconds; a guard that was handed over with another ``idle`` than the default may
        shorten that. Without ``SESSION_REFRESH_EACH_REQUEST`` they are counted from the last change.
        """
        idle, policy = _idle(app), (self._guard or self._guard_for(app)).session_policy
        if not self._owns_guard and policy.idle != SessionPolicy().idle:
            idle = min(idle, policy.idle)
        below = (1.0 if locked else policy.refresh_below) if app.config["SESSION_REFRESH_EACH_REQUEST"] else 0.0
        return replace(policy, idle=idle, refresh_below=below)

    def _live(self, app: Any, use: Use) -> float | None:
        """Seconds for which the record is to live from now on, as its cookie will: as the settings say now.

        None where its end is to move as little as the cookie's, and where it has that life already.
        """
        assert use.visit is not None
        lifetime, session, idle = use.visit.lifetime, use.visit.session, self._lifetime(app).idle
        begun_anew = session.lease is not None and lifetime.refresh_below == 1 and use.visit.age < idle / 100
        if idle == lifetime.idle and (session.new or begun_anew):
            return None
        permanent, refresh = use.is_permanent, app.config["SESSION_REFRESH_EACH_REQUEST"]
        # A session that ends with the browser, and is renewed by being used, needs no renewal for each change.
        changed = use.forced or (use.modified and (permanent or use.was_permanent or not refresh))
        return idle if changed or (permanent and refresh) else None

    # --- the cookie

    def get_cookie_samesite(self, app: Any) -> str:
        """Not every browser takes a missing attribute for Lax, and without it other sites can use the session."""
        framework: Any = super()
        return framework.get_cookie_samesite(app) or "Lax"

    def get_expiration_time(self, app: Any, session: Any) -> datetime | None:
        """The cookie ends with the record."""
        if not session.permanent:
            return None
        return datetime.now(timezone.utc) + timedelta(seconds=self._lifetime(app).idle)

    def _tell_headers(self, app: Any, session: Any, visit: RequestSession | None, response: Any) -> None:
        """Set or delete the cookie, as the framework's settings say, and tell caches that the answer depends on it."""
        if visit is not None and self._tell_cookie(app, session, visit, response):
            session.accessed = True
        if session.accessed:
            response.vary.add("Cookie")

    def _tell_cookie(self, app: Any, session: Any, visit: RequestSession, response: Any) -> bool:
        name = self.get_cookie_name(app)
        if visit.answer.clears_cookie:
            response.delete_cookie(name, **self._cookie(app, type(response)))
            return True
        if not visit.answer.has_new_id and not (visit.answer.may_tell_again and self.should_set_cookie(app, session)):
            return False
        expires = self.get_expiration_time(app, session)
        response.set_cookie(name, visit.session.sid, expires=expires, **self._cookie(app, type(response)))
        return True

    def _cookie(self, app: Any, response_class: Any) -> dict[str, Any]:
        settings = {
            "path": self.get_cookie_path(app),
            "domain": self.get_cookie_domain(app),
            "secure": self.get_cookie_secure(app),
            "httponly": self.get_cookie_httponly(app),
            "samesite": self.get_cookie_samesite(app),
        }
        if app.config.get("SESSION_COOKIE_PARTITIONED") and _knows_partitioned(response_class):
            settings["partitioned"] = True
        return settings


def _idle(app: Any) -> float:
    return max(float(app.permanent_session_lifetime.total_seconds()), SHORTEST)


@lru_cache(maxsize=8)
def _knows_partitioned(response_class: Any) -> bool:
    """Since Flask 3.1 and Werkzeug 3.1; before there was no such setting."""
    return "partitioned" in inspect.signature(response_class.set_cookie).parameters
