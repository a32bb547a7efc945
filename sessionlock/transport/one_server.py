"""The way to one server, or to the master that Sentinel names; for a Cluster see :mod:`.cluster`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from ..protocol.calls import Call
from ..protocol.commands import in_full
from ..protocol.keys import SessionKeys
from .advice import NOT_HERE, ONE_SLOT
from .cluster import slot_of
from .link import Link
from .reply import Reply
from .route import meant, words_of
from .wire import Wire

__all__ = ["ServerRoute"]


class ServerRoute:
    """One server, or the master that Sentinel names, over one connection of our own.

    ``on_break``: the connection was lost, or the server is a master no more.
    """

    def __init__(self, client: Any, *, reply_within: float, on_break: Callable[[], None]) -> None:
        self.link: Link = Link(client.connection_pool.make_connection, reply_within=reply_within, on_break=on_break)
        self.begin: Callable[[Call[Any]], Reply | None] = self.link.begin
        self._client = client
        self._reply_within = reply_within
        self._is_split = False

    @property
    def command(self) -> str:
        return self.link.command

    def batch_calls(self, wanted: bool) -> None:
        self.link.batch_calls(wanted)

    async def otherwise(self, call: Call[Any], refusal: hiredis.ReplyError) -> Any:
        try:
            return await self.link.otherwise(call, refusal)
        except hiredis.ReplyError as error:
            raise self._meant(error, call) from error

    async def send(self, call: Call[Any]) -> Any:
        try:
            return await self.link.evaluate(call)
        except hiredis.ReplyError as error:
            raise self._meant(error, call) from error

    async def send_and_wait(self, call: Call[Any], wait: tuple[Any, ...]) -> tuple[Any, Any]:
        try:
            return await self.link.evaluate_and_wait(call, wait)
        except hiredis.ReplyError as error:
            raise self._meant(error, call) from error

    async def ask(self, *words: Any) -> Any:
        return await self.link.ask(*words)

    def where(self, key: bytes) -> str | None:
        return None

    async def knock(self, call: Call[Any] | None) -> None:
        wire = await Wire.open(self._client.connection_pool.make_connection, reply_within=self._reply_within)
        try:
            reply = await wire.call(("PING",) if call is None else in_full(call))
        finally:
            wire.close()
        if isinstance(reply, hiredis.ReplyError):
            raise reply

    @property
    def reached(self) -> bool:
        return self.link.reached

    def _meant(self, error: hiredis.ReplyError, call: Call[Any]) -> Exception:
        said = words_of(error)
        if NOT_HERE.match(said):
            self.link.drop()
        self._is_split = self._is_split or ONE_SLOT.search(said) is not None
        return meant(error, call)

    def group(self, keys: SessionKeys) -> object:
        """All may be named in one call; but by slot, once a proxy has told that a cluster is behind it."""
        return slot_of(keys) if self._is_split else None

    @property
    def idle(self) -> bool:
        return self.link.idle

    def close(self) -> None:
        self.link.close()

    async def aclose(self) -> None:
        await self.link.aclose()
