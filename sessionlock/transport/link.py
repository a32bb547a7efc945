"""The connections of one process' event loop to one server.

One connection that all calls share; and, where saves wait for replicas, a few more, because ``WAIT`` holds up whatever
is sent behind it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis

from ..protocol.calls import Call
from .reply import Reply
from .route import NotNow, meant
from .scripting import Scripting, Way, behind
from .tasks import fetch_error
from .wire import Wire, unsent

__all__ = ["Link"]

A_REPLICA = "replica instances"  # where WAIT cannot be asked: no save was done there
MOST_WAITING = 8  # connections on which saves wait for replicas; more saves than that share them


class Link:
    """``connect`` makes one of redis-py's connections, not yet opened. ``on_break``: a connection was lost."""

    def __init__(self, connect: Callable[[], Any], *, reply_within: float, on_break: Callable[[], None]) -> None:
        self._connect = connect
        self._reply_within = reply_within
        self._on_break = on_break
        self._wire: Wire | None = None
        self._opening: asyncio.Task[None] | None = None
        self._waiting: list[Wire] = []
        self._batches = False
        self._closing = False
        self._dropped = 0
        self._scripting = Scripting()

    @property
    def command(self) -> str:
        """As :attr:`.Route.command`."""
        return self._scripting.command

    def batch_calls(self, wanted: bool) -> None:
        """As :meth:`.Route.batch_calls`."""
        self._batches = wanted

    def begin(self, call: Call[Any]) -> Reply | None:
        """Send it now. The result is the reply, an error reply included, which is for :meth:`otherwise`; None: there is
        no connection.
        """
        wire = self._wire
        if wire is None or wire.closed or not wire.wakes:
            return None
        return wire.begin(self._scripting.way(call), behind(call), self._batches)

    async def otherwise(self, call: Call[Any], refusal: hiredis.ReplyError, *, asking: bool = False) -> Any:
        """The reply to a call whose script was not found, or not run in this way. Raises as :meth:`evaluate` does."""
        way, reply = self._scripting.way_of(refusal), refusal
        while isinstance(reply, hiredis.ReplyError):
            wire = await self.wire()
            way = self._instead(wire, way, reply)
            reply = await wire.post(way(call), behind=behind(call), asking=asking)
        return reply

    async def evaluate(self, call: Call[Any], *, asking: bool = False) -> Any:
        """The script's reply; both replies, where a command is sent :meth:`behind <Call.behind>` the call.

        Raises:
            hiredis.ReplyError: an error reply. redis.exceptions.RedisError, OSError: the connection was lost.
        """
        wire = self._wire
        if wire is None or wire.closed:
            wire = await self.wire()
        reply = await wire.post(self._scripting.way(call), behind=behind(call), asking=asking, soon=self._batches)
        return await self.otherwise(call, reply, asking=asking) if isinstance(reply, hiredis.ReplyError) else reply

    def _instead(self, wire: Wire, way: Way, refusal: hiredis.ReplyError) -> Way:
        instead = self._scripting.instead(wire, way, refusal)
        if instead is None:
            raise refusal
        return instead

    async def evaluate_and_wait(self, call: Call[Any], wait: tuple[Any, ...]) -> tuple[Any, Any]:
        """The script's reply, as of :meth:`evaluate`, and that of the command ``wait``, which follows it on the same
        connection: an error that will be the same the next time (no such command, no permission) is what that came to,
        for the call is done.

        Raises as :meth:`evaluate` does.
        """
        wire = await self._waiting_wire()
        way = self._scripting.way
        while True:
            evaluated = wire.post(way(call), behind=behind(call))
            waited = wire.call(wait)
            reply, reached = await evaluated, await waited
            if not isinstance(reply, hiredis.ReplyError):
                break
            way = self._instead(wire, way, reply)
        if isinstance(reached, hiredis.ReplyError) and _may_differ(reached):
            raise reached
        return reply, reached

    async def _waiting_wire(self) -> Wire:
        self._waiting = [wire for wire in self._waiting if not wire.closed]
        free = next((wire for wire in self._waiting if wire.idle), None)
        if free is None and len(self._waiting) >= MOST_WAITING:
            free = min(self._waiting, key=lambda wire: wire.unanswered)
        if free is None:
            free = await Wire.open(self._connect, reply_within=self._reply_within, on_close=self._broken)
            self._waiting.append(free)
        return free

    async def ask(self, *words: Any) -> Any:
        """The reply to a plain command. Raises as :meth:`evaluate` does."""
        reply = await (await self.wire()).call(words)
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    async def wire(self) -> Wire:
        """The shared connection, opened by the first of all that ask for it."""
        while self._wire is None or self._wire.closed:
            if self._opening is None:
                # A task of its own: whoever asked first may be cancelled, the others still need it.
                self._opening = asyncio.ensure_future(self._open())
                self._opening.add_done_callback(fetch_error)
            opening = self._opening
            try:
                await asyncio.shield(opening)
            except asyncio.CancelledError as error:
                unsent(error)
                raise
            finally:
                if opening.done() and self._opening is opening:
                    self._opening = None
        return self._wire

    async def _open(self) -> None:
        self._closing = False
        wire = await Wire.open(self._connect, reply_within=self._reply_within, on_close=self._broken)
        self._scripting.begin_anew(wire.address)
        self._wire = wire

    def _broken(self) -> None:
        if not self._closing:
            self._on_break()

    @property
    def reached(self) -> bool:
        """Whether there ever was a connection."""
        return self._wire is not None

    @property
    def idle(self) -> bool:
        """Whether no call is waiting for its reply."""
        return all(wire.closed or wire.idle for wire in (self._wire, *self._waiting) if wire is not None)

    def close(self) -> None:
        """Break what is open; it opens again when it is needed again."""
        self._closing = True
        for wire in (self._wire, *self._waiting):
            if wire is not None:
                wire.close()

    @property
    def leads_to(self) -> tuple[int, object] | None:
        """The address of the server, behind the number of times that it was not the right one; None: not connected."""
        wire = self._wire
        return None if wire is None or wire.closed else (self._dropped, wire.address)

    def drop(self) -> None:
        """What is connected here is not what should be (a master that became a replica): connect anew."""
        self._dropped += 1
        self.close()
        self._on_break()

    async def aclose(self) -> None:
        opening = self._opening
        if opening is not None:
            opening.cancel()
            await asyncio.wait([opening])
        self.close()


def _may_differ(refusal: hiredis.ReplyError) -> bool:
    """Whether WAIT may be answered otherwise the next time, or elsewhere."""
    return isinstance(meant(refusal), NotNow) or A_REPLICA in str(refusal)
