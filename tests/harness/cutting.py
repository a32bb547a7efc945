"""Cancel a coroutine at its k-th suspension, for k = 1, 2, 3, ...: at every await there is, at whatever depth."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Literal

import anyio

How = Literal["task", "task twice", "scope"]
When = Literal["waiting", "ready"]


class Cut:
    """Drives a coroutine and cancels it at its ``at``-th suspension.

    ``when``: ``"waiting"``, while what it waits for has not come; ``"ready"``, when that has come and the coroutine
    has not gone on yet. ``how``: ``task.cancel()``, the same again in each of the loop's next turns, or an anyio
    cancel scope around it.
    """

    def __init__(self, at: int, when: When, how: How) -> None:
        self._at = at
        self._when = when
        self._how = how
        self._scope = anyio.CancelScope()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.suspended = 0
        """How often it was suspended so far."""
        self.done = False
        """Whether the cancellation took place."""

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self._task = self._loop.create_task(self._run(work))
        return self._task

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        if self._how == "scope":
            with self._scope:
                await _Watched(work, self._suspending)
        else:
            await _Watched(work, self._suspending)

    def _suspending(self, waits_for: asyncio.Future[Any] | None) -> None:
        self.suspended += 1
        if self.suspended != self._at:
            return
        if self._when == "ready" and waits_for is not None:
            # Registered before the task's own callback: it comes first.
            waits_for.add_done_callback(lambda _: self._cancel())
        else:
            self._loop.call_soon(self._cancel)

    def _cancel(self) -> None:
        task = self._task
        assert task is not None
        if task.done():
            return
        self.done = True
        if self._how == "scope":
            self._scope.cancel()
            return
        task.cancel()
        if self._how == "task twice":
            self._loop.call_soon(self._cancel)


class _Watched:
    """Passes a coroutine's suspensions on, and tells of each before it happens."""

    def __init__(
        self, work: Coroutine[Any, Any, None], suspending: Callable[[asyncio.Future[Any] | None], None]
    ) -> None:
        self._work = work
        self._suspending = suspending

    def __await__(self) -> Generator[Any, Any, None]:
        work = self._work
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = work.send(None) if thrown is None else work.throw(thrown)
            except StopIteration:
                return
            self._suspending(waits_for)
            try:
                yield waits_for
                thrown = None
            except BaseException as error:
                thrown = error
