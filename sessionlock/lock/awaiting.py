"""Who waits for whom, among the tasks of an event loop; and who has something in hand. For rare and slow moments.

asyncio keeps no such list before Python 3.14. But who waits for a task has left a callback with it, and the callbacks
of asyncio, of anyio and of a task that awaits another lead to who left them: by what they are bound to or close over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

__all__ = ["in_hands_of", "waits_for"]

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


def _variables(task: asyncio.Task[Any]) -> Iterator[object]:
    """What the suspended coroutines of a task have in their variables."""
    step: Any = task.get_coro()
    while step is not None:
        frame = getattr(step, "cr_frame", None) or getattr(step, "gi_frame", None)
        if frame is not None:
            yield from frame.f_locals.values()
        step = getattr(step, "cr_await", None) or getattr(step, "gi_yieldfrom", None)
