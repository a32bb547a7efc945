"""``python -m tests.soak``: start the processes, then balance the books. Exit status 1 when something is wrong."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import sessionlock
from sessionlock import SessionGuard
from sessionlock.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[2]
GRACE = 60.0  # seconds for starting, and for requests still under way at the end
Told = dict[str, Any]


def run_workers(url: str, sids: list[str], options: argparse.Namespace) -> list[Told]:
    paths = (Path(sessionlock.__file__).parent.parent, ROOT)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    started = []
    for number in range(options.processes):
        words = {"name": str(number), "url": url, "sids": sids, "seconds": options.seconds, "seed": options.seed}
        command = [sys.executable, "-m", "tests.soak.worker", json.dumps(words)]
        started.append(subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE))
    told = []
    try:
        for process in started:
            said, _ = process.communicate(timeout=options.seconds + GRACE)
            if process.returncode != 0:
                raise SystemExit(f"soak: a process ended with status {process.returncode}")
            told.append(json.loads(said))
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return told


async def read_all(url: str, sids: list[str]) -> dict[str, dict[str, Any]]:
    async with SessionGuard.from_url(url) as guard:
        return {sid: dict(await guard.read(sid)) for sid in sids}


async def create_all(url: str, sids: list[str]) -> None:
    async with SessionGuard.from_url(url) as guard:
        for sid in sids:
            await guard.create({"visits": 0, "cart": []}, sid=sid)


def judge(sid: str, data: dict[str, Any], told: list[Told]) -> list[str]:
    """What is wrong with one session."""
    certain = [t["certain"][sid] for t in told if sid in t["certain"]]
    maybe = [t["maybe"][sid] for t in told if sid in t["maybe"]]
    wrong = []
    visits, steps = data["visits"], sum(ledger["visits"] for ledger in certain)
    if visits != steps and not any(ledger["visits"] for ledger in maybe):
        wrong.append(f"the counter is {visits}, the acknowledged steps sum up to {steps}")
    kept = [*data["cart"], *(text for _, _, text in data.get("_flashes", []))]
    added = Counter(item for ledger in certain for item in ledger["added"])
    perhaps_added = Counter(item for ledger in maybe for item in ledger["added"])
    seen = Counter(kept) + Counter(item for ledger in certain for item in ledger["delivered"])
    perhaps_seen = Counter(item for ledger in maybe for item in ledger["delivered"])
    for item in added - seen - perhaps_seen:
        wrong.append(f"lost: {item}")
    for item in seen - added - perhaps_added:
        wrong.append(f"delivered twice, or never acknowledged: {item}")
    return wrong


def report(told: list[Told], sids: list[str], seconds: float) -> None:
    outcomes: Counter[str] = Counter()
    for t in told:
        outcomes.update(t["outcomes"])
    total = sum(outcomes.values())
    print(f"{total} requests of {len(told)} processes on {len(sids)} sessions in {seconds:.0f} s")
    for name, count in sorted(outcomes.items()):
        print(f"  {name:36} {count:8}")
    ledgers = [ledger for t in told for ledger in t["certain"].values()]
    unknown = sum(len(ledger["added"]) + len(ledger["delivered"]) for t in told for ledger in t["maybe"].values())
    added = Counter(item.split()[0] for ledger in ledgers for item in ledger["added"])
    delivered = Counter(item.split()[0] for ledger in ledgers for item in ledger["delivered"])
    for kind in ("cart", "flash"):
        print(f"  {kind} items acknowledged {added[kind]}, delivered {delivered[kind]}, the others still there")
    print(
        f"  counter steps sum up to {sum(ledger['visits'] for ledger in ledgers)}; items of unknown outcome {unknown}"
    )


def soak(options: argparse.Namespace, url: str) -> int:
    sids = [f"soak {secrets.token_urlsafe(12)}" for _ in range(options.sessions)]
    asyncio.run(create_all(url, sids))
    told = run_workers(url, sids, options)
    report(told, sids, options.seconds)
    data = asyncio.run(read_all(url, sids))
    wrong = [f"{sid}: {line}" for sid in sids for line in judge(sid, data[sid], told)]
    for line in wrong[:50]:
        print(f"VIOLATION {line}")
    print(f"{len(wrong)} violations")
    return 1 if wrong else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Mixed modes on few sessions; balance.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--url", help="a Redis of yours (default: a private server process)")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        url = options.url or stack.enter_context(EmbeddedServer()).unix_url
        return soak(options, url)


if __name__ == "__main__":
    sys.exit(main())
