"""Redis Cluster: which node serves a session, found again after failovers and while slots move.

All keys of a session share one slot, so every script call has one node to go to. The map of slots is what ``CLUSTER
SLOTS`` says; ``MOVED`` mends it, ``ASK`` goes elsewhere once, a lost connection makes it suspect. One connection per
master that is used, however many requests there are.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import hiredis
from redis.asyncio import RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..protocol.calls import Call
from ..protocol.keys import SessionKeys
from .link import Link
from .route import LOST, NotNow, meant
from .tasks import fetch_error, within
from .wire import unsent

__all__ = ["Address", "ClusterRoute", "SlotMap", "slot_of", "slot_of_name"]

MOST_REDIRECTIONS = 8
MAP_WITHIN = 1.0  # seconds for one node to tell the map; another one knows it, too
ANY = -1  # a slot for "whatever node"


class Address(NamedTuple):
    host: str
    port: int


def slot_of(keys: SessionKeys) -> int:
    """The hash slot of a session."""
    return slot_of_name(keys.lock)


def slot_of_name(name: bytes) -> int:
    """Of a key, or of a channel of sharded pub/sub."""
    return int(key_slot(name))


class SlotMap:
    """Which master serves which slot, as far as is known. No I/O."""

    def __init__(self, remap: Callable[[tuple[str, int]], tuple[str, int]] | None = None) -> None:
        self._owners: dict[int, Address] = {}
        self._remap = remap
        self.nodes: list[Address] = []
        """Masters and replicas: each of them can tell the map."""

    def owner(self, slot: int) -> Address | None:
        if slot == ANY:
            return random.choice(sorted(self.masters)) if self._owners else None
        return self._owners.get(slot)

    @property
    def masters(self) -> set[Address]:
        return set(self._owners.values())

    def learn(self, reply: Sequence[Any], asked: Address) -> None:
        """Take over the reply of ``CLUSTER SLOTS`` from the node ``asked``.

        Raises:
            NotNow: that node knows no slots.
        """
        owners: dict[int, Address] = {}
        nodes: dict[Address, None] = {}
        for first, last, *serving in reply:
            addresses = [self._address(node[0], node[1], asked) for node in serving]
            nodes.update(dict.fromkeys(addresses))
            owners.update(dict.fromkeys(range(int(first), int(last) + 1), addresses[0]))
        if not owners:
            raise NotNow("CLUSTERDOWN this node knows of no slots")
        self._owners, self.nodes = owners, list(nodes)

    def redirected(self, words: Sequence[str], asked: Address) -> Address:
        """Where ``MOVED slot address`` or ``ASK slot address`` of the node ``asked`` leads."""
        host, _, port = words[2].rpartition(":")
        to = self._address(host, port, asked)
        if words[0] == "MOVED":
            self._owners[int(words[1])] = to
        return to

    def _address(self, host: Any, port: Any, asked: Address) -> Address:
        name = host.decode() if isinstance(host, bytes) else host
        # No or an unknown host means: the one that you have asked.
        address = (name if name and name != "?" else asked.host, int(port))
        return Address(*(self._remap(address) if self._remap else address))


class ClusterRoute:
    """Calls to the node that serves their slot. ``client`` tells where to begin and how to connect."""

    def __init__(self, client: RedisCluster, *, reply_within: float, on_break: Callable[[], None]) -> None:
        self._batches = False
        self.on_break = on_break
        self._client = client
        self._reply_within = reply_within
        self.map: SlotMap = SlotMap(getattr(client.nodes_manager, "address_remap", None))
        self._links: dict[Address, Link] = {}
        self._suspect = True  # the map is not to be relied on
        self._learning: asyncio.Task[None] | None = None
        self._failed: Address | None = None

    # --- calls

    @property
    def command(self) -> str:
        return next((link.command for link in self._links.values()), "FCALL")

    def batch_calls(self, wanted: bool) -> None:
        self._batches = wanted
        for link in self._links.values():
            link.batch_calls(wanted)

    def begin(self, call: Call[Any]) -> None:
        """None: whose business it is may have to be found out."""

    async def otherwise(self, call: Call[Any], refusal: hiredis.ReplyError) -> Any:
        raise NotImplementedError

    async def send(self, call: Call[Any]) -> Any:
        async def evaluate(link: Link, asking: bool) -> Any:
            return await link.evaluate(call, asking=asking)

        return await self._to_owner(call, evaluate)

    async def send_and_wait(self, call: Call[Any], wait: tuple[Any, ...]) -> tuple[Any, Any]:
        async def evaluate(link: Link, asking: bool) -> Any:
            if asking:
                # A slot that is being moved: rare, and over soon.
                reply = await link.evaluate(call, asking=True)
                return reply, await (await link.wire()).call(wait)
            return await link.evaluate_and_wait(call, wait)

        answer: tuple[Any, Any] = await self._to_owner(call, evaluate)
        return answer

    async def ask(self, *words: Any) -> Any:
        """Of whichever master answers."""
        await self.owner(None)
        masters = random.sample(sorted(self.map.masters), len(self.map.masters))
        for address in masters[:-1]:
            with suppress(*LOST):
                return await self._link(address).ask(*words)
        return await self._link(masters[-1]).ask(*words)

    def where(self, key: bytes) -> str | None:
        """None: the owner of its slot is not known."""
        owner = self.map.owner(int(key_slot(key)))
        return None if owner is None else f"{owner.host}:{owner.port}"

    async def knock(self, call: Call[Any] | None) -> None:
        await (self.ask("PING") if call is None else self.send(call))

    @property
    def reached(self) -> bool:
        return any(link.reached for link in self._links.values())

    async def _to_owner(self, call: Call[Any], evaluate: Callable[[Link, bool], Any]) -> Any:
        """Follow the redirections. What is lost on the way makes the map suspect, and is the caller's to repeat."""
        slot = int(key_slot(call.redis_keys[0]))
        try:
            address, asking = await self._owner(slot), False
        except (*LOST, asyncio.CancelledError) as error:
            unsent(error)
            raise
        for _ in range(MOST_REDIRECTIONS):
            try:
                return await evaluate(self._link(address), asking)
            except hiredis.ReplyError as error:
                words = str(error).split(" ")
                asking = words[0] == "ASK"
                if words[0] not in ("MOVED", "ASK") or len(words) < 3:
                    raise self._meant(error, call) from error
                self._suspect = self._suspect or not asking
                address = self.map.redirected(words, address)
            except LOST:
                self._suspect, self._failed = True, address
                raise
        raise NotNow(f"the cluster redirected {MOST_REDIRECTIONS} times; its nodes disagree about slot {slot}")

    def _meant(self, error: hiredis.ReplyError, call: Call[Any]) -> Exception:
        meaning = meant(error, call)
        if isinstance(meaning, NotNow) and not str(error).startswith("TRYAGAIN"):
            self._suspect = True
        return meaning

    async def _owner(self, slot: int) -> Address:
        owner = None if self._suspect else self.map.owner(slot)
        if owner is None:
            await self._learn()
            owner = self.map.owner(slot)
        if owner is None:
            raise NotNow(f"no node of the cluster serves slot {slot}")
        return owner

    # --- the map

    async def _learn(self) -> None:
        """Ask for the map; whoever needs it meanwhile waits for the same answer."""
        if self._learning is None or self._learning.done():
            self._learning = asyncio.ensure_future(self._ask_around())
            self._learning.add_done_callback(fetch_error)
        await asyncio.shield(self._learning)

    async def _ask_around(self) -> None:
        trouble: Exception = NotNow("the cluster has no nodes")
        for address in self._whom_to_ask():
            try:
                reply = await within(self._link(address).ask("CLUSTER", "SLOTS"), MAP_WITHIN)
                self.map.learn(reply, address)
            except hiredis.ReplyError as error:
                trouble = error
            except asyncio.TimeoutError:
                trouble = RedisTimeoutError(f"{address.host}:{address.port} did not answer within {MAP_WITHIN:g} s")
            except (RedisError, NotNow, OSError) as error:
                trouble = error
            else:
                self._suspect, self._failed = False, None
                self._forget_old_links()
                return
        raise trouble

    def _whom_to_ask(self) -> list[Address]:
        """Whoever is connected first, who just failed last; at the end where the application said to begin."""
        known = random.sample(self.map.nodes, len(self.map.nodes))
        known.sort(key=lambda address: (address == self._failed, address not in self._links))
        begin = [Address(str(node.host), int(node.port)) for node in self._client.nodes_manager.startup_nodes.values()]
        return list(dict.fromkeys([*known, *begin]))

    def _forget_old_links(self) -> None:
        masters = self.map.masters
        for address in [address for address, link in self._links.items() if address not in masters and link.idle]:
            self._links.pop(address).close()

    # --- connections

    def _link(self, address: Address) -> Link:
        link = self._links.get(address)
        if link is None:
            link = self._links[address] = Link(
                self.connects(address), reply_within=self._reply_within, on_break=self._broken
            )
            link.batch_calls(self._batches)
        return link

    def connects(self, address: Address) -> Callable[[], Any]:
        """What makes a connection to that node, as the client would make it but without retries of its own."""

        def connect() -> Any:
            node = ClusterNode(address.host, address.port, **self._client.connection_kwargs)
            return node.connection_class(**{**node.connection_kwargs, "retry": Retry(NoBackoff(), 0)})

        return connect

    def _broken(self) -> None:
        self._suspect = True
        self.on_break()

    async def owner(self, keys: SessionKeys | None) -> Address:
        """The node that serves a session; with None, any master."""
        return await self._owner(ANY if keys is None else slot_of(keys))

    def mistrust(self) -> None:
        """The map turned out to be wrong."""
        self._suspect = True

    def group(self, keys: SessionKeys) -> object:
        return slot_of(keys)

    @property
    def links(self) -> Iterable[Link]:
        return self._links.values()

    @property
    def idle(self) -> bool:
        return all(link.idle for link in self._links.values())

    def close(self) -> None:
        for link in self._links.values():
            link.close()

    async def aclose(self) -> None:
        if self._learning is not None:
            self._learning.cancel()
            await asyncio.wait([self._learning])
        for link in list(self._links.values()):
            await link.aclose()
