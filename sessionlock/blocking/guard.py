"""The same, for threads: Flask, Django, scripts, workers.

::

    from sessionlock.blocking import SessionGuard

    guard = SessionGuard.from_url("redis://localhost:6379/0")
    with guard.session_lock(sid) as session:
        session["cart"].append("A")

There is one implementation, the async one. It runs in one event loop, in a thread of its own that all threads of this
process share: started by the first call, ended with the process, and begun anew in a forked child (gunicorn's
``preload_app``). Entering and leaving a block go there, each waits for one round trip; in between the session is plain
data in your own thread. One block belongs to one thread at a time: do not change one session from two threads.

What differs from the async face:

- A thread cannot be cancelled. When the lease is lost (``on_lost="cancel"``), the next use of the session raises
  :class:`~sessionlock.LeaseLost`, and so does the end of the block. With ``"flag"`` only the end raises; ask
  ``session.lease.is_lost``.
- Ctrl-C while waiting for the lock gives the place in the queue up; in the body it releases the lock without saving.
- With ``SessionPolicy(save="immediate")`` an assignment returns when it is stored.
- A thread that asks again for a session which it holds gets :class:`~sessionlock.ReentrantLock` at once.
- tenacity's callbacks (``before_sleep`` ...) run in the loop's thread, with your context variables.
- In a thread that runs an event loop every call is refused (:class:`~sessionlock.ConfigurationError`): it would bring
  that loop to a stand. Use the async face there.

gevent: after ``monkey.patch_all()`` a greenlet is a thread in all of the above, and the loop is a greenlet, too.
Tried with gevent 26: greenlets that contend for one session, ReentrantLock, greenlets killed while they wait or hold,
gunicorn with ``-k gevent``. Two things do not work. ``patch_all(thread=False)``: a wait stops all greenlets, the holder
too. Using a guard *before* gunicorn forks (``preload_app`` with a call at import): the parent's loop greenlet lives on
in the child. With real threads that is fine.
"""

from __future__ import annotations

import weakref
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

from tenacity import AsyncRetrying, BaseRetrying

from .. import default
from ..errors import ConfigurationError
from ..guard import GuardOptions
from ..guard import SessionGuard as AsyncGuard
from ..lock.arguments import check_given, given_lease, this_kind
from ..lock.by_hand import flagged
from ..lock.inspection import SessionInfo
from ..lock.options import LockOptions, SharedOptions, TransactionOptions, ViewOptions
from ..policies import LeasePolicy, SessionPolicy, WaitPolicy
from ..session.transaction import Attempt as AsyncAttempt
from ..session.unlocked import UnlockedMode
from ..views import wrap as views
from ..views.session_id import SidFrom
from .by_hand import Lock
from .portal import Portal, portal
from .session import Attempt, Block, Session, hand_out, hand_out_all

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["SessionGuard", "blocking_guard", "configure", "default_guard", "session_lock", "session_locked"]

T = TypeVar("T")


