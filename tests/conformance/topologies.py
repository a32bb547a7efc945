"""Where the conformance suite runs: every way to reach a session, behind one face.

To add a topology (a cluster, Sentinel, a quorum) or a face (blocking), write a :class:`Topology` and enter it in
:data:`TOPOLOGIES`: every test of the suite then runs there, too. A face that is not asynchronous is adapted by its
``node``, which returns something with the surface of :class:`SessionGuard`.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import redis.asyncio
from support.commands import connect
from support.stored import PATIENCE, Stored

from sessionlock import SessionGuard
from sessionlock.keys import keys_for
from sessionlock.urls import _memory_servers

if TYPE_CHECKING:
    from typing_extensions import Self

    from sessionlock.embedded import EmbeddedServer

__all__ = ["TOPOLOGIES", "Node", "Record", "Topology"]

Node = Callable[..., SessionGuard]


class Record(Stored):
    """What the store holds of one session, whatever the store is."""

    client: Any

    def __init__(self, client: Any, sid: str, *, prefix: str = "sl") -> None:
        self.keys = keys_for(prefix, sid)
        self.client = client

    async def until(self, holds: Callable[[Any], bool], within: float = PATIENCE) -> None:
        await super().until(holds, within)

    @property
    def raw(self) -> dict[bytes, bytes]:
        """The whole record as it is stored."""
        fields: dict[bytes, bytes] = self.client.hgetall(self.keys.session)
        return fields

    @property
    def data_and_version(self) -> dict[bytes, bytes]:
        """The record without what changes with every grant."""
        per_grant = (b"#fence", b"#holder", b"#commit")
        return {field: value for field, value in self.raw.items() if field not in per_grant}

    @property
    def ttl_ms(self) -> int:
        """Milliseconds that the record still lives; -1 for ever, -2 there is none."""
        left: int = self.client.pttl(self.keys.session)
        return left

    def write(self, key: str, value: bytes) -> None:
        """As a foreign writer does it, past all locks."""
        self.client.hset(self.keys.session, key, value)


class Topology(ABC):
    """One way to reach sessions, for one test. ``lacks``: what cannot be tested there, and why, in words."""

    lacks: ClassVar[Mapping[str, str]] = {}
    raw: Any
    """A blocking client that answers in bytes, to look at the store past the library."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()

    @abstractmethod
    def _guard(self, **options: Any) -> SessionGuard: ...

    def node(self, **options: Any) -> SessionGuard:
        """A guard with connections of its own, as another process would have one."""
        guard = self._guard(**options)
        self._stack.push_async_callback(guard.aclose)
        return guard

    def record(self, sid: str) -> Record:
        return Record(self.raw, sid)

    def all_keys(self) -> list[bytes]:
        return sorted(self.raw.scan_iter(count=1000))

    def immortal_keys(self) -> list[bytes]:
        return [key for key in self.all_keys() if self.raw.pttl(key) == -1]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        self.raw.close()


class OneServer(Topology):
    """A real server, by the ``url`` that is given to the guard."""

    def __init__(self, server: EmbeddedServer, url: str) -> None:
        super().__init__()
        self.url = url
        self.raw = connect(server.unix_url)

    def _guard(self, **options: Any) -> SessionGuard:
        return SessionGuard.from_url(self.url, **options)


class DecodingClient(OneServer):
    """A client of the application's own, which turns replies into text."""

    def _guard(self, **options: Any) -> SessionGuard:
        client = redis.asyncio.Redis.from_url(self.url, decode_responses=True)
        self._stack.push_async_callback(client.aclose)
        return SessionGuard(client, **options)


class Memory(Topology):
    """fakeredis in this process."""

    lacks: ClassVar = {
        "monitor": "fakeredis has no MONITOR",
        "statistics": "fakeredis counts neither commands nor bytes in INFO",
    }

    def __init__(self) -> None:
        super().__init__()
        from fakeredis import FakeRedis

        self._name = secrets.token_hex(8)
        self.node()  # makes the store
        self.raw = FakeRedis(server=_memory_servers[self._name])
        self._stack.callback(_memory_servers.pop, self._name)

    def _guard(self, **options: Any) -> SessionGuard:
        return SessionGuard.from_url(f"memory://{self._name}", **options)


Make = Callable[[pytest.FixtureRequest], Topology]


def _server(request: pytest.FixtureRequest) -> EmbeddedServer:
    request.getfixturevalue("flush")
    server: EmbeddedServer = request.getfixturevalue("server")
    return server


def _tcp(protocol: int) -> Make:
    def make(request: pytest.FixtureRequest) -> Topology:
        server = _server(request)
        return OneServer(server, f"{server.tcp_url}?protocol={protocol}")

    return make


def _unix(request: pytest.FixtureRequest) -> Topology:
    server = _server(request)
    return OneServer(server, server.unix_url)


def _decoding(request: pytest.FixtureRequest) -> Topology:
    server = _server(request)
    return DecodingClient(server, server.unix_url)


def _memory(request: pytest.FixtureRequest) -> Topology:
    return Memory()


TOPOLOGIES: Mapping[str, Make] = {
    "tcp-resp3": _tcp(3),
    "tcp-resp2": _tcp(2),
    "unix": _unix,
    "decoding-client": _decoding,
    "memory": _memory,
}
