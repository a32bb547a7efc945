"""The ways to do one cycle: get the session, change one thing, put it back.

All get the same session and the client that their own documentation shows, with its defaults.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, NamedTuple, Protocol

import redis
from redis import asyncio as aioredis

__all__ = [
    "GUARDED",
    "GUARDED_ALL",
    "GUARDED_READ",
    "POTTERY",
    "REDIS_LOCK",
    "REDIS_PY_LOCK",
    "SAMPLE",
    "UNGUARDED",
    "UNGUARDED_BLOCKING",
    "Blocking",
    "Contender",
    "Cycle",
    "available",
    "contender",
    "import_pottery",
    "lock_for",
    "plain_client",
]

GUARDED = "sessionlock"
GUARDED_ALL = "sessionlock, every key decoded"
GUARDED_READ = "sessionlock, one key read"
UNGUARDED = "unguarded GET+SET"
REDIS_PY_LOCK = "redis-py Lock + GET+SET"
POTTERY = "pottery AIORedlock + GET+SET"
UNGUARDED_BLOCKING = "unguarded GET+SET, blocking client"
REDIS_LOCK = "python-redis-lock + GET+SET, blocking client"
_NEEDS = {POTTERY: "pottery", REDIS_LOCK: "redis_lock"}

SAMPLE: dict[str, Any] = {
    "user": {"id": 4711, "name": "Ann Example", "roles": ["customer", "beta"]},
    "csrf": "b1946ac92492d2347c6235b4d2611184f0f1a2",
    "locale": "de-CH",
    "cart": [
        {"sku": "A-1001", "quantity": 2, "price": 19.9},
        {"sku": "B-2002", "quantity": 1, "price": 249.0},
        {"sku": "C-3003", "quantity": 5, "price": 3.5},
    ],
    "flash": [{"level": "info", "text": "Welcome back"}],
    "seen": ["/", "/shop", "/shop/A-1001", "/cart"],
    "preferences": {"theme": "dark", "newsletter": False, "currency": "CHF"},
    "last_request": 1_700_000_000.25,
    "count": 0,
}


class Cycle(NamedTuple):
    """What one cycle tells. ``granted``: the monotonic instant at which the session was there to be changed.

    ``order`` grows in the order of grants, ``arrival`` in the order in which Redis saw the requests; None where
    only the caller knows when it asked.
    """

    granted: float
    order: int
    arrival: int | None


def available(name: str) -> bool:
    """Whether what contender ``name`` needs is installed; imports nothing."""
    return name not in _NEEDS or find_spec(_NEEDS[name]) is not None


class Contender(Protocol):
    """One way to guard a session, in one event loop."""

    async def put(self, sid: str, session: dict[str, Any] = SAMPLE) -> None:
        """Store ``session``, which has a ``count`` of 0, under ``sid``."""

    async def cycle(self, sid: str) -> Cycle:
        """Load, add one to ``count``, save; waiting for whoever holds the session."""

    async def count(self, sid: str) -> int:
        """What ``count`` says now."""

    async def remove(self, sid: str) -> None:
        """Delete the session: the server may be somebody's."""

    async def close(self) -> None:
        """Close the connections."""


def contender(name: str, url: str, tasks: int = 1, *, shared: bool = False, slow: bool = False) -> Contender:
    """The asyncio contender ``name``, for so many ``tasks`` at once over all processes.

    ``shared``: some of them want the same session, so it is seen who queued when.
    ``slow``: one of both sides runs many times slower than usual. Nothing is watched and nothing times out then.
    """
    if name in (GUARDED, GUARDED_ALL, GUARDED_READ):
        return Guarded(url, tasks, name, shared=shared, slow=slow)
    locks: dict[str, Callable[[Any], LockFor]] = {
        UNGUARDED: lambda client: lambda sid: nullcontext(),
        REDIS_PY_LOCK: lambda client: lambda sid: client.lock(f"lock:{sid}"),
        POTTERY: _pottery,
    }
    return Whole(url, tasks, locks[name])


class Guarded:
    """``guard.session_lock``; the ``name`` says what the handler does with the session."""

    def __init__(self, url: str, waiters: int, name: str, *, shared: bool, slow: bool) -> None:
        from sessionlock import LeasePolicy, SessionGuard, WaitPolicy
        from sessionlock.observe import Event, LockQueued

        # By task: the first ticket under which Redis queued it.
        self._tickets: dict[object, int] = {}

        def hear(event: Event) -> None:
            if isinstance(event, LockQueued):
                self._tickets.setdefault(asyncio.current_task(), event.ticket)

        patience = WaitPolicy.seconds(300, max_waiters=max(500, 4 * waiters))
        options: dict[str, Any] = {"observer": hear} if shared else {}
        if slow:
            options = {"check": False, "reply_within": 100, "lease": LeasePolicy(ttl=120, max_hold=600)}
        self._guard = SessionGuard.from_url(url, wait=patience, **options)
        self._use = {GUARDED: _change, GUARDED_ALL: _change_and_read_all, GUARDED_READ: _read}[name]

    async def put(self, sid: str, session: dict[str, Any] = SAMPLE) -> None:
        await self._guard.create(session, sid=sid)

    async def cycle(self, sid: str) -> Cycle:
        async with self._guard.session_lock(sid) as session:
            granted = time.monotonic()
            self._use(session)
            assert session.lease is not None
            order = session.lease.fencing_token
        # Tickets and fencing tokens are both the server's microseconds; who did not queue arrived when granted.
        return Cycle(granted, order, self._tickets.pop(asyncio.current_task(), order) if self._tickets else order)

    async def count(self, sid: str) -> int:
        return int((await self._guard.read(sid))["count"])

    async def remove(self, sid: str) -> None:
        await self._guard.destroy(sid)

    async def close(self) -> None:
        await self._guard.aclose()


