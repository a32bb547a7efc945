"""Ways to every server of a store, for looking at them.

To a Cluster's masters they are connections of their own, closed after the look. So a master that hangs or is down
delays no call, and breaks no connection that calls use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from ..policies import Replicated
from ..transport.clients import client_kind, server_name
from ..transport.cluster import ClusterRoute, slot_of_name
from ..transport.executor import RedisExecutor
from ..transport.link import Link
from .capabilities import Checkup
from .probe import Server, tags_of

__all__ = ["checkup_of_store"]


def checkup_of_store(
    client: Any, executor: RedisExecutor, *, prefix: str, reply_within: float, durability: Replicated | None = None
) -> Checkup:
    """Of the server, or all masters of the cluster, that ``executor`` leads to. ``durability``: as of a guard."""
    kind, name, route = client_kind(client), server_name(client), executor.route
    if isinstance(route, ClusterRoute):
        return Checkup(
            None, name, client=kind, prefix=prefix, everyone=_cluster(route, reply_within), durability=durability
        )
    return Checkup(executor.ask, name, client=kind, prefix=prefix, durability=durability)


def _cluster(
    route: ClusterRoute, reply_within: float
) -> Callable[[], AbstractAsyncContextManager[Mapping[str, Server]]]:
    @asynccontextmanager
    async def everyone() -> AsyncIterator[Mapping[str, Server]]:
        await route.owner(None)  # now the map is known
        async with AsyncExitStack() as stack:
            servers: dict[str, Server] = {}
            masters = sorted(route.map.masters)
            tags = tags_of(masters, lambda tag: route.map.owner(slot_of_name(tag)))
            for address in masters:
                link = Link(route.connects(address), reply_within=reply_within, on_break=_nothing)
                stack.push_async_callback(link.aclose)
                name = f"cluster master {address.host}:{address.port}"
                servers[name] = Server(link.ask, tags[address]) if address in tags else Server(link.ask)
            yield servers

    return everyone


def _nothing() -> None:
    pass
