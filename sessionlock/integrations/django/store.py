"""Django's session interface over sessionlock's records: one field per key, so that deltas and merges work."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any, TypeVar

from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted

from ...errors import (
    InvalidSessionId,
    NotDurable,
    ReadOnlySession,
    SessionConflict,
    SessionLockError,
    SessionNotFound,
)
from ...guard import SessionGuard
from ...keys import new_sid
from ...peers import Client
from ...policies import SessionPolicy
from ..cookies import usable_sid
from ..nesting import Held, refuse_nested
from ..rules import RequestMode
from . import records, settings
from .homes import Home, Work, home_of_this_loop, home_of_threads
from .records import FreeRecord, HeldRecord, Opening, Record

__all__ = ["SessionStore"]

LOGGED_IN = "_auth_user_id"  # django.contrib.auth.SESSION_KEY, whose module needs models
T = TypeVar("T")
Data = MutableMapping[str, Any]


class SessionStore(SessionBase):  # type: ignore[misc]
    """A session as Django documents it, with every method in its async form too.

    What the middleware opened follows the request's mode. A store that is made by hand (a management command, a
    test, a websocket consumer) uses no lock: what it changed is committed by ``save()`` if nobody else changed the
    same; otherwise it is merged as ``SESSION_LOCK_MERGE`` says.

    Raises (from all that reads or writes): the errors of :mod:`sessionlock.errors`, besides ``UpdateError`` and
    ``CreateError``.
    """

    _session_key: str | None
    modified: bool
    accessed: bool

    def __init__(self, session_key: str | None = None) -> None:
        self._record: Record | None = None
        self._held: HeldRecord | None = None  # the lock that was taken, whatever became of the session
        self._nesting: Held | None = None
        self._home: Home | None = None
        self._mode: RequestMode = "optimistic"
        self._options: dict[str, Any] = {}
        self._label: str | None = None
        self._client: Client | None = None
        self.failure: SessionLockError | None = None
        super().__init__(session_key)

    # --- what Django asks of a back end

    def load(self) -> Data:
        return self._run(self._load)

    async def aload(self) -> Data:
        return await self._call(self._load)

    def exists(self, session_key: str | None) -> bool:
        return self._run(self._exists, session_key)

    async def aexists(self, session_key: str | None) -> bool:
        return await self._call(self._exists, session_key)

    def create(self) -> None:
        self._run(self._create)

    async def acreate(self) -> None:
        await self._call(self._create)

    def save(self, must_create: bool = False) -> None:
        """Save now. Under the middleware's lock the session stays locked and is saved again at the end."""
        self._run(self._save, must_create)

    async def asave(self, must_create: bool = False) -> None:
        await self._call(self._save, must_create)

    def delete(self, session_key: str | None = None) -> None:
        self._run(self._delete, session_key)

    async def adelete(self, session_key: str | None = None) -> None:
        await self._call(self._delete, session_key)

    @classmethod
    def clear_expired(cls) -> None:
        """Nothing to do: Redis lets sessions expire by itself."""

    @classmethod
    async def aclear_expired(cls) -> None:
        """Nothing to do: Redis lets sessions expire by itself."""

    # --- what it does better itself

    def clear(self) -> None:
        self._check_writable()
        super().clear()

    def flush(self) -> None:
        """End the session at once, also for whoever waits for it, and begin an empty one."""
        self._check_writable()
        super().flush()

    async def aflush(self) -> None:
        self._check_writable()
        await super().aflush()

    def cycle_key(self) -> None:
        """Give the session a new key; the data, the lock and those who wait for it stay.

        The old key works on for ``SESSION_LOCK_GRACE`` seconds, for requests in flight. When nobody is logged in yet it
        does so for ``SESSION_LOCK_LOGIN_GRACE`` (0) seconds: somebody may have planted that key to share the login.

        Raises:
            django.contrib.sessions.exceptions.SessionInterrupted: the session was ended meanwhile.
        """
        self._check_writable()
        self._run(self._cycle)

    async def acycle_key(self) -> None:
        self._check_writable()
        await self._call(self._cycle)

    def incr(self, key: str, by: int = 1) -> int:
        """Add to an integer of a stored session, in Redis and at once, with or without the lock; the new value.

        Raises:
            SessionConflict: what is stored is not an integer. SessionNotFound: nothing is stored yet.
        """
        return self._run(self._incr, key, by)

    async def aincr(self, key: str, by: int = 1) -> int:
        return await self._call(self._incr, key, by)

    def has_changed(self) -> bool:
        """Whether anything differs from what is stored, however deep; Django's ``modified`` only sees assignments."""
        record = self._record
        if record is None or record.over or getattr(self, "_session_cache", None) is not record.session:
            return bool(self.modified)
        return bool(self.modified) or record.session.modified

    # --- for the middleware

    @property
    def mode(self) -> RequestMode:
        """``"lock"``, ``"optimistic"``, ``"read"`` or ``"last_write_wins"``."""
        return self._mode

    @property
    def saves_on_error(self) -> bool:
        """Whether it is saved even if the answer is a 5xx."""
        return bool(self._options.get("save_on_error"))

    @property
    def outdated(self) -> bool:
        """Whether it was opened by a key that has been replaced; then that key must not go into a cookie again."""
        record = self._record
        return record is not None and record.outdated and record.session.sid == self.session_key

    def prepare(
        self, home: Home, mode: RequestMode, options: dict[str, Any], label: str | None, client: Client | None = None
    ) -> None:
        """Say how the session is to be opened, before it is. ``client`` tells who sent the request."""
        self._home, self._mode, self._options, self._label, self._client = home, mode, options, label, client

    def begin(self) -> None:
        """Open it now. It does not count as accessed.

        Raises:
            ReentrantLock: the request being handled here holds this very session and would wait for itself.
        """
        key = self.session_key
        if key is not None:
            self._refuse_nested(key)
            self._session_cache = self._run(self._open)
            self._note_nesting(key)

    async def abegin(self) -> None:
        """As :meth:`begin`."""
        key = self.session_key
        if key is not None:
            self._refuse_nested(key)
            self._session_cache = await self._call(self._open)
            self._note_nesting(key)

    def finish(self, save: bool) -> None:
        """The answer begins: save (or not) and give the lock up.

        Raises:
            UpdateError: it was destroyed meanwhile. LeaseLost, SessionConflict, RedisUnavailable, CodecError ...
        """
        self._run(self._finish, save)

    async def afinish(self, save: bool) -> None:
        await self._call(self._finish, save)

    def close(self) -> None:
        """The request is over, one way or another: no lock stays."""
        self._forget_nesting()
        if self._held is not None and not self._held.over:
            self._run(self._leave, None)

    async def aclose(self, error: BaseException | None) -> None:
        """As :meth:`close`, in the task that called :meth:`abegin`.

        Raises:
            LeaseLost: instead of the cancellation by which it ended the view.
        """
        self._forget_nesting()
        if self._held is not None:
            await self._leave(None, error)

    # --- the work, on the session's home loop

    async def _load(self, guard: SessionGuard) -> Data:
        if not hasattr(self, "_session_cache") or self.session_key is None:
            return await self._open(guard)
        try:
            fresh = await FreeRecord.open(guard, self.session_key, self._policy(guard), "optimistic")
        except (SessionNotFound, InvalidSessionId):
            self._session_key = None
            return {}
        return fresh.session

    async def _open(self, guard: SessionGuard) -> Data:
        """The data, opened as was said. A key that names no session is not adopted."""
        if self._held is not None and not self._held.over:
            return self._held.session  # nobody else may have changed it
        key, self._record = self.session_key, None
        if key is None:
            return self._nothing(guard)
        cancels = self._home is not None and self._home.here()
        how = Opening(self._policy(guard), self._mode, self._options, self._label, cancels, self._client)
        try:
            self._record = await how.open(guard, key)
        except (SessionNotFound, InvalidSessionId):
            self._session_key = None
            return self._nothing(guard)
        except SessionLockError as error:
            self.failure = error
            raise
        if isinstance(self._record, HeldRecord):
            self._held = self._record
        self.failure = None
        return self._record.session

    async def _save(self, guard: SessionGuard, must_create: bool) -> None:
        self._check_writable()
        data = await self._data(guard, no_load=must_create)
        ttl = self._seconds_to_live(data)
        if must_create or self._session_key is None:
            return await self._store_new(guard, data, ttl, must_create)
        record = await self._opened(guard, data)
        if ttl <= 0:
            return await record.destroy()
        try:
            await record.save(ttl)
        except SessionNotFound as error:
            raise UpdateError(str(error)) from None

    async def _store_new(self, guard: SessionGuard, data: Data, ttl: float, must_create: bool) -> None:
        key = self._session_key or new_sid()
        self.modified = self.modified or self._session_key is None  # there is a cookie to be set
        if ttl > 0:
            try:
                self._record = await records.create(guard, key, data, self._policy(guard), ttl)
            except SessionConflict as error:
                raise CreateError(str(error)) from None
            self._session_cache = self._record.session
        self._session_key = key

    async def _create(self, guard: SessionGuard) -> None:
        self._session_key = new_sid()
        await self._save(guard, True)
        self.modified = True

    async def _finish(self, guard: SessionGuard, save: bool) -> None:
        record = self._record
        if not save:
            if record is not None and not record.over:
                await record.drop()
            return
        self._check_writable()
        if record is None or record.over or self._session_key is None:
            return await self._save(guard, False)
        data = await self._data(guard)
        record = await self._opened(guard, data)
        ttl = self._seconds_to_live(data)
        if ttl <= 0:
            return await record.destroy()
        try:
            await record.finish(ttl)
        except SessionNotFound as error:
            raise UpdateError(str(error)) from None

    async def _leave(self, _: object, error: BaseException | None) -> None:
        held = self._held
        assert held is not None
        if error is None:
            await held.drop()
        else:
            await held.leave(type(error), error, error.__traceback__)

    async def _delete(self, guard: SessionGuard, session_key: str | None) -> None:
        key = session_key or self.session_key
        if key is None:
            return
        record = self._record
        if record is None or record.over or key != self.session_key:
            try:
                await guard.destroy(key)
            except InvalidSessionId:
                pass  # no session has such a key
            return
        if getattr(self, "_session_cache", None) is record.session:
            self._session_cache = dict(record.session)  # what was read stays readable, as Django has it
        await self._at(guard, record).destroy()
        self._record = None

    async def _cycle(self, guard: SessionGuard) -> None:
        data = await self._data(guard)
        self.accessed = self.modified = True
        if self._session_key is None:
            return await self._create(guard)
        record = await self._opened(guard, data)
        said = settings.current()
        try:
            self._session_key = await record.renew(said.grace if LOGGED_IN in data else said.login_grace)
        except NotDurable:
            self._session_key = record.session.sid
            raise
        except SessionNotFound:
            raise SessionInterrupted(
                "The session was ended while this request was handled, perhaps by logging out elsewhere."
            ) from None

    async def _incr(self, guard: SessionGuard, key: str, by: int) -> int:
        self._check_writable()
        data = await self._data(guard)
        if self._session_key is None:
            raise SessionNotFound("this session is not stored yet; save() it before counting in it")
        record = await self._opened(guard, data)
        return await record.incr(key, by)

    async def _exists(self, guard: SessionGuard, session_key: str | None) -> bool:
        if not session_key:
            return False
        try:
            return await records.exists(guard, session_key, self._policy(guard))
        except InvalidSessionId:
            return False

    # --- parts

    async def _data(self, guard: SessionGuard, *, no_load: bool = False) -> Data:
        if not hasattr(self, "_session_cache"):
            self._session_cache = {} if no_load or self.session_key is None else await self._open(guard)
        cache: Data = self._session_cache
        return cache

    async def _opened(self, guard: SessionGuard, data: Data) -> Record:
        """The record with ``data`` in it. Raises UpdateError when there is none any more."""
        if self._record is None or self._record.over:
            key = self.session_key
            await self._open(guard)
            self._session_key = key
        record = self._record
        if record is None:
            raise UpdateError("the session does not exist any more")
        if data is not record.session:
            for key in [key for key in record.session if key not in data]:
                del record.session[key]
            record.session.update(data)
            self._session_cache = record.session
        return self._at(guard, record)

    def _at(self, guard: SessionGuard, record: Record) -> Record:
        return record.moved_to(guard) if isinstance(record, FreeRecord) else record

    def _nothing(self, guard: SessionGuard) -> Data:
        """The data of a session that is not stored."""
        return records.empty(guard, self._policy(guard)) if self._mode == "read" else {}

    def _check_writable(self) -> None:
        if self._mode == "read":
            raise ReadOnlySession("this view reads its session only (session_readonly); a change would be lost")

    def _seconds_to_live(self, data: Data) -> float:
        return float(self.get_expiry_age(expiry=data.get(settings.EXPIRY_KEY)))

    def _policy(self, guard: SessionGuard) -> SessionPolicy:
        return replace(guard.session_policy, idle=max(float(self.get_session_cookie_age()), records.SHORTEST))

    def _refuse_nested(self, key: str) -> None:
        if self._mode == "lock" and usable_sid(key) is not None:
            refuse_nested(self._where.guard, key)

    def _note_nesting(self, key: str) -> None:
        held = self._held
        if held is not None:
            self._nesting = Held(self._where.guard, key, lambda: not held.over, self._label or "")
            self._nesting.enter()

    def _forget_nesting(self) -> None:
        if self._nesting is not None:
            self._nesting.leave()

    def _run(self, work: Work[T], *args: Any) -> T:
        return self._where.run(work, *args)

    @property
    def _where(self) -> Home:
        return self._home or home_of_threads()

    async def _call(self, work: Work[T], *args: Any) -> T:
        return await (self._home or home_of_this_loop()).call(work, *args)
