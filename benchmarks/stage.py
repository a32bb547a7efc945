"""Where a benchmark is played: a private server, worker processes that wait for their turn, the server's counters."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import redis

from sessionlock.embedded import EmbeddedServer

__all__ = ["Counters", "Worker", "server_url", "workers"]

SCRIPT_CALLS = ("evalsha", "eval")


@contextmanager
def server_url(url: str | None, *, unix: bool = False) -> Iterator[tuple[str, str]]:
    """An URL and what is behind it: the given server, else a private one that ends with the block."""
    if url is not None:
        yield url, url
        return
    with EmbeddedServer(tcp=not unix) as server:
        yield server.url, f"{server.binary}, {'unix socket' if unix else 'TCP on loopback'}"


class Worker:
    """A process that runs ``work(connection, *arguments)`` and answers what it is asked over the connection.

    Its first message is ``"ready"``. It ends when ``connection.recv()`` raises EOFError.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        # spawn: a worker imports what it needs and nothing that another contender brought along.
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._ready = False

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

    def close(self) -> None:
        self._ours.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


@contextmanager
def workers() -> Iterator[Callable[..., Worker]]:
    """``start(work, *arguments)`` starts a worker that ends with the block."""
    with ExitStack() as stack:

        def start(work: Callable[..., None], *arguments: Any) -> Worker:
            worker = Worker(work, *arguments)
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
        """EVALSHA and EVAL, whoever sent them."""
        return self._stats()[0] - self._scripts

    def reads(self) -> int:
        """How often the server read from a socket: the round trips, where nothing runs concurrently."""
        return self._stats()[1] - self._reads - 1

    def _stats(self) -> tuple[int, int]:
        # One question each time: reads() leaves out exactly that one.
        everything = self._client.info("everything")
        scripts = sum(everything.get(f"cmdstat_{name}", {}).get("calls", 0) for name in SCRIPT_CALLS)
        return scripts, everything.get("total_reads_processed", 0)

    def close(self) -> None:
        self._client.close()
