"""A client of our own, made like the one that an application gave.

redis-py's clients and pools know nothing of forks and event loops, and a connection that two loops or processes use
gives one the other's replies. So the connections, and the locks of an event loop, are made anew; all else is what the
given client has, whoever wrote its pool, its Sentinel or its class of connections.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import weakref
from collections.abc import Mapping
from typing import Any, Literal

import redis
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster, SSLConnection
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from ..errors import ConfigurationError
from .fake import fake_server

OF_A_LOOP = (asyncio.Lock, asyncio.Condition)
NOT_TAKEN = {"startup_nodes", "event_dispatcher"}  # of one client, and its event loop
SENTINEL_WITHIN = 0.5  # seconds for one sentinel to answer; the others know it, too
# How a sentinel is asked unless the application says otherwise. By default redis-py, from 6 on, tries a dead one for
# seconds, longer than a connection may take: the next one would never be asked.
SENTINEL_TIMES = ("socket_timeout", "socket_connect_timeout")
ASKED_ONCE: Mapping[str, Any] = {**dict.fromkeys(SENTINEL_TIMES, SENTINEL_WITHIN), "retry": Retry(NoBackoff(), 0)}

__all__ = [
    "ASKED_ONCE",
    "ClientKind",
    "address_of",
    "check_client",
    "client_kind",
    "close_client",
    "database_of",
    "own_client",
    "place_of",
    "server_name",
]

ClientKind = Literal["single", "sentinel", "cluster", "quorum"]  # "quorum": of one of its masters

try:
    from redis.driver_info import DriverInfo
except ImportError:  # before redis-py 7.2
    _TOLD: dict[str, Any] = {}
else:
    # Else each new connection looks up redis-py's version in the file system, which blocks the event loop.
    _TOLD = {"driver_info": DriverInfo()}


def own_client(client: Any, *, within: float) -> Any:
    """A client like this one with connections of its own; this very one when its kind is not known. ``within``: seconds
    that opening a connection may take, with all sentinels that are asked on the way.
    """
    if isinstance(client, RedisCluster):
        return _own_cluster(client)
    pool = getattr(client, "connection_pool", None)
    if not isinstance(pool, ConnectionPool) or fake_server(client) is not None:
        return client
    if type(pool) in (ConnectionPool, BlockingConnectionPool):
        kwargs = _with_driver(pool.connection_kwargs)
        return Redis(connection_pool=ConnectionPool(connection_class=pool.connection_class, **kwargs))
    return Redis(connection_pool=_own_pool(pool, within))


def check_client(client: Any) -> None:
    """Whether it is one that a guard can use.

    Raises:
        ConfigurationError: it is not; with what to give.
    """
    pool = getattr(client, "connection_pool", None)
    # valkey-py's are no subclasses of redis-py's, and work: those with asyncio, which alone have this method.
    blocks = isinstance(client, (redis.Redis, redis.RedisCluster)) or (
        hasattr(pool, "make_connection") and not hasattr(client, "aclose")
    )
    if isinstance(client, RedisCluster) or (hasattr(pool, "make_connection") and not blocks):
        return
    told = type(client).__name__
    if isinstance(client, str):
        what, told = "an URL is for SessionGuard.from_url(url)", "a str"
    elif blocks:
        what = "give redis.asyncio.Redis(…) or redis.asyncio.RedisCluster(…), for threads, too; or use from_url()"
        told = f"a {told} without asyncio"
    elif isinstance(client, Sentinel):
        what = "give what its master_for(service) returns"
    elif isinstance(client, ConnectionPool):
        what = "give redis.asyncio.Redis(connection_pool=…)"
    else:
        what = "give redis.asyncio.Redis(…), or use from_url()"
    raise ConfigurationError(f"a guard needs a redis.asyncio client, not {told}: {what}")


def address_of(client: Any) -> str:
    """``host:port/db`` of one server, or its socket's path; the same in every process."""
    settings = client.connection_pool.connection_kwargs
    fake = fake_server(client)
    where = settings.get("path") or f"{settings.get('host', 'localhost')}:{settings.get('port', 6379)}"
    return f"{where if fake is None else f'fake {id(fake)}'}/{settings.get('db') or 0}"