class SessionGuard:
    """:class:`sessionlock.SessionGuard` for threads; share it between them.

    ``client`` is a ``redis.asyncio`` client (its settings are taken, not its connections), or a
    :class:`sessionlock.SessionGuard`, whose policies are then shared. ``options`` as there. ``inner``: the async guard
    that does it, on the loop of the portal.
    """

    def __init__(self, client: Any, **options: Unpack[GuardOptions]) -> None:
        if isinstance(client, AsyncGuard):
            if options:
                raise ConfigurationError("options belong to the guard that is handed over; give them there")
            self.inner: AsyncGuard = client.twin()
        else:
            self.inner = AsyncGuard(client, **options)
        self._known: Portal | None = None

    @classmethod
    def from_url(cls, url: str, **options: Unpack[GuardOptions]) -> SessionGuard:
        """A guard with a client of its own; :meth:`close` closes it.

        Raises:
            ConfigurationError: a scheme or option that does not exist.
        """
        owner = AsyncGuard.from_url(url, **options)
        made = cls(owner)
        made.inner = owner  # rather than its twin: this one closes its client
        return made

    def _loop(self) -> Portal:
        found = portal()
        if found is not self._known:
            found.guards.add(self.inner)
            self._known = found
        return found

    # --- the lock around load – handle – save

    @overload
    def session_lock(self, sid: str, /, **options: Unpack[LockOptions]) -> AbstractContextManager[Session, None]: ...

    @overload
    def session_lock(
        self, sid: str, second: str, /, *more: str, **options: Unpack[SharedOptions]
    ) -> AbstractContextManager[tuple[Session, ...], None]: ...

    def session_lock(
        self, *sids: str, lease: LeasePolicy | None = None, **options: Any
    ) -> AbstractContextManager[Any, None]:
        """``with guard.session_lock(sid) as session``; as :meth:`sessionlock.SessionGuard.session_lock`, which names
        the options and the errors. Further: LeaseLost at any use of a session whose lease was lost."""
        policy = self.inner.lease_policy if lease is None else given_lease(lease)
        context = self.inner.session_lock(*sids, lease=flagged(policy), **options)
        hand_over = hand_out if len(sids) == 1 else hand_out_all
        return Block(self._loop, context, partial(hand_over, policy.on_lost == "flag"))

    def lock(
        self,
        lock_name: str,
        *,
        lease: LeasePolicy | None = None,
        wait: WaitPolicy | float | None = None,
        label: str | None = None,
        name: str | None = None,
    ) -> Lock:
        """``with guard.lock(name) as lease``: only the lock, for storage of your own.

        Ask ``lease.check()`` before what must not happen without the lock; it raises LeaseLost. The :class:`Lock` can
        be kept, and taken by hand.
        """
        policy = flagged(self.inner.lease_policy if lease is None else given_lease(lease))
        label = name if label is None else label
        return Lock(self._loop, self.inner.lock(lock_name, lease=policy, wait=wait, label=label))

    def lock_key(self, name: str) -> str:
        """:meth:`sessionlock.SessionGuard.lock_key`."""
        return self.inner.lock_key(name)

    # --- without the lock

    def attempts(
        self, sid: str, *, retry: BaseRetrying | None = None, **options: Unpack[TransactionOptions]
    ) -> Iterator[Attempt]:
        """:meth:`sessionlock.SessionGuard.attempts`::

        for attempt in guard.attempts(sid):
            with attempt as session:
                session["stock"] -= 1

        ``retry``: a tenacity object; its ``stop``, ``wait`` and ``before_sleep`` count.
        """
        tries = None
        check_given({**options, "retry": retry})
        if retry is not None:
            tries = AsyncRetrying(stop=retry.stop, wait=retry.wait, before_sleep=retry.before_sleep)
        loop = self._loop()

        async def begin() -> Any:
            return self.inner.attempts(sid, retry=tries, **options)

        running = loop.call(begin)
        try:
            while (attempt := loop.call(partial(_next, running))) is not None:
                yield Attempt(loop, attempt)
        finally:
            loop.call(running.aclose)

    def transaction(
        self,
        sid: str,
        change: Callable[[Session], T],
        *,
        retry: BaseRetrying | None = None,
        **options: Unpack[TransactionOptions],
    ) -> T:
        """:meth:`sessionlock.SessionGuard.transaction`; ``change(session)`` runs in this thread, perhaps repeatedly."""
        for attempt in self.attempts(sid, retry=retry, **options):
            with attempt as current:
                answer = change(current)
        return answer

    def create(self, data: Mapping[str, Any] | None = None, *, sid: str | None = None) -> Session:
        """:meth:`sessionlock.SessionGuard.create`."""
        loop = self._loop()
        return Session(loop, loop.call(partial(self.inner.create, data, sid=sid)))

    def read(self, sid: str) -> Session:
        """:meth:`sessionlock.SessionGuard.read`."""
        loop = self._loop()
        return Session(loop, loop.call(self.inner.read, sid))

    def destroy(self, sid: str) -> bool:
        """:meth:`sessionlock.SessionGuard.destroy`."""
        return self._loop().call(self.inner.destroy, sid)

    def incr(self, sid: str, key: str, by: int = 1) -> int:
        """:meth:`sessionlock.SessionGuard.incr`."""
        return self._loop().call(self.inner.incr, sid, key, by)

    def regenerate(self, sid: str, *, grace: float = 30.0) -> str:
        """:meth:`sessionlock.SessionGuard.regenerate`."""
        return self._loop().call(partial(self.inner.regenerate, sid, grace=grace))

    def inspect(self, sid: str) -> SessionInfo:
        """:meth:`sessionlock.SessionGuard.inspect`."""
        return self._loop().call(self.inner.inspect, sid)

    def force_release(self, sid: str, token: str) -> bool:
        """:meth:`sessionlock.SessionGuard.force_release`."""
        return self._loop().call(self.inner.force_release, sid, token)

    def ready(self, timeout: float = 1.0) -> bool:
        """:meth:`sessionlock.SessionGuard.ready`."""
        return self._loop().call(partial(self.inner.ready, timeout))

    def beginning(
        self, mode: UnlockedMode, policy: SessionPolicy | None = None
    ) -> AbstractContextManager[Session, None]:
        """``with guard.beginning(mode) as session``: a new session, which is stored if something is put in."""
        return Block(self._loop, self.inner.beginning(mode, policy), partial(hand_out, True))

    # --- a user's sessions

    def bind(self, sid: str, user: str) -> None:
        """:meth:`sessionlock.SessionGuard.bind`."""
        self._loop().call(self.inner.bind, sid, user)

    def sessions_of(self, user: str) -> list[SessionInfo]:
        """:meth:`sessionlock.SessionGuard.sessions_of`."""
        return self._loop().call(self.inner.sessions_of, user)

    def destroy_all(self, user: str, *, keep: str | None = None) -> int:
        """:meth:`sessionlock.SessionGuard.destroy_all`."""
        return self._loop().call(partial(self.inner.destroy_all, user, keep=keep))

    def repair_index(self) -> int:
        """:meth:`sessionlock.SessionGuard.repair_index`."""
        return self._loop().call(self.inner.repair_index)

    # --- life

    def close(self) -> None:
        """Close the guard's connections. The loop goes on for other guards; the process' end closes what is left."""
        self._loop().call(self.inner.aclose)

    def __enter__(self) -> SessionGuard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _next(running: AsyncGenerator[AsyncAttempt, None]) -> AsyncAttempt | None:
    return await anext(running, None)


