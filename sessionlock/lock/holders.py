"""Who holds what in this process, and in which task: that one is told of a loss, and does not wait for itself.

Nothing stays open over the code that runs under a lock: no scope, and nothing that is bound to the task which entered
the block. The body may go on in another task than that (a fixture, a time limit around the entering), and be left in a
third.
"""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from contextvars import ContextVar
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any

from .. import observe
from ..errors import ReentrantLock
from ..lease import Lease
from ..observe import Observer
from ..protocol.keys import SessionKeys
from ..protocol.labels import told_apart
from ..protocol.replies import Granted, Holder
from ..session.mapping import Session
from ..transport.clients import place_of
from .awaiting import has_in_hand, in_hands_of, only_one_with, waits_for
from .request import LockRequest

if TYPE_CHECKING:
    from .topology import Topology

__all__ = [
    "Handle",
    "Holders",
    "LockBody",
    "bodies_here",
    "go_on_in",
    "held_by_us",
    "lease_of",
    "node_name",
    "on_behalf_of",
    "reentrant",
]

COUNTED = hasattr(asyncio.Task, "uncancel")  # cancellations, since Python 3.11
SHIELDED_FOR = 0.05  # seconds until a shielded body is looked at again

# Who asks for a lock, where that is not the task that runs the request: a thread that waits for this task.
on_behalf_of: ContextVar[object] = ContextVar("sessionlock_on_behalf_of")
# The bodies that this code is part of. Tasks and threads that are begun in one inherit it; that of another request, in
# the same thread or task, does not.
_bodies: ContextVar[tuple[LockBody, ...]] = ContextVar("sessionlock_bodies", default=())

try:
    from anyio._backends._asyncio import _task_states  # which scopes a task is in: anyio has no public way to ask
except ImportError:  # an anyio that keeps them elsewhere
    _task_states: Any = {}  # type: ignore[no-redef]
_all: weakref.WeakValueDictionary[int, Holders] = weakref.WeakValueDictionary()  # of this process


def node_name() -> str:
    """Who holds, as shown to others: host and process."""
    return _node_name(os.getpid())


@lru_cache(maxsize=1)
def _node_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"


def lease_of(request: LockRequest, token: str, granted: Granted, observer: Observer | None) -> Lease:
    """What the holder knows of its lock."""
    policy, digest, granted_for = request.lease, request.keys.digest, granted.trusted_for
    return Lease(
        request.name or digest,
        token,
        granted.fence,
        granted.asked_at,
        granted_for,
        policy.ttl,
        policy.margin,
        policy.longest,
        digest,
        granted_for >= policy.ttl,
        None if observer is None else partial(_tell_loss, observer, request),
    )


class Handle:
    """With which a lock can be given back."""

    def gives_back(self, lease: Lease) -> bool:
        raise NotImplementedError


def bodies_here() -> tuple[LockBody, ...]:
    """Those that the running code belongs to; some may be over."""
    return _bodies.get()


def go_on_in(bodies: tuple[LockBody, ...]) -> None:
    """The running code belongs to these from here on, so far as they are not over."""
    _bodies.set(tuple(body for body in bodies if not body.is_over))


