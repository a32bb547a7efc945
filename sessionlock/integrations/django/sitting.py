"""A session of Django at work: the coroutines behind the store's methods, on the session's home loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from django.contrib.sessions.backends.base import CreateError, UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.core.exceptions import BadRequest

from ...errors import (
    InvalidSessionId,
    NotDurable,
    ReadOnlySession,
    SessionConflict,
    SessionDestroyed,
    SessionLockError,
    SessionNotFound,
)
from ...guard import SessionGuard
from ...policies import SessionPolicy
from ...selfcalls.nesting import Held
from ...selfcalls.sockets import Client
from ...session.block import new_sid
from ..takeover.taking import TakeOver
from ..web.identity import Login
from ..web.rules import RequestMode
from . import answers, records, settings
from .content import Content, name_of
from .homes import Home
from .records import FreeRecord, HeldRecord, Opening, Record

__all__ = ["Data", "Sitting"]

LOGGED_IN = "_auth_user_id"  # django.contrib.auth.SESSION_KEY, whose module needs models
Data = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """How a request's session is to be opened. ``home``: the event loop that does it; None: the caller's.

    ``yields``: it can be run again, so rather than to disturb who holds the lock it meets a conflict.
    """

    home: Home | None = None
    mode: RequestMode = "optimistic"
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str | None = None
    client: Client | None = None
    yields: bool = False


class Trouble:
    """What a request met. ``failure``: what kept it from its session, or from saving it; ``told``: whether that was
    raised, or answered, already. ``clash``: what a step met because of somebody else's change.
    """

    def __init__(self) -> None:
        self.failure: SessionLockError | None = None
        self.told: bool = False
        self.clash: Exception | None = None
        # Whether the session could not be opened; and whether the answer was made of an empty one in its place.
        self.unopened: bool = False
        self.doomed: bool = False

    def opened(self) -> None:
        """There is a session now."""
        self.unopened, self.failure = False, None

    def could_not_open(self, error: SessionLockError) -> None:
        """``error`` is told to whoever touches the session."""
        self.unopened, self.failure = True, error

    def raised(self, error: SessionLockError) -> None:
        """The application has met ``error``."""
        self.failure, self.told = error, True

    def tell(self, told: bool = True) -> None:
        """:attr:`failure` is raised, or answered."""
        self.told = told

    def met(self, clash: Exception) -> None:
        """Somebody else's change was in the way."""
        self.clash = clash

    def doom(self) -> None:
        """The request goes on with an empty session: its answer is not sent."""
        self.doomed = True


class Course:
    """How far the request is."""

    def __init__(self) -> None:
        self.replaced = False
        """Whether it came with a key that was replaced by another, which the browser has or will have in a moment."""
        self.ended: bool = False
        """Whether the session was found to be no more when the request was over."""
        self.kept: bool = False
        """Whether the application has saved something by itself, so that the request must not run again."""
        self.over = False
        """Whether the answer has begun."""
        self.taken = False
        """Whether a session that the visitor had before was looked for."""
        self.counted: list[tuple[str, int]] = []
        """What the application has counted, in case the request runs again."""
        self.in_view = True
        """Whether it is the view that has its turn, and not a thread that it has begun."""
        self.user = ""
        """Who logged in, until the session is bound to them."""

    def note(self, **noted: bool | str) -> None:
        """Set any of these."""
        for name, value in noted.items():
            setattr(self, name, value)

    def take_counted(self) -> list[tuple[str, int]]:
        """What was counted; it is forgotten."""
        counted, self.counted = self.counted, []
        return counted


