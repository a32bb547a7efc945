"""The cluster and the Sentinels that tests start are real: slots move, replicas take over, a cut is a cut."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from redis.exceptions import AskError, MovedError, ResponseError

from tests.harness.cluster import SLOTS, Cluster, slot_of
from tests.harness.polling import eventually
from tests.harness.sentinels import Sentinels

pytestmark = [pytest.mark.anyio, pytest.mark.server, pytest.mark.slow]

KEY = b"{some}:key"
SLOT = slot_of(KEY)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(partitionable=True) as cluster:
        yield cluster


@pytest.fixture
async def settled(cluster: Cluster) -> Cluster:
    """The module's cluster, after whatever the test before did to it."""
    await cluster.settled()
    cluster.raw_for(KEY).set(KEY, b"1")
    return cluster


def by_tcp(port: int) -> redis.Redis:
    client: redis.Redis = redis.Redis.from_url(f"redis://127.0.0.1:{port}", protocol=2, retry=None, socket_timeout=0.3)
    return client


async def test_it_has_three_masters_with_a_replica_each(settled: Cluster) -> None:
    masters = settled.masters
    assert len(masters) == 3
    assert sum(len(master.itself.slots) for master in masters) == SLOTS
    assert len({settled.replica_of(master).name for master in masters}) == 3
    assert settled.master_of(KEY).raw.wait(1, 5000) == 1, "its replica does not confirm"


async def test_a_slot_moves_with_its_keys(settled: Cluster) -> None:
    source = settled.master_of(KEY)
    target = next(master for master in settled.masters if master is not source)
    assert await settled.migrate_slot(SLOT, target) == 1
    assert settled.master_of(KEY) is target
    assert target.raw.get(KEY) == b"1"
    with pytest.raises(MovedError):
        source.raw.get(KEY)


async def test_a_test_can_sit_inside_the_asking_phase(settled: Cluster) -> None:
    target = next(master for master in settled.masters if master is not settled.master_of(KEY))
    source = await settled.begin_migration(SLOT, target)
    assert source.raw.get(KEY) == b"1", "what was not moved yet is served where it is"
    assert settled.move_keys(SLOT, source, target) == 1
    with pytest.raises(AskError):
        source.raw.get(KEY)
    target.ask("ASKING")  # one caller, one connection: it is asked on the same one
    assert target.raw.get(KEY) == b"1"
    assert await settled.finish_migration(SLOT, source, target) == 0
    assert settled.master_of(KEY) is target


async def test_a_replica_takes_over_when_told(settled: Cluster) -> None:
    old = settled.master_of(KEY)
    replica = settled.replica_of(old)
    await settled.failover(replica)
    assert settled.master_of(KEY) is replica
    assert replica.raw.get(KEY) == b"1"


async def test_a_replica_takes_over_from_the_dead(settled: Cluster) -> None:
    old = settled.master_of(KEY)
    assert old.raw.wait(1, 5000) == 1
    replica = settled.replica_of(old)
    settled.kill(old)
    assert await settled.promoted(old) is replica
    assert settled.raw_for(KEY).get(KEY) == b"1"
    settled.restart(old)
    await settled.settled()
    assert settled.replica_of(replica) is old


async def test_a_cut_off_master_stays_master_for_those_on_its_side(settled: Cluster) -> None:
    """Until it notices. From the other side it cannot be reached, and its writes do not reach its replica."""
    old = settled.master_of(KEY)
    assert old.raw.wait(1, 5000) == 1
    outside = by_tcp(old.announced)
    assert outside.ping()
    settled.isolate(old)
    try:
        old.raw.set(KEY, b"lost")  # past the switchboard: as a client on its side
        with pytest.raises(redis.RedisError):
            outside.ping()
        new = await settled.promoted(old)
        assert new.raw.get(KEY) == b"1"
        await eventually(lambda: old.state == "fail", "the cut-off master notices")
    finally:
        settled.heal()
        outside.close()
    await settled.settled()
    # On a busy machine they may have elected once more; whoever is master has what the first elected had.
    assert settled.raw_for(KEY).get(KEY) == b"1"
    assert {settled.master_of(KEY), settled.replica_of(settled.master_of(KEY))} == {old, new}


async def test_a_paused_node_comes_back(settled: Cluster) -> None:
    replica = settled.replica_of(settled.master_of(KEY))
    settled.pause(replica)
    assert settled.raw_for(KEY).wait(1, 200) == 0
    settled.resume(replica)
    await settled.settled()
    assert settled.raw_for(KEY).wait(1, 5000) == 1


async def test_sentinels_elect_another_master() -> None:
    with Sentinels() as sentinels:
        old = sentinels.master
        assert len(sentinels.replicas) == 2
        old.raw.set(KEY, b"1")
        assert old.raw.wait(2, 5000) == 2
        assert sentinels.kill_master() is old
        new = await sentinels.new_master()
        assert new is not old
        assert sentinels.master is new
        assert new.raw.get(KEY) == b"1"


async def test_a_lonely_master_refuses_writes_when_so_configured() -> None:
    with Sentinels(min_replicas_to_write=1) as sentinels:
        master = sentinels.master
        for replica in sentinels.replicas:
            replica.pause()

        def refuses() -> bool:
            try:
                master.raw.set(KEY, b"1")
            except ResponseError as error:
                return "NOREPLICAS" in str(error) or "Not enough good replicas" in str(error)
            return False

        await eventually(refuses, "a master without replicas refuses writes")


DIES = """
import os
from tests.harness.cluster import Cluster
cluster = Cluster(1, 0).start()
print(cluster.nodes[0].socket_path, flush=True)
os._exit(1)
"""


async def test_nothing_of_it_outlives_the_test_process() -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", DIES], capture_output=True, text=True, env=env, check=False)  # noqa: ASYNC221
    socket_path = Path(done.stdout.strip())
    assert socket_path.name == "s", done.stderr
    # Its directory is removed after it was killed, by the same watcher.
    await eventually(lambda: not socket_path.parent.exists(), f"{socket_path.parent} goes with its owner")
