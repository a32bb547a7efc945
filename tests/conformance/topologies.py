"""Where the conformance suite runs: every way to reach a session, behind one face.

To add a topology (a cluster, Sentinel, a quorum) or a face (blocking), write a :class:`Topology` and enter it in
:data:`TOPOLOGIES`: every test of the suite then runs there, too. A face that is not asynchronous is adapted by its
``node``, which returns something with the surface of :class:`SessionGuard`.
"""

from __future__ import annotations

import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import pytest
import redis.asyncio

from sessionlock import Quorum, SessionGuard
from sessionlock.protocol.keys import keys_for
from sessionlock.urls import _memory_servers
from tests.harness.choice import NO_RESP3, by_default, in_chosen_protocol, speaks_resp3
from tests.harness.cluster import Cluster, slot_of
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer
from tests.harness.flavours import FLAVOUR_VARIABLE, FLAVOURS, RestrictedServer
from tests.harness.sentinels import Sentinels
from tests.harness.stored import PATIENCE, Stored

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["TOPOLOGIES", "Node", "Record", "Topology"]

Node = Callable[..., SessionGuard]


class Record(Stored):
    """What the store holds of one session, whatever the store is."""

    client: Any

    def __init__(self, client: Any, sid: str, *, prefix: str = "sl") -> None:
        self.keys = keys_for(prefix, sid)
        self.client = client

    async def until(self, holds: Callable[[Any], bool], within: float = PATIENCE) -> None:
        await super().until(holds, within)

    @property
    def raw(self) -> dict[bytes, bytes]:
        """The whole record as it is stored."""
        fields: dict[bytes, bytes] = self.client.hgetall(self.keys.session)
        return fields

    @property
    def data_and_version(self) -> dict[bytes, bytes]:
        """The record without what changes with every grant."""
        per_grant = (b"#state", b"#holder", b"#away", b"#vector")
        return {field: value for field, value in self.raw.items() if field not in per_grant}

    @property
    def ttl_ms(self) -> int:
        """Milliseconds that the record still lives; -1 for ever, -2 there is none."""
        left: int = self.client.pttl(self.keys.session)
        return left

    def write(self, key: str, value: bytes) -> None:
        """As a foreign writer does it, past all locks."""
        self.client.hset(self.keys.session, key, value)


class Topology(ABC):
    """One way to reach sessions, for one test. ``lacks``: what cannot be tested there, and why, in words."""

    lacks: Mapping[str, str] = {}
    raw: Any
    """A blocking client that answers in bytes, to look at the store past the library."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    @abstractmethod
    def _guard(self, **options: Any) -> SessionGuard: ...

    def node(self, **options: Any) -> SessionGuard:
        """A guard with connections of its own, as another process would have one."""
        guard = self._guard(**options)
        self._stack.push_async_callback(guard.aclose)
        return guard

    def record(self, sid: str) -> Record:
        return Record(self.raw, sid)

    def all_keys(self) -> list[bytes]:
        return sorted(self.raw.scan_iter(count=1000))

    def immortal_keys(self) -> list[bytes]:
        return [key for key in self.all_keys() if self.raw.pttl(key) == -1]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self.raw.close()


class OneServer(Topology):
    """A real server, by the ``url`` that is given to the guard."""

    def __init__(self, server: FaultyServer, url: str) -> None:
        super().__init__()
        self.url = url
        self.raw = connect(server.unix_url)

    def _guard(self, **options: Any) -> SessionGuard:
        return SessionGuard.from_url(self.url, **options)


class DecodingClient(OneServer):
    """A client of the application's own, which turns replies into text; redis-py chooses its protocol."""

    def __init__(self, server: FaultyServer, url: str) -> None:
        super().__init__(server, url)
        self._options = by_default(server)

    def _guard(self, **options: Any) -> SessionGuard:
        client = redis.asyncio.Redis.from_url(self.url, decode_responses=True, **self._options)
        self._stack.push_async_callback(client.aclose)
        return SessionGuard(client, **options)


class OnFlavour(OneServer):
    """A real server behind the rules of one that is sold."""

    def __init__(self, server: FaultyServer, restricted: RestrictedServer) -> None:
        super().__init__(server, restricted.url)
        self.lacks = {"statistics": "a proxy answers in part", "monitor": "what a proxy answers does not show"}
        if restricted.flavour.cluster:
            self.lacks["watch"] = OnCluster.lacks["watch"]


class Memory(Topology):
    """fakeredis in this process."""

    lacks: Mapping[str, str] = {
        "monitor": "fakeredis has no MONITOR",
        "statistics": "fakeredis counts neither commands nor bytes in INFO",
    }

    def __init__(self) -> None:
        super().__init__()
        from fakeredis import FakeRedis

        self._name = secrets.token_hex(8)
        self.node()  # makes the store
        self.raw = FakeRedis(server=_memory_servers[self._name])
        self._stack.callback(_memory_servers.pop, self._name)

    def _guard(self, **options: Any) -> SessionGuard:
        return SessionGuard.from_url(f"memory://{self._name}", **options)


