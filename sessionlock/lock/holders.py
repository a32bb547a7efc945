"""Who holds what in this process: whoever asks for a lock that it holds itself is refused at once."""

from __future__ import annotations

import asyncio
import os
import socket
import weakref
from contextvars import ContextVar
from functools import lru_cache, partial

from .. import observe
from ..errors import ReentrantLock
from ..lease import Lease
from ..observe import Observer
from ..protocol.keys import SessionKeys
from ..protocol.replies import Granted
from .request import LockRequest

__all__ = ["Holders", "held_by_us", "lease_of", "node_name", "on_behalf_of"]

# Who asks for a lock, where that is not the task that runs the request: a thread that waits for this task.
on_behalf_of: ContextVar[object] = ContextVar("sessionlock_on_behalf_of")
_NOBODY: tuple[str, object, str | None] = ("", None, None)
_all: weakref.WeakValueDictionary[int, Holders] = weakref.WeakValueDictionary()  # of this process


def node_name() -> str:
    """Who holds, as shown to others: host and process."""
    return _node_name(os.getpid())


@lru_cache(maxsize=1)
def _node_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"


def lease_of(request: LockRequest, token: str, granted: Granted, observer: Observer | None) -> Lease:
    """What the holder knows of its lock."""
    policy = request.lease
    return Lease(
        request.keys.digest,
        token,
        granted.fence,
        granted_at=granted.asked_at,
        granted_for=granted.trusted_for,
        ttl=policy.ttl,
        safety_margin=policy.margin,
        max_hold=policy.max_hold,
        confirmed=granted.trusted_for >= policy.ttl,
        tell_loss=None if observer is None else partial(_tell_loss, observer, request),
    )


class Holders:
    """The locks that are held within one event loop."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._held: dict[bytes, tuple[str, object, str]] = {}  # lock -> token, owner, and label as others see it
        _all[id(self)] = self

    def check(self, keys: SessionKeys) -> None:
        """Before waiting for that lock.

        Raises:
            ReentrantLock: this very task or thread holds it.
        """
        owner = _owner()
        if owner is not None and self._held.get(keys.lock, _NOBODY)[1] is owner:
            raise ReentrantLock(
                f"this {'task' if isinstance(owner, asyncio.Task) else 'thread'} already holds the lock of"
                f" {keys.digest}; waiting for it would never end."
                " Pass the session on instead of locking it again"
            )

    def add(self, keys: SessionKeys, token: str, label: str) -> None:
        self._held[keys.lock] = (token, _owner(), label)

    def remove(self, keys: SessionKeys, token: str) -> None:
        # After a lost lease another task of this process may be the holder by now.
        if self._held.get(keys.lock, _NOBODY)[0] == token:
            del self._held[keys.lock]

    def token_of(self, keys: SessionKeys, label: str) -> str | None:
        """By which token that lock is held under that label. Any thread may ask."""
        token, _, held_as = self._held.get(keys.lock, _NOBODY)
        return token if held_as == label and self._pid == os.getpid() else None


def held_by_us(keys: SessionKeys, label: str) -> str | None:
    """By which token this process, in whichever of its event loops, holds that lock under that label; None: not."""
    references = [reference() for reference in _all.valuerefs()]
    tokens = (holders.token_of(keys, label) for holders in references if holders is not None)
    return next((token for token in tokens if token is not None), None)


def _owner() -> object:
    return on_behalf_of.get(None) or asyncio.current_task()


def _tell_loss(observer: Observer, request: LockRequest, lease: Lease) -> None:
    observer(observe.LockLost(request.digest, request.label, lease.fencing_token, lease.lost_because or ""))
