"""A guard connects as the client that it was given does, whoever wrote that one's pool, Sentinel or connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio import BlockingConnectionPool, Connection, ConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from sessionlock import SessionGuard
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.transport.clients import close_client, own_client
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer

OwnServer = Callable[..., FaultyServer]


class FixedMaster(Sentinel):
    """Knows the master by itself, as one who asks another service does."""

    def __init__(self, port: int) -> None:
        super().__init__([("nowhere.invalid", 26379)])  # type: ignore[no-untyped-call]
        self.port = port
        self.asked = 0

    async def discover_master(self, service_name: str) -> Any:
        self.asked += 1
        return "127.0.0.1", self.port


class Naming(ConnectionPool):
    """Gives each connection a name of its own making."""

    def __init__(self, application: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.application = application

    def make_connection(self) -> Any:
        made: Any = super().make_connection()  # type: ignore[no-untyped-call]
        made.client_name = f"{self.application}-made"
        return made


class NamingBlockingPool(Naming, BlockingConnectionPool):
    """Has a condition, which belongs to an event loop."""


class NamingSentinelPool(SentinelConnectionPool):
    def make_connection(self) -> Any:
        made: Any = super().make_connection()  # type: ignore[no-untyped-call]
        made.client_name = "sentinel-made"
        return made


class Greeting(Connection):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.client_name = "greeting"


class GreetingManaged(SentinelManagedConnection):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)  # type: ignore[no-untyped-call]
        self.client_name = "greeting"


class Provider(CredentialProvider):
    def get_credentials(self) -> Any:
        return ("right",)


def port_of(server: FaultyServer) -> int:
    return int(server.tcp_url.rpartition(":")[2].partition("/")[0])


def named(server: FaultyServer) -> set[str]:
    with connect(server.unix_url) as client:
        return {one["name"] for one in client.client_list()} - {""}


KINDS: dict[str, tuple[Callable[[int], Redis], str]] = {
    "a Sentinel with a discover_master of its own": (lambda port: FixedMaster(port).master_for("m", protocol=2), ""),
    "its pool, too": (
        lambda port: FixedMaster(port).master_for("m", connection_pool_class=NamingSentinelPool, protocol=2),
        "sentinel-made",
    ),
    "and its connections": (
        lambda port: FixedMaster(port).master_for("m", connection_class=GreetingManaged, protocol=2),
        "greeting",
    ),
    "a pool": (lambda port: Redis(connection_pool=Naming("shop", port=port, protocol=2)), "shop-made"),
    "a blocking pool": (
        lambda port: Redis(connection_pool=NamingBlockingPool("shop", port=port, protocol=2)),
        "shop-made",
    ),
    "a class of connections": (
        lambda port: Redis(connection_pool=ConnectionPool(connection_class=Greeting, port=port, protocol=2)),
        "greeting",
    ),
    "one's in a blocking pool": (
        lambda port: Redis(connection_pool=BlockingConnectionPool(connection_class=Greeting, port=port, protocol=2)),
        "greeting",
    ),
}


async def use(guard: SessionGuard, sid: str = "s") -> int:
    """By a lock with a waiter, and by plain commands of a client."""
    async with guard.session_lock(sid) as session:
        session["n"] = session.get("n", 0) + 1
    await guard.bind(sid, "user")
    assert len(await guard.sessions_of("user")) == 1
    async with guard.session_lock(sid, mode="optimistic") as session:
        session["n"] += 1
        return int(session["n"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("engine", ["script", "watch"])
def test_whatever_the_client_is(own_server: OwnServer, kind: str, engine: Any) -> None:
    """In several event loops, one after the other, and in a thread's: nothing that belongs to one is shared."""
    server = own_server(tcp=True)
    make, name = KINDS[kind]
    client = make(port_of(server))

    async def in_a_loop() -> int:
        async with SessionGuard(client, commit_by=engine) as guard:
            count = await use(guard)
            if name:
                assert named(server) == {name}
            return count

    assert [asyncio.run(in_a_loop()), asyncio.run(in_a_loop())] == [2, 4]
    with BlockingGuard(client) as guard, guard.session_lock("s") as session:
        assert session["n"] == 4
        if name:
            assert named(server) == {name}


