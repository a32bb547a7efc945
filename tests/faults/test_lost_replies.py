"""A call took effect and its reply was lost; the client asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tenacity import stop_after_delay, wait_fixed

from sessionlock import LeasePolicy, RedisUnavailable, SessionGuard, SessionPolicy, WaitPolicy
from sessionlock.protocol.keys import keys_for
from sessionlock.transport import cluster
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of
from tests.harness.stored import Look

pytestmark = pytest.mark.anyio


async def test_acquire_gets_the_same_grant(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 5: the reply to acquire is lost; asked again, Redis names the same grant with the same fencing token."""
    session, guard = stored("s"), node(proxy.url)
    await guard.inspect("s")  # it is connected
    dropped = proxy.drop_next_reply(calls_of("acquire"))
    proxy.refuse()
    grants: list[tuple[str | None, int]] = []

    async def between() -> None:
        await dropped.wait()
        grants.append((session.lock, session.fence))
        proxy.accept()

    task = asyncio.ensure_future(between())
    async with guard.session_lock("s", wait=3) as held:
        await task
        assert held.lease is not None
        assert grants == [(held.lease.token, held.lease.fencing_token)]
        assert session.fence == held.lease.fencing_token
        held["n"] = 1
    assert session.data == {"n": 1}
    assert session.free


@pytest.mark.parametrize("times", [1, 3])
async def test_acquire_survives_lost_replies_and_requests(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, times: int
) -> None:
    """Attack 5: however often replies and requests are lost, there is one grant, and nothing is left of the tries."""
    session = stored("s")
    replies = proxy.drop_next_reply(calls_of("acquire"), times=times)
    requests = proxy.drop_next_request(calls_of("acquire"), times=times)
    async with node(proxy.url).session_lock("s", wait=3) as held:
        assert held.lease is not None
        assert (session.lock, session.fence) == (held.lease.token, held.lease.fencing_token)
    assert (replies.count, requests.count) == (times, times)
    assert session.free


