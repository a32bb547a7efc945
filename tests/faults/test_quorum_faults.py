"""A quorum through a series of faults, at stores that fail over, and in processes that fork."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest

from sessionlock import LeasePolicy, RedisUnavailable, SessionGuard, SessionLockError, StaleFencingToken
from tests.harness import forking, import_path
from tests.harness.cluster import Cluster, slot_of
from tests.harness.commands import confirmed_by
from tests.harness.deployments import SID, MakeGuard, fence_of, lock_of
from tests.harness.history import Operation, judge
from tests.harness.polling import eventually
from tests.harness.quorums import Place
from tests.harness.sentinels import Sentinels
from tests.harness.sites import Site
from tests.harness.stored import Stored

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(180), pytest.mark.slow]

LEASE = LeasePolicy(ttl=1.0, claim=0.5)
FORGOTTEN = LeasePolicy(ttl=1.0, renew=False, on_lost="flag")


class Counting:
    """Guards that add to one counter, and the history of it."""

    def __init__(self, guards: list[SessionGuard]) -> None:
        self.history: list[Operation] = []
        self._guards = guards
        self._stopping = False

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            for number, guard in enumerate(self._guards):
                for task in range(3):
                    tasks.start_soon(self._count, guard, f"{number}.{task}")

    def stop(self) -> None:
        self._stopping = True

    @property
    def acknowledged(self) -> int:
        return sum(operation.outcome == "ok" for operation in self.history)

    async def goes_on(self, more: int = 30) -> None:
        wanted = self.acknowledged + more
        await eventually(lambda: self.acknowledged >= wanted, f"{more} more are acknowledged", 30.0)

    async def _count(self, guard: SessionGuard, name: str) -> None:
        number = 0
        while not self._stopping:
            number += 1
            await self._add_one(guard, Operation(f"{name}.{number}", time.monotonic()))

    async def _add_one(self, guard: SessionGuard, operation: Operation) -> None:
        self.history.append(operation)
        try:
            async with guard.session_lock(SID, lease=LEASE, wait=10) as session:
                operation.granted = time.monotonic()
                operation.fence, operation.read = fence_of(session), session.get("n", 0)
                await asyncio.sleep(0)
                session["n"] = session.get("n", 0) + 1
            operation.outcome = "ok"
        except RedisUnavailable as error:
            operation.why = str(error)
        except SessionLockError as error:
            operation.outcome, operation.why = "fail", str(error)
        operation.ended = time.monotonic()


async def test_killed_hung_and_restarted_empty(five: Place) -> None:
    """Two masters die, one hangs, one of the dead comes back empty after a lease; a holder sleeps through it all.

    While two of five are left nothing is granted. Then the one that forgot counts again, after as long as the longest
    lease; of what was saved nothing is lost, and the sleeper saves nothing.
    """
    quorum = five.quorum(rejoin_after="auto")
    guards = [five.guard(quorum, lease=LEASE, retry_for=0.3) for _ in range(3)]
    sleeper = five.guard(quorum, lease=LEASE, retry_for=30)
    with pytest.raises(StaleFencingToken):
        async with sleeper.session_lock(SID, lease=FORGOTTEN) as forgotten:
            forgotten["slept"] = True
            await count_through_faults(five, Counting(guards))
            assert forgotten.lease is not None
            assert forgotten.lease.is_lost
    assert "slept" not in five.stored.data
    with anyio.fail_after(20):
        while not five.is_free():  # what could not be given up is made good with the next request that gets through
            for guard in guards:
                await add(guard, 1)


async def count_through_faults(five: Place, counting: Counting) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(counting.run)
        await counting.goes_on()
        five.masters[0].kill()
        five.masters[3].kill()
        await counting.goes_on()
        five.masters[1].pause()
        paused = time.monotonic()
        try:
            await refused(counting, after=paused)
            await asyncio.sleep(LEASE.ttl)  # what the dead ones had granted has ended
            five.masters[0].restart(empty=True)
            back = time.monotonic()
            await counting.goes_on()
            granted = [operation.granted or 0.0 for operation in counting.history]
            first = min(at for at in granted if at > back)
            assert first - back >= LEASE.ttl, "a master that had forgotten all voted at once"
        finally:
            five.masters[1].resume()
        five.masters[3].restart(empty=True)
        await counting.goes_on()
        counting.stop()
    verdict = judge(counting.history, five.stored.data["n"])
    assert verdict.problems == [], str(verdict)


async def refused(counting: Counting, after: float) -> None:
    """Two of five are no majority: whoever asks now is refused, and nobody gets it."""
    asked = after + LEASE.ttl  # by then what was under way is over

    def is_refused() -> bool:
        return sum(operation.invoked > asked and bool(operation.why) for operation in counting.history) >= 3

    await eventually(is_refused, "requests are refused", 15.0)
    assert not [operation for operation in counting.history if operation.invoked > asked and operation.granted]


# --- the store


async def add(guard: SessionGuard, times: int) -> int:
    """How many were acknowledged."""
    done = 0
    for _ in range(times):
        async with guard.session_lock(SID, wait=20) as session:
            session["n"] = session.get("n", 0) + 1
        done += 1
    return done


async def test_the_store_is_replaced_by_sentinel(three: Place, node: MakeGuard) -> None:
    """While it is held and waited for. The masters keep the lock: first the holder saves at the new store."""
    with Sentinels() as sentinels:
        options: dict[str, Any] = {"quorum": three.quorum(), "retry_for": 20.0}
        holder, waiter = node(sentinels.url, **options), node(sentinels.url, **options)
        fences: list[int] = []

        async def wait_for_it() -> None:
            async with waiter.session_lock(SID, wait=30) as session:
                fences.append(fence_of(session))
                session["n"] += 1

        async with anyio.create_task_group() as tasks, holder.session_lock(SID) as session:
            fences.append(fence_of(session))
            session["n"] = 1
            tasks.start_soon(wait_for_it)
            await eventually(lambda: bool(three.at(0).waiting), "it waits")
            confirmed_by(sentinels.master.raw, 2)
            sentinels.kill_master()
            await sentinels.new_master()
        assert fences == sorted(set(fences))
        assert await add(holder, 3) == 3
        assert (await waiter.read(SID))["n"] == 5
    await eventually(lambda: all(three.at(number).free for number in range(3)), "the masters are free")


async def test_a_stores_lost_promotion(three: Place, node: MakeGuard) -> None:
    """The replicas miss the grant and one is promoted: the masters still know the lock, so nobody else gets in, and the
    holder, whose grant the new store never saw, saves nothing over what others save."""
    with Sentinels() as sentinels:
        options: dict[str, Any] = {"quorum": three.quorum(), "retry_for": 20.0}
        first, second = node(sentinels.url, **options), node(sentinels.url, **options)
        await first.create({"by": ["nobody"]}, sid=SID)
        replicas = sentinels.replicas
        confirmed_by(sentinels.master.raw, 2)
        for replica in replicas:
            replica.pause()
        sentinels.master.cut_off_replicas()
        saved: list[str] = []
        try:
            async with first.session_lock(SID, lease=LeasePolicy(ttl=5.0, renew=False, on_lost="flag")) as session:
                session["by"] = [*session["by"], "first"]
                sentinels.kill_master()
                for replica in replicas:
                    replica.resume()
                await sentinels.new_master()
                async with second.session_lock(SID, wait=20) as other:
                    other["by"] = [*other["by"], "second"]
                saved.append("second")
            saved.append("first")
        except SessionLockError:
            pass
        assert saved == ["second"]
        assert (await second.read(SID))["by"] == ["nobody", "second"]


async def test_the_store_is_a_cluster_whose_master_dies(three: Place, cluster: Cluster, node: MakeGuard) -> None:
    """... after the session's slot has moved, both while it is held."""
    options: dict[str, Any] = {"quorum": three.quorum(), "retry_for": 20.0}
    holder, other = node(cluster.url, **options), node(cluster.url, **options)
    async with holder.session_lock(SID) as session:
        session["n"] = 1
        target = next(master for master in cluster.masters if master is not cluster.master_of(lock_of(SID)))
        await cluster.migrate_slot(slot_of(lock_of(SID)), target)
    async with holder.session_lock(SID) as session:
        session["n"] += 1
        master = cluster.master_of(lock_of(SID))
        assert master.raw.wait(1, 5000) == 1
        cluster.kill(master)
        await cluster.promoted(master)
    assert await add(other, 3) == 3
    assert (await other.read(SID))["n"] == 5
    cluster.restart(master)
    await cluster.settled()


