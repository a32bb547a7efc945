"""What can be done with a session of Django besides what Django documents, and what the middleware does with it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, TypeVar

from django.conf import settings as django_settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted

from ...errors import LeaseLost, SessionLockError
from ...guard import SessionGuard
from ...lease import Lease
from ...selfcalls.nesting import Held, refuse_nested
from ...selfcalls.sockets import Client
from ...views.cookies import usable_sid
from ..web.rules import RequestMode
from . import settings
from .homes import Home, LoopHome, Work, check_no_loop, home_of_this_loop, home_of_threads
from .sitting import Data, Prepared, Sitting

__all__ = ["Control"]

log: logging.Logger = logging.getLogger("sessionlock.web")

T = TypeVar("T")
_handled: ContextVar[Any] = ContextVar("sessionlock_handled", default=None)


class Control(Sitting):
    """``request.session.sessionlock``: the one name of ours among the user's.

    For applications: :attr:`mode`, :attr:`lease`, :meth:`incr`, :meth:`aincr`. The rest is for the middleware, and the
    coroutines that take a guard are the work of the store's own methods, on the session's home loop.
    """

    def __repr__(self) -> str:
        return f"<Control mode={self._prepared.mode!r} lease={self.lease!r}>"

    # --- for applications

    @property
    def mode(self) -> RequestMode:
        """``"lock"``, ``"optimistic"``, ``"read"`` or ``"last_write_wins"``."""
        return self._prepared.mode

    @property
    def lease(self) -> Lease | None:
        """Of the lock that this request holds, None when it holds none."""
        held = self._held
        return None if held is None or held.over else held.session.lease

    def incr(self, key: str, by: int = 1) -> int:
        """Add to an integer of a stored session, in Redis and at once, with or without the lock; the new value.

        Raises:
            SessionConflict: what is stored is not an integer. SessionNotFound: nothing is stored yet.
        """
        return self.run(self._incr, key, by)

    async def aincr(self, key: str, by: int = 1) -> int:
        """As :meth:`incr`."""
        return await self.call(self._incr, key, by)

    # --- for the middleware

    @property
    def saves_on_error(self) -> bool:
        """Whether it is saved even if the answer is a 5xx."""
        return bool(self._prepared.options.get("save_on_error"))

    @property
    def outdated(self) -> bool:
        """Whether it was opened by a key that has been replaced; then that key must not go into a cookie again."""
        record = self._record
        return record is not None and record.outdated and record.session.sid == self._store.session_key

    @property
    def changed(self) -> bool:
        """Whether anything differs from what is stored, however deep; Django's ``modified`` only sees assignments."""
        record = self._record
        if record is None or record.over or not self._shows(record):
            return bool(self._store.modified)
        return bool(self._store.modified) or record.session.modified

    @property
    def doomed(self) -> bool:
        """Whether the answer was made of an empty session in place of the one that could not be opened."""
        return self.trouble.doomed

    def prepare(
        self,
        home: Home,
        mode: RequestMode,
        options: Mapping[str, Any],
        label: str | None,
        client: Client | None = None,
        *,
        yields: bool = False,
    ) -> None:
        """Say how the session is to be opened, before it is. ``client`` tells who sent the request. ``yields``: it can
        be run again, so rather than to disturb who holds the lock it meets a conflict.
        """
        self._prepared = Prepared(home, mode, options, label, client, yields)
        self._outer = _handled.get()
        _handled.set(self)

    def begin(self) -> None:
        """Open it now. It does not count as accessed. What prevents that is told by :attr:`trouble`, not raised.

        That is ReentrantLock, too: the request being handled here holds this very session and would wait for itself.
        """
        key = self._store.session_key
        if key is None:
            return
        try:
            self._refuse_nested(key)
            self._store._session_cache = self._where.run(self.open)
            self._note_nesting(key)
        except SessionLockError as error:
            self.trouble.could_not_open(self._presentable(error))

    async def abegin(self) -> None:
        """As :meth:`begin`."""
        key = self._store.session_key
        if key is None:
            return
        try:
            self._refuse_nested(key)
            self._store._session_cache = await self._where_here.call(self.open)
            self._note_nesting(key)
        except SessionLockError as error:
            self.trouble.could_not_open(self._presentable(error))

    def instead(self) -> Data | None:
        """What is loaded in place of a session that could not be opened: first its failure, raised where the request
        touches it, so that it may be handled there; then nothing, for what looks into the session on the way out. An
        answer that is made of that nothing is not sent.
        """
        trouble = self.trouble
        if not trouble.unopened:
            return None
        assert trouble.failure is not None
        if not trouble.told:
            trouble.tell()
            raise trouble.failure
        trouble.doom()
        return {}

    def ends(self) -> tuple[bool, int]:
        """Whether the session ends as the browser closes, and in how many seconds; of what is stored, asking nobody."""
        expiry = None if self._record is None else self._record.session.peek(settings.EXPIRY_KEY)
        at_close = django_settings.SESSION_EXPIRE_AT_BROWSER_CLOSE if expiry is None else expiry == 0
        return at_close, self._store.get_expiry_age(expiry=expiry)

    def loss(self) -> LeaseLost:
        """The error of a request that was ended because its lease was lost."""
        assert self._held is not None
        assert self._held.session.lease is not None
        return LeaseLost(self._held.session.lease.why_lost())

    def uncount(self) -> None:
        """The request is run again: take back what it has counted, or it would count twice."""
        if self.course.counted:
            self._where.run(self._uncount)

    async def auncount(self) -> None:
        """As :meth:`uncount`."""
        if self.course.counted:
            await self._where_here.call(self._uncount)

    def finish(self, save: bool) -> None:
        """The answer begins: save (or not) and give the lock up. From here on each ``save()`` is a commit of its own.

        Raises:
            UpdateError: it was destroyed meanwhile. LeaseLost, SessionConflict, RedisUnavailable, CodecError ...
        """
        if save or self._has_lock or self._prepared.mode == "read":
            self._where.run(self._in_turn, True, self._finish, save)

    async def afinish(self, save: bool) -> None:
        """As :meth:`finish`."""
        await self._where_here.call(self._in_turn, True, self._finish, save)

    def close(self) -> None:
        """The request is over, one way or another: no lock stays."""
        _handled.set(self._outer)
        self._forget_nesting()
        if self._has_lock:
            self._where.run(self._leave, None)
        self._settled()

    async def aclose(self, error: BaseException | None) -> None:
        """As :meth:`close`, in the task that called :meth:`abegin`.

        Raises:
            LeaseLost: instead of the cancellation by which it ended the view.
        """
        _handled.set(self._outer)
        self._forget_nesting()
        if self._held is not None:
            await self._leave(None, error)
        self._settled()

    def tell_unsaved(self) -> None:
        """The stream is over: log what it changed and did not save. For Django, too, that is lost."""
        late = self._unsaved()
        if late:
            log.warning(
                "%s changed %s of session %s after its answer had begun, and did not call save(): that is not saved",
                self._prepared.label,
                ", ".join(map(repr, late)),
                self._record.session.digest if self._record is not None else "",
            )

    # --- what the store's methods run

    def run(self, work: Work[T], *args: Any) -> T:
        """From a thread; whatever it meets is what the request met."""
        try:
            outcome: T = self._where.run(self._in_turn, self._is_handled_here(), work, *args)
        except (SessionLockError, UpdateError, SessionInterrupted) as error:
            self._note(error)
            raise
        return outcome

    async def call(self, work: Work[T], *args: Any) -> T:
        """As :meth:`run`, from a coroutine."""
        try:
            outcome: T = await self._where_here.call(self._in_turn, self._is_handled_here(), work, *args)
        except (SessionLockError, UpdateError, SessionInterrupted) as error:
            self._note(error)
            raise
        return outcome

    def _is_handled_here(self) -> bool:
        """Whether this is the request's handling, and no thread of it: that has not its context."""
        return _handled.get() is self

    async def _in_turn(self, guard: SessionGuard, in_view: bool, work: Work[T], *args: Any) -> T:
        """A thread of the request's may save while the request itself does: one after the other."""
        async with self._turn:
            self.course.note(in_view=in_view)
            result: T = await work(guard, *args)
        return result

    @property
    def _has_lock(self) -> bool:
        return self._held is not None and not self._held.over

    # --- who waits for whom

    def _refuse_nested(self, key: str) -> None:
        if self._prepared.mode == "lock" and usable_sid(key) is not None:
            refuse_nested(self._where.guard, key)

    def _note_nesting(self, key: str) -> None:
        held = self._held
        if held is not None:
            self._nesting = Held(self._where.guard, key, lambda: not held.over, self._prepared.label or "")
            self._nesting.enter()

    def _forget_nesting(self) -> None:
        if self._nesting is not None:
            self._nesting.leave()

    # --- where it is done

    @property
    def _where(self) -> Home:
        """For a caller that blocks."""
        home = self._prepared.home
        if home is None:
            check_no_loop()
            return home_of_threads()
        if isinstance(home, LoopHome) and self.course.over and (home.here() or home.loop.is_closed()):
            return home_of_threads()  # no lock binds it to that loop any more
        return home

    @property
    def _where_here(self) -> Home:
        """For a caller that awaits."""
        home = self._prepared.home
        if home is None or (isinstance(home, LoopHome) and home.loop.is_closed()):
            return home_of_this_loop()
        return home
