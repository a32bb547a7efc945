"""The body of a WSGI request, received before its session is locked: the network's time is nobody's lock time.

It also lets a request run a second time, for what was received can be read again.
"""

from __future__ import annotations

import io
import os
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

from .rules import BODY_LIMIT

__all__ = ["MEMORY", "Spool"]

MEMORY = 1024 * 1024  # bytes that are kept in memory; more go into a temporary file
PIECE = 64 * 1024


class Source(Protocol):
    """``wsgi.input``, or what a framework has made of it: ends where the body ends."""

    def read(self, size: int, /) -> bytes: ...


class Spool:
    """The body of one request.

    ::

        spool = Spool(limited_input)
        spool.receive()                      # waits for the client, without a lock
        environ["wsgi.input"] = spool.reader()

    ``limit``: bytes that are received ahead at most; 0 for nothing. ``memory``: bytes that are kept in memory.
    An error of the source (the client has gone) is raised where the handler would have met it: when it reads that far.
    """

    def __init__(self, source: Source, *, limit: int = BODY_LIMIT, memory: int = MEMORY) -> None:
        self._source = source
        self._limit = limit
        self._memory = memory
        self._kept: IO[bytes] = io.BytesIO()
        self._failure: OSError | None = None
        self._is_mine = True
        self.size: int = 0
        """Bytes that were received ahead."""
        self.complete: bool = False
        """Whether that is all there is, so that it can be read again."""

    def receive(self) -> None:
        """Receive up to the limit. A second call goes on where the first one ended."""
        while not self.complete and self._failure is None and self.size < self._limit:
            try:
                piece = self._source.read(min(PIECE, self._limit - self.size))
            except OSError as error:
                self._failure = error
                return
            self.keep(piece)
            self.complete = not piece

    def keep(self, piece: bytes) -> None:
        """For who receives by itself: put that behind what was received."""
        kept = self._kept
        if isinstance(kept, io.BytesIO) and self.size + len(piece) > self._memory:
            self._kept = TemporaryFile()  # noqa: SIM115 (closed with the request)
            self._kept.write(kept.getbuffer())
        self._kept.seek(0, os.SEEK_END)
        self._kept.write(piece)
        self.size += len(piece)

    @property
    def in_memory(self) -> bool:
        """Whether reading it is no work for a disk."""
        return isinstance(self._kept, io.BytesIO)

    @classmethod
    def received(cls, file: IO[bytes]) -> Spool:
        """Of a body that its server has received into ``file``, which stays the server's to close."""
        spool = cls(file, limit=0)
        spool._kept, spool._is_mine, spool.complete = file, False, True
        spool.size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return spool

    def reader(self) -> io.BufferedReader:
        """A file that reads the body from its beginning. Closing it leaves the spool to the next reader.

        Only of a complete body there may be more than one; then it can seek.
        """
        return io.BufferedReader(_Reader(self), PIECE)

    def read_at(self, position: int, size: int) -> bytes:
        """What was received, from ``position``; behind it what comes from the source. For the readers."""
        if position < self.size:
            self._kept.seek(position)
            return self._kept.read(min(size, self.size - position))
        if self._failure is not None:
            raise self._failure
        return b"" if self.complete else self._source.read(size)

    def close(self) -> None:
        """Give the temporary file up."""
        if self._is_mine:
            self._kept.close()


class _Reader(io.RawIOBase):
    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._position = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._spool.read_at(self._position, len(buffer))
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def seekable(self) -> bool:
        return self._spool.complete

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if not self._spool.complete:
            raise io.UnsupportedOperation("only a body that was received completely can be read again")
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._spool.size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position
