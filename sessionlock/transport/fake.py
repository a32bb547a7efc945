"""fakeredis (``memory://``) as a wire: nothing else knows of it.

Its connections have no socket to take over, they are asked one command after the other. Its Lua has no
``redis.sha1hex``, so values are compared as a whole there; and it never restarts.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import hiredis
from redis.exceptions import NoScriptError, ResponseError

from ..protocol.changes import fingerprint
from .tasks import detached

if TYPE_CHECKING:
    from .wire import Wire

__all__ = ["FakeTransport", "fake_server"]

SHA1 = re.compile(rb"[a-z]#[0-9a-f]{40}")
UP_FOR_EVER = b"uptime_in_seconds:1000000000\r\n"


def fake_server(client: Any) -> Any:
    """What holds the data of a fakeredis client; None: it is none."""
    return client.connection_pool.connection_kwargs.get("server")


class FakeTransport:
    """As an asyncio transport, for a connection of fakeredis that is open. ``wire`` gets whole replies, and
    messages where it ``listens``.
    """

    def __init__(self, connection: Any, wire: Wire, *, listens: bool) -> None:
        self._connection = connection
        self._wire = wire
        self._commands: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self._reader = hiredis.Reader()
        self._tasks = [detached(self._run(self._tell if listens else self._ask))]
        if listens:
            self._tasks.append(detached(self._run(self._listen)))

    def write(self, packed: bytes) -> None:
        self._reader.feed(packed)
        while command := self._reader.gets():
            self._commands.put_nowait(command)

    def abort(self) -> None:
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def get_extra_info(self, name: str) -> None:
        return None

    async def _run(self, step: Callable[[], Any]) -> None:
        try:
            while True:
                await step()
        except Exception as error:  # whatever it is, nobody is to wait for answers
            self._wire.connection_lost(error)

    async def _tell(self) -> None:
        await self._connection.send_command(*await self._commands.get())

    async def _listen(self) -> None:
        message = await self._answer()
        self._wire.data_received(b"")  # it lives
        if message is not None:
            self._wire.heard(message)

    async def _ask(self) -> None:
        command = await self._commands.get()
        if command == [b"INFO", b"server"]:
            self._wire.heard(UP_FOR_EVER)
            return
        if command[0] == b"FCALL":
            self._wire.heard(hiredis.ReplyError("ERR unknown command 'FCALL'"))  # it could not be changed below
            return
        if command[0] in (b"EVAL", b"EVALSHA"):
            command = [await self._in_full(command, place) for place in range(len(command))]
        await self._connection.send_command(*command)
        self._wire.heard(await self._answer())

    async def _answer(self) -> Any:
        try:
            return await self._connection.read_response(disable_decoding=True, timeout=None)
        except NoScriptError as error:
            return hiredis.ReplyError(f"NOSCRIPT {error}")
        except ResponseError as error:
            return hiredis.ReplyError(str(error))

    async def _in_full(self, command: list[bytes], place: int) -> bytes:
        """A change's base that is a SHA-1 (see ``lua/_commit.lua``): the value it stands for, if that is there now."""
        word = command[place]
        if (len(command) - place) % 3 or not SHA1.fullmatch(word):
            return word
        kind, base = word[:1], word[1:].decode()
        await self._connection.send_command("HGET", command[6], command[place + 1])
        current = await self._answer()
        if isinstance(current, bytes) and fingerprint(current) == base:
            return kind + b"=" + current
        return kind + b"=" + secrets.token_bytes(16)  # what nobody has written