class AllMasters:
    """Blocking clients of a cluster's masters as one: a command goes where its first argument, a key, is served.

    Who is a master of what is asked once: no slot moves here, and no master dies.
    """

    def __init__(self, cluster: Cluster) -> None:
        self.url = cluster.url
        self._masters = cluster.masters
        self._owner = {slot: master for master in self._masters for slot in master.itself.slots}

    def client_for(self, key: bytes) -> Any:
        return self._owner[slot_of(key)].raw

    def scan_iter(self, **options: Any) -> Iterator[bytes]:
        for master in self._masters:
            yield from master.raw.scan_iter(**options)

    def flushall(self) -> None:
        for master in self._masters:
            master.raw.flushall()

    def close(self) -> None:
        """The clients are the cluster's own."""

    def __getattr__(self, command: str) -> Callable[..., Any]:
        return lambda key, *more, **options: getattr(self.client_for(key), command)(key, *more, **options)


class OnCluster(Topology):
    """A Redis Cluster of three masters, each with a replica."""

    lacks: Mapping[str, str] = {
        "monitor": "MONITOR shows one node's commands, and a session's may go to any",
        "statistics": "INFO counts one node's bytes, and a session may be at any",
        "watch": "redis-py permits no WATCH with other commands behind it in a Cluster",
    }

    def __init__(self, masters: AllMasters) -> None:
        super().__init__()
        self.url = masters.url
        self.raw = masters
        self.raw.flushall()

    def _guard(self, **options: Any) -> SessionGuard:
        return SessionGuard.from_url(self.url, **options)

    def record(self, sid: str) -> Record:
        record = Record(None, sid)
        record.client = self.raw.client_for(record.keys.session)
        return record


class OnSentinel(Topology):
    """The master that three Sentinels name."""

    def __init__(self, sentinels: Sentinels) -> None:
        super().__init__()
        self.url = sentinels.url
        self.server_url = sentinels.master.unix_url
        self.raw = connect(self.server_url)
        self.raw.flushall()

    def _guard(self, **options: Any) -> SessionGuard:
        return SessionGuard.from_url(self.url, **options)


class MastersAndStore:
    """Blocking clients of a quorum's masters and its store as one: what is about the lock goes to all masters.

    What they say of it: the holder that the store knows, or one that most masters know and the store never knew (a
    foreign one, or one of a lock alone); the waiters that all of them know where that holder has the lock. For it wins
    by the first two answers: on a busy machine a waiter's call may come to the third master before its own, and then
    stands in no queue there.
    """

    def __init__(self, masters: list[Any], store: Any) -> None:
        self.masters = masters
        self.store = store

    @property
    def everywhere(self) -> list[Any]:
        return [*self.masters, self.store]

    def get(self, key: bytes) -> Any:
        held = self.store.get(key)
        if held is not None:
            return held
        holders = [master.get(key) for master in self.masters]
        elected = next((one for one in holders if one is not None and holders.count(one) > len(holders) / 2), None)
        if elected is None:
            return None
        last = self.store.hget(key.replace(b":lock", b":session"), "#holder") or b""
        return None if last.startswith(elected) else elected  # the masters are about to be told that it is over

    def zrange(self, key: bytes, first: int, last: int) -> list[bytes]:
        lock = key.rpartition(b":")[0] + b":lock"
        holder = self.get(lock)
        at = [master for master in self.masters if master.get(lock) == holder] or self.masters
        queues = [master.zrange(key, first, last) for master in at]
        return [token for token in queues[0] if all(token in queue for queue in queues)]

    def exists(self, *keys: bytes) -> int:
        """Masters are not waited for when a lock is given up: it has been sent, and may not have been read yet."""
        deadline = time.monotonic() + 0.1
        while True:
            found: int = sum(client.exists(key) for key in keys for client in self._where(key))
            if not found or time.monotonic() > deadline:
                return found

    def _where(self, key: bytes) -> list[Any]:
        part = key.rpartition(b":")[2]
        return [*self.masters, self.store] if part in (b"lock", b"queue", b"waiters") else [self.store]

    def delete(self, *keys: bytes) -> int:
        return sum(client.delete(*keys) for client in self.everywhere)

    def pttl(self, key: bytes) -> Any:
        """Its shortest life; -1 when it is immortal anywhere."""
        lives = [client.pttl(key) for client in self._where(key)]
        return min((life for life in lives if life != -2), default=-2)

    def scan_iter(self, **options: Any) -> Iterator[bytes]:
        """Without what a master keeps for a minute of a lock that is free: its counter and receipts."""
        yield from {
            key for client in self.everywhere for key in client.scan_iter(**options) if client in self._where(key)
        }

    def flushall(self) -> None:
        for client in self.everywhere:
            client.flushall()

    def close(self) -> None:
        for client in self.everywhere:
            client.close()

    def pipeline(self) -> Any:
        return self.masters[0].pipeline()

    def time(self) -> Any:
        return self.store.time()

    def __getattr__(self, command: str) -> Callable[..., Any]:
        def run(key: bytes, *more: Any, **options: Any) -> Any:
            at = self.masters if len(self._where(key)) > 1 else [self.store]
            answers = [getattr(client, command)(key, *more, **options) for client in at]
            return answers[0]

        return run


