"""Hearing pushes: which channel a waiter gives to Redis, and the subscriptions to it.

One channel for the whole process; in a Cluster see :mod:`.cluster_pushes`. When a subscription was lost, ``on_gap``
tells that pushes may have been missed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import anyio
import hiredis
from redis.exceptions import RedisError

from ..clock import monotonic
from ..protocol.keys import SessionKeys
from .route import NotNow
from .tasks import detached
from .wire import Wire

__all__ = ["FAILED", "PROVEN_WITHIN", "TRY_AGAIN_AFTER", "ProcessChannel", "Pushes"]

PROVEN_WITHIN = 1.0  # seconds for a push connection to show that it lives, when there is doubt
TRY_AGAIN_AFTER = 1.0  # seconds between attempts to subscribe where that fails
FAILED = (RedisError, hiredis.ReplyError, OSError, NotNow)


class Pushes(Protocol):
    def channel(self, keys: SessionKeys) -> str:
        """The channel for a session's pushes to this process."""

    def hears(self, keys: SessionKeys) -> bool:
        """Whether a push sent now would arrive."""

    async def listen(self, keys: SessionKeys, token: str) -> bool:
        """Subscribe for the waiter ``token``, unless that is done. False when Redis does not let us."""

    def want(self, keys: SessionKeys, token: str) -> None:
        """The waiter ``token`` relies on what is subscribed."""

    def no_more(self, keys: SessionKeys, token: str) -> None:
        """That waiter waits no more."""

    def mistrust(self) -> None:
        """Something else that was connected to the same server has broken: see whether this lives."""

    async def aclose(self) -> None: ...


class ProcessChannel:
    """One subscription to one channel, however many wait.

    ``connect``: a coroutine that makes a :class:`Wire` with these hooks; else one like those of ``client`` is made.
    ``on_message`` gets each message, ``on_gap`` is called when messages may have been missed.
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
    ) -> None:
        self._name = channel
        self._client = client
        self._reply_within = reply_within
        self._on_message = on_message
        self._on_gap = on_gap
        self._connect = connect or self._connect_by_pool
        self._listening = False
        self._starting: asyncio.Task[None] | None = None
        self._wire: Wire | None = None
        self._confirmed: asyncio.Future[None] | None = None
        self._not_before = 0.0
        self._closed = False

    def channel(self, keys: SessionKeys) -> str:
        return self._name

    def hears(self, keys: SessionKeys) -> bool:
        return self._listening

    async def listen(self, keys: SessionKeys, token: str) -> bool:
        if self._listening or self._closed or monotonic() < self._not_before:
            return self._listening
        if self._starting is None or self._starting.done():
            self._starting = detached(self._subscribe())
        starting = self._starting
        await asyncio.wait([starting])
        if not starting.cancelled():  # closing ends it, and whoever waits for it does without
            starting.result()
        return self._listening

    def want(self, keys: SessionKeys, token: str) -> None:
        """The subscription stays in any case."""

    def no_more(self, keys: SessionKeys, token: str) -> None:
        """The subscription stays for the next one."""

    def mistrust(self) -> None:
        if self._listening and self._wire is not None:
            self._wire.prove(PROVEN_WITHIN)

    async def _subscribe(self) -> None:
        try:
            with anyio.fail_after(self._reply_within):
                self._confirmed = asyncio.get_running_loop().create_future()
                self._wire = await self._connect(on_push=self._on_push, on_close=self._lost)
                self._wire.tell(("SUBSCRIBE", self._name))
                await self._confirmed
            self._listening = True
            self._on_gap()  # whoever could not be reached has been dropped from the queue
        except FAILED:
            self._not_before = monotonic() + TRY_AGAIN_AFTER
            self._drop()

    async def _connect_by_pool(self, **hooks: Any) -> Wire:
        return await Wire.open(self._client.connection_pool.make_connection, reply_within=self._reply_within, **hooks)

    def _on_push(self, words: list[Any]) -> None:
        kind = words[0]
        if kind == b"message":
            self._on_message(words[2])
        elif self._confirmed is not None and not self._confirmed.done():
            if kind == b"subscribe":
                self._confirmed.set_result(None)
            else:
                self._confirmed.set_exception(RedisError(f"subscribing was refused: {words}"))

    def _lost(self) -> None:
        self._drop()
        self._on_gap()

    def _drop(self) -> None:
        self._listening = False
        wire, self._wire = self._wire, None
        if wire is not None:
            wire.close()
        if self._confirmed is not None and not self._confirmed.done():
            self._confirmed.set_exception(RedisError("the push connection was lost"))
            self._confirmed.exception()

    async def aclose(self) -> None:
        self._closed = True
        starting = self._starting
        if starting is not None:
            starting.cancel()
            await asyncio.wait([starting])
        self._drop()
