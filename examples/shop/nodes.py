"""The node processes: start them, leave none behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("A", "B")
STARTS_WITHIN = 30.0  # seconds
ENDS_WITHIN = 10.0  # seconds; then it is killed


class Nodes:
    """All nodes of one shop, each behind a unix socket in a directory that only this user can enter."""

    def __init__(self, redis: str) -> None:
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
            "SHOP_REDIS": redis,  # not as an argument: the URL may hold a password, and ps shows arguments
        }
        self._folder = tempfile.TemporaryDirectory(prefix="shop-")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            for name in NAMES:
                self._processes[name] = self._start(name)
            for name, process in self._processes.items():
                _wait_until_open(self._socket(name), process)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @property
    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self._processes.items()}

    @property
    def sockets(self) -> dict[str, str]:
        return {name: self._socket(name) for name in NAMES}

    def tell_to_end(self) -> None:
        """They finish what is under way. So they do, too, when this process dies in whatever way."""
        for process in self._processes.values():
            assert process.stdin is not None
            process.stdin.close()

    def _socket(self, name: str) -> str:
        return os.path.join(self._folder.name, name)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "examples.shop.node", name, self._socket(name)],
            stdin=subprocess.PIPE,
            env=self._environment,
            start_new_session=True,  # Ctrl-C is the parent's business
        )

    def _end(self) -> None:
        self.tell_to_end()
        for process in self._processes.values():
            try:
                process.wait(ENDS_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._folder.cleanup()


def _wait_until_open(path: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STARTS_WITHIN
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("a node of the shop did not start")
        time.sleep(0.02)
