"""What one handler says about its session, as a decorator: for Flask and aiohttp, functions, coroutines and methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from ...errors import ConfigurationError
from ...policies import LeasePolicy, WaitPolicy
from .rules import Mode, OnConflict, RoutePolicy, lease_of

__all__ = ["policy_of", "session_lock", "session_lock_exempt", "session_policy", "session_readonly"]

F = TypeVar("F", bound=Callable[..., Any])
ATTRIBUTE = "sessionlock_policy"


@overload
def session_lock(handler: F, /) -> F: ...


@overload
def session_lock(
    *, wait: WaitPolicy | float | None = ..., lease: LeasePolicy | float | None = ..., save_on_error: bool | None = ...
) -> Callable[[F], F]: ...


def session_lock(
    handler: F | None = None,
    /,
    *,
    wait: WaitPolicy | float | None = None,
    lease: LeasePolicy | float | None = None,
    save_on_error: bool | None = None,
) -> F | Callable[[F], F]:
    """This handler uses its session under the lock, whatever the method: ``@session_lock``, ``@session_lock(wait=1)``.

    ``wait``: a policy, or seconds in the queue. ``lease``: a policy, or seconds for which the lock outlives a
    process that died. ``save_on_error``: save even if the answer is a 5xx. The lock is taken when the session is
    touched first. Another decorator outside must keep the attributes, as :func:`functools.wraps` does.

    Raises:
        ConfigurationError: a number that makes no sense.
    """
    mark = _marks(RoutePolicy("lock", wait=wait, lease=lease_of(lease), save_on_error=save_on_error))
    return mark if handler is None else mark(handler)


def session_readonly(handler: F) -> F:
    """This handler only reads its session, without waiting, whatever the method. A change raises ReadOnlySession."""
    return _marks(RoutePolicy("read"))(handler)


def session_lock_exempt(handler: F) -> F:
    """This handler never waits: what it changes is committed at the end, merged, or answered 409."""
    return _marks(RoutePolicy("optimistic"))(handler)


def session_policy(
    mode: Mode = "auto",
    *,
    wait: WaitPolicy | float | None = None,
    lease: LeasePolicy | float | None = None,
    save_on_error: bool | None = None,
    body_limit: int | None = None,
    on_conflict: OnConflict | None = None,
) -> Callable[[F], F]:
    """All that may be said about one handler, as :class:`.rules.RoutePolicy` has it:
    ``@session_policy(on_conflict="answer")`` for a GET that must not run twice.

    Raises:
        ConfigurationError: a value that makes no sense.
    """
    return _marks(RoutePolicy(mode, wait, lease_of(lease), save_on_error, body_limit, on_conflict))


def policy_of(handler: object, method: str) -> RoutePolicy | None:
    """What was said about ``handler``, or about the ``method`` of its class; None when nothing was."""
    of_class = handler if isinstance(handler, type) else getattr(handler, "view_class", None)
    own = getattr(getattr(of_class, method.lower(), None), ATTRIBUTE, None)
    return cast("RoutePolicy | None", own or getattr(handler, ATTRIBUTE, None))


def _marks(policy: RoutePolicy) -> Callable[[F], F]:
    def mark(handler: F) -> F:
        try:
            setattr(handler, ATTRIBUTE, policy)
        except AttributeError:
            raise ConfigurationError(
                f"{handler!r} cannot be marked: put the decorator on the function that defines it"
            ) from None
        return handler

    return mark