async def test_a_queued_acquire_keeps_one_place(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 5: the reply "queued" is lost; the repeated call is the same waiter in the same place."""
    session, guard = stored("s"), node(proxy.url)
    await guard.inspect("s")  # connected, and
    assert await guard.runtime().wakeup.pushes.listen(keys_for("sl", "s"), "t", 5)
    order: list[str] = []

    async def enter(name: str, guard: SessionGuard) -> None:
        async with guard.session_lock("s", wait=10):
            order.append(name)

    async with node().session_lock("s"):
        dropped = proxy.drop_next_reply(calls_of("acquire"))
        proxy.refuse()
        first = asyncio.ensure_future(enter("first", guard))
        await dropped.wait()
        await session.until(lambda s: len(s.waiting) == 1)
        second = asyncio.ensure_future(enter("second", node()))
        await session.until(lambda s: len(s.waiting) == 2)
        proxy.accept()
        await session.until(lambda _: guard.runtime().wakeup.waiting == 1)
        assert len(session.waiting) == 2
    await asyncio.gather(first, second)
    assert order == ["first", "second"]
    assert session.free


async def test_a_handed_over_grant_is_confirmed_once_more(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 5: a session too large to be pushed is loaded by a second acquire, whose reply is lost: the handed-over
    grant stays what it was."""
    session, guard = stored("s"), node(proxy.url)
    fences: list[int] = []

    async def enter() -> None:
        async with guard.session_lock("s", wait=10) as held:
            assert held.lease is not None
            fences.append(held.lease.fencing_token)
            assert len(held["large"]) == 100_000

    async with node().session_lock("s") as held:
        held["large"] = "x" * 100_000
        await held.save()
        waiter = asyncio.ensure_future(enter())
        await session.until(lambda s: len(s.waiting) == 1 and guard.runtime().wakeup.waiting == 1)
        confirming = proxy.hold_requests(calls_of("acquire"))
        dropped = proxy.drop_next_reply(calls_of("acquire"))
    await confirming.wait()
    handed_over = session.fence
    await proxy.let_go()
    await waiter
    assert dropped.count == 1
    assert fences == [handed_over]
    assert session.free


COUNTING = SessionPolicy(merge={"n": "counter"})


async def test_save_and_release_was_already_done(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 6: the reply to save+release is lost: the block ends well, and what it saved is saved once."""
    session, guard = stored("s"), node(proxy.url)
    async with guard.session_lock("s") as held:
        held["n"] = 1
    before = session.version
    async with guard.session_lock("s") as held:
        held["n"] += 1
        dropped = proxy.drop_next_reply(calls_of("release"))
    assert dropped.count == 1
    assert held.version == session.version == before + 1
    assert session.data == {"n": 2}
    assert session.free


@pytest.mark.parametrize("others", [1, 5])
async def test_already_done_however_many_came_since(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, others: int
) -> None:
    """Attack 6: others have held, changed the same key and saved before the call is repeated: it is still answered
    "done", and nothing of theirs is undone."""
    session, guard, other = stored("s"), node(proxy.url), node()

    async def between() -> None:
        await dropped.wait()
        for _ in range(others):
            async with other.session_lock("s", wait=0, session=COUNTING) as held:
                held["n"] += 1
        proxy.accept()

    async with guard.session_lock("s", session=COUNTING) as held:
        held["n"] = 1
        dropped = proxy.drop_next_reply(calls_of("release"))
        proxy.refuse()
        task = asyncio.ensure_future(between())
    await task
    assert session.data == {"n": 1 + others}
    assert session.version == 1 + others
    assert session.free


async def test_the_next_one_is_in_the_same_process(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 6: the lost reply was also to tell a waiter of this process that the lock is its now: it learns of it all
    the same, though it would not look by itself for a minute."""
    session, guard = stored("s"), node(proxy.url)
    patient = WaitPolicy(stop=stop_after_delay(15), wait=wait_fixed(60))
    lease = LeasePolicy(ttl=30, claim=30, renew=False)

    async def enter() -> None:
        async with guard.session_lock("s", wait=patient, lease=lease) as held:
            held["n"] += 1

    async with guard.session_lock("s", lease=lease) as held:
        held["n"] = 1
        waiters = [asyncio.ensure_future(enter()) for _ in range(2)]
        await session.until(lambda s: len(s.waiting) == 2)
        dropped = proxy.drop_next_reply(calls_of("release"))
    await asyncio.wait_for(asyncio.gather(*waiters), 5)
    assert dropped.count == 1
    assert session.data == {"n": 3}
    assert session.free


async def test_a_lost_release_of_nothing(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 6: a block that changed nothing, and a lock without a session, end well, too."""
    session, guard = stored("s"), node(proxy.url)
    dropped = proxy.drop_next_reply(calls_of("release"), times=2)
    async with guard.session_lock("s"):
        pass
    async with guard.lock("s"):
        pass
    assert dropped.count == 2
    assert session.free


async def test_an_immediate_save_is_done_once(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 6: the reply to a save in the middle of the block is lost: the repeated call is neither done twice, nor
    taken for a conflict with itself."""
    session, guard = stored("s"), node(proxy.url, session=COUNTING)
    async with guard.session_lock("s") as held:
        held["n"] = 5
        dropped = proxy.drop_next_reply(calls_of("save"))
        await held.save()
        assert dropped.count == 1
        assert held["n"] == 5
        assert session.version == 1
        held["n"] += 1
        dropped = proxy.drop_next_reply(calls_of("save"))
        await held.save()
        assert session.version == 2
        held["m"] = 1
    assert session.data == {"n": 6, "m": 1}
    assert session.version == 3


async def test_a_new_session_is_created_once(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 6: the reply to create is lost: it is not "exists already", and the data is there."""
    dropped = proxy.drop_next_reply(calls_of("create"))
    created = await node(proxy.url).create({"n": 1}, sid="s")
    assert dropped.count == 1
    assert created["n"] == 1
    assert stored("s").data == {"n": 1}
    assert stored("s").version == 1


async def test_a_lost_leave_taking(proxy: FaultyProxy, node: MakeGuard, stored: Look) -> None:
    """Attack 6: the reply to a cancelled waiter's abandon is lost; repeated, it does not take the lock from the one
    it was handed on to."""
    session, guard = stored("s"), node(proxy.url)
    lease = LeasePolicy(ttl=30, renew=False)

    async def enter(guard: SessionGuard) -> None:
        async with guard.session_lock("s", wait=10, lease=lease):
            pass

    async with node().session_lock("s", lease=lease):
        waiter = asyncio.ensure_future(enter(guard))
        await session.until(lambda s: len(s.waiting) == 1)
        successor = asyncio.ensure_future(enter(node()))
        await session.until(lambda s: len(s.waiting) == 2)
        dropped = proxy.drop_next_reply(calls_of("abandon"))
        waiter.cancel()
        await asyncio.wait([waiter])
        assert dropped.count == 1
        assert len(session.waiting) == 1
    await asyncio.wait_for(successor, 5)
    assert session.free


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
@pytest.mark.parametrize("fault", [FaultyProxy.refuse, FaultyProxy.blackhole])
async def test_what_was_never_sent(
    proxy: FaultyProxy,
    node: MakeGuard,
    stored: Look,
    monkeypatch: pytest.MonkeyPatch,
    scheme: str,
    fault: Callable[[FaultyProxy], None],
) -> None:
    """Nothing is unknown where there was no connection."""
    monkeypatch.setattr(cluster, "MAP_WITHIN", 0.1)
    fault(proxy)
    guard = node(f"{scheme}://127.0.0.1:{proxy.port}", retry_for=0.1, reply_within=0.2)
    with pytest.raises(RedisUnavailable, match=r"no connection .* acquire .*; nothing was sent") as told:
        async with guard.session_lock("s"):
            pass
    assert "unknown" not in str(told.value)
    assert stored("s").free


@pytest.mark.parametrize("is_done", [True, False])
async def test_what_was_sent_once(proxy: FaultyProxy, node: MakeGuard, stored: Look, is_done: bool) -> None:
    """That there was no connection later says nothing of the first try."""
    session, guard = stored("s"), node(proxy.url, retry_for=0.1)
    async with guard.session_lock("s") as held:
        held["n"] = 1
        drop = proxy.drop_next_reply if is_done else proxy.drop_next_request
        dropped = drop(calls_of("release"))
        proxy.refuse()
        with pytest.raises(RedisUnavailable, match="whether it took effect is unknown"):
            await held.release()
        await dropped.wait()
    assert session.data == ({"n": 1} if is_done else {})
