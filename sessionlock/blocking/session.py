"""A session, a block and an attempt as a thread sees them: plain data here, and the way into the loop at each end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..errors import ConfigurationError
from ..lease import Lease
from ..lock.holders import LockBody, bodies_here, go_on_in
from ..lock.request import OnWait
from ..session.block import Actions
from ..session.mapping import Session as AsyncSession
from ..session.transaction import Attempt as AsyncAttempt
from ..views.block import SessionOfThread
from .portal import Portal

__all__ = ["Attempt", "Block", "Moments", "Session", "hand_out", "hand_out_all", "hand_out_lease"]

T = TypeVar("T")


class Moments:
    """What a session has beside its data, by the names of :class:`sessionlock.Session`: what is awaited there waits
    here.
    """

    @property
    def core(self) -> AsyncSession:
        """The session that lives in the event loop."""
        raise NotImplementedError

    def _wait_for(self, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        raise NotImplementedError

    def __repr__(self) -> str:
        return repr(self.core)

    @property
    def sid(self) -> str:
        """The secret id, as in the cookie."""
        return self.core.sid

    @property
    def digest(self) -> str:
        """The name under which logs and ``sessionlock inspect`` know it."""
        return self.core.digest

    @property
    def name(self) -> str:
        """The former name of :attr:`digest`; it goes with the next release."""
        return self.core.digest

    @property
    def version(self) -> int:
        """Counts the commits of this session."""
        return self.core.version

    @property
    def lease(self) -> Lease | None:
        """None without a lock."""
        return self.core.lease

    def save(self) -> None:
        """Save now what changed, and go on. Raises as :meth:`sessionlock.Session.save`."""
        self._wait_for(self.core.save)

    def release(self) -> None:
        """Save and give the lock up now. Later changes raise."""
        self._wait_for(self.core.release)

    def incr(self, key: str, by: int = 1) -> int:
        """Add to an integer, in Redis and at once; returns the new value.

        Raises as :meth:`sessionlock.Session.incr`.
        """
        return self._wait_for(self.core.incr, key, by)

    def regenerate(self, *, grace: float = 30.0) -> str:
        """Give the session a new id; the old one works ``grace`` seconds longer. Returns the new one.

        Raises as :meth:`sessionlock.Session.regenerate`.
        """
        return self._wait_for(partial(self.core.regenerate, grace=grace))

    def destroy(self) -> None:
        """End the session (log out) at once."""
        self._wait_for(self.core.destroy)


class Session(Moments, SessionOfThread):
    """:class:`sessionlock.Session` for a thread: the same data and the same methods, which wait instead of awaiting.

    ``lease`` is None without a lock. Using a session whose lease was lost raises :class:`~sessionlock.LeaseLost`,
    unless ``LeasePolicy(on_lost="flag")``.
    """

    def __init__(self, loop: Portal, inner: AsyncSession, *, told: bool = False, block: object = None) -> None:
        self._loop = loop
        self._inner = inner
        self._watched = None if told else inner.lease
        self._block = block  # kept alive: a block that nobody can leave any more gives its lock up
        self._later: _SaveAfterwards | None = None
        if inner.policy.save == "immediate" and inner.actions is not None and inner.lease is not None:
            self._later = _SaveAfterwards(inner.actions)
            inner.belongs_to(self._later)

    def _use(self) -> AsyncSession:
        if self._watched is not None:
            self._watched.check_lost()
        return self._inner

    def _wait_for(self, work: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        return self._loop.call(work, *args)

    def _changed(self) -> None:
        if self._later is not None and self._later.wanted:
            self._later.wanted = False
            self.save()

    # --- the mapping

    def __getitem__(self, key: str) -> Any:
        return self._use()[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._use()[key] = value
        self._changed()

    def __delitem__(self, key: str) -> None:
        del self._use()[key]
        self._changed()

    def __contains__(self, key: object) -> bool:
        return key in self._use()

    def __iter__(self) -> Iterator[str]:
        return iter(self._use())

    def __len__(self) -> int:
        return len(self._use())

    def update(self, *others: Any, **values: Any) -> None:
        """As of a dict; saved together where changes are saved at once."""
        self._use().update(*others, **values)
        self._changed()

    # --- what is known of it

    @property
    def core(self) -> AsyncSession:
        return self._inner

    @property
    def new(self) -> bool:
        """Whether there was no record when this session was loaded."""
        return self._inner.new

    @property
    def modified(self) -> bool:
        """Whether anything differs from what was loaded or saved last."""
        return self._inner.modified

    @property
    def accessed(self) -> bool:
        """Whether the application read or wrote any key."""
        return self._inner.accessed

    # --- messages

    def flash(self, category: str, message: Any) -> None:
        """:meth:`sessionlock.Session.flash`."""
        self._use().flash(category, message)
        self._changed()

    def pop_flashes(self) -> list[tuple[str, Any]]:
        """:meth:`sessionlock.Session.pop_flashes`."""
        taken = self._use().pop_flashes()
        self._changed()
        return taken


class _SaveAfterwards:
    """In a thread there are no ticks: what is to be saved at once is noted, and saved when the change is made."""

    def __init__(self, actions: Actions) -> None:
        self.wanted = False
        self.save = actions.save
        self.release = actions.release
        self.incr = actions.incr
        self.regenerate = actions.regenerate
        self.destroy = actions.destroy

    def changed(self) -> None:
        self.wanted = True


class Block(Generic[T]):
    """``with guard.session_lock(sid) as session``; one use. Whatever interrupts it, the lock is given back."""

    _loop: Portal | None = None
    _entered = False
    _left = False
    _bodies: tuple[LockBody, ...] = ()

    def __init__(
        self,
        find_loop: Callable[[], Portal],
        context: Any,
        hand_out: Callable[[Portal, Any, object], T],
    ) -> None:
        self._find_loop = find_loop
        self._context = context  # what is entered, in the loop
        self._hand_out = hand_out

    @property
    def outdated(self) -> bool:
        return bool(self._context.outdated)

    def when_waiting(self, ask: OnWait | None) -> None:
        self._context.when_waiting(ask)

    def __enter__(self) -> T:
        if self._loop is not None:
            raise ConfigurationError("a lock context is for one use; call session_lock() again for the next")
        loop = self._loop = self._find_loop()
        try:
            value = loop.call(self._enter)
            go_on_in(self._bodies)
            return self._hand_out(loop, value, self)
        except BaseException as error:
            if self._entered:  # granted, and interrupted on the way here
                self.__exit__(type(error), error, None)
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        assert self._loop is not None
        if error is not None and not self._loop.alive:
            return  # forked in the block: the lock is the parent's, and the body's own exception comes first
        try:
            self._loop.call(self._leave, kind, error, tb, cancel=False)
        except BaseException as trouble:
            if not self._left:  # interrupted before the loop heard of it
                self._loop.call(self._leave, type(trouble), trouble, None, cancel=False)
            raise
        finally:
            go_on_in(bodies_here())

    def __del__(self) -> None:
        # A Ctrl-C in the very instant between `with` and this object's own code leaves a lock that nobody gives back.
        if self._entered and not self._left and self._loop is not None and self._loop.alive:
            self._loop.begin(self._leave, GeneratorExit, GeneratorExit(), None)

    # --- in the loop

    async def _enter(self) -> Any:
        assert self._loop is not None
        value = await self._context.__aenter__()
        self._entered = True
        self._bodies = bodies_here()  # of the caller and this one, in a copy of the caller's context
        self._loop.held[id(self)] = self._context
        return value

    async def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if not self._left:
            self._left = True
            assert self._loop is not None
            self._loop.held.pop(id(self), None)
            await self._context.__aexit__(kind, error, tb)


class Attempt:
    """One attempt of a transaction: ``with attempt as session``. A conflict ends it; the next follows."""

    def __init__(self, loop: Portal, inner: AsyncAttempt) -> None:
        self._loop = loop
        self._inner = inner

    def __enter__(self) -> Session:
        return Session(self._loop, self._loop.call(self._inner.__aenter__))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call(self._inner.__aexit__, kind, error, tb)


def hand_out(told: bool, loop: Portal, inner: AsyncSession, block: object) -> Session:
    return Session(loop, inner, told=told, block=block)


def hand_out_all(told: bool, loop: Portal, inner: tuple[AsyncSession, ...], block: object) -> tuple[Session, ...]:
    return tuple(Session(loop, one, told=told, block=block) for one in inner)


def hand_out_lease(loop: Portal, lease: Lease, block: object) -> Lease:
    return lease
