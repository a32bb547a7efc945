"""What a project says in its settings, as checked values. Everything but ``SESSION_LOCK_URL`` has a default.

``SESSION_LOCK_URL``: where the sessions live, as :meth:`sessionlock.SessionGuard.from_url` takes it.
``SESSION_LOCK_OPTIONS``: further options of :class:`sessionlock.SessionGuard` (``prefix``, ``codec``, ``name`` ...).
``SESSION_LOCK_MODE``: of views without a decorator, ``"auto"`` (default), ``"lock"``, ``"optimistic"`` or ``"read"``.
``SESSION_LOCK_WAIT``: seconds in the queue, or a :class:`sessionlock.WaitPolicy`.
``SESSION_LOCK_LEASE``: seconds, or a :class:`sessionlock.LeasePolicy`.
``SESSION_LOCK_ROUTES``: a mode or a RoutePolicy for paths, as :class:`~sessionlock.integrations.web.Rules` has them.
``SESSION_LOCK_SAVE_ON_ERROR``, ``SESSION_LOCK_BODY_LIMIT``, ``SESSION_LOCK_ON_CONFLICT``: for all views, as
:class:`~sessionlock.integrations.web.RoutePolicy` has them.
``SESSION_LOCK_IDENTITY``: session keys that tell who is logged in; a change of one gives the session a new key.
``SESSION_LOCK_MERGE``: merge strategy per session key, beside those for Django's own keys.
``SESSION_LOCK_ABSOLUTE``: seconds after its creation at which a session ends in any case (default: never).
``SESSION_LOCK_GRACE``: seconds for which a key that ``cycle_key()`` replaced still works (30).
``SESSION_LOCK_LOGIN_GRACE``: the same when nobody was logged in before (0: the key may have been planted).
``SESSION_LOCK_PROBLEMS``: a :class:`~sessionlock.integrations.web.Problems`, or a dotted path to one.

The life of a session is Django's: ``SESSION_COOKIE_AGE``, ``set_expiry()``, counted from when it was saved last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ...changes import MISSING, Clash, check_strategies, strategy_for
from ...errors import ConfigurationError
from ...policies import LeasePolicy
from ..problems import Problems
from ..rules import RoutePolicy, Rules
from ..visit import IDENTITY

__all__ = ["LockSettings", "current", "forget"]

EXPIRY_KEY = "_session_expiry"


@dataclass(frozen=True, slots=True)
class LockSettings:
    """The settings, read once."""

    url: str
    options: Mapping[str, Any]
    rules: Rules
    identity: tuple[str, ...]
    merge: Mapping[str, Any]
    absolute: float | None
    grace: float
    login_grace: float
    problems: Problems


@lru_cache(maxsize=1)
def current() -> LockSettings:
    """The project's settings.

    Raises:
        django.core.exceptions.ImproperlyConfigured: one is missing or does not make sense.
    """
    try:
        return _read()
    except ConfigurationError as error:
        raise ImproperlyConfigured(f"sessionlock: {error}") from None


def forget() -> None:
    """Read the settings again when they are needed next."""
    current.cache_clear()


def _read() -> LockSettings:
    url = _setting("URL", None)
    if not url:
        raise ImproperlyConfigured(
            "SESSION_LOCK_URL says where the sessions live, for example redis://localhost:6379/0"
        )
    merge = {**DJANGO_KEYS, **_setting("MERGE", {})}
    check_strategies(merge)
    lease = _setting("LEASE", None)
    policy = RoutePolicy(
        _setting("MODE", "auto"),
        wait=_setting("WAIT", None),
        lease=lease if lease is None or isinstance(lease, LeasePolicy) else LeasePolicy(ttl=lease),
        save_on_error=_setting("SAVE_ON_ERROR", None),
        body_limit=_setting("BODY_LIMIT", None),
        on_conflict=_setting("ON_CONFLICT", None),
    )
    if policy.mode == "off":
        raise ImproperlyConfigured("SESSION_LOCK_MODE cannot be 'off'; leave the middleware out instead")
    problems = _setting("PROBLEMS", None) or Problems()
    return LockSettings(
        url,
        _setting("OPTIONS", {}),
        Rules(policy, _setting("ROUTES", None)),
        tuple(_setting("IDENTITY", IDENTITY)),
        merge,
        _setting("ABSOLUTE", None),
        _setting("GRACE", 30.0),
        _setting("LOGIN_GRACE", 0.0),
        import_string(problems) if isinstance(problems, str) else problems,
    )


def _setting(name: str, default: Any) -> Any:
    return getattr(settings, f"SESSION_LOCK_{name}", default)


def merge_messages(base: Any, ours: Any, theirs: Any) -> Any:
    """The messages framework keeps a list as JSON text: what both sides added stays, what either showed is gone."""
    merged = strategy_for({"": "append"}, "")(*map(_as_list, (base, ours, theirs)))
    return MISSING if merged is MISSING or not merged else json.dumps(merged, separators=(",", ":"))


def _as_list(value: Any) -> Any:
    if value is MISSING:
        return value
    try:
        found = json.loads(value)
    except (TypeError, ValueError):
        raise Clash from None
    return found


DJANGO_KEYS: Mapping[str, Any] = {
    "_messages": merge_messages,
    "_csrftoken": "set_once",
    "testcookie": "last_write_wins",
}
