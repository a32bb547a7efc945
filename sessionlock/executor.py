"""Runs the scripts: EVALSHA, once more as EVAL after NOSCRIPT, again after a lost connection.

Repeating is safe for every script (DESIGN: idempotent by token), so a lost reply is never a lost answer. Redis'
errors become :mod:`sessionlock.errors` here and nowhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from functools import cache
from importlib import resources
from typing import Any

import hiredis
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential

from .errors import RedisUnavailable, ScriptsForbidden
from .protocol import Call
from .wire import Wire, WireUnsupported

__all__ = ["Executor", "Script", "script"]

# What may have reached Redis or not: repeating is the only way to know.
LOST = (RedisConnectionError, RedisTimeoutError, OSError, EOFError)
# Replies that mean "not now": a server that loads its data set, a master being replaced, a busy script.
NOT_NOW = re.compile(r"^(LOADING|TRYAGAIN|MASTERDOWN|CLUSTERDOWN|READONLY|BUSY) ")


# Redis 6 and 7 word it differently; a missing key or channel permission is another matter.
NO_SCRIPTS = re.compile(r"^NOPERM .*(run|execute|use|access).*'?(evalsha|eval)\b", re.IGNORECASE)
USES = re.compile(r"^-- uses  (.+)$", re.MULTILINE)


class _NotNow(Exception):
    """Redis answered that it cannot serve this yet."""


class Script:
    """A Lua script and its SHA-1, by which EVALSHA names it."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


@cache
def script(name: str) -> Script:
    """The script ``lua/<name>.lua`` behind the parts (``lua/_<part>.lua``) that its ``uses`` line names."""
    folder = resources.files(__package__) / "lua"

    def text(of: str) -> str:
        return (folder / f"{of}.lua").read_text(encoding="utf-8")

    body = text(name)
    uses = USES.search(body)
    parts = uses[1].split() if uses else []
    return Script("".join(text(f"_{part}") for part in parts) + body)


class Executor:
    """Runs :class:`~sessionlock.protocol.Call` objects over one client, for one event loop.

    ``client``: a ``redis.asyncio`` client. ``reply_within``: seconds to wait for one reply. ``retry_for``: seconds
    during which a lost connection or "not now" is tried again.

    Raises (from :meth:`run`):
        RedisUnavailable: no answer in that time, or a refusal such as NOPERM.
    """

    def __init__(self, client: Any, *, reply_within: float, retry_for: float) -> None:
        self._client = client
        self._pool = getattr(client, "connection_pool", None)
        self._reply_within = reply_within
        self.crowded = False  # others of this process wait, so a tick is likely to have more than one call to send
        self._closed = False
        self._wire: Wire | None = None
        self._opening: asyncio.Task[None] | None = None
        self._send: Callable[[Script, Call], Awaitable[Any]] = self._send_by_wire
        self._retrying = AsyncRetrying(
            retry=retry_if_exception(_worth_repeating),
            stop=stop_after_delay(retry_for),
            wait=wait_random_exponential(multiplier=0.02, max=0.5),
            reraise=True,
        )
        if not Wire.fits(client):
            self._send = self._send_by_client

    async def run(self, call: Call) -> Any:
        """The script's reply."""
        try:
            return await self._once(call)
        except AuthenticationError as error:
            raise _mapped(error, call) from error
        except (*LOST, _NotNow):
            pass
        except (RedisError, hiredis.ReplyError) as error:
            raise _mapped(error, call) from error
        return await self._again(call)

    async def _again(self, call: Call) -> Any:
        try:
            return await self._retrying(self._once, call)
        except AuthenticationError as error:
            raise _mapped(error, call) from error
        except LOST as error:
            raise RedisUnavailable(
                f"Redis did not answer the {call.script} call ({error}); whether it took effect is unknown."
                " Leases end by themselves, nothing is saved twice; try again when Redis is back"
            ) from error
        except _NotNow as error:
            raise RedisUnavailable(f"Redis cannot serve the {call.script} call now: {error}") from error
        except (RedisError, hiredis.ReplyError) as error:
            raise _mapped(error, call) from error

    async def _once(self, call: Call) -> Any:
        if not self._closed:
            return await self._send(script(call.script), call)
        try:
            # The guard was closed while a request was inside a block: its end opens a connection once more.
            return await self._send(script(call.script), call)
        finally:
            if self._wire is not None and self._wire.idle:
                self._wire.close()

    async def _send_by_wire(self, text: Script, call: Call) -> Any:
        wire = self._wire
        if wire is None or wire.closed:
            try:
                wire = await self.wire()
            except WireUnsupported:
                self._send = self._send_by_client
                return await self._send_by_client(text, call)
        words = ("EVALSHA", text.sha, len(call.keys), *call.keys, *call.args)
        reply = await wire.call(words, soon=self.crowded)
        if isinstance(reply, hiredis.ReplyError):
            if str(reply).startswith("NOSCRIPT"):
                reply = await wire.call(("EVAL", text.text, len(call.keys), *call.keys, *call.args))
            if isinstance(reply, hiredis.ReplyError):
                _raise_reply(reply)
        return reply

    async def wire(self) -> Wire:
        """The connection, opened by the first of all that ask for it."""
        while self._wire is None or self._wire.closed:
            if self._opening is None:
                # A task of its own: whoever asked first may be cancelled, the others still need it.
                self._opening = asyncio.ensure_future(self._open())
                self._opening.add_done_callback(_fetch_error)
            opening = self._opening
            try:
                await asyncio.shield(opening)
            finally:
                if opening.done() and self._opening is opening:
                    self._opening = None
        return self._wire

    async def _open(self) -> None:
        self._wire = await Wire.open(self._pool, reply_within=self._reply_within)

    async def _send_by_client(self, text: Script, call: Call) -> Any:
        try:
            return await self._execute("EVALSHA", text.sha, call)
        except NoScriptError:
            return await self._execute("EVAL", text.text, call)
        except ResponseError as error:
            _raise_reply(error)

    async def _execute(self, command: str, what: str, call: Call) -> Any:
        # NEVER_DECODE: session fields are bytes whatever the client decodes for its user.
        return await self._client.execute_command(
            command, what, len(call.keys), *call.keys, *call.args, NEVER_DECODE=[]
        )

    async def aclose(self) -> None:
        self._closed = True
        opening = self._opening
        if opening is not None:
            opening.cancel()
            await asyncio.wait([opening])
        if self._wire is not None:
            self._wire.close()


def _worth_repeating(error: BaseException) -> bool:
    # redis-py takes a wrong password for a lost connection.
    return isinstance(error, (*LOST, _NotNow)) and not isinstance(error, AuthenticationError)


def _raise_reply(error: Exception) -> None:
    if NOT_NOW.match(str(error)):
        raise _NotNow(str(error)) from error
    raise error


def _mapped(error: Exception, call: Call) -> RedisUnavailable:
    if NO_SCRIPTS.match(str(error)):
        forbidden = ScriptsForbidden(
            f"Redis does not permit the {call.script} script: {error}. Locking needs EVALSHA, EVAL and PUBLISH;"
            " mode='optimistic' works without"
        )
        forbidden.refused = True
        return forbidden
    refused = RedisUnavailable(f"Redis refused the {call.script} call: {error}")
    refused.refused = True
    return refused


def _fetch_error(opening: asyncio.Task[None]) -> None:
    """Whoever waits for it gets the error; with nobody left it must not be reported as never retrieved."""
    if not opening.cancelled():
        opening.exception()
