"""The one connection to a master: opened when somebody needs it, left alone for a moment after a failure.

::

    none ──needed──▶ opening ──▶ open ──lost──▶ none
                        └──failed──▶ left alone for a while ──▶ none
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..clock import monotonic
from ..protocol.scripts import script
from ..transport.advice import with_advice
from ..transport.scripting import Scripting
from ..transport.wire import Wire, pack, was_unsent

__all__ = ["Answered", "BackOff", "Connection", "NoVote", "Uptime", "VoteRefused", "ignore"]

SHORTEST_BREAK = 0.1  # seconds for which a master that failed is left alone, doubled with every failure
LONGEST_BREAK = 2.0
SCRIPTS = ("vote", "raise_fence", "acquire", "adopt", "renew", "abandon")
UPTIME = re.compile(rb"^uptime_in_seconds:(\d+)", re.MULTILINE)

Answered = Callable[[Any], None]


class NoVote(Exception):
    """This master has no say: no answer, a refusal, or it may have forgotten what it granted. The text says why."""


class VoteRefused(NoVote):
    """It answered, with an error: the call changed nothing."""


class BackOff:
    """Calls to a master that does not answer do not pile up: until ``not_before`` nobody asks. ``why``: the failure."""

    def __init__(self, reply_within: float) -> None:
        self.failures: int = 0
        self.why: str = ""
        self.not_before: float = 0.0
        self._reply_within = reply_within

    @property
    def is_over(self) -> bool:
        return monotonic() >= self.not_before

    def answered(self) -> None:
        self.failures = 0

    def failed(self, error: BaseException | None) -> NoVote:
        if isinstance(error, RedisTimeoutError):
            self.why = f"no answer within {self._reply_within:g} s"
        elif isinstance(error, (RedisConnectionError, OSError)):
            self.why = with_advice(f"cannot be reached: {error}", error, connecting=was_unsent(error))
        else:
            self.why = with_advice(str(error), str(error)) if str(error) else f"cannot be reached: {error!r}"
        if self.is_over:
            # All calls on a connection that breaks fail at once; that is one failure.
            self.failures += 1
            self.not_before = monotonic() + min(SHORTEST_BREAK * 2 ** (self.failures - 1), LONGEST_BREAK)
        return NoVote(self.why)


class Uptime:
    """Since when a master remembers. For ``rejoin_after`` seconds from its start on, it may have forgotten a grant."""

    def __init__(self, rejoin_after: float) -> None:
        self._rejoin_after = rejoin_after
        self._up_since = float("-inf")  # monotonic, no earlier than it was

    async def look(self, wire: Wire) -> None:
        """Every new connection may lead to a server that has restarted meanwhile."""
        if self._rejoin_after <= 0:
            return
        reply = await wire.call(("INFO", "server"))
        seen = UPTIME.search(reply) if isinstance(reply, bytes) else None
        if seen is None:
            raise RedisError(
                "it does not tell by INFO when it was started, so it may have forgotten what it granted; permit"
                " INFO, or give Quorum(rejoin_after=0) if these masters forget nothing"
            )
        # The server counts whole seconds between whole seconds.
        self._up_since = monotonic() - (int(seen[1]) - 1)

    def absent(self) -> str:
        """Why its grants do not count now; "" when they do."""
        up = monotonic() - self._up_since
        if up >= self._rejoin_after:
            return ""
        return f"restarted {max(up, 0.0):.1f} s ago, takes part again in {self._rejoin_after - up:.1f} s"


class Connection:
    """``on_open``: uses a new connection before all who wait for it."""

    def __init__(
        self, client: Any, *, prefix: str, reply_within: float, rejoin_after: float, on_open: Callable[[Wire], None]
    ) -> None:
        self.back_off: BackOff = BackOff(reply_within)
        self.uptime: Uptime = Uptime(rejoin_after)
        self.last: Wire | None = None  # the last one that was opened, closed or not
        self.arriving: list[tuple[Callable[[Wire], None], Answered]] = []  # who waits until it is opened
        self.scripting: Scripting = Scripting()
        self._client = client
        self._prefix = prefix
        self._reply_within = reply_within
        self._on_open = on_open
        self._opening: asyncio.Task[Wire] | None = None
        self._closed = False

    @property
    def available(self) -> bool:
        """Whether the master is not known to be out of reach."""
        return not self.back_off.failures and self.back_off.is_over

    def use(self, use: Callable[[Wire], None], answered: Answered, *, late: bool = False) -> None:
        """Call ``use`` with the connection once it is open, or ``answered`` with a :class:`NoVote`.

        ``late``: behind what waits for a connection that is being opened, also when the last one failed.
        """
        wire = self.last
        if wire is not None and not wire.closed:
            use(wire)
        elif late and self._opening is not None:
            self.arriving.append((use, answered))
        elif not self.back_off.is_over or (self.back_off.failures and self._opening is not None):
            answered(NoVote(self.back_off.why))
        else:
            self.arriving.append((use, answered))
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._open())
                self._opening.add_done_callback(self._opened)

    def answered(self, wire: Wire) -> None:
        """The master replied."""
        self.back_off.answered()
        if self._closed and wire.idle:
            # The guard was closed while a request was inside a block: its end opened the connection once more.
            asyncio.get_running_loop().call_soon(_close_if_idle, wire)

    async def _open(self) -> Wire:
        wire = await Wire.open(self._client.connection_pool.make_connection, reply_within=self._reply_within)
        try:
            probe = self.scripting.probe(wire, f"{self._prefix}:probe")
            await self.uptime.look(wire)
            # Beforehand, for where one is not found the next call would overtake the one that is sent again.
            if not await self.scripting.prepare(wire, await probe):
                for name in SCRIPTS:
                    wire.send(pack("SCRIPT", "LOAD", script(name).text), ignore)
        except BaseException:
            wire.close()
            raise
        return wire

    def _opened(self, opening: asyncio.Task[Wire]) -> None:
        """Whoever came meanwhile is served in that order: what gives a vote up must not overtake it."""
        self._opening = None
        arriving, self.arriving = self.arriving, []
        if opening.cancelled() or (error := opening.exception()) is not None:
            why = NoVote("the guard was closed") if opening.cancelled() else self.back_off.failed(error)
            for _, answered in arriving:
                answered(why)
            return
        self.last = wire = opening.result()
        self._on_open(wire)
        for use, _ in arriving:
            use(wire)

    async def aclose(self) -> None:
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        wire = self.last
        if wire is not None:
            if not wire.idle:
                # What is under way would count as this master's failure, and what gives it up would not be sent.
                with suppress(RedisError):
                    await wire.call(("PING",))
            wire.close()


def _close_if_idle(wire: Wire) -> None:
    if wire.idle:
        wire.close()


def ignore(reply: Any) -> None:
    """Nobody waits for it."""
