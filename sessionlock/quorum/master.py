"""One of the independent masters of a quorum, behind one connection of this process' event loop.

A call to a master is asked once and is not repeated: a quorum can do without the answer. A master that does not answer
is left alone for a moment, so that calls to it do not pile up, and is then tried by one connection at a time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..errors import CodecError, RedisUnavailable
from ..protocol.calls import Abandon, Acquire, Call, by_hash, in_full
from ..protocol.keys import new_token
from ..protocol.quorum_calls import Adopt, Dismiss, Vote
from ..protocol.replies import Handover, pushed
from ..protocol.scripts import script
from ..transport.executor import Executor
from ..transport.pushes import ProcessChannel
from ..transport.wire import Wire, pack, resolve

__all__ = ["Answered", "Master", "NoVote"]

SHORTEST_BREAK = 0.1  # seconds for which a master that failed is left alone, doubled with every failure
LONGEST_BREAK = 2.0
CHANCES = 10
SCRIPTS = ("vote", "raise_fence", "acquire", "adopt", "renew", "abandon")
VOTES = (Vote, Acquire, Adopt)
UPTIME = re.compile(rb"^uptime_in_seconds:(\d+)", re.MULTILINE)


Answered = Callable[[Any], None]


class NoVote(Exception):
    """This master has no say: no answer, a refusal, or it may have forgotten what it granted. The text says why."""


class Refused(NoVote):
    """It answered, with an error: the call changed nothing."""


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
        self.name = name
        self.label = label
        self.rejoin_after = rejoin_after
        self.ahead_us: int | None = None  # its clock less our monotonic one, when it last told, or a little more
        self._client = client
        self._reply_within = reply_within
        self._on_push = on_push
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None
        self._opening: asyncio.Task[Wire] | None = None
        self._arriving: list[tuple[Callable[[Wire], None], Answered]] = []
        self._failures = 0
        self._why = ""
        self._not_before = 0.0
        self._closed = False
        self._up_since = float("-inf")  # monotonic, no earlier than it was
        # Fakes, whose connections cannot be taken over, do not restart either.
        self._by_client = None if Wire.fits(client) else Executor(client, reply_within=reply_within, retry_for=0.001)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._perhaps_here: set[str] = set()  # tokens under which something may stand at this master
        self._debts: list[Abandon | Dismiss] = []
        self._pause = SHORTEST_BREAK
        self._chances = CHANCES  # to come back once the guard was closed
        self._coming_back: asyncio.TimerHandle | None = None
        self.pushes = ProcessChannel(
            client,
            f"{prefix}:push:{new_token()}",
            reply_within=reply_within,
            on_message=self._heard,
            on_gap=lambda: on_gap(self),
        )

    def _heard(self, message: bytes) -> None:
        push = pushed(message)
        if push is not None:
            self._on_push(self, push)

    @property
    def available(self) -> bool:
        """Whether it is not known to be out of reach."""
        return not self._failures and time.monotonic() >= self._not_before

    @property
    def reached(self) -> bool:
        """Whether there ever was a connection."""
        return self._wire is not None or self._by_client is not None

    def plain(self) -> Any:
        """A client of redis-py's for others to use, over this very connection: one answer or none, soon."""
        return self._client if self._by_client is not None else _ByMaster(self, self._client.connection_pool)

    # --- calls

    def send(
        self,
        call: Call[Any],
        answered: Answered,
        *,
        packed: bytes | None = None,
        late: bool = False,
    ) -> None:
        """Ask once. ``answered`` gets the reply or a :class:`NoVote`, perhaps before this returns; it must not raise.

        What a vote grants shall count, so it must have been up for long enough. ``packed``: the call as
        it is sent, for many masters at once. ``late``: behind what waits for a connection that is
        being opened, also when the last one failed.
        """
        wire = self._wire
        if self._by_client is not None:
            self._spawn(self._ask_client(self._by_client, call, answered))
        elif wire is not None and not wire.closed:
            self._send(call, answered, packed, wire)
        else:
            self._connect_for(partial(self._send, call, answered, packed), answered, late=late)

    def command(self, *words: Any) -> asyncio.Future[Any]:
        """The reply to one plain command, an error reply as an exception object; fails with :class:`NoVote`."""
        future: asyncio.Future[Any] = self._loop.create_future()
        answered = partial(resolve, NoVote, future)

        def heard(reply: Any) -> None:
            if isinstance(reply, RedisError):
                self._failed(reply)
                reply = NoVote(self._why)
            answered(reply)

        self._connect_for(lambda wire: wire.send(pack(*words), heard), answered)
        return future

    def _connect_for(self, use: Callable[[Wire], None], answered: Answered, *, late: bool = False) -> None:
        wire = self._wire
        if wire is not None and not wire.closed:
            use(wire)
        elif late and self._opening is not None:
            self._arriving.append((use, answered))
        elif time.monotonic() < self._not_before or (self._failures and self._opening is not None):
            answered(NoVote(self._why))
        else:
            self._arriving.append((use, answered))
            if self._opening is None:
                self._opening = self._spawn(self._open())
                self._opening.add_done_callback(self._opened)

    def _send(self, call: Call[Any], answered: Answered, packed: bytes | None, wire: Wire) -> None:
        if isinstance(call, VOTES):
            if absent := self._absent():
                answered(NoVote(absent))
                return
            if call.token not in self._perhaps_here:
                self._perhaps_here.add(call.token)
                answered = partial(self._first_answered, call.token, answered)
        wire.send(packed or pack(*by_hash(call)), partial(self._answered, wire, call, answered))

    def _first_answered(self, token: str, answered: Answered, reply: Any) -> None:
        """A call that was refused has changed nothing, so when it was the first there is nothing here."""
        if isinstance(reply, Refused):
            self._perhaps_here.discard(token)
        answered(reply)

    def _answered(self, wire: Wire, call: Call[Any], answered: Answered, reply: Any) -> None:
        if isinstance(reply, Exception):
            self._refused(wire, call, answered, reply)
            return
        self._failures = 0
        if self._closed and wire.idle:
            # The guard was closed while a request was inside a block: its end opened the connection once more.
            self._loop.call_soon(self._close_if_idle, wire)
        answered(_outcome(call, reply))

    def _close_if_idle(self, wire: Wire) -> None:
        if wire.idle:
            wire.close()

    def _refused(self, wire: Wire, call: Call[Any], answered: Answered, error: Exception) -> None:
        if not isinstance(error, hiredis.ReplyError):
            self._failed(error)
            answered(NoVote(self._why))
        elif str(error).startswith("NOSCRIPT"):
            wire.send(pack(*in_full(call)), partial(self._answered, wire, call, answered))
        else:
            permit = "; permit it: ACL SETUSER <user> +eval +evalsha" if str(error).startswith("NOPERM") else ""
            answered(Refused(f"refused the {call.script} call: {error}{permit}"))

    async def _ask_client(self, executor: Executor, call: Call[Any], answered: Answered) -> None:
        try:
            outcome = await executor.run(call)
        except (RedisUnavailable, CodecError) as error:
            answered(NoVote(str(error)))
        else:
            answered(outcome)

    def noted(self, token: str) -> None:
        """A plain command, as pottery sends it, took a lock here, or may have."""
        self._perhaps_here.add(token)

    def settle(self, call: Abandon | Dismiss, answered: Answered, *, packed: bytes | None = None) -> None:
        """As :meth:`send`; without an answer it is asked again when the master is back, however late that is."""
        self.send(call, partial(self._settled, call, answered), packed=packed, late=True)

    def _settled(self, call: Abandon | Dismiss, answered: Answered, reply: Any) -> None:
        if not isinstance(reply, NoVote):
            if isinstance(call, Abandon):
                self._perhaps_here.discard(call.token)
            self._pause = SHORTEST_BREAK
        elif self._is_owed(call):
            self._debts.append(call)
            self._come_back()
        answered(reply)

    def _is_owed(self, call: Abandon | Dismiss) -> bool:
        """Only what it was asked for, so that these are few however long it is out of reach."""
        if self._by_client is not None:
            return False
        return isinstance(call, Dismiss) or call.token in self._perhaps_here  # a dismissal is about whoever waits

    def _come_back(self) -> None:
        """With debts, do not wait until somebody else needs this master."""
        if self._coming_back is None and self._chances:
            self._chances -= self._closed
            pause = max(self._pause, self._not_before - time.monotonic())
            self._pause = min(self._pause * 2, LONGEST_BREAK)  # it may answer, and refuse
            self._coming_back = self._loop.call_later(pause, self._try_to_settle)

    def _try_to_settle(self) -> None:
        self._coming_back = None
        if self._debts:
            self._connect_for(self._settle_debts, self._not_settled)

    def _not_settled(self, reply: Any) -> None:
        self._come_back()

    def _settle_debts(self, wire: Wire) -> None:
        """What could not be given up stands there still: a lock, or a place in a queue to which a lock would go."""
        debts, self._debts = self._debts, []
        for call in debts:
            self._send(call, partial(self._settled, call, _ignore), None, wire)

    # --- the connection

    def _opened(self, opening: asyncio.Task[Wire]) -> None:
        """Whoever came meanwhile is served in that order: what gives a vote up must not overtake it."""
        self._opening = None
        arriving, self._arriving = self._arriving, []
        if opening.cancelled() or opening.exception() is not None:
            if not opening.cancelled():
                self._failed(opening.exception())
            why = NoVote("the guard was closed" if opening.cancelled() else self._why)
            for _, answered in arriving:
                answered(why)
            return
        self._wire = wire = opening.result()
        self._settle_debts(wire)
        for use, _ in arriving:
            use(wire)

    async def _open(self) -> Wire:
        wire = await Wire.open(self._client.connection_pool.make_connection, reply_within=self._reply_within)
        for name in SCRIPTS:
            # Beforehand, for a NOSCRIPT would let the next call overtake the one that is sent again.
            wire.send(pack("SCRIPT", "LOAD", script(name).text), _ignore)
        try:
            await self._look_when_it_started(wire)
        except BaseException:
            wire.close()
            raise
        return wire

    async def _look_when_it_started(self, wire: Wire) -> None:
        """Every new connection may lead to a server that has restarted meanwhile."""
        if self.rejoin_after <= 0:
            return
        reply = await wire.call(("INFO", "server"))
        seen = UPTIME.search(reply) if isinstance(reply, bytes) else None
        if seen is None:
            raise RedisError(
                "it does not tell by INFO when it was started, so it may have forgotten what it granted; permit"
                " INFO, or give Quorum(rejoin_after=0) if these masters forget nothing"
            )
        # The server counts whole seconds between whole seconds.
        self._up_since = time.monotonic() - (int(seen[1]) - 1)

    def _failed(self, error: BaseException | None) -> None:
        if isinstance(error, RedisTimeoutError):
            self._why = f"no answer within {self._reply_within:g} s"
        elif isinstance(error, (RedisConnectionError, OSError)):
            self._why = f"cannot be reached: {error}"
        else:
            self._why = str(error) or f"cannot be reached: {error!r}"
        if time.monotonic() >= self._not_before:
            # All calls on a connection that breaks fail at once; that is one failure.
            self._failures += 1
            pause = min(SHORTEST_BREAK * 2 ** (self._failures - 1), LONGEST_BREAK)
            self._not_before = time.monotonic() + pause

    def _absent(self) -> str:
        """Why its grants do not count now; "" when they do."""
        up = time.monotonic() - self._up_since
        if up >= self.rejoin_after:
            return ""
        return f"restarted {max(up, 0.0):.1f} s ago, takes part again in {self.rejoin_after - up:.1f} s"

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def aclose(self) -> None:
        self._closed = True
        if self._coming_back is not None:
            self._coming_back.cancel()
            self._coming_back = None
        await self.pushes.aclose()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        wire = self._wire
        if wire is not None:
            if not wire.idle:
                # What is under way would count as this master's failure, and what gives it up would not be sent.
                with suppress(RedisError):
                    await wire.call(("PING",))
            wire.close()
        if self._by_client is not None:
            await self._by_client.aclose()


class _ByMaster(Redis):
    """redis-py's commands, sent by a :class:`Master`."""

    def __init__(self, master: Master, pool: Any) -> None:
        super().__init__(connection_pool=pool)
        self._master = master

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """The bare reply: what becomes of it in redis-py is not needed."""
        try:
            reply = await self._master.command(*str(args[0]).split(), *args[1:])  # "SCRIPT LOAD" is two words
        except NoVote as why:
            raise RedisConnectionError(str(why)) from None
        if isinstance(reply, hiredis.ReplyError):
            raise NoScriptError(str(reply)) if str(reply).startswith("NOSCRIPT") else ResponseError(str(reply))
        return reply


def _outcome(call: Call[Any], reply: Any) -> Any:
    """A master whose reserved fields are damaged has no say."""
    try:
        return call.outcome(reply)
    except CodecError as error:
        return NoVote(str(error))


def _ignore(reply: Any) -> None:
    """Nobody waits for it."""
