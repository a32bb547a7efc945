"""Until when a lease is trusted: never longer than Redis keeps it."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sessionlock import LeaseLost, LeasePolicy, SessionGuard, SessionLockError
from sessionlock.lease import Lease
from tests.harness.deployments import MakeGuard
from tests.harness.polling import eventually

SECONDS = st.floats(0.01, 60)


def granted(policy: LeasePolicy, seconds: float, *, confirmed: bool = True) -> Lease:
    return Lease(
        "s",
        "t",
        1,
        granted_at=0.0,
        granted_for=seconds,
        ttl=policy.ttl,
        safety_margin=policy.margin,
        max_hold=policy.longest,
        confirmed=confirmed,
    )


def lately_granted(ahead: float) -> Lease:
    """For 10 s, where the package's clock is so far ahead of :func:`time.monotonic`."""
    at = time.monotonic() + ahead
    return Lease("s", "t", 1, granted_at=at, granted_for=10, ttl=10, safety_margin=0, max_hold=60)


@given(
    ttl=SECONDS,
    max_hold=SECONDS,
    claim=SECONDS,
    margin=st.floats(0, 0.99),
    handed_over=st.booleans(),
    steps=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 3), st.booleans()), max_size=12),
)
def test_no_order_of_policies_and_renewals_is_trusted_beyond_redis(
    ttl: float, max_hold: float, claim: float, margin: float, handed_over: bool, steps: list[Any]
) -> None:
    """Each step: when within its trust the lease is renewed, how long the call takes, and whether its reply comes."""
    policy = LeasePolicy(ttl=ttl, max_hold=max_hold, claim=claim, safety_margin=margin * ttl)
    seconds = (policy.claim_ms if handed_over else policy.ttl_ms) / 1000
    held = granted(policy, seconds, confirmed=not handed_over)
    redis_ends = seconds
    now = 0.0
    for share, takes, answered in steps:
        assert held.ends <= min(redis_ends, max_hold)
        now += share * (held.ends - now)
        asked = held.renewal(now)
        if not asked:
            continue
        asked = math.ceil(asked * 1000) / 1000
        if now + takes >= redis_ends:
            break  # Redis has let it go before the call came
        redis_ends = now + takes + asked
        if answered:
            held.extended(now, asked)
        assert held.ends <= redis_ends
        now += takes
        if now >= held.ends:
            break


def test_a_renewal_that_would_gain_nothing_is_not_asked_for() -> None:
    held = granted(LeasePolicy(ttl=4, max_hold=2), 4)
    assert held.was_held_longest
    assert held.renewal(0.1) == 0
    held = granted(LeasePolicy(ttl=4, max_hold=6), 4)
    assert held.renewal(1.0) == 4
    held.extended(3.0, held.renewal(3.0))
    assert held.was_held_longest
    assert held.renewal(3.1) == 0


def test_the_public_instants_are_of_the_well_known_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though this package's own clock has counted a machine's sleep."""
    monkeypatch.setattr("sessionlock.lease.monotonic", lambda: time.monotonic() + 50_000)
    held = lately_granted(50_000)
    left = held.trusted_until - time.monotonic()
    assert held.remaining() == pytest.approx(left, abs=0.5) == pytest.approx(10, abs=0.5)
    assert held.hold_until - held.since == pytest.approx(60, abs=0.5)
    assert held.age() == pytest.approx(time.monotonic() - held.since, abs=0.5)


def test_a_machine_that_slept_trusts_nothing_it_had_before(monkeypatch: pytest.MonkeyPatch) -> None:
    slept = 0.0
    monkeypatch.setattr("sessionlock.lease.monotonic", lambda: time.monotonic() + slept)
    held = lately_granted(0)
    held.check()
    slept = 20.0
    assert held.remaining() == 0
    with pytest.raises(LeaseLost):
        held.check()


@pytest.mark.anyio
async def test_max_hold_below_the_ttl_leaves_one_holder(node: MakeGuard) -> None:
    """Whoever is granted the lock next finds the first lease distrusted already."""
    first, second = node(), node()
    with pytest.raises(LeaseLost, match="max_hold"):
        async with first.lock("x", lease=LeasePolicy(ttl=2, max_hold=0.3, on_lost="flag")) as held:
            await held.lost.wait()
            assert held.remaining() == 0
    short = LeasePolicy(ttl=0.5, max_hold=0.2, on_lost="flag")
    with pytest.raises(LeaseLost, match="granted again since"):
        async with first.lock("x", lease=short) as held, second.lock("x", wait=5):
            assert held.remaining() == 0
            with pytest.raises(LeaseLost):
                held.check()


@pytest.mark.anyio
async def test_a_lease_whose_release_is_under_way_is_not_trusted(
    guard: SessionGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the sending on the next one may hold the lock."""
    seen: list[float] = []
    executor = guard.runtime().executor
    run, save = executor.run, executor.save

    async def watched(send: Any, call: Any) -> Any:
        seen.append(held.remaining())
        with pytest.raises(LeaseLost, match="released already"):
            held.check()
        return await send(call)

    for release in (False, True):
        async with guard.session_lock("s") as session:
            assert session.lease is not None
            held = session.lease
            held.check()
            session["n"] = 1
            monkeypatch.setattr(executor, "run", lambda call: watched(run, call))
            monkeypatch.setattr(executor, "save", lambda call: watched(save, call))
            if release:
                await session.release()
        monkeypatch.undo()
    async with guard.lock("x") as held:
        monkeypatch.setattr(executor, "run", lambda call: watched(run, call))
    assert len(seen) >= 3
    assert set(seen) == {0.0}
    await eventually(lambda: held.released, "it was released")
    with pytest.raises(SessionLockError, match="released already"):
        held.check()
