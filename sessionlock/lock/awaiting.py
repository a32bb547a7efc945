"""Who waits for whom, among the tasks of an event loop; and who has something in hand. For rare and slow moments.

asyncio keeps no such list before Python 3.14. But who waits for a task has left a callback with it, and the callbacks
of asyncio, of anyio and of a task that awaits another lead to who left them: by what they are bound to or close over.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from types import FrameType, MethodType
from typing import Any

__all__ = ["has_in_hand", "in_hands_of", "only_one_with", "waits_for"]

PACKAGE = __name__.partition(".")[0] + "."
DEEP = 6  # steps from a variable to what it would leave

Future = asyncio.Future


def waits_for(task: asyncio.Task[Any], other: asyncio.Task[Any]) -> bool:
    """Whether ``task`` goes on only when ``other`` is done: it awaits it, alone or among several, by a task of its own,
    or as the task whose group it is in. No where it cannot be told: who waits for a message, for example.
    """
    seen: set[int] = set()
    todo: list[Future[Any]] = [other]
    while todo:
        future = todo.pop()
        if future is task:
            return True
        for callback, *_ in getattr(future, "_callbacks", None) or ():
            for waiting in _behind(callback):
                if id(waiting) not in seen:
                    seen.add(id(waiting))
                    todo.append(waiting)
    return False


def _behind(callback: Any) -> Iterator[Future[Any]]:
    """The futures that go on with this callback."""
    parts: list[Any] = [getattr(callback, "__self__", None)]
    parts += [cell.cell_contents for cell in getattr(callback, "__closure__", None) or () if _is_full(cell)]
    if isinstance(callback, partial):
        parts += [callback.func, *callback.args]
    for part in parts:
        if isinstance(part, Future):
            yield part
        elif type(part).__module__.partition(".")[0] in ("asyncio", "anyio"):
            yield from _of_group(part)


def _of_group(group: Any) -> Iterator[Future[Any]]:
    """The task that leaves the group when all in it are done."""
    host = getattr(getattr(group, "cancel_scope", None), "_host_task", None)
    for part in (*getattr(group, "__dict__", {}).values(), host):
        if isinstance(part, Future):
            yield part


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def in_hands_of(is_it: Callable[[object], bool], *, besides: asyncio.Task[Any]) -> asyncio.Task[Any] | None:
    """A task, other than that and than who waits for it, one of whose functions has what ``is_it`` tells."""
    for task in asyncio.all_tasks():
        if task is not besides and any(map(is_it, _variables(task))) and not waits_for(task, besides):
            return task
    return None


def only_one_with(is_it: Callable[[object], bool], loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    """The task of that loop which has what ``is_it`` tells, and waits for any others that have it; None where that is
    not one task.
    """
    found = [task for task in asyncio.all_tasks(loop) if has_in_hand(is_it, task)]
    outermost = [task for task in found if not any(task is not other and waits_for(other, task) for other in found)]
    return outermost[0] if len(outermost) == 1 else None


def has_in_hand(is_it: Callable[[object], bool], task: asyncio.Task[Any]) -> bool:
    """Whether one of the task's functions, none of this package's, has what ``is_it`` tells."""
    return any(map(is_it, _variables(task, ours=False)))


def _variables(task: asyncio.Task[Any], *, ours: bool = True) -> Iterator[object]:
    """What the coroutines of a task have in their variables."""
    for frame in _frames(task):
        if ours or not frame.f_globals.get("__name__", "").startswith(PACKAGE):
            for value in frame.f_locals.values():
                yield from _within(value)


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    step: Any = task.get_coro()
    if task is asyncio.current_task(task.get_loop()):  # what runs does not tell what it awaits
        frame: FrameType | None = sys._getframe()
        first = getattr(step, "cr_frame", None)
        while frame is not None and frame is not first:
            yield frame
            frame = frame.f_back
    while step is not None:
        its_own = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None) or getattr(step, "ag_frame", None)
        if its_own is not None:
            yield its_own
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None) or getattr(step, "ag_await", None)


def _within(value: Any, deep: int = DEEP) -> Iterator[object]:
    """It, and what it leaves when it is left: a stack of blocks, or a generator that stands in one (a fixture)."""
    yield value
    kind, parts = type(value), []  # not by isinstance(), which a proxy of what is gone answers with an error
    if kind is MethodType:
        parts = [value.__self__]
    elif issubclass(kind, AsyncExitStack):
        parts = [leave for _, leave in getattr(value, "_exit_callbacks", ())]
    elif issubclass(kind, (AsyncGenerator, AbstractAsyncContextManager)):
        generator = getattr(value, "gen", value)
        frame = getattr(generator, "ag_frame", None)
        # Not only its variables: a block without a name for what it gives is known by how it is to be left.
        parts = [] if frame is None else gc.get_referents(generator, frame)
    for part in parts:
        if deep:
            yield from _within(part, deep - 1)
