"""What is done to a stored session at once, with its lock or without: create, count, rename, expire, destroy.

The session inside a block, the guard, and the Django face all use these; each operation is written here only.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from ..codecs.base import keeps_counters
from ..errors import ConfigurationError, SessionConflict, SessionLockError, SessionTooLarge, StaleFencingToken
from ..lease import Lease
from ..observe import ChangesRefused, Observer
from ..policies import Replication, check_seconds
from ..protocol.changes import Change
from ..protocol.keys import SessionKeys, keys_for, renewed_sid
from ..protocol.record_calls import Create, Destroy, Expire, Increment, Regenerate
from ..protocol.replies import Committed, Conflict, Refused, Snapshot, refusal
from ..transport.calling import Executor
from .data import SessionFormat, field_of

__all__ = ["NewId", "StoredSession"]

LARGEST_STEP = 10**15 - 1
MOST_GRACE = 86_400


class NewId(NamedTuple):
    """``safety``: on how many replicas the session has it, where that is waited for."""

    sid: str
    keys: SessionKeys
    safety: Replication | None


P = ParamSpec("P")
R = TypeVar("R")


def told(
    work: Callable[Concatenate[StoredSession, P], Awaitable[R]],
) -> Callable[Concatenate[StoredSession, P], Coroutine[Any, Any, R]]:
    """What it is refused is told to the observer."""

    @wraps(work)
    async def doing(stored: StoredSession, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await work(stored, *args, **kwargs)
        except SessionLockError as error:
            if stored.observer is not None and not isinstance(error, ConfigurationError):
                stored.observer(ChangesRefused(stored.keys.digest, stored.label, error))
            raise

    return doing


@dataclass(frozen=True, slots=True)
class StoredSession:
    """One session in the store, and what is needed to change it there. ``lease``: under which a method is called.
    ``on_end`` is told when it was destroyed, and the digest of whose it was; ``observer`` of what was refused to whom
    has that ``label``.
    """

    executor: Executor
    keys: SessionKeys
    how: SessionFormat
    on_end: Callable[[SessionKeys, str], None] | None = None
    observer: Observer | None = None
    label: str = ""

    @told
    async def create(self, changes: list[Change]) -> tuple[Snapshot, Replication | None]:
        """Store a new record.

        Raises:
            SessionConflict: there is one, or there was a short while ago.
        """
        outcome, safety = await self.executor.save(Create(self.keys, self.how.policy, changes))
        if not isinstance(outcome, Snapshot):
            digest = self.keys.digest
            raise SessionConflict(f"session {digest} exists already; it was not overwritten").about(digest)
        return outcome, safety

    @told
    async def increment(self, key: str, by: int, *, lease: Lease | None = None, created: str = "") -> Committed:
        """Add ``by`` to an integer, in Redis. ``created``: the stamp of the record that was loaded, or :data:`NEW`.

        Raises:
            SessionConflict: not an integer. SessionNotFound, SessionDestroyed. StaleFencingToken: the lock was lost.
            SessionTooLarge: the key's name is too long, or the session has no room for another key.
            ConfigurationError: the codec hides numbers, or ``by`` is not a whole number of at most 15 digits.
        """
        codec, policy = self.how.codec, self.how.policy
        if not keeps_counters(codec):
            raise ConfigurationError(
                f"codec {codec.name} does not store integers as digits; Redis cannot count in them"
            )
        if type(by) is not int or abs(by) > LARGEST_STEP:
            raise ConfigurationError(f"a counter is moved by a whole number of at most 15 digits, not {by!r}")
        change = Change("i", field_of(key), b"%d" % by, "*")
        size = len(change.field) + len(change.value)
        if size > policy.max_field:
            raise self._too_large(key, size, policy.max_field, "max_field")
        call = Increment(self.keys, _holder(lease), created, policy, change)
        outcome, _ = await self.executor.save(call)
        digest = self.keys.digest
        if isinstance(outcome, Committed):
            return outcome
        if isinstance(outcome, Conflict):
            raise SessionConflict(
                f"session {digest}: {key!r} is not an integer of at most 15 digits; nothing was changed", keys=(key,)
            ).about(digest)
        if outcome.kind == "lost":
            raise StaleFencingToken(
                f"the lock of {digest} was lost; the counter was not moved",
                ours=lease.fencing_token if lease else 0,
                current=outcome.number,
            ).about(digest)
        if outcome.kind == "large":
            raise self._too_large(key, None, policy.max_session, "max_session")
        raise refusal(digest, outcome.kind)

    def _too_large(self, key: str, size: int | None, limit: int, name: str) -> SessionTooLarge:
        digest = self.keys.digest
        what = f"counting in {key[:80]!r} would make it larger than SessionPolicy.{name} = {limit}"
        return SessionTooLarge(
            f"session {digest}: {what}; nothing was changed", keys=(key,), size=size, limit=limit
        ).about(digest)

    @told
    async def regenerate(
        self, grace: float, *, lease: Lease | None = None, loss: Callable[[int], Exception] | None = None
    ) -> NewId:
        """Give the session a new id. The old one works ``grace`` seconds longer.

        Raises:
            SessionNotFound, SessionDestroyed, RedisUnavailable; ``loss`` makes the error for a lease that was lost.
        """
        check_seconds("grace", grace, least=0)
        if grace > MOST_GRACE:
            raise ConfigurationError(f"grace must be 0 to {MOST_GRACE} seconds, not {grace!r}")
        sid = renewed_sid(self.keys)
        keys = keys_for(self.keys.prefix, sid)
        call = Regenerate(self.keys, keys.proof, int(grace * 1000), _holder(lease))
        refused, safety = await self.executor.save(call)
        if refused is not None and refused.kind == "lost" and loss is not None:
            raise loss(refused.number)
        if refused is not None:
            raise refusal(self.keys.digest, refused.kind)
        return NewId(sid, keys, safety)

    async def end_old_ids(self, grace: float, *, lease: Lease | None = None) -> None:
        """Ids that were replaced before work only ``grace`` seconds longer, whatever time they were given."""
        grace_ms = math.ceil(grace * 1000)
        await self.executor.run(Regenerate(self.keys, self.keys.proof, grace_ms, _holder(lease)))

    @told
    async def expire(self, ttl: float) -> bool:
        """Let the record end ``ttl`` seconds from now, sooner or later than it would. Returns whether the id is the
        current one.

        Raises:
            SessionNotFound, SessionDestroyed, RedisUnavailable.
        """
        outcome = await self.executor.run(Expire(self.keys, math.ceil(ttl * 1000)))
        if isinstance(outcome, Refused):
            raise refusal(self.keys.digest, outcome.kind)
        return outcome.current

    @told
    async def destroy(self, *, replaced: bool = False, durably: bool = True) -> tuple[bool, Replication | None]:
        """End the session at once, whoever holds its lock. Returns whether there was one.

        ``replaced``: a new session has taken its place, and whoever still comes with its id is told that.
        ``durably``: wait for replicas, where the guard does so at all.
        """
        call = Destroy(self.keys, self.how.policy, replaced=replaced)
        outcome, safety = await self.executor.save(call) if durably else (await self.executor.run(call), None)
        if outcome.user and self.on_end is not None:
            self.on_end(self.keys, outcome.user)
        return outcome.existed, safety


def _holder(lease: Lease | None) -> tuple[str, int] | None:
    """As the protocol names who holds the lock."""
    return None if lease is None else (lease.token, lease.fencing_token)
