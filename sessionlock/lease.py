"""What a holder knows of its lock: token, fencing token, and until when it may be trusted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import anyio

from .clock import monotonic
from .errors import LeaseLost

__all__ = ["Lease"]


class Lease:
    """A lock that this process holds. Made by the guard, never by an application.

    ``token`` names the acquisition. ``fencing_token`` grows with every grant of this session's lock; hand it to
    other stores so that they can refuse older holders. ``ttl``: seconds for which each renewal asks.
    """

    __slots__ = (
        "_began",
        "_event",
        "_latest",
        "_longest",
        "_on_lost",
        "_safety_margin",
        "_tell_loss",
        "confirmed",
        "digest",
        "ends",
        "fencing_token",
        "first_user",
        "leaving",
        "lost_because",
        "name",
        "released",
        "token",
        "ttl",
        "user",
    )

    def __init__(
        self,
        name: str,
        token: str,
        fencing_token: int,
        granted_at: float,
        granted_for: float,
        ttl: float,
        safety_margin: float,
        max_hold: float,
        digest: str | None = None,
        confirmed: bool = True,
        tell_loss: Callable[[Lease], object] | None = None,
    ) -> None:
        # What was granted, and when. Instants are of this package's clock.
        self.name: str = name
        self.digest: str = name if digest is None else digest
        self.token: str = token
        self.fencing_token: int = fencing_token
        self.ttl: float = ttl
        self._began = granted_at
        # Until when it may be trusted: moved by each renewal, never beyond the longest that it is held. Not confirmed:
        # handed over, and not yet renewed.
        self._longest = longest = granted_at + max_hold
        self._latest = longest - (safety_margin if safety_margin < max_hold / 2 else max_hold / 2)
        self._safety_margin = safety_margin
        self.confirmed: bool = confirmed
        self.ends: float = self._trusted(granted_at, granted_for)
        # How it ended. A lease that was lost is released, too, when its block ends.
        self.lost_because: str | None = None
        self.leaving: bool = False
        self.released: bool = False
        # Who is told of its loss: the event only if somebody asked for it.
        self._event: anyio.Event | None = None
        self._on_lost: Callable[[], object] | None = None
        self._tell_loss = tell_loss
        # The tasks that have used it, or what it protects: the first and the last.
        self.first_user: asyncio.Task[Any] | None = None
        self.user: asyncio.Task[Any] | None = None

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else "released" if self.released else f"{self.remaining():.3f} s left"
        return f"<Lease {self.name} fence={self.fencing_token} {state}>"

    def remaining(self) -> float:
        """Seconds for which this lease may still be trusted; 0 when it is lost, past its time, released, or being
        released: from the sending of that on, the next one may hold the lock.
        """
        if self.leaving or self.lost_because is not None:
            return 0.0
        self.used()
        return max(0.0, self.ends - monotonic())

    @property
    def trusted_until(self) -> float:
        """As a :func:`time.monotonic` instant, no later than Redis' own expiry: all is counted from before the call
        that granted or renewed the lease. When the machine slept it moves, where :func:`time.monotonic` leaves
        sleep out; :meth:`remaining` is right in any case.
        """
        return _shown(self.ends)

    @property
    def hold_until(self) -> float:
        """The end of all renewals, as a :func:`time.monotonic` instant."""
        return _shown(self._longest)

    @property
    def since(self) -> float:
        """When it was asked for, as a :func:`time.monotonic` instant."""
        return _shown(self._began)

    def age(self) -> float:
        """Seconds since it was asked for."""
        return monotonic() - self._began

    @property
    def is_lost(self) -> bool:
        """Whether the lease ended before its holder gave it up."""
        return self.lost_because is not None

    @property
    def lost(self) -> anyio.Event:
        """Set when the lease is lost: ``await lease.lost.wait()``, ``lease.lost.is_set()``."""
        if self._event is None:
            self._event = anyio.Event()
            if self.lost_because is not None:
                self._event.set()
        return self._event

    def check(self) -> None:
        """Raise :class:`~sessionlock.LeaseLost` if this lease is not to be trusted any more: lost, past its time,
        released, or being released.
        """
        self.check_lost()
        self.used()
        if self.leaving:
            raise LeaseLost(
                f"{self.title} (fencing token {self.fencing_token}) was released already: nothing is"
                " protected by it any more"
            ).about(self.digest)

    def check_lost(self) -> None:
        """As :meth:`check`, but for one that its holder gave up."""
        if self.lost_because is None and not self.leaving and monotonic() >= self.ends:
            self.mark_lost("its time ran out before it could be renewed")
        if self.lost_because is not None:
            raise LeaseLost(self.why_lost()).about(self.digest)

    @property
    def title(self) -> str:
        """What is held, for people."""
        return f"the lock {self.name!r}" if self.is_alone else f"the lock of session {self.name}"

    @property
    def is_alone(self) -> bool:
        """Whether it is a lock alone, with a name of its own, for storage that is not ours."""
        return self.name != self.digest

    def why_lost(self) -> str:
        return (
            f"{self.title} (fencing token {self.fencing_token}) was lost:"
            f" {self.lost_because or 'it was released already'};"
            f" nothing is {'protected by it' if self.is_alone else 'saved'} after that."
            f" {'Take the lock' if self.is_alone else 'Load the session'} again, or raise LeasePolicy.ttl or max_hold"
        )

    # What follows is for the guard and the watchdog.

    def used(self) -> None:
        """The running task uses what this lease protects: perhaps it is the one to be told of a loss."""
        loop = asyncio._get_running_loop()
        if loop is not None and not self.leaving:
            user = self.user = asyncio.current_task(loop)
            if self.first_user is None:
                self.first_user = user

    @property
    def is_over(self) -> bool:
        """Whether the lock is not held any more: given up, lost, or past its time."""
        return self.leaving or self.lost_because is not None or monotonic() >= self.ends

    def when_lost(self, callback: Callable[[], object] | None) -> None:
        self._on_lost = callback
        if callback is not None and self.lost_because is not None:
            callback()

    def _trusted(self, asked_at: float, seconds: float) -> float:
        """Until when, of what Redis was asked for at that instant. No later than after the last renewal, which ends at
        the longest hold, sent or not: Redis may have had it without our being told.
        """
        margin, latest = self._safety_margin, self._latest
        until = asked_at + seconds - (margin if margin < seconds / 2 else seconds / 2)
        return until if until < latest else latest

    def renewal(self, now: float) -> float:
        """Seconds to ask Redis for; 0 when that would gain nothing."""
        seconds = min(self.ttl, self._longest - now)
        return seconds if now < self.ends < self._trusted(now, seconds) else 0.0

    @property
    def was_held_longest(self) -> bool:
        """Whether no renewal can move its end any more."""
        return self.ends >= self._latest

    def extended(self, asked_at: float, seconds: float) -> None:
        """Redis confirmed at some instant after ``asked_at`` that the lease runs ``seconds`` from then, not longer."""
        self.confirmed = True
        self.ends = self._trusted(asked_at, seconds)

    def hold_longer(self, until: float) -> None:
        """It may be renewed up to that instant."""
        self._longest = max(self._longest, until)
        self._latest = max(self._latest, until - self._safety_margin)

    def refenced(self, fence: int) -> None:
        """A save was refused, and may not take effect later: the store gave this holder a higher fencing token."""
        self.fencing_token = fence

    def mark_lost(self, because: str) -> None:
        if self.released or self.lost_because is not None:
            return
        self.lost_because = because
        if self._event is not None:
            self._event.set()
        if self._tell_loss is not None:
            self._tell_loss(self)
        if self._on_lost is not None:
            self._on_lost()

    def mark_leaving(self) -> None:
        """Its release is about to be sent."""
        self.leaving = True

    def mark_released(self) -> None:
        self.leaving = self.released = True
        self._on_lost = self.user = self.first_user = None


def _shown(instant: float) -> float:
    """An instant of our clock on that of :func:`time.monotonic`."""
    return instant - monotonic() + time.monotonic()
