"""What happens to the locks, look after look: for a live view, in a terminal or a browser."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

from ..errors import RedisUnavailable
from .operator import LOCKS, Found, Operator
from .told import LocksSeen, LockState

__all__ = ["Board", "HotSession", "RouteWaits", "View"]

FOLLOWED = 2_000  # sessions that are looked at each time
FORGOTTEN_AFTER = 30.0  # seconds since a session was last seen held
HALF_LIFE = 10.0  # seconds in which the heat of a session that cools down halves
SHARE_FOR_SEARCH = 0.6  # of the time of a look


@dataclass(frozen=True, slots=True)
class HotSession:
    """A session for which there is much asking. ``saves``: a second, since it is followed, the latest most;
    ``queue``, ``waiting``: how many wait now, in Redis and at all, as of :class:`LockState`.
    """

    digest: str
    saves: float
    queue: int
    held: bool
    waiting: int


@dataclass(frozen=True, slots=True)
class RouteWaits:
    """Who waits now, by route. ``waiting``: how many of that route in the queues; ``longest``, ``mean``: seconds so
    far. ``blocking``: how many wait for a holder of that route, in its process, too.
    """

    route: str
    waiting: int
    longest: float
    mean: float
    blocking: int


@dataclass(frozen=True, slots=True)
class View:
    """One look. ``share``: of all keys, how many were looked at in the first search; 1 from its end on. ``held``,
    ``waiting``: how many at all, of what was found.
    """

    locks: LocksSeen
    hot: tuple[HotSession, ...]
    routes: tuple[RouteWaits, ...]

    @property
    def share(self) -> float:
        return self.locks.share

    @property
    def held(self) -> int:
        return sum(lock.holder is not None for lock in self.locks.locks)

    @property
    def waiting(self) -> int:
        return self.locks.waiting


@dataclass(slots=True)
class _Followed:
    version: int
    looked_at: float
    held_at: float
    saves: float = 0.0  # a second


class Board:
    """Follows the sessions that were seen held, ``most`` of them, and searches all keys for others, over and over."""

    def __init__(self, operator: Operator, most: int = FOLLOWED) -> None:
        self._operator = operator
        self._most = most
        self._searching: AsyncGenerator[Found, None] | None = None
        self._share = 0.0
        self._followed: dict[str, _Followed] = {}
        self._keys = 0
        self._full = self._passed_over = False

    async def look(self, within: float = 1.0) -> View:
        """What there is now. It searches for a part of ``within`` seconds, and goes on with that the next time.

        Raises:
            RedisUnavailable: no answer, or a refusal. The next look begins where this one ended.
        """
        try:
            await self._search(within * SHARE_FOR_SEARCH)
            states = await self._operator.lock_states(self._followed)
        except RedisUnavailable:
            await self._operator.learn_anew()  # the next look may find another master there
            raise
        now = time.monotonic()
        for digest, state in states.items():
            self._note(digest, state, now)
        locks = tuple(state for state in states.values() if state.holder is not None or state.queue)
        return View(
            LocksSeen(locks, self._share, self._keys, self._full or self._passed_over),
            tuple(self._hot(states)),
            tuple(waits_by_route(locks)),
        )

    async def _search(self, within: float) -> None:
        began_at = time.monotonic()
        if self._searching is None:
            self._searching = self._operator.search(LOCKS)
            self._keys = await self._operator.keys()
        async for found in self._searching:
            for digest in found.digests:
                if digest in self._followed:
                    continue
                if len(self._followed) < self._most:
                    self._followed[digest] = _Followed(-1, 0.0, time.monotonic())
                else:
                    self._passed_over = True
            self._share = max(self._share, found.share)
            if time.monotonic() - began_at > within:
                return
        self._searching, self._full, self._passed_over = None, self._passed_over, False

    def _note(self, digest: str, state: LockState, now: float) -> None:
        known = self._followed[digest]
        passed = now - known.looked_at
        if known.version >= 0 and passed > 0:
            rate = max(0, state.version - known.version) / passed
            weight = 0.5 ** (passed / HALF_LIFE)
            known.saves = known.saves * weight + rate * (1 - weight) if known.saves else rate
        known.version, known.looked_at = state.version, now
        if state.holder is not None or state.queue:
            known.held_at = now
        elif now - known.held_at > FORGOTTEN_AFTER:
            del self._followed[digest]

    def _hot(self, states: dict[str, LockState]) -> Iterable[HotSession]:
        hot = [
            HotSession(digest, known.saves, state.queue, state.holder is not None, state.waiting)
            for digest, known in self._followed.items()
            if (state := states.get(digest)) is not None and (known.saves > 0 or state.waiting)
        ]
        return sorted(hot, key=lambda session: (-session.waiting, -session.saves, session.digest))

    async def aclose(self) -> None:
        """The operator is not closed with it."""
        searching, self._searching = self._searching, None
        if searching is not None:
            await searching.aclose()


def waits_by_route(locks: Iterable[LockState]) -> list[RouteWaits]:
    """Those who wait, by their own routes, and by the routes of the holders that they wait for; the most come first."""
    waited: dict[str, list[float]] = {}
    blocking: dict[str, int] = {}
    for lock in locks:
        for waiter in lock.waiters:
            waited.setdefault(waiter.route, []).append(waiter.waited or 0.0)
        if lock.holder is not None and lock.waiting:
            blocking[lock.holder.route] = blocking.get(lock.holder.route, 0) + lock.waiting
    routes = [
        RouteWaits(
            route,
            len(times := waited.get(route, [])),
            max(times, default=0.0),
            sum(times) / len(times) if times else 0.0,
            blocking.get(route, 0),
        )
        for route in {*waited, *blocking}
    ]
    return sorted(routes, key=lambda one: (-one.waiting, -one.blocking, one.route))
