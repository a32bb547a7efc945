"""One request's use of a session: open it, let the handler work, save and release when the answer begins."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...codecs.base import Codec
from ...errors import ReadOnlySession, SessionConflict, SessionLockError, SessionNotFound
from ...guard import SessionGuard
from ...lock.context import SessionContext
from ...policies import SessionPolicy
from ...selfcalls.check import refusing
from ...selfcalls.nesting import Held, held_here, hold_here, refuse_nested
from ...selfcalls.sockets import Client
from ...session.mapping import Session
from ...session.unlocked import UnlockedContext, check_unchanged
from ...views.cookies import CookieSettings
from ..takeover.taking import Origin, TakeOver
from .identity import IDENTITY, Persons
from .mapping import WebSession
from .rules import SAFE_METHODS, RequestMode, RoutePolicy, Rules, label_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["IDENTITY", "RunAgain", "Visit"]

log = logging.getLogger("sessionlock.web")

Context = SessionContext | UnlockedContext


class RunAgain(BaseException):
    """Raised by :meth:`Visit.finish`: a safe request met a conflict. Nothing of its answer may be sent; the face runs
    it again with :meth:`Visit.again`. No Exception, so that no handler of the application's takes it for one.
    """


class Visit:
    """One request. ``sid``: what its cookie says, if it says anything usable. :attr:`session` is the guarded session,
    :attr:`mapping` what the handler gets.

    ``client`` tells who sent it. ``rules``: the face runs safe requests again that met a conflict
    (:class:`RunAgain`), and the rules remember their routes. ``identity``: keys whose change gives a new id. ``codec``,
    ``lifetime``: others than the guard's. ``on_loss`` is called when the lease is lost in a request that has changed
    the session by then; one that has not may go on. ``origin``: where sessions are that visitors had before,
    ``old_cookie`` the value of their cookie (see :mod:`.takeover`).

    ::

        async with Visit(guard, cookie, policy, sid, method="POST", path="/cart") as visit:
            ...                                              # the handler, with visit.mapping
            await visit.finish(failed=status >= 500)         # when the answer begins: save and release
            visit.set_cookie, visit.vary                     # then tell the headers

    A sid without a session is never adopted: the handler gets an empty session, stored under an id of its own if
    something is put in. A request that changed a session which was ended meanwhile is refused, one that changed nothing
    keeps its answer; the cookie is cleared either way.
    """

    session: Session

    def __init__(
        self,
        guard: SessionGuard,
        cookie: CookieSettings,
        policy: RoutePolicy,
        sid: str | None,
        *,
        method: str = "GET",
        path: str = "/",
        https: bool = False,
        client: Client | None = None,
        rules: Rules | None = None,
        identity: Iterable[str] = IDENTITY,
        codec: Codec | None = None,
        lifetime: SessionPolicy | None = None,
        on_loss: Callable[[], object] | None = None,
        origin: Origin | None = None,
        old_cookie: str | None = None,
    ) -> None:
        self.guard = guard
        self.policy = policy
        self.label = label_of(method, path)
        self.mode: RequestMode = policy.mode_for(method)
        self._is_safe = method.upper() in SAFE_METHODS
        self._learnt = rules.learnt if rules is not None else None
        self._may_run_again = self._learnt is not None and policy.may_run_again(method)
        if self._may_run_again and self._learnt is not None and self.label in self._learnt:
            self.mode, self._may_run_again = "lock", False
        self.on_loss = on_loss
        self._cookie = cookie.lasting((lifetime or guard.session_policy).idle)
        self._sid = sid
        self._told = sid  # the id that the browser has
        self._https = https
        self._client = client
        self._identity = tuple(identity)
        self._codec = codec
        self.lifetime = lifetime or guard.session_policy
        self._old: TakeOver | None = None
        if origin is not None and (old_cookie is not None or origin.write_back):
            self._old = TakeOver(origin, guard, old_cookie or "", self.lifetime, codec)
        self._opened: Context  # by open(), in whose task it must be left
        self._context: Context  # of the session as it is now
        self._held: Held | None = None
        self._mapping: WebSession | None = None
        self._began_at = 0.0
        self._new_identity = self._took_effect = self._is_renewed = self._has_ended = False
        self.by_old_id = False
        """Whether it came with an id that has been replaced."""
        self.rolled = False
        """Whether the cookie may be sent again: the record's life began anew, and the id is the current one."""
        self._accessed = False
        self._gone = False
        self._finished = False
        self._saved = False
        self._late = False

    def again(self) -> Visit:
        """The same request once more, under the lock."""
        sid = self._sid if self.session.new or self._gone else self.session.sid
        other = Visit(
            self.guard,
            self._cookie,
            replace(self.policy, mode="lock"),
            sid,
            https=self._https,
            client=self._client,
            identity=self._identity,
            codec=self._codec,
            lifetime=self.lifetime,
            on_loss=self.on_loss,
        )
        other.label, other._told, other._is_safe = self.label, self._told, self._is_safe
        other._old = self._old
        return other

    # --- begin

    async def open(self) -> Session:
        """Lock and load, or only load, or begin an empty session. :meth:`aclose` must follow in the same task.

        Raises:
            WaitTimedOut, QueueFull, RedisUnavailable, ScriptsForbidden, CodecError.
            ReentrantLock: the request being handled in this context, or the process of this host that is the client,
                holds the same session.
        """
        self._began_at = time.monotonic()
        old = self._old
        if old is not None and self._sid is None:
            self._sid = await old.take()
        elif old is not None and old.origin.write_back and self._sid is not None and await old.differs(self._sid):
            await old.exchange(self._sid)
        await self._find()
        self._opened = self._context
        return self.session

    async def _find(self) -> None:
        if self._sid is None:
            await self._begin()
        else:
            await self._enter(self._to_lock(self._sid) if self.mode == "lock" else self._to_load(self._sid))

    def _to_lock(self, sid: str) -> Any:
        refuse_nested(self.guard, sid)
        options = self.policy.options()
        lease = options.pop("lease", self.guard.lease_policy)
        context: Any = self.guard.session_lock(
            sid,
            missing="reject",
            name=self.label,
            session=self.lifetime,
            codec=self._codec,
            lease=replace(lease, on_lost="flag"),  # see _lost
            **options,
        )
        context.when_waiting(refusing(self._client))
        return context

    def _to_load(self, sid: str) -> Any:
        mode: Any = "read" if self.mode == "off" else self.mode
        # A commit while another request holds the lock could make that one's save a conflict. This one can run again,
        # and wait for the lock then; unless it is the holder itself who waits for it.
        yields = self._may_run_again and held_here(self.guard, sid) is None
        return self.guard.unlocked(sid, mode, session=self.lifetime, codec=self._codec, yields=yields)

    async def _enter(self, context: Context) -> None:
        try:
            session = await context.__aenter__()
        except SessionNotFound as error:  # unknown, expired, destroyed or replaced
            if self._old is not None and not error.replaced and await self._taken():
                return
            await self._begin()
            self.by_old_id = error.replaced
            return
        self._use(session, context)
        self.by_old_id = context.outdated
        lease = session.lease
        if lease is not None:
            self._held = hold_here(self.guard, session, self.label)
            if (self.policy.lease or self.guard.lease_policy).on_lost == "cancel":
                lease.when_lost(self._lost)

    async def _taken(self) -> bool:
        """Whether the session that is not known here was taken over from where it was."""
        assert self._old is not None
        sid = await self._old.take()
        if sid is None:
            return False
        self._sid = sid
        context = self._to_lock(sid) if self.mode == "lock" else self._to_load(sid)
        old, self._old = self._old, None
        try:
            await self._enter(context)
        finally:
            self._old = old
        return True

    async def _begin(self) -> None:
        mode: Any = "read" if self.mode == "read" else "optimistic"
        context = self.guard.beginning(mode, self.lifetime, self._codec)
        self._use(await context.__aenter__(), context)
        self._gone = False

    def _use(self, session: Session, context: Context) -> None:
        self.session, self._context = session, context
        self._persons = Persons(self._identity, session)
        session.around(before_saving=self._renew_for_another, after_destroying=self._begin_after_the_end)

    def _lost(self) -> None:
        """A request that only looks is not ended: nothing of it can be refused."""
        if self.on_loss is not None and not self._finished and self._changed():
            self.on_loss()

    def _changed(self) -> bool:
        try:
            return bool(self.session.changed_keys())
        except SessionLockError:
            return True  # a change that cannot be saved is one

    @property
    def mapping(self) -> WebSession:
        """The handler's session: of this request, whatever happens to the guarded one."""
        if self._mapping is None:
            self._mapping = WebSession(self)
            if self._finished:
                self._mapping._end()
        return self._mapping

    def show_in(self, mapping: WebSession) -> None:
        """The handler's session is one of the face's own."""
        self._mapping = mapping

    # --- in the handler

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[Session]:
        """Hold the lock within the handler, whatever the request's mode is; save and release at the end.

        What was changed before is saved first. A request that holds the lock already, or begins a new session, goes
        on with what it has.

        Raises as :meth:`open` and :meth:`finish` do. ReadOnlySession: the answer has begun already.
        """
        if self._finished:
            raise ReadOnlySession(
                "the answer of this request has begun, so its session is settled. Take the lock before, or use"
                " `async with guard.session_lock(sid)` for what comes later"
            )
        own = None
        if self._held is None:
            own = await self._upgrade()
        try:
            yield self.session
            if not self._finished:
                await self._settle(None)
        except BaseException as error:
            if own is not None:
                await own.__aexit__(type(error), error, error.__traceback__)
            raise
        if own is not None:
            await own.__aexit__(None, None, None)

    async def _upgrade(self) -> Context | None:
        """Exchange a session without a lock for one with it; None for a session that begins, which needs none."""
        before = self.session
        writable = self.mode != "read"
        self.mode = "lock"
        if before.new:
            if not writable:
                await self._begin()
            return None
        version = before.version
        await self._settle(None) if writable else self._close_unlocked()
        self._took_effect |= before.version != version or before.took_effect
        await self._enter(self._to_lock(self.session.sid))
        return self._context if isinstance(self._context, SessionContext) else None

    def replace(self, content: Mapping[str, Any] | None) -> None:
        """The application put something else in the session's place: its content from now on."""
        self.session.clear()
        self.session.update(content or {})

    def identity_changed(self) -> None:
        """Somebody logged in, and no key in the session tells: it gets a new id when it is saved."""
        self._new_identity = True

    # --- the answer begins

    async def finish(self, *, failed: bool = False, live: float | None = None) -> None:
        """Save and release; a ``failed`` request (5xx) only releases, unless its policy says ``save_on_error``.

        Any task may call it. Afterwards the session is closed, and the headers can be told. ``live``: seconds from
        now for which the record lives, whether or not anything changed; None: as the guard's policy says.

        Raises:
            RunAgain: a safe request met a conflict: see there.
            SessionConflict, LeaseLost, RedisUnavailable, SessionTooLarge, CodecError.
            SessionNotFound: the session was ended meanwhile, and this request had changed it.
            ReadOnlySession: a value deep inside a session for reading only was changed.
        """
        if self._finished:
            return
        self._finished = True
        self._accessed |= self.session.accessed
        try:
            if not failed or self.policy.save_on_error:
                before = self.session.version
                await self._settle(live)
                self._saved = True
                if self._old is not None:
                    await self._tell_old(self._old, changed=self.session.version != before)
            elif self._can_run_again and self.session.conflicted:
                raise self._once_more()
            else:
                await self._discard()
        finally:
            if self._mapping is not None:
                self._mapping._end()

    async def _tell_old(self, old: TakeOver, *, changed: bool) -> None:
        if self._gone or (self.has_new_id and self._told is not None):
            await old.end()
        if old.origin.write_back and (changed or self.has_new_id) and not self.session.new and not self._gone:
            await old.exchange(self.session.sid, moved=self.has_new_id)

    def _learn(self) -> None:
        """From now on this route takes the lock at once."""
        if self._learnt is not None and self._may_run_again:
            self._learnt.add(self.label, self.age)

    def _once_more(self) -> RunAgain:
        if isinstance(self._context, UnlockedContext):
            self._close_unlocked()
        self._learn()
        log.debug("%s met a conflict in session %s and runs again under the lock", self.label, self.session.name)
        return RunAgain()

    async def _settle(self, live: float | None) -> None:
        self._accessed |= self.session.accessed
        try:
            await self._take_effect(live)
        except SessionConflict:
            if self._can_run_again:
                raise self._once_more() from None
            self._learn()
            raise
        except SessionNotFound as error:
            if error.replaced:
                self.by_old_id = True  # the browser has a newer id, or will have in a moment: no cookie of ours
            else:
                self._gone = True
            if not self._changed():
                log.info("%s; this request had changed nothing: the cookie is cleared, the answer kept", error)
                return
            if self._can_run_again:
                raise self._once_more() from None
            raise

    @property
    def _can_run_again(self) -> bool:
        """What the handler has saved, or counted, by itself cannot be taken back."""
        return self._may_run_again and not self.session.took_effect and not self._took_effect

    async def _take_effect(self, live: float | None) -> None:
        session, context = self.session, self._context
        await session.do_what_nobody_awaited()
        if session.destroyed:
            self._gone = True
        elif self.mode in ("read", "off"):
            self._close_unlocked()
            check_unchanged(session)
        elif isinstance(context, SessionContext) and session.lease and session.lease.is_lost and not self._changed():
            await context.discard()
        elif session.cleared and not session.new:
            await self._end_or_begin_anew()
        elif session.new and self.by_old_id and self._changed():
            await self._refuse_replaced()
        else:
            await self._save(live)

    async def _save(self, live: float | None) -> None:
        session = self.session
        await self._renew_for_another()
        held, new = self._held is not None, session.new
        session.ends_when_empty()
        if live is None and session.touched and not held and self._cookie.rolling:
            live = self.lifetime.idle  # the cookie goes out again, so it must be sure that its id is the current one
        if live is None or new:
            await session.release()
            self.rolled = held
        if live is not None and not session.new:
            saved, rolled = await asyncio.gather(session.release(), self._context.expire(live), return_exceptions=True)
            if isinstance(saved, BaseException):
                raise saved
            if isinstance(rolled, BaseException) and not session.ended:
                raise rolled
            self.rolled = rolled is True
        self._gone = session.ended or (self._has_ended and session.new)

    async def _renew_for_another(self) -> None:
        """Another user is logged in than before: a new id, once. Where the application has given one by itself, the old
        one ends now, whatever time it was given.
        """
        session, context = self.session, self._context
        if session.new or self._is_renewed or self.mode in ("read", "off"):
            return
        grace = 0.0 if self._new_identity else self._persons.grace_for_another(session)
        if grace is None:
            return
        if session.sid == self._sid:
            await session.regenerate(grace=grace)
        else:
            await context.end_old_ids(grace)
        self._is_renewed = True

    async def _begin_after_the_end(self) -> None:
        """The handler has ended the session. What it puts in now (a message to say goodbye) begins another."""
        if self._finished:
            return
        self._has_ended = True
        fresh = self.guard.beginning("optimistic", self.lifetime, self._codec)
        self._use(await fresh.__aenter__(), fresh)

    async def _end_or_begin_anew(self) -> None:
        """``clear()`` alone is a logout. Followed by filling it is a login: a session of its own, under a new id, in
        which nothing is left of the old one, whoever wrote it.
        """
        old, content, context = self.session, self.session.copy(), self._context
        if content:
            fresh = self.guard.beginning("optimistic", self.lifetime, self._codec)
            self._use(await fresh.__aenter__(), fresh)
            self.session.update(content)
            await self.session.release()
            self.by_old_id = False
        try:
            await context.destroy(replaced=bool(content))
        except SessionNotFound as error:
            log.info("%s; it was to be ended anyway", error)
        old.close("was ended")
        self._gone = not content

    async def _refuse_replaced(self) -> None:
        """The id was replaced a moment ago, by a login in another request of this browser, say. A new session's cookie
        would take the place of the new id's.
        """
        self._close_unlocked()
        if not self._is_safe:
            error = SessionNotFound(
                f"{self.label} came with an id that has been replaced; what it put into its session was not saved"
            )
            error.replaced = True
            raise error
        log.warning("%s came with an id that has been replaced; what it changed is not saved", self.label)

    async def _discard(self) -> None:
        session, context = self.session, self._context
        session.forget_what_nobody_awaited()
        self._accessed |= session.accessed
        self._gone |= session.destroyed or self._has_ended
        if isinstance(context, UnlockedContext):
            self._close_unlocked()
        else:
            await context.discard()

    def _close_unlocked(self) -> None:
        assert isinstance(self._context, UnlockedContext)
        self._context.close("belongs to a request that is answered already")

    # --- what to tell the browser

    @property
    def new_sid(self) -> str | None:
        """The id for the cookie: of a new session, a regenerated one, or the same once more (rolling)."""
        if self._gone or self.session.new:
            return None
        if self.session.sid != self._told or self._rolls():
            return self.session.sid
        return None

    def _rolls(self) -> bool:
        return self._cookie.rolling and self._cookie.max_age is not None and self.may_tell_again

    @property
    def may_tell_again(self) -> bool:
        """Whether the id that the browser has may be sent once more: it lives on with the record, and is current."""
        return self.rolled and self.saved and not self.by_old_id

    @property
    def has_new_id(self) -> bool:
        """Whether :attr:`new_sid` is another one than the request came with."""
        return self.new_sid not in (None, self._told)

    @property
    def clears_cookie(self) -> bool:
        """The session is no more, and the browser should forget its id."""
        return self._gone and self._told is not None

    @property
    def set_cookie(self) -> str | None:
        """The value for a Set-Cookie header, None for no such header."""
        if self.clears_cookie:
            return self._cookie.render_deletion(https=self._https)
        sid = self.new_sid
        return None if sid is None else self._cookie.render(sid, https=self._https)

    @property
    def vary(self) -> bool:
        """Whether the answer depends on the session, so that a cache must be told ``Vary: Cookie``.

        Known once :meth:`finish` was called.
        """
        return self._accessed or self.set_cookie is not None

    # --- end

    async def aclose(self, error: BaseException | None = None) -> None:
        """The request is over. What :meth:`finish` has not saved by now is not saved (except: ``save_on_error``).

        Raises:
            LeaseLost: instead of the cancellation by which the loss of the lease ended the handler.
        """
        answered, self._finished = self._finished, True
        try:
            if error is None and not answered:
                await self._discard()
            await self._opened.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)
        finally:
            if self._held is not None:
                self._held.leave()
            if self._mapping is not None:
                self._mapping._end()
        if self.saved:
            self.tell_unsaved()

    @property
    def age(self) -> float:
        """Seconds since it was opened."""
        return time.monotonic() - self._began_at

    @property
    def is_open(self) -> bool:
        return hasattr(self, "_opened")

    @property
    def saved(self) -> bool:
        """Whether :meth:`finish` has saved the session, and it is still there."""
        return self._saved and not self._gone

    def settle_as_snapshot(self, why: str) -> None:
        """For what lives longer than a request should hold or save anything (a websocket): from now on it can be read,
        and what is written stays in :attr:`mapping`. ``why`` as :meth:`Session.close` has it.
        """
        self._finished = True
        self.session.close(why)
        if isinstance(self._context, UnlockedContext):
            self._context.close(why)
        self.mapping._end()

    def note_late(self, key: object) -> None:
        """The handler changed its session where that is not saved any more. Told once for each request."""
        if not self._late:
            self._late = True
            log.warning(
                "%s changed %r of session %s after its answer had begun, or in a websocket: that is not saved. Change"
                " it before the answer begins, or within `async with guard.session_lock(sid)`",
                self.label,
                key,
                self.session.name,
            )

    def tell_unsaved(self) -> None:
        """Log what was changed deep in the session where that has no effect any more; nothing can prevent it."""
        try:
            late = self.session.changed_keys()
        except SessionLockError as error:
            late = [str(error)]
        if late:
            self.note_late(late[0] if len(late) == 1 else late)

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose(error)
