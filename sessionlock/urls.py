"""From a URL to a ``redis.asyncio`` client."""

from __future__ import annotations

import warnings
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from .errors import ConfigurationError

__all__ = ["SCHEMES", "MemoryStoreWarning", "client_from_url"]

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
SCHEMES = ("redis", "rediss", "unix", *SENTINEL_SCHEMES, *CLUSTER_SCHEMES, "embedded", "memory")
SENTINEL_WITHIN = 0.5  # seconds for one sentinel to answer; the others know it, too
SENTINEL_PORT = 26379
REDIS_PORT = 6379


class MemoryStoreWarning(UserWarning):
    """``memory://`` keeps sessions in this process only: nothing is shared, nothing survives."""


def client_from_url(url: str) -> Any:
    """A client for ``url``; its connections are opened when they are first needed.

    ``redis://``, ``rediss://``, ``unix://``: as redis-py reads them. ``redis+sentinel://user:password@host:port,
    host:port/service/db``: the master that these sentinels name (``sentinel_username`` and ``sentinel_password`` as
    options, when the sentinels want others). ``redis+cluster://host:port,host:port``: a Redis Cluster, by any of its
    nodes. ``rediss+...``: with TLS. ``embedded://``: a private real server process that ends with this one.
    ``memory://``: fakeredis in this process, announced by a warning.

    Raises:
        ConfigurationError: another scheme, or an URL that redis-py cannot read.
        EmbeddedServerUnavailable: ``embedded://`` and there is no server to start.
    """
    try:
        scheme = urlsplit(url).scheme if isinstance(url, str) else ""
    except ValueError:
        raise _unreadable() from None
    if scheme not in SCHEMES:
        raise ConfigurationError(
            f"a Redis URL begins with {', '.join(f'{known}://' for known in SCHEMES)}; this one does not"
        )
    if scheme == "memory":
        return _memory_client(url)
    if scheme == "embedded":
        from .embedded.server import shared_server

        url = shared_server().url
    try:
        if scheme in SENTINEL_SCHEMES:
            return _sentinel_client(url)
        if scheme in CLUSTER_SCHEMES:
            return _cluster_client(url)
        # RESP2 unless the URL says otherwise (?protocol=3): Redis 5 knows no other, and we would gain nothing by RESP3.
        _check_database(url)
        client = Redis.from_url(url, protocol=2)
        pool: Any = client.connection_pool
        pool.make_connection()  # not opened; an option that nobody knows is an error now
        return client
    except ConfigurationError:
        raise
    except (ValueError, TypeError, IndexError, RedisError):
        raise _unreadable() from None


def _parts(url: str, port: int) -> tuple[list[tuple[str, int]], str, dict[str, Any]]:
    """The addresses, the path, and all else as redis-py reads it of an URL that names one host."""
    scheme, _, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    if not slash:
        authority, question, query = authority.partition("?")
        path = question + query
    credentials, at, hosts = authority.rpartition("@")
    path, question, query = path.partition("?")
    one = f"{scheme.partition('+')[0]}://{credentials}{at}placeholder/{question}{query}"
    options: dict[str, Any] = dict(parse_url(one))
    options.pop("host", None)
    options.pop("port", None)
    if options.pop("connection_class", None) is SSLConnection:
        options["ssl"] = True
    options.setdefault("protocol", 2)
    return [_address(host, port) for host in hosts.split(",")], path, options


def _check_database(url: str) -> None:
    """redis-py takes 0 for what is no number: two applications would share one database."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise ConfigurationError("a unix:// URL names a socket: unix:///run/redis.sock")
    elif parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ConfigurationError("the database in a Redis URL is a number: redis://localhost:6379/0")


def _address(text: str, port: int) -> tuple[str, int]:
    parsed = urlsplit(f"//{text}")
    if not parsed.hostname:
        raise ValueError("a host is missing")
    return parsed.hostname, port if parsed.port is None else parsed.port


def _sentinel_client(url: str) -> Redis:
    addresses, path, options = _parts(url, SENTINEL_PORT)
    service, _, db = path.partition("/")
    if not service:
        raise ConfigurationError(
            "a redis+sentinel:// URL names the service: redis+sentinel://host:port,host:port/mymaster"
        )
    if db:
        options["db"] = int(db)
    own: dict[str, Any] = {"socket_timeout": SENTINEL_WITHIN, "socket_connect_timeout": SENTINEL_WITHIN, "protocol": 2}
    for name in ("username", "password"):
        given = options.pop(f"sentinel_{name}", None)
        if given is not None:
            own[name] = given
    ssl = {name: value for name, value in options.items() if name.startswith("ssl")}
    sentinel = Sentinel(addresses, sentinel_kwargs={**own, **ssl}, **options)  # type: ignore[no-untyped-call]
    client: Redis = sentinel.master_for(service)
    return client


def _cluster_client(url: str) -> RedisCluster:
    addresses, path, options = _parts(url, REDIS_PORT)
    if path.strip("/") not in ("", "0"):
        raise ConfigurationError("a Redis Cluster has the database 0 only")
    options.pop("db", None)
    return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in addresses], **options)


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "this Redis URL cannot be read (it is not shown, for it may hold a password). In user names and passwords write"
        " / # ? @ : [ ] as %2F %23 %3F %40 %3A %5B %5D"
    )


_memory_servers: dict[str, Any] = {}


def _memory_client(url: str) -> Any:
    try:
        from fakeredis import FakeAsyncRedis, FakeServer
    except ImportError:
        raise ConfigurationError('memory:// needs fakeredis: pip install "sessionlock[memory]"') from None
    warnings.warn(
        "memory:// keeps sessions in this process only; use it for quick tests, never with several nodes",
        MemoryStoreWarning,
        stacklevel=4,
    )
    server = _memory_servers.setdefault(urlsplit(url).netloc, FakeServer())
    return FakeAsyncRedis(server=server)
