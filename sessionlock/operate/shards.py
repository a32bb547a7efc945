"""The way to every master that holds sessions: one, the one that Sentinel names, or all of a Cluster.

What is asked is plain commands, each of which takes a server little time: SCAN in small steps, pipelines of bounded
length. Nothing here writes, needs a script, or waits for a lock.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AskError, MovedError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from ..errors import RedisUnavailable
from ..transport.advice import with_advice
from ..transport.clients import client_kind, close_client, own_client, server_name
from ..transport.route import LOST
from ..transport.tasks import within

__all__ = ["NOT_TOLD", "Shard", "Shards", "Step", "Words", "as_bytes", "mapped"]

T = TypeVar("T")
Words = tuple[Any, ...]
AT_ONCE = 500  # commands in one write
STEP = 1_000  # keys that one SCAN looks at: half a millisecond of the server
HOPS = 5  # from node to node after one key, while its slot is moved


NICE_TO_KNOW = ("MEMORY", "DBSIZE")  # some servers have no such command, some users may not use it


class NotTold(enum.Enum):
    NOT_TOLD = enum.auto()


NOT_TOLD = NotTold.NOT_TOLD


class Step(NamedTuple):
    """``looked_at``: about so many keys."""

    keys: list[bytes]
    looked_at: int


class Shard:
    """One server that holds sessions: all of them, or those of its slots."""

    def __init__(
        self,
        client: Any,
        name: str,
        reply_within: float,
        *,
        owned: bool = True,
        led_to: Callable[[str, AskError], Awaitable[Shard]] | None = None,
    ) -> None:
        """``led_to``: the shard where ``MOVED`` or ``ASK`` of this one leads; None: no cluster is known."""
        self.name: str = name
        self._client = client
        self._owned = owned
        self._led_to = led_to
        self._answered = False
        self._reply_within = reply_within

    async def ask(self, commands: Sequence[Words]) -> list[Any]:
        """The replies, in their order; :data:`NOT_TOLD` where a key is somebody else's, and where what is only nice to
        know is not told. A key that has gone to another shard, or is on its way, is asked for there.

        Raises:
            RedisUnavailable: no answer, or a refusal.
        """
        replies: list[Any] = []
        waiting = iter(commands)
        with mapped(self.name, connecting=not self._answered):
            while batch := list(islice(waiting, AT_ONCE)):
                answers = await self._answer(partial(self._send, batch))
                for command, answer in zip(batch, answers, strict=True):
                    if isinstance(answer, AskError):
                        answer = await self._follow(command, answer)
                    if isinstance(answer, Exception):
                        if command[0] not in NICE_TO_KNOW and not str(answer).startswith("WRONGTYPE"):
                            raise answer
                        answer = NOT_TOLD
                    replies.append(answer)
        return replies

    async def _follow(self, command: Words, said: AskError) -> Any:
        """What those say to whom it leads."""
        if self._led_to is None:
            return ResponseError(f"MOVED {said}")  # redis-py has taken the word away
        shard, answer = self, said
        for _ in range(HOPS):
            if not isinstance(answer, AskError) or shard._led_to is None:
                return answer
            asking = not isinstance(answer, MovedError)  # which is a kind of AskError in redis-py
            shard = await shard._led_to(shard.name, answer)
            *_, answer = await shard._answer(partial(shard._send, [("ASKING",), command] if asking else [command]))
        return answer

    async def size(self) -> int:
        """How many keys there are; 0 where that may not be asked."""
        [count] = await self.ask([("DBSIZE",)])
        return 0 if count is NOT_TOLD else int(count)

    async def now(self) -> float:
        """Its clock, in microseconds."""
        [(seconds, rest)] = await self.ask([("TIME",)])
        return int(seconds) * 1e6 + int(rest)

    async def scan(self, pattern: bytes) -> AsyncIterator[Step]:
        """All keys like that, in steps none of which takes the server long. A key may come twice.

        Raises:
            RedisUnavailable: no answer, or SCAN is not permitted.
        """
        cursor = 0
        while True:
            with mapped(self.name, connecting=not self._answered):
                step = "SCAN", cursor, "MATCH", pattern, "COUNT", STEP
                cursor, keys = await self._answer(partial(self._client.execute_command, *step))
            yield Step([as_bytes(key) for key in keys], STEP)
            if not int(cursor):
                return

    async def _send(self, commands: Sequence[Words]) -> list[Any]:
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            answers: list[Any] = await pipe.execute(raise_on_error=False)
            return answers

    async def _answer(self, send: Callable[[], Awaitable[T]]) -> T:
        """Once more where a connection that was open is not any more: it may be an old one."""
        try:
            answer = await within(send(), self._reply_within)
        except RedisConnectionError:
            if not self._answered:
                raise
            answer = await within(send(), self._reply_within)
        self._answered = True
        return answer

    async def aclose(self) -> None:
        if self._owned:
            await close_client(self._client)


class Shards:
    """``client``: a ``redis.asyncio`` client; its settings are used, its connections are not. For one event loop."""

    def __init__(self, client: Any, *, reply_within: float) -> None:
        self._client = client
        self._reply_within = reply_within
        self._cluster: Any = None
        self._open: dict[str, Shard] = {}

    @property
    def name(self) -> str:
        """Where it connects to, without a password."""
        return server_name(self._client)

    async def all(self) -> list[Shard]:
        """Raises :class:`~sessionlock.RedisUnavailable`."""
        if client_kind(self._client) != "cluster":
            return [self._only()]
        cluster = await self._known_cluster()
        return [self._at(node) for node in cluster.get_primaries()]

    async def of(self, key: bytes) -> Shard:
        """That which has the slot of this key.

        Raises:
            RedisUnavailable: no answer, or no shard has it.
        """
        if client_kind(self._client) != "cluster":
            return self._only()
        cluster = await self._known_cluster()
        with mapped(self.name):
            return self._at(cluster.get_node_from_key(as_bytes(key).decode(errors="replace")))

    async def learn_anew(self) -> None:
        """A slot has moved, or a master was replaced."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            await cluster.aclose()

    def _only(self) -> Shard:
        if not self._open:
            own = own_client(self._client, within=self._reply_within)
            owned = own is not self._client  # fakeredis' are shared
            if owned:
                _ask_plainly(own)
            self._open[""] = Shard(own, self.name, self._reply_within, owned=owned)
        return self._open[""]

    async def _known_cluster(self) -> Any:
        if self._cluster is None:
            cluster = own_client(self._client, within=self._reply_within)
            with mapped(self.name):
                await within(cluster.initialize(), self._reply_within)
            self._cluster = cluster
        return self._cluster

    def _at(self, node: Any) -> Shard:
        shard = self._open.get(node.name)
        if shard is None:
            pool = ConnectionPool(connection_class=node.connection_class, **node.connection_kwargs)
            client = Redis(connection_pool=pool)
            _ask_plainly(client)
            shard = self._open[node.name] = Shard(client, node.name, self._reply_within, led_to=self._led_to)
        return shard

    async def _led_to(self, asked: str, said: AskError) -> Shard:
        host = said.host if said.host not in ("", "?") else asked.rpartition(":")[0]  # nothing means: the one asked
        for _ in range(2):
            cluster = await self._known_cluster()
            node = cluster.get_node(*cluster.nodes_manager.remap_host_port(host, said.port))
            if node is not None:
                return self._at(node)
            await self.learn_anew()  # it is new
        raise RedisClusterException(
            f"{asked} says that a key is at {host}:{said.port}, which is no node of the cluster"
        )

    async def aclose(self) -> None:
        await self.learn_anew()
        shards, self._open = list(self._open.values()), {}
        for shard in shards:
            await shard.aclose()


def _ask_plainly(client: Any) -> None:
    """Whoever looks is told the reason at once, not after ten tries; and gets bytes as they are stored."""
    client.set_retry(Retry(NoBackoff(), 0))
    if type(client.connection_pool) is ConnectionPool:
        client.connection_pool.connection_kwargs["decode_responses"] = False


@contextmanager
def mapped(where: str, *, connecting: bool = True) -> Iterator[None]:
    """What Redis, or the way to it, says is wrong, with what to do about it. ``connecting``: it was never reached."""
    try:
        yield
    except (RedisError, RedisClusterException, asyncio.TimeoutError, *LOST) as error:
        said = f"{where}: {str(error).rstrip('.')}"
        raise RedisUnavailable(
            with_advice(said, error, connecting=connecting and not isinstance(error, ResponseError))
        ) from error


def as_bytes(value: Any) -> bytes:
    """As it is stored, whatever the client makes of replies."""
    return value.encode() if isinstance(value, str) else value
