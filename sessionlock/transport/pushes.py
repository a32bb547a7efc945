"""Hearing pushes: which channel a waiter gives to Redis, and the subscriptions to it.

One channel for the whole process; in a Cluster see :mod:`.cluster_pushes`. When a subscription was lost, ``on_gap``
tells that pushes may have been missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, Protocol

import anyio
import hiredis
from redis.exceptions import RedisError

from ..clock import monotonic
from ..protocol.keys import SessionKeys
from .route import NotNow
from .tasks import detached, fetch_error
from .wire import Wire

__all__ = [
    "FAILED",
    "PROVEN_EVERY",
    "PROVEN_WITHIN",
    "TRY_AGAIN_AFTER",
    "ProcessChannel",
    "Pushes",
    "Rounds",
    "at_a_master",
]

PROVEN_WITHIN = 1.0  # seconds for a push connection to show that it lives, when there is doubt
PROVEN_EVERY = 0.5  # seconds between two such doubts while somebody relies on it
TRY_AGAIN_AFTER = 1.0  # seconds between attempts to subscribe where that fails
FAILED = (RedisError, hiredis.ReplyError, OSError, NotNow)


class Pushes(Protocol):
    def channel(self, keys: SessionKeys) -> str:
        """The channel for a session's pushes to this process."""

    def hears(self, keys: SessionKeys) -> bool:
        """Whether a push sent now would arrive."""

    async def listen(self, keys: SessionKeys, token: str, within: float) -> bool:
        """Subscribe for the waiter ``token``, unless that is done. False when Redis does not let us, or not within so
        many seconds: then it goes on, and ``on_gap`` tells when it is done.
        """

    def want(self, keys: SessionKeys, token: str) -> None:
        """The waiter ``token`` relies on what is subscribed."""

    def no_more(self, keys: SessionKeys, token: str) -> None:
        """That waiter waits no more."""

    def check(self) -> None:
        """Somebody relies on it: see whether it lives, if it has not shown that lately, and is at the right server."""

    def mistrust(self) -> None:
        """There is a reason to doubt it, such as a lost connection to the same server: see at once."""

    async def aclose(self) -> None: ...


class Rounds:
    """While somebody waits: ``check`` at once and again and again. A connection that only listens does not notice by
    itself that a firewall has dropped it.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Unless they go on already."""
        if self._timer is None:
            self._next()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _next(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(PROVEN_EVERY, self._next, context=Context())
        self._check()


async def at_a_master(role: asyncio.Future[Any]) -> None:
    """``role``: the reply to ROLE. Where that is not permitted, nothing is known.

    Raises:
        NotNow: it came from a replica. That accepts a subscription, but who listens there is not counted.
    """
    told = await role
    if isinstance(told, list) and told[0] != b"master":
        raise NotNow("READONLY this is a replica")


class _Ear:
    """One push connection. ``at``: the server that it leads to. ``proven_at``: when it was last asked
    to show that it lives.
    """

    __slots__ = ("at", "confirmed", "listening", "proven_at", "wire")

    def __init__(self) -> None:
        self.wire: Wire | None = None
        self.at: tuple[int, object] | None = None
        self.confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.listening = False
        self.proven_at = 0.0


class ProcessChannel:
    """One subscription to one channel, however many wait.

    ``connect``: a coroutine that makes a :class:`Wire` with these hooks; else one like those of ``client`` is made.
    ``on_message`` gets each message, ``on_gap`` is called when messages may have been missed. ``calls_go_to``: which
    server the calls go to, for that is where pushes are to be heard: its address, behind a number that changes when it
    turns out to be another one; None while that is not known.
    """

    def __init__(
        self,
        client: Any,
        channel: str,
        *,
        reply_within: float,
        on_message: Callable[[bytes], None],
        on_gap: Callable[[], None],
        connect: Callable[..., Any] | None = None,
        calls_go_to: Callable[[], tuple[int, object] | None] = lambda: None,
    ) -> None:
        self._name = channel
        self._reply_within = reply_within
        self._on_message = on_message
        self._on_gap = on_gap
        self._connect = connect or partial(_connect_by_pool, client, reply_within)
        self._calls_go_to = calls_go_to
        self._ear: _Ear | None = None
        self._starting: asyncio.Task[None] | None = None
        self._not_before = 0.0
        self._closed = False

    def channel(self, keys: SessionKeys) -> str:
        return self._name

    def hears(self, keys: SessionKeys) -> bool:
        return self._ear is not None and self._ear.listening

    async def listen(self, keys: SessionKeys, token: str, within: float) -> bool:
        if self.hears(keys) or self._closed or monotonic() < self._not_before:
            return self.hears(keys)
        if self._starting is None or self._starting.done():
            self._starting = detached(self._subscribe())
            self._starting.add_done_callback(fetch_error)
        starting = self._starting
        await asyncio.wait([starting], timeout=within)
        if starting.done() and not starting.cancelled():  # closing ends it, and whoever waits for it does without
            starting.result()
        return self.hears(keys)

    def want(self, keys: SessionKeys, token: str) -> None:
        """The subscription stays in any case."""

    def no_more(self, keys: SessionKeys, token: str) -> None:
        """The subscription stays for the next one."""

    def check(self) -> None:
        ear = self._ear
        if ear is None or ear.wire is None:
            return
        if self._calls_go_to() not in (None, ear.at):
            ear.wire.close()
        elif monotonic() - ear.proven_at >= PROVEN_EVERY:
            self.mistrust()

    def mistrust(self) -> None:
        ear = self._ear
        if ear is not None and ear.listening and ear.wire is not None:
            ear.proven_at = monotonic()
            # The answer shows that it lives, and is subscribed.
            ear.wire.tell(("SUBSCRIBE", self._name), within=PROVEN_WITHIN)

    async def _subscribe(self) -> None:
        ear = self._ear = _Ear()
        try:
            with anyio.fail_after(self._reply_within):
                known = self._calls_go_to()
                ear.wire = wire = await self._connect(
                    on_push=partial(self._on_push, ear), on_close=partial(self._lost, ear)
                )
                ear.at = None if known is None else (known[0], wire.address)
                role = wire.call(("ROLE",))
                wire.tell(("SUBSCRIBE", self._name))
                await ear.confirmed
                await at_a_master(role)
            ear.listening = True
            ear.proven_at = monotonic()
            self._on_gap()  # whoever could not be reached has been dropped from the queue
        except FAILED:
            self._not_before = monotonic() + TRY_AGAIN_AFTER
            self._drop()

    def _on_push(self, ear: _Ear, words: list[Any]) -> None:
        kind = words[0]
        if kind == b"message":
            self._on_message(words[2])
        elif not ear.confirmed.done():
            if kind == b"subscribe":
                ear.confirmed.set_result(None)
            else:
                ear.confirmed.set_exception(RedisError(f"subscribing was refused: {words}"))

    def _lost(self, ear: _Ear) -> None:
        if ear is self._ear:
            self._drop()
            self._on_gap()

    def _drop(self) -> None:
        ear, self._ear = self._ear, None
        if ear is None:
            return
        ear.listening = False
        if ear.wire is not None:
            ear.wire.close()
        if not ear.confirmed.done():
            ear.confirmed.set_exception(RedisError("the push connection was lost"))
            ear.confirmed.exception()

    async def aclose(self) -> None:
        self._closed = True
        starting = self._starting
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        self._drop()


async def _connect_by_pool(client: Any, reply_within: float, **hooks: Any) -> Wire:
    return await Wire.open(client.connection_pool.make_connection, reply_within=reply_within, **hooks)
