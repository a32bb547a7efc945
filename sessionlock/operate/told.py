"""What an operator is told. Seconds are floats, sizes bytes; None: not known, or (of an end) there is none.

Sessions are named by their digest. No id and no value of a session is in here.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "Inspection",
    "LockHolder",
    "LockState",
    "LockWaiter",
    "LocksSeen",
    "SessionField",
    "SessionState",
    "SessionsCounted",
]


@dataclass(frozen=True, slots=True)
class LockHolder:
    """``node``, ``route``: as its label tells; "" where it does not. ``held_for``: since it was granted.
    ``lease_left``: until the lock lapses, if it is not renewed. ``claim``: it was handed the lock and has not confirmed
    yet. ``riders``: how many waited in its process, and not in the queue, when it was granted. ``trace``: W3C
    ``traceparent``, or "".
    """

    token: str
    node: str
    route: str
    held_for: float | None
    lease_left: float | None
    claim: bool
    riders: int
    trace: str


@dataclass(frozen=True, slots=True)
class LockWaiter:
    """``waited``: since it came. The other fields: as of a holder."""

    node: str
    route: str
    waited: float | None
    trace: str


@dataclass(frozen=True, slots=True)
class LockState:
    """``holder`` None: nobody holds it, and somebody may wait. ``queue``: how many wait in Redis. ``waiters``: the
    first of them, in their order. ``fence``: the highest fencing token granted. ``version``: how often the session was
    saved.
    """

    digest: str
    holder: LockHolder | None
    queue: int
    fence: int
    version: int
    waiters: tuple[LockWaiter, ...] = ()

    @property
    def waiting(self) -> int:
        """How many wait, as far as Redis knows: the queue, and those who waited in the holder's process when it was
        granted the lock. Who has come to that process since is known there only.
        """
        return self.queue + (0 if self.holder is None else self.holder.riders)

    @property
    def longest_wait(self) -> float:
        """Of whoever came first; 0.0 where nobody waits, or that is not known."""
        return max((waiter.waited or 0.0 for waiter in self.waiters), default=0.0)


@dataclass(frozen=True, slots=True)
class LocksSeen:
    """``share``: of the keys that were looked at, from 0 to 1; 1: all. ``keys``: how many there are in the database.
    ``full``: as many were found as were wanted; there are more, which were not looked at.
    """

    locks: tuple[LockState, ...]
    share: float
    keys: int
    full: bool = False

    @property
    def longest_held(self) -> list[LockState]:
        """Held locks, those held longest first; those of an unknown age come before."""
        held = [lock for lock in self.locks if lock.holder is not None]
        return sorted(held, key=lambda lock: -_age(lock))

    @property
    def queues_of_nobody(self) -> list[LockState]:
        """Somebody waits, and nobody holds the lock: its last holder died, or this is the moment in between."""
        return [lock for lock in self.longest_queues if lock.holder is None]

    @property
    def longest_queues(self) -> list[LockState]:
        """Those that somebody waits for, the most first."""
        return sorted(
            (lock for lock in self.locks if lock.waiting), key=lambda lock: (-lock.waiting, -lock.longest_wait)
        )

    @property
    def waiting(self) -> int:
        """How many wait, for all of them."""
        return sum(lock.waiting for lock in self.locks)


def _age(lock: LockState) -> float:
    holder = lock.holder
    return float("inf") if holder is None or holder.held_for is None else holder.held_for


@dataclass(frozen=True, slots=True)
class SessionState:
    """``exists``: there is a record. ``destroyed``: it has ended, and its id stays refused for a while. ``age``: since
    it began. ``expires_in``: if it is not used any more; ``ends_in``: in any case. ``keys``: of the session. ``bytes``:
    of memory in Redis, all its fields; None where the server does not tell. ``user``: digest of the user whose it is,
    or "".
    """

    digest: str
    exists: bool
    destroyed: bool
    version: int
    age: float | None
    expires_in: float | None
    ends_in: float | None
    keys: int
    bytes: int | None
    user: str


@dataclass(frozen=True, slots=True)
class SessionField:
    """``bytes``: of the value as it is stored."""

    key: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """One session: its lock and its record."""

    lock: LockState
    session: SessionState

    @property
    def known(self) -> bool:
        """Whether Redis holds anything about it."""
        return self.session.exists or self.session.destroyed or self.lock.holder is not None or self.lock.queue > 0


@dataclass(frozen=True, slots=True)
class SessionsCounted:
    """``records``: the session hashes that were found in that ``share`` of all keys. Of a random ``sample`` of them it
    was looked up what they are: ``live`` sessions, tombstones of ``destroyed`` ones, and ``shells``, which hold the
    fence of a lock and no data. Sizes and ages are those of the live ones in the sample.
    """

    records: int
    share: float
    keys: int
    sample: tuple[SessionState, ...]

    @property
    def sampled(self) -> int:
        return len(self.sample)

    @property
    def live(self) -> int:
        """How many there are, by the sample and the share."""
        return self._of_all(sum(state.exists for state in self.sample))

    @property
    def destroyed(self) -> int:
        return self._of_all(sum(state.destroyed for state in self.sample))

    @property
    def shells(self) -> int:
        return self._of_all(sum(not state.exists and not state.destroyed for state in self.sample))

    @property
    def sizes(self) -> list[int]:
        """In rising order."""
        return sorted(state.bytes for state in self.sample if state.exists and state.bytes is not None)

    @property
    def ages(self) -> list[float]:
        """In rising order."""
        return sorted(state.age for state in self.sample if state.exists and state.age is not None)

    @property
    def largest(self) -> list[SessionState]:
        live = [state for state in self.sample if state.exists]
        return sorted(live, key=lambda state: (-(state.bytes or 0), state.digest))

    @property
    def bytes(self) -> int | None:
        """Of all live sessions, by the sample."""
        sizes = self.sizes
        return round(sum(sizes) / len(sizes) * self.live) if sizes else None

    def _of_all(self, found: int) -> int:
        if not self.sample or not self.share:
            return 0
        return round(found / len(self.sample) * self.records / self.share)