class LockBody:
    """One block's, from the grant to the moment that it is left."""

    __slots__ = (
        "_before",
        "_cancelled",
        "_loop",
        "_outside",
        "_over",
        "_retry",
        "home",
        "label",
        "lease",
        "lock",
        "task",
        "thread",
    )

    def __init__(self, home: Holders, lock: bytes, lease: Lease, label: str, loop: asyncio.AbstractEventLoop) -> None:
        self.home: Holders = home
        self.lock: bytes = lock
        self.lease: Lease = lease
        self.label: str = label
        # Who entered the block: a thread, or a task.
        self.thread: object = on_behalf_of.get(None)
        self.task: asyncio.Task[Any] | None = asyncio.current_task(loop)
        # For the moment of a loss.
        self._loop = loop
        self._over = False
        self._cancelled: asyncio.Task[Any] | None = None
        self._retry: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        """Whether it does not hold the lock any more, however that ended."""
        return self.lease.is_over

    @property
    def is_left_by_a_fork(self) -> bool:
        """Whether this is a process that was forked in the block; it belongs to the parent still."""
        # A fork is in no running loop: that is the cheap question.
        return asyncio._get_running_loop() is None and not self.home.are_ours

    # --- who belongs to it

    def enter_context(self) -> None:
        """From here on the running code belongs to it, and what it begins."""
        held = _bodies.get()
        if held:
            go_on_in((*held, self))
        else:
            _bodies.set((self,))

    def leave_context(self) -> None:
        """Elsewhere it is found to be over by who looks."""
        held = _bodies.get()
        if held and held[-1] is self:
            _bodies.set(held[:-1] if len(held) > 1 else ())
        elif self in held:
            go_on_in(held)

    def runner(self) -> asyncio.Task[Any] | None:
        """The task that it runs in, as far as is known.

        That is who entered, so long as he lives and has used the lease or its session himself, or waits for who has;
        else it was passed on to who used it last.
        """
        entered, last = self.task, self.lease.user
        if entered is not None and entered.done():
            entered = None
        if last is None or last is entered or last.done():
            return entered
        if entered is None or (self.lease.first_user is not entered and not waits_for(entered, last)):
            return last
        return entered

    def was_passed_to(self, asker: asyncio.Task[Any] | None) -> bool:
        """Whether that task runs it, and was not begun by who entered: he is over (a fixture, a limit of time)."""
        if asker is None or asker is self.task or self.thread is not None:
            return False
        runner = self.runner()
        return runner is asker or (runner is None and has_in_hand(self._is_mine, asker))

    def is_run_by(self, asker: asyncio.Task[Any] | None) -> bool:
        """Whether that task, or the thread on whose behalf it asks, runs it, and has not passed it on.

        Who runs it may wait for a task that has its session or lease in hand, and so can give the lock back.
        """
        thread = on_behalf_of.get(None)
        if self.thread is not None or thread is not None:
            return self.thread is thread
        return asker is not None and asker is self.runner() and in_hands_of(self._is_mine, besides=asker) is None

    def waits_for(self, asker: asyncio.Task[Any] | None) -> bool:
        """Whether it cannot end before that task, which belongs to it and asks for its lock, has been answered.

        A task may be left to itself, to have the lock afterwards. A thread that belongs to it is waited for.
        """
        if self.thread is not None or self.has_begun_a_thread:
            return True
        runner = self.runner()
        if asker is None or runner is None or asker is runner:
            return self.is_run_by(asker)
        return runner.get_loop() is not asker.get_loop() or waits_for(runner, asker)

    @property
    def has_begun_a_thread(self) -> bool:
        """Whether a thread asks that belongs to it, a body of a task."""
        return self.thread is None and on_behalf_of.get(None) is not None

    def _is_mine(self, value: object) -> bool:
        """Whether that is something with which this lock can be given back, or that goes with it."""
        if issubclass(type(value), Session):  # type(): a proxy of what is gone has no class
            return value.lease is self.lease  # type: ignore[attr-defined]
        return value is self.lease or (issubclass(type(value), Handle) and value.gives_back(self.lease))  # type: ignore[attr-defined]

    # --- when the lease is lost

    def cancel_when_lost(self) -> None:
        """Losing the lease cancels it."""
        task = self.task
        self._before = task.cancelling() if COUNTED and task is not None else 0  # type: ignore[attr-defined]
        state = None if task is None else _task_states.get(task)
        self._outside = None if state is None else state.cancel_scope
        self.lease.when_lost(self._lost)

    def _lost(self) -> None:
        """In any thread, and perhaps in the body itself, which is told by an exception then."""
        running = asyncio._get_running_loop()
        if running is not self._loop:
            self._loop.call_soon_threadsafe(self._cancel)
        elif asyncio.current_task(running) is self.runner():
            self._loop.call_soon(self._cancel)
        else:
            self._cancel()

    def _cancel(self) -> None:
        # Where who entered is over and nobody has used it since (a time limit before Python 3.12): who has it in hand.
        task = None if self._over else self.runner() or only_one_with(self._is_mine, self._loop)
        if task is None:
            return
        if self._is_shielded(task):
            self._retry = self._loop.call_later(SHIELDED_FOR, self._cancel)
            return
        if task is not self.task or not COUNTED:
            self._before = _cancelling(task)
        self._cancelled = task
        task.cancel(self._reason())

    def _reason(self) -> str:
        """Says a cancellation of ours."""
        return f"sessionlock: the lock of {self.lease.name} was lost (fencing token {self.lease.fencing_token})"

    def _is_shielded(self, task: asyncio.Task[Any]) -> bool:
        """Whether the body has shielded itself by a scope of anyio. One from outside of it does not count."""
        outside = set(_chain(self._outside)) if task is self.task else set()
        state = _task_states.get(task)
        scopes = () if state is None else _chain(state.cancel_scope)
        return any(scope.shield for scope in scopes if scope not in outside)

    def ended(self, error: BaseException | None) -> bool:
        """It is over, and has raised ``error``. Returns whether that is our cancellation, and nobody else's.

        Ours is taken back, so that nobody around sees the task as cancelled.
        """
        self._over = True
        self.lease.when_lost(None)
        if self._retry is not None:
            self._retry.cancel()
        task, self._cancelled = self._cancelled, None
        if task is None:
            return False
        left = task.uncancel() if COUNTED else 0  # type: ignore[attr-defined]
        if not isinstance(error, asyncio.CancelledError):
            return False
        here = asyncio.current_task()
        if here is task:
            return left <= self._before if COUNTED else self._before == 0
        if here is None or not (self._reason() in error.args or waits_for(task, here)):
            return False
        # It came to this task from the one that was cancelled, which waits for it: or the other way round.
        return not COUNTED or not here.cancelling() or here.uncancel() == 0  # type: ignore[attr-defined]


