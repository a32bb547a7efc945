"""Bytes of a session, a held lock and a waiter, at Redis and in the process; and connections.

At Redis by MEMORY USAGE of all keys, in the process by tracemalloc. Beside it: the session as one JSON string, and
redis-py's lock.
"""

from __future__ import annotations

import asyncio
import gc
import json
import secrets
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import redis
from redis.exceptions import LockError

from benchmarks.commands import Options, main
from benchmarks.contenders import GUARDED, SAMPLE, UNGUARDED, contender, plain_client
from benchmarks.crowd import patient_guard
from benchmarks.report import Report
from benchmarks.stage import server_url, workers
from sessionlock.observe import Event, LockQueued

MANY = 500
AT_ONCE = 128  # cycles
POLLING = 3.0  # seconds for which redis-py's waiters wait
PEER = "JSON string, redis-py Lock"
Bytes = tuple[float, float]


def run(options: Options) -> Report:
    """Measure it; see the module."""
    found: dict[str, dict[str, Any]] = {}
    for name, work in ((GUARDED, _guarded), (PEER, _peer)):
        with server_url() as (url, where), workers() as start:  # an empty server for each
            found[name] = start(_work, url, work).ask("measure")
    ours, peer = found[GUARDED], found[PEER]
    rows = []
    for thing in ours:
        for place, side in enumerate(("Redis", "process")):
            if thing == CONNECTIONS:
                side = f"{AT_ONCE} cycles at once"
            mine, its = ours[thing][place], peer[thing][place]
            if mine or its:
                rows.append([f"{thing}: {side}", f"{mine:,.0f}", f"{its:,.0f}", f"{mine / its:.2f}" if its else "–"])
    return Report(
        "memory",
        "Memory and connections",
        f"{MANY} of each; {where}",
        ["bytes of", GUARDED, PEER, "ratio"],
        rows,
        [],
        notes=[
            f"the session has {len(SAMPLE)} keys and {len(json.dumps(SAMPLE))} bytes of JSON; a held lock includes the"
            " session that was read",
            "redis-py's waiters poll: at Redis nothing knows of them",
        ],
        facts={
            f"{thing}, {side}": ours[thing][place] for thing in ours for place, side in enumerate(("Redis", "process"))
        },
    )


SESSION, LOCK, WAITER, CONNECTIONS = "a session", "a held lock", "a waiter", "connections"


def _work(connection: Connection, url: str, work: Callable[[str], Any]) -> None:
    """Worker: answers anything with what ``work`` found."""
    connection.send("ready")
    connection.recv()
    connection.send(asyncio.run(work(url)))


async def _guarded(url: str) -> dict[str, Bytes]:
    sids = [secrets.token_hex(16) for _ in range(MANY)]
    all_wait, queued = asyncio.Event(), 0

    def hear(event: Event) -> None:
        nonlocal queued
        if isinstance(event, LockQueued):
            queued += 1
            if queued == MANY:
                all_wait.set()

    found: dict[str, Bytes] = {}
    async with patient_guard(url, MANY, observer=hear) as guard:
        await guard.create(SAMPLE, sid=sids[0])  # what is there once
        async with _measured(url, found, SESSION, in_process=False):
            for sid in sids[1:]:
                await guard.create(SAMPLE, sid=sid)
        async with AsyncExitStack() as held, _measured(url, found, LOCK):
            for sid in sids:
                dict(await held.enter_async_context(guard.session_lock(sid)))

        async def wait() -> None:
            async with guard.session_lock(sids[0]):
                pass

        async with guard.session_lock(sids[0]), _measured(url, found, WAITER):
            waiters = [asyncio.ensure_future(wait()) for _ in range(MANY)]
            await all_wait.wait()
        await asyncio.gather(*waiters)
    found[CONNECTIONS] = await _connections(url, GUARDED)
    return found


async def _peer(url: str) -> dict[str, Bytes]:
    found: dict[str, Bytes] = {}
    client = plain_client(url, max_connections=MANY + 100, socket_timeout=60, socket_connect_timeout=60)
    async with _measured(url, found, SESSION, in_process=False):
        for number in range(MANY - 1):
            await client.set(f"session:{number}", json.dumps(SAMPLE))
    async with AsyncExitStack() as held:
        sessions = []
        async with _measured(url, found, LOCK):
            for number in range(MANY):
                await held.enter_async_context(client.lock(f"lock:{number}", timeout=120))
                sessions.append(json.loads(await client.get("session:0")))

    async def wait() -> None:
        with suppress(LockError):
            async with client.lock("lock:hot", timeout=120, blocking_timeout=POLLING):
                pass

    async with client.lock("lock:hot", timeout=120), _measured(url, found, WAITER):
        waiters = [asyncio.ensure_future(wait()) for _ in range(MANY)]
        await asyncio.sleep(POLLING / 2)  # all of them poll by then
    await asyncio.gather(*waiters)
    await client.aclose()
    found[CONNECTIONS] = await _connections(url, UNGUARDED)
    return found


@asynccontextmanager
async def _measured(url: str, found: dict[str, Bytes], what: str, *, in_process: bool = True) -> AsyncIterator[None]:
    """What the block leaves behind, as bytes of one of :data:`MANY`."""
    before = _at_redis(url)
    gc.collect()
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    yield
    gc.collect()
    process = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    found[what] = (_at_redis(url) - before) / MANY, process / MANY if in_process else 0.0


def _at_redis(url: str) -> int:
    """Bytes of all keys."""
    with redis.Redis.from_url(url) as client:
        pipeline = client.pipeline(transaction=False)
        for key in client.scan_iter(count=1000):
            pipeline.memory_usage(key, samples=0)
        return sum(usage or 0 for usage in pipeline.execute())


async def _connections(url: str, name: str) -> Bytes:
    """With so many cycles at once of as many sessions, beside the one that asks."""
    one = contender(name, url, AT_ONCE)
    sids = [secrets.token_hex(16) for _ in range(AT_ONCE)]
    for sid in sids:
        await one.put(sid)
    await asyncio.gather(*(one.cycle(sid) for sid in sids))
    with redis.Redis.from_url(url) as client:
        there = len(client.client_list()) - 1
    for sid in sids:
        await one.remove(sid)
    await one.close()
    return float(there), 0.0


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
