"""The Flask and the aiohttp example run as they stand, and a browser gets from them what they promise."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import sessionlock

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
WITHIN = 20.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


def answered(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    started = time.monotonic()
    while True:
        try:
            httpx.get(f"{url}/cart", timeout=WITHIN, trust_env=False)
            return
        except httpx.TransportError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < started + WITHIN, log.read_text()
            time.sleep(0.05)


@pytest.mark.parametrize("example", ["flask_app.py", "aiohttp_app.py"])
def test_the_cart(example: str, redis_url: str, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "log"
    url = f"http://127.0.0.1:{port}"
    env = {**os.environ, "PORT": str(port), "PYTHONPATH": str(Path(sessionlock.__file__).parent.parent)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / example), redis_url], env=env, stdout=output, stderr=output
        )
    try:
        answered(url, process, log)
        with httpx.Client(base_url=url, timeout=WITHIN, trust_env=False) as browser:
            assert browser.post("/cart/tea").json() == ["tea"]
            cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in browser.cookies.items())}

            def add(number: int) -> int:
                answer = httpx.post(f"{url}/cart/cup{number}", headers=cookie, timeout=WITHIN, trust_env=False)
                return answer.status_code

            with ThreadPoolExecutor(10) as together:
                assert list(together.map(add, range(20))) == [200] * 20
            seen = browser.get("/cart").json()
            assert sorted(seen["cart"]) == sorted(["tea", *(f"cup{number}" for number in range(20))])
            assert len(seen["news"]) == 21
            assert browser.get("/cart").json()["news"] == []
            assert browser.post("/login/eve").text == "hello eve"
            assert cookie["Cookie"] != "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
            assert len(browser.get("/cart").json()["cart"]) == 21
    finally:
        process.terminate()
        process.wait(WITHIN)
    assert "Traceback" not in log.read_text()
