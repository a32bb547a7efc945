"""What a project says in its settings, as checked values: :mod:`sessionlock.integrations.settings` has them all.

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

from ...errors import ConfigurationError
from ...session.merge import MISSING, Clash, strategy_for
from ..settings import OPTIONS, check_names, checked
from ..settings.options import FaceSettings, check_options
from ..takeover.django import DjangoEngine
from ..takeover.taking import Origin
from ..web.problems import Problems
from ..web.rules import Rules
from .serializing import serializer_named

__all__ = ["LockSettings", "current", "read_again"]

EXPIRY_KEY = "_session_expiry"


@dataclass(frozen=True, slots=True)
class LockSettings:
    """The settings, read once."""

    url: str
    options: Mapping[str, Any]
    rules: Rules
    merge: Mapping[str, Any]
    absolute: float | None
    grace: float
    login_grace: float
    identity: tuple[str, ...]
    problems: Problems
    serializer: Any
    origin: Origin | None


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


def read_again() -> None:
    """Read the settings again when they are needed next."""
    current.cache_clear()


def _read() -> LockSettings:
    check_names(dir(settings), "django")
    said = {name: _said(name) for name, setting in OPTIONS.items() if "django" in setting.faces}
    if not said["url"]:
        raise ConfigurationError("SESSION_LOCK_URL says where the sessions live, for example redis://localhost:6379/0")
    if said["mode"] == "off":
        raise ConfigurationError("SESSION_LOCK_MODE cannot be 'off'; leave the middleware out instead")
    options = said["options"] or {}
    check_options("SESSION_LOCK_OPTIONS", options)
    face = FaceSettings.of({**said, "problems": _problems(said["problems"]), "read_from": _origin(said["read_from"])})
    return LockSettings(
        said["url"],
        options,
        face.rules,
        {**DJANGO_KEYS, **(said["merge"] or {})},
        said["absolute"],
        30.0 if said["grace"] is None else said["grace"],
        said["login_grace"] or 0.0,
        face.identity,
        face.problems,
        serializer_named(settings.SESSION_SERIALIZER, may_pickle=bool(said["pickle"])),
        face.origin,
    )


def _said(name: str) -> Any:
    spelled = OPTIONS[name].spelling("django")
    assert spelled is not None
    value = getattr(settings, spelled, None)
    if name == "read_from" and isinstance(value, str):
        value = DjangoEngine(value)
    return checked(name, value, spelled)


def _origin(said: Any) -> Origin | None:
    origin: Origin | None = said
    if isinstance(origin, DjangoEngine):
        origin.check()
    if origin is not None and origin.cookie not in (None, settings.SESSION_COOKIE_NAME):
        raise ConfigurationError(
            f"SESSION_LOCK_READ_FROM: the old sessions' cookie is {origin.cookie!r}; let SESSION_COOKIE_NAME be that"
        )
    return origin


def _problems(said: Any) -> Problems:
    try:
        found = import_string(said) if isinstance(said, str) else said or Problems()
    except ImportError as error:
        raise ConfigurationError(f"SESSION_LOCK_PROBLEMS: {error}") from None
    return found if isinstance(found, Problems) else _no_problems(said)


def _no_problems(said: Any) -> Any:
    raise ConfigurationError(f"SESSION_LOCK_PROBLEMS = {said!r} does not name a Problems")


def merge_messages(base: Any, ours: Any, theirs: Any) -> Any:
    """The messages framework keeps a list as JSON text: what both sides added stays, and each is shown once. Who showed
    what somebody else has shown meanwhile clashes, and is run again.
    """
    merged = strategy_for({"": "deliver_once"}, "")(*map(_as_list, (base, ours, theirs)))
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
