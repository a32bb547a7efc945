"""The guard that a handler uses when it names none."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, overload

from .errors import ConfigurationError
from .guard import GuardOptions, SessionGuard
from .lock.arguments import this_kind
from .lock.options import LockOptions, SharedOptions
from .session.mapping import Session

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["configure", "default_guard", "session_lock"]

_default: SessionGuard | None = None


@overload
def configure(guard_or_url: SessionGuard) -> SessionGuard: ...


@overload
def configure(guard_or_url: str, **options: Unpack[GuardOptions]) -> SessionGuard: ...


def configure(guard_or_url: SessionGuard | str, **options: Any) -> SessionGuard:
    """Set the default guard: a URL with :class:`SessionGuard` options, or a guard. Nothing is connected yet."""
    global _default
    if isinstance(guard_or_url, str):
        guard_or_url = SessionGuard.from_url(guard_or_url, **options)
    elif options:
        raise ConfigurationError("options belong to the guard that is handed over; give them there")
    _default = this_kind("guard_or_url", guard_or_url, SessionGuard, "a SessionGuard, or a URL for one")
    return _default


def default_guard() -> SessionGuard:
    """The guard set by :func:`configure`.

    Raises:
        ConfigurationError: it was never called.
    """
    if _default is None:
        raise ConfigurationError('no default guard: call sessionlock.configure("redis://…") once at start-up')
    return _default


@overload
def session_lock(sid: str, /, **options: Unpack[LockOptions]) -> AbstractAsyncContextManager[Session, None]: ...


@overload
def session_lock(
    sid: str, second: str, /, *more: str, **options: Unpack[SharedOptions]
) -> AbstractAsyncContextManager[tuple[Session, ...], None]: ...


def session_lock(*sids: str, **options: Any) -> AbstractAsyncContextManager[Any, None]:
    """:meth:`SessionGuard.session_lock` of the default guard."""
    return default_guard().session_lock(*sids, **options)