def place_of(client: Any) -> str:
    """The same for two clients of the same data, as far as their settings tell."""
    if client_kind(client) == "single":
        return address_of(client)
    return f"{server_name(client)}/{database_of(client)}"


def database_of(client: Any) -> int:
    """Its number; of a Cluster there is one only."""
    pool: Any = getattr(client, "connection_pool", None)
    return int(getattr(pool, "connection_kwargs", {}).get("db") or 0)


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
        await close_client(asked)


def _own_pool(pool: ConnectionPool, within: float) -> ConnectionPool:
    """A pool of an application's own class, or of Sentinel's: as it is, but empty."""
    own = copy.copy(pool)
    fresh = {name: type(value)() for name, value in vars(own).items() if isinstance(value, OF_A_LOOP)}
    vars(own).update(fresh, _available_connections=[], _in_use_connections=set())
    own.reset()  # type: ignore[no-untyped-call]
    kwargs = _with_driver(pool.connection_kwargs)
    if isinstance(own, SentinelConnectionPool):
        vars(own)["sentinel_manager"] = _own_sentinel(own.sentinel_manager, within)
        kwargs = {**kwargs, "connection_pool": weakref.proxy(own)}
    setattr(own, "connection_kwargs", kwargs)  # noqa: B010  # a property, from redis-py 8 on
    return own


def _own_sentinel(manager: Sentinel, within: float) -> Sentinel:
    own = copy.copy(manager)
    # If all but one hang, there is still time for that one and for the master.
    seconds = min(SENTINEL_WITHIN, within / (len(manager.sentinels) + 1))
    usual = {**ASKED_ONCE, **dict.fromkeys(SENTINEL_TIMES, seconds)}
    said = {name for name, value in manager.sentinel_kwargs.items() if ASKED_ONCE.get(name) is not value}
    asked = {name: value for name, value in usual.items() if name not in said}
    vars(own)["sentinels"] = [_own_sentinel_client(client, within, asked) for client in manager.sentinels]
    return own


def _own_sentinel_client(client: Any, within: float, asked: Mapping[str, Any]) -> Any:
    own = own_client(client, within=within)
    if own is not client:
        pool = own.connection_pool
        setattr(pool, "connection_kwargs", {**pool.connection_kwargs, **asked})  # noqa: B010  # as above
    return own


def _own_cluster(client: RedisCluster) -> RedisCluster:
    """Whatever its constructor takes is found in the client, by the same name."""
    nodes = client.nodes_manager
    given: dict[str, Any] = {"ssl": issubclass(client.connection_kwargs["connection_class"], SSLConnection)}
    known = {**_attributes(nodes), **_attributes(client), **client.connection_kwargs}
    for name, parameter in inspect.signature(RedisCluster.__init__).parameters.items():
        if name in known and name not in NOT_TAKEN and known[name] != parameter.default:
            given[name] = known[name]
    begin = [(str(node.host), int(node.port)) for node in nodes.startup_nodes.values()]
    own = RedisCluster(startup_nodes=[ClusterNode(*address) for address in begin], **given)
    # What only its connections take; and their class, which may be the application's.
    made = own.connection_kwargs
    made.update({name: value for name, value in client.connection_kwargs.items() if name not in made})
    made.update(connection_class=client.connection_kwargs["connection_class"])
    own.nodes_manager.startup_nodes.update(
        {node.name: node for node in (ClusterNode(*address, **made) for address in begin)}
    )
    return own


def _attributes(of: Any) -> dict[str, Any]:
    """By the names of the constructor's arguments, which some attributes begin with an underscore."""
    names = [
        *(name for kind in type(of).__mro__ for name in vars(kind).get("__slots__", ())),
        *getattr(of, "__dict__", ()),
    ]
    return {name.lstrip("_"): getattr(of, name) for name in names if hasattr(of, name)}


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
