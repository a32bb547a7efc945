"""Server processes: uvicorn with one of the shops, each behind a unix socket of its own.

::

    with Servers("fastapi", store_url, folder) as servers:
        async with servers.client(0, sid) as client: ...
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import httpx

import sessionlock

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE = 20.0


class Servers:
    """``number`` processes of one application; ``way``: ``guarded`` or ``naive``."""

    def __init__(self, shop: str, store: str, folder: Path, *, way: str = "guarded", number: int = 2) -> None:
        self.sockets = [folder / f"{way}{n}" for n in range(number)]
        paths = (Path(sessionlock.__file__).parent.parent, Path(__file__).parent.parent)
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            "SHOP": shop,
            "STORE": store,
            "WAY": way,
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        self._processes = [self._start(path) for path in self.sockets]
        for path, process in zip(self.sockets, self._processes, strict=True):
            _wait_until_ready(path, process)
        return self

    def _start(self, path: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "uvicorn", "--factory", "support.asgi_shops:served", "--uds", str(path)]
        return subprocess.Popen([*command, "--log-level", "warning", "--no-access-log"], env=self._environment)

    def client(self, number: int, sid: str = "") -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self.sockets[number]))
        headers = {"cookie": f"session_id={sid}"} if sid else {}
        return httpx.AsyncClient(transport=transport, base_url="http://shop.test", headers=headers, timeout=30)

    def stop(self) -> list[int]:
        """Ask them to end as an operator does; their exit codes."""
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        return [process.wait(PATIENCE) for process in self._processes]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def _wait_until_ready(path: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)
