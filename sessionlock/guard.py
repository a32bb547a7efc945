"""The guard: acquire – load – handle – save – release."""

from __future__ import annotations

import copy
import inspect
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast, overload

from tenacity import AsyncRetrying

from .checkup.findings import Capabilities
from .codecs.base import Codec, default_codec
from .durability import Wait
from .errors import ConfigurationError, InvalidSessionId, SessionConflict
from .lock.context import LockContext, SessionContext, SessionsContext
from .lock.holders import node_name
from .lock.one_store import OneStore
from .lock.options import LockOptions, Missing, Mode, SharedOptions
from .lock.request import LockRequest
from .lock.runtime import Runtime, Runtimes
from .lock.topology import OpenTopology
from .observe import Observer, harmless
from .policies import LeasePolicy, SessionPolicy, WaitPolicy, check_seconds, seconds_until_stop
from .protocol import replies as protocol
from .protocol.keys import SessionKeys, check_prefix, check_sid, keys_for, new_sid
from .protocol.record_calls import ForceRelease, Inspect
from .protocol.replies import Snapshot
from .session.commit_watch import Engine, ScriptEngine, WatchEngine, whichever_works
from .session.mapping import Session, SessionFormat
from .session.merge import check_strategies
from .session.operations import StoredSession
from .session.unlocked import Attempt, BeginningContext, Unlocked, UnlockedContext, UnlockedMode, attempts
from .session.user_index import UserIndex
from .transport.executor import Executor
from .urls import client_from_url, is_fake

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .quorum.router import Quorum

__all__ = ["GuardOptions", "HolderInfo", "SessionGuard", "SessionInfo"]

log = logging.getLogger("sessionlock")

T = TypeVar("T")


