"""What the server holds of one session, looked at from outside of the package."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

import redis

from sessionlock.protocol.keys import keys_for
from tests.harness.commands import connect, fence_of

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE = 10.0


class Stored:
    """One session's keys. Every property asks the server."""

    def __init__(self, url: str, sid: str, *, prefix: str = "sl") -> None:
        self.keys = keys_for(prefix, sid)
        self.client: redis.Redis = connect(url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.client.close()

    @property
    def lock(self) -> str | None:
        """The holder's token."""
        token: Any = self.client.get(self.keys.lock)
        return None if token is None else str(token, "ascii")

    @property
    def waiting(self) -> list[str]:
        """The waiters' tokens in order."""
        tokens: Any = self.client.zrange(self.keys.queue, 0, -1)
        return [str(token, "ascii") for token in tokens]

    @property
    def free(self) -> bool:
        """Neither lock nor queue, nor a record of a waiter."""
        return not self.client.exists(self.keys.lock, self.keys.queue, self.keys.waiters)

    @property
    def fence(self) -> int:
        """The highest fencing token granted, 0 when there is none."""
        return fence_of(self.client, self.keys.session)

    @property
    def version(self) -> int:
        return int(self.client.hget(self.keys.session, "#version") or 0)

    @property
    def data(self) -> dict[str, Any]:
        """The session's own keys and values."""
        fields: Any = self.client.hgetall(self.keys.session)
        return {name.decode(): json.loads(raw) for name, raw in fields.items() if not name.startswith(b"#")}

    @property
    def now_us(self) -> int:
        """The server's clock in microseconds."""
        seconds, micros = self.client.time()
        return int(seconds * 1_000_000 + micros)

    @property
    def lease_end_us(self) -> int:
        """When, by the server's clock, the lock ends unless somebody renews it. It must be held.

        The server looks at its clock twice for this, so one answer may be late, but never early: the earliest of a few.
        """
        return min(self._lease_end_us() for _ in range(5))

    def _lease_end_us(self) -> int:
        with self.client.pipeline() as pipeline:
            pipeline.pttl(self.keys.lock)
            pipeline.time()
            left_ms, (seconds, micros) = pipeline.execute()
        assert left_ms >= 0, "nobody holds the lock"
        return int(seconds * 1_000_000 + micros + left_ms * 1000)

    async def until(self, holds: Callable[[Stored], bool], within: float = PATIENCE) -> None:
        """Return once ``holds(stored)``; fail after ``within`` seconds."""
        deadline = time.monotonic() + within
        while not holds(self):
            assert time.monotonic() < deadline, f"not within {within:g} s: {self}"
            await asyncio.sleep(0.003)

    def __repr__(self) -> str:
        return f"<Stored lock={self.lock} waiting={self.waiting} fence={self.fence} data={self.data}>"


Look = Callable[..., Stored]
"""The fixture ``stored``."""
