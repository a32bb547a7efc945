"""Locks of redis-py and pottery at the key where ours lives: each excludes the others, none takes another's away."""

from __future__ import annotations

import asyncio
import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import redis
import redis.asyncio
from redis.exceptions import LockError

from sessionlock import LeaseLost, LeasePolicy, LockNotAcquired, SessionGuard, WaitTimedOut
from sessionlock.embedded import EmbeddedServer
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import connect, keys_without_ttl
from tests.harness.polling import eventually, until
from tests.harness.stored import Stored

_dumps = json.dumps
import pottery  # noqa: E402
from pottery.exceptions import ReleaseUnlockedLock  # noqa: E402

json.dumps = _dumps  # pottery replaces it for the whole process

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "interop.md"
NAME = "invoices"
LONG = 10.0  # seconds: a lease that no test sees the end of
SHORT = 0.4
NO_RENEWAL = LeasePolicy(ttl=SHORT, renew=False, on_lost="flag")


def lock_key(name: str = NAME) -> str:
    return keys_for("sl", name).lock.decode()


class Foreign(ABC):
    """Another library's lock, whichever way it is called."""

    def __init__(self, url: str, key: str, lease: float) -> None:
        self.url, self.key, self.lease = url, key, lease

    @abstractmethod
    async def acquire(self, wait: float) -> bool:
        """Within that many seconds, 0: one attempt."""

    @abstractmethod
    async def release(self) -> bool:
        """False: it said that the lock was not its own."""

    @abstractmethod
    async def aclose(self) -> None: ...


class RedisPyBlocking(Foreign):
    def __init__(self, url: str, key: str, lease: float) -> None:
        super().__init__(url, key, lease)
        self.client = connect(url)
        self.lock: Any = self.client.lock(key, timeout=lease, sleep=0.02, thread_local=False)

    async def acquire(self, wait: float) -> bool:
        return bool(await anyio.to_thread.run_sync(lambda: self.lock.acquire(blocking=wait > 0, blocking_timeout=wait)))

    async def release(self) -> bool:
        try:
            await anyio.to_thread.run_sync(self.lock.release)
        except LockError:
            return False
        return True

    async def aclose(self) -> None:
        self.client.close()


class RedisPyAsync(Foreign):
    def __init__(self, url: str, key: str, lease: float) -> None:
        super().__init__(url, key, lease)
        self.client = redis.asyncio.Redis.from_url(url, protocol=2)
        self.lock: Any = self.client.lock(key, timeout=lease, sleep=0.02, thread_local=False)

    async def acquire(self, wait: float) -> bool:
        return bool(await self.lock.acquire(blocking=wait > 0, blocking_timeout=wait))

    async def release(self) -> bool:
        try:
            await self.lock.release()
        except LockError:
            return False
        return True

    async def aclose(self) -> None:
        await self.client.aclose()


def _at_our_key(kind: Any, key: str, **options: Any) -> Any:
    """pottery's lock at a key of ours: its prefix and the rest are joined by a colon."""
    prefix, _, rest = key.partition(":")
    lock = type("SameLock", (kind,), {"_KEY_PREFIX": prefix})(key=rest, **options)
    assert lock.key == key
    return lock


class PotteryBlocking(Foreign):
    def __init__(self, url: str, key: str, lease: float) -> None:
        super().__init__(url, key, lease)
        self.client = connect(url)
        self.lock = _at_our_key(pottery.Redlock, key, masters={self.client}, auto_release_time=lease)

    async def acquire(self, wait: float) -> bool:
        how = {"blocking": True, "timeout": wait} if wait > 0 else {"blocking": False}
        return bool(await anyio.to_thread.run_sync(lambda: self.lock.acquire(**how)))

    async def release(self) -> bool:
        try:
            await anyio.to_thread.run_sync(self.lock.release)
        except ReleaseUnlockedLock:
            return False
        return True

    async def aclose(self) -> None:
        self.client.close()


class PotteryAsync(Foreign):
    def __init__(self, url: str, key: str, lease: float) -> None:
        super().__init__(url, key, lease)
        self.client = redis.asyncio.Redis.from_url(url, protocol=2)
        self.lock = _at_our_key(pottery.AIORedlock, key, masters={self.client}, auto_release_time=lease)

    async def acquire(self, wait: float) -> bool:
        how = {"blocking": True, "timeout": wait} if wait > 0 else {"blocking": False}
        return bool(await self.lock.acquire(**how))

    async def release(self) -> bool:
        try:
            await self.lock.release()
        except ReleaseUnlockedLock:
            return False
        return True

    async def aclose(self) -> None:
        await self.client.aclose()


KINDS = (RedisPyBlocking, RedisPyAsync, PotteryBlocking, PotteryAsync)
MakeForeign = Callable[..., Foreign]


