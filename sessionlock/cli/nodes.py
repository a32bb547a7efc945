"""The masters behind a client of redis-py's, asked one by one: one that is down is no reason not to ask the others."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from redis.asyncio import RedisCluster, SSLConnection

from ..checkup.findings import Finding
from ..transport.clients import close_client
from ..transport.tasks import within

__all__ = ["ask_about", "close_all", "masters_of", "unverified"]


async def masters_of(cluster: RedisCluster, seconds: float) -> dict[str, Any]:
    """By their addresses, as any of its nodes tells. ``RedisCluster.initialize`` would ask one master more, and give
    up where that one is down.

    Raises whatever redis-py raises where no node answers; asyncio.TimeoutError: none in that time.
    """
    await within(cluster.nodes_manager.initialize(), seconds)
    return {str(node.name): node for node in cluster.get_primaries()}


def ask_about(client: Any, key: bytes) -> Callable[..., Awaitable[Any]]:
    """How to ask the server that has ``key``."""
    node: Any = client.get_node_from_key(key.decode()) if isinstance(client, RedisCluster) else client
    ask: Callable[..., Awaitable[Any]] = node.execute_command
    return ask


def unverified(client: Any) -> Iterator[Finding]:
    """Of a connection with TLS whose other end might be anybody."""
    pool = client.connection_pool
    asked = pool.connection_kwargs.get("ssl_cert_reqs", "required")
    if issubclass(pool.connection_class, SSLConnection) and asked in ("none", ssl.CERT_NONE):
        yield Finding(
            "warn",
            "unverified",
            "the server's certificate is not looked at (ssl_cert_reqs=none)",
            "whoever stands between can pass for the server, and read the password and all sessions",
            "Take that option away, and name the authority that signed the certificate (?ssl_ca_certs=/path/to/ca.pem)",
        )


async def close_all(client: Any) -> None:
    """Also what :func:`masters_of` has opened."""
    await close_client(client)
    if isinstance(client, RedisCluster):
        await client.nodes_manager.aclose()
        await client.nodes_manager.aclose("startup_nodes")
