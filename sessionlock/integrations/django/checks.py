"""What is wrong with a project's set-up, as Django's system checks: ids, and hints that tell the remedy.

They run with ``manage.py check`` where ``"sessionlock.integrations.django"`` is in INSTALLED_APPS. Where it is not, the
middleware refuses to start for what can never work (:func:`refuse`), and the log tells the rest.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

import django
from django.conf import global_settings, settings
from django.contrib.sessions.backends.base import SessionBase
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.checks.security.sessions import W011, W014
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import request_started
from django.utils.module_loading import import_string
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from ...policies import SessionPolicy
from ..settings import unknown_names, without_effect
from . import settings as ours
from .store import SessionStore

__all__ = ["APP", "as_imported", "as_the_middleware_starts", "beside", "inside_itself", "refuse"]

log: logging.Logger = logging.getLogger("sessionlock.web")

APP = "sessionlock.integrations.django"
MIDDLEWARE = "sessionlock.integrations.django.SessionLockMiddleware"
DJANGOS = "django.contrib.sessions.middleware.SessionMiddleware"
MESSAGES = "django.contrib.messages.storage"
# What asks for request.session on the way in, among what is installed most.
USERS = (
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "hijack.middleware.HijackUserMiddleware",
    "session_security.middleware.SessionSecurityMiddleware",
    "django_otp.middleware.OTPMiddleware",
)
NEVER = frozenset({"sessionlock.E003", "sessionlock.E004", "sessionlock.E005", "sessionlock.E007"})
OF_OTHER_ENGINES = {"SESSION_CACHE_ALIAS", "SESSION_FILE_PATH"}
USUAL = SessionPolicy()
WITHIN = 1.0  # seconds for the server to answer
WORKS_FROM = (5, 1)  # though only what came later is tested
CSRF = "django.middleware.csrf.CsrfViewMiddleware"
CACHES = ("django.middleware.cache.UpdateCacheMiddleware", "django.middleware.cache.CacheMiddleware")


def refuse() -> None:
    """The middleware starts.

    Raises:
        django.core.exceptions.ImproperlyConfigured: MIDDLEWARE and SESSION_ENGINE can never work like this.
    """
    if django.VERSION < WORKS_FROM:
        raise ImproperlyConfigured(f"sessionlock needs Django 5.2 or later; this is {django.get_version()}")
    found = [message for message in _in_place(may_import=True) if message.id in NEVER]
    if found:
        raise ImproperlyConfigured(" ".join(map(_as_text, found)))


def as_imported() -> None:
    """This package is being imported, by a server most likely: tell what can be seen already. Of what is in its place
    the middleware itself says more when it starts.
    """
    if settings.configured:
        _tell_all(message for message in _in_place(may_import=False) if message.id not in NEVER)
        request_started.connect(_at_the_first_request, dispatch_uid=APP)


def as_the_middleware_starts() -> None:
    """Tell what is merely wrong."""
    _tell_all((*_in_place(may_import=True), *_messages(), *_without_effect()))
    for message in _reachable():
        _tell(message)  # no check says so without --deploy


def _at_the_first_request(**_: Any) -> None:
    """Where our middleware is not, and another's that had not been imported yet: nobody else would see it."""
    request_started.disconnect(dispatch_uid=APP)
    _tell_all(_in_place(may_import=True))


def _tell_all(messages: Iterable[CheckMessage]) -> None:
    """Where no check tells it."""
    if not any(str(app).startswith(APP) for app in settings.INSTALLED_APPS):
        for message in messages:
            _tell(message)


def beside(request: Any, session: SessionStore | None) -> None:
    """Tell of another session in ``request`` than ``session``, which is ours: of a middleware that no check can see,
    because a function wraps it.
    """
    found = getattr(request, "session", None)
    if found is not session and isinstance(found, SessionBase):
        _tell(_another([f"that which has put a {_name(type(found))} into request.session"]))


def inside_itself() -> None:
    """Tell of SessionLockMiddleware within SessionLockMiddleware, which does nothing."""
    _tell(_twice())


def _tell(message: CheckMessage) -> None:
    """Once in a process, unless the project wants to hear nothing of it."""
    if message.id not in _told and not message.is_silenced():
        _told.add(message.id)
        log.log(message.level, "%s", _as_text(message))


_told: set[str | None] = set()


# --- the checks


