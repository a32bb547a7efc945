"""Holding a lock: from the grant through the body to the one call that saves, unlocks and hands on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from weakref import proxy

from .. import observe
from ..errors import LeaseLost, RedisUnavailable, SessionLockError
from ..lease import Lease
from ..protocol.calls import Release
from ..protocol.changes import Change
from ..protocol.keys import SessionKeys
from ..protocol.replies import Committed, Conflict, Refused, Saved, Snapshot, outdated
from ..session.block import Actions, used_twice, used_up
from ..session.data import SessionFormat
from ..session.mapping import Session
from ..transport.tasks import fetch_error
from .holders import Handle, LockBody, lease_of
from .observed import acquire_observed, tell_refused
from .refusals import forked, lease_lost, not_saved, note
from .request import LockRequest, OnWait
from .runtime import Runtime
from .waiting import Waiter

log: logging.Logger = logging.getLogger("sessionlock")

__all__ = ["MOST_MERGES", "LockBlock", "SessionLockBlock"]

# How often in a row writers without a lock may be faster than a holder's save. More often than they give up themselves,
# for the others who want the lock wait for this save.
MOST_MERGES = 100
NOTHING: frozenset[bytes] = frozenset()


class LockBlock(Handle):
    """What ``async with guard.lock`` and ``guard.session_lock`` have in common: one acquisition, one lease."""

    def __init__(self, runtime: Callable[[], Runtime], request: LockRequest) -> None:
        self._find_runtime = runtime
        self._request = request
        self._entered = False
        self._on_wait: OnWait | None = None
        self._rider: Waiter | None = None  # who was named with the release
        self._lease: Lease
        self._runtime: Runtime
        self._state = b""  # the session's #state, as it was loaded
        self._body: LockBody

    def when_waiting(self, ask: OnWait | None, /) -> None:
        """Before entering: what is asked once when others hold the lock. It may find a reason not to wait for them."""
        self._on_wait = ask

    async def _enter(self) -> tuple[Lease, Snapshot]:
        if self._entered:
            raise used_twice()
        self._entered = True
        runtime = self._runtime = self._find_runtime()
        request = self._request
        if runtime.observer is None:
            runtime.holders.check(request)
            asked, acquisition = request, runtime.topology.acquisition(runtime, request, self._on_wait)
            granted = await acquisition.run()
        else:
            asked, acquisition, granted = await acquire_observed(runtime, runtime.observer, request, self._on_wait)
        lease = self._lease = lease_of(request, acquisition.token, granted, runtime.observer)
        body = self._body = LockBody(runtime.holders, request.keys.lock, lease, asked.label, runtime.loop)
        runtime.holders.add(body)
        runtime.watchdog.watch(lease, request)
        body.enter_context()
        if request.lease.on_lost == "cancel":
            body.cancel_when_lost()
        self._state = granted.loaded.fields.get(b"#state", b"")
        return lease, granted.loaded

    def gives_back(self, lease: Lease) -> bool:
        return getattr(self, "_lease", None) is lease

    def __del__(self) -> None:
        # Entered, dropped, and left by nobody: then nobody else can give the lock back any more.
        lease: Lease | None = getattr(self, "_lease", None)
        if lease is not None and not lease.released:
            log.warning("the block that held the lock of %s was dropped and never left", self._request.digest)
            self._runtime.give_back(self._drop)

    async def _drop(self) -> None:
        if not self._lease.released:
            self._body.ended(None)
            try:
                await self._give_up([], "", cancelled=True)
            finally:
                self._finish()

    def _is_closed(self, error: BaseException) -> bool:
        """Whether the block's coroutine is being closed, which must not wait for anything. It is left all the same."""
        if not isinstance(error, GeneratorExit):
            return False
        self._runtime.background(self._drop()).add_done_callback(fetch_error)
        return True

    async def _give_up(self, changes: list[Change], created: str, *, cancelled: bool = False) -> Saved:
        """One release call, seen through to its end even when this task is cancelled meanwhile."""
        call = self._release(changes, created)
        self._lease.mark_leaving()
        if cancelled:
            return await self._runtime.see_through(self._to_the_end(call)) or Committed(None)
        try:
            executor = self._runtime.executor
            if changes and executor.waits:
                return self._given_up((await executor.save(call))[0])
            return self._given_up(await executor.run(call))
        except BaseException as error:
            if not isinstance(error, SessionLockError):
                await self._runtime.see_through(self._to_the_end(call))
            elif isinstance(error, RedisUnavailable):
                await self._abandon_later(error)
            raise

    async def _abandon_later(self, error: RedisUnavailable) -> None:
        """Released or not, this body is over. Once Redis is back nobody should wait for the end of its lease."""
        self._rode(None)
        if not error.refused:
            request, runtime = self._request, self._runtime
            token = self._lease.token
            await runtime.see_through(runtime.abandon(request.keys, token), wait=False)

    def _release(self, changes: list[Change], created: str) -> Release:
        lease, request, runtime = self._lease, self._request, self._runtime
        wakeup, keys, token = runtime.wakeup, request.keys, lease.token
        weight, measured = self._size()
        carries = weight <= request.push_limit
        wakeup.has_weight(keys.digest, large=not carries)
        rider, reads = None, False
        if wakeup.waiting:
            rider = self._rider = wakeup.rider(keys)
            reads = carries and request.session is not None and wakeup.is_waited_for(keys)
        return Release(
            keys,
            token,
            lease.fencing_token,
            runtime.executor.numbers.acquisitions.low(keys.digest, token),
            created,
            request.session,
            changes,
            runtime.deaf,
            wakeup.pushes.channel(keys),
            carries,
            reads,
            measured,
            "" if rider is None else rider.is_named(self._body.label),
            self._state,
        )

    def _rode(self, outcome: Saved | None) -> None:
        rider, self._rider = self._rider, None
        if rider is not None:
            self._runtime.wakeup.rode(rider, outcome)

    def _size(self) -> tuple[int, int | None]:
        """About how many bytes of a session a push would have to carry; and ``measured``, as
        :class:`~sessionlock.protocol.calls.Release` has it.
        """
        return 0, None

    def _given_up(self, outcome: Saved) -> Saved:
        """What a release came to; the waiter of this process that was granted with it is told."""
        self._rode(outcome)
        if isinstance(outcome, Conflict):
            if outcome.fence:
                self._lease.refenced(outcome.fence)
            return outcome
        if outcome.handover is not None:
            self._runtime.take_handover(self._request.keys, outcome.handover, self._body.label)
        elif isinstance(outcome, Committed) and outcome.repeated:
            self._runtime.wakeup.look_all(self._request.keys)  # the first reply, with a grant perhaps, was lost
        return outcome

    async def _to_the_end(self, call: Release) -> Saved:
        """The release of a caller that is being cancelled: on its way already or not, repeating it is safe.

        A conflict keeps the lock, and nobody is left to merge: then it is given up without saving.
        """
        try:
            outcome = self._given_up(await self._runtime.executor.run(call))
            if isinstance(outcome, Conflict):
                outcome = self._given_up(await self._runtime.executor.run(self._release([], "")))
        except RedisUnavailable as error:
            await self._abandon_later(error)
            raise
        return outcome

    def _finish(self) -> None:
        lease, runtime, body = self._lease, self._runtime, self._body
        runtime.watchdog.forget(lease)
        runtime.holders.remove(body)
        if runtime.observer is not None and not lease.released:  # after a refused save it is left once more
            runtime.observer(observe.LockReleased(lease.digest, self._request.label, lease.age()))
        lease.mark_released()
        body.leave_context()
        runtime.executor.numbers.acquisitions.end(lease.digest, lease.token)
        # A session that is kept refers to its block: a guard that is dropped then should not live on with it.
        self._find_runtime = used_up

    def _loss(self, fence: int) -> LeaseLost:
        lease = self._lease
        lease.mark_lost(lease.lost_because or "Redis does not know it any more")
        return lease_lost(lease, fence)


