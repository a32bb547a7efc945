"""The body of an aiohttp request, which can be received before the handler reads it, and be read twice.

aiohttp's own reader holds as much as its buffers take, and waits for the client when somebody reads. Here it is read
ahead into a spool, so that the network's time is nobody's lock time, or read along, so that a second run of the handler
finds what the first one found.
"""

from __future__ import annotations

import asyncio
import io
from typing import Any

from aiohttp import StreamReader, web

from ..web.bodies import PIECE, Spool

__all__ = ["Body"]

MOST_TWICE = 65_536  # bytes of a safe request's body that are kept for a second run
NOTHING = io.BytesIO()


class Body(StreamReader):
    """What ``request.content`` is. ``twice``: keep what is read, as long as it is not much, for :meth:`rewound`.

    All of aiohttp's ways to read come by :meth:`_wait` where their buffer is empty: here that is where it is filled.
    """

    def __init__(self, source: StreamReader, *, twice: bool = False, spool: Spool | None = None) -> None:
        stand_in: Any = _Nobody()
        super().__init__(stand_in, PIECE, loop=asyncio.get_running_loop())
        self._source = source
        self._spool = spool or Spool(NOTHING)
        self._at = 0  # of what stands in the spool, that is given already
        self._twice = twice
        self._turn = asyncio.Lock()  # two readers of one source would disturb each other

    @classmethod
    def of(cls, request: web.Request, *, twice: bool) -> Body | None:
        """Put it in the place of the request's own; None for a request without a body."""
        if not request.body_exists:
            return None
        body = request._payload = cls(request._payload, twice=twice)
        return body

    # --- ahead of the handler

    async def receive(self, limit: int) -> None:
        """Receive the rest of the body, or about ``limit`` bytes of it. An error is for who reads that far."""
        async with self._turn:
            while self._spool.size < limit and not self._source.at_eof():
                try:
                    piece = await self._source.readany()
                except Exception:
                    return  # the source raises it again
                await self._keep(piece)

    async def _keep(self, piece: bytes) -> None:
        if self._spool.in_memory and self._spool.size + len(piece) <= MOST_TWICE:
            self._spool.keep(piece)
        else:
            await asyncio.to_thread(self._spool.keep, piece)

    @property
    def can_rewind(self) -> bool:
        """Whether a second run would be given what the first one was."""
        return self._twice

    def rewound(self) -> Body:
        """The same from its beginning. Whoever still reads this one gets nothing more."""
        super().set_exception(ConnectionResetError("this request is being run again"))
        return Body(self._source, twice=True, spool=self._spool)

    def close(self) -> None:
        """Give the temporary file up."""
        self._spool.close()

    # --- for the handler

    async def _wait(self, func_name: str) -> None:
        async with self._turn:
            if self._buffer or self._eof or self._exception is not None:
                return
            piece = await self._next()
        if piece:
            self.feed_data(piece)
        else:
            self.feed_eof()

    async def _next(self) -> bytes:
        if self._at < self._spool.size:
            piece = await self._kept()
            self._at += len(piece)
            return piece
        piece = await self._source.readany()
        if self._twice:
            self._keep_for_a_second_run(piece)
        return piece

    async def _kept(self) -> bytes:
        if self._spool.in_memory:
            return self._spool.read_at(self._at, PIECE)
        return await asyncio.to_thread(self._spool.read_at, self._at, PIECE)

    def _keep_for_a_second_run(self, piece: bytes) -> None:
        self._twice = self._spool.size + len(piece) <= MOST_TWICE
        if self._twice:
            self._spool.keep(piece)
            self._at += len(piece)

    def read_nowait(self, n: int = -1) -> bytes:
        while self._at < self._spool.size and (n < 0 or self._size < n):
            piece = self._spool.read_at(self._at, PIECE)
            self._at += len(piece)
            self.feed_data(piece)
        if not self._buffer and self._at == self._spool.size:
            piece = self._source.read_nowait()
            if self._twice:
                self._keep_for_a_second_run(piece)
            self.feed_data(piece)
        return super().read_nowait(n)

    # --- what only the source knows

    def at_eof(self) -> bool:
        return super().at_eof() or (not self._buffer and self._at == self._spool.size and self._source.at_eof())

    def is_eof(self) -> bool:
        return super().is_eof() or self._source.is_eof()

    async def wait_eof(self) -> None:
        await self._source.wait_eof()

    def on_eof(self, callback: Any) -> None:
        self._source.on_eof(callback)

    def exception(self) -> Any:
        return super().exception() or self._source.exception()

    def set_exception(self, *error: Any) -> None:
        super().set_exception(*error)
        self._source.set_exception(*error)

    def set_read_chunk_size(self, n: int) -> None:
        """aiohttp 3.14."""
        mine = getattr(super(), "set_read_chunk_size", None)
        if mine is not None:
            mine(n)
            self._source.set_read_chunk_size(n)


class _Nobody:
    """Where a reader has its protocol, which feeds it. This one is fed by who reads it, and never too much."""

    connected = True
    _reading_paused = False

    def pause_reading(self) -> None: ...

    def resume_reading(self, *options: Any, **more: Any) -> None: ...
