"""The Django example runs as it stands, threaded and natively async, and loses nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import sessionlock

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = re.compile(r"running on (http://\S+)")
COMMANDS = {
    "threads": ["examples/django_app.py"],
    "asgi": ["-m", "uvicorn", "--port=0", "examples.django_app:asgi"],
}


@contextmanager
def running(command: list[str], url: str) -> Iterator[str]:
    """The example as a process on a port that the system chose; its address."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(Path(sessionlock.__file__).parent.parent), str(ROOT))),
        "SESSION_LOCK_URL": url,
        "PORT": "0",
    }
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            told = []
            for line in process.stderr:
                told.append(line)
                found = ADDRESS.search(line)
                if found is not None:
                    yield found[1]
                    break
            else:
                raise AssertionError("".join(told))
        finally:
            process.terminate()
            _, rest = process.communicate(timeout=20)
    assert "Traceback" not in rest


@pytest.mark.parametrize("served", list(COMMANDS))
def test_the_cart(served: str, redis_url: str) -> None:
    with running(COMMANDS[served], redis_url) as address, httpx.Client(base_url=address, timeout=20) as browser:
        assert browser.post("/add/tea").json() == {"cart": ["tea"]}
        cookie = {"Cookie": f"sessionid={browser.cookies['sessionid']}"}

        def add(number: int) -> int:
            return httpx.post(f"{address}/add/cup{number}", headers=cookie, timeout=20).status_code

        with ThreadPoolExecutor(10) as together:
            assert list(together.map(add, range(20))) == [200] * 20
        assert browser.get("/count").json() == {"products": 21}
        seen = browser.get("/").json()
        assert sorted(seen["cart"]) == sorted(["tea", *(f"cup{number}" for number in range(20))])
        assert len(seen["news"]) == 21
        assert browser.get("/").json()["news"] == []
        assert browser.post("/login/eve").json() == {"hello": "eve"}
        assert cookie["Cookie"] != f"sessionid={browser.cookies['sessionid']}"
        assert browser.get("/count").json() == {"products": 21}
