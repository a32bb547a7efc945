"""Where a benchmark is played: a private server, worker processes that wait for their turn, the server's counters."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import Any

import redis

from sessionlock.embedded import EmbeddedServer, ServerBinary, find_server
from sessionlock.embedded.binary import SERVER_VARIABLE
from tests.servers import provide

__all__ = ["Counters", "Slowlog", "Worker", "choose_server", "named", "server_url", "workers"]

SCRIPT_CALLS = ("evalsha", "eval", "fcall")
OWN_CHOICE = "found"


def choose_server(name: str) -> ServerBinary:
    """Make a server everybody's from now on, child processes included: a name as ``python -m tests.servers list`` has.

    ``"found"`` is the library's own choice.

    Raises:
        tests.servers.ServerNotHad: it cannot be had here.
        EmbeddedServerUnavailable: no server was found.
    """
    if name != OWN_CHOICE:
        os.environ[SERVER_VARIABLE] = str(provide(name).path)
    return find_server()


def named(binary: ServerBinary) -> str:
    """As in "Redis 7.0.15"."""
    return f"{binary.flavour.capitalize()} {'.'.join(map(str, binary.version))}"


@contextmanager
def server_url() -> Iterator[tuple[str, str]]:
    """The URL of a private server that ends with the block, and what it is."""
    with EmbeddedServer(tcp=True) as server:
        yield server.url, f"{named(server.binary)}, TCP on loopback"


class Worker:
    """A process that runs ``work(connection, *arguments)`` and answers what it is asked over the connection.

    Its first message is ``"ready"``. It ends when ``connection.recv()`` raises EOFError. ``python`` is the interpreter
    that it runs, this one unless given.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any, python: str = sys.executable) -> None:
        # spawn: a worker imports what it needs and nothing that another contender brought along.
        context = multiprocessing.get_context("spawn")
        resource_tracker.ensure_running()  # by our interpreter, not by the worker's
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
        context.set_executable(python)
        try:
            self._process.start()
        finally:
            context.set_executable(sys.executable)
        theirs.close()
        self._ready = False

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def seconds(self) -> float:
        """Of a processor that it has used so far."""
        with open(f"/proc/{self.pid}/stat") as file:
            user, system = file.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def wait_ready(self) -> None:
        """Workers are started all at once and waited for when they are needed."""
        if not self._ready:
            self.answer()
            self._ready = True

    def tell(self, order: Any) -> None:
        self.wait_ready()
        self._ours.send(order)

    def answer(self) -> Any:
        """The worker's next answer.

        Raises:
            RuntimeError: the worker failed; its traceback is on stderr.
        """
        try:
            return self._ours.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise RuntimeError(f"a benchmark worker failed with status {self._process.exitcode}") from None

    def ask(self, order: Any) -> Any:
        self.tell(order)
        return self.answer()

    def kill(self) -> None:
        """SIGKILL; return when it is gone."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        self._ours.close()
        self._process.join(10)
        if self._process.is_alive():
            self.kill()


@contextmanager
def workers() -> Iterator[Callable[..., Worker]]:
    """``start(work, *arguments)`` starts a worker that ends with the block."""
    with ExitStack() as stack:

        def start(work: Callable[..., None], *arguments: Any, **options: Any) -> Worker:
            worker = Worker(work, *arguments, **options)
            stack.callback(worker.close)
            return worker

        yield start


class Counters:
    """What the server counted since :meth:`restart`, this connection's own questions left out."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)
        self.restart()

    def restart(self) -> None:
        self._stats()  # the connection's greeting is over after this
        self._scripts, self._reads = self._stats()

    def script_calls(self) -> int:
        """Scripts and functions that were called, whoever called them."""
        return self._stats()[0] - self._scripts

    def reads(self) -> int:
        """How often the server read from a socket: the packets to it, where nothing runs concurrently."""
        return self._stats()[1] - self._reads - 1

    def _stats(self) -> tuple[int, int]:
        # One question each time: reads() leaves out exactly that one.
        everything = self._client.info("everything")
        scripts = sum(everything.get(f"cmdstat_{name}", {}).get("calls", 0) for name in SCRIPT_CALLS)
        return scripts, everything.get("total_reads_processed", 0)

    def close(self) -> None:
        self._client.close()


class Slowlog:
    """How long each script ran, by the server's own clock, since :meth:`restart`. For a private server."""

    def __init__(self, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)
        self._client.config_set("slowlog-log-slower-than", 0)
        self._client.config_set("slowlog-max-len", 1_000_000)
        self.restart()

    def restart(self) -> None:
        self._client.slowlog_reset()

    def scripts(self) -> list[float]:
        """Seconds of each."""
        entries = self._client.slowlog_get(-1)
        return [entry["duration"] / 1e6 for entry in entries if _command(entry["command"]) in SCRIPT_CALLS]

    def close(self) -> None:
        self._client.config_set("slowlog-log-slower-than", -1)
        self._client.close()


def _command(words: bytes) -> str:
    return words.split(b" ", 1)[0].decode().lower()
