"""What an operator's look costs where there are a million sessions: time to the first screen, longest call to Redis.

``python -m benchmarks.operators``. It fills a private server, has locks held and waited for, and runs the commands of
the command line. The server's own SLOWLOG tells the longest call. What else the machine does counts in all times, so
each command is run three times and the best of each figure is told.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from io import RawIOBase
from typing import NamedTuple

import redis

from benchmarks.commands import Options, main
from benchmarks.report import Claim, Report
from benchmarks.stage import server_url
from sessionlock import LeasePolicy, SessionGuard

SESSIONS = 1_000_000
HELD = 1_000
QUEUES, WAITING = 20, 10  # so many queues, so many in each
AT_ONCE = 5_000  # sessions that one script makes; nobody else is there yet
ROUNDS = 3
SHOWN = re.compile(rb"\d locks held|\d live")
FIRST_SCREEN, LONGEST_CALL = 2.0, 0.005  # seconds: the goals

# Records as a guard makes them, but for what only their own requests look at.
FILL = """
for i = 1, tonumber(ARGV[1]) do
  local name = ARGV[2] .. string.format('%06d', i)
  local key = 'sl:{' .. name .. '}:session'
  redis.call('HSET', key, '#state', string.rep('0', 16) .. ARGV[3] .. string.rep('0', 16) .. '0p:'
    .. string.rep('x', 24), '#version', '7', 'user', '"u' .. i .. '"', 'cart', '["A","B","C"]',
    'csrf', '"' .. name .. '"')
  redis.call('PEXPIRE', key, 1209600000)
end
"""
COMMANDS: dict[str, Sequence[str]] = {
    "locks": ("locks",),
    "top": ("top", "--looks", "2", "--every", "1"),
    "sessions": ("sessions",),
    "sessions, for 2 s": ("sessions", "--within", "2"),
}


class Look(NamedTuple):
    """Seconds until locks or sessions were seen (``first``), until the end, and of the ``longest`` call to Redis; which
    command that was, and how many there were.
    """

    first: float
    whole: float
    longest: float
    command: str
    calls: int


def run(options: Options) -> Report:
    """Measure it; see the module. It takes the same whatever the options."""
    with server_url() as (url, where):
        began_at = time.monotonic()
        fill(url, SESSIONS)
        filled = time.monotonic() - began_at
        looks = asyncio.run(_looks(url))
    rows = [
        [
            name,
            f"{look.first:.2f} s",
            f"{look.whole:.2f} s",
            f"{look.longest * 1000:.2f} ms ({look.command})",
            f"{look.calls:,}",
        ]
        for name, look in looks.items()
    ]
    slowest = max(looks[name].first for name in ("locks", "top"))
    longest = max(look.longest for look in looks.values())
    return Report(
        "operators",
        "An operator's look",
        f"{SESSIONS:,} sessions, {HELD:,} held locks, {QUEUES} queues of {WAITING}; {where}",
        ["sessionlock …", "first screen", "whole", "longest call", "calls"],
        rows,
        [
            Claim("seconds to the first screen of locks and top", f"<= {FIRST_SCREEN}", slowest),
            Claim("seconds of the longest call to Redis", f"<= {LONGEST_CALL}", longest),
        ],
        notes=[f"filled in {filled:.0f} s; the start of Python and its imports are part of the first screen"],
    )


def fill(url: str, sessions: int) -> None:
    """Sessions without a lock."""
    with redis.Redis.from_url(url) as client:
        script = client.register_script(FILL)
        created = f"{int(time.time() * 1e6):016d}"
        for begin in range(0, sessions, AT_ONCE):
            script(args=[min(AT_ONCE, sessions - begin), f"{begin // AT_ONCE:04d}{secrets.token_hex(2)}", created])


@asynccontextmanager
async def held(url: str) -> AsyncIterator[None]:
    """In the body, locks are held, and waited for."""
    lease = LeasePolicy(ttl=300)
    async with AsyncExitStack() as stack:
        guards = [
            await stack.enter_async_context(SessionGuard.from_url(url, label=f"node{number}", lease=lease, wait=600))
            for number in range(2)
        ]
        sids = [secrets.token_hex(16) for _ in range(HELD)]
        for number, sid in enumerate(sids):
            await stack.enter_async_context(guards[0].session_lock(sid, label=f"POST /route{number % 5}"))

        async def wait(sid: str, number: int) -> None:
            async with guards[1].session_lock(sid, label=f"GET /page{number % 3}"):
                pass

        waiters = [asyncio.ensure_future(wait(sid, number)) for sid in sids[:QUEUES] for number in range(WAITING)]
        await asyncio.sleep(1)
        try:
            yield
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.wait(waiters)


async def _looks(url: str) -> dict[str, Look]:
    async with held(url):
        return {
            name: _calmest([await asyncio.to_thread(_look, url, words) for _ in range(ROUNDS)])
            for name, words in COMMANDS.items()
        }


def _calmest(looks: Sequence[Look]) -> Look:
    """The best of each: what else the machine does only makes it worse."""
    calm = min(looks, key=lambda look: look.longest)
    return calm._replace(first=min(look.first for look in looks), whole=min(look.whole for look in looks))


def _look(url: str, words: Sequence[str]) -> Look:
    with redis.Redis.from_url(url) as client:
        client.config_set("slowlog-log-slower-than", 0)
        client.config_set("slowlog-max-len", 100_000)
        client.slowlog_reset()
        before = time.perf_counter()
        environment = {**os.environ, "SESSION_LOCK_URL": url, "TERM": "xterm", "COLUMNS": "100"}
        ours, terminal = os.openpty()
        command = [sys.executable, "-m", "sessionlock", *words]
        with subprocess.Popen(command, stdout=terminal, env=environment) as process, os.fdopen(ours, "rb", 0) as screen:
            os.close(terminal)
            first = _until_shown(screen, before)
        whole = time.perf_counter() - before
        client.config_set("slowlog-log-slower-than", -1)
        if process.returncode not in (0, 1):
            raise RuntimeError(f"sessionlock {' '.join(words)} ended with {process.returncode}")
        entries = [entry for entry in client.slowlog_get(100_000) if _is_a_look(entry["command"])]
    longest = max(entries, key=lambda entry: entry["duration"])
    return Look(first, whole, longest["duration"] / 1e6, longest["command"].split()[0].decode(), len(entries))


def _until_shown(screen: RawIOBase, began_at: float) -> float:
    """Seconds until a number of locks or sessions was on the screen; all the rest is read, too."""
    seen, first = b"", math.nan
    with suppress(OSError):  # as a terminal tells its end
        while part := screen.read(65_536):
            seen += part
            if math.isnan(first) and SHOWN.search(seen):
                first = time.perf_counter() - began_at
    return first


def _is_a_look(command: bytes) -> bool:
    """And not ours, nor of the guards that renew their locks meanwhile."""
    return command.split()[0].upper() not in (b"CONFIG", b"SLOWLOG", b"FCALL", b"EVALSHA", b"EVAL")


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
