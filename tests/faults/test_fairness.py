"""Who is next: slow waiters, many waiters, and those who would rather not queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import anyio
import pytest
from tenacity import stop_after_delay, wait_fixed

from sessionlock import LeasePolicy, SessionGuard, WaitPolicy, WaitTimedOut
from sessionlock.lock import waiting as wakeup
from sessionlock.protocol import calls
from sessionlock.protocol.keys import keys_for
from tests.harness.commands import CommandCounter, connect
from tests.harness.deployments import MakeGuard
from tests.harness.proxy import FaultyProxy
from tests.harness.queuers import Queuer
from tests.harness.scripts import script_calls
from tests.harness.stored import Look, Stored
from tests.harness.workers import Worker

pytestmark = pytest.mark.anyio

T = TypeVar("T")


@pytest.fixture
async def turns(stored: Look, node: MakeGuard) -> AsyncIterator[Turns]:
    """Requests for session ``s``; none of them outlives the test."""
    turns = Turns(stored("s"))
    yield turns
    await turns.end()


class Turns:
    """Requests for one session and the order in which they got it."""

    def __init__(self, session: Stored) -> None:
        self.order: list[str] = []
        self.fences: list[int] = []
        self.tokens: list[str] = []
        self._session = session
        self._tasks: list[asyncio.Task[Any]] = []

    def start(self, guard: SessionGuard, name: str, **options: Any) -> asyncio.Task[None]:
        return self.spawn(self._request(guard, name, options))

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Whatever else shall go on beside the test."""
        task = asyncio.ensure_future(work)
        self._tasks.append(task)
        return task

    async def queue(self, guard: SessionGuard, name: str, **options: Any) -> None:
        """Return when it stands in the queue."""
        before = len(self._session.waiting)
        self.start(guard, name, **options)
        await self._session.until(lambda s: len(s.waiting) == before + 1)

    async def over(self) -> list[str]:
        await asyncio.gather(*self._tasks)
        assert self.fences == sorted(set(self.fences))
        return self.order

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _request(self, guard: SessionGuard, name: str, options: dict[str, Any]) -> None:
        async with guard.session_lock("s", **{"wait": 15, **options}) as session:
            assert session.lease is not None
            self.order.append(name)
            self.fences.append(session.lease.fencing_token)
            self.tokens.append(session.lease.token)


# --- slow, but alive


async def test_a_stopped_waiter_that_is_back_within_its_claim(
    redis_url: str, node: MakeGuard, stored: Look, turns: Turns
) -> None:
    """Attack 17: its whole process stands still while the lock is handed to it; back within the claim it has it."""
    session = stored("s")
    async with Worker(redis_url, lease={"claim": 5.0}) as slow:
        async with node().session_lock("s"):
            slow.tell("hold", sid="s", write={})
            await session.until(lambda s: len(s.waiting) == 1)
            (token,) = session.waiting
            await turns.queue(node(), "next")
            slow.pause()
        await anyio.sleep(0.05)  # that time passes is the point: the lock is still its own
        assert session.lock == token
        slow.resume()
        granted = await slow.expect("granted")
        assert granted["token"] == token
        assert turns.order == []
        assert (await slow.finish())["error"] is None
        assert await turns.over() == ["next"]
        assert turns.fences[0] > granted["fence"]


async def test_a_stopped_waiter_whose_claim_ran_out(
    redis_url: str, node: MakeGuard, stored: Look, turns: Turns
) -> None:
    """Attack 17: it stands still beyond its claim and one waiter passes; back again it is before those who came later,
    and so is the other waiter of its process."""
    session = stored("s")
    async with Worker(redis_url, lease={"claim": 0.2}) as slow:
        async with node().session_lock("s"):
            for count in (1, 2):
                slow.queue("s")
                await session.until(lambda s, count=count: len(s.waiting) == count)  # type: ignore[misc]
            slow_ones = session.waiting
            passing = turns.spawn(_hold_until_queued(node(), session, slow, slow_ones, turns))
            await session.until(lambda s: len(s.waiting) == 3)
            slow.pause()
        order = await passing
        assert order == [*slow_ones, order[2]]
        assert await turns.over() == ["later"]
        assert session.data == {"n": 2, "passed": True}


