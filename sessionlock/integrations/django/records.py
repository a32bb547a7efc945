"""One stored session as a request uses it: held under its lock, or free. Coroutines, each complete in itself.

Nothing here knows of Django. All calls on a held record must come from the event loop that opened it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from ...errors import SessionNotFound
from ...guard import SessionGuard
from ...policies import LeasePolicy, SessionPolicy
from ...selfcalls.check import refusing
from ...selfcalls.nesting import held_here
from ...selfcalls.sockets import Client
from ...session.block import SessionBlock
from ...session.mapping import Session
from ...session.unlocked import UnlockedContext, UnlockedMode, check_unchanged
from ..web.rules import RequestMode

__all__ = ["FreeRecord", "HeldRecord", "Opening", "Record", "create", "empty", "exists"]

SHORTEST = 0.01  # seconds; what lives shorter is not stored at all


@dataclass(frozen=True, slots=True)
class Opening:
    """How a record is opened. ``on_loss`` is called when the lease is lost. ``client``: who asks. ``yields``: without
    the lock, nothing is committed that its holder could meet as a conflict.
    """

    policy: SessionPolicy
    mode: RequestMode
    options: Mapping[str, Any]
    label: str | None = None
    on_loss: Callable[[], object] | None = None
    client: Client | None = None
    yields: bool = False

    async def open(self, guard: SessionGuard, sid: str) -> Record:
        """Raises :class:`~sessionlock.SessionNotFound` for an id that is not known, and what session_lock() raises."""
        if self.mode == "lock":
            return await HeldRecord.open(guard, sid, self)
        mode: UnlockedMode = "optimistic" if self.mode == "off" else self.mode
        yields = self.yields and held_here(guard, sid) is None  # or the holder would wait for itself
        return await FreeRecord.open(guard, sid, self.policy, mode, yields=yields)


class Dropped(Exception):
    """Told to a lock's context so that it releases without saving."""


