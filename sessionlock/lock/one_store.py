"""The usual topology: locks and sessions in one Redis, be it a single server, one behind Sentinel, or a Cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..checkup.findings import Capabilities
from ..checkup.targets import checkup_of_store
from ..checkup.vetting import Vetting
from ..observe import CallAnswered, Observers
from ..policies import Replicated
from ..protocol.keys import new_token
from ..transport.clients import close_client, own_client
from ..transport.cluster import ClusterRoute
from ..transport.cluster_pushes import ClusterPushes
from ..transport.executor import RedisExecutor
from ..transport.one_server import ServerRoute
from ..transport.pushes import ProcessChannel, Pushes
from ..transport.telling import TellingExecutor
from .acquire import Acquisition
from .topology import Background

__all__ = ["OneStore"]


class OneStore:
    """``check``: whether to look once at the server, and to refuse calls to one that is unfit. ``background`` is what
    every topology is given; this one needs none. ``observer``: hears of repeated calls, of outages, and of each call if
    it wants to.
    """

    acquisition = Acquisition
    voters: tuple[Any, ...] = ()

    def __init__(
        self,
        client: Any,
        *,
        prefix: str,
        reply_within: float,
        retry_for: float,
        durability: Replicated | None,
        check: bool,
        observer: Observers | None = None,
        background: Background,
        on_break: Callable[[], None],
    ) -> None:
        self._given_client = client
        self._prefix = prefix
        self._reply_within = reply_within
        self.client: Any = own_client(client, within=reply_within)
        hears_calls = observer is not None and CallAnswered in observer.hears
        open_executor: Any = TellingExecutor if hears_calls else RedisExecutor
        self.executor: RedisExecutor = open_executor(
            self.client,
            reply_within=reply_within,
            retry_for=retry_for,
            durability=durability,
            on_break=on_break,
            observer=observer,
        )
        checkup = checkup_of_store(
            self.client, self.executor, prefix=prefix, reply_within=reply_within, durability=durability
        )
        self.vetting: Vetting = Vetting(checkup)
        self._checks = check
        if check:
            self.executor.vet_by(self.vetting.vet)

    def listener(self, *, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> Pushes:
        route = self.executor.route
        if isinstance(route, ClusterRoute):
            return ClusterPushes(
                route, self._prefix, reply_within=self._reply_within, on_message=on_message, on_gap=on_gap
            )
        assert isinstance(route, ServerRoute)
        return ProcessChannel(
            self.client,
            f"{self._prefix}:push:{new_token()}",
            reply_within=self._reply_within,
            on_message=on_message,
            on_gap=on_gap,
            calls_go_to=lambda: route.link.leads_to,
        )

    async def fit(self, timeout: float) -> None:
        if self._checks:
            await self.vetting.fit(timeout)

    async def capabilities(self) -> Capabilities:
        return await self.vetting.look()

    async def aclose(self) -> None:
        await self.vetting.aclose()
        await self.executor.aclose()
        if self.client is not self._given_client:
            await close_client(self.client)
