"""One request's use of a session: open it, let the handler work, save and release when the answer begins."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import ReadOnlySession, SessionLockError, SessionNotFound
from ..guard import SessionGuard
from ..holding import SessionContext
from ..modes import UnlockedContext, check_unchanged
from ..peers import Client
from ..selfcall import refusing
from ..session import Session
from .cookies import CookieSettings
from .nesting import Held, refuse_nested
from .rules import RequestMode, RoutePolicy, label_of

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Visit"]

log = logging.getLogger("sessionlock.web")

Context = SessionContext | UnlockedContext


class Visit:
    """One request. ``sid``: what its cookie says, if it says anything usable. :attr:`session` is the handler's.

    ``client`` tells who sent it.

    ::

        async with Visit(guard, cookie, policy, sid, method="POST", path="/cart") as visit:
            ...                                              # the handler, with visit.session
            await visit.finish(failed=status >= 500)         # when the answer begins: save and release
            visit.set_cookie, visit.vary                     # then tell the headers

    A sid without a session is never adopted: the handler gets an empty session, stored under an id of its own if
    something is put in. A session that was destroyed meanwhile stays destroyed: what this request changed is
    discarded, the cookie cleared, the answer kept.
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
    ) -> None:
        self.guard = guard
        self.policy = policy
        self.mode: RequestMode = policy.mode_for(method)
        self._cookie = cookie
        self._sid = sid
        self._https = https
        self._client = client
        self._label = label_of(method, path)
        self._opened: Context  # by open(), in whose task it must be left
        self._context: Context  # of the session as it is now
        self._held: Held | None = None
        self.by_old_id = False
        """Whether it came with an id that has been replaced."""
        self._had_keys = False
        self._accessed = False
        self._gone = False
        self._finished = False
        self._saved = False

    # --- begin

    async def open(self) -> Session:
        """Lock and load, or only load, or begin an empty session. :meth:`aclose` must follow in the same task.

        Raises:
            WaitTimedOut, QueueFull, RedisUnavailable, ScriptsForbidden, CodecError.
            ReentrantLock: the request being handled in this context, or the process of this host that is the client,
                holds the same session.
        """
        if self._sid is None:
            await self._begin()
        elif self.mode == "lock":
            await self._enter(self._to_lock(self._sid))
        else:
            await self._enter(self._to_load(self._sid))
        self._opened = self._context
        return self.session

    def _to_lock(self, sid: str) -> Any:
        refuse_nested(self.guard, sid)
        context: Any = self.guard.session_lock(sid, missing="reject", name=self._label, **self.policy.options())
        context.on_wait = refusing(self._client)
        return context

    def _to_load(self, sid: str) -> Any:
        mode: Any = "read" if self.mode == "off" else self.mode
        return self.guard.session_lock(sid, mode=mode, missing="reject")

    async def _enter(self, context: Context) -> None:
        try:
            session = await context.__aenter__()
        except SessionNotFound:  # unknown, expired or destroyed
            return await self._begin()
        self.session, self._context = session, context
        self.by_old_id = context.outdated
        self._had_keys = session.has_stored_keys
        lease = session.lease
        if lease is not None:
            assert self._sid is not None
            self._held = Held(self.guard, self._sid, lambda: not lease.released, self._label)
            self._held.enter()
        return None

    async def _begin(self) -> None:
        mode: Any = "read" if self.mode == "read" else "optimistic"
        self._context = self.guard.beginning(mode)
        self.session = await self._context.__aenter__()
        self._had_keys = self._gone = False

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
                await self._save()
        except BaseException as error:
            if own is not None:
                await own.__aexit__(type(error), error, error.__traceback__)
            raise
        if own is not None:
            await own.__aexit__(None, None, None)

    async def _upgrade(self) -> Context | None:
        """Exchange a session without a lock for one with it; None for a session that begins, which needs none."""
        before, sid = self.session, self._sid
        writable = self.mode != "read"
        self.mode = "lock"
        if before.new:
            if not writable:
                await self._begin()
            return None
        assert sid is not None
        await self._save() if writable else self._close_unlocked()
        await self._enter(self._to_lock(before.sid))
        return self._context if isinstance(self._context, SessionContext) else None

    def replace(self, content: Mapping[str, Any] | None) -> None:
        """The application put something else in the session's place: its content from now on."""
        self.session.clear()
        self.session.update(content or {})

    # --- the answer begins

    async def finish(self, *, failed: bool = False) -> None:
        """Save and release; a ``failed`` request (5xx) only releases, unless its policy says ``save_on_error``.

        Any task may call it. Afterwards the session is closed, and the headers can be told.

        Raises:
            SessionConflict, LeaseLost, RedisUnavailable, SessionTooLarge, CodecError.
            ReadOnlySession: a value deep inside a session for reading only was changed.
        """
        if self._finished:
            return
        self._finished = True
        if failed and not self.policy.save_on_error:
            await self._discard()
        else:
            await self._save()
            self._saved = True

    async def _save(self) -> None:
        session = self.session
        self._accessed |= session.accessed
        if session.destroyed:
            self._gone = True
            return
        try:
            if self._had_keys and not len(session) and session.is_open:
                await session.destroy()
                self._gone = True
            elif self.mode == "read":
                self._close_unlocked()
                check_unchanged(session)
            else:
                await session.release()
        except SessionNotFound as error:
            self._gone = True
            log.info("%s; the cookie is cleared, the answer kept", error)

    async def _discard(self) -> None:
        session, context = self.session, self._context
        self._accessed |= session.accessed
        self._gone |= session.destroyed
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
        if self.session.sid != self._sid or self._rolls():
            return self.session.sid
        return None

    def _rolls(self) -> bool:
        cookie = self._cookie
        rolling = cookie.rolling and cookie.max_age is not None
        return rolling and self._saved and self._held is not None and not self.by_old_id

    @property
    def has_new_id(self) -> bool:
        """Whether :attr:`new_sid` is another one than the request came with."""
        return self.new_sid not in (None, self._sid)

    @property
    def clears_cookie(self) -> bool:
        """The session is no more, and the browser should forget its id."""
        return self._gone and self._sid is not None

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
        if self.saved:
            self.tell_unsaved()

    @property
    def is_open(self) -> bool:
        return hasattr(self, "_opened")

    @property
    def saved(self) -> bool:
        """Whether :meth:`finish` has saved the session, and it is still there."""
        return self._saved and not self._gone

    def tell_unsaved(self) -> None:
        """Log what was changed deep in the session where that has no effect any more; nothing can prevent it."""
        try:
            late = self.session.changed_keys()
        except SessionLockError as error:
            late = [str(error)]
        if late:
            log.warning(
                "%s changed %s of session %s after its answer had begun, or in a websocket: that is not saved. Change"
                " it before the answer begins, or within `async with guard.session_lock(sid)`",
                self._label,
                ", ".join(map(repr, late)),
                self.session.name,
            )

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose(error)
