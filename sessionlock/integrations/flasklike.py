"""What the faces of Flask and Quart have in common: settings, cookie, messages; the two frameworks agree in these."""

from __future__ import annotations

import inspect
import logging
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from ..errors import ConfigurationError
from ..guard import SessionGuard
from ..policies import SessionPolicy
from .settings import PREFIX, check_arguments, check_names, checked, names_of, without_effect
from .settings.options import FaceOptions, FaceSettings
from .web.identity import IDENTITY
from .web.problems import stays
from .web.request_session import Visit
from .web.rules import RoutePolicy, Rules

__all__ = [
    "FLASHES",
    "Settings",
    "become",
    "expect_no_other",
    "expect_still_there",
    "flashes_in",
    "flashes_out",
    "guard_for",
    "lifetime_of",
    "live_of",
    "mix_in",
    "policy_for",
    "tell_cookie",
    "tell_late",
]

log = logging.getLogger("sessionlock.web")

CONFIG = names_of("config")
SHORTEST = 0.01  # seconds that a session lives; Flask's own takes 0 and less, too
FLASHES = "_flashes"  # where flash() keeps its messages
# Who is logged in, by the extensions of both: Flask-Principal, Flask-OIDC, Flask-CAS, Flask-SimpleLogin, and by the
# older tutorials.
EXTENSIONS_IDENTITY = (*IDENTITY, "identity.id", "oidc_auth_profile", "CAS_USERNAME", "simple_username", "logged_in")


class Settings:
    """Arguments of an extension; where they say nothing, ``app.config["SESSION_LOCK_…"]``, the name in capitals."""

    def __init__(self, url: object, options: FaceOptions) -> None:
        """``url``: a guard, a URL, or None."""
        check_arguments(**{name: None for name in options})
        self._given: Mapping[str, Any] = {"url": url, **options}

    def told(self, app: Any, name: str) -> Any:
        """None when nobody says anything about it.

        Raises:
            ConfigurationError: a value that makes no sense, by the name under which it was said.
        """
        given = self._given.get(name)
        if given is not None:
            return checked(name, given)
        spelled = PREFIX + name.upper()
        return checked(name, app.config.get(spelled), spelled)

    def said(self, app: Any) -> dict[str, Any]:
        """What the configuration says now, for :func:`tell_late`; without the URL, which may be said later.

        Raises:
            ConfigurationError: a ``SESSION_LOCK_…`` that does not exist; a URL that makes no sense.
        """
        check_names(app.config, "config")
        self.told(app, "url")
        idle = without_effect(app.config, {*type(app).default_config, "SESSION_COOKIE_PARTITIONED"})
        if idle:
            log.warning("without effect, for SessionLock keeps the sessions: %s", ", ".join(idle))
        return _said(app)

    def read(self, app: Any) -> FaceSettings:
        """All of it, as it is now."""
        said = {name: self.told(app, name) for name in FaceOptions.__annotations__}
        return FaceSettings.of(said, identity=EXTENSIONS_IDENTITY)


def tell_late(app: Any, said: Mapping[str, Any]) -> None:
    """The first session is asked for: what the configuration says by now, and did not say to the extension, is told.

    Raises:
        ConfigurationError: a ``SESSION_LOCK_…`` that does not exist.
    """
    check_names(app.config, "config")
    late = sorted(name for name, value in _said(app).items() if said.get(name) != value)
    if late:
        log.error(
            "%s came into app.config after SessionLock(app), without effect: say it before, or use init_app later",
            ", ".join(late),
        )


def _said(app: Any) -> dict[str, Any]:
    return {name: value for name, value in app.config.items() if name in CONFIG and name != f"{PREFIX}URL"}


def guard_for(app: Any, url: str) -> SessionGuard:
    """A guard of the application's own; its sessions live ``PERMANENT_SESSION_LIFETIME`` after their last request."""
    idle = max(app.permanent_session_lifetime.total_seconds(), SHORTEST)
    return SessionGuard.from_url(url, session=SessionPolicy(idle=idle))


def policy_for(app: Any, rules: Rules, request: Any, endpoint: str | None) -> RoutePolicy:
    """What holds for this request: what its view says, and where that says nothing, the rules."""
    return rules.policy_for(request.method, request.path, app.view_functions.get(endpoint or ""))


def lifetime_of(app: Any, guard: SessionGuard, *, own: bool, locked: bool = False) -> SessionPolicy:
    """How long sessions live by what the application's settings say now. ``own``: the guard says nothing itself.
    ``locked``: the request takes the lock, and with it begins the session's life anew, at no cost.

    ``PERMANENT_SESSION_LIFETIME`` seconds; a guard that was handed over with another ``idle`` than the default may
    shorten that. Without ``SESSION_REFRESH_EACH_REQUEST`` they are counted from the last change.
    """
    idle = max(app.permanent_session_lifetime.total_seconds(), SHORTEST)
    policy = guard.session_policy
    if not own and policy.idle != SessionPolicy().idle:
        idle = min(idle, policy.idle)
    below = (1.0 if locked else policy.refresh_below) if app.config["SESSION_REFRESH_EACH_REQUEST"] else 0.0
    return replace(policy, idle=idle, refresh_below=below)


