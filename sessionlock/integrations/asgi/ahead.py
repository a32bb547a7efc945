"""What a client sends, received before the application asks: its body, and that it has gone.

A body is received before the lock is taken, so that the network's time is not spent under the lock; what the
application has been given can be given once more to a second run of it.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from functools import partial
from tempfile import TemporaryFile
from typing import IO, Any

import anyio.to_thread

__all__ = ["Ahead"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

MOST_AHEAD = 65_536  # bytes that are read while the request waits for its lock, or are kept for a second run
IN_MEMORY = 1_048_576  # bytes of a body; the rest of it is kept in a file
PIECE = 65_536  # bytes in which the file is read
GONE: Message = {"type": "http.disconnect"}


class Ahead:
    """A ``receive`` that can be read while the application does not read yet. No message is lost or comes twice.

    ``again``: keep what the application is given, as long as it is not much, for :meth:`rewind`.
    """

    def __init__(self, receive: Receive, *, again: bool = False) -> None:
        self._receive = receive
        self._kept: deque[Message | _File] = deque()
        self._reader: asyncio.Task[None] | None = None
        self._wanted = False
        self._complete = False  # the body has been received, whoever has it now
        self._given: list[Message] | None = [] if again else None
        self._given_size = 0
        self._run = 0

    # --- for the application

    def reader(self) -> Receive:
        """The ``receive`` of one run of the application: what is left of an earlier run gets nothing any more."""
        self._run += 1
        return partial(self._read_in, self._run)

    async def _read_in(self, run: int) -> Message:
        if run != self._run:
            return GONE
        message = await self()
        if self._given is not None:
            self._given.append(message)
            self._given_size += len(message.get("body", b""))
            if self._given_size > MOST_AHEAD:
                self._given = None
        return message

    async def __call__(self) -> Message:
        while not self._kept:
            reader = self._reader
            if reader is None:
                return await self._next()
            await asyncio.wait([reader])  # a cancelled caller leaves the reader to the next one
            if self._reader is reader:
                self._reader = None
                reader.result()
        if not isinstance(self._kept[0], _File):
            message = self._kept.popleft()
            assert not isinstance(message, _File)
            return message
        return await self._from(self._kept[0])

    async def _from(self, file: _File) -> Message:
        body = await file.read()
        if not file.left:
            file.close()
            self._kept.popleft()
        return {"type": "http.request", "body": body, "more_body": bool(file.left) or file.more}

    # --- a second run

    @property
    def can_rewind(self) -> bool:
        """Whether a second run would be given what the first one was."""
        return self._given is not None

    def rewind(self) -> None:
        """The next :meth:`reader` begins from the beginning; it is the last one that can."""
        assert self._given is not None
        self._kept.extendleft(reversed(self._given))
        self._given = None
        self._run += 1

    # --- the body

    async def fill(self, limit: int) -> bool:
        """Receive the body, or its beginning if it has more than ``limit`` bytes. False: the client has gone."""
        size, file = 0, None
        while limit and size <= limit and not self._complete:
            message = await self._next()
            if message["type"] != "http.request":
                return False
            body = message.get("body", b"")
            size += len(body)
            if file is None and size <= IN_MEMORY:
                self._kept.append(message)
                continue
            if file is None:
                file = _File(await anyio.to_thread.run_sync(_new_file))
                self._kept.append(file)
            await file.write(body)
            file.more = not self._complete
        return True

    async def _next(self) -> Message:
        message = await self._receive()
        self._complete = self._complete or not message.get("more_body", False)
        return message

    # --- while the request waits

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
            message = await self._next()
            self._kept.append(message)
            size += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                if self._wanted:
                    on_disconnect()
                return

    async def aclose(self) -> None:
        """The request is over: nobody reads any more."""
        for kept in self._kept:
            if isinstance(kept, _File):
                kept.close()
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.cancel()
            await asyncio.wait([reader])
        elif reader is not None and not reader.cancelled():
            reader.exception()  # the application has not asked for it; the server knows anyway


class _File:
    """The part of a body that is too much for memory. ``more``: the client has not sent all of it yet."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = self._at = 0
        self.more = True

    @property
    def left(self) -> int:
        """Bytes that have not been read."""
        return self._size - self._at

    async def write(self, body: bytes) -> None:
        await anyio.to_thread.run_sync(_write, self._file, body)
        self._size += len(body)

    async def read(self) -> bytes:
        """The next piece. A caller that is cancelled takes nothing."""
        body = await anyio.to_thread.run_sync(os.pread, self._file.fileno(), PIECE, self._at)
        self._at += len(body)
        return body

    def close(self) -> None:
        self._file.close()


def _new_file() -> IO[bytes]:
    return TemporaryFile(buffering=0)


def _write(file: IO[bytes], body: bytes) -> None:
    left = memoryview(body)
    while left:
        left = left[file.write(left) :]
