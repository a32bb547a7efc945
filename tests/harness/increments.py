"""Processes that add one to the counters of some sessions, again and again, and write down what they saw.

Beside the counter a session holds the name of the increment that was saved last, so that the histories tell which ones
are missing (:mod:`tests.harness.proof`).

async with Fleet(url, folder) as fleet:
    fleet.start(500)
    fleet.start(500, halt_at=7)    # stops itself (SIGSTOP) in the body of the seventh grant, after it loaded
    await fleet.go()
    ...
    await fleet.finished()         # or fleet.stop() before, where nobody said how many
verdict = judge(read(folder), counter)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from sessionlock import LeaseLost, LeasePolicy, RedisUnavailable, SessionGuard, SessionLockError, WaitPolicy
from sessionlock.policies import Replicated
from tests.harness.children import Child
from tests.harness.history import Writer

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["SID", "Adder", "Fleet"]

SID = "counted"
PATIENCE = 90.0


@dataclass(frozen=True)
class Orders:
    """What one process does. ``way``: guarded by ``sessionlock``, by ``redis-py``'s lock, or ``unguarded``.

    ``increments`` None: until it is told to stop. ``sids``: the sessions, in turn. ``pause``: seconds between two
    increments of a task. ``durable``: how many replicas must have a save before it is acknowledged.
    """

    url: str
    file: str
    increments: int | None
    tasks: int = 1
    sids: tuple[str, ...] = (SID,)
    pause: float = 0.0
    durable: int = 0
    reply_within: float = 5.0
    way: str = "sessionlock"
    ttl: float = 10.0
    halt_at: int = 0


# --- the test's side --------------------------------------------------------------------------------------------------


class Adder(Child):
    """One process, as the test sees it."""

    def __init__(self, name: str, orders: Orders) -> None:
        self.name = name
        self._start(__file__, json.dumps(asdict(orders)))

    @property
    def halted(self) -> bool:
        """Whether it stands still now."""
        found = os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT | os.WNOHANG)
        return found is not None and found.si_code == os.CLD_STOPPED

    @property
    def status(self) -> int | None:
        return self._process.poll()

    def tell(self, word: str) -> None:
        self._say(word)

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n", f"{self.name} did not start"


class Fleet:
    def __init__(self, url: str, folder: Path) -> None:
        self.adders: list[Adder] = []
        self._new: list[Adder] = []
        self._url = url
        self._folder = folder

    def start(self, increments: int | None = None, *, url: str | None = None, **more: Any) -> Adder:
        name = f"{len(self.adders)}"
        adder = Adder(name, Orders(url or self._url, str(self._folder / f"{name}.jsonl"), increments, **more))
        self.adders.append(adder)
        self._new.append(adder)
        return adder

    async def go(self) -> None:
        """Those that were started: all at once, when all are there."""
        ready, self._new = self._new, []
        with anyio.fail_after(PATIENCE):
            for adder in ready:
                await anyio.to_thread.run_sync(adder.wait_until_ready, abandon_on_cancel=True)
        for adder in ready:
            adder.tell("go")

    def stop(self) -> None:
        """No increment is begun any more; wait for :meth:`finished`."""
        for adder in self.adders:
            if adder.status is None:
                adder.tell("stop")

    async def finished(self) -> None:
        """All that were not killed have done their work."""
        with anyio.fail_after(PATIENCE):
            while any(adder.status is None for adder in self.adders):
                await asyncio.sleep(0.01)
        failed = [adder.name for adder in self.adders if adder.status not in (0, -signal.SIGKILL)]
        assert not failed, f"these ended badly: {failed}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for adder in self.adders:
            adder.kill()


# --- the process' side ------------------------------------------------------------------------------------------------


class Counting:
    """The work of one process, in ``tasks`` tasks."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._writer = Writer(Path(orders.file))
        self._names = self._all_names()
        self._grants = 0
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        async with self._way() as add_one:
            print("ready", flush=True)
            await anyio.to_thread.run_sync(sys.stdin.readline)
            asyncio.get_running_loop().add_reader(sys.stdin, self._stopping.set)
            await asyncio.gather(*(self._add_all(add_one) for _ in range(self._orders.tasks)))

    def _way(self) -> Any:
        return {"sessionlock": self._guarded, "redis-py": self._by_redis_lock, "unguarded": self._unguarded}[
            self._orders.way
        ]()

    def _all_names(self) -> Iterator[tuple[str, str]]:
        """Of every increment, and of its session."""
        numbers = itertools.count() if self._orders.increments is None else range(self._orders.increments)
        for number, sid in zip(numbers, itertools.cycle(self._orders.sids), strict=False):
            if self._stopping.is_set():
                return
            yield f"{Path(self._orders.file).stem}-{number}", sid

    async def _add_all(self, add_one: Any) -> None:
        for name, sid in self._names:
            self._writer.line(name, "invoke", sid=sid)
            await add_one(name, sid)
            if self._orders.pause:
                await anyio.sleep(self._orders.pause)

    def _loaded(self, name: str, read: int, fence: int | None = None, after: str | None = None) -> None:
        """In the body: what was read decides what will be written."""
        self._writer.line(name, "granted", read=read, fence=fence, after=after)
        self._grants += 1
        if self._grants == self._orders.halt_at:
            os.kill(os.getpid(), signal.SIGSTOP)

    @asynccontextmanager
    async def _guarded(self) -> AsyncIterator[Any]:
        lease = LeasePolicy(ttl=self._orders.ttl)
        wait = WaitPolicy.seconds(PATIENCE, max_waiters=1000)
        options: dict[str, Any] = {"lease": lease, "wait": wait, "reply_within": self._orders.reply_within}
        if self._orders.durable:
            options["durability"] = Replicated(replicas=self._orders.durable, required=True)
        async with SessionGuard.from_url(self._orders.url, **options) as guard:

            async def add_one(name: str, sid: str) -> None:
                try:
                    async with guard.session_lock(sid) as session:
                        assert session.lease is not None
                        count = session.get("n", 0)
                        self._loaded(name, count, session.lease.fencing_token, session.get("last"))
                        session["n"] = count + 1
                        session["last"] = name
                except RedisUnavailable as error:
                    self._writer.line(name, "unknown", why=type(error).__name__)
                except SessionLockError as error:  # refused: certainly not saved
                    late = {"late": True} if isinstance(error, LeaseLost) else {}
                    self._writer.line(name, "fail", why=type(error).__name__, **late)
                else:
                    self._writer.line(name, "ok")

            yield add_one

    @asynccontextmanager
    async def _unguarded(self) -> AsyncIterator[Any]:
        async with _client(self._orders.url) as client:

            async def add_one(name: str, sid: str) -> None:
                count = int(await client.get(sid) or 0)
                self._loaded(name, count)
                await client.set(sid, count + 1, ex=600)
                self._writer.line(name, "ok")

            yield add_one

    @asynccontextmanager
    async def _by_redis_lock(self) -> AsyncIterator[Any]:
        from redis.exceptions import LockError

        async with _client(self._orders.url) as client:

            async def add_one(name: str, sid: str) -> None:
                lock = client.lock(f"{sid}:lock", timeout=self._orders.ttl, sleep=0.005)
                await lock.acquire()
                count = int(await client.get(sid) or 0)
                self._loaded(name, count)
                await client.set(sid, count + 1, ex=600)
                try:
                    await lock.release()
                except LockError:
                    self._writer.line(name, "unknown", why="the lock was not ours any more")
                else:
                    self._writer.line(name, "ok")

            yield add_one


def _client(url: str) -> Any:
    import redis.asyncio

    return redis.asyncio.Redis.from_url(url)


if __name__ == "__main__":
    asyncio.run(Counting(Orders(**json.loads(sys.argv[1]))).run())