def _change(session: Any) -> None:
    session["count"] += 1


def _change_and_read_all(session: Any) -> None:
    dict(session)
    session["count"] += 1


def _read(session: Any) -> None:
    session["count"]


LockFor = Callable[[str], AbstractAsyncContextManager[Any]]


def plain_client(url: str, **options: Any) -> Any:
    """redis-py's asyncio client of one server or a Cluster, as it comes."""
    if url.startswith("redis+cluster://"):
        first = url.removeprefix("redis+cluster://").partition("?")[0].split(",")[0]
        return aioredis.RedisCluster.from_url(f"redis://{first}", **options)
    return aioredis.Redis.from_url(url, **options)


class Whole:
    """The whole session as one JSON string under one key, with a lock around GET and SET."""

    def __init__(self, url: str, tasks: int, locks: Callable[[Any], LockFor]) -> None:
        # More tasks than redis-py's default of 100 connections would get MaxConnectionsError.
        self._client: Any = plain_client(url, max_connections=max(100, tasks))
        self._lock_for = locks(self._client)

    async def put(self, sid: str, session: dict[str, Any] = SAMPLE) -> None:
        await self._client.set(f"session:{sid}", json.dumps(session))

    async def cycle(self, sid: str) -> Cycle:
        client, key = self._client, f"session:{sid}"
        async with self._lock_for(sid):
            session = json.loads(await client.get(key))
            granted = time.monotonic()
            session["count"] += 1
            await client.set(key, json.dumps(session))
        return Cycle(granted, session["count"], None)

    async def count(self, sid: str) -> int:
        return int(json.loads(await self._client.get(f"session:{sid}"))["count"])

    async def remove(self, sid: str) -> None:
        await self._client.delete(f"session:{sid}")

    async def close(self) -> None:
        await self._client.aclose()


def lock_for(name: str, url: str, lease: float, waiters: int = 1) -> LockFor:
    """Only the lock of contender ``name``, held for ``lease`` seconds; for processes that are killed."""
    if name == GUARDED:
        from sessionlock import LeasePolicy, SessionGuard, WaitPolicy

        policy = LeasePolicy(ttl=lease, claim=min(2.0, lease))
        guard = SessionGuard.from_url(url, lease=policy, wait=WaitPolicy.seconds(300, max_waiters=waiters))
        return guard.session_lock
    client = plain_client(url)
    if name == REDIS_PY_LOCK:
        return lambda sid: client.lock(f"lock:{sid}", timeout=lease)
    pottery = import_pottery()
    return lambda sid: pottery.AIORedlock(key=sid, masters={client}, auto_release_time=lease)


def import_pottery() -> Any:
    """The module, without what it does to ``json.dumps``: the others in its process shall not pay for that.

    Raises:
        ImportError: it is not installed.
    """
    dumps = json.dumps
    try:
        import pottery
    finally:
        json.dumps = dumps
    return pottery


def _pottery(client: Any) -> LockFor:
    pottery = import_pottery()
    masters = {client}
    # One object per acquisition: acquiring again with one that is held loses its token.
    return lambda sid: pottery.AIORedlock(key=sid, masters=masters)


class Blocking:
    """A contender that has no asyncio face: the whole session as JSON, through redis-py's blocking client."""

    def __init__(self, name: str, url: str) -> None:
        self._client: Any = redis.Redis.from_url(url)
        self._locked = name == REDIS_LOCK

    def put(self, sid: str) -> None:
        self._client.set(f"session:{sid}", json.dumps(SAMPLE))

    def cycle(self, sid: str) -> None:
        if not self._locked:
            return self._change(sid)
        import redis_lock

        with redis_lock.Lock(self._client, sid, expire=10):
            self._change(sid)

    def _change(self, sid: str) -> None:
        key = f"session:{sid}"
        session = json.loads(self._client.get(key))
        session["count"] += 1
        self._client.set(key, json.dumps(session))

    def remove(self, sid: str) -> None:
        self._client.delete(f"session:{sid}")
        self._client.close()
