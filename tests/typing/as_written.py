"""What an application writes: type checkers have nothing against it, and know what comes back.

Never run. :mod:`tests.typing.test_as_written` has it checked by mypy and pyright, each in its strict mode.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import redis.asyncio
from tenacity import stop_after_delay, wait_fixed
from typing_extensions import assert_type

import sessionlock
from sessionlock import (
    HolderInfo,
    JsonCodec,
    Lease,
    LeasePolicy,
    Lock,
    Quorum,
    Session,
    SessionGuard,
    SessionInfo,
    SessionPolicy,
    WaitPolicy,
    blocking,
    by_id,
    configure,
    cookie,
    header,
    session_lock,
    session_locked,
)

URL = "redis://localhost:6379/0"


def guards() -> None:
    """Both faces take the same options, by whichever door."""
    patience = WaitPolicy(stop=stop_after_delay(5), wait=wait_fixed(1), max_waiters=10)
    policy = SessionPolicy(idle=3600, save="immediate", merge={"cart": by_id("id")})
    assert_type(
        SessionGuard.from_url(
            URL,
            prefix="app",
            lease=LeasePolicy(ttl=10, on_lost="flag"),
            wait=patience,
            session=policy,
            codec=JsonCodec(),
            retry_for=2,
            push_limit=0,
            commit_by="script",
            check=False,
            quorum=Quorum(URL, URL, URL),
        ),
        SessionGuard,
    )
    assert_type(SessionGuard(redis.asyncio.Redis(), wait=2.5, session=policy), SessionGuard)
    assert_type(configure(URL, wait=5, reply_within=1), SessionGuard)
    guard = configure(SessionGuard.from_url(URL))
    assert_type(blocking.SessionGuard.from_url(URL, wait=patience), blocking.SessionGuard)
    assert_type(blocking.SessionGuard(guard), blocking.SessionGuard)
    assert_type(blocking.configure(URL, prefix="app"), blocking.SessionGuard)
    assert_type(blocking.configure(guard), blocking.SessionGuard)


async def blocks(guard: SessionGuard, sid: str) -> None:
    """One session or several; held, read, or changed without waiting."""
    async with guard.session_lock(sid, wait=2, missing="reject", save_on_error=True) as session:
        assert_type(session, Session)
        session.setdefault("cart", []).append("A")
        assert_type(session.lease, Lease | None)
        assert_type(await session.incr("n"), int)
        assert_type(await session.regenerate(grace=10), str)
    async with guard.session_lock(sid, "guest", lease=LeasePolicy(ttl=5)) as both:
        assert_type(both, tuple[Session, ...])
    async with guard.session_lock(sid, mode="optimistic", serializable=True, expected_version=3) as session:
        session["a"] = 1
    async with session_lock(sid, mode="read") as session:
        assert_type(session, Session)
    async with session_lock(sid, "guest", wait=1) as both:
        assert_type(both, tuple[Session, ...])
    async with guard.lock("stock", wait=1) as lease:
        assert_type(lease, Lease)
        assert_type(lease.fencing_token, int)


async def by_hand(guard: SessionGuard) -> None:
    """One object, taken many times."""
    lock = guard.lock("stock", lease=LeasePolicy(max_hold=600), label="nightly")
    assert_type(lock, Lock)
    assert_type(await lock.acquire(), bool)
    assert_type(lock.lease, Lease | None)
    assert_type(await lock.owned(), bool)
    await lock.extend()
    await lock.extend(30)
    await lock.release()
    if await lock.acquire(blocking=False) or await lock.acquire(True, 2.5) or await lock.acquire(timeout=-1):
        await lock.release()
    assert_type(await lock.locked(), bool)
    async with lock as lease:
        assert_type(lease, Lease)


def by_hand_in_threads(guard: blocking.SessionGuard) -> None:
    lock = guard.lock("stock", wait=1)
    assert_type(lock, blocking.Lock)
    assert_type(lock.acquire(timeout=1), bool)
    assert_type(lock.lease, Lease | None)
    assert_type(lock.owned(), bool)
    lock.extend(30)
    lock.release()
    assert_type(lock.locked(), bool)
    with lock as lease:
        assert_type(lease, Lease)
    assert_type(guard.lock_key("stock"), str)


async def without_a_block(guard: SessionGuard, sid: str) -> None:
    async def change(session: Session) -> str:
        return str(session["a"])

    assert_type(await guard.transaction(sid, change), str)
    assert_type(await guard.transaction(sid, len), int)
    async for attempt in guard.attempts(sid):
        async with attempt as session:
            assert_type(session, Session)
    assert_type(await guard.create({"a": 1}), Session)
    assert_type(await guard.read(sid), Session)
    assert_type(await guard.destroy(sid), bool)
    info = await guard.inspect(sid)
    assert_type(info, SessionInfo)
    assert_type(info.holder, HolderInfo | None)
    assert_type(await guard.sessions_of("user"), list[SessionInfo])


def in_threads(guard: blocking.SessionGuard, sid: str) -> None:
    with guard.session_lock(sid, wait=2, missing="reject", codec=JsonCodec()) as session:
        assert_type(session, blocking.Session)
        assert_type(session.incr("n"), int)
    with guard.session_lock(sid, "guest") as both:
        assert_type(both, tuple[blocking.Session, ...])
    with blocking.session_lock(sid, mode="optimistic") as session:
        session["a"] = 1
    with blocking.session_lock(sid, "guest", missing="create") as both:
        assert_type(both, tuple[blocking.Session, ...])
    for attempt in guard.attempts(sid):
        with attempt as session:
            assert_type(session, blocking.Session)
    assert_type(guard.transaction(sid, lambda session: len(session)), int)


class Request:
    """A framework's."""


@session_locked(cookie("session_id", secure=True, samesite="strict"), wait=2, mode="lock", save_on_error=True)
async def view(request: Request, session: Session) -> int:
    return len(session)


@session_locked(header("x-session"), missing="create", label="/cart", lease=LeasePolicy(ttl=5))
def sync_view(request: Request, session: blocking.Session) -> int:
    return len(session)


@blocking.session_locked(lambda *args, **kwargs: "sid", missing="reject", session=SessionPolicy(idle=60))
def only_sync(session: blocking.Session, item: str) -> str:
    return item


def decorated() -> None:
    """What a framework calls has no session any more."""
    as_async: Callable[[Request], Awaitable[int]] = view
    as_sync: Callable[[Request], int] = sync_view
    one_item: Callable[[str], str] = only_sync
    del as_async, as_sync, one_item


def former_names(saved: sessionlock.Safety) -> sessionlock.Wait:
    """Those that have a new name work for one release."""
    assert_type(saved.enough, bool)
    return sessionlock.Wait(replicas=1)
