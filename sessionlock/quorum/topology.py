"""A majority of independent masters holds the locks; the sessions are in one store, as without a quorum."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from ..checkup.capabilities import Checkup
from ..checkup.findings import Capabilities
from ..checkup.probe import Server
from ..checkup.vetting import Vetting
from ..lock.request import LockRequest, OnWait
from ..lock.runtime import Runtime
from ..lock.topology import Acquiring, Background, OpenTopology, Topology
from ..observe import Observers
from ..transport.executor import RedisExecutor
from ..transport.pushes import Pushes
from .acquisition import QuorumAcquisition
from .config import Quorum
from .election import NativeElection
from .masters import Masters
from .poll import Contest, Election
from .pottery import PotteryElection
from .router import CallRouter

__all__ = ["QuorumTopology"]


class QuorumTopology:
    """``open_store``: opens the topology of the store. ``quorum``: as :meth:`Quorum.connected` returns it."""

    def __init__(
        self,
        quorum: Quorum,
        open_store: OpenTopology,
        *,
        prefix: str,
        lease_ttl: float,
        retry_for: float,
        check: bool,
        observer: Observers | None = None,
        background: Background,
        on_break: Callable[[], None],
    ) -> None:
        self._store: Topology = open_store(background=background, on_break=on_break)
        self.client: Any = self._store.client
        self.voters: tuple[Any, ...] = tuple(quorum.masters.values())
        self._masters = Masters(quorum, prefix=prefix, lease_ttl=lease_ttl)
        self.executor: CallRouter = CallRouter(
            self._store.executor, self._masters, background, retry_for=retry_for, observer=observer
        )
        self._election: Callable[[Contest], Election] = (
            PotteryElection if quorum.engine == "pottery" else NativeElection
        )
        name = "quorum " + ",".join(sorted(quorum.masters))
        checkup = Checkup(None, name, client="quorum", prefix=prefix, everyone=_ways_to_all(quorum))
        self._vetting = Vetting(checkup)
        if check:
            # None is refused whatever is found: those masters that can vote are enough.
            self._vetting.look_soon()

    def acquisition(self, runtime: Runtime, request: LockRequest, on_wait: OnWait | None, /) -> Acquiring:
        return QuorumAcquisition(self._election, self.executor, runtime, request, on_wait)

    def listener(self, *, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> Pushes:
        return self._store.listener(on_message=on_message, on_gap=on_gap)

    async def fit(self, timeout: float) -> None:
        await self._store.fit(timeout)

    async def capabilities(self) -> Capabilities:
        return await self._store.capabilities()

    async def aclose(self) -> None:
        await self._vetting.aclose()
        await self._masters.aclose()
        await self._store.aclose()


def _ways_to_all(quorum: Quorum) -> Callable[[], AbstractAsyncContextManager[Mapping[str, Server]]]:
    """Connections of their own, closed after the look: a master that hangs delays no call."""

    @asynccontextmanager
    async def everyone() -> AsyncIterator[Mapping[str, Server]]:
        async with AsyncExitStack() as stack:
            servers: dict[str, Server] = {}
            for label, client in quorum.masters.items():
                executor = RedisExecutor(client, reply_within=quorum.reply_within, retry_for=quorum.reply_within)
                stack.push_async_callback(executor.aclose)
                servers[f"quorum master {label}"] = Server(executor.ask)
            yield servers

    return everyone