class OnQuorum(Topology):
    """The lock on a majority of three independent masters, the sessions at a store of their own."""

    lacks: Mapping[str, str] = {
        "one counter": "a lock alone is numbered by the masters, a session by its store",
        "monitor": "MONITOR shows one server's commands, and a session's go to four",
        "statistics": "INFO counts one server's bytes, and a session's go to four",
    }

    def __init__(self, masters: list[FaultyServer], store: FaultyServer, engine: Literal["native", "pottery"]) -> None:
        super().__init__()
        if engine == "pottery":
            self.lacks = {**self.lacks, "queue": "pottery's waiters stand in no queue: they try again at random times"}
        self.url = in_chosen_protocol(store.tcp_url)
        # They have just been started, and forget nothing: nobody restarts them. Nor do they hang: the machine is busy.
        self._quorum = Quorum(
            *(in_chosen_protocol(master.tcp_url) for master in masters), engine=engine, rejoin_after=0, reply_within=5
        )
        self.raw = MastersAndStore([connect(master.unix_url) for master in masters], connect(store.unix_url))
        self.raw.flushall()

    def _guard(self, **options: Any) -> SessionGuard:
        return SessionGuard.from_url(self.url, quorum=self._quorum, **options)

    def immortal_keys(self) -> list[bytes]:
        return [key for client in self.raw.everywhere for key in client.scan_iter() if client.pttl(key) == -1]


Make = Callable[[pytest.FixtureRequest], Topology]


def _server(request: pytest.FixtureRequest) -> FaultyServer:
    request.getfixturevalue("flush")
    server: FaultyServer = request.getfixturevalue("server")
    return server


def _tcp(protocol: int) -> Make:
    def make(request: pytest.FixtureRequest) -> Topology:
        server = _server(request)
        if protocol == 3 and not speaks_resp3(server):
            pytest.skip(NO_RESP3)
        return OneServer(server, f"{server.tcp_url}?protocol={protocol}")

    return make


def _unix(request: pytest.FixtureRequest) -> Topology:
    server = _server(request)
    return OneServer(server, server.unix_url)


def _decoding(request: pytest.FixtureRequest) -> Topology:
    server = _server(request)
    return DecodingClient(server, server.unix_url)


def _memory(request: pytest.FixtureRequest) -> Topology:
    return Memory()


# Started by the first test that needs them, for all.
_FLAVOUR = pytest.StashKey[RestrictedServer]()
_CLUSTER = pytest.StashKey[AllMasters]()
_SENTINELS = pytest.StashKey[Sentinels]()
_FOUR = pytest.StashKey[list[FaultyServer]]()


def _flavour(request: pytest.FixtureRequest) -> Topology:
    config, server = request.config, _server(request)
    if _FLAVOUR not in config.stash:
        restricted = RestrictedServer(FLAVOURS[os.environ[FLAVOUR_VARIABLE]], str(server.socket_path))
        config.stash[_FLAVOUR] = restricted.__enter__()
        config.add_cleanup(lambda: restricted.__exit__(None, None, None))
    return OnFlavour(server, config.stash[_FLAVOUR])


def _cluster(request: pytest.FixtureRequest) -> Topology:
    config = request.config
    if _CLUSTER not in config.stash:
        # Nothing is done to its nodes: on a busy machine none shall be taken for dead.
        cluster = Cluster(node_timeout_ms=10_000).start()
        config.add_cleanup(cluster.stop)
        config.stash[_CLUSTER] = AllMasters(cluster)
    return OnCluster(config.stash[_CLUSTER])


def _sentinel(request: pytest.FixtureRequest) -> Topology:
    config = request.config
    if _SENTINELS not in config.stash:
        config.stash[_SENTINELS] = Sentinels(down_after_ms=10_000).start()
        config.add_cleanup(config.stash[_SENTINELS].stop)
    return OnSentinel(config.stash[_SENTINELS])


def _on_quorum(engine: Literal["native", "pottery"]) -> Make:
    def make(request: pytest.FixtureRequest) -> Topology:
        config = request.config
        if _FOUR not in config.stash:
            config.stash[_FOUR] = [FaultyServer(tcp=True).start() for _ in range(4)]
            for server in config.stash[_FOUR]:
                config.add_cleanup(server.stop)
        *masters, store = config.stash[_FOUR]
        return OnQuorum(masters, store, engine)

    return make


TOPOLOGIES: dict[str, Make] = {
    "tcp-resp3": _tcp(3),
    "tcp-resp2": _tcp(2),
    "unix": _unix,
    "decoding-client": _decoding,
    "memory": _memory,
    "cluster": _cluster,
    "sentinel": _sentinel,
    "quorum-native": _on_quorum("native"),
    "quorum-pottery": _on_quorum("pottery"),
}
if FLAVOUR_VARIABLE in os.environ:  # that one alone
    TOPOLOGIES = {"flavour": _flavour}
