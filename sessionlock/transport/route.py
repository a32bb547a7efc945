"""A way to a server, as everyone else sees it; and what may come back instead of a reply."""

from __future__ import annotations

import re
from typing import Any, Protocol

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from ..protocol.calls import Call
from ..protocol.keys import SessionKeys
from .advice import passes
from .reply import Reply

__all__ = ["LOST", "NotNow", "Route", "meant", "words_of"]

IN_A_SCRIPT = re.compile(r"^ERR Error running script .*?: -(?=[A-Z]+ )")

# What may have reached Redis or not: repeating is the only way to know.
LOST = (RedisConnectionError, RedisTimeoutError, OSError, EOFError)


class NotNow(Exception):
    """Redis answered that it cannot serve this yet."""


class Route(Protocol):
    """How calls reach their server. What it raises is what redis-py and hiredis raise, and :class:`NotNow`."""

    @property
    def command(self) -> str:
        """By which a script is tried first now."""

    def batch_calls(self, wanted: bool) -> None:
        """Others of this process wait, so a tick is likely to have more than one call to send."""

    def begin(self, call: Call[Any]) -> Reply | None:
        """Send it now, where that is possible without waiting for anything. The result is the reply; an error reply is
        for :meth:`otherwise`. None: it is not possible.
        """

    async def otherwise(self, call: Call[Any], refusal: hiredis.ReplyError) -> Any:
        """The reply to what was begun, and answered so."""

    async def send(self, call: Call[Any]) -> Any: ...

    async def send_and_wait(self, call: Call[Any], wait: tuple[Any, ...]) -> tuple[Any, Any]:
        """The script's reply, and the reply to ``wait``, which was sent right behind it, be it an error."""

    async def ask(self, *words: Any) -> Any:
        """The reply to a plain command, of whichever server."""

    def group(self, keys: SessionKeys) -> object:
        """Sessions of one group may be named in one call."""

    def where(self, key: bytes) -> str | None:
        """Which of several servers a call about that key would go to, as far as is known; None: there is one."""

    async def knock(self, call: Call[Any] | None) -> None:
        """Ask that server once, ``call`` or (None) a PING, if possible over a connection of its own."""

    @property
    def reached(self) -> bool:
        """Whether there ever was a connection."""

    @property
    def idle(self) -> bool: ...

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


def words_of(error: Exception) -> str:
    """What Redis said. Before 7.0 it wraps up what a command in a script was answered."""
    return IN_A_SCRIPT.sub("", str(error))


def meant(error: Exception, call: Call[Any] | None = None) -> Exception:
    """An error reply, to that call, as what it means: :class:`NotNow`, or itself."""
    if isinstance(error, LOST):
        return error
    words = words_of(error)
    saves = bool(getattr(call, "changes", ())) and call is not None and not call.begins
    return NotNow(words) if passes(words, saves=saves) else error
