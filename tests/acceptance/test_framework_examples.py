"""Each file of examples/ is run as it stands, and does what it says."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import sessionlock
from tests.harness.commands import keys_without_ttl

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

ROOT = Path(sessionlock.__file__).parent.parent
EXAMPLES = ROOT / "examples"
ADDRESS = re.compile(r"running on (http://\S+)")


@contextmanager
def running(example: Path, url: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The example as a process, on a port that the system chose; and its address."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "REDIS_URL": url, "PORT": "0"}
    with subprocess.Popen(
        [sys.executable, str(example)], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process, address_of(process)
        finally:
            process.kill()


def address_of(process: subprocess.Popen[str]) -> str:
    """Read what the server tells until it has told where it listens."""
    assert process.stderr is not None
    told: list[str] = []
    for line in process.stderr:
        told.append(line)
        found = ADDRESS.search(line)
        if found is not None:
            return found[1]
    raise AssertionError("".join(told))


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "litestar", "quart"])
async def test_an_asgi_example(framework: str, redis_url: str) -> None:
    with running(EXAMPLES / f"{framework}_app.py", redis_url) as (process, address):
        async with httpx.AsyncClient(base_url=address) as client:
            assert (await client.post("/add/first")).is_success
            answers = await asyncio.gather(*(client.post(f"/add/{number}") for number in range(20)))
            assert all(answer.is_success for answer in answers)
            cart = (await client.get("/")).json()
        assert cart[0] == "first"
        assert sorted(map(int, cart[1:])) == list(range(20))
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.wait(20) in (0, -signal.SIGINT, 130)
        assert "Error" not in told
        assert "Warning" not in told
    assert keys_without_ttl(redis_url) == []


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "litestar", "quart"])
def test_an_example_is_short(framework: str) -> None:
    assert len((EXAMPLES / f"{framework}_app.py").read_text().splitlines()) <= 40
