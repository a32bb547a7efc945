"""What a user may choose, as frozen and validated values.

All durations are seconds. A policy object never changes; :func:`dataclasses.replace` makes a variant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import tenacity
from tenacity import stop_after_attempt, stop_after_delay, stop_all, stop_any, wait_exponential, wait_random
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from .errors import ConfigurationError, NotDurable

if TYPE_CHECKING:
    from tenacity import RetryCallState
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Any:
        return lambda decorator: decorator


__all__ = [
    "LeasePolicy",
    "Replicated",
    "Replication",
    "SessionPolicy",
    "WaitPolicy",
    "quickly_frozen",
    "seconds_until_stop",
]

C = TypeVar("C")
SaveMoment = Literal["end_of_request", "immediate"]
DAY = 86_400.0
# A server keeps deadlines as signed 64-bit milliseconds, Lua as doubles; ten years is beyond any session.
LONGEST = 3_660 * DAY
_DELAYS: tuple[Any, ...] = (stop_after_delay, getattr(tenacity, "stop_before_delay", stop_after_delay))  # from 8.3 on


@dataclass_transform(frozen_default=True)
def quickly_frozen(cls: type[C]) -> type[C]:
    """A dataclass that is frozen for the type checker only: at run time that would take three times as long to make."""
    return dataclass(slots=True)(cls)


def check_seconds(name: str, value: float, *, least: float = 0.001) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ConfigurationError(f"{name} must be a number of seconds, not {value!r}")
    if not least <= value <= LONGEST:
        raise ConfigurationError(f"{name} must be between {least} s and ten years, not {value!r} s")


def _check_truth(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be True or False, not {value!r}")


@dataclass(frozen=True)
class LeasePolicy:
    """How long a lock is held.

    ``ttl``: seconds after which Redis frees the lock of a holder that died. ``renew``: a watchdog extends the
    lease while the body runs, ``max_hold`` seconds in all at the most; None: a minute around a session, for a request
    that takes longer hangs, and a day around a lock alone (``guard.lock``), which may be a job's. ``claim``: seconds
    within which a waiter that was handed the lock must confirm or finish, else the next one gets it.
    ``safety_margin``: seconds by which the client stops trusting a lease earlier than Redis does. ``on_lost``:
    ``"cancel"`` cancels the body when the lease is lost, ``"flag"`` only sets ``lease.lost``.
    """

    ttl: float = 10.0
    renew: bool = True
    max_hold: float | None = None
    claim: float = 2.0
    safety_margin: float | None = None
    on_lost: Literal["cancel", "flag"] = "cancel"

    def __post_init__(self) -> None:
        check_seconds("LeasePolicy.ttl", self.ttl, least=0.01)
        if self.max_hold is not None:
            check_seconds("LeasePolicy.max_hold", self.max_hold, least=0.01)
        check_seconds("LeasePolicy.claim", self.claim, least=0.01)
        _check_truth("LeasePolicy.renew", self.renew)
        if self.safety_margin is None:
            # Clock drift between two machines is far below 1 %; a few ms cover a late timer.
            object.__setattr__(self, "safety_margin", min(0.1, 0.01 * self.ttl + 0.002))
        else:
            check_seconds("LeasePolicy.safety_margin", self.safety_margin, least=0)
            if self.safety_margin >= self.ttl:
                raise ConfigurationError(
                    f"LeasePolicy.safety_margin must be below ttl ({self.ttl:g} s), not {self.safety_margin!r} s"
                )
        if self.on_lost not in ("cancel", "flag"):
            raise ConfigurationError(f"LeasePolicy.on_lost must be 'cancel' or 'flag', not {self.on_lost!r}")

    @cached_property
    def longest(self) -> float:
        """Seconds for which it is held at the most."""
        return 60.0 if self.max_hold is None else self.max_hold

    @cached_property
    def of_a_lock(self) -> LeasePolicy:
        """The same around a lock alone."""
        return replace(self, max_hold=DAY) if self.max_hold is None else self

    @cached_property
    def ttl_ms(self) -> int:
        return math.ceil(self.ttl * 1000)

    @cached_property
    def claim_ms(self) -> int:
        return min(self.ttl_ms, math.ceil(self.claim * 1000))

    @cached_property
    def margin(self) -> float:
        assert self.safety_margin is not None
        return self.safety_margin


def _default_stop() -> stop_base:
    # Longer than the default lease: when a worker dies, its lease ends before those who wait for it give up.
    return stop_after_delay(12.0)


def _default_wait() -> wait_base:
    return wait_exponential(multiplier=0.25, max=1.0) + wait_random(0, 0.05)


@dataclass(frozen=True)
class WaitPolicy:
    """How a request waits for its turn, and when it gives up: tenacity objects.

    ``stop`` decides when :class:`~sessionlock.WaitTimedOut` is raised: by default after 12 s, which is longer than the
    lease (10 s) of a holder that died. A ``stop`` that tells the time ends any wait, also one for a reply, a connection
    or a subscription, with :class:`~sessionlock.RedisUnavailable` where Redis has not answered at all: 0.2 s later at
    the most, which are for a reply that is on its way and for giving the place back. ``wait`` is how often the foremost
    waiter of this process looks by itself, in case a wake-up push was lost; a push ends the pause at once, and
    no pause goes beyond the end of the lease that is waited for. ``before_sleep`` is called as tenacity calls it
    before each pause. ``max_waiters``: more than that many in the queue are refused with
    :class:`~sessionlock.QueueFull`; None: 64 for one session, whose visitor has no use for more, and 10,000 for a lock
    alone, for which workers line up. Of each process half of that may wait beside the queue, where it
    counts for that process only.
    """

    stop: Any = field(default_factory=_default_stop)
    wait: Any = field(default_factory=_default_wait)
    before_sleep: Callable[[RetryCallState], Any] | None = None
    max_waiters: int | None = None

    def __post_init__(self) -> None:
        for name in ("stop", "wait"):
            if not callable(getattr(self, name)):
                raise ConfigurationError(
                    f"WaitPolicy.{name} must be a tenacity object such as stop_after_delay(5) or"
                    f" wait_fixed(0.1), not {getattr(self, name)!r}"
                )
        if self.before_sleep is not None and not callable(self.before_sleep):
            raise ConfigurationError(f"WaitPolicy.before_sleep must be a function, not {self.before_sleep!r}")
        if self.max_waiters is not None and (type(self.max_waiters) is not int or not 0 <= self.max_waiters <= 100_000):
            raise ConfigurationError(
                f"WaitPolicy.max_waiters must be a whole number from 0 to 100000, not {self.max_waiters!r}"
            )

    @classmethod
    def seconds(cls, wait: float, *, max_waiters: int | None = None) -> WaitPolicy:
        """Give up after ``wait`` seconds; 0 means: do not queue at all, as :meth:`never` has it."""
        if wait == 0 and not isinstance(wait, bool):
            return cls.never(max_waiters=max_waiters)
        check_seconds("wait", wait)
        return cls(stop=stop_after_delay(wait), max_waiters=max_waiters)

    @classmethod
    def never(cls, *, max_waiters: int | None = None) -> WaitPolicy:
        """Take the lock if it is free; otherwise raise at once, without entering the queue. Redis is given the time of
        one reply (``SessionGuard(reply_within=)``) to tell.
        """
        return cls(stop=stop_after_attempt(1), max_waiters=max_waiters)

    @cached_property
    def longest(self) -> float:
        """Seconds after which ``stop`` certainly says stop, inf when its kind does not tell."""
        return seconds_until_stop(self.stop, 0.0)

    @cached_property
    def most_waiters(self) -> int:
        return 64 if self.max_waiters is None else self.max_waiters

    @cached_property
    def of_a_lock(self) -> WaitPolicy:
        """The same for a lock alone."""
        return replace(self, max_waiters=10_000) if self.max_waiters is None else self

    @cached_property
    def queues(self) -> bool:
        """Whether a busy lock is waited for at all."""
        return not (isinstance(self.stop, stop_after_attempt) and self.stop.max_attempt_number <= 1)


def seconds_until_stop(stop: object, elapsed: float) -> float:
    """Seconds until a tenacity ``stop`` certainly stops, inf when its kind does not tell.

    tenacity asks ``stop`` only between attempts; knowing the delay lets a pause end exactly there.
    """
    if isinstance(stop, _DELAYS):
        return max(0.0, float(stop.max_delay) - elapsed)
    if isinstance(stop, stop_any):
        return min((seconds_until_stop(part, elapsed) for part in stop.stops), default=math.inf)
    if isinstance(stop, stop_all):
        return max((seconds_until_stop(part, elapsed) for part in stop.stops), default=math.inf)
    return math.inf


@dataclass(frozen=True)
class SessionPolicy:
    """How a session lives and how it is saved.

    ``idle``: seconds without a request after which it expires. ``absolute``: seconds after its creation at which
    it expires in any case, None for never. ``refresh_below``: on load the idle time starts anew when less than this
    share of it is left (0 never, 1 always). ``save``: ``"end_of_request"`` or ``"immediate"``. ``merge``: strategy
    per top-level key (see :mod:`sessionlock.session.merge`). ``tombstone``: seconds for which a destroyed session's id
    stays refused. ``max_field`` and ``max_session``: bytes, checked before anything is sent.
    """

    idle: float = 14 * DAY
    absolute: float | None = None
    refresh_below: float = 0.5
    save: SaveMoment = "end_of_request"
    merge: Mapping[str, Any] = field(default_factory=dict)
    tombstone: float = 300.0
    max_field: int = 1_048_576
    max_session: int = 8_388_608

    def __post_init__(self) -> None:
        check_seconds("SessionPolicy.idle", self.idle, least=0.01)
        check_seconds("SessionPolicy.tombstone", self.tombstone, least=0.01)
        if self.absolute is not None:
            check_seconds("SessionPolicy.absolute", self.absolute, least=0.01)
        check_seconds("SessionPolicy.refresh_below", self.refresh_below, least=0)
        if not 0 <= self.refresh_below <= 1:
            raise ConfigurationError(f"SessionPolicy.refresh_below must be 0 to 1, not {self.refresh_below!r}")
        if self.save not in ("end_of_request", "immediate"):
            raise ConfigurationError(f"SessionPolicy.save must be 'end_of_request' or 'immediate', not {self.save!r}")
        if not isinstance(self.merge, Mapping):
            raise ConfigurationError(
                f"SessionPolicy.merge must be a dict from keys to strategies ({{'cart': 'by_id'}}), not {self.merge!r}"
            )
        for name in ("max_field", "max_session"):
            limit = getattr(self, name)
            if type(limit) is not int or limit < 1:
                raise ConfigurationError(f"SessionPolicy.{name} must be a number of bytes from 1 on, not {limit!r}")

    @cached_property
    def idle_ms(self) -> int:
        return math.ceil(self.idle * 1000)

    @cached_property
    def absolute_ms(self) -> int:
        """0 for no absolute end."""
        return 0 if self.absolute is None else math.ceil(self.absolute * 1000)

    @cached_property
    def refresh_ms(self) -> int:
        """Remaining life below which a load starts the idle time anew."""
        return math.floor(self.idle_ms * self.refresh_below)

    @cached_property
    def tombstone_ms(self) -> int:
        return math.ceil(self.tombstone * 1000)


@dataclass(frozen=True, slots=True)
class Replicated:
    """How far a save must have come before it counts as done: ``WAIT`` and ``WAITAOF``, sent right behind it.

    Wait until a save has reached ``replicas`` replicas, for ``within`` seconds at the most.

    ``aof``: wait until it is in the append-only files on the disks of the master and of so many replicas (``WAITAOF``:
    Redis 7.2 and newer, with ``appendonly yes``). ``required``: raise :class:`~sessionlock.NotDurable` on a shortfall
    instead of only telling it in ``session.saved``.

    Sent in one go with the save, so it costs no round trip to the master, only the replicas' answers. It makes the
    loss of an acknowledged save in a failover improbable, not impossible: the replica that is promoted may be one
    that had not answered. What the save changed is visible to others at once, shortfall or not.
    """

    replicas: int = 1
    within: float = 0.5
    aof: bool = False
    required: bool = False

    def __post_init__(self) -> None:
        least = 0 if self.aof else 1
        if isinstance(self.replicas, bool) or not isinstance(self.replicas, int) or not least <= self.replicas <= 100:
            raise ConfigurationError(
                "Replicated.replicas must be a whole number from 1 to 100 (with aof=True from 0), not"
                f" {self.replicas!r}"
            )
        check_seconds("Replicated.within", self.within)
        _check_truth("Replicated.aof", self.aof)
        _check_truth("Replicated.required", self.required)

    @property
    def command(self) -> tuple[str | int, ...]:
        """What is sent behind a save."""
        within_ms = math.ceil(self.within * 1000)
        return ("WAITAOF", 1, self.replicas, within_ms) if self.aof else ("WAIT", self.replicas, within_ms)

    def judge(self, reply: Any) -> Replication:
        """What Redis answered to :attr:`command`; None: nothing."""
        if reply is None:
            return Replication(0, False if self.aof else None, False, self)
        if isinstance(reply, list):
            on_disk, replicas = bool(reply[0]), int(reply[1])
            return Replication(replicas, on_disk, on_disk and replicas >= self.replicas, self)
        return Replication(int(reply), None, int(reply) >= self.replicas, self)


@dataclass(frozen=True, slots=True)
class Replication:
    """How far a save had come when it was acknowledged: on how many ``replicas``, and whether on the master's disk
    (``on_disk``; None: not asked).

    ``enough``: whether that is what ``wanted`` asked for.
    """

    replicas: int
    on_disk: bool | None
    enough: bool
    wanted: Replicated

    def raise_for_shortfall(self) -> None:
        """Raise :class:`~sessionlock.NotDurable` on a shortfall, if what was wanted is required."""
        if self.enough or not self.wanted.required:
            return
        disk = "" if self.on_disk is None else f" and {'' if self.on_disk else 'not '}on the master's disk"
        raise NotDurable(
            f"the session was saved, but {self.wanted.within:g} s later on {self.replicas} of {self.wanted.replicas}"
            f" replicas{disk}. If the master fails now, the save may be lost; others see it already",
            safety=self,
        )

    insist = raise_for_shortfall  # its former name; it goes with the next release
