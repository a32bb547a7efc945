"""What an application gives to a guard or a block, checked where it is given: each error names the argument, what was
given, and what to give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, TypeVar

from tenacity import BaseRetrying
from tenacity.stop import stop_base

from ..codecs.base import Codec
from ..errors import ConfigurationError
from ..policies import LeasePolicy, SessionPolicy, WaitPolicy
from ..session.merge import check_strategies
from .request import check_label

__all__ = [
    "check_given",
    "given_codec",
    "given_lease",
    "given_session",
    "given_wait",
    "one_of",
    "this_kind",
    "truth",
]

T = TypeVar("T")
MODES = ("lock", "read", "optimistic", "last_write_wins")
MISSING = ("create", "reject")


def wrong(name: str, value: object, wanted: str) -> ConfigurationError:
    return ConfigurationError(f"{name} must be {wanted}, not {value!r}")


def this_kind(name: str, value: Any, kind: type[T] | tuple[type[T], ...], wanted: str) -> T:
    """``value``, if it is of that kind; no bool counts as a number."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise wrong(name, value, wanted)
    return value


def truth(name: str, value: object) -> bool:
    return this_kind(name, value, bool, "True or False")


def one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise wrong(name, value, f"one of {', '.join(map(repr, choices))}")


def given_lease(lease: Any) -> LeasePolicy:
    """Raises :class:`~sessionlock.ConfigurationError`, as all of these."""
    seconds = lease if isinstance(lease, (int, float)) and not isinstance(lease, bool) and lease > 0 else 10
    return this_kind("lease", lease, LeasePolicy, f"a LeasePolicy, such as LeasePolicy(ttl={seconds:g})")


def given_wait(wait: Any) -> WaitPolicy:
    """A policy, or seconds as one."""
    if isinstance(wait, WaitPolicy):
        return wait
    if isinstance(wait, stop_base):
        raise wrong("wait", wait, "a WaitPolicy, such as WaitPolicy(stop=…) with that, or a number of seconds")
    if isinstance(wait, timedelta):
        raise wrong("wait", wait, f"a WaitPolicy or a number of seconds ({wait.total_seconds():g})")
    return WaitPolicy.seconds(this_kind("wait", wait, (int, float), "a WaitPolicy, or a number of seconds from 0 on"))


def given_session(session: Any) -> SessionPolicy:
    policy = this_kind("session", session, SessionPolicy, "a SessionPolicy, such as SessionPolicy(idle=1800)")
    check_strategies(policy.merge)
    return policy


def given_codec(codec: Any) -> Codec:
    if isinstance(codec, type) or not all(callable(getattr(codec, name, None)) for name in ("encode", "decode")):
        raise wrong("codec", codec, "a codec, such as JsonCodec(), with encode(key, value) and decode(key, data)")
    known: Codec = codec
    return known


def given_retry(retry: Any) -> BaseRetrying:
    return this_kind(
        "retry", retry, BaseRetrying, "a tenacity object, such as AsyncRetrying(stop=stop_after_attempt(5))"
    )


_CHECKS: Mapping[str, Callable[[Any], object]] = {
    "lease": given_lease,
    "wait": given_wait,
    "session": given_session,
    "codec": given_codec,
    "label": check_label,
    "name": check_label,
    "retry": given_retry,
}


def check_given(options: Mapping[str, Any]) -> None:
    """Those of a block that is made later: a decorated view's, say. None stands for the default."""
    for name, value in options.items():
        if value is not None and name in _CHECKS:
            _CHECKS[name](value)
        elif name == "mode":
            one_of(name, value, MODES)
        elif name == "missing" and value is not None:
            one_of(name, value, MISSING)
        elif name in ("save_on_error", "serializable"):
            truth(name, value)
