"""What a guard hands out to hold locks with: a lock alone, one session, several at once.

The path from the grant to the release is in :mod:`.context`; here is what goes on while the body runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from types import TracebackType

from ..clock import monotonic
from ..errors import ConfigurationError, SessionLockError
from ..lease import Lease
from ..protocol.keys import SessionKeys
from ..protocol.record_calls import Inspect, Save
from ..protocol.replies import Conflict, Refused
from ..session.mapping import Session
from ..session.operations import StoredSession
from .context import MOST_MERGES, LockBlock, SessionLockBlock
from .observed import tell_refused
from .refusals import note

__all__ = ["LockContext", "SessionContext", "SessionsContext"]


class LockContext(LockBlock):
    """One use of a :class:`~sessionlock.Lock`."""

    async def extend(self, seconds: float | None) -> bool:
        """Returns False when it has been released meanwhile.

        Raises:
            LeaseLost, RedisUnavailable.
        """
        lease = self._lease
        extended = await self._runtime.watchdog.extend(lease, seconds)
        if lease.is_lost:
            raise self._loss(0)
        return extended

    async def __aenter__(self) -> Lease:
        lease, _ = await self._enter()
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        ended_by_loss = self._body.ended(error)
        lease = self._lease
        if lease.released or (error is not None and self._is_closed(error)):
            return
        failed = error is not None
        self._runtime.watchdog.forget(lease)  # a renewal that is under way would find that it has been given up
        try:
            outcome = await self._give_up([], "", cancelled=failed)
            refused = isinstance(outcome, Refused) and outcome.kind == "lost"
            fence = outcome.number if isinstance(outcome, Refused) else 0
            loss = self._loss(fence) if ended_by_loss or lease.is_lost or refused else None
        except SessionLockError as trouble:
            if failed and not ended_by_loss:
                note(error, trouble)
                return
            raise
        finally:
            self._finish()
        if loss is not None:
            if not failed or ended_by_loss:
                raise loss from None
            note(error, loss)


class SessionContext(SessionLockBlock):
    """Returned by :meth:`SessionGuard.session_lock` in mode ``lock``; one use. Does what its session asks for."""

    def sibling(self, sid: str, keys: SessionKeys) -> SessionContext:
        """The like for another session."""
        request = replace(self._request, keys=keys)
        how = self._how
        return SessionContext(self._find_runtime, request, sid, how, self._save_on_error, self._on_load)

    def waits_since(self, began: float) -> None:
        """Before entering: the time of the wait counts from then (monotonic)."""
        self._request = replace(self._request, began=began)

    @property
    def keys(self) -> SessionKeys:
        """The session's keys, by its newest id."""
        return self._request.keys

    async def discard(self) -> None:
        """Release without saving; any task may do it, and more than once."""
        if not self._lease.released:
            self._body.ended(None)
            await self._without_saving()

    # --- what the session asks for

    async def release(self) -> None:
        if not self._lease.released:
            self._body.ended(None)
            await self._save_and_release()

    def changed(self) -> None:
        """Save soon. Changes made before the task starts, in this tick, travel with the first."""
        if self._saving is None or (self._saving.done() and not _failed(self._saving)):
            self._saving = self._runtime.background(self._save_all())
            self._saving.add_done_callback(_failed)

    async def save(self) -> None:
        await self._saved_so_far()
        if self._session.modified:
            self.changed()
            await self._saved_so_far()

    async def _saved_so_far(self) -> None:
        """The body asks for it, and is told what it meets."""
        try:
            await self._saves_done()
        except Exception as error:
            tell_refused(self._runtime.observer, self._request, error)
            raise

    async def _save_all(self) -> None:
        """Save until nothing is left: what is changed meanwhile follows in the next call, in order."""
        session, lease = self._session, self._lease
        merges = 0
        merged: frozenset[bytes] = frozenset()
        while changes := session.data.changes():
            if lease.is_lost:
                raise self._loss(await self._highest_fence())
            call = Save(
                self._request.keys,
                lease.token,
                lease.fencing_token,
                session.created,
                self._how.policy,
                changes,
                measured=session.data.measured,
            )
            outcome, _ = await self._runtime.executor.save(call)
            if not isinstance(outcome, Conflict):
                self._saved(changes, outcome, merged)
                merged = frozenset()
                continue
            merges += 1
            if merges > MOST_MERGES:
                raise session.data.changed_too_often(MOST_MERGES)
            session.data.merge(outcome)
            merged |= frozenset(outcome.theirs)

    async def _highest_fence(self) -> int:
        return (await self._runtime.executor.run(Inspect(self._request.keys, waiters=False))).fence

    async def incr(self, key: str, by: int) -> int:
        await self._saved_so_far()
        session = self._session
        outcome = await self._stored.increment(key, by, lease=self._lease, created=session.created)
        return session.was_counted(key, outcome)

    async def regenerate(self, grace: float) -> str:
        new = await self._stored.regenerate(grace, lease=self._lease, loss=self._loss)
        self._request = replace(self._request, keys=new.keys)
        self._session.was_renewed(new.sid, new.safety)
        return new.sid

    @property
    def _stored(self) -> StoredSession:
        runtime, request = self._runtime, self._request
        return StoredSession(runtime.executor, request.keys, self._how, runtime.ended, runtime.observer, request.label)

    async def expire(self, ttl: float) -> bool:
        return await self._stored.expire(ttl)

    async def end_old_ids(self, grace: float) -> None:
        await self._stored.end_old_ids(grace, lease=None if self._lease.released else self._lease)

    async def destroy(self, *, replaced: bool = False) -> None:
        _, safety = await self._stored.destroy(replaced=replaced)
        self._body.ended(None)
        if not self._lease.released:
            await self._without_saving()
        self._session.close("was destroyed")
        if safety is not None:
            safety.raise_for_shortfall()


class SessionsContext:
    """Several sessions at once, ``async with guard.session_lock(a, b) as (first, second)``; all or none.

    The locks are taken in the order of their names in Redis, the same on every node: no deadlock. ``wait`` is for all
    together. They are saved and
    released one by one; the saves are not one transaction.
    """

    def __init__(self, contexts: Sequence[SessionContext]) -> None:
        self._contexts = {context.keys.digest: context for context in contexts}
        if len(self._contexts) < len(contexts):
            raise ConfigurationError("the same session was named twice; it cannot be locked twice at once")
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> tuple[Session, ...]:
        began = monotonic()
        for context in self._contexts.values():
            context.waits_since(began)
        async with AsyncExitStack() as stack:
            sessions = {name: await stack.enter_async_context(self._contexts[name]) for name in sorted(self._contexts)}
            self._stack = stack.pop_all()
        return tuple(sessions[name] for name in self._contexts)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, tb)


def _failed(save: asyncio.Task[None]) -> bool:
    """Whether a save ended badly; asking also tells asyncio that its error will be raised elsewhere."""
    return save.cancelled() or save.exception() is not None
