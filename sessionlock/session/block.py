"""A block, ``async with guard.session_lock(sid) as session``, as the session in it and a face around it see it.

A face needs to know nothing of how a session is locked or stored.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from ..errors import ConfigurationError
from ..protocol.keys import check_sid, digest_of, new_sid

if TYPE_CHECKING:
    from ..observe import Observer
    from ..protocol.keys import SessionKeys
    from ..protocol.replies import Snapshot
    from ..transport.calling import Executor
    from .commits import Engine
    from .mapping import Session

__all__ = ["Actions", "Block", "Guard", "SessionBlock", "check_sid", "digest_of", "new_sid", "used_twice", "used_up"]


class Home(Protocol):
    """What a guard keeps for one event loop, as far as a block needs it."""

    @property
    def executor(self) -> Executor: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def observer(self) -> Observer | None: ...

    def at_home(self, work: Coroutine[Any, Any, Any], /) -> Any: ...

    def ended(self, keys: SessionKeys, user: str, /) -> None: ...


class Guard(Protocol):
    """The guard, as far as a block needs it; of the event loop that runs."""

    def runtime(self) -> Home: ...

    def on_load(self, keys: SessionKeys, snapshot: Snapshot) -> None: ...


class Actions(Protocol):
    """What a session asks of the block that it belongs to."""

    def changed(self) -> None: ...

    def save(self) -> Coroutine[Any, Any, None]: ...

    def release(self) -> Coroutine[Any, Any, None]: ...

    def incr(self, key: str, by: int) -> Coroutine[Any, Any, int]: ...

    def regenerate(self, grace: float) -> Coroutine[Any, Any, str]: ...

    def destroy(self) -> Coroutine[Any, Any, None]: ...


class Block(Protocol):
    """For one use: ``async with``, or ``with`` in a thread."""

    @property
    def outdated(self) -> bool:
        """Whether it was opened by an id that has been replaced."""

    def when_waiting(self, ask: Callable[..., Any] | None, /) -> None:
        """Before entering: ``ask`` once when others hold the lock (an :data:`sessionlock.lock.acquire.OnWait`). It may
        find a reason not to wait for them. Without a lock nobody waits.
        """


class SessionBlock(Block, Protocol):
    """What a face does with a block, whether it holds the lock (``session.lease`` is not None) or not."""

    async def __aenter__(self) -> Session: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None: ...

    async def discard(self) -> None:
        """End it without saving. Any task may do it, and more than once; it must still be left."""

    async def expire(self, ttl: float) -> bool:
        """Let the record end ``ttl`` seconds from now. Returns whether the id is the current one.

        Raises:
            SessionNotFound, SessionDestroyed, RedisUnavailable.
        """

    async def end_old_ids(self, grace: float) -> None:
        """The ids that the session had before work ``grace`` seconds longer, whatever time they were given."""

    async def destroy(self, *, replaced: bool = False) -> None:
        """End the session at once. ``replaced``: a new one has taken its place."""


def used_twice() -> ConfigurationError:
    """The error for a block that is entered again, by the same task or another."""
    return ConfigurationError("a lock context is for one use; call session_lock() again for the next")


def used_up() -> NoReturn:
    """In the place of what a block needed until it was over."""
    raise used_twice()
