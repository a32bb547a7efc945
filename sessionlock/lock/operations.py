"""What a guard does to stored sessions at once, outside of any block: for applications and administrators."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ..checkup.findings import Capabilities
from ..codecs.base import Codec
from ..errors import InvalidSessionId, SessionConflict
from ..observe import Event
from ..policies import SessionPolicy, check_seconds
from ..protocol.keys import SessionKeys, check_sid, keys_for, new_sid
from ..protocol.record_calls import ForceRelease, Inspect
from ..protocol.replies import EMPTY, Snapshot
from ..session.data import SessionFormat
from ..session.mapping import Session
from ..session.operations import StoredSession
from ..session.user_index import UserIndex
from .arguments import given_codec, given_session, this_kind
from .inspection import SessionInfo, session_info
from .runtime import Runtime, Runtimes

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["GuardOperations"]


class GuardOperations:
    """The part of :class:`~sessionlock.SessionGuard` that needs neither a block nor a lock."""

    def __init__(
        self,
        *,
        prefix: str,
        session_policy: SessionPolicy,
        codec: Codec,
        push_limit: int,
        reply_within: float,
        runtimes: Runtimes,
    ) -> None:
        self.prefix = prefix
        self.session_policy = session_policy
        self.codec = codec
        self._format = SessionFormat(codec, session_policy)
        self._push_limit = push_limit
        self._reply_within = reply_within
        self._runtimes = runtimes
        runtimes.end_with(self)

    def _copy(self) -> Self:
        """With connections of its own."""
        twin = copy.copy(self)
        twin._runtimes = self._runtimes.twin()
        twin._runtimes.end_with(twin)
        return twin

    def runtime(self) -> Runtime:
        """That of the running event loop."""
        raise NotImplementedError

    def keys_of(self, sid: str) -> SessionKeys:
        """Raises :class:`~sessionlock.InvalidSessionId`."""
        return keys_for(self.prefix, check_sid(sid))

    def format_of(self, session: SessionPolicy | None = None, codec: Codec | None = None) -> SessionFormat:
        """How a session is written; None: as the guard has it."""
        return SessionFormat(
            self.codec if codec is None else given_codec(codec),
            self.session_policy if session is None else given_session(session),
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
        how = self.format_of(session, codec)
        if data is not None:
            this_kind("data", data, Mapping, "a mapping")
        for _ in range(3):
            chosen = check_sid(sid) if sid is not None else new_sid()
            keys = keys_for(self.prefix, chosen)
            if not keys.proof.startswith("p:"):
                raise InvalidSessionId(
                    "an id that regenerate() gave out names its own session; it cannot begin another"
                )
            draft = Session(chosen, keys.digest, EMPTY, how)
            draft.update(data or {})
            runtime = self.runtime()
            stored = StoredSession(runtime.executor, keys, how, observer=runtime.observer)
            try:
                snapshot, safety = await stored.create(draft.data.changes())
            except SessionConflict as error:
                taken = error
                if sid is not None:
                    break
                continue
            if safety is not None:
                safety.raise_for_shortfall()
            unlocked = "was not loaded under a lock"
            return Session(chosen, keys.digest, snapshot, how, read_only=unlocked, saved=safety)
        raise taken

    async def incr(self, sid: str, key: str, by: int = 1) -> int:
        """Add ``by`` to an integer of an existing session, atomically and without the lock; returns the new value.

        Raises:
            SessionNotFound, SessionDestroyed, InvalidSessionId, RedisUnavailable.
            SessionConflict: what is stored there is not an integer. ConfigurationError: the codec hides numbers.
        """
        this_kind("by", by, int, "a whole number")
        outcome = await self._stored(sid).increment(key, by)
        if outcome.safety is not None:
            outcome.safety.raise_for_shortfall()
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
        keys = self.keys_of(sid)
        return self._stored_at(keys)

    def _stored_at(self, keys: SessionKeys) -> StoredSession:
        runtime = self.runtime()
        return StoredSession(runtime.executor, keys, self.format_of(), runtime.ended, runtime.observer)

    async def destroy(self, sid: str) -> bool:
        """End the session at once, whoever holds its lock: waiters are told, a late save is refused.

        Returns whether there was one. The id stays refused for ``SessionPolicy.tombstone`` seconds.
        """
        existed, safety = await self._stored(sid).destroy()
        if safety is not None:
            safety.raise_for_shortfall()
        return existed

    def tell(self, event: Event) -> None:
        """What a face has refused by itself, for observers: soon, in the event loop where this guard was used last. Any
        thread may ask.
        """
        runtime = self._runtimes.latest
        if runtime is not None and runtime.observer is not None and not runtime.loop.is_closed():
            runtime.loop.call_soon_threadsafe(runtime.observer, event)

    async def inspect(self, sid: str) -> SessionInfo:
        """Who holds the session, for how long already, and who waits. Changes nothing."""
        return await self._seen(self.keys_of(sid))

    async def _seen(self, keys: SessionKeys) -> SessionInfo:
        return session_info(keys, await self.runtime().executor.run(Inspect(keys)))

    async def force_release(self, sid: str, token: str) -> bool:
        """Take the lock from the holder that :meth:`inspect` showed; its late save will be refused.

        Returns False when that token holds it no more: of ten concurrent calls one wins.
        """
        keys = self.keys_of(sid)
        this_kind("token", token, str, "the token that inspect() showed")
        runtime = self.runtime()
        call = ForceRelease(keys, token, deaf=runtime.deaf)
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
        reached in this process, a failure is logged at ERROR like the beginning of any outage, and its end is. Until it
        was seen it also looks at what the server is (``check``): a replica, or a user who may too little, is not ready.
        A server that runs no scripts is, for the modes without a lock.

        Raises:
            RedisUnavailable: they cannot, and why.
        """
        check_seconds("timeout", timeout)
        runtime = self.runtime()
        await runtime.executor.ready(timeout)
        await runtime.topology.fit(timeout)
        return True

    # --- a user's sessions

    async def bind(self, sid: str, user: str) -> None:
        """Note whose session this is, for :meth:`sessions_of` and :meth:`destroy_all`. ``user=""`` unbinds it.

        Raises:
            SessionNotFound, SessionDestroyed, InvalidSessionId, RedisUnavailable.
        """
        await self._users().bind(self.keys_of(sid), _known_by(user))

    async def sessions_of(self, user: str) -> list[SessionInfo]:
        """The user's live sessions. Entries of sessions that are gone are taken out of the index on the way."""
        return [await self._seen(keys) for keys in await self._users().records(_known_by(user))]

    async def destroy_all(self, user: str, *, keep: str | None = None) -> int:
        """Log the user out everywhere (except ``keep``, a session id); returns how many sessions were ended."""
        spared = self.keys_of(keep).digest if keep is not None else None
        ended = 0
        for keys in await self._users().records(_known_by(user)):
            if keys.digest != spared:
                existed, _ = await self._stored_at(keys).destroy(durably=False)
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

    def on_load(self, keys: SessionKeys, snapshot: Snapshot) -> None:
        """A session was loaded: keep its entry in the index of users alive, beside the request."""
        if b"#user" in snapshot.fields and self._users().overdue(snapshot):
            self.runtime().background(self._users().enter_again(keys, snapshot))


def _known_by(user: Any) -> str:
    return this_kind("user", user, str, "what the user is known by, as a str")
