"""The way from a thread into the async implementation: one event loop, in a thread of its own, for the whole process.

It starts with the first call and ends when the process does. A forked child (gunicorn's ``preload_app``,
``multiprocessing``) starts its own and never touches its parent's.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from contextvars import Context, copy_context
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from ..clock import monotonic
from ..errors import ConfigurationError, SessionLockError
from ..lock.holders import on_behalf_of
from ..lock.refusals import forked
from ..lock.runtime import CLEAN_UP_WITHIN
from ..transport.tasks import within

__all__ = ["Portal", "portal"]

T = TypeVar("T")
STOP_WITHIN = 5.0  # seconds that the end of a process waits for connections to be closed in an orderly way


class Closable(Protocol):
    async def aclose(self) -> None: ...


class _Loop(asyncio.SelectorEventLoop):
    """Its timers go off also where a test has stopped the clock of :mod:`time`."""

    def time(self) -> float:
        return monotonic()


def _new_loop() -> asyncio.AbstractEventLoop:
    """As the application has it, if it has chosen one, uvloop for example."""
    loop = asyncio.new_event_loop()
    if type(loop) is not asyncio.SelectorEventLoop:
        return loop
    loop.close()
    return _Loop()


class _Owner(threading.local):
    """``_here.thread``: this thread. Numbers of threads are used again, objects are not."""

    def __init__(self) -> None:
        self.thread = object()


_here = _Owner()


class _Call:
    """One coroutine that a thread waits for."""

    __slots__ = ("args", "context", "done", "error", "finished", "result", "task", "wanted", "work")

    def __init__(self, work: Callable[..., Coroutine[Any, Any, Any]], args: tuple[Any, ...]) -> None:
        self.work = work
        self.args = args
        self.context = copy_context()  # what a listener or a tracer finds there is the caller's
        self.context.run(on_behalf_of.set, _here.thread)
        self.wanted = True
        self.finished = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.task: asyncio.Task[None] | None = None
        self.done = threading.Lock()
        self.done.acquire()

    async def serve(self) -> None:
        """In the loop. Whatever comes of it belongs to the thread that waits."""
        try:
            self.result = await self.work(*self.args)
        except BaseException as error:
            self.error = error
        finally:
            self.finish()

    def finish(self) -> None:
        self.finished = True
        self.done.release()

    def outcome(self) -> Any:
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            if isinstance(error, asyncio.CancelledError):
                raise SessionLockError("the call was ended because its guard or this process is being closed")
            raise error
        finally:
            del error  # or it would refer to itself by its traceback


class Portal:
    """``call(work, *args)`` runs ``await work(*args)`` in the loop's thread and waits for it here."""

    def __init__(self) -> None:
        self.pid: int = os.getpid()
        self.guards: weakref.WeakSet[Closable] = weakref.WeakSet()  # closed when the process ends
        self.held: dict[int, AbstractAsyncContextManager[Any]] = {}  # what threads are in; given up when it ends
        self._loop = Context().run(_new_loop)  # not in the context of a request that happens to be first
        self._calls: deque[_Call] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="sessionlock", daemon=True)
        self._thread.start()

    def call(
        self,
        work: Callable[..., Coroutine[Any, Any, T]],
        *args: Any,
        cancel: bool = True,
        stand_still: bool = False,
    ) -> T:
        """What ``await work(*args)`` returns or raises.

        ``stand_still``: even though this thread runs a loop, which then waits, too.

        An exception from a signal handler (Ctrl-C) ends the waiting: ``work`` is cancelled, or with
        ``cancel=False`` seen through, and is over, within reason, before the exception goes on.

        Raises:
            ConfigurationError: this thread runs an event loop, which must not stand still.
            LeaseLost: the process was forked since this portal was found.
        """
        running = asyncio._get_running_loop()
        # Under gevent all "threads" are one, in which this very loop runs: what tells them apart is their number.
        here = self._thread.ident == threading.get_ident()
        if here or (running is not None and running is not self._loop and not stand_still):
            raise ConfigurationError(
                "this thread runs an event loop, which the blocking face would bring to a stand. Use the async face:"
                " `async with guard.session_lock(sid) as session`"
            )
        if self.pid != os.getpid():
            raise forked()
        call = _Call(work, args)
        try:
            self._submit(call)
            call.done.acquire()
        except SessionLockError:
            raise
        except BaseException:
            self._interrupted(call, cancel)
            raise
        return cast(T, call.outcome())

    @property
    def alive(self) -> bool:
        """Whether calls of this process can still be served."""
        return not self._loop.is_closed() and self.pid == os.getpid()

    def begin(self, work: Callable[..., Coroutine[Any, Any, object]], *args: Any) -> None:
        """Have it done and do not wait for it."""
        self._submit(_Call(work, args))

    def _submit(self, call: _Call) -> None:
        self._calls.append(call)
        # Always, even if others did a moment ago: a flag that says so could be left behind by a Ctrl-C.
        self._in_loop(self._start_all)

    def _in_loop(self, step: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(step)
        except RuntimeError:
            raise SessionLockError("this process is ending; its sessions can no longer be locked") from None

    def _interrupted(self, call: _Call, cancel: bool) -> None:
        """Leave nothing behind, wherever the interruption came."""
        if not call.finished:
            self._in_loop(partial(self._cancel, call) if cancel else self._start_all)
            call.done.acquire(timeout=CLEAN_UP_WITHIN)

    # --- in the loop's thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        # A transport that was closed gives its socket back in a later step of the loop.
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _start_all(self) -> None:
        while self._calls:
            call = self._calls.popleft()
            if call.wanted:
                task = call.task = call.context.run(self._loop.create_task, call.serve())
                self._tasks.add(task)
                task.add_done_callback(partial(self._ended, call))
            else:
                call.finish()

    def _ended(self, call: _Call, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not call.finished:  # cancelled before its first step
            call.error = asyncio.CancelledError()
            call.finish()

    def _cancel(self, call: _Call) -> None:
        call.wanted = False
        self._start_all()
        if call.task is not None:
            call.task.cancel()

    # --- the end

    def stop(self) -> None:
        """Give up what daemon threads still hold, close the guards' connections and end the thread.

        Who still waits in a call hears of it.
        """
        if self.pid == os.getpid() and self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._wind_up(), self._loop)
            self._thread.join(STOP_WITHIN)

    async def _wind_up(self) -> None:
        try:
            await within(self._close_all(), STOP_WITHIN / 2)
        except asyncio.TimeoutError:
            pass  # a Redis that does not answer; the process ends and its sockets with it
        self._loop.stop()

    async def _close_all(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        end = GeneratorExit()
        given_up = [block.__aexit__(GeneratorExit, end, None) for block in self.held.values()]
        await asyncio.gather(*given_up, return_exceptions=True)
        for guard in list(self.guards):
            await guard.aclose()


# --- the process' own

_current: Portal | None = None
_starting = threading.Lock()
_left_behind: list[Portal] = []  # a parent's: closing its loop would take the parent's sockets out of the epoll set


def portal() -> Portal:
    """This process' portal; started when there is none."""
    found = _current
    return found if found is not None and found.pid == os.getpid() else _start()


def _start() -> Portal:
    global _current
    with _starting:
        _leave_behind()
        if _current is None:
            _current = Portal()
            atexit.register(_current.stop)
        return _current


def _leave_behind() -> None:
    global _current
    if _current is not None and _current.pid != os.getpid():
        _left_behind.append(_current)
        _current = None


def _forked() -> None:
    global _starting
    _starting = threading.Lock()  # another thread of the parent may have held it
    _leave_behind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