class SessionLockBlock(LockBlock, Actions):
    """The lock around load – handle – save. What its session asks for in between is in :mod:`.blocks`."""

    def __init__(
        self,
        runtime: Callable[[], Runtime],
        request: LockRequest,
        sid: str,
        how: SessionFormat,
        save_on_error: bool,
        on_load: Callable[[SessionKeys, Snapshot], None],
    ) -> None:
        super().__init__(runtime, request)
        self._on_load = on_load
        self._sid = sid
        self._how = how
        self._save_on_error = save_on_error
        self._session: Session
        self._saving: asyncio.Task[None] | None = None
        self.outdated: bool = False
        """Whether it was opened by an id that has been replaced."""

    async def __aenter__(self) -> Session:
        lease, snapshot = await self._enter()
        try:
            session = Session(self._sid, lease.name, snapshot, self._how, self, self._runtime.at_home, lease)
        except BaseException:
            await self._give_up([], "", cancelled=True)
            self._finish()
            raise
        self._session = session
        self.outdated = outdated(self._request.keys, snapshot)
        if b"#user" in snapshot.fields:
            self._on_load(self._request.keys, snapshot)
        del self._on_load
        return session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._body.is_left_by_a_fork:  # the body's own exception comes first
            self._lease.mark_released()
            self._finish()
            if error is None:
                raise forked(self._request.digest)
            return
        ended_by_loss = self._body.ended(error)
        if error is not None:
            self._session.forget_what_nobody_awaited()
        try:
            if self._lease.released or (error is not None and self._is_closed(error)):
                return
            if error is None:
                if self._session.is_owed:
                    await self._session.do_what_nobody_awaited()
                if not self._lease.released:
                    await self._save_and_release()
            elif ended_by_loss:
                fence = await self._without_saving()
                raise tell_refused(self._runtime.observer, self._request, self._loss(fence)) from None
            else:
                try:
                    if self._save_on_error and isinstance(error, Exception):
                        await self._save_and_release()
                    else:
                        await self._without_saving()
                except SessionLockError as trouble:
                    note(error, trouble)
        finally:
            if self._lease.released:
                # They refer to each other. Who uses the session still has it; else it need not wait for the collector.
                self._session = proxy(self._session)

    def _size(self) -> tuple[int, int | None]:
        session: Session | None = getattr(self, "_session", None)  # not yet, where what was loaded is not readable
        return (0, None) if session is None else (session.data.weight, session.data.measured)

    # --- the last moment

    async def _save_and_release(self) -> None:
        """One call that saves the delta, unlocks and hands on; merged and tried again on conflict."""
        session = self._session
        kept = True
        try:
            if self._lease.lost_because is not None:
                kept = False
                raise self._loss(await self._without_saving())
            if self._saving is not None:
                await self._saves_done()
            session.close("is being saved and released")
            merged = NOTHING
            for _ in range(MOST_MERGES):
                changes = session.data.changes()
                outcome = await self._give_up(session.data.in_time(changes), session.data.created)
                if not isinstance(outcome, Conflict):
                    kept = False
                    return self._saved(changes, outcome, merged)
                session.data.merge(outcome)
                merged |= frozenset(outcome.theirs)
            raise session.data.changed_too_often(MOST_MERGES)
        except Exception as error:
            tell_refused(self._runtime.observer, self._request, error)
            if kept and (not isinstance(error, RedisUnavailable) or error.refused):
                await self._without_saving()  # nothing was saved and the lock is still ours to give up
            raise
        finally:
            self._end()

    async def _saves_done(self) -> None:
        """Wait for the save under way; raises its error, once. A cancelled waiter does not stop the save."""
        saving = self._saving
        if saving is None:
            return
        await asyncio.wait([saving])
        if self._saving is saving:
            self._saving = None
            saving.result()

    def _saved(self, changes: list[Change], outcome: Committed | Refused, merged: frozenset[bytes]) -> None:
        """``merged``: the keys among them that others had changed, too."""
        if isinstance(outcome, Committed):
            self._session.was_saved(changes, outcome)
            if changes and self._runtime.observer is not None:
                keys, label = self._request.keys, self._request.label
                observe.tell_saved(
                    self._runtime.observer, keys.digest, label, len(changes), outcome.version, len(merged)
                )
        elif outcome.kind == "lost":
            raise self._loss(outcome.number)
        elif outcome.kind == "large":
            raise self._session.data.outgrown(changes)
        elif changes or outcome.kind in ("destroyed", "dead"):
            raise not_saved(self._request.digest, outcome.kind)

    async def _without_saving(self) -> int:
        """Release; returns the highest fencing token seen when the lock was not ours any more."""
        try:
            outcome = await self._give_up([], "", cancelled=True)
        finally:
            self._end()
        return outcome.number if isinstance(outcome, Refused) else 0

    def _end(self) -> None:
        self._finish()
        self._session.close("was saved and released already")
