"""The guard: acquire – load – handle – save – release."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar, cast

import anyio
from tenacity import AsyncRetrying

from . import protocol
from .acquisition import Acquisition, Wanted
from .changes import check_strategies
from .codec import Codec, default_codec
from .engines import Engine, ScriptEngine, WatchEngine, increment, whichever_works
from .errors import (
    CodecError,
    ConfigurationError,
    LeaseLost,
    SessionConflict,
    SessionDestroyed,
    SessionLockError,
    SessionNotFound,
    SessionTooLarge,
    StaleFencingToken,
)
from .keys import check_prefix, check_sid, keys_for, new_sid, new_token
from .lease import Lease
from .modes import Attempt, Unlocked, UnlockedContext, UnlockedMode, attempts
from .policies import LeasePolicy, SessionPolicy, WaitPolicy
from .protocol import Change, Committed, Conflict, Granted, Refused, Snapshot
from .runtime import Runtime, node_name
from .session import Session
from .urls import client_from_url, is_fake

__all__ = ["HolderInfo", "LockContext", "SessionContext", "SessionGuard", "SessionInfo"]

T = TypeVar("T")
Missing = Literal["create", "reject"]
Mode = Literal["lock", "read", "optimistic", "last_write_wins"]
MOST_MERGES = 10  # a holder's save meets lock-free writers at the most this often in a row


@dataclass(frozen=True, slots=True)
class HolderInfo:
    """Who holds a session's lock. ``token`` is what :meth:`SessionGuard.force_release` wants to see.

    ``age`` and ``remaining`` in seconds, None when unknown or endless (a foreign Redlock client).
    """

    token: str
    label: str
    age: float | None
    remaining: float | None


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """What :meth:`SessionGuard.inspect` tells. ``waiters`` are labels in queue order; ``expires_in`` in seconds."""

    name: str
    holder: HolderInfo | None
    fencing_token: int
    waiters: tuple[str, ...]
    exists: bool
    destroyed: bool
    version: int
    expires_in: float | None


class SessionGuard:
    """Guards the sessions that live in one Redis. Cheap to keep, safe to share between tasks.

    ``client`` is a ``redis.asyncio`` client; the guard opens two connections of its own from its settings (one for
    calls, one for pushes once somebody had to wait) and never closes the client. ``prefix`` begins every key.
    ``name`` labels this node for others (default host:pid). ``retry_for``: seconds during which a Redis that
    does not answer is tried again before :class:`~sessionlock.RedisUnavailable`; ``reply_within``: seconds for
    one reply. ``push_limit``: sessions larger than this many bytes are not pushed with a grant but loaded.
    ``commit_by``: how the modes without a lock save: ``"script"``, ``"watch"`` (WATCH/MULTI/EXEC), or ``"auto"``.
    """

    def __init__(
        self,
        client: Any,
        *,
        prefix: str = "sl",
        lease: LeasePolicy | None = None,
        wait: WaitPolicy | None = None,
        session: SessionPolicy | None = None,
        codec: Codec | None = None,
        name: str | None = None,
        reply_within: float = 5.0,
        retry_for: float = 5.0,
        push_limit: int = 65_536,
        commit_by: Literal["auto", "script", "watch"] = "auto",
    ) -> None:
        self._client = client
        self.prefix = check_prefix(prefix)
        self.lease_policy = lease or LeasePolicy()
        self.wait_policy = wait or WaitPolicy()
        self.session_policy = session or SessionPolicy()
        check_strategies(self.session_policy.merge)
        self.codec = codec or default_codec()
        self._label = _check_label(name)
        self._reply_within = reply_within
        self._retry_for = retry_for
        self._push_limit = push_limit
        if commit_by not in ("auto", "script", "watch"):
            raise ConfigurationError(f"commit_by must be auto, script or watch, not {commit_by!r}")
        self._commit_by = commit_by
        self._runtime: Runtime | None = None
        self._inherited: Runtime | None = None
        self._owns_client = False
        self._exact = is_fake(client)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> SessionGuard:
        """A guard with a client of its own; see README for the URL schemes. :meth:`aclose` closes that client.

        Raises:
            ConfigurationError: a scheme or option that does not exist.
        """
        guard = cls(client_from_url(url), **options)
        guard._owns_client = True
        return guard

    # --- the lock around load – handle – save

    def session_lock(
        self,
        sid: str,
        *,
        mode: Mode = "lock",
        missing: Missing = "create",
        lease: LeasePolicy | None = None,
        wait: WaitPolicy | float | None = None,
        session: SessionPolicy | None = None,
        save_on_error: bool = False,
        name: str | None = None,
        expected_version: int | None = None,
    ) -> AbstractAsyncContextManager[Session, None]:
        """``async with guard.session_lock(sid) as session``: acquire and load; save and release.

        ``mode``: ``"lock"``; or without waiting ``"read"`` (nothing is saved, a change raises), ``"optimistic"`` (a
        conflicting change is merged by ``SessionPolicy.merge`` or raises), ``"last_write_wins"`` (as optimistic, for
        requests that change only keys declared so). ``expected_version``: with these, refuse any other version.
        ``missing``: what to do without a record, ``"create"`` gives an empty new session, ``"reject"`` raises.
        ``wait``: a policy, or seconds. ``save_on_error``: save also when the body raised. ``name``: shown to others as
        the holder, beside the node (a route, say).

        Raises (on entry):
            InvalidSessionId, WaitTimedOut, QueueFull, ReentrantLock, SessionNotFound, SessionDestroyed,
            RedisUnavailable, CodecError.
        Raises (at the end):
            LeaseLost, StaleFencingToken, SessionConflict, SessionDestroyed, CodecError, SessionTooLarge,
            RedisUnavailable.
        """
        policy = session or self.session_policy
        if mode != "lock":
            return UnlockedContext(partial(self._unlocked, sid, policy, mode, missing, expected_version))
        if expected_version is not None:
            raise ConfigurationError(
                "expected_version is for the modes without a lock; under the lock nobody else saves"
            )
        wanted = self._wanted(sid, policy, missing, lease, wait, name)
        return SessionContext(self, wanted, sid, policy, save_on_error)

    def lock(
        self,
        lock_name: str,
        *,
        lease: LeasePolicy | None = None,
        wait: WaitPolicy | float | None = None,
        name: str | None = None,
    ) -> LockContext:
        """``async with guard.lock(name) as lease``: only the lock, for storage of your own.

        Give ``lease.fencing_token`` to that storage, so that it can refuse an older holder.
        Raises as :meth:`session_lock` does.
        """
        return LockContext(self, self._wanted(lock_name, None, "create", lease, wait, name))

    def _wanted(
        self,
        sid: str,
        session: SessionPolicy | None,
        missing: Missing,
        lease: LeasePolicy | None,
        wait: WaitPolicy | float | None,
        name: str | None,
    ) -> Wanted:
        if missing not in ("create", "reject"):
            raise ConfigurationError(f"missing must be 'create' or 'reject', not {missing!r}")
        keys = keys_for(self.prefix, check_sid(sid))
        return Wanted(
            keys,
            keys.digest,
            self._labelled(name),
            lease or self.lease_policy,
            wait if isinstance(wait, WaitPolicy) else self.wait_policy if wait is None else WaitPolicy.seconds(wait),
            session,
            missing,
            self._push_limit,
        )

    def _labelled(self, name: str | None) -> str:
        node = self._label or node_name()
        return f"{node} {_check_label(name)}" if name else node

    # --- without the lock

    def _unlocked(
        self, sid: str, policy: SessionPolicy, mode: UnlockedMode, missing: Missing, expected_version: int | None
    ) -> Unlocked:
        if mode not in ("read", "optimistic", "last_write_wins"):
            raise ConfigurationError(f"mode must be lock, read, optimistic or last_write_wins, not {mode!r}")
        keys = keys_for(self.prefix, check_sid(sid))
        return Unlocked(keys, sid, self._engine(), self.codec, policy, mode, missing, expected_version, self._exact)

    def attempts(
        self,
        sid: str,
        *,
        missing: Missing = "create",
        retry: AsyncRetrying | None = None,
        session: SessionPolicy | None = None,
    ) -> AsyncIterator[Attempt]:
        """A transaction as a loop, in tenacity's manner; what clashed runs again on the state that won::

            async for attempt in guard.attempts(sid):
                async with attempt as session:
                    session["stock"] -= 1

        ``retry``: a tenacity object whose ``stop`` and ``wait`` bound the attempts (default: ten).

        Raises:
            SessionConflict: the last attempt clashed too. Otherwise as :meth:`session_lock` without a lock.
        """
        wanted = self._unlocked(sid, session or self.session_policy, "optimistic", missing, None)
        return attempts(wanted, retry)

    async def transaction(
        self,
        sid: str,
        change: Callable[[Session], Awaitable[T] | T],
        *,
        missing: Missing = "create",
        retry: AsyncRetrying | None = None,
        session: SessionPolicy | None = None,
    ) -> T:
        """Run ``change(session)`` without a lock and commit; when somebody else was faster, run it again on his state.

        ``change`` may run several times: it should do nothing but change the session. Returns what it returned.
        Raises as :meth:`attempts` does.
        """
        async for attempt in self.attempts(sid, missing=missing, retry=retry, session=session):
            async with attempt as current:
                result = change(current)
                answer = await result if inspect.isawaitable(result) else result
        return cast(T, answer)

    async def incr(self, sid: str, key: str, by: int = 1) -> int:
        """Add ``by`` to an integer of an existing session, atomically and without the lock; returns the new value.

        Raises:
            SessionNotFound, SessionDestroyed, InvalidSessionId, RedisUnavailable.
            SessionConflict: what is stored there is not an integer. ConfigurationError: the codec hides numbers.
        """
        keys = keys_for(self.prefix, check_sid(sid))
        outcome = await increment(self.runtime().executor, keys, self.codec, self.session_policy, key, by, None, "")
        return cast(int, outcome.value)

    def _engine(self) -> Engine:
        runtime = self.runtime()
        if self._commit_by == "script":
            return ScriptEngine(runtime.executor)
        if self._commit_by == "watch":
            return WatchEngine(self._client)
        if runtime.engine is None:
            runtime.engine = whichever_works(runtime.executor, self._client)
        return cast(Engine, runtime.engine)

    async def create(self, data: Mapping[str, Any] | None = None, *, sid: str | None = None) -> Session:
        """Store a new session, by default under a new random id (``session.sid``); nothing is ever overwritten.

        Raises:
            SessionConflict: ``sid`` was given and exists already (or was destroyed a short while ago).
            InvalidSessionId, CodecError, SessionTooLarge, RedisUnavailable.
        """
        for _ in range(3):
            chosen = check_sid(sid) if sid is not None else new_sid()
            keys = keys_for(self.prefix, chosen)
            draft = self._loaded(chosen, Snapshot({}, 0, ""))
            draft.update(data or {})
            changes = draft.changes()
            call = protocol.create(keys, new_token(), self.session_policy, changes)
            outcome = protocol.loaded(await self.runtime().executor.run(call))
            if isinstance(outcome, Snapshot):
                return self._loaded(chosen, outcome, "was not loaded under a lock")
            if sid is not None:
                break
        raise SessionConflict(f"session {keys.digest} exists already; it was not overwritten")

    async def read(self, sid: str) -> Session:
        """The session as it stands, without a lock and without waiting. It cannot be changed.

        Raises:
            SessionNotFound, SessionDestroyed, InvalidSessionId, RedisUnavailable, CodecError.
        """
        async with self.session_lock(sid, mode="read", missing="reject") as session:
            return session

    async def destroy(self, sid: str) -> bool:
        """End the session at once, whoever holds its lock: waiters are told, a late save is refused.

        Returns whether there was one. The id stays refused for ``SessionPolicy.tombstone`` seconds.
        """
        keys = keys_for(self.prefix, check_sid(sid))
        reply = await self.runtime().executor.run(protocol.destroy(keys, self.session_policy))
        return bool(reply[0] == b"destroyed")

    async def inspect(self, sid: str) -> SessionInfo:
        """Who holds the session, for how long already, and who waits. Changes nothing."""
        keys = keys_for(self.prefix, check_sid(sid))
        seen = protocol.inspected(await self.runtime().executor.run(protocol.inspect(keys)))
        holder = None
        if seen.token is not None and seen.holder is not None:
            holder = HolderInfo(seen.token, seen.holder.label, seen.holder.age, seen.left)
        return SessionInfo(
            keys.digest,
            holder,
            seen.fence,
            tuple(waiter.label for waiter in seen.waiters),
            seen.created_us > 0,
            seen.destroyed,
            seen.version,
            seen.record_left,
        )

    async def force_release(self, sid: str, token: str) -> bool:
        """Take the lock from the holder that :meth:`inspect` showed; its late save will be refused.

        Returns False when that token holds it no more: of ten concurrent calls one wins.
        """
        keys = keys_for(self.prefix, check_sid(sid))
        call = protocol.force_release(keys, token, push_limit=self._push_limit)
        reply = await self.runtime().executor.run(call)
        return bool(reply[0] == b"released")

    # --- life

    def runtime(self) -> Runtime:
        """This process' and event loop's part; a fork or a new loop gets its own."""
        runtime = self._runtime
        if runtime is None or runtime.loop is not asyncio.get_running_loop() or runtime.pid != os.getpid():
            self._inherited = runtime  # a parent's or an ended loop's: kept, for closing it is not ours to do
            runtime = self._runtime = Runtime(
                self._client, prefix=self.prefix, reply_within=self._reply_within, retry_for=self._retry_for
            )
        return runtime

    async def aclose(self) -> None:
        """Close the guard's connections, and its client if :meth:`from_url` made it."""
        if self._runtime is not None:
            await self._runtime.aclose()
            self._runtime = None
        if self._owns_client:
            await self._client.aclose()

    async def __aenter__(self) -> SessionGuard:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _loaded(self, sid: str, snapshot: Snapshot, read_only: str | None = None) -> Session:
        name = keys_for(self.prefix, sid).digest
        session = Session(name, snapshot, self.codec, self.session_policy, read_only=read_only, exact=self._exact)
        session.sid = sid
        return session


