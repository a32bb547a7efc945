"""The guard: acquire – load – handle – save – release."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, overload

from tenacity import AsyncRetrying

from .codecs.base import Codec, default_codec
from .errors import ConfigurationError
from .lock.arguments import (
    MISSING,
    MODES,
    check_given,
    given_codec,
    given_lease,
    given_session,
    given_wait,
    one_of,
    this_kind,
    truth,
)
from .lock.blocks import SessionContext, SessionsContext
from .lock.by_hand import Lock
from .lock.holders import node_name
from .lock.one_store import OneStore
from .lock.operations import GuardOperations
from .lock.options import AttemptOptions, LockOptions, Missing, Mode, SharedOptions
from .lock.request import LockRequest, check_label
from .lock.runtime import Runtime, Runtimes
from .lock.topology import OpenTopology
from .observe import Observer, Observers
from .policies import LeasePolicy, Replicated, SessionPolicy, WaitPolicy, check_seconds, seconds_until_stop
from .protocol.keys import check_prefix, check_sid, keys_for, new_sid
from .session.commits import engine_for
from .session.mapping import Session
from .session.transaction import Attempt, attempts
from .session.unlocked import BeginningContext, Unlocked, UnlockedContext, UnlockedMode
from .transport.clients import check_client
from .urls import client_from_url

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from .quorum.config import Quorum

__all__ = ["GuardOptions", "SessionGuard"]

MOST_USUAL = 1024  # sessions whose requests are kept ready

log: logging.Logger = logging.getLogger("sessionlock")

T = TypeVar("T")


class GuardOptions(TypedDict, total=False):
    """What :class:`SessionGuard` takes beside its client; there they are explained."""

    prefix: str
    lease: LeasePolicy | None
    wait: WaitPolicy | float | None
    session: SessionPolicy | None
    codec: Codec | None
    label: str | None
    name: str | None  # its former name; for one release
    reply_within: float
    retry_for: float
    push_limit: int
    commit_by: Literal["auto", "script", "watch"]
    durability: Replicated | None
    check: bool | None
    quorum: Quorum | None
    observer: Observer | Sequence[Observer] | None


class SessionGuard(GuardOperations):
    """Guards the sessions that live in one Redis. Cheap to keep, safe to share between tasks.

    ``client`` is a ``redis.asyncio`` client; the guard opens two connections of its own from its settings (one for
    calls, one for pushes once somebody had to wait) and never closes the client. ``prefix`` begins every key.
    ``wait`` may be given in seconds. ``label``: what others see of this node (default host:pid). ``retry_for``: seconds
    during which a Redis that does not answer is tried again before :class:`~sessionlock.RedisUnavailable`;
    ``reply_within``: seconds for one reply. ``push_limit``: sessions larger than this many bytes are not pushed with
    a grant but loaded. ``commit_by``: how the modes without a lock save: ``"script"``, ``"watch"``
    (WATCH/MULTI/EXEC), or ``"auto"``. ``durability``: a :class:`~sessionlock.Replicated`, to wait for replicas.
    ``check``: whether each process looks once at the server (at every master of a Cluster or a quorum), beside its
    first call, logs what weakens a promise, and refuses a server that cannot do (default: yes, unless the environment
    has ``SESSIONLOCK_CHECK=0``).
    ``quorum``: a :class:`~sessionlock.Quorum` of independent masters that hold the locks; ``client`` then is the store
    of the sessions only. ``observer``: a function that is told what happens (:mod:`sessionlock.observe`), or several.
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
        label: str | None = None,
        reply_within: float = 2.0,
        retry_for: float = 4.5,
        push_limit: int = 65_536,
        commit_by: Literal["auto", "script", "watch"] = "auto",
        durability: Replicated | None = None,
        check: bool | None = None,
        quorum: Quorum | None = None,
        observer: Observer | Sequence[Observer] | None = None,
        name: str | None = None,
    ) -> None:
        check_client(client)
        self.lease_policy: LeasePolicy = LeasePolicy() if lease is None else given_lease(lease)
        self.wait_policy: WaitPolicy = WaitPolicy() if wait is None else given_wait(wait)
        _check_fit(self.wait_policy, self.lease_policy)
        check_prefix(prefix)
        check_seconds("reply_within", reply_within)
        check_seconds("retry_for", retry_for)
        if this_kind("push_limit", push_limit, int, "a number of bytes from 0 on") < 0:
            raise ConfigurationError(f"push_limit must be a number of bytes from 0 on, not {push_limit!r}")
        one_of("commit_by", commit_by, ("auto", "script", "watch"))
        if durability is not None:
            this_kind("durability", durability, Replicated, "a Replicated, such as Replicated(replicas=1)")
        if check is not None:
            truth("check", check)
        # What follows the first space of a holder's label is its route.
        self._label = check_label(name if label is None else label).replace(" ", "_")
        self._client = client
        self._owned: list[Any] = []  # clients that are ours to close
        self._usual_requests: dict[str, LockRequest] = {}
        self._usual_pid = os.getpid()
        told = Observers.of(observer)
        how: dict[str, Any] = {
            "prefix": prefix,
            "retry_for": retry_for,
            "observer": told,
            "check": os.environ.get("SESSIONLOCK_CHECK") != "0" if check is None else check,
        }
        topology: OpenTopology = partial(OneStore, client, reply_within=reply_within, durability=durability, **how)
        if quorum is not None:
            topology, self._owned = _with_quorum(quorum, client, topology, lease_ttl=self.lease_policy.ttl, **how)
        engine = partial(engine_for, commit_by, reply_within=reply_within, retry_for=retry_for)
        super().__init__(
            prefix=prefix,
            session_policy=SessionPolicy() if session is None else given_session(session),
            codec=default_codec() if codec is None else given_codec(codec),
            push_limit=push_limit,
            reply_within=reply_within,
            runtimes=Runtimes(partial(Runtime, topology, engine, told)),
        )

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
        twin = self._copy()
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
        label: str | None = None,
        expected_version: int | None = None,
        serializable: bool = False,
        codec: Codec | None = None,
        name: str | None = None,
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
        ``wait``: a policy, or seconds. ``save_on_error``: save also when the body raised. ``label``: shown to others as
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
        if not sids:
            raise ConfigurationError("session_lock() needs a session id")
        if mode != "lock" and len(sids) == 1:
            check_given({"lease": lease, "wait": wait, "label": label, "save_on_error": save_on_error})
            return self.unlocked(
                sids[0],
                mode,
                missing=missing,
                session=session,
                codec=codec,
                expected_version=expected_version,
                serializable=serializable,
            )
        if expected_version is not None:
            raise ConfigurationError(
                "expected_version is for the modes without a lock; under the lock nobody else saves"
            )
        if mode != "lock":
            raise ConfigurationError("several sessions are only held together in mode 'lock'")
        if serializable is not False and truth("serializable", serializable):
            raise ConfigurationError("serializable is for mode 'optimistic'; under the lock nobody else saves")
        if save_on_error is not False:
            truth("save_on_error", save_on_error)
        how = self._format if session is None and codec is None else self.format_of(session, codec)
        usual = lease is None and wait is None and label is None and name is None and session is None
        if usual and missing == "create":
            request = self._usual(sids[0])
        else:
            request = self._request(sids[0], how.policy, missing, lease, wait, name if label is None else label)
        first = SessionContext(self.runtime, request, sids[0], how, save_on_error, self.on_load)
        if len(sids) == 1:
            return first
        return SessionsContext([first, *(first.sibling(sid, self.keys_of(sid)) for sid in sids[1:])])

    def lock(
        self,
        lock_name: str,
        *,
        lease: LeasePolicy | None = None,
        wait: WaitPolicy | float | None = None,
        label: str | None = None,
        name: str | None = None,
    ) -> Lock:
        """``async with guard.lock(name) as lease``: only the lock, for storage of your own.

        Give ``lease.fencing_token`` to that storage, so that it can refuse an older holder.
        Raises as :meth:`session_lock` does. The :class:`~sessionlock.Lock` can be kept, and taken by hand.

        It may be a job's: held for a day at the most, and with 10,000 waiters, where the policies say nothing else. The
        name is told in messages; to Redis goes its hash.
        """
        return Lock(
            self.runtime,
            lock_name,
            self._request(lock_name, None, "create", lease, wait, name if label is None else label),
        )

    def lock_key(self, name: str) -> str:
        """The Redis key of ``guard.lock(name)``, and of the session with that id: a plain ``SET NX PX`` lock.

        For other clients (redis-py ``Lock``, pottery ``Redlock``) that are to exclude us and be excluded by us. The
        name itself never reaches Redis: the key has its hash.

        Raises:
            InvalidSessionId: not usable as a name.
        """
        return self.keys_of(name).lock.decode()

    def _usual(self, sid: str) -> LockRequest:
        """That for a session's id where nothing else is given, kept for the next time."""
        if self._usual_pid != os.getpid():
            self._usual_pid, self._usual_requests = os.getpid(), {}  # a fork has another name
        try:
            request = self._usual_requests.get(sid)
        except TypeError:
            request = None  # not even hashable: that is told below
        if request is None:
            request = self._request(sid, self.session_policy, "create", None, None, None)
            if len(self._usual_requests) >= MOST_USUAL:
                self._usual_requests.clear()
            self._usual_requests[sid] = request
        return request

    def _request(
        self,
        sid: str,
        session: SessionPolicy | None,
        missing: Missing,
        lease: LeasePolicy | None,
        wait: WaitPolicy | float | None,
        label: str | None,
    ) -> LockRequest:
        if missing not in MISSING:
            one_of("missing", missing, MISSING)
        node, label = self._label or node_name(), check_label(label)
        leases = self.lease_policy if lease is None else given_lease(lease)
        waits = self.wait_policy if wait is None else given_wait(wait)
        return LockRequest(
            keys=keys_for(self.prefix, check_sid(sid)),
            label=f"{node} {label}" if label else node,
            lease=leases if session is not None else leases.of_a_lock,
            wait=waits if session is not None else waits.of_a_lock,
            session=session,
            missing=missing,
            push_limit=self._push_limit,
            name="" if session is not None else sid,
            longest=waits.longest if waits.queues else self._reply_within,
        )

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
        check_given({"retry": retry})
        wanted = self._unlocked(sid, "optimistic", missing, session, None)
        return attempts(replace(wanted, serializable=True), retry)

    @overload
    async def transaction(
        self,
        sid: str,
        change: Callable[[Session], Awaitable[T]],
        **options: Unpack[AttemptOptions],
    ) -> T: ...

    @overload
    async def transaction(
        self,
        sid: str,
        change: Callable[[Session], T],
        **options: Unpack[AttemptOptions],
    ) -> T: ...

    async def transaction(
        self,
        sid: str,
        change: Callable[[Session], Any],
        **options: Unpack[AttemptOptions],
    ) -> Any:
        """Run ``change(session)`` without a lock and commit; when somebody else was faster, run it again on his state.

        It is serializable: what it read counts like what it wrote, absent keys too, and after iterating the set of
        keys. Keys declared ``last_write_wins`` are not compared.
        ``change`` may run several times: it should do nothing but change the session. Returns what it returned.
        Raises as :meth:`attempts` does.
        """
        if not callable(change):
            raise ConfigurationError(f"change must be a function of the session, not {change!r}")
        async for attempt in self.attempts(sid, **options):
            async with attempt as current:
                result = change(current)
                answer = await result if inspect.isawaitable(result) else result
        return answer

    async def read(self, sid: str) -> Session:
        """The session as it stands, without a lock and without waiting. It cannot be changed.

        Raises:
            SessionNotFound, SessionDestroyed, InvalidSessionId, RedisUnavailable, CodecError.
        """
        async with self.session_lock(sid, mode="read", missing="reject") as session:
            return session

    # --- for the integrations: the blocks of session_lock() that need no lock, with all that they can do

    def unlocked(
        self,
        sid: str,
        mode: UnlockedMode,
        *,
        missing: Missing = "create",
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
        truth("serializable", serializable)
        if expected_version is not None:
            this_kind("expected_version", expected_version, int, "a number, such as session.version")
        wanted = self._unlocked(sid, mode, missing, session, codec)
        return UnlockedContext(
            replace(wanted, expected_version=expected_version, serializable=serializable, yields=yields)
        )

    def _unlocked(
        self, sid: str, mode: UnlockedMode, missing: str, session: SessionPolicy | None, codec: Codec | None
    ) -> Unlocked:
        one_of("mode", mode, MODES)
        one_of("missing", missing, MISSING)
        return Unlocked(self, self.keys_of(sid), sid, self.format_of(session, codec), mode, missing)

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

    # --- life

    def runtime(self) -> Runtime:
        """This process' and event loop's part; a fork or another loop gets its own, and it ends with its loop."""
        loop = asyncio._get_running_loop()
        runtime = self._runtimes.latest
        if runtime is None or runtime.loop is not loop or self._runtimes.pid != os.getpid():
            runtime = self._runtimes.of(loop)
        return runtime

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


def _with_quorum(quorum: Quorum, client: Any, open_store: OpenTopology, **how: Any) -> tuple[OpenTopology, list[Any]]:
    """The topology of a quorum, and the clients of masters that were made for it."""
    from .quorum.config import Quorum
    from .quorum.topology import QuorumTopology

    if not isinstance(quorum, Quorum):
        raise ConfigurationError(f"quorum must be a Quorum, such as Quorum(url, url, url), not {quorum!r}")
    quorum, made = quorum.connected(client_from_url, client)
    return partial(QuorumTopology, quorum, open_store, **how), made


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
