"""How far a save must have come before it counts as done: ``WAIT`` and ``WAITAOF``, sent right behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .errors import ConfigurationError, NotDurable
from .policies import check_seconds

__all__ = ["Safety", "Wait"]


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait until a save has reached ``replicas`` replicas, for ``within`` seconds at the most.

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
                f"Wait.replicas must be a whole number from 1 to 100 (with aof=True from 0), not {self.replicas!r}"
            )
        check_seconds("Wait.within", self.within)

    @property
    def command(self) -> tuple[str | int, ...]:
        """What is sent behind a save."""
        within_ms = math.ceil(self.within * 1000)
        return ("WAITAOF", 1, self.replicas, within_ms) if self.aof else ("WAIT", self.replicas, within_ms)

    def judge(self, reply: Any) -> Safety:
        """What Redis answered to :attr:`command`; None: nothing."""
        if reply is None:
            return Safety(0, False if self.aof else None, False, self)
        if isinstance(reply, list):
            on_disk, replicas = bool(reply[0]), int(reply[1])
            return Safety(replicas, on_disk, on_disk and replicas >= self.replicas, self)
        return Safety(int(reply), None, int(reply) >= self.replicas, self)


@dataclass(frozen=True, slots=True)
class Safety:
    """How safe a save was when it was acknowledged: on how many ``replicas``, on the master's disk (None: not asked).

    ``enough``: whether that is what ``wanted`` asked for.
    """

    replicas: int
    on_disk: bool | None
    enough: bool
    wanted: Wait

    def insist(self) -> None:
        """Raise :class:`~sessionlock.NotDurable` on a shortfall, if what was wanted is required."""
        if self.enough or not self.wanted.required:
            return
        disk = "" if self.on_disk is None else f" and {'' if self.on_disk else 'not '}on the master's disk"
        raise NotDurable(
            f"the session was saved, but {self.wanted.within:g} s later on {self.replicas} of {self.wanted.replicas}"
            f" replicas{disk}. If the master fails now, the save may be lost; others see it already",
            safety=self,
        )
