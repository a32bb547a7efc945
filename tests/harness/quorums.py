"""A quorum of real masters and a store for their sessions, for one test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from typing import Any

import pytest

from sessionlock import LeaseLost, LeasePolicy, Quorum, RedisUnavailable, Session, SessionGuard, WaitTimedOut
from sessionlock.protocol.keys import keys_for
from tests.harness.choice import in_chosen_protocol
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer
from tests.harness.stored import Stored

SID = "s"
KEYS = keys_for("sl", SID)
QUICK = LeasePolicy(ttl=1.0, claim=0.5)


class Place:
    """Masters and a store of a test's own. ``raw``: a blocking client of each master, in their order."""

    def __init__(self, stack: ExitStack, masters: int) -> None:
        self._stack = stack
        self.masters = [stack.enter_context(FaultyServer(tcp=True)) for _ in range(masters)]
        self.store = stack.enter_context(FaultyServer(tcp=True))
        self.guards = AsyncExitStack()
        self.stored = stack.enter_context(Stored(self.store.unix_url, SID))

    def quorum(self, **options: Any) -> Quorum:
        return Quorum(
            *(in_chosen_protocol(master.tcp_url) for master in self.masters), **{"rejoin_after": 0, **options}
        )

    def guard(self, quorum: Quorum | None = None, **options: Any) -> SessionGuard:
        """As another process would have one."""
        guard = SessionGuard.from_url(in_chosen_protocol(self.store.tcp_url), quorum=quorum or self.quorum(), **options)
        self.guards.push_async_callback(guard.aclose)
        return guard

    def at(self, master: int) -> Stored:
        return self._stack.enter_context(Stored(self.masters[master].unix_url, SID))

    def uptime(self, master: int) -> int:
        with connect(self.masters[master].unix_url) as raw:
            info: Any = raw.info("server")
            return int(info["uptime_in_seconds"])

    @asynccontextmanager
    async def held_by_the_last_two(self, guard: SessionGuard) -> AsyncIterator[Session]:
        """Of three masters; the first one is free, too."""
        with connect(self.masters[0].unix_url) as raw:
            raw.set(KEYS.lock, "foreign", px=60_000)
            async with guard.session_lock(SID) as session:
                await until(lambda: self.holders()[1:] == [session.lease.token] * 2)  # type: ignore[union-attr]
                raw.delete(KEYS.lock)
                yield session

    def holders(self) -> list[str | None]:
        return [self.at(number).lock for number, master in enumerate(self.masters) if master.running]

    def is_free(self, masters: Mapping[int, Any] | list[int] | None = None) -> bool:
        """Neither a lock nor a waiter anywhere."""
        numbers = range(len(self.masters)) if masters is None else masters
        return all(self.at(number).free for number in numbers) and self.stored.free


async def opened(guard: SessionGuard) -> None:
    """Every master's connection is open, also that of one whose vote nobody waited for."""
    masters = guard.runtime().executor.masters.all  # type: ignore[attr-defined]
    await until(lambda: all(master.connection.last is not None for master in masters))


async def until(holds: Callable[[], bool], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"not within {within:g} s"
        await asyncio.sleep(0.005)


async def count(guard: SessionGuard, times: int, **options: Any) -> int:
    """Guarded increments; returns how many were acknowledged."""
    done = 0
    for _ in range(times):
        try:
            async with guard.session_lock(SID, **options) as session:
                value = session.get("n", 0)
                await asyncio.sleep(0)
                session["n"] = value + 1
        except (RedisUnavailable, LeaseLost, WaitTimedOut):
            continue
        done += 1
    return done


async def nobody_gets_in(other: SessionGuard, *, seconds: float) -> None:
    """For that long, whoever asks for the session waits in vain."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        with pytest.raises(WaitTimedOut):
            async with other.session_lock(SID, wait=0.1):
                pass