class GuardOptions(TypedDict, total=False):
    """What :class:`SessionGuard` takes beside its client; there they are explained."""

    prefix: str
    lease: LeasePolicy | None
    wait: WaitPolicy | float | None
    session: SessionPolicy | None
    codec: Codec | None
    name: str | None
    reply_within: float
    retry_for: float
    push_limit: int
    commit_by: Literal["auto", "script", "watch"]
    durability: Wait | None
    check: bool | None
    quorum: Quorum | None
    observer: Observer | None


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
    ``wait`` may be given in seconds. ``name`` labels this node for others (default host:pid). ``retry_for``: seconds
    during which a Redis that does not answer is tried again before :class:`~sessionlock.RedisUnavailable`;
    ``reply_within``: seconds for one reply. ``push_limit``: sessions larger than this many bytes are not pushed with
    a grant but loaded. ``commit_by``: how the modes without a lock save: ``"script"``, ``"watch"``
    (WATCH/MULTI/EXEC), or ``"auto"``. ``durability``: a :class:`~sessionlock.Wait` for replicas behind every save.
    ``check``: whether each process looks once at the server (at every master of a Cluster or a quorum), beside its
    first call, logs what weakens a promise, and refuses a server that cannot do (default: yes, unless the environment
    has ``SESSIONLOCK_CHECK=0``).
    ``quorum``: a :class:`~sessionlock.Quorum` of independent masters that hold the locks; ``client`` then is the store
    of the sessions only. ``observer``: a function that is told what happens (:mod:`sessionlock.observe`).
    """

    def __init__(
        self,
        client: Any,
        *,
        prefix: str = "sl",
        lease: LeasePolicy | None = None,
        wait: WaitPolicy | float | None = None,
        session: SessionPolicy | None = None,
        codec: Codec | None = None,
        name: str | None = None,
        reply_within: float = 2.0,
        retry_for: float = 4.5,
        push_limit: int = 65_536,
        commit_by: Literal["auto", "script", "watch"] = "auto",
        durability: Wait | None = None,
        check: bool | None = None,
        quorum: Quorum | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._client = client
        self.prefix = check_prefix(prefix)
        self.lease_policy = _instance(lease, LeasePolicy, "lease")
        patient = WaitPolicy.seconds(wait) if isinstance(wait, (int, float)) else wait
        self.wait_policy = _instance(patient, WaitPolicy, "wait")
        self.session_policy = _instance(session, SessionPolicy, "session")
        _check_fit(self.wait_policy, self.lease_policy)
        check_seconds("reply_within", reply_within)
        check_seconds("retry_for", retry_for)
        if not isinstance(push_limit, int) or push_limit < 0:
            raise ConfigurationError(f"push_limit must be a number of bytes, not {push_limit!r}")
        check_strategies(self.session_policy.merge)
        self.codec = codec or default_codec()
        self._label = _check_label(name)
        self._reply_within = reply_within
        self._push_limit = push_limit
        self._exact = is_fake(client)
        if commit_by not in ("auto", "script", "watch"):
            raise ConfigurationError(f"commit_by must be auto, script or watch, not {commit_by!r}")
        if durability is not None and not isinstance(durability, Wait):
            raise ConfigurationError(f"durability must be a Wait, such as Wait(replicas=1), not {durability!r}")
        check = os.environ.get("SESSIONLOCK_CHECK") != "0" if check is None else check
        self._owned: list[Any] = []  # clients that are ours to close
        how: dict[str, Any] = {"prefix": self.prefix, "retry_for": retry_for, "check": check}
        open_topology: OpenTopology = partial(OneStore, client, reply_within=reply_within, durability=durability, **how)
        if quorum is not None:
            open_topology, self._owned = _with_quorum(quorum, client, open_topology, self.lease_policy, how)
        open_engine = partial(_engine, commit_by, reply_within, retry_for)
        told = None if observer is None else harmless(observer)
        self._runtimes = Runtimes(partial(Runtime, open_topology, open_engine, told))
        # This process' and event loop's part; a fork or another loop gets its own, and it ends with its loop.
        self.runtime: Callable[[], Runtime] = self._runtimes.current

    @classmethod
    def from_url(cls, url: str, **options: Unpack[GuardOptions]) -> SessionGuard:
        """A guard with a client of its own; see README for the URL schemes. :meth:`aclose` closes that client.

        Raises:
            ConfigurationError: a scheme or option that does not exist.
        """
        guard = cls(client_from_url(url), **options)
        guard._owned.append(guard._client)
        return guard

    def twin(self) -> SessionGuard:
        """The same guard with connections of its own, for another thread; it closes no client."""
        twin = copy.copy(self)
        twin._runtimes = self._runtimes.twin()
        twin.runtime = twin._runtimes.current
        twin._owned = []
        return twin

    # --- the lock around load – handle – save

    @overload
    def session_lock(
        self, sid: str, /, **options: Unpack[LockOptions]
    ) -> AbstractAsyncContextManager[Session, None]: ...

    @overload
    def session_lock(
        self, sid: str, second: str, /, *more: str, **options: Unpack[SharedOptions]
    ) -> AbstractAsyncContextManager[tuple[Session, ...], None]: ...

    def session_lock(
        self,
        *sids: str,
        mode: Mode = "lock",
        missing: Missing = "create",
        lease: LeasePolicy | None = None,
        wait: WaitPolicy | float | None = None,
        session: SessionPolicy | None = None,
        save_on_error: bool = False,
        name: str | None = None,
        expected_version: int | None = None,
        serializable: bool = False,
        codec: Codec | None = None,
    ) -> AbstractAsyncContextManager[Any, None]:
        """``async with guard.session_lock(sid) as session``: acquire and load; save and release.

        ``mode``: ``"lock"``; or without waiting ``"read"`` (nothing is saved, a change raises), ``"optimistic"`` (a
        conflicting change is merged by ``SessionPolicy.merge`` or raises), ``"last_write_wins"`` (as optimistic, for
        requests that change only keys declared so). ``expected_version``: with these, refuse any other version.
        ``serializable``: in mode ``"optimistic"`` a key that was read and not changed conflicts, too, when somebody
        else changed it, as in :meth:`transaction`. By default only changed keys are compared: a request reads much that
        it computes nothing from (who is logged in, a language), and harmless changes would become conflicts.
        ``codec``: another than the guard's.
        ``missing``: what to do without a record, ``"create"`` gives an empty new session, ``"reject"`` raises.
        ``wait``: a policy, or seconds. ``save_on_error``: save also when the body raised. ``name``: shown to others as
        the holder, beside the node (a route, say).

        With two or more ids the sessions are locked together, in one order on all nodes, all or none, and a tuple of
        them is given: for merging a guest's session into a user's, say.

        Raises (on entry):
            InvalidSessionId, WaitTimedOut, QueueFull, ReentrantLock, SessionNotFound, SessionDestroyed,
            RedisUnavailable, CodecError.
        Raises (at the end):
            LeaseLost, StaleFencingToken, SessionConflict, SessionDestroyed, CodecError, SessionTooLarge,
            RedisUnavailable.
        """
        if session is not None:
            check_strategies(session.merge)
        if not sids:
            raise ConfigurationError("session_lock() needs a session id")
        if len(sids) > 1:
            if expected_version is not None:
                raise ConfigurationError("expected_version is for the modes without a lock")
            if mode != "lock":
                raise ConfigurationError("several sessions are only held together in mode 'lock'")
            return self._together(sids, missing, lease, wait, session, save_on_error, name)
        (sid,) = sids
        policy = session or self.session_policy
        if mode != "lock":
            return self.unlocked(
                sid,
                mode,
                missing=missing,
                session=session,
                codec=codec,
                expected_version=expected_version,
                serializable=serializable,
            )
        if serializable:
            raise ConfigurationError("serializable is for mode 'optimistic'; under the lock nobody else saves")
        if expected_version is not None:
            raise ConfigurationError(
                "expected_version is for the modes without a lock; under the lock nobody else saves"
            )
        return self._locked(sid, missing, lease, wait, policy, save_on_error, name, codec)

    def _locked(
        self,
        sid: str,
        missing: Missing,
        lease: LeasePolicy | None,
        wait: WaitPolicy | float | None,
        policy: SessionPolicy,
        save_on_error: bool,
        name: str | None,
        codec: Codec | None = None,
    ) -> SessionContext:
        wanted = self._wanted(sid, policy, missing, lease, wait, name)
        return SessionContext(
            self.runtime,
            wanted,
            sid,
            self._format(policy, codec),
            save_on_error=save_on_error,
            noticed=self.noticed,
        )

    def _together(
        self,
        sids: tuple[str, ...],
        missing: Missing,
        lease: LeasePolicy | None,
        wait: WaitPolicy | float | None,
        session: SessionPolicy | None,
        save_on_error: bool,
        name: str | None,
    ) -> SessionsContext:
        policy = session or self.session_policy
        contexts = {
            keys_for(self.prefix, check_sid(sid)).digest: self._locked(
                sid, missing, lease, wait, policy, save_on_error, name
            )
            for sid in sids
        }
        if len(contexts) < len(sids):
            raise ConfigurationError("the same session was named twice; it cannot be locked twice at once")
        return SessionsContext(contexts)

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
        return LockContext(self.runtime, self._wanted(lock_name, None, "create", lease, wait, name))

    def lock_key(self, name: str) -> str:
        """The Redis key of ``guard.lock(name)``, and of the session with that id: a plain ``SET NX PX`` lock.

        For other clients (redis-py ``Lock``, pottery ``Redlock``) that are to exclude us and be excluded by us. The
        name itself never reaches Redis: the key has its hash.

        Raises:
            InvalidSessionId: not usable as a name.
        """
        return keys_for(self.prefix, check_sid(name)).lock.decode()

    def _wanted(
        self,
        sid: str,
        session: SessionPolicy | None,
        missing: Missing,
        lease: LeasePolicy | None,
        wait: WaitPolicy | float | None,
        name: str | None,
    ) -> LockRequest:
        if missing not in ("create", "reject"):
            raise ConfigurationError(f"missing must be 'create' or 'reject', not {missing!r}")
        keys = keys_for(self.prefix, check_sid(sid))
        return LockRequest(
            keys,
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
        if session is not None:
            check_strategies(session.merge)
        wanted = self._unlocked(sid, "optimistic", missing, session, None)
        return attempts(replace(wanted, serializable=True), retry)

    @overload
    async def transaction(
        self,
        sid: str,
        change: Callable[[Session], Awaitable[T]],
        *,
        missing: Missing = ...,
        retry: AsyncRetrying | None = ...,
        session: SessionPolicy | None = ...,
    ) -> T: ...

    @overload
    async def transaction(
        self,
        sid: str,
        change: Callable[[Session], T],
        *,
        missing: Missing = ...,
        retry: AsyncRetrying | None = ...,
        session: SessionPolicy | None = ...,
    ) -> T: ...

    async def transaction(
        self,
        sid: str,
        change: Callable[[Session], Any],
        *,
        missing: Missing = "create",
        retry: AsyncRetrying | None = None,
        session: SessionPolicy | None = None,
    ) -> Any:
        """Run ``change(session)`` without a lock and commit; when somebody else was faster, run it again on his state.

        It is serializable: what it read counts like what it wrote, absent keys too, and after iterating the set of
        keys. Keys declared ``last_write_wins`` are not compared.
        ``change`` may run several times: it should do nothing but change the session. Returns what it returned.
        Raises as :meth:`attempts` does.
        """
        async for attempt in self.attempts(sid, missing=missing, retry=retry, session=session):
            async with attempt as current:
                result = change(current)
                answer = await result if inspect.isawaitable(result) else result
        return answer

    async def incr(self, sid: str, key: str, by: int = 1) -> int:
        """Add ``by`` to an integer of an existing session, atomically and without the lock; returns the new value.

        Raises:
            SessionNotFound, SessionDestroyed, InvalidSessionId, RedisUnavailable.
            SessionConflict: what is stored there is not an integer. ConfigurationError: the codec hides numbers.
        """
        outcome = await self._stored(sid).increment(key, by)
        if outcome.safety is not None:
            outcome.safety.insist()
        return cast(int, outcome.value)

    async def regenerate(self, sid: str, *, grace: float = 30.0) -> str:
        """Give the session a new id and return it; the old one works ``grace`` seconds longer. The data stays.

        Inside a block use :meth:`Session.regenerate`, which also tells how durable the change is: here it cannot be
        told without keeping the new id back.

        Raises:
            SessionNotFound, SessionDestroyed, InvalidSessionId, RedisUnavailable.
        """
        return (await self._stored(sid).regenerate(grace)).sid

    def _stored(self, sid: str) -> StoredSession:
        keys = keys_for(self.prefix, check_sid(sid))
        return StoredSession(self.runtime().executor, keys, self._format())

    # --- a user's sessions

    async def bind(self, sid: str, user: str) -> None:
        """Note whose session this is, for :meth:`sessions_of` and :meth:`destroy_all`. ``user=""`` unbinds it.

        Raises:
            SessionNotFound, SessionDestroyed, InvalidSessionId, RedisUnavailable.
        """
        await self._users().bind(keys_for(self.prefix, check_sid(sid)), user)

    async def sessions_of(self, user: str) -> list[SessionInfo]:
        """The user's live sessions. Entries of sessions that are gone are taken out of the index on the way."""
        return [self._info(await self._inspected(keys), keys) for keys in await self._users().records(user)]

    async def destroy_all(self, user: str, *, keep: str | None = None) -> int:
        """Log the user out everywhere (except ``keep``, a session id); returns how many sessions were ended."""
        spared = keys_for(self.prefix, check_sid(keep)).digest if keep is not None else None
        ended = 0
        for keys in await self._users().records(user):
            if keys.digest != spared:
                stored = StoredSession(self.runtime().executor, keys, self._format())
                existed, _ = await stored.destroy(durably=False)
                ended += existed
        return ended

    async def repair_index(self) -> int:
        """Build the index of users' sessions anew from the records (it is only a cache of theirs); returns entries.

        Reads every session record once (SCAN): for an administrator, not for a request.
        """
        return await self._users().repair()

    def _users(self) -> UserIndex:
        runtime = self.runtime()
        return UserIndex(
            runtime.topology.client, runtime.executor, self.prefix, self.session_policy, self._reply_within
        )

    async def create(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        sid: str | None = None,
        session: SessionPolicy | None = None,
        codec: Codec | None = None,
    ) -> Session:
        """Store a new session, by default under a new random id (``session.sid``); nothing is ever overwritten.

        ``session``, ``codec``: others than the guard's.

        Raises:
            SessionConflict: ``sid`` was given and exists already (or was destroyed a short while ago).
            InvalidSessionId, CodecError, SessionTooLarge, RedisUnavailable.
        """
        how = self._format(session, codec)
        for _ in range(3):
            chosen = check_sid(sid) if sid is not None else new_sid()
            keys = keys_for(self.prefix, chosen)
            if not keys.proof.startswith("p:"):
                raise InvalidSessionId(
                    "an id that regenerate() gave out names its own session; it cannot begin another"
                )
            draft = Session(chosen, keys.digest, protocol.EMPTY, how)
            draft.update(data or {})
            stored = StoredSession(self.runtime().executor, keys, how)
            try:
                snapshot, safety = await stored.create(draft.changes())
            except SessionConflict as error:
                taken = error
                if sid is not None:
                    break
                continue
            if safety is not None:
                safety.insist()
            unlocked = "was not loaded under a lock"
            return Session(chosen, keys.digest, snapshot, how, read_only=unlocked, saved=safety)
        raise taken

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
        existed, safety = await self._stored(sid).destroy()
        if safety is not None:
            safety.insist()
        return existed

    async def inspect(self, sid: str) -> SessionInfo:
        """Who holds the session, for how long already, and who waits. Changes nothing."""
        keys = keys_for(self.prefix, check_sid(sid))
        return self._info(await self._inspected(keys), keys)

    async def _inspected(self, keys: SessionKeys) -> protocol.Inspected:
        return await self.runtime().executor.run(Inspect(keys))

    def _info(self, seen: protocol.Inspected, keys: SessionKeys) -> SessionInfo:
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
        runtime = self.runtime()
        call = ForceRelease(keys, token, push_limit=self._push_limit, deaf=runtime.deaf)
        return await runtime.executor.run(call) == "released"

    async def capabilities(self) -> Capabilities:
        """What the server is, what it can do, and what weakens a promise; asked now, with a dozen plain commands.

        Of a Cluster's masters one that is fit speaks for all; what was found at each is logged (and ``sessionlock
        doctor`` shows it).

        Raises:
            RedisUnavailable: no answer.
        """
        return await self.runtime().topology.capabilities()

    async def ready(self, timeout: float = 1.0) -> bool:
        """Whether sessions can be used now: for a health probe, and for a look at start-up. True, or it raises.

        Asks Redis once, for ``timeout`` seconds at the most; in an outage that is known already it answers at once. Of
        a Cluster it is enough that one master answers; of a quorum a majority and the store must. Where Redis was never
        reached in this process, a failure is logged at ERROR like the beginning of any outage, and its end is.

        Raises:
            RedisUnavailable: they cannot, and why.
        """
        check_seconds("timeout", timeout)
        await self.runtime().executor.ready(timeout)
        return True

    # --- for the integrations: the blocks of session_lock() that need no lock, with all that they can do

    def unlocked(
        self,
        sid: str,
        mode: UnlockedMode,
        *,
        missing: Missing = "reject",
        session: SessionPolicy | None = None,
        codec: Codec | None = None,
        expected_version: int | None = None,
        serializable: bool = False,
        yields: bool = False,
    ) -> UnlockedContext:
        """``session_lock(sid, mode=…)``. ``yields``: what the holder of the lock could meet as a conflict is not
        committed while there is one.

        Raises:
            InvalidSessionId, ConfigurationError.
        """
        wanted = self._unlocked(sid, mode, missing, session, codec)
        return UnlockedContext(
            replace(wanted, expected_version=expected_version, serializable=serializable, yields=yields)
        )

    def _unlocked(
        self, sid: str, mode: UnlockedMode, missing: str, session: SessionPolicy | None, codec: Codec | None
    ) -> Unlocked:
        keys = keys_for(self.prefix, check_sid(sid))
        return Unlocked(self, keys, sid, self._format(session, codec), mode, missing)

    def _format(self, session: SessionPolicy | None = None, codec: Codec | None = None) -> SessionFormat:
        return SessionFormat(codec or self.codec, session or self.session_policy, self._exact)

    def beginning(
        self,
        mode: UnlockedMode,
        policy: SessionPolicy | None = None,
        codec: Codec | None = None,
        *,
        sid: str | None = None,
    ) -> BeginningContext:
        """``async with guard.beginning(mode) as session``: a new session, which is stored if something is put in."""
        return BeginningContext(self._unlocked(new_sid() if sid is None else sid, mode, "create", policy, codec))

    def noticed(self, keys: SessionKeys, snapshot: Snapshot) -> None:
        """A session was loaded: keep its entry in the index of users alive, beside the request."""
        if b"#user" in snapshot.fields and self._users().overdue(snapshot):
            self.runtime().background(self._users().enter_again(keys, snapshot))

    # --- life

    async def aclose(self) -> None:
        """Close the guard's connections, and its client if :meth:`from_url` made it.

        Connections that other threads' event loops use are closed there, soon.
        """
        await self._runtimes.aclose()
        for client in self._owned:
            await client.aclose()

    async def __aenter__(self) -> SessionGuard:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


