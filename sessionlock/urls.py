"""From a URL to a ``redis.asyncio`` client."""

from __future__ import annotations

import warnings
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis

from .errors import ConfigurationError

__all__ = ["SCHEMES", "MemoryStoreWarning", "client_from_url"]

SCHEMES = ("redis", "rediss", "unix", "embedded", "memory")


class MemoryStoreWarning(UserWarning):
    """``memory://`` keeps sessions in this process only: nothing is shared, nothing survives."""


def client_from_url(url: str) -> Any:
    """A client for ``url``; its connections are opened when they are first needed.

    ``redis://``, ``rediss://``, ``unix://``: as redis-py reads them. ``embedded://``: a private real server process
    that ends with this one. ``memory://``: fakeredis in this process, announced by a warning.

    Raises:
        ConfigurationError: another scheme, or an URL that redis-py cannot read.
        EmbeddedServerUnavailable: ``embedded://`` and there is no server to start.
    """
    try:
        scheme = urlsplit(url).scheme if isinstance(url, str) else ""
    except ValueError:
        raise _unreadable() from None
    if scheme not in SCHEMES:
        raise ConfigurationError(
            f"a Redis URL begins with {', '.join(f'{known}://' for known in SCHEMES)}; this one does not"
        )
    if scheme == "memory":
        return _memory_client(url)
    if scheme == "embedded":
        from .embedded import shared_server

        url = shared_server().url
    try:
        return Redis.from_url(url)
    except (ValueError, TypeError):
        raise _unreadable() from None


def _unreadable() -> ConfigurationError:
    return ConfigurationError(
        "this Redis URL cannot be read (it is not shown, for it may hold a password). In user names and passwords write"
        " / # ? @ : [ ] as %2F %23 %3F %40 %3A %5B %5D"
    )


_memory_servers: dict[str, Any] = {}


def _memory_client(url: str) -> Any:
    try:
        from fakeredis import FakeAsyncRedis, FakeServer
    except ImportError:
        raise ConfigurationError('memory:// needs fakeredis: pip install "sessionlock[memory]"') from None
    warnings.warn(
        "memory:// keeps sessions in this process only; use it for quick tests, never with several nodes",
        MemoryStoreWarning,
        stacklevel=4,
    )
    server = _memory_servers.setdefault(urlsplit(url).netloc, FakeServer())
    return FakeAsyncRedis(server=server)


def is_fake(client: Any) -> bool:
    """Whether this is fakeredis, which lacks a few things of a server (connections, ``redis.sha1hex``)."""
    return type(client).__module__.startswith("fakeredis")
