"""Small records that a face keeps beside a session's own, as long as it wants to, whatever becomes of the session."""

from __future__ import annotations

import asyncio
import math
import weakref
from typing import Any, Protocol

from redis.exceptions import RedisError

from ..errors import RedisUnavailable
from ..protocol.keys import check_sid, keys_for
from ..transport.advice import with_advice
from ..transport.route import LOST
from ..transport.tasks import within

__all__ = ["Beside"]

AT_ONCE = 20  # commands, for each event loop: a pool refuses more than it has connections for
WITHIN = 5.0  # seconds for one command
_turns: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = weakref.WeakKeyDictionary()


class Guard(Protocol):
    """The guard, as far as it is needed here."""

    @property
    def prefix(self) -> str: ...

    def runtime(self) -> Any: ...


class Beside:
    """The records beside the session ``sid``: each has a name of its own, and is kept where the session is.

    Raises (all methods):
        RedisUnavailable.
    """

    def __init__(self, guard: Guard, sid: str) -> None:
        """Raises :class:`~sessionlock.InvalidSessionId`."""
        self._guard = guard
        self._keys = keys_for(guard.prefix, check_sid(sid))

    @property
    def digest(self) -> str:
        return self._keys.digest

    async def exists(self, name: str) -> bool:
        return bool(await self._command("EXISTS", name))

    async def get(self, name: str) -> bytes | None:
        found: bytes | None = await self._command("GET", name)
        return found

    async def set(self, name: str, value: bytes | int, seconds: float) -> None:
        await self._command("SET", name, value, "PX", math.ceil(1000 * seconds))

    async def _command(self, verb: str, name: str, *words: Any) -> Any:
        key, client = f"{self._keys.prefix}:{name}:{{{self._keys.digest}}}", self._guard.runtime().topology.client
        try:
            async with _a_few_at_once():
                return await within(client.execute_command(verb, key, *words, NEVER_DECODE=[]), WITHIN)
        except (RedisError, asyncio.TimeoutError, *LOST) as error:
            said = f"Redis did not carry out {verb} for an old session: {error}"
            raise RedisUnavailable(with_advice(said, error)) from error


def _a_few_at_once() -> asyncio.Semaphore:
    loop = asyncio.get_running_loop()
    turns = _turns.get(loop)
    if turns is None:
        turns = _turns[loop] = asyncio.Semaphore(AT_ONCE)
    return turns
