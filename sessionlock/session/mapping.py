"""A session as the application uses it: a mapping, and what may be done with it besides."""

from __future__ import annotations

import copy
import inspect
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping, Sequence
from typing import Any, NamedTuple, TypeVar

from ..errors import ReadOnlySession
from ..lease import Lease
from ..policies import Replication, SessionPolicy
from ..protocol.changes import Change
from ..protocol.replies import Committed, Snapshot
from .block import Actions
from .data import SessionData, SessionFormat
from .merge import FLASHES

__all__ = ["Session"]

T = TypeVar("T")
AtHome = Callable[[Coroutine[Any, Any, Any]], Any]  # see Runtime.at_home


class _Hooks(NamedTuple):
    """What a face does beside the application's own steps."""

    before_saving: Callable[[], Awaitable[None]]
    after_destroying: Callable[[], Awaitable[None]]


class _Happened:
    """What this request has done with its session. Most requests leave most of it as it is."""

    touched = False
    """Loading it began its idle time anew."""
    accessed = cleared = released = destroyed = False
    conflicted = False
    """A :meth:`Session.save` met a conflict that could not be merged."""
    took_effect = False
    """:meth:`Session.save` or :meth:`Session.incr` changed the store: doing the request again would do that twice."""
    ended = False
    """The record ended with the last save, because it was left empty (see :meth:`Session.ends_when_empty`)."""


