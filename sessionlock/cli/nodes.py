"""The masters behind a client of redis-py's, asked one by one: one that is down is no reason not to ask the others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import RedisCluster

from ..transport.clients import close_client
from ..transport.tasks import within

__all__ = ["ask_about", "close_all", "masters_of"]


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


async def close_all(client: Any) -> None:
    """Also what :func:`masters_of` has opened."""
    await close_client(client)
    if isinstance(client, RedisCluster):
        await client.nodes_manager.aclose()
        await client.nodes_manager.aclose("startup_nodes")