class HeldRecord:
    """A session under its lock."""

    mode: RequestMode = "lock"

    def __init__(self, guard: SessionGuard, block: SessionBlock, session: Session, policy: SessionPolicy) -> None:
        self._guard = guard
        self._block = block
        self._policy = policy
        self._entered = True
        self.session = session
        self.outdated: bool = block.outdated
        self.over: bool = False

    @classmethod
    async def open(cls, guard: SessionGuard, sid: str, how: Opening) -> HeldRecord:
        options = dict(how.options)
        lease: LeasePolicy = options.get("lease") or guard.lease_policy
        options["lease"] = replace(lease, on_lost="flag")  # who changed nothing may go on
        block: Any = guard.session_lock(sid, missing="reject", session=how.policy, label=how.label, **options)
        block.when_waiting(refusing(how.client))
        session = await block.__aenter__()
        assert session.lease is not None
        session.stay_open()
        if lease.on_lost == "cancel" and how.on_loss is not None:
            session.lease.when_lost(how.on_loss)
        return cls(guard, block, session, how.policy)

    def at(self, guard: SessionGuard) -> HeldRecord:
        """It stays with the loop that took the lock."""
        return self

    def afterwards(self, guard: SessionGuard) -> FreeRecord:
        """The same session without the lock, which has been given up: for what uses it when the answer has begun."""
        block = guard.unlocked(self.session.sid, "optimistic", missing="reject", session=self._policy)
        block.take_over(self.session)
        return FreeRecord(block, self.outdated)

    async def save(self, ttl: float) -> None:
        """Save what changed, let it live ``ttl`` seconds from now, and keep the lock."""
        await _both(self.live(ttl), self.session.save())

    async def finish(self, ttl: float) -> None:
        """Save what changed and give the lock up: one round trip."""
        self.over = True
        await _both(self.live(ttl), self.session.release())

    async def drop(self) -> None:
        """Give the lock up without saving."""
        error = Dropped()
        await self.leave(type(error), error, None)

    async def leave(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        """Leave the lock's context, once. Raises :class:`~sessionlock.LeaseLost` if that is what ended the body."""
        self.over = True
        if self._entered:
            self._entered = False
            await self._block.__aexit__(kind, error, tb)

    async def renew(self, grace: float) -> str:
        return await self.session.regenerate(grace=grace)

    async def incr(self, key: str, by: int) -> int:
        return await self.session.incr(key, by)

    async def destroy(self) -> None:
        self.over = True
        await self.session.destroy()

    async def live(self, ttl: float) -> None:
        """Let it live ``ttl`` seconds from now."""
        await self._block.expire(ttl)


class FreeRecord:
    """A session without a lock: read, or committed if nobody else changed the same; otherwise merged or refused."""

    def __init__(self, block: UnlockedContext, outdated: bool = False) -> None:
        self._block = block
        self.mode: RequestMode = block.mode
        self.session: Session = block.session
        self.outdated: bool = outdated
        self.over: bool = False

    @classmethod
    async def open(
        cls, guard: SessionGuard, sid: str, policy: SessionPolicy, mode: UnlockedMode, *, yields: bool = False
    ) -> FreeRecord:
        block = guard.unlocked(sid, mode, missing="reject", session=policy, yields=yields)
        await block.__aenter__()
        return cls(block, block.outdated)

    def at(self, guard: SessionGuard) -> FreeRecord:
        """The same for the guard of another event loop."""
        self._block.move_to(guard)
        return self

    def yield_no_more(self) -> None:
        """Rather disturb the holder of the lock than meet a conflict: its request cannot run again."""
        self._block.yield_no_more()

    async def save(self, ttl: float) -> None:
        await _both(self.live(ttl), self._block.save())

    async def finish(self, ttl: float) -> None:
        """The same: it has no lock to give up, and may be used on."""
        await self.save(ttl)

    async def live(self, ttl: float) -> None:
        """Let it live ``ttl`` seconds from now."""
        await self._block.expire(ttl)

    async def drop(self) -> None:
        """The request is over and nothing is saved.

        Raises:
            ReadOnlySession: it was opened for reading only, and a value was changed deep inside.
        """
        if self.mode == "read":
            check_unchanged(self.session)

    async def renew(self, grace: float) -> str:
        return await self._block.regenerate(grace)

    async def incr(self, key: str, by: int) -> int:
        if key in self.session.changed_keys():
            await self._block.save()
        return await self._block.incr(key, by)

    async def destroy(self) -> None:
        self.over = True
        await self._block.destroy()


Record = HeldRecord | FreeRecord


async def create(
    guard: SessionGuard, sid: str | None, data: Mapping[str, Any], policy: SessionPolicy, ttl: float
) -> FreeRecord:
    """Store a new session that lives ``ttl`` seconds; its values stay the very objects of ``data``.

    Raises:
        SessionConflict: there is one of that id. InvalidSessionId, CodecError, SessionTooLarge, RedisUnavailable.
    """
    block = guard.beginning("optimistic", policy, sid=sid)
    block.begin().update(data)
    await block.create(idle=max(ttl, SHORTEST))
    return FreeRecord(block)


def empty(guard: SessionGuard, policy: SessionPolicy) -> Session:
    """What a request that only reads sees when there is no session."""
    return guard.beginning("read", policy).begin()


async def exists(guard: SessionGuard, sid: str, policy: SessionPolicy) -> bool:
    """Whether there is a session of this id."""
    try:
        await guard.unlocked(sid, "read", missing="reject", session=policy).__aenter__()
    except SessionNotFound:
        return False
    return True


async def _both(expiry: Coroutine[Any, Any, None], save: Coroutine[Any, Any, None]) -> None:
    """Both calls of one tick travel in one pipeline. What the save raises comes first."""
    outcomes: Sequence[BaseException | None] = await asyncio.gather(expiry, save, return_exceptions=True)
    for outcome in reversed(outcomes):
        if outcome is not None:
            raise outcome
