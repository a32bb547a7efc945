"""A process of the tests' own, which is told what to do, line by line, and answers so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import anyio
import anyio.to_thread

from tests.harness import import_path

__all__ = ["PATIENCE", "Child"]

PATIENCE = 15.0  # seconds until a child that does not answer fails the test


class Child:
    """The test's side of a ``script`` that runs with these words."""

    _process: subprocess.Popen[bytes]

    def _start(self, script: str, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": import_path()},
        )

    @contextmanager
    def _killed_unless_ready(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.kill()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        return self._process.pid

    def _say(self, line: str) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(line.encode() + b"\n")
        stdin.flush()

    async def _line(self, expected: str = "a line") -> bytes:
        stdout = self._process.stdout
        assert stdout is not None
        with anyio.fail_after(PATIENCE):
            line = await anyio.to_thread.run_sync(stdout.readline, abandon_on_cancel=True)
        assert line, f"the process ended; {expected} was expected"
        return line

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL; it is gone when this returns."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # what it was told last it never read
