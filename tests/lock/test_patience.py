"""The defaults fit each other: a worker that was killed costs its visitor time, not an error."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable

import pytest
from tenacity import stop_after_attempt, stop_after_delay, stop_any, stop_never

from sessionlock import LeasePolicy, SessionGuard, WaitPolicy
from sessionlock.policies import seconds_until_stop

pytestmark = pytest.mark.anyio

HOLDS = """
import asyncio, sys
from sessionlock import SessionGuard

async def main():
    async with SessionGuard.from_url(sys.argv[1]) as guard:
        async with guard.session_lock("s"):
            print("holds", flush=True)
            await asyncio.sleep(60)

asyncio.run(main())
"""


def test_the_default_wait_outlasts_the_default_lease() -> None:
    # A second more: for the way of the news, and for others who wait before.
    assert seconds_until_stop(WaitPolicy().stop, 0) >= LeasePolicy().ttl + 1


@pytest.mark.slow
async def test_a_worker_killed_in_a_request(redis_url: str, node: Callable[..., SessionGuard]) -> None:
    """With all defaults, the next request of the same visitor gets its turn."""
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDS, redis_url, stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    assert worker.stdout is not None
    assert await worker.stdout.readline() == b"holds\n"
    worker.send_signal(signal.SIGKILL)
    await worker.wait()
    began = time.monotonic()
    async with node().session_lock("s") as session:
        session["n"] = 1
    assert time.monotonic() - began > 5, "it was not the dead one's lease that was waited for"


@pytest.mark.parametrize(
    ("wait", "told"),
    [
        (None, False),
        (3, True),
        (9.9, True),
        (10, False),
        (0, False),
        (WaitPolicy.never(), False),
        (WaitPolicy(stop=stop_any(stop_after_delay(4), stop_after_attempt(9))), True),
        (WaitPolicy(stop=stop_never), False),
    ],
)
async def test_a_wait_that_does_not_fit_is_told(
    wait: WaitPolicy | float | None, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "sessionlock"):
        SessionGuard.from_url("redis://", wait=wait)
    assert len(caplog.records) == told
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sessionlock"):
        SessionGuard.from_url("redis://", wait=wait, lease=LeasePolicy(ttl=2))
    assert not caplog.records