class _Held:
    """What ``async with guard.lock`` and ``guard.session_lock`` have in common: one acquisition, one lease."""

    def __init__(self, guard: SessionGuard, wanted: Wanted) -> None:
        self._guard = guard
        self._wanted = wanted
        self._lease: Lease | None = None
        self._scope: anyio.CancelScope | None = None
        self._runtime: Runtime

    async def _enter(self) -> tuple[Lease, Snapshot]:
        if self._lease is not None:
            raise ConfigurationError("a lock context is for one use; call session_lock() again for the next")
        runtime = self._runtime = self._guard.runtime()
        wanted = self._wanted
        runtime.enter(wanted.keys, wanted.name)
        acquisition = Acquisition(runtime, wanted)
        granted = await acquisition.run()
        lease = self._lease = _lease(acquisition.token, granted, wanted)
        runtime.entered(wanted.keys)
        runtime.watchdog.watch(lease, wanted.keys, wanted.lease)
        return lease, granted.snapshot

    def _guard_body(self) -> None:
        """From here on losing the lease cancels the body."""
        if self._wanted.lease.on_lost == "cancel":
            assert self._lease is not None
            self._scope = anyio.CancelScope()
            self._scope.__enter__()
            self._lease.when_lost(self._scope.cancel)

    def _end_body(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> bool:
        """Leave the cancel scope. Returns whether the body was ended by the loss of the lease."""
        assert self._lease is not None
        self._lease.when_lost(None)
        scope, self._scope = self._scope, None
        return scope is not None and bool(scope.__exit__(kind, error, tb))

    async def _give_up(self, changes: list[Change], created: str, *, cancelled: bool = False) -> Any:
        """One release call, seen through to its end even when this task is cancelled meanwhile."""
        lease, wanted = self._lease, self._wanted
        assert lease is not None
        call = protocol.release(
            wanted.keys,
            lease.token,
            lease.fencing_token,
            created,
            wanted.session,
            changes,
            push_limit=wanted.push_limit,
        )
        if cancelled:
            reply = await self._runtime.see_through(call)
            return Committed(None) if reply is None else protocol.committed(reply)
        try:
            return protocol.committed(await self._runtime.executor.run(call))
        except BaseException as error:
            if not isinstance(error, SessionLockError):
                await self._give_up_although_cancelled(call, created)
            raise

    async def _give_up_although_cancelled(self, call: protocol.Call, created: str) -> None:
        """The call is on its way or not; repeating it is safe. A conflict keeps the lock: nobody is left to merge."""
        reply = await self._runtime.see_through(call)
        if reply is not None and isinstance(protocol.committed(reply), Conflict):
            await self._give_up([], created, cancelled=True)

    def _finish(self) -> None:
        lease = self._lease
        assert lease is not None
        self._runtime.watchdog.forget(lease)
        self._runtime.left(self._wanted.keys)
        lease.mark_released()

    def _loss(self, fence: int) -> LeaseLost:
        lease = self._lease
        assert lease is not None
        lease.mark_lost(lease.lost_because or "Redis does not know it any more")
        if fence > lease.fencing_token:
            return StaleFencingToken(
                f"the lock of {lease.name} was lost and has been granted again since (fencing token"
                f" {lease.fencing_token}, now {fence}); the late save was refused, nothing of it was stored."
                " Load the session again",
                ours=lease.fencing_token,
                current=fence,
            )
        return LeaseLost(lease.why_lost())


def _lease(token: str, granted: Granted, wanted: Wanted) -> Lease:
    policy = wanted.lease
    return Lease(
        wanted.name,
        token,
        granted.fence,
        granted_at=granted.asked_at,
        granted_for=granted.trusted_for,
        ttl=policy.ttl,
        safety_margin=policy.margin,
        max_hold=policy.max_hold,
        confirmed=granted.trusted_for >= policy.ttl,
    )


class LockContext(_Held):
    """Returned by :meth:`SessionGuard.lock`; one use."""

    async def __aenter__(self) -> Lease:
        lease, _ = await self._enter()
        self._guard_body()
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        ended_by_loss = self._end_body(kind, error, tb)
        lease = self._lease
        assert lease is not None
        if lease.released:
            return
        failed = error is not None
        try:
            outcome = await self._give_up([], "", cancelled=failed)
        except SessionLockError as trouble:
            if failed and not ended_by_loss:
                _note(error, trouble)
                return
            raise
        finally:
            self._finish()
        if ended_by_loss or (isinstance(outcome, Refused) and outcome.kind == "lost"):
            loss = self._loss(outcome.fence if isinstance(outcome, Refused) else 0)
            if not failed or ended_by_loss:
                raise loss from None
            _note(error, loss)


class SessionContext(_Held):
    """Returned by :meth:`SessionGuard.session_lock`; one use."""

    def __init__(
        self, guard: SessionGuard, wanted: Wanted, sid: str, policy: SessionPolicy, save_on_error: bool
    ) -> None:
        super().__init__(guard, wanted)
        self._sid = sid
        self._policy = policy
        self._save_on_error = save_on_error
        self._session: Session | None = None
        self._saves = 0

    async def __aenter__(self) -> Session:
        lease, snapshot = await self._enter()
        try:
            session = Session(
                lease.name, snapshot, self._guard.codec, self._policy, lease=lease, exact=self._guard._exact
            )
        except BaseException:
            await self._without_saving()
            raise
        session.sid = self._sid
        session._saver = self._save_now
        session._releaser = self._release_early
        self._session = session
        self._guard_body()
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        ended_by_loss = self._end_body(kind, error, tb)
        lease = self._lease
        assert lease is not None
        if lease.released:
            return
        if error is None:
            await self._save_and_release()
        elif ended_by_loss:
            fence = await self._without_saving()
            raise self._loss(fence) from None
        else:
            try:
                if self._save_on_error and isinstance(error, Exception):
                    await self._save_and_release()
                else:
                    await self._without_saving()
            except SessionLockError as trouble:
                _note(error, trouble)

    async def _save_and_release(self) -> None:
        """The last moment: one call that saves the delta, unlocks and hands on; merged and tried again on conflict."""
        session = self._session
        assert session is not None
        try:
            for _ in range(MOST_MERGES):
                changes = session.changes()
                outcome = await self._give_up(changes, session._created)
                if not isinstance(outcome, Conflict):
                    return self._saved(changes, outcome)
                session._merge(outcome)
            raise _too_many_merges(session)
        except BaseException as error:
            if isinstance(error, (SessionConflict, SessionTooLarge, CodecError)):
                # Nothing was saved and the lock is still ours to give up.
                await self._without_saving()
            raise
        finally:
            self._end()

    def _saved(self, changes: list[Change], outcome: Committed | Refused) -> None:
        session = self._session
        assert session is not None
        if isinstance(outcome, Committed):
            session._saved(changes, outcome.version, outcome.created)
        elif outcome.kind == "lost":
            raise self._loss(outcome.fence)
        elif changes or outcome.kind == "destroyed":
            raise self._gone(outcome.kind)

    def _gone(self, kind: str) -> SessionNotFound:
        name = self._wanted.name
        if kind == "destroyed":
            return SessionDestroyed(
                f"session {name} was destroyed while this request held it; its changes were not saved and the"
                " session stays destroyed"
            )
        return SessionNotFound(
            f"the record of session {name} expired or was evicted while this request held it; saving only the changes"
            " would revive a part of it, so nothing was saved"
        )

    async def _without_saving(self) -> int:
        """Release; returns the highest fencing token seen when the lock was not ours any more."""
        try:
            outcome = await self._give_up([], "", cancelled=True)
        finally:
            self._end()
        return outcome.fence if isinstance(outcome, Refused) else 0

    def _end(self) -> None:
        self._finish()
        if self._session is not None:
            self._session._close("was saved and released already")

    async def _release_early(self) -> None:
        if self._lease is not None and not self._lease.released:
            self._lease.when_lost(None)
            await self._save_and_release()

    async def _save_now(self) -> None:
        session, lease = self._session, self._lease
        assert session is not None
        assert lease is not None
        for _ in range(MOST_MERGES):
            changes = session.changes()
            if not changes:
                return
            self._saves += 1
            op = f"{lease.token}.{self._saves}"
            call = protocol.save(
                self._wanted.keys,
                lease.token,
                lease.fencing_token,
                op,
                session._created,
                self._policy,
                changes,
            )
            outcome = protocol.committed(await self._runtime.executor.run(call))
            if isinstance(outcome, Conflict):
                session._merge(outcome)
            else:
                return self._saved(changes, outcome)
        raise _too_many_merges(session)


def _too_many_merges(session: Session) -> SessionConflict:
    return SessionConflict(
        f"session {session.name} was changed by others {MOST_MERGES} times while it was being saved; nothing was saved"
    )


def _note(error: BaseException | None, trouble: SessionLockError) -> None:
    """The body's own exception comes first; what happened to the lock is told beside it (Python 3.11+)."""
    add_note = getattr(error, "add_note", None)
    if add_note is not None:
        add_note(f"sessionlock, while leaving: {type(trouble).__name__}: {trouble}")


def _check_label(name: str | None) -> str:
    if name is None:
        return ""
    if not name.isprintable() or len(name) > 120:
        raise ConfigurationError("a holder's name must be printable and at most 120 characters")
    return name
