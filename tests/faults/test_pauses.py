"""A holder that stands still for longer than its lease, at the worst moments."""

from __future__ import annotations

import pytest

from sessionlock import LeasePolicy, SessionGuard
from tests.harness.deployments import MakeGuard
from tests.harness.stored import Look
from tests.harness.workers import Worker

pytestmark = pytest.mark.anyio

SHORT = {"ttl": 0.3}
RENEWED = {"ttl": 1.0}  # a busy machine must not miss the renewal by itself


async def other_saves(guard: SessionGuard, sid: str = "s") -> int:
    """Another node gets the lock once the lease has run out, and saves; its fencing token."""
    async with guard.session_lock(sid, wait=5) as session:
        session["theirs"] = 1
        assert session.lease is not None
        return session.lease.fencing_token


@pytest.mark.parametrize("on_lost", ["cancel", "flag", "unaware"])
async def test_a_late_save_is_refused(redis_url: str, node: MakeGuard, stored: Look, on_lost: str) -> None:
    """Attack 1: the holder is stopped beyond its lease, another node saves, the holder goes on and saves. It is
    refused, also when it does not notice by itself how late it is."""
    session = stored("s")
    lease = {**RENEWED, "on_lost": "cancel" if on_lost == "cancel" else "flag"}
    async with Worker(redis_url, lease=lease) as worker:
        if on_lost == "unaware":
            worker.unaware()
        ours = (await worker.hold("s", write={"late": 1}))["fence"]
        worker.pause()
        current = await other_saves(node())
        worker.tell("finish")  # the body ends right when the process goes on
        worker.resume()
        ended = await worker.expect("ended")
    assert (ended["error"], ended["ours"], ended["current"]) == ("StaleFencingToken", ours, current)
    assert current > ours
    assert session.data == {"theirs": 1}


async def test_a_late_save_is_refused_though_nobody_came(redis_url: str, stored: Look) -> None:
    """Attack 1: the lease ran out, and nobody else took the lock: still nothing may be saved, what was promised
    until then is over."""
    session = stored("s")
    async with Worker(redis_url, lease={**SHORT, "on_lost": "flag"}) as worker:
        worker.unaware()
        await worker.hold("s", write={"late": 1})
        worker.pause()
        await session.until(lambda s: s.lock is None)
        worker.tell("finish")
        worker.resume()
        ended = await worker.expect("ended")
    assert ended["error"] == "LeaseLost"
    assert session.data == {}


@pytest.mark.parametrize("aware", [True, False])
async def test_a_late_immediate_save_is_refused(redis_url: str, node: MakeGuard, stored: Look, aware: bool) -> None:
    """Attack 1: the same with a save in the middle of the block."""
    session = stored("s")
    async with Worker(redis_url, lease={**SHORT, "on_lost": "flag"}) as worker:
        if not aware:
            worker.unaware()
        await worker.hold("s")
        worker.pause()
        await other_saves(node())
        worker.tell("save", write={"late": 1})
        worker.resume()
        saved = await worker.expect("saved")
    assert saved["error"] in ("StaleFencingToken", "LeaseLost")
    assert session.data == {"theirs": 1}


async def test_a_pause_between_check_and_write(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 2: every check of the client has passed, the save is ready to be sent; then the process stands still."""
    session = stored("s")
    async with Worker(redis_url, lease=SHORT) as worker:
        worker.unaware()
        await worker.hold("s", write={"late": 1})
        worker.stop_before("release")
        worker.tell("finish")
        await worker.stopped()
        current = await other_saves(node())
        worker.resume()
        ended = await worker.expect("ended")
    assert (ended["error"], ended["current"]) == ("StaleFencingToken", current)
    assert session.data == {"theirs": 1}


async def test_a_pause_before_an_immediate_save(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 2: the same with a save in the middle of the block, while the next holder still holds."""
    session = stored("s")
    async with Worker(redis_url, lease=SHORT) as worker:
        worker.unaware()
        await worker.hold("s")
        worker.stop_before("save")
        worker.tell("save", write={"late": 1})
        await worker.stopped()
        async with node().session_lock("s", wait=5) as theirs:
            worker.resume()
            saved = await worker.expect("saved")
            theirs["theirs"] = 1
    assert saved["error"] == "StaleFencingToken"
    assert session.data == {"theirs": 1}


@pytest.mark.slow
async def test_a_pause_before_a_renewal(redis_url: str, node: MakeGuard, stored: Look) -> None:
    """Attack 2: a renewal that is sent late neither takes the lock anew nor extends the next holder's lease."""
    session = stored("s")
    async with Worker(redis_url, lease=RENEWED) as worker:
        worker.stop_before("renew")
        await worker.hold("s", write={"late": 1})
        await worker.stopped()
        no_renewal = LeasePolicy(ttl=5, renew=False)
        async with node().session_lock("s", wait=5, lease=no_renewal) as theirs:
            assert theirs.lease is not None
            until = session.lease_end_us
            worker.resume()
            ended = await worker.expect("ended")
            assert session.lock == theirs.lease.token
            assert abs(session.lease_end_us - until) < 50_000
            theirs["theirs"] = 1
    assert ended["error"] in ("LeaseLost", "StaleFencingToken")
    assert session.data == {"theirs": 1}


async def test_a_late_renewal_takes_nothing(redis_url: str, stored: Look) -> None:
    """Attack 2: a renewal that is sent after the lease lapsed, when nobody else holds, does not revive the lock."""
    session = stored("s")
    async with Worker(redis_url, lease={**RENEWED, "on_lost": "flag"}) as worker:
        worker.unaware()
        worker.stop_before("renew")
        await worker.hold("s", write={"late": 1})
        await worker.stopped()
        await session.until(lambda s: s.lock is None)
        worker.resume()
        ended = await worker.finish()
    assert ended["error"] == "LeaseLost"
    assert session.lock is None
    assert session.data == {}
