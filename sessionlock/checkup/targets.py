"""Ways to every master that a guard relies on, for looking at them: connections of their own, closed after the look.

So a master that hangs or is down delays no call, and breaks no connection that calls use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from ..quorum.router import Quorum
from ..transport.cluster import ClusterRoute
from ..transport.executor import Executor
from ..transport.link import Link
from .capabilities import Checkup, client_kind, server_name
from .probe import Ask

__all__ = ["checkup_of_quorum", "checkup_of_store"]


def checkup_of_store(client: Any, executor: Executor, *, prefix: str, reply_within: float) -> Checkup:
    """Of the server, or all masters of the cluster, that ``executor`` leads to."""
    kind, name, route = client_kind(client), server_name(client), executor.route
    if isinstance(route, ClusterRoute):
        return Checkup(None, name, client=kind, prefix=prefix, everyone=_cluster(route, reply_within))
    return Checkup(executor.ask, name, client=kind, prefix=prefix)


def checkup_of_quorum(quorum: Quorum, *, prefix: str) -> Checkup:
    """Of all its masters. ``quorum`` as :meth:`Quorum.connected` returns it."""
    name = "quorum " + ",".join(sorted(quorum.masters))
    return Checkup(None, name, client="quorum", prefix=prefix, everyone=_quorum(quorum))


def _cluster(route: ClusterRoute, reply_within: float) -> Callable[[], AbstractAsyncContextManager[Mapping[str, Ask]]]:
    @asynccontextmanager
    async def everyone() -> AsyncIterator[Mapping[str, Ask]]:
        await route.owner(None)  # now the map is known
        async with AsyncExitStack() as stack:
            asks: dict[str, Ask] = {}
            for address in sorted(route.map.masters):
                link = Link(route.connects(address), reply_within=reply_within, on_break=_nothing)
                stack.push_async_callback(link.aclose)
                asks[f"cluster master {address.host}:{address.port}"] = link.ask
            yield asks

    return everyone


def _quorum(quorum: Quorum) -> Callable[[], AbstractAsyncContextManager[Mapping[str, Ask]]]:
    @asynccontextmanager
    async def everyone() -> AsyncIterator[Mapping[str, Ask]]:
        async with AsyncExitStack() as stack:
            asks: dict[str, Ask] = {}
            for label, client in quorum.masters.items():
                executor = Executor(client, reply_within=quorum.reply_within, retry_for=quorum.reply_within)
                stack.push_async_callback(executor.aclose)
                asks[f"quorum master {label}"] = executor.ask
            yield asks

    return everyone


def _nothing() -> None:
    pass
