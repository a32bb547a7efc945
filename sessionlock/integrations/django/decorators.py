"""What one view says about its session. For functions and coroutines; for classes through ``method_decorator``.

The middleware reads it from the view before the view runs. Another decorator around these must keep the view's
attributes, as :func:`functools.wraps` does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction

from ...policies import LeasePolicy, WaitPolicy
from ..web import decorators as marks
from ..web.rules import Mode, OnConflict

__all__ = ["session_lock", "session_lock_exempt", "session_policy", "session_readonly"]

V = TypeVar("V", bound=Callable[..., Any])


@overload
def session_lock(view: V, /) -> V: ...


@overload
def session_lock(
    *, wait: WaitPolicy | float | None = ..., lease: LeasePolicy | float | None = ..., save_on_error: bool | None = ...
) -> Callable[[V], V]: ...


def session_lock(
    view: V | None = None,
    /,
    *,
    wait: WaitPolicy | float | None = None,
    lease: LeasePolicy | float | None = None,
    save_on_error: bool | None = None,
) -> V | Callable[[V], V]:
    """The view runs under its session's lock, whatever the method: ``@session_lock`` or ``@session_lock(wait=1)``.

    ``wait``: a policy, or seconds in the queue. ``lease``: a policy, or seconds for which the lock outlives a
    process that died. ``save_on_error``: save even if the answer is a 5xx.

    Raises:
        ConfigurationError: a number that makes no sense.
    """
    mark: Callable[[Any], Any] = marks.session_lock(wait=wait, lease=lease, save_on_error=save_on_error)
    return mark(_own(view)) if view is not None else lambda later: cast(V, mark(_own(later)))


def session_readonly(view: V) -> V:
    """The view only reads its session, without waiting, whatever the method. A change raises ReadOnlySession."""
    return marks.session_readonly(_own(view))


def session_lock_exempt(view: V) -> V:
    """The view never waits, whatever the method: what it changes is committed, merged, or answered 409."""
    return marks.session_lock_exempt(_own(view))


def session_policy(
    mode: Mode = "auto",
    *,
    wait: WaitPolicy | float | None = None,
    lease: LeasePolicy | float | None = None,
    save_on_error: bool | None = None,
    body_limit: int | None = None,
    on_conflict: OnConflict | None = None,
) -> Callable[[V], V]:
    """All that may be said about one view: ``@session_policy(on_conflict="answer")`` for a GET that must not run twice.

    Each option as :class:`sessionlock.integrations.web.RoutePolicy` has it; what is not said is as the settings say.

    Raises:
        ConfigurationError: a value that makes no sense.
    """
    mark: Callable[[Any], Any] = marks.session_policy(
        mode, wait=wait, lease=lease, save_on_error=save_on_error, body_limit=body_limit, on_conflict=on_conflict
    )
    return lambda view: mark(_own(view))


def _own(view: V) -> V:
    """A view of its own for the mark: in a URLconf the same view often stands without it too."""
    if iscoroutinefunction(view):

        @wraps(view)
        async def marked(*args: Any, **kwargs: Any) -> Any:
            return await view(*args, **kwargs)

        return cast(V, marked)

    @wraps(view)
    def marked_too(*args: Any, **kwargs: Any) -> Any:
        return view(*args, **kwargs)

    return cast(V, marked_too)
