"""Flask under gunicorn: two processes forked, four threads each."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from support.commands import connect

pytestmark = pytest.mark.anyio
TESTS = Path(__file__).parents[1]
WITHIN = 20.0


def _ids(redis: Redis) -> set[str]:
    return {client["id"] for client in redis.client_list()}


class Gunicorn:
    """A server on a free port."""

    def __init__(self, redis_url: str, home: Path, *arguments: str) -> None:
        listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self.log = home / "log"
        self.observer = connect(redis_url)
        self.others = _ids(self.observer)
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        with listening, self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "gunicorn", "support.flask_shop:served()", "--bind"),
                    *(
                        f"fd://{listening.fileno()}",
                        "--workers",
                        "2",
                        "--threads",
                        "4",
                        "--no-control-socket",
                        *arguments,
                    ),
                ],
                env={**os.environ, "STORE": redis_url, "PYTHONPATH": os.pathsep.join(paths), "HOME": str(home)},
                pass_fds=[listening.fileno()],
                stdout=log,
                stderr=log,
            )

    @property
    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def threads(self) -> int:
        return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in self.workers)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WITHIN)


@pytest.fixture(params=[(), ("--preload",)], ids=["forked", "preloaded"])
def gunicorn(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Gunicorn]:
    server = Gunicorn(redis_url, tmp_path, *request.param)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait(WITHIN)
        server.observer.close()


@pytest.fixture
async def browser(gunicorn: Gunicorn) -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=50, max_keepalive_connections=0)  # each to whichever process takes it
    async with httpx.AsyncClient(base_url=gunicorn.url, limits=limits, timeout=WITHIN, trust_env=False) as browser:
        pids: set[str] = set()
        started = time.monotonic()
        while len(pids) < 2:  # both work
            assert time.monotonic() < started + WITHIN, gunicorn.log.read_text()
            pids |= {answer.text for answer in await _together(browser, "GET", ["/pid"] * 8)}
        yield browser


async def _together(browser: httpx.AsyncClient, method: str, paths: list[str]) -> list[httpx.Response]:
    return await asyncio.gather(*(browser.request(method, path) for path in paths))


async def test_nothing_is_lost_and_nothing_left(gunicorn: Gunicorn, browser: httpx.AsyncClient) -> None:
    await _nothing_is_lost(browser)
    await _nothing_is_left(gunicorn, browser)


async def _nothing_is_lost(browser: httpx.AsyncClient) -> None:
    for shop in ("", "/plain"):
        await browser.post(f"{shop}/add/first")
    locked = await _together(browser, "POST", [f"/add/{n}" for n in range(50)])
    plain = await _together(browser, "POST", [f"/plain/add/{n}" for n in range(50)])
    assert {answer.status_code for answer in locked} == {200}
    assert {answer.status_code for answer in plain} == {200}
    kept, kept_plainly = [(await browser.get(path)).json() for path in ("/cart", "/plain/cart")]
    print(f"50 parallel POSTs, 2 processes of 4 threads: sessionlock lost 0, Flask's cookie {51 - len(kept_plainly)}")
    assert kept[0] == "first"
    assert sorted(kept[1:], key=int) == [str(n) for n in range(50)]
    assert len(kept_plainly) < 51


async def _nothing_is_left(gunicorn: Gunicorn, browser: httpx.AsyncClient) -> None:
    with gunicorn.observer as redis:
        before = (gunicorn.threads(), len(redis.client_list()), set(gunicorn.workers))
        for _ in range(20):
            answers = await _together(browser, "GET", ["/cart"] * 40)
            answers += await _together(browser, "POST", ["/add/x"] * 10)
            assert {answer.status_code for answer in answers} == {200}
        threads, connections, before_workers = before
        # A worker's pool fills when it must, up to four threads; a leak would show a thousand times.
        assert gunicorn.threads() <= threads + 2 * 4
        assert len(redis.client_list()) <= connections + 2 * 2
        assert set(gunicorn.workers) == before_workers
        assert len((await browser.get("/cart")).json()) == 51 + 200

        workers = gunicorn.workers
        assert gunicorn.stop() == 0, gunicorn.log.read_text()
        assert not [pid for pid in workers if os.path.exists(f"/proc/{pid}")]  # noqa: ASYNC240
        assert _ids(redis) <= gunicorn.others  # that were there before
        assert not list(redis.scan_iter(match="*:lock"))
    log = gunicorn.log.read_text()
    assert "Traceback" not in log
    assert "ERROR" not in log