class Session(MutableMapping[str, Any]):
    """The session's data and what may be done with it.

    Use it like a dict with str keys. Changes deep inside values are noticed. What changed is saved when the
    ``async with`` block ends; :meth:`save` does it at once and :meth:`release` ends the lock early. The methods that
    are awaited may also be called from a thread without an event loop: then they are done when they return.

    ``digest`` is the name under which Redis, logs and errors know it; ``sid`` is the secret id itself.
    ``lease`` is None for a session that was loaded without a lock. ``new``: there was no record when it was loaded.
    ``version`` counts the commits of this session (usable as an ETag). ``created``: when it began, by the server's
    clock in microseconds; empty for a new one.
    """

    saved: Replication | None
    """How safe the last save was, where the guard waits for replicas (``durability``)."""

    # Most requests leave these as they are: what a face does besides, and steps that nobody has awaited yet.
    _hooks: _Hooks | None = None
    _begun: Sequence[Coroutine[Any, Any, Any]] = ()
    _stays_open = False

    def __init__(
        self,
        sid: str,
        digest: str,
        snapshot: Snapshot,
        how: SessionFormat,
        actions: Actions | None = None,
        at_home: AtHome | None = None,
        lease: Lease | None = None,
        read_only: str | None = None,
        saved: Replication | None = None,
    ) -> None:
        self.sid: str = sid
        self.lease = lease
        self.saved = saved
        # For the blocks and the faces: the values, and what was done with them.
        self.data: SessionData = SessionData(digest, snapshot, how)
        self.happened: _Happened = _Happened()
        if snapshot.touched:
            self.happened.touched = True
        # The block that it belongs to, and the way to that block's event loop. None: it cannot be changed.
        self._actions = actions
        self._at_home = at_home
        # Why it cannot be changed, if it cannot.
        self._closed = read_only

    # --- the mapping

    def __getitem__(self, key: str) -> Any:
        self._used()
        return self.data.read(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._used()
        if self._closed is not None:
            self._check_open()
        self.data.assign(key, value)
        if self.data.how.saves_at_once:
            self._changed()

    def __delitem__(self, key: str) -> None:
        self._used()
        self._check_open()
        self.data.delete(key)
        if self.data.how.saves_at_once:
            self._changed()

    def __contains__(self, key: object) -> bool:
        self._used()
        return self.data.asked_for(key)

    def __iter__(self) -> Iterator[str]:
        self._used()
        self.data.read_all()
        return self.data.keys()

    def __len__(self) -> int:
        self._used()
        self.data.read_all()
        return self.data.size()

    def clear(self) -> None:
        """Take every key out, without looking at them. What others put in meanwhile is a conflict, not overlooked."""
        self._used()
        self._check_open()
        self.happened.cleared = True
        for key in list(self.data.keys()):
            del self[key]

    def copy(self) -> dict[str, Any]:
        """A plain dict of the same values (not of copies of them)."""
        return dict(self)

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {key: copy.deepcopy(value, memo) for key, value in self.items()}

    def __or__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**self, **other} if isinstance(other, Mapping) else NotImplemented

    def __ror__(self, other: Mapping[str, Any]) -> dict[str, Any]:
        return {**other, **self} if isinstance(other, Mapping) else NotImplemented

    def __repr__(self) -> str:
        # Values are the user's private data.
        return f"<Session {self.digest} version={self.version} keys={self.data.size()} lease={self.lease!r}>"

    # --- what is known of it

    @property
    def digest(self) -> str:
        return self.data.digest

    @property
    def name(self) -> str:
        """The former name of :attr:`digest`; it goes with the next release."""
        return self.data.digest

    @property
    def version(self) -> int:
        return self.data.version

    @property
    def created(self) -> str:
        return self.data.created

    @property
    def new(self) -> bool:
        """Whether there was no record when this session was loaded."""
        return not self.data.created

    @property
    def modified(self) -> bool:
        """Whether anything differs from what was loaded or saved last."""
        return bool(self.data.changes())

    @property
    def accessed(self) -> bool:
        """Whether the application looked at the session: read, wrote, asked for a key, even one that is absent."""
        return self.happened.accessed

    @property
    def destroyed(self) -> bool:
        """Whether this request destroyed the session."""
        return self.happened.destroyed

    @property
    def cleared(self) -> bool:
        """Whether :meth:`clear` was called: by frameworks' convention a logout, or the first half of a login."""
        return self.happened.cleared

    def ends_when_empty(self) -> None:
        """Should this request leave nothing in the record, let it end: where Redis finds it empty, and nobody else
        holds or waits for the lock.
        """
        self.data.ends_when_empty()

    def _used(self) -> None:
        self.happened.accessed = True
        if self.lease is not None:
            self.lease.used()

    def _check_open(self) -> None:
        if self._closed is not None:
            raise ReadOnlySession(f"session {self.digest} {self._closed}; this change would be lost")

    def _changed(self) -> None:
        if self._actions is not None:
            self._actions.changed()

    # --- moments

    def save(self) -> Coroutine[Any, Any, None]:
        """Save what changed now, and go on; under the lock with the same fence, which is kept.

        With ``SessionPolicy(save="immediate")`` every assignment starts this by itself (assignments of one tick travel
        together, in order); changes deep inside a value are noticed at the next assignment, ``save()`` or the end.
        An error of such a save is raised by the next ``save()`` or at the end of the block.

        Raises:
            LeaseLost, SessionConflict, SessionDestroyed, CodecError, SessionTooLarge, RedisUnavailable.
        """
        return self._step(self._save(self._do()))

    async def _save(self, actions: Actions) -> None:
        if self._hooks is not None:
            await self._hooks.before_saving()
        changed = self.modified
        await actions.save()
        self.happened.took_effect |= changed

    def release(self) -> Coroutine[Any, Any, None]:
        """Save what changed and give the lock up before the block ends. Later changes raise."""
        return self._step(self._release(self._do()) if self._closed is None else _nothing())

    async def _release(self, actions: Actions) -> None:
        if self._hooks is not None:
            await self._hooks.before_saving()
        await actions.release()
        self.happened.released = True

    def incr(self, key: str, by: int = 1) -> Coroutine[Any, Any, int]:
        """Add to an integer, in Redis and at once, with or without the lock; returns the new value.

        Other unsaved changes stay unsaved; when this very key has one, everything is saved before.

        Raises:
            SessionConflict: what is stored is not an integer. Otherwise as :meth:`save`.
        """
        return self._step(self._incr(self._do(), key, by))

    async def _incr(self, actions: Actions, key: str, by: int) -> int:
        if key in self.data.changed_keys():
            await actions.save()
        value = await actions.incr(key, by)
        self.happened.took_effect = True
        return value

    def regenerate(self, *, grace: float = 30.0) -> Coroutine[Any, Any, str]:
        """Give the session a new id, at once (at login, against session fixation); returns it, as ``session.sid``.

        The data, the lock and its waiters stay. The old id works ``grace`` seconds longer, for requests in flight.

        Raises:
            LeaseLost, SessionDestroyed, SessionNotFound, RedisUnavailable. NotDurable: it has the new id, but not on as
                many replicas as required.
        """
        return self._step(self._regenerate(self._do(), grace))

    async def _regenerate(self, actions: Actions, grace: float) -> str:
        self.sid = await actions.regenerate(grace)
        return self.sid

    def destroy(self) -> Coroutine[Any, Any, None]:
        """End the session (log out), at once. Nothing that this request changed is saved. Once more does no harm."""
        if self.happened.destroyed:
            return self._step(_nothing())
        released = self._actions if self.happened.released else None
        return self._step(self._destroy(released or self._do()))

    async def _destroy(self, actions: Actions) -> None:
        await actions.destroy()
        self.happened.destroyed = True
        if self._hooks is not None:
            await self._hooks.after_destroying()

    def _step(self, work: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
        """``work``, for the caller to await. What nobody awaits is done when the block ends, for a security step must
        not be dropped in silence. From a thread it is done now, and what is returned is its result.
        """
        begun = work if self._at_home is None else self._at_home(work)
        if begun is work:
            self._begun = [*filter(_not_begun, self._begun), work]
        return begun

    @property
    def is_owed(self) -> bool:
        """Whether a step was asked for that nobody has awaited yet."""
        return bool(self._begun)

    async def do_what_nobody_awaited(self) -> None:
        """Carry out the steps that were asked for and not awaited. For those who end the block."""
        begun, self._begun = self._begun, ()
        for work in filter(_not_begun, begun):
            await work

    def forget_what_nobody_awaited(self) -> None:
        """The block failed: nothing of it is to take effect any more."""
        begun, self._begun = self._begun, ()
        for work in filter(_not_begun, begun):
            work.close()

    def _do(self) -> Actions:
        self._check_open()
        if self._actions is None:
            raise ReadOnlySession(f"session {self.digest} is not inside an `async with guard.session_lock(...)` block")
        return self._actions

    # --- messages for the next page

    def flash(self, category: str, message: Any) -> None:
        """Keep a message until a page shows it. Two nodes at once keep both."""
        self[FLASHES] = [*self.get(FLASHES, []), [secrets.token_urlsafe(6), category, message]]

    def pop_flashes(self) -> list[tuple[str, Any]]:
        """Take all messages, as (category, message), oldest first. Each is delivered once.

        Without the lock a message may have been taken by another request meanwhile; then saving raises
        :class:`~sessionlock.SessionConflict` (a transaction tries again), so show them after the save.
        """
        if FLASHES not in self:
            return []
        taken = self[FLASHES]
        self[FLASHES] = []
        return [(category, message) for _, category, message in taken]

    # --- for those who open and save it: the blocks and the faces

    @property
    def policy(self) -> SessionPolicy:
        return self.data.how.policy

    @property
    def is_open(self) -> bool:
        """Whether it can be changed."""
        return self._closed is None

    @property
    def actions(self) -> Actions | None:
        """The block that does what the session asks for."""
        return self._actions

    def belongs_to(self, actions: Actions) -> None:
        """Another block does from now on what the session asks for."""
        self._actions = actions

    def around(
        self, *, before_saving: Callable[[], Awaitable[None]], after_destroying: Callable[[], Awaitable[None]]
    ) -> None:
        """Have these done before the application saves or releases by itself, and after it has ended the session."""
        self._hooks = _Hooks(before_saving, after_destroying)

    def changed_keys(self) -> list[str]:
        """The keys that differ from what was loaded or saved last."""
        return self.data.changed_keys()

    def peek(self, key: str, default: Any = None) -> Any:
        """The value of ``key``, ``default`` where there is none. Does not count as read."""
        return self.data.peek(key, default)

    def close(self, why: str) -> None:
        """From now on it can be read only; ``why`` completes the sentence "session x ..." for who changes it still."""
        self._closed = None if self._stays_open else why

    def stay_open(self) -> None:
        """It will be used on without its lock, by who commits what changes from now on by comparison: :meth:`close` has
        no effect.
        """
        self._stays_open = True

    def had_conflict(self) -> None:
        """A save met a conflict that could not be merged."""
        self.happened.conflicted = True

    def has_no_id(self) -> None:
        """It is not stored, and there is no later moment to tell the browser an id."""
        self.sid = ""

    def was_renewed(self, sid: str, safety: Replication | None) -> None:
        """It has a new id. Raises :class:`~sessionlock.NotDurable` as :meth:`was_saved` does."""
        self.sid = sid
        self.saved = safety
        if safety is not None:
            safety.raise_for_shortfall()

    def was_saved(self, changes: list[Change], outcome: Committed) -> None:
        """``changes`` are in the store now: later differences count from here.

        Raises:
            NotDurable: they are not on as many replicas as required.
        """
        self.data.was_saved(changes, outcome)
        if outcome.version == 0 or self.happened.ended:
            self.happened.ended = outcome.version == 0
        if outcome.safety is not None:
            self.saved = outcome.safety
            outcome.safety.raise_for_shortfall()

    def was_counted(self, key: str, outcome: Committed) -> int:
        """An increment was committed; returns the new value."""
        assert outcome.value is not None
        self.data.was_counted(key, outcome.value)
        self.was_saved([], outcome)
        return outcome.value


async def _nothing() -> None:
    """Where there is nothing to do."""


def _not_begun(work: Coroutine[Any, Any, Any]) -> bool:
    return inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED
