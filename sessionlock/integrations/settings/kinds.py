"""What a setting takes: in words, and as a check that says what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ...errors import ConfigurationError
from ...policies import LeasePolicy, SessionPolicy, WaitPolicy, check_seconds
from ...session.merge import check_strategies
from ...urls import client_from_url
from ...views.cookies import CookieSettings
from ..web.problems import Problems
from ..web.rules import MODES, Rules

__all__ = ["Kind"]

Complain = Callable[[Any], "str | None"]
NOT_MADE_TO_TRY = ("embedded", "memory")  # URLs of which a client cannot be made without starting or saying something


@dataclass(frozen=True, slots=True)
class Kind:
    """``type`` and ``unit`` as the table has them. ``complain``: what is to stand behind the setting's name where a
    value is none of this kind; None where it is one.
    """

    type: str
    unit: str
    complain: Complain


def _wants(what: str, check: Callable[[Any], object], *, shown: bool = True) -> Complain:
    """``check`` says no by what is false, or by raising. ``shown``: whether the value may stand in a message."""

    def complain(value: Any) -> str | None:
        try:
            if check(value):
                return None
        except (ConfigurationError, TypeError, ValueError):
            pass
        return f" must be {what}, not {value!r}" if shown else f" must be {what}, not a {type(value).__name__}"

    return complain


def _one_of(*choices: str) -> Complain:
    return _wants(f"one of {', '.join(choices)}", lambda value: isinstance(value, str) and value in choices)


def _of_what_stands_in_it(check: Callable[[Any], object], what: str) -> Complain:
    """For a mapping whose parts are told by ``check`` in words of its own."""

    def complain(value: Any) -> str | None:
        if not isinstance(value, Mapping):
            return f" must be {what}, not a {type(value).__name__}"
        try:
            check(value)
        except ConfigurationError as error:
            return f": {error}"
        return None

    return complain


def _about_a_guard(value: Any) -> str | None:
    """A URL may hold a password, so it is never shown."""
    if hasattr(value, "session_lock"):
        return None
    if not isinstance(value, str):
        return f" must be a URL such as redis://localhost:6379/0, not a {type(value).__name__}"
    try:
        scheme = urlsplit(value).scheme
    except ValueError:
        scheme = ""
    try:
        if scheme not in NOT_MADE_TO_TRY:
            client_from_url(value)
    except ConfigurationError as error:
        return f": {error}"
    return None


def _are_keys(value: Any) -> bool:
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        return False
    return not isinstance(value, Collection) or all(isinstance(key, str) for key in value)


def _is_cookie(value: Any) -> bool:
    return isinstance(value, CookieSettings) or (isinstance(value, str) and bool(CookieSettings(value)))


def _is_a_time(value: Any) -> bool:
    check_seconds("", value, least=0)
    return True


def _takes_over(value: Any) -> bool:
    return all(callable(getattr(value, name, None)) for name in ("load", "store", "end", "aclose"))


_TYPES = "number", "seconds"
_TEN_YEARS = "a number of seconds, from {} to ten years"

GUARD = Kind("URL or guard", "", _about_a_guard)
MAPPING = Kind("dict", "", _wants("a dict", lambda value: isinstance(value, Mapping), shown=False))
ROUTES = Kind("dict", "", _of_what_stands_in_it(lambda value: Rules("auto", value), "a dict of paths"))
MERGE = Kind("dict", "", _of_what_stands_in_it(check_strategies, "a dict of merge strategies"))
MODE = Kind(" ".join(f"`{mode}`" for mode in MODES), "", _one_of(*MODES))
ON_CONFLICT = Kind("`again` `answer`", "", _one_of("again", "answer"))
FLAG = Kind("bool", "", _wants("True or False", lambda value: isinstance(value, bool)))
BYTES = Kind("int", "bytes", _wants("a whole number of bytes", lambda value: type(value) is int and value >= 0))
KEYS = Kind("tuple of str", "", _wants('a tuple of keys, such as ("user_id",)', _are_keys))
PROBLEMS = Kind(
    "`Problems`",
    "",
    _wants("a Problems", lambda value: isinstance(value, Problems) or (isinstance(value, str) and "." in value)),
)
ORIGIN = Kind("origin", "", _wants("an origin of sessionlock.integrations.takeover", _takes_over))
COOKIE = Kind("str or `CookieSettings`", "", _wants("a cookie's name or CookieSettings", _is_cookie))
WAIT = Kind(
    "number or `WaitPolicy`",
    "seconds",
    _wants(
        "a number of seconds (0: never wait) or a WaitPolicy",
        lambda value: isinstance(value, WaitPolicy) or WaitPolicy.seconds(value),
    ),
)
LEASE = Kind(
    "number or `LeasePolicy`",
    "seconds",
    _wants(
        "a number of seconds from 0.01 on or a LeasePolicy",
        lambda value: isinstance(value, LeasePolicy) or LeasePolicy(ttl=value),
    ),
)
ABSOLUTE = Kind(*_TYPES, _wants(_TEN_YEARS.format(0.01), lambda value: SessionPolicy(absolute=value)))
SECONDS = Kind(*_TYPES, _wants(_TEN_YEARS.format(0), _is_a_time))
