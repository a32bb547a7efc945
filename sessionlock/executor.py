"""Runs the scripts: again after a lost connection or "not now", over whatever route leads to their server.

Repeating is safe for every script (DESIGN: idempotent by token), so a lost reply is never a lost answer. Redis'
errors become :mod:`sessionlock.errors` here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import hiredis
from redis.asyncio import RedisCluster
from redis.exceptions import AuthenticationError, RedisError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from .cluster import ClusterRoute
from .durability import Safety, Wait
from .errors import RedisUnavailable, ScriptsForbidden
from .keys import SessionKeys, new_token
from .protocol import Call
from .routes import LOST, ClientRoute, NotNow, Route, ServerRoute
from .scripts import Script, script
from .wire import Wire, was_unsent

__all__ = ["LOST", "Executor", "Script", "script", "worth_repeating"]

T = TypeVar("T")
FAILURES = (RedisError, hiredis.ReplyError, NotNow, *LOST)
# Redis 6 and 7 word it differently; a missing key or channel permission is another matter.
NO_SCRIPTS = re.compile(r"^NOPERM .*(run|execute|use|access).*'?(evalsha|eval)\b", re.IGNORECASE)
NO_RESP3 = re.compile(r"unknown command\W+HELLO", re.IGNORECASE)
# What ends something that was begun; it must go on when a server turns out to be unfit.
ENDS = ("release", "abandon", "save", "renew")


class Executor:
    """Runs :class:`~sessionlock.protocol.Call` objects over one client, for one event loop.

    ``client``: a ``redis.asyncio`` client. ``reply_within``: seconds to wait for one reply. ``retry_for``: seconds
    during which a lost connection or "not now" is tried again. ``durability``: what saves wait for. ``on_break``:
    called when a connection was lost: what else is connected to that server should not be trusted either.

    Raises (from :meth:`run`):
        RedisUnavailable: no answer in that time, or a refusal such as NOPERM.
    """

    def __init__(
        self,
        client: Any,
        *,
        reply_within: float,
        retry_for: float,
        durability: Wait | None = None,
        on_break: Callable[[], None] = lambda: None,
    ) -> None:
        self.route: Route = _route(client, reply_within, on_break)
        self._durability = durability
        self.before_call: Callable[[], None] | None = None  # raises when the server is known to be unfit
        self._closed = False
        self._retrying = AsyncRetrying(
            retry=retry_if_exception(worth_repeating),
            stop=stop_after_delay(retry_for),
            wait=wait_random_exponential(multiplier=0.02, max=0.5),
            reraise=True,
        )

    async def run(self, call: Call) -> Any:
        """The script's reply."""
        if self.before_call is not None and call.script not in ENDS:
            self.before_call()
        try:
            return await self._send(call)
        except FAILURES as error:
            return await self._after(error, call, self._send, call)

    async def ask(self, *words: Any) -> Any:
        """The reply to one plain command, of one server; once. For looking at what the server is.

        Raises:
            redis.exceptions.RedisError, hiredis.ReplyError, OSError: as it came.
        """
        return await self.route.ask(*words)

    async def save(self, call: Call) -> tuple[Any, Safety | None]:
        """As :meth:`run`; and how far the save came, when that is waited for."""
        if self._durability is None:
            return await self.run(call), None
        if self.before_call is not None and call.script not in ENDS:
            self.before_call()
        wait = self._durability.command
        try:
            reply, reached = await self._send_and_wait(call, wait)
        except FAILURES as error:
            reply, reached = await self._after(error, call, self._send_and_wait, call, wait)
            if call.script != "destroy":  # which writes each time
                reached = await self._wait_behind(call, wait)
        return reply, self._durability.judge(reached)

    async def _wait_behind(self, call: Call, wait: tuple[Any, ...]) -> Any:
        """The reply to ``wait`` behind all that an earlier try of ``call`` wrote, on a connection that is gone. None:
        not known.

        From Redis 7.2 on WAIT looks at the writes of its own connection only, and repeating what is done writes
        nothing. Giving up what nobody asked for changes nothing either, but it is a write behind that one.
        """
        nobody = Call("abandon", call.keys, (new_token(), 0, 1, 0))
        try:
            _, reached = await self._send_and_wait(nobody, wait)
        except FAILURES as error:
            try:
                _, reached = await self._after(error, nobody, self._send_and_wait, nobody, wait)
            except RedisUnavailable:
                return None  # it was saved, and how far that came is not known
        return reached

    async def _after(self, first: Exception, call: Call, send: Callable[..., Awaitable[T]], *args: Any) -> T:
        """The first try, which has none of tenacity's overhead, failed: more of them, where that is worth it."""
        if not worth_repeating(first):
            raise _mapped(first, call) from first
        sent = not was_unsent(first)

        async def again() -> T:
            nonlocal sent
            try:
                return await send(*args)
            except FAILURES as error:
                sent = sent or not was_unsent(error)
                raise

        try:
            return await self._retrying(again)
        except FAILURES as error:
            raise _mapped(error, call, sent=sent) from error

    def _send(self, call: Call) -> Awaitable[Any]:
        sending = self.route.send(script(call.script), call)
        return sending if not self._closed else self._send_late(sending)

    def _send_and_wait(self, call: Call, wait: tuple[Any, ...]) -> Awaitable[tuple[Any, Any]]:
        sending = self.route.send_and_wait(script(call.script), call, wait)
        return sending if not self._closed else self._send_late(sending)

    async def _send_late(self, sending: Awaitable[T]) -> T:
        """The guard was closed while a request was inside a block: its end opens a connection once more."""
        try:
            return await sending
        finally:
            if self.route.idle:
                self.route.close()

    @property
    def crowded(self) -> bool:
        return self.route.crowded

    @crowded.setter
    def crowded(self, crowded: bool) -> None:
        self.route.crowded = crowded

    @property
    def deaf(self) -> bool:
        """Whether nothing follows from the number of receivers of a push: in a Cluster one node's only are counted."""
        return isinstance(self.route, ClusterRoute)

    def group(self, keys: SessionKeys, token: str) -> object:
        """Leases of one group may be renewed in one call."""
        return self.route.group(keys)

    async def aclose(self) -> None:
        self._closed = True
        await self.route.aclose()


