"""How a view, which cannot await anything, has the process' event loop do it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ...blocking.portal import portal

__all__ = ["wait_for"]

T = TypeVar("T")


def wait_for(work: Callable[..., Coroutine[Any, Any, T]], *args: Any, cancel: bool = True) -> T:
    """What ``await work(*args)`` returns or raises, in the loop of the thread face.

    An async view runs in a thread of its own, with an event loop that serves nothing else: it may stand still.
    """
    return portal().call(work, *args, cancel=cancel, stand_still=True)
