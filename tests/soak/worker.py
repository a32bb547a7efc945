"""One process of the soak: requests in random modes until the time is over, and a ledger of what was acknowledged."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tenacity import AsyncRetrying, stop_after_attempt, wait_random

from sessionlock import LockNotAcquired, Session, SessionConflict, SessionGuard, SessionLockError, SessionPolicy

MERGE = {"visits": "counter", "cart": "deliver_once", "theme": "last_write_wins"}
AT_END = SessionPolicy(merge=MERGE)
AT_ONCE = SessionPolicy(merge=MERGE, save="immediate")
TASKS = 3  # requests that one process has under way at once


@dataclass
class Ledger:
    """What one session was promised. ``maybe``: the same for requests whose outcome is not known."""

    visits: int = 0
    added: list[str] = field(default_factory=list)
    delivered: list[str] = field(default_factory=list)

    def book(self, entry: Ledger) -> None:
        self.visits += entry.visits
        self.added += entry.added
        self.delivered += entry.delivered


class Worker:
    def __init__(self, name: str, url: str, sids: list[str], seconds: float, seed: int) -> None:
        self._name = name
        self._sids = sids
        self._until = time.monotonic() + seconds
        self._random = random.Random(f"{seed} {name}")
        self._guards = {by: SessionGuard.from_url(url, commit_by=by, session=AT_END) for by in ("script", "watch")}
        self._items = 0
        self.certain: defaultdict[str, Ledger] = defaultdict(Ledger)
        self.maybe: defaultdict[str, Ledger] = defaultdict(Ledger)
        self.outcomes: Counter[str] = Counter()

    async def run(self) -> None:
        await asyncio.gather(*(self._requests() for _ in range(TASKS)))
        for guard in self._guards.values():
            await guard.aclose()

    async def _requests(self) -> None:
        while time.monotonic() < self._until:
            sid, mode = self._random.choice(self._sids), self._random.choice(list(MODES))
            await self._request(sid, mode)

    async def _request(self, sid: str, mode: str) -> None:
        entry = Ledger()
        try:
            await MODES[mode](self, sid, entry)
        except (SessionConflict, LockNotAcquired) as error:
            # Nothing was stored. Immediate saves, too: all changes of one tick travel in one call.
            self.outcomes[f"{mode}: {type(error).__name__}"] += 1
        except SessionLockError as error:
            self.outcomes[f"{mode}: {type(error).__name__}"] += 1
            self.maybe[sid].book(entry)
        else:
            self.outcomes[f"{mode}: done"] += 1
            self.certain[sid].book(entry)

    def _work(self, session: Session, entry: Ledger) -> None:
        """Change some keys, and write down what it will mean if it is acknowledged."""
        entry.visits, entry.added, entry.delivered = 0, [], []
        for what in self._random.sample(
            ("visit", "cart", "flash", "checkout", "page", "theme"), self._random.randint(1, 3)
        ):
            if what == "visit":
                step = self._random.randint(-5, 9)
                session["visits"] = session.get("visits", 0) + step
                entry.visits += step
            elif what == "cart":
                item = self._item("cart")
                session.setdefault("cart", []).append(item)
                entry.added.append(item)
            elif what == "flash":
                item = self._item("flash")
                session.flash("info", item)
                entry.added.append(item)
            elif what == "checkout":
                taken = session.get("cart", [])
                if taken:
                    session["cart"] = []
                entry.delivered += taken
            elif what == "page":
                entry.delivered += [item for _, item in session.pop_flashes()]
            else:
                session["theme"] = self._random.choice(("dark", "light", "none"))

    def _item(self, kind: str) -> str:
        self._items += 1
        return f"{kind} {self._name}.{self._items}"

    async def _pause(self) -> None:
        """Let others in between, sometimes for some milliseconds."""
        await asyncio.sleep(self._random.choice((0, 0, 0.001, 0.005)))

    def _guard(self) -> SessionGuard:
        return self._guards[self._random.choice(("script", "watch"))]

    # --- modes

    async def lock(self, sid: str, entry: Ledger) -> None:
        async with self._guard().session_lock(sid, wait=30) as session:
            self._work(session, entry)
            await self._pause()

    async def lock_immediate(self, sid: str, entry: Ledger) -> None:
        async with self._guard().session_lock(sid, wait=30, session=AT_ONCE) as session:
            self._work(session, entry)
            await self._pause()
            await session.save()
            await self._pause()

    async def optimistic(self, sid: str, entry: Ledger) -> None:
        async with self._guard().session_lock(sid, mode="optimistic") as session:
            self._work(session, entry)
            await self._pause()

    async def last_write_wins(self, sid: str, entry: Ledger) -> None:
        async with self._guard().session_lock(sid, mode="last_write_wins") as session:
            self._work(session, entry)
            await self._pause()

    async def transaction(self, sid: str, entry: Ledger) -> None:
        async def change(session: Session) -> None:
            self._work(session, entry)
            await self._pause()

        patient = AsyncRetrying(stop=stop_after_attempt(30), wait=wait_random(0, 0.02))
        await self._guard().transaction(sid, change, retry=patient)

    async def incr(self, sid: str, entry: Ledger) -> None:
        step = self._random.randint(-5, 9)
        entry.visits = step
        await self._guard().incr(sid, "visits", step)

    async def incr_in_lock(self, sid: str, entry: Ledger) -> None:
        step = self._random.randint(-5, 9)
        async with self._guard().session_lock(sid, wait=30) as session:
            await session.incr("visits", step)
            entry.visits = step
            await self._pause()


Mode = Callable[[Worker, str, Ledger], Awaitable[None]]
MODES: dict[str, Mode] = {
    "lock": Worker.lock,
    "lock, immediate": Worker.lock_immediate,
    "optimistic": Worker.optimistic,
    "last_write_wins": Worker.last_write_wins,
    "transaction": Worker.transaction,
    "incr": Worker.incr,
    "incr in lock": Worker.incr_in_lock,
}


def main() -> None:
    words: dict[str, Any] = json.loads(sys.argv[1])
    worker = Worker(**words)
    asyncio.run(worker.run())
    told = {
        "certain": {sid: vars(ledger) for sid, ledger in worker.certain.items()},
        "maybe": {sid: vars(ledger) for sid, ledger in worker.maybe.items()},
        "outcomes": worker.outcomes,
    }
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main()