class Sitting:
    """One store's use of its session. What it keeps of the data stands where Django keeps it, in the store."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._prepared = Prepared()
        # The session as it is now; and the lock that was taken, whatever became of the session.
        self._record: Record | None = None
        self._held: HeldRecord | None = None
        self._nesting: Held | None = None
        self.trouble: Trouble = Trouble()
        self.course: Course = Course()
        self.login: Login = Login(())
        self._on_loss: Callable[[], object] | None = None
        self._outer: Any = None  # of the request that this one is made in
        self._turn = asyncio.Lock()

    def when_lost(self, on_loss: Callable[[], object]) -> None:
        """``on_loss`` is called, on the session's loop, when the lease is lost in a request that has changed its
        session by then.
        """
        self._on_loss = on_loss

    async def load(self, guard: SessionGuard) -> Data:
        """What a store loads: the request's own session, or what is stored now if it has that already."""
        store = self._store
        if not hasattr(store, "_session_cache") or store.session_key is None:
            return await self.open(guard)
        try:
            fresh = await FreeRecord.open(guard, store.session_key, self._policy(guard), "optimistic")
        except (SessionNotFound, InvalidSessionId):
            store._session_key = None
            return {}
        return Content(fresh.session)

    async def open(self, guard: SessionGuard) -> Data:
        """The data, opened as was said. A key that names no session is not adopted."""
        if self._held is not None and not self._held.over:
            return Content(self._held.session)  # nobody else may have changed it
        store = self._store
        key, self._record = store.session_key, None
        if key is None:
            return self._nothing(guard)
        # One lock a request: a thread of it may come when that has been given up.
        said = self._prepared
        mode = said.mode if self._held is None else "optimistic"
        how = Opening(self._policy(guard), mode, said.options, said.label, self._lost, said.client, said.yields)
        old = self._old(guard, key)
        try:
            if old is not None and old.origin.write_back and await old.differs(key):
                await old.exchange(key)
            self._record = await how.open(guard, key)
        except (SessionNotFound, InvalidSessionId) as error:
            replaced = getattr(error, "replaced", False)
            taken = None if old is None or replaced or self.course.taken else await old.take()
            self.course.note(replaced=replaced, taken=True)
            store._session_key = taken
            if taken is None:
                return self._nothing(guard)
            store.modified = store.modified or taken != key  # there is a cookie to be set
            return await self.open(guard)
        except SessionLockError as error:
            self.trouble.could_not_open(self._presentable(error))
            raise
        if isinstance(self._record, HeldRecord):
            self._held = self._record
        self.trouble.opened()
        self.login = self.login.anew(settings.current().identity)
        self.login.came(key)
        self.login.watch(self._record.session)
        return Content(self._record.session)

    async def save(self, guard: SessionGuard, must_create: bool) -> None:
        """Save now, and keep the lock if there is one."""
        await self._save(guard, must_create)
        await self._bind(guard)

    async def _save(self, guard: SessionGuard, must_create: bool) -> None:
        self.check_writable()
        data = await self._data(guard, no_load=must_create)
        ttl = self._seconds_to_live(data)
        if must_create or self._store._session_key is None:
            return await self._store_new(guard, data, ttl, must_create)
        record = await self._opened(guard, data)
        if ttl <= 0:
            return await record.destroy()
        self._save_once(record)
        try:
            await record.save(ttl)
        except SessionNotFound as error:
            raise UpdateError(str(error)) from None

    def _save_once(self, record: Record) -> None:
        """What the application has saved by itself would be done twice, were the request to run again later. So it runs
        again before, under the lock, where nobody's change can be in the way.
        """
        if self.course.over or not record.session.changed_keys():
            return
        if isinstance(record, FreeRecord) and not self.course.in_view:
            record.yield_no_more()  # a thread of the request's, which nothing runs again
        elif self._prepared.yields and isinstance(record, FreeRecord):
            raise SessionConflict(
                f"session {record.session.digest} is saved before the request ends: that takes the lock"
            )
        self.course.note(kept=True)

    async def create(self, guard: SessionGuard) -> None:
        """Store what there is under a new key."""
        self._store._session_key = new_sid()
        await self.save(guard, True)
        self._store.modified = True

    async def delete(self, guard: SessionGuard, session_key: str | None) -> None:
        """End that session, or this one."""
        store = self._store
        key = session_key or store.session_key
        if key is None:
            return
        if (old := self._old(guard, key)) is not None:
            await old.end()
        record = self._record
        if record is None or record.over or key != store.session_key:
            try:
                await guard.destroy(key)
            except InvalidSessionId:
                pass  # no session has such a key
            return
        if self._shows(record):
            store._session_cache = dict(record.session)  # what was read stays readable, as Django has it
        await record.at(guard).destroy()
        self._record = None

    async def cycle(self, guard: SessionGuard) -> None:
        """A new key for the same session."""
        store = self._store
        data = await self._data(guard)
        store.accessed = store.modified = True
        if store._session_key is None:
            return await self.create(guard)
        record = await self._opened(guard, data)
        said = settings.current()
        await self._renew(record, said.grace if LOGGED_IN in data else said.login_grace)

    async def exists(self, guard: SessionGuard, session_key: str | None) -> bool:
        """Whether there is such a session."""
        if not session_key:
            return False
        try:
            return await records.exists(guard, session_key, self._policy(guard))
        except InvalidSessionId:
            return False

    def check_writable(self) -> None:
        """Raises ReadOnlySession in a view that only reads."""
        if self._prepared.mode == "read":
            raise ReadOnlySession("this view reads its session only (session_readonly); a change would be lost")

    # --- the work

    async def _incr(self, guard: SessionGuard, key: str, by: int) -> int:
        self.check_writable()
        data = await self._data(guard)
        if self._store._session_key is None:
            raise SessionNotFound("this session is not stored yet; save() it before counting in it")
        record = await self._opened(guard, data)
        counted = await record.incr(key, by)
        self.course.counted.append((key, by))
        return counted

    async def _uncount(self, guard: SessionGuard) -> None:
        for key, by in self.course.take_counted():
            with suppress(SessionNotFound, SessionConflict):
                await guard.incr(self._store.session_key, key, -by)

    async def _finish(self, guard: SessionGuard, save: bool) -> None:
        await self._settle(guard, save)
        if save:
            await self._bind(guard)
        if save and settings.current().origin is not None:
            await self._tell_old(guard)

    async def _settle(self, guard: SessionGuard, save: bool) -> None:
        if self._prepared.mode == "read" and save and not self._store.modified:
            return await self._live_on(guard)
        record = self._record
        if not save:
            if record is not None and not record.over:
                await record.drop()
            return
        if self._store._session_key is None:
            return await self.save(guard, False)
        self.check_writable()
        data = await self._data(guard)
        record = await self._opened(guard, data)
        ttl = self._seconds_to_live(data)
        if ttl <= 0:
            return await record.destroy()
        grace = self.login.grace(record.session)
        if grace is not None:
            await self._renew(record, grace)
        changed = self._store.modified or self._unsaved()
        try:
            await record.finish(ttl)
        except SessionNotFound as error:
            self.course.note(ended=True)
            if changed:
                raise UpdateError(str(error)) from None

    async def _bind(self, guard: SessionGuard) -> None:
        """Whoever logged in is in the index of users' sessions, too: for those who log them out everywhere."""
        user, key = self.course.user, self._store._session_key
        if user and key is not None:
            self.course.note(user="")
            with suppress(SessionNotFound, SessionDestroyed):
                await guard.bind(key, user)

    async def _live_on(self, guard: SessionGuard) -> None:
        """A view that only reads, where every request prolongs the session's life."""
        data = await self._data(guard)
        if self._record is not None and not self._record.over:
            await self._record.drop()
            try:
                await self._record.live(self._seconds_to_live(data))
            except SessionNotFound:
                self.course.note(ended=True)

    async def _store_new(self, guard: SessionGuard, data: Data, ttl: float, must_create: bool) -> None:
        store = self._store
        key = store._session_key or new_sid()
        store.modified = store.modified or store._session_key is None  # there is a cookie to be set
        if ttl > 0:
            named = {name_of(name): value for name, value in data.items()}
            try:
                self._record = await records.create(guard, key, named, self._policy(guard), ttl)
            except SessionConflict as error:
                raise CreateError(str(error)) from None
            store._session_cache = Content(self._record.session)
        store._session_key = key

    async def _renew(self, record: Record, grace: float) -> None:
        try:
            self._store._session_key = await record.renew(grace)
        except NotDurable:
            self._store._session_key = record.session.sid
            raise
        except SessionNotFound as error:
            what = "given another key, perhaps by logging in" if error.replaced else "ended, perhaps by logging out"
            raise SessionInterrupted(f"The session was {what} elsewhere, while this request was handled.") from None
        finally:
            self.login.done()

    async def _leave(self, _: object, error: BaseException | None) -> None:
        held = self._held
        assert held is not None
        if error is None:
            await held.drop()
        else:
            await held.leave(type(error), error, error.__traceback__)

    def _lost(self) -> None:
        """A request that only looks is not ended: nothing of it can be refused."""
        if self._on_loss is not None and not self.course.over and self._unsaved():
            self._on_loss()

    def _unsaved(self) -> list[str]:
        """What would be lost now. A change that cannot be saved is one."""
        record = self._record
        try:
            return [] if record is None or not self._shows(record) else record.session.changed_keys()
        except SessionLockError as error:
            return [str(error)]

    # --- sessions that were there before

    def _old(self, guard: SessionGuard, value: str) -> TakeOver | None:
        origin = settings.current().origin
        return None if origin is None else TakeOver(origin, guard, value, self._policy(guard), None)

    async def _tell_old(self, guard: SessionGuard) -> None:
        """Old nodes know the session, too: by its key as it is now."""
        key, before = self._store._session_key, self.login.came_by
        if before is not None and before != key and (old := self._old(guard, before)) is not None:
            await old.end()
        if key is not None and (old := self._old(guard, key)) is not None and old.origin.write_back:
            await old.exchange(key, moved=key != before)

    # --- parts

    async def _data(self, guard: SessionGuard, *, no_load: bool = False) -> Data:
        store = self._store
        if not hasattr(store, "_session_cache"):
            store._session_cache = {} if no_load or store.session_key is None else await self.open(guard)
        cache: Data = store._session_cache
        return cache

    async def _opened(self, guard: SessionGuard, data: Data) -> Record:
        """The record with ``data`` in it. Raises UpdateError when there is none any more."""
        store = self._store
        if isinstance(self._record, HeldRecord) and self._record.over:
            self._record = self._record.afterwards(guard)
        if self._record is None or self._record.over:
            key = store.session_key
            await self.open(guard)
            store._session_key = key
        record = self._record
        if record is None:
            raise UpdateError("the session does not exist any more")
        if not self._shows(record):
            record.session.clear()
            record.session.update((name_of(name), value) for name, value in data.items())
            store._session_cache = Content(record.session)
        return record.at(guard)

    def _shows(self, record: Record) -> bool:
        """Whether what the application has at hand is that record."""
        cache = getattr(self._store, "_session_cache", None)
        return isinstance(cache, Content) and cache.session is record.session

    def _settled(self) -> None:
        """The answer has begun: whoever uses the session still (a thread, a stream) does so without a lock."""
        self.course.note(over=True)
        mode: RequestMode = "read" if self._prepared.mode == "read" else "optimistic"
        self._prepared = replace(self._prepared, mode=mode, yields=False)
        if isinstance(self._record, FreeRecord):
            self._record.yield_no_more()

    def _nothing(self, guard: SessionGuard) -> Data:
        """The data of a session that is not stored."""
        return Content(records.empty(guard, self._policy(guard))) if self._prepared.mode == "read" else {}

    def _seconds_to_live(self, data: Data) -> float:
        return float(self._store.get_expiry_age(expiry=data.get(settings.EXPIRY_KEY)))

    def _policy(self, guard: SessionGuard) -> SessionPolicy:
        age = float(self._store.get_session_cookie_age())
        return replace(guard.session_policy, idle=max(age, records.SHORTEST))

    # --- what went wrong

    def _note(self, error: Exception) -> None:
        if isinstance(error, (SessionConflict, UpdateError, SessionInterrupted)):
            self.trouble.met(error)
        if isinstance(error, SessionLockError):
            self.trouble.raised(self._presentable(error))

    def _presentable(self, error: SessionLockError) -> SessionLockError:
        """For Django, too, it is a request that cannot be served now, not a bug: where a middleware meets it, it is
        neither logged as a crash nor sent to who collects those. Only under our middleware, which answers it.
        """
        if self._prepared.home is None or self.course.over or isinstance(error, BadRequest):
            return error
        if not answers.is_one(error):
            return error
        error.__class__ = _presentable_kind(type(error))
        return error


_KINDS: dict[type[SessionLockError], type[SessionLockError]] = {}


def _presentable_kind(kind: type[SessionLockError]) -> type[SessionLockError]:
    made = _KINDS.get(kind)
    if made is None:
        names = {"__module__": kind.__module__, "__doc__": kind.__doc__}
        made = _KINDS[kind] = type(kind.__name__, (kind, BadRequest), names)
    return made
