"""Hearing pushes in a Cluster: from Redis 7.0 on by one channel per session that is waited for.

Sharded pub/sub stays within the session's shard, where a classic push goes to every node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import hiredis
from redis.exceptions import RedisError

from ..clock import monotonic
from ..protocol.keys import SessionKeys, new_token
from .cluster import Address, ClusterRoute, slot_of_name
from .pushes import FAILED, PROVEN_EVERY, PROVEN_WITHIN, ProcessChannel, Pushes, at_a_master
from .route import NotNow
from .tasks import detached, fetch_error
from .wire import Wire

__all__ = ["ClusterPushes", "ShardChannels"]


class _Shard:
    """The push connection to one master of a cluster, and what is subscribed on it."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.asked: dict[bytes, asyncio.Future[None]] = {}
        self._proven_at = monotonic()

    def check(self) -> None:
        """Unless it was opened, or asked to show that it lives, lately."""
        now = monotonic()
        if now - self._proven_at >= PROVEN_EVERY:
            self._proven_at = now
            self.wire.prove(PROVEN_WITHIN)

    def fail(self, error: Exception) -> None:
        for asked in self.asked.values():
            if not asked.done():
                asked.set_exception(error)
                asked.exception()
        self.asked.clear()


class ShardChannels:
    """Sharded pub/sub: one channel per session that somebody here waits for, one connection per master.

    The channel lies in the session's own slot, so its node knows all its subscribers: a push count is exact.
    """

    def __init__(
        self,
        route: ClusterRoute,
        prefix: str,
        *,
        reply_within: float,
        on_message: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._route = route
        self._prefix = prefix
        self._name = new_token()
        self._reply_within = reply_within
        self._on_message = on_message
        self._on_gap = on_gap
        self._shards: dict[Address, _Shard] = {}
        self._opening: dict[Address, asyncio.Task[_Shard]] = {}
        self._subscribing: dict[bytes, asyncio.Task[None]] = {}
        self._where: dict[bytes, Address] = {}
        self._wanted: dict[bytes, set[str]] = {}
        self._closed = False

    def channel(self, keys: SessionKeys) -> str:
        return f"{self._prefix}:{{{keys.digest}}}:push:{self._name}"

    def hears(self, keys: SessionKeys) -> bool:
        return self.channel(keys).encode() in self._where

    async def listen(self, keys: SessionKeys, token: str, within: float) -> bool:
        """Raises :class:`SubscribingRefused` when the server knows no sharded pub/sub, or forbids it."""
        channel = self.channel(keys).encode()
        self.want(keys, token)
        if channel in self._where or self._closed:
            return channel in self._where
        subscribing = self._subscribing.get(channel)
        if subscribing is None:
            subscribing = self._subscribing[channel] = detached(self._subscribe(keys, channel))
            subscribing.add_done_callback(partial(self._ended, channel))
            subscribing.add_done_callback(fetch_error)
        await asyncio.wait([subscribing], timeout=within)
        if subscribing.done() and not subscribing.cancelled():  # closing ends it, and who waits for it does without
            subscribing.result()
        return channel in self._where

    def _ended(self, channel: bytes, subscribing: asyncio.Task[None]) -> None:
        if self._subscribing.get(channel) is subscribing:
            del self._subscribing[channel]

    def want(self, keys: SessionKeys, token: str) -> None:
        self._wanted.setdefault(self.channel(keys).encode(), set()).add(token)

    async def _subscribe(self, keys: SessionKeys, channel: bytes) -> None:
        try:
            with anyio.fail_after(self._reply_within):
                await self._ask(await self._shard(await self._route.owner(keys)), channel)
        except hiredis.ReplyError as error:
            if not str(error).startswith(("MOVED", "ASK", "CLUSTERDOWN", "TRYAGAIN")):
                raise SubscribingRefused(str(error)) from error
            self._route.mistrust()
        except NotNow:
            self._route.mistrust()
        except FAILED:
            pass  # whoever waits looks by itself, and tries again then

    async def _ask(self, shard: _Shard, channel: bytes) -> None:
        asked = shard.asked.get(channel)
        if asked is None:
            asked = shard.asked[channel] = asyncio.get_running_loop().create_future()
            shard.wire.tell(("SSUBSCRIBE", channel), within=PROVEN_WITHIN)
        await asyncio.shield(asked)

    async def _shard(self, address: Address) -> _Shard:
        known = self._shards.get(address)
        if known is not None and not known.wire.closed:
            return known
        opening = self._opening.get(address)
        if opening is None:
            opening = self._opening[address] = detached(self._open(address))
            opening.add_done_callback(lambda _: self._opening.pop(address, None))
            opening.add_done_callback(fetch_error)
        await asyncio.wait([opening])
        if opening.cancelled():
            raise RedisError("the guard was closed")
        return opening.result()

    async def _open(self, address: Address) -> _Shard:
        shard: _Shard
        wire = await Wire.open(
            self._route.connects(address),
            reply_within=self._reply_within,
            on_push=lambda words: self._on_push(address, shard, words),
            on_close=lambda: self._lost(address),
        )
        try:
            await at_a_master(wire.call(("ROLE",)))
        except BaseException:
            wire.close()
            raise
        shard = self._shards[address] = _Shard(wire)
        return shard

    def _on_push(self, address: Address, shard: _Shard, words: list[Any]) -> None:
        kind = words[0]
        if kind == b"smessage":
            self._on_message(words[2])
        elif kind == b"ssubscribe":
            self._subscribed(address, shard, words[1])
        elif kind == b"sunsubscribe":
            if words[1] is not None and self._where.get(words[1]) == address:
                # Not asked for: its slot has moved to another node.
                del self._where[words[1]]
                self._route.mistrust()
                self._on_gap()
        elif isinstance(words[-1], Exception) and shard.asked:
            # Replies come in order, so it is the oldest that was refused.
            asked = shard.asked.pop(next(iter(shard.asked)))
            if not asked.done():
                asked.set_exception(words[-1])
                asked.exception()

    def _subscribed(self, address: Address, shard: _Shard, channel: bytes) -> None:
        asked = shard.asked.pop(channel, None)
        if asked is not None:
            # Over by now: where the channel is given back, who wants it anew does not wait for this task's last steps.
            self._subscribing.pop(channel, None)
            if not asked.done():
                asked.set_result(None)
        if channel not in self._wanted:
            shard.wire.tell(("SUNSUBSCRIBE", channel))  # who asked for it left meanwhile
            return
        self._where[channel] = address
        self._on_gap()  # whoever could not be reached has been dropped from the queue

    def no_more(self, keys: SessionKeys, token: str) -> None:
        channel = self.channel(keys).encode()
        wanted = self._wanted.get(channel)
        if wanted is None:
            return
        wanted.discard(token)
        if wanted:
            return
        del self._wanted[channel]
        address = self._where.pop(channel, None)
        shard = self._shards.get(address) if address is not None else None
        if shard is not None:
            shard.wire.tell(("SUNSUBSCRIBE", channel))

    def check(self) -> None:
        """What is relied on lives, and is subscribed at the slot's master: not at one that has become a replica."""
        relied_on: set[Address] = set()
        for channel, address in list(self._where.items()):
            if self._route.map.owner(slot_of_name(channel)) not in (None, address):
                self._move(channel, address)
            relied_on.add(address)
        for address in relied_on & self._shards.keys():
            self._shards[address].check()

    def _move(self, channel: bytes, address: Address) -> None:
        """The waiters are told to look, and subscribe anew."""
        del self._where[channel]
        if address in self._shards:
            self._shards[address].wire.tell(("SUNSUBSCRIBE", channel))
        self._on_gap()

    def mistrust(self) -> None:
        for shard in list(self._shards.values()):
            shard.wire.prove(PROVEN_WITHIN)

    def _lost(self, address: Address) -> None:
        self._route.mistrust()
        if address in self._shards:
            self._drop(address)
            self._on_gap()

    def _drop(self, address: Address) -> None:
        shard = self._shards.pop(address, None)
        for channel in [channel for channel, where in self._where.items() if where == address]:
            del self._where[channel]
        if shard is not None:
            shard.fail(RedisError("the push connection was lost"))
            shard.wire.close()

    async def aclose(self) -> None:
        self._closed = True
        ending: list[asyncio.Task[Any]] = [*self._subscribing.values(), *self._opening.values()]
        for task in ending:
            task.cancel()
        if ending:
            await asyncio.wait(ending)
        for address in list(self._shards):
            self._drop(address)


class SubscribingRefused(Exception):
    """The server answered that it does not know, or does not permit, sharded pub/sub."""


class ClusterPushes:
    """Sharded pub/sub; from the first refusal on classic pub/sub, which any node passes on to all (before 7.0)."""

    def __init__(
        self,
        route: ClusterRoute,
        prefix: str,
        *,
        reply_within: float,
        on_message: Callable[[bytes], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._route = route
        self._reply_within = reply_within
        self._sharded = ShardChannels(route, prefix, reply_within=reply_within, on_message=on_message, on_gap=on_gap)
        self._classic = ProcessChannel(
            None,
            f"{prefix}:push:{new_token()}",
            reply_within=reply_within,
            on_message=on_message,
            on_gap=on_gap,
            connect=self._connect,
        )
        self._now: Pushes = self._sharded

    async def _connect(self, **hooks: Any) -> Wire:
        address = await self._route.owner(None)
        return await Wire.open(self._route.connects(address), reply_within=self._reply_within, **hooks)

    def channel(self, keys: SessionKeys) -> str:
        return self._now.channel(keys)

    def hears(self, keys: SessionKeys) -> bool:
        return self._now.hears(keys)

    async def listen(self, keys: SessionKeys, token: str, within: float) -> bool:
        try:
            return await self._now.listen(keys, token, within)
        except SubscribingRefused:
            self._now = self._classic
            return await self._now.listen(keys, token, within)

    def want(self, keys: SessionKeys, token: str) -> None:
        self._now.want(keys, token)

    def no_more(self, keys: SessionKeys, token: str) -> None:
        self._now.no_more(keys, token)

    def check(self) -> None:
        self._now.check()

    def mistrust(self) -> None:
        self._now.mistrust()

    async def aclose(self) -> None:
        await self._sharded.aclose()
        await self._classic.aclose()