def _route(client: Any, reply_within: float, on_break: Callable[[], None]) -> Route:
    if isinstance(client, RedisCluster):
        return ClusterRoute(client, reply_within=reply_within, on_break=on_break)
    if Wire.fits(client):
        return ServerRoute(client, reply_within=reply_within, on_break=on_break)
    return ClientRoute(client)


def worth_repeating(error: BaseException) -> bool:
    # redis-py takes a wrong password, and a server that does not know HELLO, for a lost connection.
    hopeless = isinstance(error, AuthenticationError) or NO_RESP3.search(str(error))
    return isinstance(error, (*LOST, NotNow)) and not hopeless


def _mapped(error: Exception, call: Call, *, sent: bool = True) -> RedisUnavailable:
    """``sent``: whether any of the tries had a connection."""
    if isinstance(error, NotNow):
        return RedisUnavailable(f"Redis cannot serve the {call.script} call now: {error}")
    if worth_repeating(error) and not sent:
        return RedisUnavailable(
            f"there was no connection to Redis for the {call.script} call ({error}); nothing was sent."
            " Try again when Redis is back"
        )
    if worth_repeating(error):
        return RedisUnavailable(
            f"Redis did not answer the {call.script} call ({error}); whether it took effect is unknown."
            " Leases end by themselves, nothing is saved twice; try again when Redis is back"
        )
    refused: RedisUnavailable
    if NO_SCRIPTS.match(str(error)):
        refused = ScriptsForbidden(
            f"Redis does not permit the {call.script} script: {error}. Locking needs EVALSHA, EVAL and PUBLISH;"
            " mode='optimistic' works without"
        )
    elif NO_RESP3.search(str(error)):
        refused = RedisUnavailable("this server is older than Redis 6 and speaks no RESP3: give its client protocol=2")
    else:
        refused = RedisUnavailable(f"Redis refused the {call.script} call: {error}")
    refused.refused = True
    return refused
