"""Renews leases: one timer per guard, one call for all leases that are due, no task while nothing is due."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import Context
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any

from .. import observe
from ..clock import monotonic
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
MOST_GROUPS = 32  # calls are begun in one go; then it is the turn of others in this loop
MOST_AT_ONCE = 500  # leases are looked at
MOST_LEFT_BEHIND = 64  # entries of leases that are over, beside as many as are not


class Watched:
    """A lease and when to look after it next."""

    __slots__ = ("due", "forgotten", "keys", "label", "lease", "policy")

    def __init__(self, lease: Lease, request: LockRequest, due: float) -> None:
        self.lease: Lease = lease
        self.keys: SessionKeys = request.keys
        self.label: str = request.label
        self.policy: LeasePolicy = request.lease
        self.forgotten: bool = False
        self.due: float = due

    def next_look(self, now: float) -> float:
        return next_look(self.lease, self.policy, now)

    def renewable(self, now: float) -> bool:
        return is_renewed(self.lease, self.policy) and self.lease.renewal(now) > 0

    def ttl_ms(self, now: float) -> int:
        return max(1, math.ceil(self.lease.renewal(now) * 1000))

    def prolong(self, now: float, seconds: float | None) -> int:
        """Let it last so long from now, at the least; the ttl in ms that Redis is to be told."""
        lease, policy = self.lease, self.policy
        renewed = policy.renew
        wanted = (policy.longest if renewed else policy.ttl) if seconds is None else seconds
        lease.hold_longer(now + wanted)
        # Redis' lease ends a margin after our trust in it, and must not become shorter.
        least = max(0.0, lease.ends - now) + policy.margin
        return math.ceil(1000 * max(least, lease.renewal(now) if renewed else wanted))


def is_renewed(lease: Lease, policy: LeasePolicy) -> bool:
    # A claim is confirmed whatever `renew` says: that is how a handed-over lease gets its full time.
    return policy.renew or not lease.confirmed


def next_look(lease: Lease, policy: LeasePolicy, now: float) -> float:
    """A third of what is left from now; the very end when nothing is to be renewed any more."""
    ends = lease.ends
    return now + (ends - now) / RENEWALS_PER_LEASE if now < ends and is_renewed(lease, policy) else ends


class Agenda:
    """The leases that were there when somebody looked, in the order in which they are due."""

    def __init__(self) -> None:
        self._sorted: list[tuple[float, int, Watched]] = []
        self._number = count()
        self._living = 0  # of those that are sorted

    def add(self, watched: Watched) -> None:
        self._living += 1
        self.put(watched)

    def forget(self, watched: Watched) -> None:
        watched.forgotten = True
        self._living -= 1
        if len(self._sorted) > 2 * self._living + MOST_LEFT_BEHIND:
            self._sorted = [entry for entry in self._sorted if _counts(entry)]
            heapify(self._sorted)

    def put(self, watched: Watched) -> None:
        """When it is due has changed."""
        heappush(self._sorted, (watched.due, next(self._number), watched))

    def first(self) -> Watched | None:
        """Which is due first."""
        while self._sorted:
            entry = self._sorted[0]
            if _counts(entry):
                return entry[2]
            heappop(self._sorted)
        return None

    def take(self) -> None:
        """The one that is due first has had its turn."""
        heappop(self._sorted)


def _counts(entry: tuple[float, int, Watched]) -> bool:
    """Whether it is watched still, and due then still."""
    due, _, watched = entry
    return not watched.forgotten and watched.due == due


class Watchdog:
    """Looks after the leases of one guard in one event loop."""

    def __init__(
        self, executor: Executor, background: Callable[[Any], asyncio.Task[Any]], observer: Observer | None = None
    ) -> None:
        self._observer = observer
        self._executor = executor
        self._background = background
        # By token. Most leases are over before anybody looks at them: those are only noted, with when they are due.
        self._fresh: dict[str, tuple[Lease, LockRequest, float]] = {}
        self._watched: dict[str, Watched] = {}
        self._agenda = Agenda()
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0  # when the timer fires
        # The renewals under way, by group, and who was due meanwhile. One at a time: a late one would shorten what the
        # next has gained.
        self._renewing: dict[object, asyncio.Task[Any]] = {}
        self._late: dict[object, list[Watched]] = {}

    def watch(self, lease: Lease, request: LockRequest) -> None:
        due = next_look(lease, request.lease, monotonic())
        self._fresh[lease.token] = (lease, request, due)
        if self._timer is None or due < self._looks_at:
            self._arm(due)

    def forget(self, lease: Lease) -> None:
        if self._fresh.pop(lease.token, None) is None:
            watched = self._watched.pop(lease.token, None)
            if watched is not None:
                self._agenda.forget(watched)

    def _known(self) -> dict[str, Watched]:
        """All that are watched."""
        for token, fresh in self._fresh.items():
            watched = self._watched[token] = Watched(*fresh)
            self._agenda.add(watched)
        self._fresh.clear()
        return self._watched

    async def extend(self, lease: Lease, seconds: float | None) -> bool:
        """Renew it now, and let it last ``seconds`` from now (None: as a new one), but never less than it does already.

        Returns False when it is over: released, or lost, which then the lease knows.

        Raises:
            RedisUnavailable: no answer; a lease that is renewed may last so long all the same.
        """
        watched = self._known().get(lease.token)
        if watched is None:
            return False
        group = self._executor.group(watched.keys, lease.token)
        while (under_way := self._renewing.get(group)) is not None and not under_way.done():
            await asyncio.wait([under_way])
        extending = self._renewing[group] = self._background(self._extend(group, watched, seconds))
        extending.add_done_callback(fetch_error)
        await asyncio.shield(extending)
        return not watched.forgotten

    async def _extend(self, group: object, watched: Watched, seconds: float | None) -> None:
        try:
            asked_at = monotonic()
            ttl_ms = watched.prolong(asked_at, seconds)
            (answer,) = await self._executor.run(Renew([(watched.keys, watched.lease.token, ttl_ms)]))
            if answer is None:
                raise RedisUnavailable(f"whether {watched.lease.title} lasts longer is unknown")
            self._answered(watched, ttl_ms, answer, asked_at)
        finally:
            self._renewed(group, [watched])

    def taken(self, token: str) -> None:
        """A push told that this lease was taken away by force."""
        watched = self._known().get(token)
        if watched is not None:
            self.forget(watched.lease)
            watched.lease.mark_lost("it was force-released")

    def close(self) -> None:
        """Stop, unless a request is still inside a block: its lease is renewed to its end."""
        if self._timer is not None and not self._known():
            self._timer.cancel()
            self._timer = None

    def _arm(self, due: float) -> None:
        if self._timer is not None and self._looks_at <= due:
            return
        self._looks_at = due
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, due - monotonic())
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(at, self._look, context=Context())

    def _look(self) -> None:
        """Timer: declare lost what ran out, renew what is due, set the timer for the rest."""
        self._timer = None
        self._known()
        now = monotonic()
        due: dict[object, list[Watched]] = {}
        looked_at = 0
        while (watched := self._agenda.first()) is not None and watched.due <= now:
            if len(due) == MOST_GROUPS or looked_at == MOST_AT_ONCE:
                break
            looked_at += 1
            self._agenda.take()
            if now >= watched.lease.ends:
                self._lost(watched)
                continue
            # A renewal that hangs must not keep the lease from running out. The renewal itself sets the next time.
            watched.due = watched.lease.ends
            self._agenda.put(watched)
            if not watched.renewable(now):
                continue
            group = self._executor.group(watched.keys, watched.lease.token)
            (self._late if group in self._renewing else due).setdefault(group, []).append(watched)
        for group, members in due.items():
            self._renewing[group] = self._background(self._renew(group, members))
        if watched is not None:
            self._arm(watched.due)

    def _lost(self, watched: Watched) -> None:
        self.forget(watched.lease)
        if watched.lease.was_held_longest:
            watched.lease.mark_lost(f"it was held for LeasePolicy.max_hold = {watched.policy.longest:g} s")
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
        now = monotonic()
        for watched in self._late.pop(group, ()):
            self._look_again(watched, now)
        for watched in leases:
            self._look_again(watched, watched.next_look(now))

    def _look_again(self, watched: Watched, at: float) -> None:
        if not watched.forgotten:
            watched.due = at
            self._agenda.put(watched)
            self._arm(at)

    async def _renew_some(self, due: list[Watched]) -> None:
        now = monotonic()
        wanted = [(watched, watched.ttl_ms(now)) for watched in due if watched.renewable(now)]
        if not wanted:
            return
        asked_at = monotonic()
        call = Renew([(watched.keys, watched.lease.token, ttl_ms) for watched, ttl_ms in wanted])
        try:
            answers = await self._executor.run(call)
        except RedisUnavailable:
            return  # the timer declares the lease lost when its time is over
        for (watched, ttl_ms), answer in zip(wanted, answers, strict=True):
            self._answered(watched, ttl_ms, answer, asked_at)

    def _answered(self, watched: Watched, ttl_ms: int, answer: int | None, asked_at: float) -> None:
        """``answer`` None: a quorum whose masters did not answer; the timer declares the lease lost in its time."""
        if watched.forgotten or answer is None:
            return  # it has ended, or is being given up, so that Redis need not know it any more
        if answer == 0:
            self.forget(watched.lease)
            watched.lease.mark_lost("Redis does not know it any more (it lapsed, was force-released, or Redis lost it)")
        else:
            watched.lease.extended(asked_at, ttl_ms / 1000)
            if self._observer is not None:
                self._observer(observe.LockRenewed(watched.keys.digest, watched.label, ttl_ms / 1000))