@pytest.fixture(params=KINDS)
async def foreign(request: pytest.FixtureRequest, redis_url: str) -> AsyncIterator[MakeForeign]:
    """``foreign(lease=…)``: a lock object of another library at our key."""
    async with AsyncExitStack() as stack:

        def make(lease: float = LONG, key: str = "") -> Foreign:
            made: Foreign = request.param(redis_url, key or lock_key(), lease)
            stack.push_async_callback(made.aclose)
            return made

        yield make


@pytest.fixture
async def guard(redis_url: str) -> AsyncIterator[SessionGuard]:
    async with SessionGuard.from_url(redis_url, wait=8.0) as guard:
        yield guard


@pytest.fixture
def holder(redis_url: str) -> Callable[[], bytes | None]:
    """``holder()``: the token that stands at our key."""

    def look() -> bytes | None:
        with connect(redis_url) as client:
            token: bytes | None = client.get(lock_key())
            return token

    return look


Holder = Callable[[], "bytes | None"]


# --- exclusion


async def test_they_exclude_us(guard: SessionGuard, foreign: MakeForeign, holder: Holder) -> None:
    theirs = foreign()
    assert await theirs.acquire(0)
    token = holder()
    for ours in (guard.lock(NAME, wait=0), guard.session_lock(NAME, wait=0), guard.lock(NAME, wait=0.2)):
        with pytest.raises(LockNotAcquired):
            async with ours:
                pytest.fail("two holders")
    assert holder() == token
    assert await theirs.release()
    async with guard.lock(NAME, wait=0):
        pass


async def test_we_exclude_them(guard: SessionGuard, foreign: MakeForeign, holder: Holder) -> None:
    async with guard.session_lock(NAME) as session:
        assert session.lease is not None
        assert not await foreign().acquire(0)
        assert not await foreign().acquire(0.3)
        assert holder() == session.lease.token.encode()
        session["paid"] = True
    assert (await guard.read(NAME))["paid"]
    assert await foreign().acquire(0)


# --- waiting


async def test_we_get_it_when_they_release(guard: SessionGuard, foreign: MakeForeign, redis_url: str) -> None:
    theirs = foreign()
    assert await theirs.acquire(0)

    async def ours() -> bytes | None:
        async with guard.lock(NAME):
            return lease_of()

    def lease_of() -> bytes | None:
        with connect(redis_url) as client:
            token: bytes | None = client.get(lock_key())
            return token

    waiting = asyncio.ensure_future(ours())
    with Stored(redis_url, NAME) as stored:
        await eventually(lambda: stored.client.exists(stored.keys.queue), "we are queued")
    assert not waiting.done()
    token = lease_of()
    assert await theirs.release()
    assert await waiting not in (None, token)


async def test_we_get_it_when_theirs_lapses(guard: SessionGuard, foreign: MakeForeign, holder: Holder) -> None:
    """And their late release does not take ours away."""
    theirs = foreign(lease=SHORT)
    began = time.monotonic()
    assert await theirs.acquire(0)
    async with guard.lock(NAME) as lease:
        assert time.monotonic() - began >= SHORT - 0.01
        assert not await theirs.release()
        assert holder() == lease.token.encode()
        assert not await foreign().acquire(0)


async def test_they_get_it_when_we_release(guard: SessionGuard, foreign: MakeForeign, holder: Holder) -> None:
    theirs = foreign()
    async with guard.lock(NAME) as lease:
        waiting = asyncio.ensure_future(theirs.acquire(8.0))
        # Their attempts leave no trace that one could wait for; a refused one by the same library comes no sooner.
        assert not await foreign().acquire(0.2)
        assert not waiting.done()
    assert await waiting
    assert holder() not in (None, lease.token.encode())
    with pytest.raises(LockNotAcquired):
        async with guard.lock(NAME, wait=0):
            pytest.fail("two holders")
    assert await theirs.release()


async def test_they_get_it_when_ours_lapses(guard: SessionGuard, foreign: MakeForeign, holder: Holder) -> None:
    """And our late release does not take theirs away, nor does our late save take effect."""
    theirs = foreign()
    async with guard.session_lock(NAME) as session:
        session["paid"] = False
    with pytest.raises(LeaseLost):
        async with guard.session_lock(NAME, lease=NO_RENEWAL) as session:
            session["paid"] = True
            assert await theirs.acquire(8.0)
            token = holder()
    assert holder() == token
    assert (await guard.read(NAME))["paid"] is False
    assert await theirs.release()


async def test_fences_grow_over_foreign_holders(guard: SessionGuard, foreign: MakeForeign) -> None:
    fences = []
    for _ in range(3):
        async with guard.lock(NAME) as lease:
            fences.append(lease.fencing_token)
        theirs = foreign()
        assert await theirs.acquire(0)
        assert await theirs.release()
    assert fences == sorted(set(fences))


