"""The independent masters of a quorum, each behind one connection of this process' event loop.

A call to a master is asked once and is not repeated: a quorum can do without the answer. A master that does not answer
is left alone for a moment, so that calls to it do not pile up, and is then tried by one connection at a time.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from .errors import RedisUnavailable
from .executor import Executor
from .keys import new_token
from .protocol import PATIENCE, Call, Handover, pushed
from .pushes import ProcessChannel
from .scripts import Script, script
from .wire import Wire, WireUnsupported

__all__ = ["Master", "Masters", "Silent"]

SHORTEST_BREAK = 0.1  # seconds for which a master that failed is left alone, doubled with every failure
LONGEST_BREAK = 2.0
MOST_DEBTS = 1000
UPTIME = re.compile(rb"^uptime_in_seconds:(\d+)", re.MULTILINE)
TROUBLE = (RedisError, hiredis.ReplyError, OSError, EOFError, WireUnsupported)


class Silent(Exception):
    """This master has no say: no answer, a refusal, or it may have forgotten what it granted. The text says why."""


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
        self._client = client
        self._reply_within = reply_within
        self._on_push = on_push
        self._loop = asyncio.get_running_loop()
        self._wire: Wire | None = None
        self._opening: asyncio.Task[None] | None = None
        self._failures = 0
        self._why = ""
        self._not_before = 0.0
        self._closed = False
        self._up_since = float("-inf")  # monotonic, no earlier than it was
        # Fakes, whose connections cannot be taken over, do not restart either.
        self._by_client = None if Wire.fits(client) else Executor(client, reply_within=reply_within, retry_for=0.001)
        self._plain: Any = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._debts: deque[tuple[float, Call]] = deque(maxlen=MOST_DEBTS)
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

    def plain(self) -> Any:
        """A client of redis-py's for others to use: one answer or none, soon."""
        if self._plain is None:
            pool = self._client.connection_pool
            settings = {
                **pool.connection_kwargs,
                "socket_timeout": self._reply_within,
                "socket_connect_timeout": self._reply_within,
                "retry": Retry(NoBackoff(), 0),
            }
            own = ConnectionPool(connection_class=pool.connection_class, **settings)
            self._plain = Redis(connection_pool=own) if self._by_client is None else self._client
        return self._plain

    # --- calls

    def ask(self, call: Call, *, voting: bool = False) -> asyncio.Future[Any]:
        """The script's reply; fails with :class:`Silent`.

        ``voting``: what it grants shall count, so it must have been up for long enough.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        wire = self._wire
        if self._by_client is not None:
            self._spawn(self._ask_client(self._by_client, call, future))
        elif wire is not None and not wire.closed:
            self._send(wire, call, future, voting)
        elif time.monotonic() < self._not_before or (self._failures and self._opening is not None):
            _fail(future, Silent(self._why))
        else:
            self._spawn(self._connect_and_send(call, future, voting))
        return future

    def _send(self, wire: Wire, call: Call, future: asyncio.Future[Any], voting: bool) -> None:
        absent = self._absent() if voting else ""
        if absent:
            _fail(future, Silent(absent))
            return
        text = script(call.script)
        words = ("EVALSHA", text.sha, len(call.keys), *call.keys, *call.args)
        sent = wire.call(words)
        sent.add_done_callback(lambda sent: self._answered(sent, wire, text, call, future))

    def _answered(
        self, sent: asyncio.Future[Any], wire: Wire, text: Script | None, call: Call, future: asyncio.Future[Any]
    ) -> None:
        error = sent.exception()
        if error is not None:
            self._failed(error)
            _fail(future, Silent(self._why))
            return
        reply = sent.result()
        self._failures = 0
        if self._closed and wire.idle:
            # The guard was closed while a request was inside a block: its end opened the connection once more.
            self._loop.call_soon(wire.close)
        if not isinstance(reply, hiredis.ReplyError):
            if not future.done():
                future.set_result(reply)
        elif text is not None and str(reply).startswith("NOSCRIPT"):
            words = ("EVAL", text.text, len(call.keys), *call.keys, *call.args)
            wire.call(words).add_done_callback(lambda sent: self._answered(sent, wire, None, call, future))
        else:
            _fail(future, Silent(f"refused the {call.script} call: {reply}"))

    async def _ask_client(self, executor: Executor, call: Call, future: asyncio.Future[Any]) -> None:
        try:
            reply = await executor.run(call)
        except RedisUnavailable as error:
            _fail(future, Silent(str(error)))
        else:
            if not future.done():
                future.set_result(reply)

    async def _connect_and_send(self, call: Call, future: asyncio.Future[Any], voting: bool) -> None:
        try:
            wire = await self._connected()
        except TROUBLE as error:
            _fail(future, Silent(self._why or str(error)))
        except asyncio.CancelledError:
            _fail(future, Silent("the guard was closed"))
            raise
        else:
            self._send(wire, call, future, voting)

    def settle(self, call: Call) -> asyncio.Future[Any]:
        """As :meth:`ask`; without an answer it is asked once more when the master is back."""
        future = self.ask(call)
        future.add_done_callback(lambda reply: self._settled(call, reply))
        return future

    def _settled(self, call: Call, reply: asyncio.Future[Any]) -> None:
        if not reply.cancelled() and reply.exception() is not None and self._by_client is None:
            self._debts.append((time.monotonic() + PATIENCE, call))

    def _settle_debts(self, wire: Wire) -> None:
        """What could not be given up stands there still: a lock, or a place in a queue to which a lock would go."""
        now = time.monotonic()
        while self._debts:
            until, call = self._debts.popleft()
            if now < until:
                self._send(wire, call, self._loop.create_future(), False)

    # --- the connection

    async def _connected(self) -> Wire:
        if self._wire is None or self._wire.closed:
            if self._opening is None:
                self._opening = self._spawn(self._open())
                self._opening.add_done_callback(self._opened)
            await asyncio.shield(self._opening)
        assert self._wire is not None
        return self._wire

    def _opened(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is not None:
            self._failed(opening.exception())

    async def _open(self) -> None:
        wire = await Wire.open(self._client.connection_pool.make_connection, reply_within=self._reply_within)
        if self.rejoin_after > 0:
            # Every new connection may lead to a server that has restarted meanwhile.
            reply = await wire.call(("INFO", "server"))
            seen = UPTIME.search(reply) if isinstance(reply, bytes) else None
            if seen is None:
                wire.close()
                raise RedisError(
                    "it does not tell by INFO when it was started, so it may have forgotten what it granted; permit"
                    " INFO, or give Quorum(rejoin_after=0) if these masters forget nothing"
                )
            # The server counts whole seconds between whole seconds.
            self._up_since = time.monotonic() - (int(seen[1]) - 1)
        self._wire = wire
        self._settle_debts(wire)

    def _failed(self, error: BaseException | None) -> None:
        if isinstance(error, RedisTimeoutError):
            self._why = f"no answer within {self._reply_within:g} s"
        elif isinstance(error, (RedisConnectionError, OSError)):
            self._why = f"cannot be reached: {error}"
        else:
            self._why = str(error)
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
        await self.pushes.aclose()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._wire is not None:
            self._wire.close()
        if self._by_client is not None:
            await self._by_client.aclose()
        elif self._plain is not None:
            await self._plain.aclose(close_connection_pool=True)


class Voter:
    """What waits for pushes: an acquisition that is under way."""

    def pushed(self, master: Master, push: Handover) -> None:
        raise NotImplementedError

    def look(self) -> None:
        """It is this one's turn to look."""
        raise NotImplementedError

    def gap(self, master: Master) -> None:
        """Pushes of that master may have been missed."""
        raise NotImplementedError


