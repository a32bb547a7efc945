"""A client of our own, made like the one that an application gave.

redis-py's clients and pools know nothing of forks and event loops, and a connection that two loops or processes use
gives one the other's replies.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool

from .fake import fake_server

__all__ = ["ClientKind", "address_of", "client_kind", "close_client", "own_client", "server_name"]

ClientKind = Literal["single", "sentinel", "cluster", "quorum"]  # "quorum": of one of its masters

try:
    from redis.driver_info import DriverInfo
except ImportError:  # before redis-py 7.2
    _TOLD: dict[str, Any] = {}
else:
    # Else each new connection looks up redis-py's version in the file system, which blocks the event loop.
    _TOLD = {"driver_info": DriverInfo()}


def own_client(client: Any) -> Any:
    """A client like this one with connections of its own; this very one when its kind is not known."""
    if type(client) is RedisCluster:
        return _own_cluster(client)
    pool = getattr(client, "connection_pool", None)
    if pool is None or fake_server(client) is not None:
        return client
    if type(pool) is SentinelConnectionPool:
        return Redis(connection_pool=_own_sentinel_pool(pool))
    if type(pool) in (ConnectionPool, BlockingConnectionPool):
        kwargs = _with_driver(pool.connection_kwargs)
        return Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **kwargs))
    return client


def address_of(client: Any) -> str:
    """``host:port/db`` of one server, or its socket's path; the same in every process."""
    settings = client.connection_pool.connection_kwargs
    fake = fake_server(client)
    where = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    return f"{where if fake is None else f'fake {id(fake)}'}/{settings.get('db') or 0}"


def _with_driver(kwargs: dict[str, Any]) -> dict[str, Any]:
    """How the client introduces itself to the server, if the application left that open."""
    return kwargs if kwargs.keys() & {"driver_info", "lib_name", "lib_version"} else {**kwargs, **_TOLD}


async def close_client(client: Any) -> None:
    """Close a client that :func:`own_client` made."""
    if isinstance(client, RedisCluster):
        await client.aclose()
        return
    await client.aclose(close_connection_pool=True)
    sentinel = getattr(client.connection_pool, "sentinel_manager", None)
    for asked in sentinel.sentinels if sentinel is not None else ():
        await asked.aclose(close_connection_pool=True)


def _own_sentinel_pool(pool: SentinelConnectionPool) -> SentinelConnectionPool:
    manager = pool.sentinel_manager
    addresses = [sentinel.connection_pool.connection_kwargs for sentinel in manager.sentinels]
    own = Sentinel(  # type: ignore[no-untyped-call]
        [(address["host"], address["port"]) for address in addresses],
        min_other_sentinels=manager.min_other_sentinels,
        sentinel_kwargs=_with_driver(manager.sentinel_kwargs),
        **manager.connection_kwargs,
    )
    kwargs = {name: value for name, value in pool.connection_kwargs.items() if name != "connection_pool"}
    return SentinelConnectionPool(  # type: ignore[no-untyped-call]
        pool.service_name,
        own,
        connection_class=pool.connection_class,
        is_master=pool.is_master,
        check_connection=pool.check_connection,
        **_with_driver(kwargs),
    )


def _own_cluster(client: RedisCluster) -> RedisCluster:
    known = inspect.signature(RedisCluster.__init__).parameters
    kwargs = {name: value for name, value in client.connection_kwargs.items() if name in known}
    kwargs["ssl"] = client.connection_kwargs.get("connection_class") is SSLConnection
    nodes = [ClusterNode(str(node.host), int(node.port)) for node in client.nodes_manager.startup_nodes.values()]
    remap = getattr(client.nodes_manager, "address_remap", None)
    return RedisCluster(
        startup_nodes=nodes,
        require_full_coverage=client.nodes_manager.require_full_coverage,
        **({"address_remap": remap} if remap is not None else {}),
        **kwargs,
    )


def client_kind(client: Any) -> ClientKind:
    """What sort of ``redis.asyncio`` client this is, by its names: none of them needs to be imported."""
    if hasattr(client, "get_primaries"):
        return "cluster"
    pool = getattr(client, "connection_pool", None)
    return "sentinel" if hasattr(pool, "sentinel_manager") else "single"


def server_name(client: Any) -> str:
    """Where a ``redis.asyncio`` client connects to and as whom, without its password."""
    pool: Any = getattr(client, "connection_pool", None)
    options = getattr(pool, "connection_kwargs", None) or getattr(client, "connection_kwargs", {})
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    kind = client_kind(client)
    if kind == "cluster":
        where = "cluster " + ",".join(sorted(client.nodes_manager.startup_nodes))
    elif kind == "sentinel":
        where = f"sentinel {pool.service_name} {_sentinels(pool)}"
    user = options.get("username")
    return f"{user}@{where}" if user else str(where)


def _sentinels(pool: Any) -> str:
    clients = getattr(pool.sentinel_manager, "sentinels", ())
    return ",".join(sorted(server_name(sentinel) for sentinel in clients))
