"""What lock and session need of whatever runs their calls: the executor of one store, or the router of a quorum."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from ..policies import Replication
from ..protocol.calls import Call
from ..protocol.keys import SessionKeys
from ..protocol.numbers import Numbers

__all__ = ["Executor"]

T = TypeVar("T")


class Executor(Protocol):
    """Runs calls, for one event loop."""

    @property
    def waits(self) -> bool:
        """Whether :meth:`save` may do more than :meth:`run`: wait for replicas, or ask elsewhere."""

    def batch_calls(self, wanted: bool) -> None:
        """Whether many wait here, so that calls had better go together."""

    async def run(self, call: Call[T], limit: float = math.inf, /) -> T:
        """What the script answered. ``limit``: seconds after which that is not waited for any longer.

        Raises:
            asyncio.TimeoutError: the limit was reached.
            RedisUnavailable: no answer in the time that is allowed, or a refusal; or at once, in an outage.
        """

    async def save(self, call: Call[T], /) -> tuple[T, Replication | None]:
        """As :meth:`run`; and how far the save came, when that is waited for."""

    async def elsewise(self, key: bytes, do: Callable[[], Awaitable[T]], tried_for: SessionKeys | None = None) -> T:
        """Something about ``key`` that goes to the store by another way: refused in an outage. Its failure begins
        one where it was tried for long enough, for the session ``tried_for``.

        Raises what ``do`` raises. RedisUnavailable: there is an outage.
        """

    async def ready(self, timeout: float, /) -> None:
        """Ask whether calls can be served now, for so many seconds. In an outage it is known already.

        Raises:
            RedisUnavailable: they cannot, and why.
        """

    def group(self, keys: SessionKeys, token: str, /) -> object:
        """Leases of one group may be renewed in one call."""

    @property
    def numbers(self) -> Numbers:
        """By which the store knows this runtime's calls."""

    @property
    def deaf(self) -> bool:
        """Whether nothing follows from the number of receivers of a push."""

    def look_no_more(self) -> None:
        """For servers that are down: the event loop ends, or the guard is closed."""

    async def aclose(self) -> None: ...
