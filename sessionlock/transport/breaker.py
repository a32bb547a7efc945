"""When to stop asking a server that is down, and when to begin again. No I/O and no clock: both are the caller's.

::

    closed ──failed──> doubtful ──gave_up──> open ──answered──> closed
      ^                   │                   │ ^
      └─────answered──────┘                   └─┘ silent: looked for, in vain

While *doubtful*, calls are repeated: most interruptions are over within seconds (a failover, a restart). When the first
one has been repeated for long enough in vain, the breaker *opens*: from then on calls fail at once, and one look at a
time finds out whether the server is back.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["FIRST_PAUSE", "LONGEST_PAUSE", "Breaker", "State"]

State = Literal["closed", "doubtful", "open"]
FIRST_PAUSE = 0.05  # seconds between two looks, doubled each time
LONGEST_PAUSE = 0.3  # ... up to this: whoever is back should not be kept waiting for


class Breaker:
    """Of one server. Times are seconds of one monotonic clock."""

    def __init__(self) -> None:
        self.state: State = "closed"
        self.since: float = 0.0
        """When the first call failed of those that have been failing since."""
        self.looks: int = 0
        """How many looks for the server have been in vain since it opened."""
        self.refused: int = 0
        """How many calls were refused since it opened."""

    def failed(self, began_at: float) -> None:
        """A call that began then met a failure that may pass, and is going to be repeated."""
        if self.state == "closed":
            self.state, self.since = "doubtful", began_at

    def gave_up(self, began_at: float) -> bool:
        """A call was repeated for as long as is allowed, or is hopeless. True: with it the outage begins."""
        if self.state == "open":
            return False
        self.failed(began_at)
        self.state, self.looks, self.refused = "open", 0, 0
        return True

    def refuses(self) -> bool:
        """Whether a call fails at once now; it is counted."""
        self.refused += self.state == "open"
        return self.state == "open"

    def refused_one(self) -> None:
        """A call was not even tried."""
        self.refused += 1

    def silent(self) -> float:
        """A look was in vain. Returns the pause before the next one."""
        pause = min(FIRST_PAUSE * 2.0 ** min(self.looks, 10), LONGEST_PAUSE)
        self.looks += 1
        return pause

    def answered(self, now: float) -> float | None:
        """The server answered, a look or a call. For how long it was down, None if it was not known to be."""
        was_open = self.state == "open"
        self.state = "closed"
        return now - self.since if was_open else None
