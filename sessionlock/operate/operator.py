"""What whoever runs an application may see and do: held locks, queues, sessions; take a lock, log somebody out."""

from __future__ import annotations

import asyncio
import random
import string
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

from ..codecs.base import Codec, default_codec
from ..errors import ConfigurationError, RedisUnavailable
from ..guard import SessionGuard
from ..policies import SessionPolicy
from ..protocol.keys import SessionKeys, check_prefix, check_sid, field_name, key_of_field, user_digest, user_key
from ..protocol.record_calls import Destroy, ForceRelease, Inspect
from ..session.user_index import leave_index
from ..transport.calling import Executor
from ..transport.clients import check_client, client_kind, close_client
from ..transport.executor import RedisExecutor
from ..urls import client_from_url
from .reading import (
    about_lock,
    about_session,
    about_waiters,
    digest_in,
    digest_of_key,
    digest_of_sid,
    is_name,
    keys_named,
    lock_state,
    lock_told,
    pattern,
    session_state,
    with_waiters,
)
from .shards import NOT_TOLD, Shard, Shards, Words, as_bytes
from .told import Inspection, LocksSeen, LockState, SessionField, SessionsCounted, SessionState

__all__ = ["LOCKS", "Found", "Operator"]

T = TypeVar("T")
ANSWERS_WITHIN = 2.0  # seconds
AT_ONCE = 100  # sessions that are read together
MOST_FIELDS = 10_000
LOCKS = "[lq]*"  # the parts of a lock, and of its queue: of keys
PROBES = 40  # keys by which a node that has but a part of all is found out: of 40, one with half has all once in 10^12
ENTRIES = 500  # of a user's index in one reply


class Found(NamedTuple):
    """One step of a search: digests at ``shard``, and the ``share`` of all keys that was looked at so far. A digest
    may come twice.
    """

    shard: Shard
    digests: list[str]
    share: float


