"""The tries of one call: again and again for as long as is allowed, or until an outage is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import hiredis
from redis.exceptions import RedisError
from tenacity import AsyncRetrying

from .advice import NOT_NOW_BEHIND
from .outages import was_cut
from .route import LOST, NotNow
from .tasks import fetch_error
from .wire import was_unsent

__all__ = ["FAILURES", "Repetition"]

FAILURES = (RedisError, hiredis.ReplyError, NotNow, *LOST)


class Repetition:
    """Tries of one call, after its ``first``. ``sent``: whether any of them had a connection; ``lost``: whether one may
    have been carried out although it failed; ``last``: what the last one that ended met; ``cuts``: how many in a row
    had a connection that was closed. ``on_again``: called before each but the first, with how many there were.
    """

    def __init__(
        self,
        send: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        first: Exception | None,
        on_again: Callable[[int], object],
    ) -> None:
        self.sent: bool = first is not None and not was_unsent(first)
        self.lost: bool = first is not None and _is_lost(first)
        self.last = first
        self.cuts: int = was_cut(first)
        self._tries = 0 if first is None else 1
        self._on_again = on_again
        self._send = send
        self._args = args

    async def _again(self) -> Any:
        if self._tries:
            self._on_again(self._tries)
        self._tries += 1
        try:
            return await self._send(*self._args)
        except asyncio.CancelledError as error:
            self.sent = self.sent or not was_unsent(error)
            self.lost = self.lost or not was_unsent(error)
            raise
        except FAILURES as error:
            self.last = error
            self.cuts = self.cuts + 1 if was_cut(error) else 0
            self.sent = self.sent or not was_unsent(error)
            self.lost = self.lost or _is_lost(error)
            raise

    async def run(
        self, retrying: AsyncRetrying, opened: asyncio.Future[None], within: float | None
    ) -> asyncio.Task[Any] | None:
        """The tries, ended; None when they were cut off: their time is over, or ``opened`` tells of an outage."""
        tries: asyncio.Task[Any] = asyncio.ensure_future(retrying(self._again))
        try:
            await asyncio.wait([tries, opened], timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not tries.done():
                tries.cancel()
                tries.add_done_callback(fetch_error)
        if not tries.done():
            await asyncio.wait([tries])  # then it is known what was sent
        return None if tries.cancelled() else tries


def _is_lost(error: Exception) -> bool:
    """Whether what met that may have been carried out all the same. What stands before a server does not always say
    whether it had passed it on.
    """
    if isinstance(error, NotNow):
        return NOT_NOW_BEHIND.match(str(error)) is not None
    return isinstance(error, LOST) and not was_unsent(error)
