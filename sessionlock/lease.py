"""What a holder knows of its lock: token, fencing token, and until when it may be trusted."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio

from .errors import LeaseLost

__all__ = ["Lease"]


class Lease:
    """A lock that this process holds. Made by the guard, never by an application.

    ``token`` names the acquisition. ``fencing_token`` grows with every grant of this session's lock; hand it to
    other stores so that they can refuse older holders. ``trusted_until`` is a :func:`time.monotonic` instant: it is
    computed from a clock read *before* the call that granted or renewed the lease, so it ends no later than Redis'
    own expiry. ``hold_until`` bounds all renewals.
    """

    __slots__ = (
        "_event",
        "_on_lost",
        "_released",
        "_safety_margin",
        "_tell_loss",
        "confirmed",
        "fencing_token",
        "hold_until",
        "lost_because",
        "name",
        "since",
        "token",
        "trusted_until",
        "ttl",
    )

    def __init__(
        self,
        name: str,
        token: str,
        fencing_token: int,
        *,
        granted_at: float,
        granted_for: float,
        ttl: float,
        safety_margin: float,
        max_hold: float,
        confirmed: bool = True,
        tell_loss: Callable[[Lease], object] | None = None,
    ) -> None:
        # What was granted, and when.
        self.name: str = name
        self.token: str = token
        self.fencing_token: int = fencing_token
        self.ttl: float = ttl
        self.since: float = granted_at
        # Until when it may be trusted; moved on by each renewal. Not confirmed: handed over, and not yet renewed.
        self.hold_until: float = granted_at + max_hold
        self.trusted_until: float = granted_at + granted_for - min(safety_margin, granted_for / 2)
        self.confirmed: bool = confirmed
        self._safety_margin = safety_margin
        # How it ended. A lease that was lost is released, too, when its block ends.
        self.lost_because: str | None = None
        self._released = False
        # Who is told of its loss: the event only if somebody asked for it.
        self._event: anyio.Event | None = None
        self._on_lost: Callable[[], object] | None = None
        self._tell_loss = tell_loss

    def __repr__(self) -> str:
        state = "lost" if self.is_lost else "released" if self._released else f"{self.remaining():.3f} s left"
        return f"<Lease {self.name} fence={self.fencing_token} {state}>"

    def remaining(self) -> float:
        """Seconds for which this lease may still be trusted; 0 when it is lost, released or past its time."""
        if self._released or self.lost_because is not None:
            return 0.0
        return max(0.0, self.trusted_until - time.monotonic())

    @property
    def is_lost(self) -> bool:
        """Whether the lease ended before its holder gave it up."""
        return self.lost_because is not None

    @property
    def released(self) -> bool:
        return self._released

    @property
    def lost(self) -> anyio.Event:
        """Set when the lease is lost: ``await lease.lost.wait()``, ``lease.lost.is_set()``."""
        if self._event is None:
            self._event = anyio.Event()
            if self.lost_because is not None:
                self._event.set()
        return self._event

    def check(self) -> None:
        """Raise :class:`~sessionlock.LeaseLost` if this lease is not to be trusted any more."""
        if self.lost_because is None and not self._released and time.monotonic() >= self.trusted_until:
            self.mark_lost("its time ran out before it could be renewed")
        if self.lost_because is not None:
            raise LeaseLost(self.why_lost()).about(self.name)

    def why_lost(self) -> str:
        return (
            f"the lock of {self.name} (fencing token {self.fencing_token}) was lost:"
            f" {self.lost_because or 'it was released already'};"
            " nothing is saved after that. Load the session again, or raise LeasePolicy.ttl or max_hold"
        )

    # What follows is for the guard and the watchdog.

    def when_lost(self, callback: Callable[[], object] | None) -> None:
        self._on_lost = callback
        if callback is not None and self.lost_because is not None:
            callback()

    def extended(self, asked_at: float, ttl: float) -> None:
        """Redis confirmed at some instant after ``asked_at`` that the lease runs ``ttl`` seconds from then."""
        self.confirmed = True
        self.trusted_until = max(self.trusted_until, asked_at + ttl - min(self._safety_margin, ttl / 2))

    def hold_longer(self, until: float) -> None:
        """It may be renewed up to then."""
        self.hold_until = max(self.hold_until, until)

    def mark_lost(self, because: str) -> None:
        if self._released or self.lost_because is not None:
            return
        self.lost_because = because
        if self._event is not None:
            self._event.set()
        if self._tell_loss is not None:
            self._tell_loss(self)
        if self._on_lost is not None:
            self._on_lost()

    def mark_released(self) -> None:
        self._released = True
        self._on_lost = None