def _cancelling(task: asyncio.Task[Any] | None) -> int:
    """How many want it to end. Before Python 3.11 nobody counts them: whether there is one on its way now."""
    if COUNTED:
        return 0 if task is None else int(task.cancelling())  # type: ignore[attr-defined]
    future: Any = task
    while isinstance(future, asyncio.Task):
        if future._must_cancel:  # type: ignore[attr-defined]
            return 1
        future = future._fut_waiter  # type: ignore[attr-defined]
    return int(future is not None and (future.cancelled() or getattr(future, "_cancel_requested", False)))


def _chain(scope: Any) -> Any:
    while scope is not None:
        yield scope
        scope = scope._parent_scope


class Holders:
    """The locks that are held within one event loop, by one guard."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._pid = os.getpid()
        self._held: dict[bytes, LockBody] = {}
        _all[id(self)] = self

    def check(self, request: LockRequest) -> None:
        """Before asking for that lock.

        Raises:
            ReentrantLock: who asks holds it himself.
        """
        body = self._held.get(request.keys.lock)
        if body is None or body.is_over or request.for_itself:
            return
        asker = asyncio.current_task()
        if body.is_run_by(asker) if body in bodies_here() else body.was_passed_to(asker):
            raise reentrant(request, body, asker)

    def doubts(self, request: LockRequest) -> list[LockBody]:
        """Who of those that hold the lock might wait for the one who asks for it: they, or another guard of the same
        servers, began him.
        """
        if request.for_itself:
            return []
        return [
            body
            for body in bodies_here()
            if body.lock == request.keys.lock and not body.is_over and body.home.is_at(self.place)
        ]

    @cached_property
    def place(self) -> tuple[str, str]:
        """Where the locks are: two guards of one Redis have the same."""
        return type(self._topology).__name__, place_of(self._topology.client)

    def is_at(self, place: tuple[str, str]) -> bool:
        return self.place == place

    @property
    def are_ours(self) -> bool:
        """Whether this process holds them, and not one that it was forked from."""
        return self._pid == os.getpid()

    def add(self, body: LockBody) -> None:
        self._held[body.lock] = body

    def remove(self, body: LockBody) -> None:
        # After a lost lease another task of this process may be the holder by now.
        if self._held.get(body.lock) is body:
            del self._held[body.lock]

    def end(self, observer: Observer | None) -> None:
        """Their event loop has ended: nobody gives them up any more, and they run out in Redis."""
        held, self._held = self._held, {}
        for body in held.values():
            if observer is not None and not body.lease.released:
                label = told_apart(body.label)[0]
                observer(observe.LockReleased(body.lease.digest, label, body.lease.age()))
            body.lease.mark_released()

    def holder_of(self, lock: bytes) -> Holder | None:
        """Who of this event loop has that lock."""
        body = self._held.get(lock)
        return None if body is None or body.is_over else Holder.of(body.label, body.lease.age())

    def token_of(self, keys: SessionKeys, label: str) -> str | None:
        """By which token that lock is held under that label. Any thread may ask."""
        body = self._held.get(keys.lock)
        if body is None or told_apart(body.label)[0] != label or not self.are_ours:
            return None
        return body.lease.token


def reentrant(request: LockRequest, body: LockBody, asker: asyncio.Task[Any] | None) -> ReentrantLock:
    """The error for who asks, in the body of that lock, for the lock once more."""
    if body.thread is not None:
        who = "this thread already holds the lock"
    elif body.task is asker:
        who = "this task already holds the lock"
    else:
        who = "this code is part of a block that already holds the lock"
    what, instead = ("lease", "taking") if request.name else ("session", "locking")
    of = repr(request.name) if request.name else f"of session {request.digest}"
    return ReentrantLock(
        f"{who} {of}; waiting for it would never end. Pass the {what} on instead of {instead} it again"
    ).about(request.digest)


def held_by_us(keys: SessionKeys, label: str) -> str | None:
    """By which token this process, in whichever of its event loops, holds that lock under that label; None: not."""
    references = [reference() for reference in _all.valuerefs()]
    tokens = (holders.token_of(keys, label) for holders in references if holders is not None)
    return next((token for token in tokens if token is not None), None)


def _tell_loss(observer: Observer, request: LockRequest, lease: Lease) -> None:
    observer(observe.LockLost(request.digest, request.label, lease.fencing_token, lease.lost_because or ""))
