"""One multiplexed connection to Redis: many callers, one socket, replies in order.

redis-py opens it (address, TLS, AUTH, HELLO, SELECT, Sentinel's look-up of the master); then the transport is taken
over, so that a call costs one write and one callback. A cancelled caller leaves the stream intact: its reply is read
and dropped. Calls of one event-loop tick travel together.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeAlias, TypeVar

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..clock import monotonic
from .reply import Reply
from .tasks import detached, within

__all__ = ["Wire", "pack", "resolve", "unsent", "was_unsent"]

E = TypeVar("E", bound=BaseException)
_MORE = object()
_UNSENT = "sessionlock: no call was sent"
_NOTHING = object()
_KEEP = None  # instead of who waits: the reply is kept for who waits for the next one
Answered = Callable[[Any], None]
Hears: TypeAlias = "Answered | Reply | asyncio.Future[Any] | None"
_open_wires: weakref.WeakSet[Wire] = weakref.WeakSet()


def pack(*words: Any) -> bytes:
    """A command as it is sent."""
    packed: bytes = hiredis.pack_command(words)
    return packed


def unsent(error: E) -> E:
    """The error, marked: it came before there was a connection, so the call it ended has not left this process."""
    error.__dict__[_UNSENT] = True
    return error


def was_unsent(error: BaseException) -> bool:
    return _UNSENT in error.__dict__


def resolve(failure: type[Exception], future: asyncio.Future[Any], answer: Any) -> None:
    """What was waited for has come: ``answer``, an error where it is a ``failure``."""
    if future.done():
        return
    if isinstance(answer, failure):
        future.set_exception(answer)
        future.exception()  # a caller that was cancelled will not fetch it
    else:
        future.set_result(answer)


ASKING = pack("ASKING")  # for the very next command


class Wire(asyncio.Protocol):
    """A taken-over connection. ``reply_within``: seconds after which an unanswered call breaks the connection."""

    def __init__(
        self,
        connection: Any,
        *,
        reply_within: float,
        on_push: Callable[[list[Any]], None] | None = None,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self._connection = connection
        self._reply_within = reply_within
        self._on_push = on_push
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._waiting: deque[tuple[Hears, float]] = deque()
        self._outbox: list[bytes] = []
        self._kept: Any = _NOTHING
        self._timer: asyncio.TimerHandle | None = None
        self._probe: asyncio.TimerHandle | None = None
        self.closed: bool = False
        self.wakes: bool = True
        """Whether replies come outside of all tasks."""
        self._transport: Any = getattr(connection._writer, "transport", None)
        if self._transport is not None and hasattr(self._transport, "set_protocol"):
            # The stream writer is kept: when collected it would close the transport.
            self._writer, connection._writer, connection._reader = connection._writer, None, None
            self._transport.set_protocol(self)
            _open_wires.add(self)
        else:
            from .fake import FakeTransport

            self.wakes = False
            self._transport = FakeTransport(connection, self, listens=on_push is not None)

    @classmethod
    async def open(cls, connect: Callable[[], Any], *, reply_within: float, **hooks: Any) -> Wire:
        """Open a connection of redis-py's, outside its pool's limit: waiters must never starve a release.

        ``connect`` makes it, such as a pool's ``make_connection``.

        Raises:
            redis.exceptions.RedisError, OSError: as redis-py does, marked as :func:`unsent`.
        """
        connection = connect()
        try:
            await within(detached(connection.connect()), reply_within)
        except BaseException as error:
            writer, connection._writer, connection._reader = connection._writer, None, None
            if writer is not None:
                writer.transport.abort()  # no await here: this may be a cancellation
            if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
                raise unsent(RedisTimeoutError(f"no connection within {reply_within:g} s")) from None
            if isinstance(error, Exception) and not isinstance(error, (RedisError, OSError, EOFError)):
                # A credential provider's, or of a hook of the application's.
                failed = RedisConnectionError(f"connecting failed: {type(error).__name__}: {error}")
                raise unsent(failed) from error
            unsent(error)
            raise
        return cls(connection, reply_within=reply_within, **hooks)

    # --- callers' side

    def call(self, words: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Send one command. The future's result is the reply; an error reply is an exception *object* as result."""
        return self.post(pack(*words))

    def post(
        self, packed: bytes, *, behind: bytes | None = None, asking: bool = False, soon: bool = False
    ) -> asyncio.Future[Any]:
        """As :meth:`call`, of a packed command.

        ``behind``: another packed command in the same write; then the result is both replies, or the error reply that
        one of them got. ``asking``: both for a Cluster's node that takes the slot over. ``soon``: not at once but at
        the end of this tick, together with what else there is to send.
        """
        future: asyncio.Future[Any] = asyncio.Future(loop=self._loop)
        heard: tuple[Hears, ...] = (future,)
        if behind is not None:
            packed += behind if not asking else ASKING + behind
            heard = (_KEEP, future)
        if asking:
            packed, heard = ASKING + packed, tuple(one for hears in heard for one in (_ignore, hears))
        self.send(packed, *heard, soon=soon)
        return future

    def begin(self, packed: bytes, behind: bytes | None, soon: bool) -> Reply:
        """As :meth:`post`, for one task that waits for the reply at once. Not of fakeredis."""
        reply, waiting = Reply(self._loop), self._waiting
        if behind is not None:
            packed += behind
        if soon or waiting or self._outbox or self._timer is None or self.closed:
            self.send(packed, *((reply,) if behind is None else (_KEEP, reply)), soon=soon)
            return reply
        now = monotonic()  # as send() does, for most calls
        if behind is not None:
            waiting.append((_KEEP, now))
        waiting.append((reply, now))
        self._transport.write(packed)
        return reply

    def send(self, packed: bytes, *answered: Hears, soon: bool = False) -> None:
        """As :meth:`call`, of packed commands, without a future.

        Each of ``answered`` is called as the reply to its command is read, with it; or with a
        :class:`redis.exceptions.RedisError` when there will be none. It must not raise.
        """
        waiting = self._waiting
        if self.closed:
            for hears in answered:
                _tell(hears, RedisConnectionError("the connection is closed"))
            return
        now = monotonic()
        if self._timer is None:
            self._timer = self._loop.call_later(self._reply_within, self._check_age, now, context=Context())
        idle = not waiting and not self._outbox
        for hears in answered:
            waiting.append((hears, now))
        if idle and not soon:
            self._transport.write(packed)
        else:
            self._send_soon(packed)

    def tell(self, words: tuple[Any, ...], *, within: float | None = None) -> None:
        """Send a command whose answer comes as a push (SUBSCRIBE). ``within``: seconds for anything at all to come, or
        the connection is broken.
        """
        if self.closed:
            return
        if within is not None and self._probe is None:
            silent = RedisTimeoutError(f"no answer within {within:g} s")
            self._probe = self._loop.call_later(within, self._break, silent, context=Context())
        self._transport.write(pack(*words))

    def prove(self, within: float) -> None:
        """For a connection that only listens: break it unless the server answers a PING in that many seconds."""
        if self._probe is None:
            self.tell(("PING",), within=within)

    @property
    def address(self) -> object:
        """Of the server, as redis-py was told it, or Sentinel told redis-py."""
        connection = self._connection
        return getattr(connection, "path", None) or (
            getattr(connection, "host", None),
            getattr(connection, "port", None),
        )

    @property
    def idle(self) -> bool:
        """Whether no call is waiting for its reply."""
        return not self._waiting

    @property
    def unanswered(self) -> int:
        """How many calls wait for their replies."""
        return len(self._waiting)

    def close(self) -> None:
        self._break(RedisConnectionError("the connection was closed"))

    def _send_soon(self, packed: bytes) -> None:
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append(packed)

    def _flush(self) -> None:
        if self._outbox and not self.closed:
            self._transport.write(b"".join(self._outbox))
        self._outbox.clear()

    def _check_age(self, oldest: float) -> None:
        """``oldest``: when the call was sent that was the next to be answered at the last check. While others are
        answered the server lives, however many calls it has yet to come to.
        """
        self._timer = None
        if not self._waiting or self.closed:
            return
        now, sent = monotonic(), self._waiting[0][1]
        if sent <= oldest and now >= sent + self._reply_within:
            self._break(RedisTimeoutError(f"no answer within {self._reply_within:g} s"))
            return
        left = sent + self._reply_within - now
        if left <= 0:  # those before it were answered meanwhile
            left = self._reply_within
        self._timer = self._loop.call_later(left, self._check_age, sent, context=Context())

    # --- the transport's side

    def data_received(self, data: bytes) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None
        reader = self._reader
        reader.feed(data)
        try:
            while not self.closed:  # as one who heard may have done
                reply = reader.gets()
                if reply is _MORE:
                    return
                self.heard(reply)
        except hiredis.ProtocolError as error:
            self._break(RedisConnectionError(f"not the Redis protocol: {error}"))
        except (SystemExit, KeyboardInterrupt) as error:
            # A task's that goes on with its reply, and for the loop; uvloop would take it for the protocol's, and go
            # on. The loop ends before what else was read wakes anybody.
            self._loop.call_soon(_end_loop, error)
            self._loop.call_soon(self.data_received, b"")

    def heard(self, reply: Any) -> None:
        """A whole reply, or a push."""
        if not self._waiting or reply.__class__ is hiredis.PushNotification:
            if self._on_push is not None:
                self._on_push(list(reply) if isinstance(reply, list) else [b"error", reply])
            return
        hears = self._waiting.popleft()[0]
        if hears is None:
            self._kept = reply
        elif isinstance(hears, Reply):
            hears.answer(reply if self._kept is _NOTHING else self._both(reply))
        elif isinstance(hears, asyncio.Future):
            if self._kept is not _NOTHING:
                reply = self._both(reply)
            if not hears.done():
                hears.set_result(reply)
        else:
            hears(reply)

    def _both(self, reply: Any) -> Any:
        """The replies to a call and to the command behind it, for one who waits for both; or the error one met."""
        first, self._kept = self._kept, _NOTHING
        if isinstance(first, hiredis.ReplyError):
            return first
        return reply if isinstance(reply, hiredis.ReplyError) else (first, reply)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(RedisConnectionError(f"the connection was lost: {exc or 'closed by the server'}"))

    def _break(self, error: Exception) -> None:
        if self.closed:
            return
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._probe is not None:
            self._probe.cancel()
        self._transport.abort()
        if self._waiting and isinstance(self._kept, hiredis.ReplyError):
            self.heard(self._kept)  # it says why the server hung up, and no reply to what was sent behind will come
        while self._waiting:
            _tell(self._waiting.popleft()[0], error)
        if self._on_close is not None:
            self._on_close()


def _tell(hears: Hears, error: Exception) -> None:
    if isinstance(hears, Reply):
        hears.fail(error)
    elif isinstance(hears, asyncio.Future):
        resolve(RedisError, hears, error)
    elif hears is not None:
        hears(error)


def _end_loop(error: BaseException) -> None:
    raise error


def _ignore(reply: Any) -> None:
    """Nobody waits for it."""


def _let_go_after_fork() -> None:
    """In a forked child the parent's sockets must neither be used nor keep the parent's connections open.

    Closing the transports would touch the event loop's epoll set, which is shared with the parent; putting /dev/null
    in the sockets' place touches only this process.
    """
    fds = [
        wire._transport.get_extra_info("socket").fileno()
        for wire in list(_open_wires)
        if not wire.closed and wire._transport.get_extra_info("socket") is not None
    ]
    if not fds:
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        if fd >= 0:
            os.dup2(nothing, fd)
    os.close(nothing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_after_fork)
