"""Reading an ASGI request ahead of the application, to learn early that its client has gone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

__all__ = ["Ahead"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MOST_AHEAD = 65_536  # bytes of a body that are kept for the application; beyond them nobody looks ahead


class Ahead:
    """A ``receive`` that can be read while the application does not read yet. No message is lost or comes twice."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: deque[Message] = deque()
        self._reader: asyncio.Task[None] | None = None
        self._wanted = False

    async def __call__(self) -> Message:
        """For the application."""
        while not self._kept:
            reader = self._reader
            if reader is None:
                return await self._receive()
            await asyncio.wait([reader])  # a cancelled caller leaves the reader to the next one
            if self._reader is reader:
                self._reader = None
                reader.result()
        return self._kept.popleft()

    def start(self, on_disconnect: Callable[[], object]) -> None:
        """Read on until :meth:`stop`; tell when the client has gone."""
        self._wanted = True
        self._reader = asyncio.get_running_loop().create_task(self._read(on_disconnect))

    def stop(self) -> None:
        """No more than the message that is waited for just now, which the application gets."""
        self._wanted = False

    async def _read(self, on_disconnect: Callable[[], object]) -> None:
        size = 0
        while self._wanted and size < MOST_AHEAD:
            message = await self._receive()
            self._kept.append(message)
            size += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                if self._wanted:
                    on_disconnect()
                return

    async def aclose(self) -> None:
        """The request is over: nobody reads any more."""
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.cancel()
            await asyncio.wait([reader])
        elif reader is not None and not reader.cancelled():
            reader.exception()  # the application has not asked for it; the server knows anyway
