"""One of the independent masters of a quorum, behind one connection of this process' event loop.

A call to a master is asked once and is not repeated: a quorum can do without the answer. A master that does not answer
is left alone for a moment, so that calls to it do not pile up, and is then tried by one connection at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import hiredis
from redis.exceptions import RedisError

from ..errors import CodecError
from ..protocol.calls import Abandon, Acquire, Call
from ..protocol.keys import new_token
from ..protocol.quorum_calls import Adopt, Dismiss, Vote
from ..protocol.replies import Handover, pushed
from ..transport.advice import with_advice
from ..transport.pushes import ProcessChannel
from ..transport.scripting import Packing, Way
from ..transport.wire import Wire, pack, resolve
from .connection import Answered, Connection, NoVote, VoteRefused
from .debts import Debts

__all__ = ["Master", "NoVote"]

VOTES = (Vote, Acquire, Adopt)


class Master:
    """``name``: in the vector of counters. ``label``: for people. ``reply_within``, ``rejoin_after``: seconds.

    ``on_push``: what was pushed. ``on_gap``: pushes may have been missed.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        label: str,
        *,
        prefix: str,
        reply_within: float,
        rejoin_after: float,
        on_push: Callable[[Master, Handover], None],
        on_gap: Callable[[Master], None],
    ) -> None:
        self.client = client
        self.name = name
        self.label = label
        self.ahead_us: int | None = None  # its clock less our monotonic one, when it last told, or a little more
        # The way there.
        self.connection: Connection = Connection(
            client,
            prefix=prefix,
            reply_within=reply_within,
            rejoin_after=rejoin_after,
            on_open=lambda wire: self.debts.settle(wire),
        )
        self.debts: Debts = Debts(self.connection, lambda wire, call, answered: self._send(call, answered, None, wire))
        # And back.
        self._on_push = on_push
        self.pushes: ProcessChannel = ProcessChannel(
            client,
            f"{prefix}:push:{new_token()}",
            reply_within=reply_within,
            on_message=self._heard,
            on_gap=lambda: on_gap(self),
        )

    def told_time(self, server_us: int, asked_at: float) -> None:
        """Its clock, in reply to what it was asked then."""
        self.ahead_us = server_us - int(asked_at * 1_000_000)

    def _heard(self, message: bytes) -> None:
        push = pushed(message)
        if push is not None:
            self._on_push(self, push)

    @property
    def available(self) -> bool:
        """Whether it is not known to be out of reach."""
        return self.connection.available

    @property
    def reached(self) -> bool:
        """Whether there ever was a connection."""
        return self.connection.last is not None

    # --- calls

    def send(
        self,
        call: Call[Any],
        answered: Answered,
        *,
        packing: Packing | None = None,
        late: bool = False,
    ) -> None:
        """Ask once. ``answered`` gets the outcome or a :class:`NoVote`, perhaps before this returns; it must not raise.

        What a vote grants shall count, so it must have been up for long enough. ``packing``: the
        call as it is sent to many masters at once. ``late``: as in :meth:`Connection.use`.
        """
        self.connection.use(partial(self._send, call, answered, packing), answered, late=late)

    def command(self, *words: Any) -> asyncio.Future[Any]:
        """The reply to one plain command, an error reply as an exception object; fails with :class:`NoVote`."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answered = partial(resolve, NoVote, future)

        def heard(reply: Any) -> None:
            answered(self.connection.back_off.failed(reply) if isinstance(reply, RedisError) else reply)

        self.connection.use(lambda wire: wire.send(pack(*words), heard), answered)
        return future

    def _send(self, call: Call[Any], answered: Answered, packing: Packing | None, wire: Wire) -> None:
        if isinstance(call, VOTES):
            if absent := self.connection.uptime.absent():
                answered(NoVote(absent))
                return
            answered = self.debts.asked(call.token, answered)
        way = self.connection.scripting.way
        packed = way(call) if packing is None else packing.by(way)
        wire.send(packed, partial(self._answered, wire, call, way, answered))

    def _answered(self, wire: Wire, call: Call[Any], way: Way, answered: Answered, reply: Any) -> None:
        if isinstance(reply, Exception):
            self._refused(wire, call, way, answered, reply)
            return
        self.connection.answered(wire)
        answered(_outcome(call, reply))

    def _refused(self, wire: Wire, call: Call[Any], way: Way, answered: Answered, error: Exception) -> None:
        if not isinstance(error, hiredis.ReplyError):
            answered(self.connection.back_off.failed(error))
        elif (instead := self.connection.scripting.instead(wire, way, error)) is not None:
            wire.send(instead(call), partial(self._answered, wire, call, instead, answered))
        else:
            answered(VoteRefused(with_advice(f"refused the {call.script} call: {error}", error)))

    # --- what stands there

    def noted(self, token: str) -> None:
        """A plain command, as pottery sends it, took a lock here, or may have."""
        self.debts.perhaps_here.add(token)

    def settle(self, call: Abandon | Dismiss, answered: Answered, *, packing: Packing | None = None) -> None:
        """As :meth:`send`; without an answer it is asked again when the master is back, however late that is."""
        self.send(call, partial(self.debts.settled, call, answered), packing=packing, late=True)

    async def aclose(self) -> None:
        self.debts.close()
        await self.pushes.aclose()
        await self.connection.aclose()


def _outcome(call: Call[Any], reply: Any) -> Any:
    """A master whose reserved fields are damaged has no say."""
    try:
        return call.outcome(reply)
    except CodecError as error:
        return NoVote(str(error))