# --- the guard that a handler uses when it names none

_faces: weakref.WeakKeyDictionary[AsyncGuard, SessionGuard] = weakref.WeakKeyDictionary()


def blocking_guard(guard: AsyncGuard) -> SessionGuard:
    """The guard for threads that belongs to an async one: its policies, connections of its own. Always the same one."""
    face = _faces.get(guard)
    return face if face is not None else _faces.setdefault(guard, SessionGuard(guard))


@overload
def configure(guard_or_url: SessionGuard | AsyncGuard) -> SessionGuard: ...


@overload
def configure(guard_or_url: str, **options: Unpack[GuardOptions]) -> SessionGuard: ...


def configure(guard_or_url: SessionGuard | AsyncGuard | str, **options: Any) -> SessionGuard:
    """Set the default guard, of the async face as well: there is one. Nothing is connected yet."""
    if isinstance(guard_or_url, SessionGuard):
        origin = default.configure(guard_or_url.inner.twin(), **options)
        _faces[origin] = guard_or_url
        return guard_or_url
    return blocking_guard(default.configure(guard_or_url, **options))


def default_guard() -> SessionGuard:
    """The guard set by :func:`configure`, here or in :mod:`sessionlock`.

    Raises:
        ConfigurationError: it was never called.
    """
    return blocking_guard(default.default_guard())


@overload
def session_lock(sid: str, /, **options: Unpack[LockOptions]) -> AbstractContextManager[Session, None]: ...


@overload
def session_lock(
    sid: str, second: str, /, *more: str, **options: Unpack[SharedOptions]
) -> AbstractContextManager[tuple[Session, ...], None]: ...


def session_lock(*sids: str, **options: Any) -> AbstractContextManager[Any, None]:
    """:meth:`SessionGuard.session_lock` of the default guard."""
    return default_guard().session_lock(*sids, **options)


def session_locked(
    sid_from: SidFrom,
    *,
    guard: SessionGuard | None = None,
    **options: Unpack[ViewOptions],
) -> views.Decorator:
    """:func:`sessionlock.session_locked` for sync views only."""
    if guard is not None:
        this_kind("guard", guard, SessionGuard, "a sessionlock.blocking.SessionGuard")
    locks = views.Locks(sid_from, options, for_async=None, for_sync=lambda: guard or default_guard())
    return partial(views.locked_view, locks=locks)