async def _hold_until_queued(
    guard: SessionGuard, session: Stored, slow: Worker, slow_ones: list[str], turns: Turns
) -> list[str]:
    """Get the lock after the stopped process' claim, let it go on, and hold until its waiters are back in the queue."""
    async with guard.session_lock("s", wait=15) as held:
        assert held.lease is not None
        held["passed"] = True
        await turns.queue(guard, "later")
        slow.resume()
        await session.until(lambda s: len(s.waiting) == 3, within=3)
        return session.waiting


@pytest.mark.slow
async def test_a_patient_waiter_is_not_taken_for_dead(
    node: MakeGuard, stored: Look, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack 17: it waits for much longer than after which a waiter that was not heard of is taken for dead."""
    monkeypatch.setattr(calls, "PATIENCE_MS", 300)
    monkeypatch.setattr(wakeup, "HEARD_OF_EVERY", 0.1)
    session = stored("s")
    one, other = node(), node()
    async with other.session_lock("s"):
        await turns.queue(one, "first")
        await turns.queue(one, "second")
        await turns.queue(other, "third")
        began, order = session.now_us, session.waiting
        await session.until(lambda s: s.now_us - began > 1_000_000)
        assert session.waiting == order
    assert await turns.over() == ["first", "second", "third"]


@pytest.mark.slow
async def test_a_waiter_whose_push_connection_is_cut(
    proxy: FaultyProxy, node: MakeGuard, stored: Look, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack 17: for a while nothing can be pushed to it, so a releaser passes it by; it is still before all who came
    later, and when it can be reached again it is the next one."""
    monkeypatch.setattr(wakeup, "TRY_AGAIN_AFTER", 0.05)
    session = stored("s")
    slow, other = node(proxy.url, wait=WaitPolicy(stop_after_delay(15), wait_fixed(0.05))), node()
    async with other.session_lock("s"):
        await turns.queue(slow, "slow", wait=None)
        (token,) = session.waiting
        cut = proxy.drop_next_request(b"SUBSCRIBE", times=1_000_000)
        session.client.client_kill_filter(_type="pubsub")
        await cut.wait()
        passing = turns.spawn(_pass_and_wait(other, session, token, turns, cut.disarm))
        await session.until(lambda s: len(s.waiting) == 2)
    await passing
    assert await turns.over() == ["slow", "later"]


async def _pass_and_wait(
    guard: SessionGuard, session: Stored, slow: str, turns: Turns, heal: Callable[[], None]
) -> None:
    async with guard.session_lock("s", wait=15):
        await turns.queue(guard, "later")
        await session.until(lambda s: len(s.waiting) == 2)
        assert session.waiting[0] == slow
        heal()
        await session.until(lambda s: len(s.client.pubsub_channels("sl:push:*")) == 2)


# --- many


@pytest.mark.slow
async def test_what_a_release_costs_does_not_grow_with_the_waiters(
    redis_url: str, node: MakeGuard, stored: Look
) -> None:
    """Attack 18: per release as many commands, pushes and bytes with 500 waiters as with 50; nobody else wakes up."""
    few, many = 50, 500
    nodes = (node(), node())
    small = await _herd(redis_url, nodes, stored("s"), few)
    large = await _herd(redis_url, nodes, stored("s"), many)
    assert large["commands"] / many <= 1.25 * small["commands"] / few  # a busy machine looks more often
    assert large["commands"] <= 40 * many
    assert large["scripts"] <= 1.2 * many, "more than one release per turn, and hardly a look"
    assert large["publish"] <= 1.05 * many
    assert large["bytes"] - small["bytes"] <= 500 * (many - few)


async def _herd(url: str, nodes: tuple[SessionGuard, ...], session: Stored, count: int) -> dict[str, int]:
    """Let ``count`` requests of several nodes queue, then take turns; what all turns together cost the server."""
    wait = WaitPolicy(stop_after_delay(15), wait_fixed(2), max_waiters=1000)  # looks are counted, too
    turns = Turns(session)
    with CommandCounter(url) as ran:
        async with nodes[0].session_lock("s"):
            for number in range(count):
                turns.start(nodes[number % len(nodes)], str(number), wait=wait)
            await session.until(lambda s: len(s.waiting) == count)
            order = session.waiting
            bytes_before = int(session.client.info("stats")["total_net_output_bytes"])
            ran.restart()
        await turns.over()
    bytes_after = int(session.client.info("stats")["total_net_output_bytes"])
    assert turns.tokens == order
    assert session.free
    return {
        "commands": sum(ran.counts.values()),
        "scripts": ran.script_calls,
        "publish": ran["publish"],
        "bytes": bytes_after - bytes_before,
    }


async def test_a_contended_cycle_takes_threescript_calls(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 18: 200 requests at once for one session cost no more than 3 calls each (the first that wait in a process
    ask once more, when they can be reached by pushes), from then on no more than 2, and now and then a look."""
    guard, session = node(), stored("s")
    looks = 20
    wait = WaitPolicy(stop_after_delay(15), wait_fixed(0.1), max_waiters=1000)

    async def add_one() -> None:
        async with guard.session_lock("s", wait=wait) as held:
            held["n"] = held.get("n", 0) + 1

    for each in (3, 2):
        with CommandCounter(redis_url) as ran:
            await asyncio.gather(*(add_one() for _ in range(200)))
        assert ran.script_calls <= each * 200 + looks
    assert session.data == {"n": 400}


# --- barging


@pytest.mark.parametrize("newcomer", ["queues", "does not wait"])
async def test_a_newcomer_never_overtakes(node: MakeGuard, stored: Look, turns: Turns, newcomer: str) -> None:
    """Attack 19: the lock is free, as its holder died, and the waiter has not noticed yet; a newcomer asks first."""
    session = stored("s")
    seldom = WaitPolicy(stop_after_delay(15), wait_fixed(15))
    session.client.set(session.keys.lock, "a holder that dies")
    await turns.queue(node(), "waiter", wait=seldom)
    assert session.waiting != []
    session.client.delete(session.keys.lock)
    if newcomer == "queues":
        guard = node()
        await guard.runtime().wakeup.pushes.listen(keys_for("sl", "s"), "t", 5)  # so that it queues with its first call
        turns.start(guard, "newcomer")
        assert await turns.over() == ["waiter", "newcomer"]
    else:
        with pytest.raises(WaitTimedOut):
            async with node().session_lock("s", wait=0):
                pass
        assert await turns.over() == ["waiter"]


async def test_a_releaser_that_asks_again_goes_last(node: MakeGuard, stored: Look, turns: Turns) -> None:
    """Attack 19: a request that releases and asks for the same session at once comes after all who wait already."""
    session = stored("s")
    greedy, others = node(), node()
    async with greedy.session_lock("s"):
        for guard, name in ((others, "first"), (greedy, "second"), (others, "third")):
            await turns.queue(guard, name)
    turns.start(greedy, "greedy")
    assert await turns.over() == ["first", "second", "third", "greedy"]
    assert session.free


async def test_first_come_first_served_over_two_processes(
    redis_url: str, node: MakeGuard, stored: Look, turns: Turns
) -> None:
    """Attack 19: two processes queue at the same time; the order of tickets is the order of fencing tokens."""
    session, each = stored("s"), 40
    async with Queuer(redis_url, "s") as one, Queuer(redis_url, "s") as other:
        async with node().session_lock("s", lease=LeasePolicy(ttl=5)):
            for _ in range(each // 4):
                one.queue(4)
                other.queue(4)
            await session.until(lambda s: len(s.waiting) == 2 * each)
            queue: Any = session.client.zrange(session.keys.queue, 0, -1, withscores=True)
        grants = sorted([*await one.granted(each), *await other.granted(each)])
    tickets = [int(ticket) for _, ticket in queue]
    assert tickets == sorted(set(tickets))
    assert [token for _, token in grants] == [token.decode() for token, _ in queue]
    assert len({fence for fence, _ in grants}) == 2 * each


async def test_only_the_foremost_of_a_process_looks(redis_url: str) -> None:
    """Attack 18: while the lock is held, thirty waiters of a process ask Redis no more often than one does."""
    policy = WaitPolicy(stop=stop_after_delay(15), wait=wait_fixed(0.02))
    async with SessionGuard.from_url(redis_url, wait=policy) as guard:

        async def one() -> None:
            async with guard.session_lock("s"):
                pass

        with connect(redis_url) as direct:
            async with guard.session_lock("s"):
                waiting = [asyncio.create_task(one()) for _ in range(30)]
                while direct.zcard(keys_for("sl", "s").queue) < 30:
                    await anyio.sleep(0.005)
                calls, started = script_calls(direct), time.monotonic()
                while script_calls(direct) < calls + 20:
                    await anyio.sleep(0.005)
                assert time.monotonic() - started > 0.2  # thirty that look would need 20 ms
            await asyncio.gather(*waiting)
