"""Every setting of every face, once: what it is called where, what it takes, and what it does.

The faces check by it what they are told (:func:`checked`, :func:`check_names`), and ``docs/settings.md`` is made of it:
``python -m tests.integrations.settings docs/settings.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from ...errors import ConfigurationError
from ...policies import LeasePolicy, WaitPolicy
from . import kinds
from .kinds import Kind

__all__ = [
    "OPTIONS",
    "PREFIX",
    "Setting",
    "check_arguments",
    "check_names",
    "checked",
    "names_of",
    "nearest",
    "unknown_names",
]

PREFIX = "SESSION_LOCK_"
# Of session packages that people come from (Flask-Session, Quart-Session, django-redis-sessions); all about a cookie.
_OTHERS = re.compile(
    r"SESSION_(?:COOKIE_\w+|(?:REDIS|MONGODB|MEMCACHED|DYNAMODB|SQLALCHEMY|FILE|HIJACK|CACHE)(?:_\w+)?|TYPE|USE_SIGNER|CACHELIB"
    r"|SERIALIZATION_FORMAT|PERMANENT|KEY_PREFIX|S?ID_LENGTH|CLEANUP_N_REQUESTS|PROTECTION|REVERSE_PROXY|STATIC_FILE"
    r"|EXPLICIT|URI)"
)
_OURS = re.compile(r"SESSION_?LOCKS?_?([A-Z_]*)")
FRAMEWORKS = "django", "config", "asgi", "litestar", "aiohttp"


@dataclass(frozen=True, slots=True)
class Setting:
    """``name``: of the option in Python. ``faces``: in which it is what ``spelled`` says, by default: in
    ``"django"`` and ``"config"`` (Flask's and Quart's) the name in capitals after ``SESSION_LOCK_``, in the others an
    argument. ``default``: in words.
    """

    name: str
    kind: Kind
    default: str
    effect: str
    faces: tuple[str, ...] = FRAMEWORKS
    spelled: Mapping[str, str] = field(default_factory=dict)

    def spelling(self, face: str) -> str | None:
        """What it is called in ``face``, None when there is no such thing."""
        if face in self.spelled:
            return self.spelled[face]
        if face not in self.faces:
            return None
        return PREFIX + self.name.upper() if face in ("django", "config") else f"{self.name}="


_COOKIE = {"django": "SESSION_COOKIE_…", "config": "SESSION_COOKIE_…", "litestar": "its own names, see below"}
_GUARD = dict.fromkeys(("config", "asgi", "litestar", "aiohttp"), "of the guard")

ALL = (
    Setting(
        "url",
        kinds.GUARD,
        "–, in Django; the guard of `sessionlock.configure()` elsewhere",
        "Where the sessions live. Elsewhere than in Django also a guard, whose settings hold then. A guard that is made"
        " of a URL is closed with the application",
        spelled=dict.fromkeys(("asgi", "litestar", "aiohttp"), "guard="),
    ),
    Setting(
        "options",
        kinds.MAPPING,
        "`{}`",
        "Options of the guard, see below: `prefix`, `codec`, `session` …",
        ("django",),
        _GUARD,
    ),
    Setting(
        "mode",
        kinds.MODE,
        '`"auto"`',
        "How requests use their session that neither a decorator nor a route says anything about. `auto`: GET, HEAD,"
        " OPTIONS and TRACE read without waiting, and are run again under the lock where they changed something and met"
        " a conflict; all others take the lock. `off`: there is no session (not as Django's default)",
    ),
    Setting(
        "routes",
        kinds.ROUTES,
        "`{}`",
        'A mode or `RoutePolicy` for paths: `{"GET|HEAD /feed/*": "read", "/static/**": "off"}`. The first that fits'
        " counts; a decorator of the view wins",
    ),
    Setting(
        "wait",
        kinds.WAIT,
        f"the guard's, {WaitPolicy().stop.max_delay:g} s",
        "How long a request waits for its turn before it is answered 503",
    ),
    Setting(
        "lease",
        kinds.LEASE,
        f"the guard's, {LeasePolicy().ttl:g} s",
        "How long the lock outlives a process that died. It is renewed while a request runs",
    ),
    Setting("save_on_error", kinds.FLAG, "`False`", "Save, too, where the answer is a 5xx"),
    Setting(
        "body_limit",
        kinds.BYTES,
        "64 MiB",
        "How much of a request's body is received before its lock is taken, so that a slow upload holds up nobody;"
        " what is over 1 MiB waits in a temporary file. 0: the lock comes first",
    ),
    Setting(
        "on_conflict",
        kinds.ON_CONFLICT,
        '`"again"`',
        "What becomes of a safe request in mode `auto` that changed something and met a conflict: run once more under"
        " the lock, before anything of its answer is sent, or answered 409",
    ),
    Setting(
        "identity",
        kinds.KEYS,
        "`user_id`, `_user_id`, `userid`, `uid`, `user`, `username`, `account_id`, `_auth_user_id`, `*`; those of more"
        " extensions in Flask, Quart and aiohttp",
        "Keys of the session that tell who is logged in. When one gets another value, the session gets a new id. `*`:"
        " every other key whose name looks like it, when it gets its first value",
    ),
    Setting(
        "problems",
        kinds.PROBLEMS,
        "`Problems()`",
        "What the errors of a session become, see below. In Django also a dotted path to one",
    ),
    Setting(
        "read_from",
        kinds.ORIGIN,
        "`None`",
        "Where the sessions are that visitors have already (`sessionlock.integrations.takeover`; in Django also what"
        " `SESSION_ENGINE` was): each is taken over with its first request",
        ("django", "config", "asgi", "litestar", "aiohttp"),
    ),
    Setting(
        "cookie",
        kinds.COOKIE,
        "`CookieSettings()`",
        "The cookie, see below, or just its name; in the others the framework's own settings make it",
        ("asgi", "aiohttp"),
        _COOKIE,
    ),
    Setting(
        "merge",
        kinds.MERGE,
        "`{}`",
        "How two changes of one key become one, key by key, beside what holds for Django's own keys",
        ("django",),
        _GUARD,
    ),
    Setting(
        "absolute",
        kinds.ABSOLUTE,
        "`None`",
        "How long after its beginning a session ends in any case",
        ("django",),
        _GUARD,
    ),
    Setting(
        "pickle",
        kinds.FLAG,
        "`False`",
        "Allow a `SESSION_SERIALIZER` that pickles: whoever can write to Redis can then run code in the application",
        ("django",),
    ),
    Setting(
        "grace",
        kinds.SECONDS,
        "30 s",
        "How long a key that `cycle_key()` replaced works on, for requests in flight",
        ("django",),
    ),
    Setting(
        "login_grace",
        kinds.SECONDS,
        "0 s",
        "The same where nobody was logged in before: somebody may have planted the key",
        ("django",),
    ),
)
OPTIONS: Mapping[str, Setting] = {setting.name: setting for setting in ALL}


def names_of(face: str) -> tuple[str, ...]:
    """All ``SESSION_LOCK_…`` of ``"django"`` or ``"config"``."""
    spelled = (setting.spelling(face) for setting in ALL if face in setting.faces)
    return tuple(name for name in spelled if name is not None)


def checked(option: str, value: Any, spelled: str | None = None) -> Any:
    """``value`` if the setting takes it, or None. ``spelled``: what it is called where it was said.

    Raises:
        ConfigurationError: which setting wants what.
    """
    complaint = None if value is None else OPTIONS[option].kind.complain(value)
    if complaint is not None:
        raise ConfigurationError(f"{spelled or option}{complaint}")
    return value


def check_arguments(**given: Any) -> None:
    """What a face was called with, its guard as ``guard``.

    Raises:
        TypeError: an option that does not exist, with the nearest that does.
        ConfigurationError: a value that makes no sense, by the option's name.
    """
    for name, value in given.items():
        option = "url" if name == "guard" else name
        if option not in OPTIONS:
            known = {one: one for one, setting in OPTIONS.items() if len(setting.faces) > 1}
            raise TypeError(f"there is no option {name!r}. {nearest(name, known)}")
        checked(option, value, name)


def unknown_names(said: Iterable[str], face: str) -> dict[str, str]:
    """The names among ``said`` that look like settings of ours and are none; each with what to do about it."""
    known = {name.removeprefix(PREFIX): name for name in names_of(face)}
    return {
        name: nearest(part, known)
        for name in sorted(said)
        if (part := _own_part(name)) is not None and name not in known.values()
    }


def check_names(said: Iterable[str], face: str) -> None:
    """Raises :class:`~sessionlock.ConfigurationError` for a setting that does not exist, with the nearest that does."""
    unknown = unknown_names(said, face)
    if unknown:
        raise ConfigurationError("; ".join(f"there is no setting {name}. {hint}" for name, hint in unknown.items()))


def without_effect(said: Iterable[str], known: Iterable[str]) -> list[str]:
    """The names among ``said`` that other packages set sessions up by, or that are about a cookie, and do nothing here.
    ``known``: those of the framework itself.
    """
    known = set(known)
    return sorted(name for name in said if _OTHERS.fullmatch(name) and name not in known)


def nearest(name: str, known: Mapping[str, str]) -> str:
    """Which of the ``known`` names may be meant by ``name``, in a sentence; its values are how they are told."""
    close = get_close_matches(name, known, 1, 0.6)
    return f"Did you mean {known[close[0]]}?" if close else f"There are {', '.join(sorted(known.values()))}"


def _own_part(name: str) -> str | None:
    """Of a name that looks like a setting of ours, what stands behind the words that all have."""
    found = _OURS.fullmatch(name)
    return found and found[1]
