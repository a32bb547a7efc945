"""Renews leases: one timer per guard, one call for all leases that are due, no task while nothing is due."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextvars import Context
from typing import Any

from .. import observe
from ..errors import RedisUnavailable
from ..lease import Lease
from ..observe import Observer
from ..policies import LeasePolicy
from ..protocol.calls import Renew
from ..protocol.keys import SessionKeys
from ..transport.calling import Executor
from ..transport.tasks import fetch_error
from .request import LockRequest

__all__ = ["Watchdog"]

RENEWALS_PER_LEASE = 3  # two of three may fail before a lease is lost
MOST_PER_CALL = 100  # a script must not occupy Redis for long


class Watched:
    """A lease and when to look after it next."""

    __slots__ = ("due", "ended", "keys", "label", "lease", "policy")

    def __init__(self, lease: Lease, request: LockRequest) -> None:
        self.lease: Lease = lease
        self.keys: SessionKeys = request.keys
        self.label: str = request.label
        self.policy: LeasePolicy = request.lease
        self.ended: bool = False  # renewed up to max_hold: nothing more is to be had
        self.due: float = self._next(time.monotonic())

    def _next(self, now: float) -> float:
        """A third of what is left from now; the very end when nothing is to be renewed any more."""
        lease = self.lease
        if not self.renewable(now):
            return lease.trusted_until
        return min(now + (lease.trusted_until - now) / RENEWALS_PER_LEASE, lease.trusted_until)

    def renewable(self, now: float) -> bool:
        # A claim is confirmed whatever `renew` says: that is how a handed-over lease gets its full time.
        wanted = (self.policy.renew and not self.ended) or not self.lease.confirmed
        return wanted and now < self.lease.hold_until and now < self.lease.trusted_until

    def ttl_ms(self, now: float) -> int:
        return max(1, min(self.policy.ttl_ms, int((self.lease.hold_until - now) * 1000)))

    def prolong(self, now: float, seconds: float | None) -> int:
        """Let it last so long from now, at the least; the ttl in ms that Redis is to be told."""
        lease, policy = self.lease, self.policy
        renewed = policy.renew
        wanted = (policy.max_hold if renewed else policy.ttl) if seconds is None else seconds
        lease.hold_longer(now + wanted)
        # Redis' lease ends a margin after our trust in it, and must not become shorter.
        least = max(0.0, lease.trusted_until - now) + policy.margin
        ttl = max(least, min(policy.ttl, lease.hold_until - now) if renewed else wanted)
        return math.ceil(ttl * 1000)

    def reschedule(self) -> None:
        self.due = self._next(time.monotonic())


class Watchdog:
    """Looks after the leases of one guard in one event loop."""

    def __init__(
        self, executor: Executor, background: Callable[[Any], asyncio.Task[Any]], observer: Observer | None = None
    ) -> None:
        self._observer = observer
        self._executor = executor
        self._background = background
        self._watched: dict[str, Watched] = {}
        self._timer: asyncio.TimerHandle | None = None
        # The renewals under way, by group. One at a time: a late one would shorten what the next has gained.
        self._renewing: dict[object, asyncio.Task[Any]] = {}

    def watch(self, lease: Lease, request: LockRequest) -> None:
        watched = self._watched[lease.token] = Watched(lease, request)
        self._arm(watched.due)

    def forget(self, lease: Lease) -> None:
        self._watched.pop(lease.token, None)

    async def extend(self, lease: Lease, seconds: float | None) -> bool:
        """Renew it now, and let it last ``seconds`` from now (None: as a new one), but never less than it does already.

        Returns False when it is over: released, or lost, which then the lease knows.

        Raises:
            RedisUnavailable: no answer; a lease that is renewed may last so long all the same.
        """
        watched = self._watched.get(lease.token)
        if watched is None:
            return False
        group = self._executor.group(watched.keys, lease.token)
        while (under_way := self._renewing.get(group)) is not None and not under_way.done():
            await asyncio.wait([under_way])
        extending = self._renewing[group] = self._background(self._extend(group, watched, seconds))
        extending.add_done_callback(fetch_error)
        await asyncio.shield(extending)
        return self._watched.get(lease.token) is watched

    async def _extend(self, group: object, watched: Watched, seconds: float | None) -> None:
        try:
            asked_at = time.monotonic()
            ttl_ms = watched.prolong(asked_at, seconds)
            (answer,) = await self._executor.run(Renew([(watched.keys, watched.lease.token, ttl_ms)]))
            if answer is None:
                raise RedisUnavailable(f"whether the lock {watched.lease.name} lasts longer is unknown")
            self._answered(watched, ttl_ms, answer, asked_at)
        finally:
            self._renewed(group, [watched])

    def taken(self, token: str) -> None:
        """A push told that this lease was taken away by force."""
        watched = self._watched.pop(token, None)
        if watched is not None:
            watched.lease.mark_lost("it was force-released")

    def close(self) -> None:
        """Stop, unless a request is still inside a block: its lease is renewed to its end."""
        if self._timer is not None and not self._watched:
            self._timer.cancel()
            self._timer = None

    def _arm(self, due: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, due - time.monotonic())
        if self._timer is not None:
            if self._timer.when() <= at:
                return
            self._timer.cancel()
        self._timer = loop.call_at(at, self._look, context=Context())

    def _look(self) -> None:
        """Timer: declare lost what ran out, renew what is due, set the timer for the rest."""
        self._timer = None
        now = time.monotonic()
        due: dict[object, list[Watched]] = {}
        look_at = float("inf")
        for watched in list(self._watched.values()):
            if now >= watched.lease.trusted_until:
                self._lost(watched, now)
            elif now >= watched.due:
                due.setdefault(self._executor.group(watched.keys, watched.lease.token), []).append(watched)
                # A renewal that hangs must not keep leases from running out; it sets the next timer itself.
                look_at = min(look_at, watched.lease.trusted_until)
            else:
                look_at = min(look_at, watched.due)
        for group in due.keys() - self._renewing.keys():
            self._renewing[group] = self._background(self._renew(group, due[group]))
        if self._watched:
            self._arm(look_at)

    def _lost(self, watched: Watched, now: float) -> None:
        self.forget(watched.lease)
        if watched.policy.renew and (watched.ended or now >= watched.lease.hold_until):
            watched.lease.mark_lost(f"it was held for LeasePolicy.max_hold = {watched.policy.max_hold:g} s")
        elif watched.policy.renew:
            watched.lease.mark_lost("it could not be renewed in time")
        else:
            watched.lease.mark_lost(f"its {watched.policy.ttl:g} s ended and it is not renewed (renew=False)")

    async def _renew(self, group: object, due: list[Watched]) -> None:
        """Of leases that one call can name: all of one Redis, those of one slot of a Cluster."""
        try:
            for start in range(0, len(due), MOST_PER_CALL):
                await self._renew_some(due[start : start + MOST_PER_CALL])
        finally:
            self._renewed(group, due)

    def _renewed(self, group: object, leases: list[Watched]) -> None:
        """Whatever came of it: look again when the next is due."""
        self._renewing.pop(group, None)
        for watched in leases:
            watched.reschedule()
        if self._watched:
            self._arm(min(watched.due for watched in self._watched.values()))

    async def _renew_some(self, due: list[Watched]) -> None:
        now = time.monotonic()
        wanted = [(watched, watched.ttl_ms(now)) for watched in due if watched.renewable(now)]
        if not wanted:
            return
        asked_at = time.monotonic()
        call = Renew([(watched.keys, watched.lease.token, ttl_ms) for watched, ttl_ms in wanted])
        try:
            answers = await self._executor.run(call)
        except RedisUnavailable:
            return  # the timer declares the lease lost when its time is over
        for (watched, ttl_ms), answer in zip(wanted, answers, strict=True):
            self._answered(watched, ttl_ms, answer, asked_at)

    def _answered(self, watched: Watched, ttl_ms: int, answer: int | None, asked_at: float) -> None:
        """``answer`` None: a quorum whose masters did not answer; the timer declares the lease lost in its time."""
        if self._watched.get(watched.lease.token) is not watched or answer is None:
            return  # it has ended, or is being given up, so that Redis need not know it any more
        if answer == 0:
            self.forget(watched.lease)
            watched.lease.mark_lost("Redis does not know it any more (it lapsed, was force-released, or Redis lost it)")
        else:
            watched.lease.extended(asked_at, ttl_ms / 1000)
            watched.ended = ttl_ms < watched.policy.ttl_ms
            if self._observer is not None:
                self._observer(observe.LockRenewed(watched.keys.digest, watched.label, ttl_ms / 1000))