async def test_our_queue_goes_before_their_polling(guard: SessionGuard, foreign: MakeForeign, redis_url: str) -> None:
    """As the document says: while ours wait, the lock is never free in between."""
    got: list[str] = []

    async def ours(name: str) -> None:
        async with guard.lock(NAME):
            got.append(name)

    async def another() -> None:
        if await foreign().acquire(8.0):
            got.append("foreign")

    async with guard.lock(NAME):
        tasks = [asyncio.ensure_future(another())]
        assert not await foreign().acquire(0.2)
        tasks += [asyncio.ensure_future(ours(f"{number}")) for number in range(5)]
        with Stored(redis_url, NAME) as stored:
            await eventually(lambda: stored.client.zcard(stored.keys.queue) == 5, "five are queued")
    await asyncio.gather(*tasks)
    assert got == ["0", "1", "2", "3", "4", "foreign"]


async def test_all_together_lose_nothing(redis_url: str) -> None:
    """Two guards and all four kinds count one number by reading and writing it: none is lost."""
    each = 5
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(redis.asyncio.Redis.from_url(redis_url, protocol=2))
        await client.set("count", 0, ex=60)

        async def count() -> None:
            seen = int(await client.get("count") or 0)
            await asyncio.sleep(0)
            await client.set("count", seen + 1, ex=60)

        async def by_guard() -> None:
            guard = await stack.enter_async_context(SessionGuard.from_url(redis_url, wait=15.0))
            for _ in range(each):
                async with guard.lock(NAME):
                    await count()

        async def by_foreign(kind: type[Foreign]) -> None:
            lock = kind(redis_url, lock_key(), LONG)
            stack.push_async_callback(lock.aclose)
            for _ in range(each):
                assert await lock.acquire(15.0)
                await count()
                assert await lock.release()

        await asyncio.gather(by_guard(), by_guard(), *(by_foreign(kind) for kind in KINDS))
        assert int(await client.get("count") or 0) == each * (2 + len(KINDS))
    assert keys_without_ttl(redis_url) == []


# --- their traps


async def test_a_lock_without_an_end(guard: SessionGuard, redis_url: str) -> None:
    """redis-py's default: we neither take it away nor wait for ever."""
    with connect(redis_url) as client:
        theirs = client.lock(lock_key(), thread_local=False)
        assert theirs.acquire(blocking=False)
        with pytest.raises(WaitTimedOut):
            async with guard.lock(NAME, wait=0.3):
                pytest.fail("two holders")
        assert (holding := (await guard.inspect(NAME)).holder) is not None
        assert holding.remaining is None
        theirs.release()
    async with guard.lock(NAME, wait=0):
        pass


async def test_pottery_over_three_masters(own_server: Callable[..., EmbeddedServer]) -> None:
    """One guard per master: whoever has the majority of the keys excludes the other; a minority does not."""
    servers = [own_server() for _ in range(3)]
    async with AsyncExitStack() as stack:
        guards = [await stack.enter_async_context(SessionGuard.from_url(server.unix_url, wait=0)) for server in servers]
        masters = {
            await stack.enter_async_context(redis.asyncio.Redis.from_url(server.unix_url, protocol=2))
            for server in servers
        }
        theirs = _at_our_key(pottery.AIORedlock, lock_key(), masters=masters, auto_release_time=LONG)
        assert await theirs.acquire(blocking=False)
        for guard in guards:
            with pytest.raises(LockNotAcquired):
                async with guard.lock(NAME):
                    pytest.fail("two holders")
        await theirs.release()
        until(lambda: not any(_get(server) for server in servers), "pottery has given back all three")

        async with guards[0].lock(NAME) as first, guards[1].lock(NAME) as second:
            assert not await theirs.acquire(blocking=False)
            # Its clean-up took back what it had at the third, and nothing of ours.
            assert [_get(server) for server in servers] == [first.token.encode(), second.token.encode(), None]

        async with guards[0].lock(NAME) as first:
            assert await theirs.acquire(blocking=False)
            assert _get(servers[0]) == first.token.encode()
            await theirs.release()
            assert _get(servers[0]) == first.token.encode()


def _get(server: EmbeddedServer) -> bytes | None:
    with connect(server.unix_url) as client:
        token: bytes | None = client.get(lock_key())
        return token


# --- the document


def test_the_documents_example_runs(
    redis_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json, "dumps", json.dumps)  # put back whatever the example does
    match = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    url = redis_url if "protocol" in redis_url else f"{redis_url}&protocol=2"
    example = match[1].replace("redis://localhost:6379/0", url)
    assert url in example
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, str(DOCUMENT), "exec"), names)
    names["client"].close()
    assert names["key"] == lock_key()
    assert capsys.readouterr().out.splitlines() == [
        "redis-py holds it, we are refused: True",
        "pottery holds it, we are refused: True",
        "nobody holds it, we are refused: False",
    ]
