"""How a view, which cannot await anything, has the process' event loop do it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, TypeVar

from ...blocking.portal import portal

__all__ = ["wait_for"]

T = TypeVar("T")


def wait_for(work: Callable[..., Coroutine[Any, Any, T]], *args: Any, cancel: bool = True) -> T:
    """What ``await work(*args)`` returns or raises, in the loop of the thread face.

    An async view runs in a thread of its own with an event loop that serves nothing else. ``session["key"]`` cannot be
    awaited, so there the view waits in still another thread.
    """
    if asyncio._get_running_loop() is None:
        return portal().call(work, *args, cancel=cancel)
    outcome: list[T] = []
    failure: list[BaseException] = []

    def ask() -> None:
        try:
            outcome.append(portal().call(work, *args, cancel=cancel))
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=copy_context().run, args=(ask,), name="sessionlock-async-view")
    thread.start()
    thread.join()
    if failure:
        raise failure.pop()
    return outcome.pop()