# --- forks


@pytest.mark.parametrize("scenario", ["between turns", "between turns, the child ends with all finalizers"])
async def test_a_fork_after_the_guard_was_used(three: Place, scenario: str) -> None:
    """Both processes go on, and each gets the votes for its own requests."""
    masters = ",".join(master.tcp_url for master in three.masters)
    program = [sys.executable, forking.__file__, scenario, three.store.tcp_url, f"quorum={masters}"]
    done = await anyio.to_thread.run_sync(
        lambda: subprocess.run(
            program, capture_output=True, timeout=60, text=True, env={**os.environ, "PYTHONPATH": import_path()}
        )
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, Any] = json.loads(done.stdout)
    assert [answers[who].get("error") for who in ("parent", "child")] == [None, None]
    rounds = forking.ROUNDS
    with Stored(three.store.unix_url, "shared") as shared:
        assert shared.data == {"n": 2 * rounds, "parent": rounds, "child": rounds}


async def test_gunicorn_forks_its_workers(three: Place, tmp_path: Path) -> None:
    """``--preload``: the guard was made and used before the fork; the workers lose none of one session's requests."""
    masters = ",".join(master.tcp_url for master in three.masters)
    with Site("quorum", three.store.tcp_url, tmp_path, "--preload", QUORUM=masters) as site:
        pids: set[str] = set()
        asked = 0
        no_keep_alive = httpx.Limits(max_keepalive_connections=0)  # so that whichever worker is free takes the next one
        async with httpx.AsyncClient(base_url=site.url, limits=no_keep_alive, timeout=30.0, trust_env=False) as client:
            while len(pids) < 2 or asked < 100:
                answers = await asyncio.gather(*(client.post("/add") for _ in range(20)))
                assert {answer.status_code for answer in answers} == {200}, site.told()
                pids |= {answer.text for answer in answers}
                asked += len(answers)
        with Stored(three.store.unix_url, "counted") as counted:
            assert counted.data == {"n": asked + 1}, "one was counted before the fork"
        assert site.stop() == [0]
