"""The way from a script call to the server that answers it; for a Cluster see :mod:`sessionlock.transport.cluster`."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..protocol.calls import Call, by_hash, in_full
from ..protocol.keys import SessionKeys
from .link import Link
from .wire import Wire, WireUnsupported

__all__ = ["LOST", "ClientRoute", "NotNow", "Route", "ServerRoute"]

# What may have reached Redis or not: repeating is the only way to know.
LOST = (RedisConnectionError, RedisTimeoutError, OSError, EOFError)
# Replies that mean "not now": a server that loads its data set, a master being replaced, a slot being moved.
NOT_NOW = re.compile(r"^(LOADING|TRYAGAIN|MASTERDOWN|CLUSTERDOWN|READONLY|BUSY|UNBLOCKED|NOREPLICAS) ")
# ... and those of a server that is the wrong one to ask again.
NOT_HERE = ("READONLY", "MASTERDOWN", "UNBLOCKED")


class NotNow(Exception):
    """Redis answered that it cannot serve this yet."""


class Route(Protocol):
    """How calls reach their server. What it raises is what redis-py and hiredis raise, and :class:`NotNow`."""

    crowded: bool
    """Others of this process wait, so a tick is likely to have more than one call to send."""

    async def send(self, call: Call[Any]) -> Any: ...

    async def send_and_wait(self, call: Call[Any], wait: tuple[Any, ...]) -> tuple[Any, Any]:
        """The script's reply, and the reply to ``wait``, which was sent right behind it."""

    async def ask(self, *words: Any) -> Any:
        """The reply to a plain command, of whichever server."""

    def group(self, keys: SessionKeys) -> object:
        """Sessions of one group may be named in one call."""

    def where(self, key: bytes) -> str | None:
        """Which of several servers a call about that key would go to, as far as is known; None: there is one."""

    async def knock(self, call: Call[Any] | None, within: float) -> None:
        """Ask that server once, ``call`` or (None) a PING, if possible over a connection of its own."""

    @property
    def reached(self) -> bool:
        """Whether there ever was a connection."""

    @property
    def idle(self) -> bool: ...

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


class ServerRoute:
    """One server, or the master that Sentinel names, over one connection of our own.

    ``on_break``: the connection was lost, or the server is a master no more.
    """

    def __init__(self, client: Any, *, reply_within: float, on_break: Callable[[], None]) -> None:
        self.crowded = False
        self.link = Link(client.connection_pool.make_connection, reply_within=reply_within, on_break=on_break)
        self._client = client
        self._otherwise: ClientRoute | None = None

    async def send(self, call: Call[Any]) -> Any:
        try:
            return await self.link.evaluate(call, soon=self.crowded)
        except WireUnsupported:
            return await self._by_client().send(call)
        except hiredis.ReplyError as error:
            raise self._meant(error) from error

    async def send_and_wait(self, call: Call[Any], wait: tuple[Any, ...]) -> tuple[Any, Any]:
        try:
            return await self.link.evaluate_and_wait(call, wait)
        except WireUnsupported:
            return await self._by_client().send_and_wait(call, wait)
        except hiredis.ReplyError as error:
            raise self._meant(error) from error

    async def ask(self, *words: Any) -> Any:
        try:
            return await self.link.ask(*words)
        except WireUnsupported:
            return await self._by_client().ask(*words)

    def where(self, key: bytes) -> str | None:
        return None

    async def knock(self, call: Call[Any] | None, within: float) -> None:
        try:
            wire = await Wire.open(self._client.connection_pool.make_connection, reply_within=within)
        except WireUnsupported:
            return await self._by_client().knock(call, within)
        try:
            reply = await wire.call(("PING",) if call is None else in_full(call))
        finally:
            wire.close()
        if isinstance(reply, hiredis.ReplyError):
            raise reply

    @property
    def reached(self) -> bool:
        return self.link.reached

    def _by_client(self) -> ClientRoute:
        if self._otherwise is None:
            self._otherwise = ClientRoute(self._client)
        return self._otherwise

    def _meant(self, error: hiredis.ReplyError) -> Exception:
        if str(error).startswith(NOT_HERE):
            self.link.drop()
        return meant(error)

    def group(self, keys: SessionKeys) -> object:
        return None

    @property
    def idle(self) -> bool:
        return self.link.idle

    def close(self) -> None:
        self.link.close()

    async def aclose(self) -> None:
        await self.link.aclose()


class ClientRoute:
    """By the client's own commands, for clients whose connections cannot be taken over (fakes)."""

    def __init__(self, client: Any) -> None:
        self.crowded = False
        self._client = client

    async def send(self, call: Call[Any]) -> Any:
        try:
            return await self._execute(by_hash(call))
        except NoScriptError:
            return await self._execute(in_full(call))
        except ResponseError as error:
            raise meant(error) from error

    async def send_and_wait(self, call: Call[Any], wait: tuple[Any, ...]) -> tuple[Any, Any]:
        # Not on one connection perhaps; a client that we cannot look into has no better to offer.
        return await self.send(call), await self._client.execute_command(*wait)

    async def ask(self, *words: Any) -> Any:
        return await self._client.execute_command(*words)

    def where(self, key: bytes) -> str | None:
        return None

    async def knock(self, call: Call[Any] | None, within: float) -> None:
        await (self.ask("PING") if call is None else self.send(call))

    @property
    def reached(self) -> bool:
        return True

    async def _execute(self, words: tuple[Any, ...]) -> Any:
        # NEVER_DECODE: session fields are bytes whatever the client decodes for its user.
        return await self._client.execute_command(*words, NEVER_DECODE=[])

    def group(self, keys: SessionKeys) -> object:
        return None

    @property
    def idle(self) -> bool:
        return True

    def close(self) -> None:
        """The client is its owner's to close."""

    async def aclose(self) -> None:
        """The client is its owner's to close."""


def meant(error: Exception) -> Exception:
    """An error reply as what it means: :class:`NotNow`, or itself."""
    return NotNow(str(error)) if NOT_NOW.match(str(error)) else error
