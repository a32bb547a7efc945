"""What renewing costs when very many leases are held, and that none is forgotten over it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from types import FrameType
from typing import Any

import anyio
import pytest

from sessionlock import LeasePolicy, SessionPolicy, WaitPolicy
from sessionlock.clock import monotonic
from sessionlock.lease import Lease
from sessionlock.lock import watchdog as module
from sessionlock.lock.request import LockRequest
from sessionlock.lock.watchdog import Watchdog
from sessionlock.protocol.keys import keys_for

pytestmark = pytest.mark.anyio


class Cluster:
    """Each lock is in a slot of its own. Counts what it is asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.tasks: set[asyncio.Task[Any]] = set()
        self.hang = False

    def group(self, keys: Any, token: str) -> object:
        return token

    async def run(self, call: Any) -> list[int]:
        self.calls.extend(token for _, token, _ in call.leases)
        if self.hang:
            await anyio.sleep_forever()
        await asyncio.sleep(0)
        return [1] * len(call.leases)

    def background(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


def hold(dog: Watchdog, number: int, policy: LeasePolicy) -> Lease:
    name = f"l{number}"
    request = LockRequest(keys_for("sl", name), "n", policy, WaitPolicy(), SessionPolicy(), "create", 0)
    lease = Lease(
        name,
        name,
        1,
        granted_at=monotonic(),
        granted_for=policy.ttl,
        ttl=policy.ttl,
        safety_margin=policy.margin,
        max_hold=policy.longest,
    )
    dog.watch(lease, request)
    return lease


async def steps_of(many: int) -> int:
    """How many functions of the watchdog run until each of so many leases was renewed twice."""
    cluster = Cluster()
    dog = Watchdog(cluster, cluster.background)  # type: ignore[arg-type]
    leases = [hold(dog, number, LeasePolicy(ttl=60, max_hold=600)) for number in range(many)]
    ran = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal ran
        ran += event == "call" and frame.f_code.co_filename == module.__file__

    sys.setprofile(note)
    try:
        for _ in range(2):
            for watched in list(dog._known().values()):
                dog._look_again(watched, monotonic())
            wanted = len(cluster.calls) + many
            while len(cluster.calls) < wanted or cluster.tasks:
                await asyncio.sleep(0)
    finally:
        sys.setprofile(None)
    for lease in leases:
        dog.forget(lease)
    dog.close()
    assert sorted(cluster.calls) == sorted([lease.token for lease in leases] * 2)
    return ran


async def test_its_work_grows_with_the_leases_and_no_faster() -> None:
    """On a Cluster each renewal is a call of its own, and each of them must not look at all leases."""
    few, many = await steps_of(100), await steps_of(800)
    assert many < 10 * few


async def test_others_have_their_turn_between_the_renewals() -> None:
    cluster = Cluster()
    dog = Watchdog(cluster, cluster.background)  # type: ignore[arg-type]
    leases = [hold(dog, number, LeasePolicy(ttl=60, max_hold=600)) for number in range(1000)]
    for watched in list(dog._known().values()):
        dog._look_again(watched, monotonic())
    at_once, before = 0, 0
    while len(cluster.calls) < 1000:
        await asyncio.sleep(0)
        at_once, before = max(at_once, len(cluster.calls) - before), len(cluster.calls)
    assert at_once <= 2 * module.MOST_GROUPS
    for lease in leases:
        dog.forget(lease)
    dog.close()


async def test_a_renewal_that_hangs_keeps_no_lease_from_running_out() -> None:
    cluster = Cluster()
    cluster.hang = True
    dog = Watchdog(cluster, cluster.background)  # type: ignore[arg-type]
    leases = [hold(dog, number, LeasePolicy(ttl=0.2)) for number in range(50)]
    with anyio.fail_after(10):
        for lease in leases:
            await lease.lost.wait()
    for task in cluster.tasks:
        task.cancel()


async def test_leases_that_are_over_leave_nothing_behind() -> None:
    cluster = Cluster()
    dog = Watchdog(cluster, cluster.background)  # type: ignore[arg-type]
    hold(dog, -1, LeasePolicy(ttl=60, max_hold=600))
    for number in range(5):
        leases = [hold(dog, number * 200 + n, LeasePolicy(ttl=600, max_hold=6000)) for n in range(200)]
        dog._known()  # somebody looks while they are held
        for lease in leases:
            dog.forget(lease)
    assert len(dog._agenda._sorted) <= 3 * module.MOST_LEFT_BEHIND
    assert len(dog._known()) == 1


class Slow:
    """A Redis that answers each renewal when it is told to."""

    deaf = False

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Any] = asyncio.Queue()
        self.answers: asyncio.Queue[int] = asyncio.Queue()

    def group(self, keys: object, token: str) -> object:
        return "the one"

    async def run(self, call: Any) -> Any:
        await self.asked.put(call)
        return [await self.answers.get()]


async def test_more_time_waits_for_a_renewal_under_way() -> None:
    """For if that came to Redis after it, it would cut short what was gained."""
    redis = Slow()
    watchdog = Watchdog(redis, lambda work: asyncio.get_running_loop().create_task(work))  # type: ignore[arg-type]
    policy = LeasePolicy(ttl=3)
    request = LockRequest(keys_for("sl", "s"), "", policy, WaitPolicy(), None, "create", 0)
    lease = Lease("s", "token", 1, granted_at=monotonic(), granted_for=3, ttl=3, safety_margin=0.1, max_hold=60)
    watchdog.watch(lease, request)
    await redis.asked.get()  # the renewal
    extending = asyncio.create_task(watchdog.extend(lease, 600))
    for _ in range(10):
        await asyncio.sleep(0)
    assert redis.asked.empty()
    redis.answers.put_nowait(1)
    await redis.asked.get()  # the extension
    redis.answers.put_nowait(1)
    assert await extending is True
    assert lease.hold_until > monotonic() + 590
    watchdog.forget(lease)
    watchdog.close()
