"""What one view says about its session. For functions and coroutines; for classes through ``method_decorator``.

The middleware reads it from the view before the view runs. Another decorator around these must keep the view's
attributes, as :func:`functools.wraps` does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from asgiref.sync import iscoroutinefunction

from ..web.decorators import Decorators, Marks, MarksByOptions, MarksByPolicy

__all__ = ["locks_session", "session_lock", "session_lock_exempt", "session_policy", "session_readonly"]

V = TypeVar("V", bound=Callable[..., Any])


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


_decorators = Decorators(_own)
locks_session: MarksByOptions = _decorators.locks_session
session_lock: MarksByOptions = locks_session  # its name before; for one release
session_readonly: Marks = _decorators.session_readonly
session_lock_exempt: Marks = _decorators.session_lock_exempt
session_policy: MarksByPolicy = _decorators.session_policy
