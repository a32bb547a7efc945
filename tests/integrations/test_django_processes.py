"""Two processes of one site: fifty requests at once, each adding to one cart."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

import sessionlock
from sessionlock.embedded import EmbeddedServer

REQUESTS = 50
PATHS = (Path(sessionlock.__file__).parent.parent, Path(__file__).parent.parent)


@contextmanager
def site(folder: Path, sessions: str) -> Iterator[str]:
    """Gunicorn with two workers of four threads; gives the path of its socket."""
    socket = folder / "site"
    command = [sys.executable, "-m", "gunicorn", "support.django_site.served", "--bind", f"unix:{socket}"]
    process = subprocess.Popen(
        [*command, "--workers=2", "--threads=4", "--log-level=error"],
        env={**os.environ, "HOME": str(folder), "SESSIONS": sessions, "PYTHONPATH": os.pathsep.join(map(str, PATHS))},
    )
    try:
        until = time.monotonic() + 20
        while not socket.exists():
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        yield str(socket)
    finally:
        process.terminate()
        assert process.wait(20) == 0


def fill_the_cart(socket: str) -> tuple[set[int], int]:
    """The statuses of the requests, and how many items the cart holds in the end."""
    with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://shop", timeout=30) as client:
        client.post("/put/who/me").raise_for_status()
        cookies = dict(client.cookies)

        def add(item: int) -> int:
            with httpx.Client(transport=httpx.HTTPTransport(uds=socket), base_url="http://shop", timeout=60) as other:
                other.cookies.update(cookies)
                return other.post(f"/slow_add/{item}").status_code

        with ThreadPoolExecutor(REQUESTS) as pool:
            statuses = set(pool.map(add, range(REQUESTS)))
        return statuses, len(client.get("/cart").json()["cart"])


def test_two_processes_lose_nothing(server: EmbeddedServer, flush: None, tmp_path: Path) -> None:
    with site(tmp_path, server.unix_url) as socket:
        assert fill_the_cart(socket) == ({200}, REQUESTS)


def test_django_s_own_sessions_lose_some(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    with site(tmp_path, str(sessions)) as socket:
        statuses, kept = fill_the_cart(socket)
    record_property("kept", kept)
    print(f"Django's file sessions: {kept} of {REQUESTS} items kept, statuses {sorted(statuses)}")
    assert kept < REQUESTS