class Operator:
    """Looks at the sessions and locks of one Redis (or what Sentinel names, or a Cluster), and acts on them by digest.

    ``client``: a ``redis.asyncio`` client, which is not used itself: connections of its own are made like its. No guard
    is needed, nor any process of the application. ``prefix``, ``codec``, ``policy``: as the application's guard has
    them; the codec is needed for values only. ``executor``, ``voters``: what :meth:`of` a guard finds there. For one
    event loop.

    What only looks uses plain read commands, none of which takes Redis long, however many sessions there are. All
    methods raise :class:`~sessionlock.RedisUnavailable` where there is no answer, or a refusal, with what to do;
    :class:`~sessionlock.ConfigurationError` for what is no digest.
    """

    def __init__(
        self,
        client: Any,
        *,
        prefix: str = "sl",
        codec: Codec | None = None,
        policy: SessionPolicy | None = None,
        reply_within: float = ANSWERS_WITHIN,
        executor: Executor | None = None,
        voters: Sequence[Any] = (),
    ) -> None:
        check_client(client)
        self.prefix: str = check_prefix(prefix)
        self.codec: Codec = default_codec() if codec is None else codec
        self._policy = SessionPolicy() if policy is None else policy
        self._client = client
        self._reply_within = reply_within
        self._shards = Shards(client, reply_within=reply_within)
        self._voters = [Shards(voter, reply_within=reply_within) for voter in voters]
        self._calls = executor
        self._own_calls = executor is None
        self._owned: list[Any] = []
        self._guard: SessionGuard | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        prefix: str = "sl",
        codec: Codec | None = None,
        policy: SessionPolicy | None = None,
        reply_within: float = ANSWERS_WITHIN,
    ) -> Operator:
        """With a client of its own, which :meth:`aclose` closes. Raises :class:`~sessionlock.ConfigurationError`."""
        made = cls(client_from_url(url), prefix=prefix, codec=codec, policy=policy, reply_within=reply_within)
        made._owned.append(made._client)
        return made

    @classmethod
    def of(cls, guard: SessionGuard, *, prefix: str | None = None, codec: Codec | None = None) -> Operator:
        """For what this guard keeps, in the running event loop; the guard is not closed with it. ``prefix``, ``codec``:
        where they are not the guard's.
        """
        runtime = guard.runtime()
        made = cls(
            runtime.topology.client,
            prefix=guard.prefix if prefix is None else prefix,
            codec=guard.codec if codec is None else codec,
            policy=guard.session_policy,
            executor=runtime.executor,
            voters=runtime.topology.voters,
        )
        made._guard = guard  # what it opens ends with it, and nobody else may keep it
        return made

    @property
    def name(self) -> str:
        """Where it connects to, without a password."""
        return self._shards.name

    def digest(self, named: str, *, is_id: bool = False) -> str:
        """The digest of the session that is named by its digest, by one of its keys, or by its id.

        What looks like a digest is taken for one, unless it is said that it ``is_id``.
        Raises :class:`~sessionlock.InvalidSessionId`; :class:`~sessionlock.ConfigurationError` for a key of another
        prefix.
        """
        return (None if is_id else digest_in(named, self.prefix)) or digest_of_sid(self.prefix, check_sid(named))

    def is_digest(self, named: str) -> bool:
        """Whether :meth:`digest` takes it for a digest or a key, and not for an id. Raises as that does."""
        return digest_in(named, self.prefix) is not None

    # --- searching

    async def _sized(self, *, of_locks: bool) -> tuple[list[Shard], list[int]]:
        """Where to search, and how many keys are there. Of a quorum's masters those that answer, as long as most do:
        what is held is held at most of them.
        """
        shards = await self._shards.all()
        sizes = [await shard.size() for shard in shards]
        silent: list[RedisUnavailable] = []
        for voter in self._voters if of_locks else ():
            try:
                [shard] = await voter.all()
                sizes.append(await shard.size())
                shards.append(shard)
            except RedisUnavailable as error:
                silent.append(error)
        if silent and 2 * len(silent) >= len(self._voters):
            raise silent[0]
        return shards, sizes

    async def search(self, parts: str) -> AsyncGenerator[Found, None]:
        """Sessions that have keys of those ``parts`` (``"lock"``, ``"session"``, or a pattern), step by step."""
        await self._check_that_all_is_seen()
        shards, sizes = await self._sized(of_locks=parts == LOCKS)
        total, before = max(1, sum(sizes)), 0
        for shard, size in zip(shards, sizes, strict=True):
            looked_at = 0
            async for step in shard.scan(pattern(self.prefix, parts)):
                looked_at += step.looked_at
                digests = [digest for key in step.keys if (digest := digest_of_key(key)) is not None]
                # SCAN tells no more of how far it came.
                yield Found(shard, digests, min(0.99, (before + min(looked_at, size)) / total))
            before += size
        yield Found(shards[-1], [], 1.0)

    async def _check_that_all_is_seen(self) -> None:
        """Raises :class:`~sessionlock.RedisUnavailable`: this is a node of a Cluster by ``redis://``. SCAN would show
        its own part as if it were all; any other command says where a key is.
        """
        if client_kind(self._client) != "cluster":
            named = ("".join(random.choices(string.ascii_lowercase, k=14)) for _ in range(PROBES))
            [shard] = await self._shards.all()
            await shard.ask([("PTTL", keys_named(self.prefix, digest).session) for digest in named])

    async def locks(
        self, *, within: float | None = None, most: int = 1000, on_step: Callable[[float], object] | None = None
    ) -> LocksSeen:
        """Who holds a lock, and who waits. Looks through all keys, for ``within`` seconds at the most, and until it
        found more than ``most`` sessions. ``on_step`` is told the share of the keys that was looked at so far.
        """
        began_at, found, share = time.monotonic(), {}, 0.0
        async for step in self.search(LOCKS):
            share = step.share
            found.update(dict.fromkeys(step.digests, step.shard))
            if on_step is not None:
                on_step(share)
            if len(found) > most or (within is not None and time.monotonic() - began_at > within):
                break
        states = await self._lock_states(found)
        seen = [state for state in states.values() if state.holder is not None or state.queue]
        return LocksSeen(tuple(seen), share, await self.keys(), full=len(found) > most)

    async def count(
        self,
        *,
        within: float | None = None,
        sample: int = 1000,
        on_step: Callable[[float], object] | None = None,
    ) -> SessionsCounted:
        """How many sessions there are, how large and how old. Looks through all keys, for ``within`` seconds at the
        most; sizes and ages are those of a random ``sample``. ``on_step``: as :meth:`locks` has it.
        """
        began_at, share, seen = time.monotonic(), 0.0, 0
        chosen: list[tuple[str, Shard]] = []
        async for step in self.search("session"):
            share = step.share
            for digest in step.digests:
                seen += 1
                place = len(chosen) if len(chosen) < sample else random.randrange(seen)
                if place < sample:
                    chosen[place : place + 1] = [(digest, step.shard)]
            if on_step is not None:
                on_step(share)
            if within is not None and time.monotonic() - began_at > within:
                break
        states = await self._session_states(dict(chosen))
        return SessionsCounted(seen, share, await self.keys(), tuple(states.values()))

    async def keys(self) -> int:
        """How many keys there are in the database, of whatever kind; 0 where that may not be asked."""
        return sum([await shard.size() for shard in await self._shards.all()])

    # --- sessions that are known

    async def inspect(self, digest: str) -> Inspection:
        """One session's lock, queue and record."""
        keys = keys_named(self.prefix, digest)
        at = {digest: await self._shards.of(keys.session)}
        locks, sessions = await self._lock_states(at), await self._session_states(at)
        nothing = LockState(digest, None, 0, 0, 0)
        gone = SessionState(digest, False, False, 0, None, None, None, 0, None, "")
        return Inspection(locks.get(digest, nothing), sessions.get(digest, gone))

    async def lock_states(self, digests: Iterable[str]) -> dict[str, LockState]:
        """The locks of these sessions now, also where nobody holds one."""
        return await self._lock_states(await self._at(digests))

    async def session_states(self, digests: Iterable[str]) -> dict[str, SessionState]:
        """The records of these sessions, also where there is none."""
        return await self._session_states(await self._at(digests))

    async def sessions_of(self, user: str, *, is_digest: bool = False) -> tuple[SessionState, ...]:
        """The live sessions of a user, as the application bound them; the youngest first.

        Raises :class:`~sessionlock.ConfigurationError` where no user is named.
        """
        if not user:
            raise ConfigurationError("the user is empty: name one as the application does where it binds a session")
        digest = user if is_digest else user_digest(user)
        index = user_key(self.prefix, digest)
        shard, names, place = await self._shards.of(index), list[str](), 0
        while True:
            [entries] = await shard.ask([("ZRANGE", index, place, place + ENTRIES - 1)])
            if entries is NOT_TOLD or not entries:
                break
            names += [as_bytes(entry).decode(errors="replace") for entry in entries]
            place += ENTRIES
        states = await self.session_states(name for name in names if is_name(name))
        theirs = [state for state in states.values() if state.exists and state.user == digest]
        return tuple(sorted(theirs, key=lambda state: state.age or 0.0))

    async def fields(self, digest: str) -> tuple[SessionField, ...]:
        """The keys of a session and how large their values are, without the values; the first 10,000 of them."""
        return (await self.fields_from(digest, 0, MOST_FIELDS))[0]

    async def fields_from(self, digest: str, begin: int, most: int) -> tuple[tuple[SessionField, ...], int]:
        """``most`` of its keys in their order, beginning with number ``begin``; and how many there are. Redis sends no
        value, only the names of all and the sizes of these.
        """
        keys = keys_named(self.prefix, digest)
        shard = await self._shards.of(keys.session)
        [reply] = await shard.ask([("HKEYS", keys.session)])
        names = () if reply is NOT_TOLD else map(as_bytes, reply)
        there = sorted((key, name) for name in names if (key := key_of_field(name)) is not None)
        shown = there[begin : begin + most]
        sizes = await shard.ask([("HSTRLEN", keys.session, name) for _, name in shown])
        known = zip(shown, sizes, strict=True)
        return tuple(SessionField(key, int(size)) for (key, _), size in known if size is not NOT_TOLD), len(there)

    async def values(self, digest: str, wanted: Sequence[str]) -> dict[str, Any]:
        """These keys of a session with their values, read by the codec; those that it does not have are left out.

        Raises:
            CodecError: a value of another codec.
        """
        keys = keys_named(self.prefix, digest)
        if not wanted:
            return {}
        shard = await self._shards.of(keys.session)
        [found] = await shard.ask([("HMGET", keys.session, *(field_name(key) for key in wanted))])
        if found is NOT_TOLD:
            return {}
        return {
            key: self.codec.decode(key, as_bytes(value))
            for key, value in zip(wanted, found, strict=True)
            if value is not None
        }

    # --- acting

    async def release(self, digest: str, token: str) -> bool:
        """Take the lock from the holder with that token: the next waiter gets it, and that holder's late save is
        refused. Returns False when that token does not hold it any more.
        """
        calls = self._executor()
        return await calls.run(ForceRelease(keys_named(self.prefix, digest), token, deaf=calls.deaf)) == "released"

    async def destroy(self, digest: str) -> bool:
        """End a session at once, whoever holds its lock: its visitor is logged out, a late save is refused. Returns
        whether there was one.
        """
        keys = keys_named(self.prefix, digest)
        outcome = await self._executor().run(Destroy(keys, self._policy))
        if outcome.user:
            await leave_index(self._client, keys, outcome.user)
        return outcome.existed

    async def destroy_all(self, user: str, *, is_digest: bool = False) -> int:
        """Log a user out everywhere; returns how many sessions were ended.

        Raises:
            RedisUnavailable: one of them could not be ended, nor perhaps others; all that could are.
        """
        theirs, ended, failed = await self.sessions_of(user, is_digest=is_digest), 0, list[RedisUnavailable]()
        for state in theirs:
            try:
                ended += await self.destroy(state.digest)
            except RedisUnavailable as error:
                failed.append(error)
        if failed:
            said = f"{ended} of {len(theirs)} sessions were ended, {len(failed)} may live on: {failed[0]}"
            raise RedisUnavailable(said) from failed[0]
        return ended

    def _executor(self) -> Executor:
        if self._calls is None:
            self._calls = RedisExecutor(self._client, reply_within=self._reply_within, retry_for=self._reply_within)
        return self._calls

    # --- life

    async def learn_anew(self) -> None:
        """Ask again which masters there are, the next time: one of them does not answer any more."""
        await self._shards.learn_anew()

    async def aclose(self) -> None:
        """Close what it opened."""
        for shards in (self._shards, *self._voters):
            await shards.aclose()
        if self._own_calls and self._calls is not None:
            calls, self._calls = self._calls, None
            await calls.aclose()
        owned, self._owned = self._owned, []
        for client in owned:
            await close_client(client)

    async def __aenter__(self) -> Operator:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- reading many

    @property
    def _quorum(self) -> Executor | None:
        """By which the masters of a quorum are asked; None: there is none."""
        return None if isinstance(self._calls, RedisExecutor) else self._calls

    async def _at(self, digests: Iterable[str]) -> dict[str, Shard]:
        return {digest: await self._shards.of(keys_named(self.prefix, digest).session) for digest in digests}

    async def _lock_states(self, at: dict[str, Shard]) -> dict[str, LockState]:
        quorum, found = self._quorum, dict[str, LockState]()
        if quorum is not None:
            for _, digests in _batches(at):
                calls = (quorum.run(Inspect(keys_named(self.prefix, digest))) for digest in digests)
                told = await asyncio.gather(*calls)
                found.update({digest: lock_told(digest, seen) for digest, seen in zip(digests, told, strict=True)})
            return found
        for shard, digests in _batches(at):
            replies = await self._ask_each(shard, digests, about_lock)
            now = await shard.now()
            waiting = {}
            for digest in digests:
                seen = lock_state(digest, replies[digest], now)
                if seen is not None:
                    found[digest], tokens = seen
                    if tokens:
                        waiting[digest] = tokens
            records = await shard.ask(
                [
                    about_waiters(keys_named(self.prefix, digest), [token for token, _ in tokens])
                    for digest, tokens in waiting.items()
                ]
            )
            for (digest, tokens), record in zip(waiting.items(), records, strict=True):
                found[digest] = with_waiters(found[digest], tokens, record)
        return found

    async def _session_states(self, at: dict[str, Shard]) -> dict[str, SessionState]:
        found: dict[str, SessionState] = {}
        for shard, digests in _batches(at):
            replies = await self._ask_each(shard, digests, about_session)
            now = await shard.now()
            states = [session_state(digest, replies[digest], now) for digest in digests]
            found.update({state.digest: state for state in states if state is not None})
        return found

    async def _ask_each(
        self, shard: Shard, digests: Sequence[str], about: Callable[[SessionKeys], list[Words]]
    ) -> dict[str, list[Any]]:
        commands = [about(keys_named(self.prefix, digest)) for digest in digests]
        replies = iter(await shard.ask([command for these in commands for command in these]))
        return {digest: [next(replies) for _ in these] for digest, these in zip(digests, commands, strict=True)}


def _batches(at: dict[str, Shard]) -> Iterable[tuple[Shard, list[str]]]:
    by_shard: dict[Shard, list[str]] = {}
    for digest, shard in at.items():
        by_shard.setdefault(shard, []).append(digest)
    for shard, digests in by_shard.items():
        for begin in range(0, len(digests), AT_ONCE):
            yield shard, digests[begin : begin + AT_ONCE]
