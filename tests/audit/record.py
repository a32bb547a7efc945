"""Makes the captures of this folder with the real packages, and counts what their applications lost meanwhile::

    python -m tests.audit.record                # all; needs what the extra "test" installs
    python -m tests.audit.record django php

Each is a file of MONITOR's lines, as ``redis-cli MONITOR`` writes them, and a line in ``captures/counted.json``: what
the application was told is saved, and what was not there in the end. The shops are those of the integrations' tests,
with the session layers that people usually give them.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.audit.clients import CLIENTS, Counted, use, use_guarded, use_rolling
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer
from tests.harness.sites import Site, Visitor

CAPTURES = Path(__file__).parent / "captures"
SITES = {
    "django": "django-wsgi",
    "django-asgi": "django-asgi",
    "flask-session": "flask",
    "starsessions": "starlette",
    "litestar": "litestar",
    "aiohttp-session": "aiohttp",
}
GUARDED = "guarded"
ROLLING = {"django-rolling": "django", "express-rolling": "express"}  # as browsers do it: each waits for its answer
AT_ONCE, BROWSERS = 6, 3


class Recorder:
    """What a server's MONITOR says."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(b"MONITOR\r\n")
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._record)
        self._begun = threading.Event()
        self._thread.start()
        self._begun.wait()

    def _record(self) -> None:
        while chunk := self._socket.recv(1 << 16):
            self._chunks.append(chunk)
            self._begun.set()

    def lines(self) -> bytes:
        """All until now, when the server has ended."""
        self._thread.join()
        self._socket.close()
        said = b"".join(self._chunks).splitlines()
        # The text of the scripts would be most of it.
        kept = (line for line in said if b'"FUNCTION" "LOAD"' not in line and b'"SCRIPT" "LOAD"' not in line)
        return b"".join(line.removeprefix(b"+").rstrip(b"\r") + b"\n" for line in kept)


@contextmanager
def recorded(name: str) -> Iterator[FaultyServer]:
    with FaultyServer(tcp=True) as server:
        recorder = Recorder(server.port)
        yield server
        with connect(server.unix_url) as client:
            client.ping()
    path = CAPTURES / f"{name}.monitor"
    path.write_bytes(recorder.lines())
    print(f"{path.name}: {path.stat().st_size:,} bytes")


async def shop(site: str, url: str, folder: Path) -> dict[str, int]:
    """Some browsers that put products into their carts, several at once, then one after another."""
    counted = {"products": 0, "lost": 0}
    with Site(site, url, folder, way="usual") as running:
        for _ in range(BROWSERS):
            async with running.visitor() as visitor:
                paths = [f"/add?item={number}" for number in range(3 * AT_ONCE)]
                for begin in range(0, len(paths), AT_ONCE):
                    await visitor.together("POST", paths[begin : begin + AT_ONCE])
                    await visitor.ask("GET", "/cart")
                for number in range(4):
                    (await visitor.ask("POST", f"/add?item=later-{number}")).raise_for_status()
                _, *cart = (await visitor.ask("GET", "/cart")).json()
                counted["products"] += len(paths) + 4
                counted["lost"] += len(paths) + 4 - len(cart)
        running.stop()
    return counted


async def rolling_shop(site: str, url: str, folder: Path) -> dict[str, int]:
    """Three browsers of each session, each with one request after another."""
    counted = {"products": 0, "lost": 0}
    with Site(site, url, folder, way="usual") as running:
        for _ in range(BROWSERS):
            async with running.visitor() as visitor:

                async def browse(tab: int, visitor: Visitor = visitor) -> None:
                    for number in range(3 * AT_ONCE):
                        asked = await visitor.tabs[tab].post(f"/add?item={tab}-{number}")
                        asked.raise_for_status()

                await asyncio.gather(*(browse(tab) for tab in range(3)))
                _, *cart = (await visitor.ask("GET", "/cart")).json()
                counted["products"] += 9 * AT_ONCE
                counted["lost"] += 9 * AT_ONCE - len(cart)
        running.stop()
    return counted


async def used_by(name: str, url: str) -> Counted:
    if name in ROLLING:
        return await use_rolling(CLIENTS[ROLLING[name]], url)
    if name == GUARDED:
        return await use_guarded(url, tabs=4, rounds=2)
    few = name == "php-locking"  # whose waiting requests say a lot
    return await use(CLIENTS[name], url, sessions=1 if few else 2, rounds=3 if few else 6)


def main(names: list[str]) -> None:
    CAPTURES.mkdir(exist_ok=True)
    told = CAPTURES / "counted.json"
    counted: dict[str, Any] = json.loads(told.read_text()) if told.exists() else {}
    for name in names or (*SITES, *CLIENTS, GUARDED, *ROLLING):
        with recorded(name) as server, tempfile.TemporaryDirectory() as folder:
            if ROLLING.get(name) in SITES:
                rolled = asyncio.run(rolling_shop(SITES[ROLLING[name]], server.tcp_url, Path(folder)))
                counted[name] = {"cart": rolled["lost"]}
            elif name in CLIENTS or name in (GUARDED, *ROLLING):
                used = asyncio.run(used_by(name, server.tcp_url))
                counted[name] = {"cart": used.lost_products, "visits": used.lost_visits}
            else:
                counted[name] = {"cart": asyncio.run(shop(SITES[name], server.tcp_url, Path(folder)))["lost"]}
        print(counted[name])
        told.write_text(json.dumps(counted, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
