"""One request's use of a session: open it, let the handler work, save and release when the answer begins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ...errors import ReadOnlySession, SessionConflict, SessionLockError, SessionNotFound
from ...guard import SessionGuard
from ...observe import ChangesRefused
from ...policies import SessionPolicy
from ...selfcalls.nesting import Held, hold_here
from ...session.block import SessionBlock
from ...session.mapping import Session
from ...session.unlocked import UnlockedContext, check_unchanged
from ..takeover.taking import TakeOver
from .answer import CookieAnswer
from .asked import Asked
from .identity import IDENTITY, Login
from .learning import Rerun
from .mapping import WebSession, end
from .rules import RequestMode, RoutePolicy

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["IDENTITY", "RequestSession", "RunAgain"]

log: logging.Logger = logging.getLogger("sessionlock.web")


class RunAgain(BaseException):
    """Raised by :meth:`RequestSession.finish`: a safe request met a conflict. Nothing of its answer may be sent; the
    face runs it again with :meth:`RequestSession.again`. No Exception, so that no handler of the application's takes
    it for one.
    """


class RequestSession:
    """One request. :attr:`session` is the guarded session, :attr:`mapping` what the handler gets.

    ``on_loss`` is called when the lease is lost in a request that has changed the session by then; one that has not may
    go on.

    ::

        async with RequestSession(Asked.of(guard, cookie, policy, sid, method="POST", path="/", rules=rules)) as visit:
            ...                                              # the handler, with visit.mapping
            await visit.finish(failed=status >= 500)         # when the answer begins: save and release
            visit.answer.set_cookie, visit.answer.vary       # then tell the headers

    A sid without a session is never adopted: the handler gets an empty session, stored under an id of its own if
    something is put in. A request that changed a session which was ended meanwhile is refused, one that changed nothing
    keeps its answer; the cookie is cleared either way.
    """

    session: Session
    """The session as it is now: a login or a logout begins another."""

    def __init__(self, asked: Asked, *, on_loss: Callable[[], object] | None = None) -> None:
        self._asked = asked
        self._rerun = Rerun(asked.learnt, asked.page, allowed=asked.policy.may_run_again(asked.method))
        self.mode: RequestMode = "lock" if self._rerun.is_known else asked.policy.mode_for(asked.method)
        self._on_loss = on_loss
        self.answer: CookieAnswer = CookieAnswer(asked.cookie, asked.told, asked.https)
        # The block that open() entered, to be left in the same task; and the one of the session as it is now.
        self._opened: SessionBlock | None = None
        self._block: SessionBlock
        # The lock, once it was taken, as requests within this one see it.
        self._held: Held | None = None
        self._mapping: WebSession | None = None
        self._login = Login(asked.identity)
        # Once the answer begins the session is settled: nothing is saved any more.
        self._finished = False

    def again(self) -> RequestSession:
        """The same request once more, under the lock."""
        begins = self.session.new or self.answer.gone
        sid = (self._login.came_by or self._asked.sid) if begins else self.session.sid
        return RequestSession(self._asked.under_the_lock(sid), on_loss=self._on_loss)

    @property
    def guard(self) -> SessionGuard:
        """The guard that keeps the session."""
        return self._asked.guard

    @property
    def policy(self) -> RoutePolicy:
        """What holds for this route."""
        return self._asked.policy

    @property
    def lifetime(self) -> SessionPolicy:
        """How long the record lives."""
        return self._asked.lifetime

    @property
    def label(self) -> str:
        """The route, for logs and errors."""
        return self._asked.seen_as

    def when_lost(self, on_loss: Callable[[], object] | None) -> None:
        """What is called when the lease is lost in a request that has changed the session by then."""
        self._on_loss = on_loss

    # --- begin

    async def open(self) -> Session:
        """Lock and load, or only load, or begin an empty session. :meth:`aclose` must follow in the same task.

        Raises:
            WaitTimedOut, QueueFull, RedisUnavailable, ScriptsForbidden, CodecError.
            ReentrantLock: the request being handled in this context, or the process of this host that is the client,
                holds the same session.
        """
        asked = self._asked
        sid, old = asked.sid, asked.old
        if old is not None and sid is None:
            sid = await old.take()
        elif old is not None and old.origin.write_back and sid is not None and await old.differs(sid):
            await old.exchange(sid)
        if sid is not None:
            self._login.came(sid)
            await self._enter(sid, old)
        else:
            await self._begin()
        self._opened = self._block
        return self.session

    async def _enter(self, sid: str, old: TakeOver | None) -> None:
        block = self._asked.block(sid, self.mode, yields=self._rerun.is_possible)
        try:
            session = await block.__aenter__()
        except SessionNotFound as error:  # unknown, expired, destroyed or replaced
            taken = await old.take() if old is not None and not error.replaced else None
            if taken is not None:
                self._login.came(taken)
                return await self._enter(taken, None)
            await self._begin()
            self.answer.note(by_old_id=error.replaced)
            return
        self._use(session, block)
        self.answer.note(by_old_id=block.outdated)
        lease = session.lease
        if lease is not None:
            self._held = hold_here(self.guard, session, self.label)
            if self._asked.ends_on_loss:
                lease.when_lost(self._lost)

    async def _begin(self) -> None:
        block = self._asked.beginning("read" if self.mode == "read" else "optimistic")
        self._use(await block.__aenter__(), block)
        self.answer.note(gone=False)

    def _use(self, session: Session, block: SessionBlock) -> None:
        self.session, self._block = session, block
        self.answer.about(session)
        self._login.watch(session)
        session.around(before_saving=self._renew_for_another, after_destroying=self._begin_after_the_end)

    def _lost(self) -> None:
        """A request that only looks is not ended: nothing of it can be refused."""
        if self._on_loss is not None and not self._finished and self._changed():
            self._on_loss()

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
                end(self._mapping)
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

    async def _upgrade(self) -> SessionBlock | None:
        """Exchange a session without a lock for one with it; None for a session that begins, which needs none."""
        before = self.session
        writable = self.mode != "read"
        self.mode = "lock"
        if before.new:
            if not writable:
                await self._begin()
            return None
        version = before.version
        await self._settle(None) if writable else await self._block.discard()
        if before.version != version or before.happened.took_effect:
            self._rerun.forbid()
        await self._enter(self.session.sid, self._asked.old)
        return self._block if self.session.lease is not None else None

    def replace(self, content: Mapping[str, Any] | None) -> None:
        """The application put something else in the session's place: its content from now on."""
        self.session.clear()
        self.session.update(content or {})

    def identity_changed(self) -> None:
        """Somebody logged in, and no key in the session tells: it gets a new id when it is saved."""
        self._login.tell()

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
        self.answer.note_access()
        try:
            if not failed or self.policy.save_on_error:
                before = self.session.version
                await self._settle(live)
                self.answer.note(saved=True)
                if self._asked.old is not None:
                    await self._tell_old(self._asked.old, changed=self.session.version != before)
            elif self._can_run_again and self.session.happened.conflicted:
                raise await self._once_more()
            else:
                await self._discard()
        finally:
            if self._mapping is not None:
                end(self._mapping)

    async def _tell_old(self, old: TakeOver, *, changed: bool) -> None:
        answer, session = self.answer, self.session
        if answer.gone or (answer.has_new_id and answer.told is not None):
            await old.end()
        if old.origin.write_back and (changed or answer.has_new_id) and not session.new and not answer.gone:
            await old.exchange(session.sid, moved=answer.has_new_id)

    async def _once_more(self) -> RunAgain:
        if self.session.lease is None:
            await self._block.discard()
        self._rerun.learn()
        log.debug("%s met a conflict in session %s and runs again under the lock", self.label, self.session.digest)
        return RunAgain()

    async def _settle(self, live: float | None) -> None:
        self.answer.note_access()
        try:
            await self._take_effect(live)
        except SessionConflict:
            if self._can_run_again:
                raise await self._once_more() from None
            self._rerun.learn()
            raise
        except SessionNotFound as error:
            if error.replaced:
                self.answer.note(
                    by_old_id=True
                )  # the browser has a newer id, or will have in a moment: no cookie of ours
            else:
                self.answer.note(gone=True)
            if not self._changed():
                log.info("%s; this request had changed nothing: the cookie is cleared, the answer kept", error)
                return
            if self._can_run_again:
                raise await self._once_more() from None
            raise

    @property
    def _can_run_again(self) -> bool:
        return self._rerun.is_possible and not self.session.happened.took_effect

    async def _take_effect(self, live: float | None) -> None:
        session = self.session
        await session.do_what_nobody_awaited()
        if session.destroyed:
            self.answer.note(gone=True)
        elif self.mode in ("read", "off"):
            await self._block.discard()
            check_unchanged(session)
        elif session.lease is not None and session.lease.is_lost and not self._changed():
            await self._block.discard()
        elif session.cleared and not session.new:
            await self._end_or_begin_anew()
        elif session.new and self.answer.by_old_id and self._changed():
            await self._refuse_replaced()
        else:
            await self._save(live)

    async def _save(self, live: float | None) -> None:
        session, answer = self.session, self.answer
        await self._renew_for_another()
        held, new = self._held is not None, session.new
        session.ends_when_empty()
        if live is None and session.happened.touched and not held and answer.cookie.rolling:
            live = self.lifetime.idle  # the cookie goes out again, so it must be sure that its id is the current one
        if live is None or new:
            await session.release()
            answer.note(rolled=held)
        if live is not None and not session.new:
            saved, rolled = await asyncio.gather(session.release(), self._block.expire(live), return_exceptions=True)
            if isinstance(saved, BaseException):
                raise saved
            if isinstance(rolled, BaseException) and not session.happened.ended:
                raise rolled
            answer.note(rolled=rolled is True)
        answer.note_kept()

    async def _renew_for_another(self) -> None:
        """Another user is logged in than before: a new id, once. Where the application has given one by itself, the old
        one ends now, whatever time it was given.
        """
        session = self.session
        if session.new or self.mode in ("read", "off"):
            return
        grace = self._login.grace(session)
        if grace is None:
            return
        if session.sid == self._login.came_by:
            try:
                await session.regenerate(grace=grace)
            except SessionNotFound:  # it has been replaced already: nobody logs in by an older id
                await self._block.discard()
                raise
        else:
            await self._block.end_old_ids(grace)
        self._login.done()

    async def _begin_after_the_end(self) -> None:
        """The handler has ended the session. What it puts in now (a message to say goodbye) begins another."""
        if self._finished:
            return
        self.answer.note_end()
        await self._begin_another()

    async def _begin_another(self) -> None:
        fresh = self._asked.beginning()
        self._use(await fresh.__aenter__(), fresh)

    async def _end_or_begin_anew(self) -> None:
        """``clear()`` alone is a logout. Followed by filling it is a login: a session of its own, under a new id, in
        which nothing is left of the old one, whoever wrote it.
        """
        old, content, block = self.session, self.session.copy(), self._block
        if content:
            await self._begin_another()
            self.session.update(content)
            await self.session.release()
            self.answer.note(by_old_id=False)
        try:
            await block.destroy(replaced=bool(content))
        except SessionNotFound as error:
            log.info("%s; it was to be ended anyway", error)
        old.close("was ended")
        self.answer.note(gone=not content)

    async def _refuse_replaced(self) -> None:
        """The id was replaced a moment ago, by a login in another request of this browser, say. A new session's cookie
        would take the place of the new id's.
        """
        await self._block.discard()
        if not self._asked.is_safe:
            error = SessionNotFound(
                f"{self.label} came with an id that has been replaced; what it put into its session was not saved",
                replaced=True,
            )
            self.guard.tell(ChangesRefused(self.session.digest, "", error))
            raise error
        log.warning("%s came with an id that has been replaced; what it changed is not saved", self.label)

    async def _discard(self) -> None:
        self.session.forget_what_nobody_awaited()
        self.answer.note_discarded()
        await self._block.discard()

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
            assert self._opened is not None
            await self._opened.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)
        finally:
            if self._held is not None:
                self._held.leave()
            if self._mapping is not None:
                end(self._mapping)
        if self.saved:
            self.tell_unsaved()

    @property
    def age(self) -> float:
        """Seconds since the request began."""
        return self._rerun.age

    @property
    def is_open(self) -> bool:
        """Whether there is a session, and :meth:`aclose` has something to do."""
        return self._opened is not None

    @property
    def saved(self) -> bool:
        """Whether :meth:`finish` has saved the session, and it is still there."""
        return self.answer.saved and not self.answer.gone

    def settle_as_snapshot(self, why: str) -> None:
        """For what lives longer than a request should hold or save anything (a websocket): from now on it can be read,
        and what is written stays in :attr:`mapping`. ``why`` as :meth:`Session.close` has it.
        """
        self._finished = True
        self.session.close(why)
        if isinstance(self._block, UnlockedContext):
            self._block.close(why)
        end(self.mapping)

    def note_late(self, key: object) -> None:
        """The handler changed its session where that is not saved any more. Told once for each request."""
        if self.answer.is_first_late_change():
            log.warning(
                "%s changed %r of session %s after its answer had begun, or in a websocket: that is not saved. Change"
                " it before the answer begins, or within `async with guard.session_lock(sid)`",
                self.label,
                key,
                self.session.digest,
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
