"""Eight processes, one session: every increment counts, also when processes die or stand still while they hold it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from sessionlock import LeasePolicy, SessionGuard
from tests.harness.commands import keys_without_ttl
from tests.harness.history import Operation, Verdict, judge, read
from tests.harness.increments import SID, Adder, Fleet
from tests.harness.stored import Stored

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

TTL = 1.0  # seconds; how long a process that stands still keeps all others waiting
PATIENCE = 60.0


@pytest.fixture
def stored(redis_url: str) -> Iterator[Stored]:
    with Stored(redis_url, SID) as stored:
        yield stored


def judged(folder: Path, stored: Stored) -> tuple[Verdict, list[Operation]]:
    operations = read(folder)
    return judge(operations, stored.data["n"]), operations


async def healed(url: str, stored: Stored) -> None:
    """After all that, the next request is served, nothing is left over, and nothing is immortal."""
    before = stored.data["n"]
    async with SessionGuard.from_url(url, lease=LeasePolicy(ttl=TTL)) as guard, guard.session_lock(SID) as session:
        session["n"] += 1
    assert stored.data["n"] == before + 1
    assert stored.free
    assert keys_without_ttl(url) == []


async def test_nothing_is_lost(redis_url: str, tmp_path: Path, stored: Stored) -> None:
    async with Fleet(redis_url, tmp_path) as fleet:
        for _ in range(8):
            fleet.start(500)
        await fleet.go()
        await fleet.finished()
    verdict, operations = judged(tmp_path, stored)
    assert verdict.problems == []
    assert (verdict.counter, verdict.acknowledged, verdict.failed, verdict.unknown) == (4000, 4000, 0, 0)
    in_order = sorted(operations, key=lambda operation: operation.read or 0)
    fences = [operation.fence for operation in in_order]
    assert fences == sorted(set(fences))  # type: ignore[type-var]  # none is None: all were granted
    assert keys_without_ttl(redis_url) == []
    await healed(redis_url, stored)


async def test_nothing_is_lost_though_holders_die_or_stand_still(
    redis_url: str, tmp_path: Path, stored: Stored
) -> None:
    """Three are killed while they hold the lock, three stand still until it has been granted to others."""
    async with Fleet(redis_url, tmp_path) as fleet:
        doomed = [fleet.start(500, tasks=2, ttl=TTL, halt_at=at) for at in (20, 60, 100)]
        sleepers = [fleet.start(500, tasks=2, ttl=TTL, halt_at=at) for at in (40, 80, 120)]
        for _ in range(2):
            fleet.start(500, tasks=2, ttl=TTL)
        await fleet.go()
        nemesis = Nemesis(stored, tmp_path)
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as faults:
                for adder in doomed:
                    faults.start_soon(nemesis.kill, adder)
                for adder in sleepers:
                    faults.start_soon(nemesis.let_sleep, adder)
        await fleet.finished()

    verdict, operations = judged(tmp_path, stored)
    assert verdict.problems == []
    assert verdict.acknowledged <= verdict.counter <= verdict.acknowledged + verdict.unknown
    assert 3 <= verdict.unknown <= 6  # of each process that was killed: the one that held, the one that waited
    by_fence = {operation.fence: operation for operation in operations}
    assert len(nemesis.killed) == len(nemesis.slept) == 3
    for fence in nemesis.killed:
        assert by_fence[fence].ended is None
    late = [by_fence[fence] for fence in nemesis.slept]
    assert [(operation.outcome, operation.why) for operation in late] == [("fail", "StaleFencingToken")] * 3
    assert verdict.acknowledged + verdict.failed + verdict.unknown >= 5 * 500
    await healed(redis_url, stored)


class Nemesis:
    """Lets holders die or sleep; ``killed`` and ``slept``: the fences they held. Each fault proves its effect."""

    def __init__(self, stored: Stored, folder: Path) -> None:
        self.killed: list[int] = []
        self.slept: list[int] = []
        self._stored = stored
        self._folder = folder

    async def kill(self, adder: Adder) -> None:
        fence = await self._holding(adder)
        assert self._stored.fence == fence, "it did not hold the lock when it was killed"
        adder.kill()
        await self._lapsed(fence)
        self.killed.append(fence)

    async def let_sleep(self, adder: Adder) -> None:
        fence = await self._holding(adder)
        await self._lapsed(fence)
        adder.resume()
        self.slept.append(fence)

    async def _holding(self, adder: Adder) -> int:
        """Wait until it stands still in a body; the fence it holds."""
        while not adder.halted:
            assert adder.status is None, "it ended instead of standing still"
            await anyio.sleep(0.005)
        mine = [one for one in read(self._folder) if one.name.startswith(f"{adder.name}-") and one.fence]
        held = max(mine, key=lambda operation: operation.fence or 0)
        assert held.ended is None
        assert held.fence is not None
        return held.fence

    async def _lapsed(self, fence: int) -> None:
        """Others have been granted the lock since: the lease has ended while its holder did not know."""
        while self._stored.fence <= fence:
            await anyio.sleep(0.005)


# --- that this can fail -----------------------------------------------------------------------------------------------


async def test_unguarded_updates_are_lost(redis_url: str, tmp_path: Path, stored: Stored) -> None:
    async with Fleet(redis_url, tmp_path) as fleet:
        for _ in range(2):
            fleet.start(200, tasks=4, way="unguarded")
        await fleet.go()
        await fleet.finished()
    verdict = judge(read(tmp_path), int(stored.client.get(SID) or 0))
    assert verdict.acknowledged == 400
    assert verdict.counter < 400
    assert any("lost" in problem for problem in verdict.problems)


async def test_a_lock_without_a_fence_loses_updates_when_a_holder_sleeps(
    redis_url: str, tmp_path: Path, stored: Stored
) -> None:
    """redis-py's lock. Without the pause it loses nothing: a stress test without faults proves nothing."""
    async with Fleet(redis_url, tmp_path) as fleet:
        sleeper = fleet.start(20, way="redis-py", ttl=0.3, halt_at=5)
        await fleet.go()
        with anyio.fail_after(PATIENCE):
            while not sleeper.halted:
                await anyio.sleep(0.005)
            other = fleet.start(40, way="redis-py", ttl=0.3)
            await fleet.go()
            while other.status is None:  # the lock was granted to it, again and again
                await anyio.sleep(0.005)
        sleeper.resume()
        await fleet.finished()
    verdict = judge(read(tmp_path), int(stored.client.get(SID) or 0))
    assert any("lost" in problem for problem in verdict.problems), verdict


async def test_a_lock_without_a_fence_seems_to_work_when_nothing_happens(
    redis_url: str, tmp_path: Path, stored: Stored
) -> None:
    async with Fleet(redis_url, tmp_path) as fleet:
        for _ in range(2):
            fleet.start(40, way="redis-py")
        await fleet.go()
        await fleet.finished()
    assert judge(read(tmp_path), int(stored.client.get(SID) or 0)).problems == []