def _instance(value: T | None, kind: type[T], name: str) -> T:
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name} must be a {kind.__name__}, not {value!r}")
    return value


def _with_quorum(
    quorum: Quorum, client: Any, open_store: OpenTopology, lease: LeasePolicy, how: dict[str, Any]
) -> tuple[OpenTopology, list[Any]]:
    """The topology of a quorum, and the clients of masters that were made for it."""
    from .quorum.router import Quorum
    from .quorum.topology import QuorumTopology

    if not isinstance(quorum, Quorum):
        raise ConfigurationError(f"quorum must be a Quorum, such as Quorum(url, url, url), not {quorum!r}")
    quorum, made = quorum.connected(client_from_url, client)
    return partial(QuorumTopology, quorum, open_store, lease_ttl=lease.ttl, **how), made


def _engine(commit_by: str, reply_within: float, retry_for: float, client: Any, executor: Executor) -> Engine:
    """What commits without a lock, in one event loop."""
    if commit_by == "script":
        return ScriptEngine(executor)
    watch = WatchEngine(client, executor, reply_within=reply_within, retry_for=retry_for)
    return watch if commit_by == "watch" else whichever_works(executor, watch)


def _check_fit(wait: WaitPolicy, lease: LeasePolicy) -> None:
    """Tell who would be answered with an error for nothing but a worker that died."""
    patience = seconds_until_stop(wait.stop, 0.0)
    if wait.queues and patience < lease.ttl:
        log.warning(
            "a request waits %g s for its session, and the lease of a worker that died ends after %g s: until then its"
            " visitor's requests fail. Make the wait longer than LeasePolicy.ttl, or the ttl shorter",
            patience,
            lease.ttl,
        )


def _check_label(name: str | None) -> str:
    if name is None:
        return ""
    if not isinstance(name, str) or not name.isprintable() or len(name) > 120:
        raise ConfigurationError("a holder's name must be printable and at most 120 characters")
    return name