def check_settings(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Each setting exists and makes sense."""
    found: list[CheckMessage] = [
        Error(f"There is no setting {name}.", hint=hint, id="sessionlock.E001")
        for name, hint in unknown_names(dir(settings), "django").items()
    ]
    if found:
        return found
    try:
        ours.current()
    except ImproperlyConfigured as error:
        found.append(Error(str(error), hint="See docs/settings.md.", id="sessionlock.E002"))
    return found


def check_set_up(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """Middlewares and engine are in their places."""
    return [*_in_place(may_import=True), *_messages(), *_without_effect()]


def check_cookie(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """What Django tells of its own session middleware, by the name of that, and therefore not of ours."""
    if DJANGOS in settings.MIDDLEWARE or not any(_is_ours(_class_of(path)) for path in settings.MIDDLEWARE):
        return []
    said = ((settings.SESSION_COOKIE_SECURE, W011), (settings.SESSION_COOKIE_HTTPONLY, W014))
    return [message for value, message in said if value is not True]


def check_store(app_configs: Any, **_: Any) -> list[CheckMessage]:
    """The server of the sessions answers; with ``--deploy``, for only there it must."""
    return list(_reachable())


register(check_settings, "sessionlock")
register(check_set_up, "sessionlock")
register(check_cookie, Tags.security, deploy=True)
register(check_store, "sessionlock", deploy=True)


# --- what they look at


def _in_place(*, may_import: bool) -> Iterator[CheckMessage]:
    """``may_import``: while this package is being imported, others may be, too, half of them not there yet."""
    classes = [_class_of(path, may_import=may_import) for path in settings.MIDDLEWARE]
    own = [index for index, cls in enumerate(classes) if _is_ours(cls)]
    others = [path for path, cls in zip(settings.MIDDLEWARE, classes, strict=True) if _is_anothers(cls)]
    engine = _has_our_engine(may_import=may_import)
    yield from _one_of_each(own, others, engine)
    if engine and not own and not others and (may_import or None not in classes):
        yield Warning(
            "SESSION_ENGINE is sessionlock's, but MIDDLEWARE has no session middleware.",
            hint=f'Put "{MIDDLEWARE}" into MIDDLEWARE, before whatever uses request.session.',
            id="sessionlock.W001",
        )
    if own:
        yield from _in_order(own[0], classes)


def _one_of_each(own: list[int], others: list[str], engine: bool) -> Iterator[CheckMessage]:
    if own and not engine:
        yield Error(
            f"SessionLockMiddleware is in MIDDLEWARE, but SESSION_ENGINE is {settings.SESSION_ENGINE!r}.",
            hint=f'Set SESSION_ENGINE = "{APP}", or a module with a subclass of its SessionStore.',
            id="sessionlock.E003",
        )
    if own and others:
        yield _another(others)
    if len(own) > 1:
        yield _twice()
    if engine and others and not own:
        yield Error(
            f"SESSION_ENGINE is sessionlock's, but the middleware is {', '.join(others)}: no request is locked, and"
            " changes deep inside are not noticed.",
            hint=f'Put "{MIDDLEWARE}" into MIDDLEWARE in its place.',
            id="sessionlock.E006",
        )


def _another(others: list[str]) -> CheckMessage:
    return Error(
        f"There is another session middleware beside SessionLockMiddleware: {', '.join(others)}.",
        hint=f"Remove it: SessionLockMiddleware stands in the place of {DJANGOS}.",
        id="sessionlock.E004",
    )


def _twice() -> CheckMessage:
    return Error("There is SessionLockMiddleware twice.", hint="Remove all but the first.", id="sessionlock.E005")


def _in_order(at: int, classes: list[Any]) -> Iterator[CheckMessage]:
    before = [path for path, cls in zip(settings.MIDDLEWARE[:at], classes, strict=False) if _uses_sessions(cls)]
    if before:
        yield Error(
            f"SessionLockMiddleware stands behind {', '.join(before)}: there is no session yet for that.",
            hint="Put SessionLockMiddleware before all that uses request.session.",
            id="sessionlock.E007",
        )
    behind = [path for path, cls in list(zip(settings.MIDDLEWARE, classes, strict=True))[at:] if _is_any(cls, CACHES)]
    if behind:
        yield Warning(
            f"{', '.join(behind)} stands behind SessionLockMiddleware: it stores pages before they are told to"
            " depend on the cookie, and one visitor's page is shown to others.",
            hint="Put it before SessionLockMiddleware.",
            id="sessionlock.W002",
        )


def _messages() -> Iterator[CheckMessage]:
    """Messages in a cookie of their own are not guarded by any lock: two tabs double or lose them."""
    used = any(_is_any(_class_of(path), USERS[1:2]) for path in settings.MIDDLEWARE)
    if not (used or "django.contrib.messages" in settings.INSTALLED_APPS) or not _has_our_engine(may_import=True):
        return
    storage = _class_of(settings.MESSAGE_STORAGE)
    if _is_any(storage, (f"{MESSAGES}.fallback.FallbackStorage", f"{MESSAGES}.cookie.CookieStorage")):
        yield Warning(
            f"MESSAGE_STORAGE = {settings.MESSAGE_STORAGE!r} keeps messages in a cookie, where two requests at once"
            " lose or double them.",
            hint=f'Set MESSAGE_STORAGE = "{MESSAGES}.session.SessionStorage".',
            id="sessionlock.W003",
        )


def _without_effect() -> Iterator[CheckMessage]:
    if not _has_our_engine(may_import=True):
        return
    said = [name for name in dir(settings) if settings.is_overridden(name)]
    idle = without_effect(said, set(dir(global_settings)) - OF_OTHER_ENGINES)
    if idle:
        yield Warning(
            f"Without effect, for sessionlock keeps the sessions: {', '.join(idle)}.",
            hint="Remove them. All that has an effect is in docs/settings.md.",
            id="sessionlock.W005",
        )
    given = getattr(settings, "SESSION_LOCK_OPTIONS", {}).get("session")
    parts = [name for name in ("idle", "refresh_below", "save") if getattr(given, name, None) != getattr(USUAL, name)]
    if isinstance(given, SessionPolicy) and parts:
        yield Warning(
            f"Without effect in SESSION_LOCK_OPTIONS: SessionPolicy({', '.join(f'{name}=…' for name in parts)}).",
            hint="SESSION_COOKIE_AGE, SESSION_SAVE_EVERY_REQUEST and set_expiry() say how long a session lives here.",
            id="sessionlock.W006",
        )


def _reachable() -> Iterator[CheckMessage]:
    """Only of single servers. It is asked from this thread, with a connection that is closed again: the process may be
    about to fork, or run an event loop.
    """
    try:
        url = ours.current().url
    except ImproperlyConfigured:
        return
    scheme = urlsplit(url).scheme
    if scheme in ("memory", "embedded"):
        yield Warning(
            f"SESSION_LOCK_URL begins with {scheme}://: each process has sessions of its own, which end with it.",
            hint="It is for tests and first steps. Name a server: redis://localhost:6379/0.",
            id="sessionlock.W007",
        )
    if scheme not in ("redis", "rediss", "unix"):
        return
    once = Retry(NoBackoff(), 0)
    client = Redis.from_url(url, socket_connect_timeout=WITHIN, socket_timeout=WITHIN, retry=once, protocol=2)
    try:
        client.ping()
    except (RedisError, OSError) as error:
        yield Warning(
            f"The server that SESSION_LOCK_URL names cannot be used: {error}",
            hint="Until it answers, each request that uses its session is answered 503.",
            id="sessionlock.W004",
        )
    finally:
        client.close()


# --- classes, by their names


def _class_of(path: str, *, may_import: bool = True) -> Any:
    """What ``path`` names, None when that cannot be told: Django tells of middlewares that it cannot import."""
    module, _, name = path.rpartition(".")
    if not may_import:
        return getattr(sys.modules.get(module), name, None)
    try:
        return import_string(path)
    except Exception:  # of another's module
        return None


def _has_our_engine(*, may_import: bool) -> bool:
    name = settings.SESSION_ENGINE
    if name == APP:
        return True
    module = sys.modules.get(name)
    if module is None and may_import:
        try:
            module = import_module(name)
        except Exception:  # of another's module
            return False
    return _is_subclass(getattr(module, "SessionStore", None), SessionStore)


def _is_ours(cls: Any) -> bool:
    return _is_any(cls, (f"{APP}.middleware.SessionLockMiddleware",))


def _is_anothers(cls: Any) -> bool:
    """Django's session middleware, or another's of that kind (django-qsessions, django-user-sessions)."""
    if _is_ours(cls) or not isinstance(cls, type):
        return False
    return _is_any(cls, (DJANGOS,)) or any(base.__name__ == "SessionMiddleware" for base in cls.__mro__)


def _uses_sessions(cls: Any) -> bool:
    return _is_any(cls, USERS) or (bool(settings.CSRF_USE_SESSIONS) and _is_any(cls, (CSRF,)))


def _is_any(found: Any, paths: Iterable[str]) -> bool:
    """By name, so that nothing is imported that the project does not use. A middleware may be a function, too."""
    kinds = found.__mro__ if isinstance(found, type) else (found,)
    names = {f"{getattr(kind, '__module__', '')}.{getattr(kind, '__qualname__', '')}" for kind in kinds}
    return not names.isdisjoint(paths)


def _is_subclass(cls: Any, kind: type) -> bool:
    return isinstance(cls, type) and issubclass(cls, kind)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _as_text(message: CheckMessage) -> str:
    return f"{message.id}: {message.msg} {message.hint}"
