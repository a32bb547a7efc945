"""Servers whose port is chosen before they start, because other servers must know it by then."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import redis

from sessionlock.embedded import EmbeddedServer, ServerBinary
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Group", "PlacedServer", "free_port", "start_all"]

START_WITHIN = 40.0  # seconds; up to nine start at once, and each of a cluster waits for its disk
PORTS = Path(tempfile.gettempdir(), f"sessionlock-test-ports-{os.getuid()}")
BUS = 10_000  # a cluster node's bus is this far above its port, unless a server of 7.0 or later is told otherwise

_kept: list[int] = []  # open, and so locked, until this process ends


class PlacedServer(FaultyServer):
    """An :class:`FaultyServer` on a given port of 127.0.0.1, with one blocking client to look into it.

    ``standing``: "running", "paused" or "killed", as the test left it; to ask a paused one would only hang.
    """

    def __init__(
        self,
        name: str,
        *,
        config: Mapping[str, str],
        port: int | None = None,
        binary: ServerBinary | None = None,
    ) -> None:
        super().__init__(binary, tcp=True, config=config, start_within=START_WITHIN)
        self.name = name
        self._port = port or free_port()
        self.standing = "killed"
        self._client: redis.Redis | None = None

    @property
    def raw(self) -> redis.Redis:
        """Over the unix socket: faults of the network do not reach it."""
        if self._client is None:
            self._client = connect(self.unix_url)
        return self._client

    def ask(self, *words: object) -> Any:
        """The reply to one command."""
        client: Any = self.raw  # redis-py leaves execute_command untyped
        return client.execute_command(*words)

    def start(self) -> Self:
        started = super().start()
        self.standing = "running"
        return started

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        super().stop()
        self.standing = "killed"

    def kill(self) -> None:
        super().kill()
        self.standing = "killed"

    def pause(self) -> None:
        super().pause()
        self.standing = "paused"

    def resume(self) -> None:
        super().resume()
        self.standing = "running"

    def restart(self, empty: bool = False) -> None:
        super().restart(empty)
        self.standing = "running"

    def cut_off_replicas(self) -> None:
        """Close the connections to its replicas; those that stand still then miss all that follows.

        Only to pause them would not do: what the master has sent by then they read when they are resumed.
        """
        self.ask("CLIENT", "KILL", "TYPE", "slave")

    def info(self, section: str) -> dict[str, str]:
        """The section's lines, by name."""
        told: dict[str, str] = {name: str(value) for name, value in self.raw.info(section).items()}
        return told

    def __repr__(self) -> str:
        return f"<{self.name} on port {self._port}, {self.standing}>"


def free_port() -> int:
    """A port that is free now, as is the one of a cluster bus above it; both below what outgoing connections get.

    This process keeps it until it ends, also while the server on it is not started yet or was killed: no other run of
    the tests chooses it, by a lock on a file of that name.
    """
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    highest = lowest_outgoing - BUS if lowest_outgoing - BUS > 12_000 else 55_000
    for _ in range(200):
        port = random.SystemRandom().randrange(10_000, highest)
        if _is_ours(port) and _is_free(port) and _is_free(port + BUS):
            return port
    raise AssertionError("no free pair of ports was found on 127.0.0.1")


def _is_ours(port: int) -> bool:
    """Whether nobody had chosen it; from now on this process has."""
    PORTS.mkdir(exist_ok=True)
    file = os.open(PORTS / str(port), os.O_CREAT | os.O_WRONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    _kept.append(file)
    return True


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
        try:
            trial.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Group(ABC):
    """Servers that start together, by ``_form``, and end together."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    @property
    @abstractmethod
    def _members(self) -> Sequence[EmbeddedServer]: ...

    @abstractmethod
    def _form(self) -> None:
        """Start them, and return when they are what they shall be together."""

    def start(self) -> Self:
        """Return when it serves; it blocks, for seconds."""
        for server in self._members:
            self._stack.callback(server.stop)
        try:
            self._form()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


def start_all(servers: Iterable[FaultyServer]) -> None:
    """All at once."""
    every = list(servers)
    with ThreadPoolExecutor(len(every)) as pool:
        list(pool.map(lambda server: server.start(), every))
