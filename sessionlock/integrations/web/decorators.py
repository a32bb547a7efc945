"""What one view says about its session, as a decorator: for functions, coroutines and methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast, overload

from ...errors import ConfigurationError
from .rules import MARK, Mode, PolicyOptions, RoutePolicy

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = [
    "Decorators",
    "Marks",
    "MarksByOptions",
    "MarksByPolicy",
    "locks_session",
    "session_lock",
    "session_lock_exempt",
    "session_policy",
    "session_readonly",
]

F = TypeVar("F", bound=Callable[..., Any])


class Marks(Protocol):
    """A decorator that gives the view back, as far as types go."""

    def __call__(self, view: F, /) -> F: ...


class MarksByOptions(Protocol):
    """With or without options."""

    @overload
    def __call__(self, view: F, /) -> F: ...

    @overload
    def __call__(self, **options: Unpack[PolicyOptions]) -> Marks: ...


class MarksByPolicy(Protocol):
    """Always with options."""

    def __call__(self, mode: Mode = ..., **options: Unpack[PolicyOptions]) -> Marks: ...


class Decorators:
    """The decorators of one framework. ``own`` gives the function that is marked for a view: the view itself, say.

    Another decorator outside of these must keep the view's attributes, as :func:`functools.wraps` does.
    """

    def __init__(self, own: Callable[[Any], Any]) -> None:
        self._own = own

    def locks_session(self, *view: Any, **options: Any) -> Any:
        """This view uses its session under the lock, whatever the method. Also ``@locks_session(wait=1)``.

        ``wait``: a policy, or seconds in the queue. ``lease``: a policy, or seconds for which the lock outlives a
        process that died. ``save_on_error``: save even if the answer is a 5xx.

        Raises:
            ConfigurationError: a value that makes no sense.
        """
        mark = self._marks(RoutePolicy.of("lock", cast("PolicyOptions", options)))
        return mark(*view) if view else mark

    def session_readonly(self, view: F) -> F:
        """This view only reads its session, without waiting, whatever the method. A change raises ReadOnlySession."""
        return self._marks(RoutePolicy("read"))(view)

    def session_lock_exempt(self, view: F) -> F:
        """This view never waits: what it changes is committed at the end, merged, or answered 409."""
        return self._marks(RoutePolicy("optimistic"))(view)

    def session_policy(self, mode: Mode = "auto", **options: Unpack[PolicyOptions]) -> Marks:
        """All that may be said about one view, as :class:`.rules.RoutePolicy` has it:
        ``@session_policy(on_conflict="answer")`` for a GET that must not run twice.

        Raises:
            ConfigurationError: a value that makes no sense.
        """
        return self._marks(RoutePolicy.of(mode, options))

    def _marks(self, policy: RoutePolicy) -> Marks:
        def mark(view: F) -> F:
            own: F = self._own(view)
            try:
                setattr(own, MARK, policy)
            except AttributeError:
                raise ConfigurationError(
                    f"{view!r} cannot be marked: put the decorator on the function that defines it"
                ) from None
            return own

        return mark


_decorators = Decorators(lambda view: view)
locks_session: MarksByOptions = _decorators.locks_session
session_lock: MarksByOptions = locks_session  # its name before; for one release
session_readonly: Marks = _decorators.session_readonly
session_lock_exempt: Marks = _decorators.session_lock_exempt
session_policy: MarksByPolicy = _decorators.session_policy