@pytest.mark.anyio
async def test_a_copy_of_a_pool_waits_in_its_own_loop() -> None:
    given = NamingBlockingPool("shop", protocol=2)
    own: Any = own_client(Redis(connection_pool=given), within=2.0).connection_pool
    assert (own.application, own.timeout, own.max_connections) == ("shop", given.timeout, given.max_connections)
    assert own._condition is not given._condition
    assert own.make_connection() is not given.make_connection()


@pytest.mark.anyio
async def test_a_copy_of_a_sentinel_has_all_that_it_has() -> None:
    sentinel = Sentinel(  # type: ignore[no-untyped-call]
        [("a", 1), ("b", 2)],
        force_master_ip="10.0.0.1",
        min_other_sentinels=3,
        sentinel_kwargs={"password": "watch", "socket_timeout": 0.5},
        password="data",
    )
    pool: Any = own_client(sentinel.master_for("m", db=2), within=2.0).connection_pool
    manager = pool.sentinel_manager
    assert manager is not sentinel
    assert (manager._force_master_ip, manager.min_other_sentinels) == ("10.0.0.1", 3)
    assert pool.make_connection().connection_pool.service_name == "m"
    assert (pool.connection_kwargs["password"], pool.connection_kwargs["db"]) == ("data", 2)
    for asked, given in zip(manager.sentinels, sentinel.sentinels, strict=True):
        assert asked.connection_pool is not given.connection_pool
        assert asked.connection_pool.connection_kwargs["password"] == "watch"


@pytest.mark.anyio
async def test_a_forced_address_is_where_the_guard_connects(own_server: OwnServer) -> None:
    """The sentinels tell of an address that this machine cannot reach."""
    server = own_server(tcp=True)

    class Elsewhere(Sentinel):
        """As redis-py's, but for the network."""

        async def discover_master(self, service_name: str) -> Any:
            return self._force_master_ip or "203.0.113.1", port_of(server)

    sentinel = Elsewhere([("nowhere.invalid", 1)], force_master_ip="127.0.0.1")  # type: ignore[no-untyped-call]
    client = sentinel.master_for("m", protocol=2)
    async with SessionGuard(client, retry_for=0.5, reply_within=0.5) as guard:
        assert await use(guard) == 2


@pytest.mark.anyio
async def test_credentials_are_asked_of_their_provider(own_server: OwnServer) -> None:
    server = own_server(tcp=True, config={"requirepass": "right"})
    client = Redis(port=port_of(server), credential_provider=Provider(), protocol=2)
    async with SessionGuard(client) as guard:
        assert await use(guard) == 2


@pytest.mark.anyio
async def test_a_cluster_has_all_that_it_has() -> None:
    class Tunnel(SSLConnection):
        pass

    class Own(RedisCluster):
        def __init__(self, region: str, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.region = region

    retry = Retry(NoBackoff(), 7)
    client = Own(
        "eu",
        startup_nodes=[ClusterNode("h", 7000)],
        retry=retry,
        ssl=True,
        ssl_ca_certs="/ca",
        credential_provider=Provider(),
        require_full_coverage=False,
        dynamic_startup_nodes=False,
        reinitialize_steps=9,
        socket_timeout=3.0,
        address_remap=lambda address: address,
        protocol=2,
    )
    client.connection_kwargs["ssl_ca_path"] = "/p"
    client.connection_kwargs["connection_class"] = Tunnel
    own = own_client(client, within=2.0)
    assert own.nodes_manager is not client.nodes_manager
    assert own.retry is retry
    assert (own.nodes_manager.require_full_coverage, own.reinitialize_steps) == (False, 9)
    assert own.nodes_manager.address_remap is client.nodes_manager.address_remap
    (node,) = own.nodes_manager.startup_nodes.values()
    made = node.connection_class(**node.connection_kwargs)
    assert isinstance(made, Tunnel)
    assert (made.ssl_context.ca_certs, made.ssl_context.ca_path, made.socket_timeout) == ("/ca", "/p", 3.0)
    assert made.credential_provider is client.connection_kwargs["credential_provider"]
    for name in ("credential_provider", "ssl_ca_certs", "ssl_ca_path", "connection_class", "socket_timeout"):
        assert own.connection_kwargs[name] == client.connection_kwargs[name]
    await close_client(own)
