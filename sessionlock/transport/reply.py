"""The reply to one call, for one task. It goes on in the moment in which the reply is read.

An :class:`asyncio.Future` would let it go on in the next turn of the event loop only, which costs as much as all that a
lock does besides: another look at all sockets, one call at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any

__all__ = ["Reply"]

_NOT_YET = object()


class Reply:
    """To be awaited once. As much of a future as :class:`asyncio.Task` asks of what it waits for.

    An error reply is an exception *object* as result; a connection that was lost is raised.
    """

    __slots__ = ("_asyncio_future_blocking", "_failure", "_loop", "_result", "_told")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asyncio_future_blocking = False
        self._result: Any = _NOT_YET
        self._failure: BaseException | None = None
        self._told: list[tuple[Callable[[Reply], object], Context | None]] = []  # mostly one, the task that waits

    # --- for the connection

    def answer(self, reply: Any) -> None:
        """It is there. The one that waits runs now; in the next turn of the loop where another task runs now: a loop
        that was made to run within itself.

        Raises:
            SystemExit, KeyboardInterrupt: the one that waited raised it, for the loop.
        """
        self._result = reply
        if self._failure is None:
            if asyncio.current_task(self._loop) is not None:
                self._tell_soon()
                return
            for callback, context in self._told:
                if context is None:
                    callback(self)
                else:
                    context.run(callback, self)

    def fail(self, error: BaseException) -> None:
        """There will be none. Who waits goes on in the next turn of the loop."""
        if self._failure is None and self._result is _NOT_YET:
            self._failure = error
            self._tell_soon()

    def _tell_soon(self) -> None:
        for callback, context in self._told:
            self._loop.call_soon(callback, self, context=context)

    # --- for the task

    def __await__(self) -> Generator[Reply, None, Any]:
        if self._result is _NOT_YET and self._failure is None:
            self._asyncio_future_blocking = True
            yield self
        return self.result()

    def result(self) -> Any:
        if self._failure is not None:
            raise self._failure
        return self._result

    def get_loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def add_done_callback(self, callback: Callable[[Reply], object], *, context: Context | None = None) -> None:
        """Before it is done."""
        self._told.append((callback, context))

    def cancel(self, msg: object = None) -> bool:
        """The task was cancelled. Whether that is still in time."""
        if self._failure is not None or self._result is not _NOT_YET:
            return False
        self.fail(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))
        return True
