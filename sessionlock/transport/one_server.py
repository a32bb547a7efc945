"""The way to one server, or to the master that Sentinel names; for a Cluster see :mod:`.cluster`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis

from ..protocol.calls import Call
from ..protocol.commands import in_full
from ..protocol.keys import SessionKeys
from .advice import NOT_HERE
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

    def batch_calls(self, wanted: bool) -> None:
        self.link.batch_calls(wanted)

    async def otherwise(self, call: Call[Any], refusal: hiredis.ReplyError) -> Any:
        try:
            return await self.link.otherwise(call, refusal)
        except hiredis.ReplyError as error:
            raise self._meant(error) from error

    async def send(self, call: Call[Any]) -> Any:
        try:
            return await self.link.evaluate(call)
        except hiredis.ReplyError as error:
            raise self._meant(error) from error

    async def send_and_wait(self, call: Call[Any], wait: tuple[Any, ...]) -> tuple[Any, Any]:
        try:
            return await self.link.evaluate_and_wait(call, wait)
        except hiredis.ReplyError as error:
            raise self._meant(error) from error

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

    def _meant(self, error: hiredis.ReplyError) -> Exception:
        if NOT_HERE.match(words_of(error)):
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
