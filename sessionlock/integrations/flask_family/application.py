"""An application of Flask's or Quart's as it is set up: what it says about its sessions, and what it becomes."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ...errors import ConfigurationError
from ..settings import PREFIX, check_arguments, check_names, checked, names_of, without_effect
from ..settings.options import FaceOptions, FaceSettings
from ..web.identity import IDENTITY

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["EXTENSION", "AppSettings", "Extension", "expect_no_other", "expect_still_there", "mix_in", "tell_late"]

log: logging.Logger = logging.getLogger("sessionlock.web")

EXTENSION = "session_lock"  # in app.extensions
CONFIG = names_of("config")
# Who is logged in, by the extensions of both: Flask-Principal, Flask-OIDC, Flask-CAS, Flask-SimpleLogin, and by the
# older tutorials.
EXTENSIONS_IDENTITY = (*IDENTITY, "identity.id", "oidc_auth_profile", "CAS_USERNAME", "simple_username", "logged_in")

App = TypeVar("App")
Guard = TypeVar("Guard")


class Extension(Generic[App, Guard]):
    """The extension. Arguments win over ``app.config["SESSION_LOCK_…"]``, whose names are the same in capitals.

    ``guard_or_url`` (``SESSION_LOCK_URL``), or ``guard``: a guard, or a URL for one of its own, which is closed with
    the application; None: that of :func:`sessionlock.configure`. The other options: :class:`.FaceOptions`. What errors
    of the session become is also ``app.errorhandler(WaitTimedOut)``'s and the like to say, which win over ``problems``.

    How long sessions live is the framework's to say, at each request: ``PERMANENT_SESSION_LIFETIME`` and
    ``SESSION_REFRESH_EACH_REQUEST``, for cookie and record together. A guard's own ``SessionPolicy(idle=…)`` counts
    where it is shorter (and not the default), its ``absolute`` always. The cookie is the framework's
    (``SESSION_COOKIE_…``), only that ``SESSION_COOKIE_SAMESITE`` None means Lax here.

    Raises:
        ConfigurationError: a value that makes no sense; an application that has another session interface, or this one
            already.
    """

    def __init__(
        self,
        app: App | None = None,
        guard_or_url: Guard | str | None = None,
        *,
        guard: Guard | str | None = None,
        **options: Unpack[FaceOptions],
    ) -> None:
        if guard_or_url is not None and guard is not None:
            raise TypeError("a guard or URL is given twice: as the first argument after the application, and as guard=")
        self._settings = AppSettings(guard_or_url if guard_or_url is not None else guard, options)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: App) -> None:
        """Put the locked session in the place of ``app``'s own. Raises as the class says."""
        raise NotImplementedError


class AppSettings:
    """Arguments of an extension; where they say nothing, ``app.config["SESSION_LOCK_…"]``, the name in capitals.

    ``url``: a guard, a URL, or None, kept as :attr:`guard_or_url`.
    """

    def __init__(self, url: object, options: FaceOptions) -> None:
        check_arguments(**{name: None for name in options})
        for name in options.keys() - FaceOptions.__annotations__.keys():
            raise TypeError(
                f"there is no option {name!r} here: the store is the first argument, and the cookie is set by the"
                " application's own SESSION_COOKIE_... settings"
            )
        self.guard_or_url = url
        self._given: Mapping[str, Any] = {"url": url, **options}

    def read(self, app: Any) -> FaceSettings:
        """What all of it comes to, as the configuration is now.

        Raises:
            ConfigurationError: a value that makes no sense, by the name under which it was said.
        """
        said = {name: self._told(app, name) for name in FaceOptions.__annotations__}
        return FaceSettings.of(said, identity=EXTENSIONS_IDENTITY)

    def _told(self, app: Any, name: str) -> Any:
        """None when nobody says anything about it."""
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
        self._told(app, "url")
        idle = without_effect(app.config, {*type(app).default_config, "SESSION_COOKIE_PARTITIONED"})
        if idle:
            log.warning("without effect, for SessionLock keeps the sessions: %s", ", ".join(idle))
        return _said(app)


def tell_late(app: Any, said: Mapping[str, Any]) -> None:
    """Log what came into the configuration after the extension read it (``said``): it has no effect. Called when the
    first session is asked for.

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


def expect_no_other(app: Any, own: type[Any]) -> None:
    """``own``: the session interface that the framework begins with.

    Raises:
        ConfigurationError: the application has its sessions by another one, or by ours already.
    """
    if EXTENSION in app.extensions:
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
