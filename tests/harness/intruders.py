"""Somebody who waits for a session under an id that is not theirs."""

from __future__ import annotations

import asyncio
from typing import Any

from sessionlock import SessionGuard

__all__ = ["Intruder"]


class Intruder:
    """``saw``: what was in the sessions that it got. Await ``task`` for how it ended."""

    def __init__(self, guard: SessionGuard, sid: str) -> None:
        self.saw: list[dict[str, Any]] = []
        self.task = asyncio.ensure_future(self._intrude(guard, sid))

    async def _intrude(self, guard: SessionGuard, sid: str) -> None:
        async with guard.session_lock(sid, wait=10) as session:
            self.saw.append(dict(session))
