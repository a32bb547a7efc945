"""What stands behind a guard, as the lock sees it: one Redis, or several that agree.

A topology belongs to one event loop. Only :mod:`sessionlock.guard` knows which ones there are; to add one, implement
:class:`Topology` in a folder of its own (``quorum/`` is an example) and let the guard choose it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..checkup.findings import Capabilities
from ..protocol.replies import Granted, Holder
from ..transport.calling import Executor
from ..transport.pushes import Pushes

if TYPE_CHECKING:
    from .request import LockRequest, OnWait
    from .runtime import Runtime

__all__ = ["Acquiring", "Background", "OpenTopology", "Topology"]

Background = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


class Acquiring(Protocol):
    """One try to become the holder. ``token`` names it wherever the lock is kept."""

    @property
    def token(self) -> str: ...

    @property
    def waits_for(self) -> Holder | None:
        """Who holds the lock, or held it when last heard of, while this one waited; None: it has not had to wait."""

    async def run(self) -> Granted:
        """Wait for the grant. Whatever ends it early leaves neither a lock nor a queue entry behind."""


class Topology(Protocol):
    """The way to the locks and sessions. ``client`` leads to the store of the sessions, ``voters`` to each of those who
    keep the locks instead of it.
    """

    @property
    def client(self) -> Any: ...

    @property
    def voters(self) -> Sequence[Any]: ...

    @property
    def executor(self) -> Executor:
        """Runs each call where it belongs."""

    def acquisition(self, runtime: Runtime, request: LockRequest, on_wait: OnWait | None, /) -> Acquiring: ...

    def listener(self, *, on_message: Callable[[bytes], None], on_gap: Callable[[], None]) -> Pushes:
        """Hears what the store pushes to this process; ``on_gap`` is called when messages may have been missed."""

    async def fit(self, timeout: float) -> None:
        """Raises :class:`~sessionlock.SessionLockError` where a look, which takes so many seconds at the most, shows
        that the store's server is unfit; unless nobody is to look.
        """

    async def capabilities(self) -> Capabilities:
        """Ask now what the server is. Raises :class:`~sessionlock.RedisUnavailable`."""

    async def aclose(self) -> None: ...


class OpenTopology(Protocol):
    """Opens a topology for the running event loop."""

    def __call__(self, *, background: Background, on_break: Callable[[], None]) -> Topology:
        """``background`` runs what nobody waits for; ``on_break`` is called when the connection for calls was lost."""
