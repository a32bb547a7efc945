"""Nodes as processes of their own, to be stopped, resumed and killed by a test.

A :class:`Worker` is told line by line what to do and answers line by line, in JSON::

    async with Worker(url, lease={"ttl": 0.5}) as worker:
        granted = await worker.hold("sid", write={"by": "worker"})
        worker.pause()                       # SIGSTOP; it returns when the process stands still
        ...
        worker.resume()
        ended = await worker.finish()        # leaves the block; {"error": "StaleFencingToken", ...}
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from sessionlock import LeasePolicy, Session, SessionGuard, SessionLockError, WaitPolicy
from sessionlock.lease import Lease
from sessionlock.transport.wire import Wire
from tests.harness.children import PATIENCE, Child
from tests.harness.scripts import calls_of

if TYPE_CHECKING:
    from typing_extensions import Self

Answer = dict[str, Any]


class Worker(Child):
    """The test's side: one process with one guard. ``lease`` are :class:`LeasePolicy` options."""

    def __init__(self, url: str, *, lease: dict[str, Any] | None = None, wait: float = 30.0) -> None:
        self._words = json.dumps({"url": url, "lease": lease or {}, "wait": wait})

    async def __aenter__(self) -> Self:
        self._start(__file__, self._words)
        with self._killed_unless_ready():
            await self.expect("ready")
        return self

    # --- what it does

    async def hold(self, sid: str, write: dict[str, Any] | None = None) -> Answer:
        """Acquire; the block is left with :meth:`finish`. Returns fence, token and data once granted."""
        self.tell("hold", sid=sid, write=write or {})
        return await self.expect("granted")

    async def finish(self) -> Answer:
        """Leave the block; ``error`` is the name of what was raised, or None."""
        self.tell("finish")
        return await self.expect("ended")

    def queue(self, sid: str, count: int = 1) -> None:
        """Let ``count`` requests queue; each adds one to ``n`` and ends at once."""
        self.tell("queue", sid=sid, count=count)

    def stop_before(self, script: str) -> None:
        """Stand still (SIGSTOP) when the next call of ``script`` is ready to be sent, after the client's checks."""
        self.tell("stop_before", script=script)

    def unaware(self) -> None:
        """From now on it never notices by itself that a lease has ended, as if no timer and no clock told it."""
        self.tell("unaware")

    def tell(self, verb: str, **words: Any) -> None:
        self._say(json.dumps({"verb": verb, **words}))

    async def expect(self, kind: str) -> Answer:
        """Its next answer, which must be of this ``kind``."""
        answer: Answer = json.loads(await self._line(repr(kind)))
        assert answer["kind"] == kind, f"{kind!r} was expected, not {answer}"
        return answer

    # --- what is done to it

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)
        self._await_stop()

    async def stopped(self) -> None:
        """Return when it has stopped by itself (:meth:`stop_before`)."""
        with anyio.fail_after(PATIENCE):
            await anyio.to_thread.run_sync(self._await_stop, abandon_on_cancel=True)

    def _await_stop(self) -> None:
        # WNOWAIT leaves it to Popen to reap the process, should it have ended instead of stopping.
        found = os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert found is not None
        assert found.si_code == os.CLD_STOPPED, "the worker ended instead of stopping"


# --- the process' side ------------------------------------------------------------------------------------------------


class Node:
    """One guard that does as it is told."""

    def __init__(self, guard: SessionGuard) -> None:
        self._guard = guard
        self._leave = asyncio.Event()
        self._session: Session | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def answer(self, kind: str, **words: Any) -> None:
        sys.stdout.write(json.dumps({"kind": kind, **words}) + "\n")
        sys.stdout.flush()

    def do(self, verb: str, words: dict[str, Any]) -> None:
        if verb == "finish":
            self._leave.set()
        elif verb == "stop_before":
            _stop_before(words["script"])
        elif verb == "unaware":
            setattr(Lease, "mark_lost", lambda *_: None)  # noqa: B010
        elif verb == "queue":
            for _ in range(words["count"]):
                self._start(self._add_one(words["sid"]))
        elif verb == "hold":
            self._start(self._hold(words["sid"], words["write"]))
        elif verb == "save":
            self._start(self._save(words["write"]))

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hold(self, sid: str, write: dict[str, Any]) -> None:
        self._leave.clear()
        error: SessionLockError | None = None
        try:
            async with self._guard.session_lock(sid) as session:
                lease = session.lease
                assert lease is not None
                self._session = session
                self.answer("granted", fence=lease.fencing_token, token=lease.token, data=dict(session))
                await self._leave.wait()
                session.update(write)
        except SessionLockError as trouble:
            error = trouble
        self.answer("ended", **_described(error))

    async def _save(self, write: dict[str, Any]) -> None:
        session = self._session
        assert session is not None
        error: SessionLockError | None = None
        try:
            session.update(write)
            await session.save()
        except SessionLockError as trouble:
            error = trouble
        self.answer("saved", **_described(error))

    async def _add_one(self, sid: str) -> None:
        try:
            async with self._guard.session_lock(sid) as session:
                session["n"] = session.get("n", 0) + 1
        except SessionLockError as trouble:
            self.answer("failed", **_described(trouble))


def _described(error: SessionLockError | None) -> Answer:
    if error is None:
        return {"error": None}
    fences = {"ours": getattr(error, "ours", None), "current": getattr(error, "current", None)}
    return {"error": type(error).__name__, "message": str(error), **fences}


def _stop_before(name: str) -> None:
    """The last moment in this process: the words of the call are ready and go to the socket next."""
    its_calls = calls_of(name)
    stopped = False

    def stop_at(packed: bytes) -> None:
        nonlocal stopped
        if its_calls.search(packed) and not stopped:
            stopped = True
            os.kill(os.getpid(), signal.SIGSTOP)

    for way in ("send", "begin"):
        setattr(Wire, way, _after(stop_at, getattr(Wire, way)))


def _after(first: Callable[[bytes], None], way: Callable[..., Any]) -> Callable[..., Any]:
    def sending(self: Wire, packed: bytes, *how: Any, **more: Any) -> Any:
        first(packed)
        return way(self, packed, *how, **more)

    return sending


async def main(words: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    wait = WaitPolicy.seconds(words["wait"], max_waiters=1000)
    async with SessionGuard.from_url(words["url"], lease=LeasePolicy(**words["lease"]), wait=wait) as guard:
        node = Node(guard)
        node.answer("ready")
        while line := await lines.readline():
            told = json.loads(line)
            node.do(told.pop("verb"), told)


if __name__ == "__main__":
    asyncio.run(main(json.loads(sys.argv[1])))
