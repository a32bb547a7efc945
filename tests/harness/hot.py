"""A process with many requests for one hot session: each acquires, adds one to ``n`` and releases, again and again.

It ends when all are done.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

from sessionlock import SessionGuard, WaitPolicy
from tests.harness import import_path

SID = "hot"


def start(url: str, requests: int, cycles: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, __file__, url, str(requests), str(cycles)],
        env={**os.environ, "PYTHONPATH": import_path()},
    )


async def run(url: str, requests: int, cycles: int) -> None:
    wait = WaitPolicy.seconds(60, max_waiters=10_000)
    async with SessionGuard.from_url(url, wait=wait) as guard:

        async def request() -> None:
            for _ in range(cycles):
                async with guard.session_lock(SID) as session:
                    session["n"] = session.get("n", 0) + 1

        work: Any = [request() for _ in range(requests)]
        await asyncio.gather(*work)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