def live_of(app: Any, visit: Visit, idle: float, *, modified: bool, permanent: bool) -> float | None:
    """Seconds for which the record is to live from now on, as its cookie will: ``idle``, as the settings say now.

    None where its end is to move as little as the cookie's, and where it has that life already.
    """
    lifetime, session = visit.lifetime, visit.session
    begun_anew = session.lease is not None and lifetime.refresh_below == 1 and visit.age < idle / 100
    if idle == lifetime.idle and (session.new or begun_anew):
        return None
    return idle if modified or (permanent and app.config["SESSION_REFRESH_EACH_REQUEST"]) else None


# --- the application


def expect_no_other(app: Any, own: type[Any], extension: str) -> None:
    """``own``: the session interface that its framework begins with.

    Raises:
        ConfigurationError: the application has its sessions by another one, or by ours already.
    """
    if extension in app.extensions:
        raise ConfigurationError(
            "SessionLock guards this application already. Call it once: SessionLock(app), or init_app(app)"
        )
    other = type(app.session_interface)
    if other is not own:
        raise ConfigurationError(
            f"this application keeps its sessions by {other.__module__}.{other.__qualname__} already, and only one"
            " can. Leave that out (the Session(app) of another extension, say), or SessionLock"
        )


def expect_still_there(app: Any, interface: Any) -> None:
    """At a request.

    Raises:
        ConfigurationError: something else took this interface's place.
    """
    if app.session_interface is not interface:
        other = type(app.session_interface)
        raise ConfigurationError(
            f"SessionLock guards this application, but {other.__module__}.{other.__qualname__} was put in its"
            " place afterwards, so nothing would be locked. Leave one of them out: another extension's"
            " Session(app), say"
        )


def mix_in(thing: Any, kind: type[Any]) -> None:
    """Make ``thing`` (an application, say) a ``kind``, while it is still of its own class."""
    own = type(thing)
    known = _mixed.get(own)
    mixed = known() if known is not None else None
    if mixed is None:
        told = {name: getattr(own, name) for name in ("__module__", "__qualname__", "__doc__")}
        mixed = type(own.__name__, (kind, own), told)
        _mixed[own] = weakref.ref(mixed)
    thing.__class__ = mixed


_mixed: weakref.WeakKeyDictionary[type[Any], weakref.ref[type[Any]]] = weakref.WeakKeyDictionary()


# --- the cookie


def tell_cookie(interface: Any, app: Any, session: Any, visit: Visit, response: Any) -> bool:
    """Set or delete the cookie as the framework's settings say; whether it did. ``interface``: whom they ask."""
    name, settings = interface.get_cookie_name(app), _cookie(interface, app, type(response))
    if visit.clears_cookie:
        response.delete_cookie(name, **settings)
        return True
    if not _gives_cookie(interface, app, session, visit):
        return False
    expires = interface.get_expiration_time(app, session)
    response.set_cookie(name, visit.session.sid, expires=expires, **settings)
    return True


def _gives_cookie(interface: Any, app: Any, session: Any, visit: Visit) -> bool:
    if visit.has_new_id:
        return True  # a new session, or a new id
    # Never an id that was replaced meanwhile, and never without the record: both live on together.
    return visit.rolled and visit.saved and not visit.by_old_id and bool(interface.should_set_cookie(app, session))


def _cookie(interface: Any, app: Any, response_class: Any) -> dict[str, Any]:
    settings = {
        "path": interface.get_cookie_path(app),
        "domain": interface.get_cookie_domain(app),
        "secure": interface.get_cookie_secure(app),
        "httponly": interface.get_cookie_httponly(app),
        # Not every browser takes a missing attribute for Lax, and without it other sites can use the session.
        "samesite": interface.get_cookie_samesite(app) or "Lax",
    }
    if app.config.get("SESSION_COOKIE_PARTITIONED") and _knows_partitioned(response_class):
        settings["partitioned"] = True
    return settings


@lru_cache(maxsize=8)
def _knows_partitioned(response_class: Any) -> bool:
    """Since Flask 3.1 and Werkzeug 3.1; before there was no such setting."""
    return "partitioned" in inspect.signature(response_class.set_cookie).parameters


# --- another answer in the place of one that is ready


def become(response: Any, other: Any) -> None:
    """Let the response that the framework holds say what ``other`` says.

    What the application's hooks have put into its headers stays (CORS, cookies), except what tells of its body.
    """
    close = getattr(response.response, "close", None)
    if close is not None and hasattr(response, "call_on_close"):
        response.call_on_close(close)
    before, varies, after = response.headers, response.vary, other.headers
    kept = [(name, value) for name, value in before if name.lower() == "set-cookie" or name not in after]
    response.direct_passthrough = False
    response.status = other.status
    response.headers = after
    response.response = other.response
    response.headers.extend((name, value) for name, value in kept if stays(name))
    response.vary.update(varies)


# --- messages


def flashes_in(messages: Any) -> Any:
    """Markup stays markup in the store, where only plain text is known."""
    return [
        [category, str(message), "html"] if isinstance(message, Markup) else [category, message]
        for category, message in messages
    ]


def flashes_out(stored: Any) -> list[tuple[str, Any]]:
    return [(category, Markup(message) if html else message) for category, message, *html in stored]
