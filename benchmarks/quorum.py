"""The lock on a majority of independent masters, beside pottery's; and what a master that hangs costs.

Five masters and a store, private processes. Both libraries lock the same sessions by turns, in small batches of one
run. pottery's cycle is what its documentation offers for the same end: AIORedlock, and AIONextID for a fencing number.
``guard.lock`` does the same; ``session_lock`` also loads and saves the session at the store.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import redis.asyncio

from benchmarks.commands import Options, main
from benchmarks.contenders import import_pottery
from benchmarks.report import Claim, Report, median, quantile
from benchmarks.stage import named
from sessionlock import Quorum, SessionGuard
from tests.harness.faulty import FaultyServer

MASTERS = 5
SESSIONS = 20
LOCK, SESSION = "guard.lock", "guard.session_lock"
POTTERY_ENGINE, PEER = 'guard.session_lock, engine="pottery"', "pottery AIORedlock + AIONextID"
Cycle = Callable[[str], Awaitable[float]]


def run(options: Options) -> Report:
    """Play it; see the module."""
    with ExitStack() as stack:
        masters = [stack.enter_context(FaultyServer(tcp=True)) for _ in range(MASTERS)]
        store = stack.enter_context(FaultyServer(tcp=True))
        return asyncio.run(_play(options, masters, store))


async def _play(options: Options, masters: list[FaultyServer], store: FaultyServer) -> Report:
    async with AsyncExitStack() as stack:
        native = await _guard(stack, masters, store, "native")
        contenders = {LOCK: _locking(native), SESSION: _changing(native)}
        peer = await _pottery(stack, masters)
        if peer is not None:
            contenders[POTTERY_ENGINE] = _changing(await _guard(stack, masters, store, "pottery"))
            contenders[PEER] = peer
        await _batches(contenders, 1, options.cycles)
        whole, acquired = await _batches(contenders, options.rounds, options.cycles)
        rates = await _at_once(contenders, max(2, options.rounds // 20), options.cycles)
        calm, hung = await _with_one_hung(contenders[SESSION], masters, options)
    with_one, without = median(hung), median(calm)
    rows = [
        [
            name,
            f"{1e6 * median(whole[name]):.0f}",
            f"{1e6 * quantile(whole[name], 0.95):.0f}",
            f"{median(whole[name]) / median(whole[LOCK]):.2f}",
            f"{median(rates[name]):.0f}",
            f"{median(rates[LOCK]) / median(rates[name]):.2f}",
        ]
        for name in contenders
    ]
    claims = [Claim("acquire with one of five masters hung / with none (medians)", "<= 1.3", with_one / without)]
    if peer is not None:
        one, many = median(whole[PEER]) / median(whole[LOCK]), median(rates[LOCK]) / median(rates[PEER])
        claims.append(Claim(f"rate of {LOCK} / {PEER}, {SESSIONS} names at once", ">= 5", many))
        claims.append(Claim(f"rate of {LOCK} / {PEER}, one at a time", ">= 5", one))
    return Report(
        "quorum",
        f"A quorum of {MASTERS} masters, one request at a time and {SESSIONS} sessions at once",
        f"{named(masters[0].binary)}, {MASTERS} masters and a store; µs for lock and number, or load and save",
        ["contender", "median µs", "p95 µs", "time / guard.lock", "at once: cycles/s", "guard.lock / it"],
        rows,
        claims,
        notes=[
            f"to get a session {1e6 * median(acquired[SESSION]):.0f} µs; {1e6 * without:.0f} µs with all masters"
            f" and {1e6 * with_one:.0f} µs with one hung, slowest {1e6 * max(hung):.0f} µs"
        ],
    )


async def _batches(
    contenders: dict[str, Cycle], rounds: int, cycles: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Whole cycles, and the acquires in them, in seconds."""
    whole: dict[str, list[float]] = {name: [] for name in contenders}
    acquired: dict[str, list[float]] = {name: [] for name in contenders}
    order = list(contenders)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            for number in range(cycles):
                began = time.perf_counter()
                acquired[name].append(await contenders[name](f"session {number % SESSIONS}"))
                whole[name].append(time.perf_counter() - began)
    return whole, acquired


async def _at_once(contenders: dict[str, Cycle], rounds: int, cycles: int) -> dict[str, list[float]]:
    """Cycles per second with a task for each session."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}

    async def work(cycle: Cycle, sid: str) -> None:
        for _ in range(cycles):
            await cycle(sid)

    order = list(contenders)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            began = time.perf_counter()
            await asyncio.gather(*(work(contenders[name], f"session {number}") for number in range(SESSIONS)))
            rates[name].append(SESSIONS * cycles / (time.perf_counter() - began))
    return rates


async def _with_one_hung(
    cycle: Cycle, masters: list[FaultyServer], options: Options
) -> tuple[list[float], list[float]]:
    """Acquires with all masters, and with another one hung each time, by turns; the first ones count, too."""
    calm: list[float] = []
    hung: list[float] = []
    for turn in range(options.rounds):
        calm += [await cycle(f"session {number % SESSIONS}") for number in range(options.cycles)]
        victim = masters[turn % len(masters)]
        victim.pause()
        try:
            hung += [await cycle(f"session {number % SESSIONS}") for number in range(options.cycles)]
        finally:
            victim.resume()
        await cycle("it is back")
    return calm, hung


async def _guard(stack: AsyncExitStack, masters: list[FaultyServer], store: FaultyServer, engine: Any) -> SessionGuard:
    # All of them have just been started.
    quorum = Quorum(*(master.url for master in masters), engine=engine, rejoin_after=0)
    return await stack.enter_async_context(SessionGuard.from_url(store.url, quorum=quorum))


def _locking(guard: SessionGuard) -> Cycle:
    async def cycle(name: str) -> float:
        began = time.perf_counter()
        async with guard.lock(f"lock of {name}", wait=10) as lease:
            took = time.perf_counter() - began
            assert lease.fencing_token
        return took

    return cycle


def _changing(guard: SessionGuard) -> Cycle:
    async def cycle(sid: str) -> float:
        began = time.perf_counter()
        async with guard.session_lock(sid, wait=10) as session:
            took = time.perf_counter() - began
            session["n"] = session.get("n", 0) + 1
        return took

    return cycle


async def _pottery(stack: AsyncExitStack, masters: list[FaultyServer]) -> Cycle | None:
    """None where it is not installed."""
    try:
        pottery = import_pottery()
    except ImportError:
        return None
    clients = [redis.asyncio.Redis.from_url(master.url, socket_timeout=1) for master in masters]
    for client in clients:
        stack.push_async_callback(client.aclose)
    # Objects are made once per name, as an application can keep them; a lock is never acquired while it is held.
    locks = {
        f"session {number}": pottery.AIORedlock(key=f"session {number}", masters=clients) for number in range(SESSIONS)
    }
    numbers = {name: pottery.AIONextID(key=name, masters=clients) for name in locks}

    async def cycle(sid: str) -> float:
        began = time.perf_counter()
        lock = locks[sid]
        if not await lock.acquire():
            raise RuntimeError("pottery did not get a free lock")
        await anext(numbers[sid])
        took = time.perf_counter() - began
        await lock.release()
        return took

    return cycle


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
