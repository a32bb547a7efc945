"""Which sessions are known not to be permanent, so that a request which does not use its session need not ask."""

from __future__ import annotations

import time

from ...session.block import digest_of

__all__ = ["Temporary"]

MOST = 10_000  # sessions; beyond them the oldest is forgotten
LONGEST = 60.0  # seconds for which it is believed: another process may make the session permanent


class Temporary:
    """Of one process, bounded in number and time. Safe to share between threads."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def note(self, sid: str, permanent: bool, idle: float) -> None:
        """``idle``: seconds that a session lives unless it is renewed."""
        name = digest_of(sid)
        self._until.pop(name, None)
        if permanent:
            return
        self._until[name] = time.monotonic() + min(LONGEST, idle / 4)
        while len(self._until) > MOST:
            self._until.pop(next(iter(self._until), name), None)

    def __contains__(self, sid: str) -> bool:
        return self._until.get(digest_of(sid), 0.0) > time.monotonic()