class Masters:
    """All of them, for one event loop. ``make``: makes each with these hooks."""

    def __init__(self, make: Callable[..., Sequence[Master]]) -> None:
        self._voters: dict[str, Voter] = {}
        self._rooms: dict[str, dict[str, Voter]] = {}  # session -> its waiters here, first come first
        self._settling: set[asyncio.Future[None]] = set()
        self.all = make(on_push=self._pushed, on_gap=self._gap)
        self.majority = len(self.all) // 2 + 1

    # --- who waits here

    def expect(self, token: str, voter: Voter) -> None:
        """Pushes for ``token`` may come from now on."""
        self._voters[token] = voter

    def join(self, digest: str, token: str, voter: Voter) -> None:
        self._rooms.setdefault(digest, {})[token] = voter

    def leave(self, digest: str, token: str) -> None:
        self._voters.pop(token, None)
        room = self._rooms.get(digest)
        if room is None:
            return
        was_foremost = next(iter(room), None) == token
        room.pop(token, None)
        if not room:
            del self._rooms[digest]
        elif was_foremost:
            next(iter(room.values())).look()

    def foremost(self, digest: str, token: str) -> bool:
        """Whether ``token`` looks on behalf of all of this process that wait for that session."""
        return next(iter(self._rooms.get(digest, ())), None) == token

    def _pushed(self, master: Master, push: Handover) -> None:
        voter = self._voters.get(push.token)
        if voter is not None:
            voter.pushed(master, push)
        # Otherwise it left meanwhile, and its abandon call hands the lock on.

    def _gap(self, master: Master) -> None:
        for voter in list(self._voters.values()):
            voter.gap(master)

    # --- all at once

    async def ask(self, call: Call, enough: Callable[[dict[str, Any]], bool] | None = None) -> dict[str, Any]:
        """Each master's reply, or its :class:`Silent`, as soon as they are ``enough`` (default: all)."""
        answers: dict[str, Any] = {}
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def answered(name: str, future: asyncio.Future[Any]) -> None:
            if future.cancelled():
                return
            answers[name] = future.exception() or future.result()
            if not done.done() and (len(answers) == len(self.all) or (enough is not None and enough(answers))):
                done.set_result(None)

        for master in self.all:
            future = master.ask(call)
            future.add_done_callback(lambda future, name=master.name: answered(name, future))  # type: ignore[misc]
        await done
        return dict(answers)

    def settle(self, call: Call) -> asyncio.Future[None]:
        """Give up what ``call`` abandons, sent before this returns; done when a majority has, or all have answered."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        settled: list[bool] = []
        self._settling.add(done)
        done.add_done_callback(self._settling.discard)

        def answered(reply: asyncio.Future[Any]) -> None:
            settled.append(not reply.cancelled() and reply.exception() is None)
            if not done.done() and (sum(settled) >= self.majority or len(settled) == len(self.all)):
                done.set_result(None)

        for master in self.all:
            master.settle(call).add_done_callback(answered)
        return done

    async def aclose(self) -> None:
        if self._settling:
            await asyncio.wait(list(self._settling))
        for master in self.all:
            await master.aclose()


def _fail(future: asyncio.Future[Any], error: Silent) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # nobody may be left to fetch it
