"""A lock alone on a quorum, for storage of your own: its fencing token is what the masters agree on, with no store."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest

from sessionlock import Lease, LeaseLost, LeasePolicy, QuorumNotReached, SessionGuard, StaleFencingToken, WaitTimedOut
from tests.harness.commands import CommandCounter, connect, done_of, fence_of, set_fence
from tests.harness.quorums import KEYS, QUICK, SID, Place, opened, until

pytestmark = pytest.mark.anyio

FLAGGED = LeasePolicy(on_lost="flag")


def fences(place: Place) -> list[int]:
    return [place.at(number).fence for number, master in enumerate(place.masters) if master.running]


def set_ahead(place: Place, master: int, by_us: int) -> None:
    """That master numbers its next grant so much higher than the others do; never lower than it has done."""
    with connect(place.masters[master].unix_url) as raw:
        ahead = place.at(master).now_us + by_us
        if ahead > fence_of(raw, KEYS.session):
            set_fence(raw, KEYS.session, ahead)
            raw.pexpire(KEYS.session, 60_000)


async def one_lock(guard: SessionGuard, **options: Any) -> int:
    async with guard.lock(SID, **{"wait": 10, **options}) as lease:
        return lease.fencing_token


@asynccontextmanager
async def counted(place: Place) -> AsyncIterator[list[CommandCounter]]:
    """The commands of each master, and of the store as the last one."""
    with ExitStack() as stack:
        yield [stack.enter_context(CommandCounter(server.unix_url)) for server in [*place.masters, place.store]]


async def arriving(masters: Any, calls: int) -> None:
    """So many calls wait for each connection that is being opened."""
    with anyio.fail_after(10):
        while any(len(master.connection.arriving) != calls for master in masters.all):
            await asyncio.sleep(0)  # a connection is opened faster than any pause ends


def before_the_fence_is_raised(
    guard: SessionGuard, monkeypatch: pytest.MonkeyPatch, happens: Callable[[str], None]
) -> list[str]:
    """The first time only; the token that it was to be raised for."""
    masters: Any = guard.runtime().executor.masters  # type: ignore[attr-defined]
    ask = masters.ask
    tokens: list[str] = []

    async def ask_late(call: Any, *args: Any) -> Any:
        if call.script == "raise_fence" and not tokens:
            tokens.append(call.token)
            happens(call.token)
        return await ask(call, *args)

    monkeypatch.setattr(masters, "ask", ask_late)
    return tokens


class TestRoundTrips:
    async def test_one_for_a_lock_with_its_fence(self, five: Place) -> None:
        """As all servers count them: one script at each master to acquire, one to release, and nothing at the store."""
        guard = five.guard()
        await one_lock(guard)
        await opened(guard)
        await until(five.is_free)
        async with counted(five) as ran:
            async with guard.lock(SID) as lease:
                await until(lambda: [server.script_calls for server in ran] == [1] * 5 + [0])
                assert fences(five) == [lease.fencing_token] * 5
            await until(lambda: [server.script_calls for server in ran] == [2] * 5 + [0])
        assert five.is_free()

    async def test_one_more_where_masters_number_differently(self, three: Place) -> None:
        guard = three.guard()
        await one_lock(guard)
        await until(three.is_free)
        set_ahead(three, 1, 3_000_000)
        three.masters[2].kill()
        async with guard.lock(SID) as lease:
            assert fences(three) == [lease.fencing_token] * 2
            assert lease.fencing_token > three.at(0).now_us + 2_000_000
        # Now they number alike again.
        await until(lambda: three.is_free([0, 1]))
        with ExitStack() as stack:
            ran = stack.enter_context(CommandCounter(three.masters[0].unix_url))
            await one_lock(guard)
            await until(lambda: ran.script_calls == 2)


class TestProposals:
    async def test_grow_and_follow_the_clocks(self, three: Place) -> None:
        """Above every clock but one that is far ahead; never the same twice, though a clock was set back a little."""
        guard = three.guard()
        masters: Any = guard.runtime().executor.masters  # type: ignore[attr-defined]
        assert masters.proposal() == 0, "no clock is known"
        while any(master.ahead_us is None for master in masters.all):
            await one_lock(guard)  # who answers after a majority tells its clock another time
        first = masters.proposal()
        assert all(0 < first - three.at(number).now_us + 20_000 < 100_000 for number in range(3))
        for master, by_us in zip(masters.all, (-200_000, -200_000, 10**15), strict=True):
            master.ahead_us += by_us
        assert first < masters.proposal() < first + 100_000
        for master in masters.all:
            master.ahead_us -= 10_000_000
        assert masters.proposal() < first, "what was set back far is not waited for"


class TestFences:
    async def test_grow_when_the_master_with_the_highest_dies(self, three: Place) -> None:
        """The token of the first holder is known to the master that the second one's majority shares with it."""
        first, second = three.guard(), three.guard()
        await one_lock(first)
        await until(three.is_free)
        set_ahead(three, 1, 5_000_000)
        three.masters[2].pause()
        token = await one_lock(first)
        three.masters[2].resume()
        three.masters[1].kill()
        assert await one_lock(second) > token

    @pytest.mark.slow
    async def test_grow_whatever_is_lost(self, five: Place) -> None:
        """Several nodes; counters run ahead at random, locks vanish from a minority, one master at a time hangs."""
        guards = [five.guard(lease=QUICK) for _ in range(3)]
        granted: list[int] = []
        until_then = time.monotonic() + 6

        async def work(guard: SessionGuard) -> None:
            while time.monotonic() < until_then:
                try:
                    async with guard.lock(SID, wait=10) as lease:
                        granted.append(lease.fencing_token)
                        await asyncio.sleep(random.uniform(0, 0.005))
                except (LeaseLost, WaitTimedOut):
                    continue

        async def trouble() -> None:
            while time.monotonic() < until_then:
                victim = random.randrange(5)
                five.masters[victim].pause()
                await asyncio.sleep(random.uniform(0, 0.3))
                five.masters[victim].resume()
                set_ahead(five, random.randrange(5), random.randrange(2_000_000))

        await asyncio.gather(trouble(), *(work(guard) for guard in guards for _ in range(2)))
        assert granted == sorted(set(granted))
        assert len(granted) > 50
        await until(five.is_free)

    async def test_a_majority_that_is_lost_before_it_agreed(self, three: Place, monkeypatch: Any) -> None:
        """Somebody came in between: what was won is given up, and the next try has a name of its own."""
        guard = three.guard()
        await one_lock(guard)
        await until(three.is_free)
        set_ahead(three, 0, 3_000_000)
        three.masters[2].kill()

        def come_between(token: str) -> None:
            three.at(0).client.delete(KEYS.lock)

        lost = before_the_fence_is_raised(guard, monkeypatch, come_between)
        async with guard.lock(SID) as lease:
            assert lost
            assert lost[0] not in three.holders()
            assert [lease.token] * 2 == three.holders()
        await until(lambda: three.is_free([0, 1]))

    async def test_a_majority_that_is_not_the_one_that_won(self, three: Place, monkeypatch: Any) -> None:
        """One of two masters lost the lock, and a third one granted it late, after somebody else had had it there."""
        guard = three.guard()
        await one_lock(guard)
        await until(three.is_free)
        set_ahead(three, 0, 3_000_000)
        raws = [three.at(number).client for number in range(3)]
        raws[2].set(KEYS.lock, "foreign", px=60_000)

        def come_between(token: str) -> None:
            raws[0].delete(KEYS.lock)
            raws[2].set(KEYS.lock, token, px=60_000)

        lost = before_the_fence_is_raised(guard, monkeypatch, come_between)
        async with guard.lock(SID) as lease:
            assert lost
            assert lease.token != lost[0]
        await until(three.is_free)


class TestHolding:
    @pytest.mark.slow
    async def test_the_store_is_not_needed(self, three: Place) -> None:
        """It may be down: the lock is taken, waited for, renewed and given up."""
        guard, other = three.guard(lease=QUICK), three.guard(lease=QUICK)
        for each in (guard, other):
            await one_lock(each)
        three.store.kill()
        async with guard.lock(SID) as lease:
            waiting = asyncio.create_task(one_lock(other))
            began = time.monotonic()
            while time.monotonic() < began + 2.5:
                assert lease.remaining() > 0
                await asyncio.sleep(0.05)
            assert not waiting.done()
        assert await waiting > lease.fencing_token
        three.store.start()
        await until(three.is_free)

    @pytest.mark.slow
    async def test_beside_a_session(self, three: Place) -> None:
        """Leases of both kinds are renewed in one call; the lock excludes the session of that name."""
        guard, other = three.guard(lease=QUICK), three.guard()
        async with guard.lock(SID) as lease, guard.session_lock("another") as session:
            with pytest.raises(WaitTimedOut):
                async with other.session_lock(SID, wait=2.5):
                    pass
            assert session.lease is not None
            assert [held.remaining() > 0 for held in (lease, session.lease)] == [True, True]
        async with other.session_lock(SID, wait=5):
            with pytest.raises(WaitTimedOut):
                await one_lock(guard, wait=0)

    async def test_taken_by_force(self, three: Place) -> None:
        """It is seen, and can be taken; its late end is told that somebody else has been there since."""
        holder, admin = three.guard(label="holder"), three.guard()
        await one_lock(holder)
        with pytest.raises(StaleFencingToken) as caught:
            async with holder.lock(SID, lease=FLAGGED) as lease:
                await until(lambda: fences(three) == [lease.fencing_token] * 3)
                seen = await admin.inspect(SID)
                assert seen.holder is not None
                assert (seen.holder.label, seen.holder.token) == ("holder", lease.token)
                assert seen.fencing_token == lease.fencing_token
                assert not await admin.force_release(SID, "another")
                assert await admin.force_release(SID, lease.token)
                later = await one_lock(admin)
        assert (caught.value.ours, caught.value.current) == (lease.fencing_token, later)
        await until(three.is_free)

    async def test_a_minority_that_lost_it(self, three: Place) -> None:
        async with three.guard().lock(SID):
            with connect(three.masters[1].unix_url) as raw:
                raw.delete(KEYS.lock)
        await until(three.is_free)

    async def test_masters_that_hang_at_the_end(self, three: Place) -> None:
        """A minority is not waited for. Of a majority it is not known, and said."""
        guard = three.guard(lease=LeasePolicy(ttl=60))
        await one_lock(guard)
        async with guard.lock(SID):
            three.masters[0].pause()
        with pytest.raises(QuorumNotReached, match="only 1 of 3 masters answered when the lock was given up"):
            async with guard.lock(SID) as lease:
                three.masters[1].pause()
        assert lease.released
        three.masters[0].resume()
        three.masters[1].resume()
        await until(three.is_free)

    async def test_cancelled_while_it_ends(self, three: Place) -> None:
        """The masters are told all the same."""
        guard = three.guard(lease=LeasePolicy(ttl=60))
        held: list[Lease] = []

        async def work() -> None:
            async with guard.lock(SID) as lease:
                held.append(lease)
                await asyncio.sleep(60)

        for after in (0.0, 0.0002, 0.001):
            task = asyncio.create_task(work())
            await until(lambda: bool(held))
            held.clear()
            task.cancel()
            await asyncio.sleep(after)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(three.is_free)

    async def test_given_up_while_the_connection_is_opened(self, three: Place) -> None:
        """The first request of a process is cancelled at once: its votes and their end arrive in that order."""
        for _ in range(10):
            guard = three.guard(lease=LeasePolicy(ttl=60))
            masters: Any = guard.runtime().executor.masters  # type: ignore[attr-defined]
            task = asyncio.create_task(one_lock(guard))
            await arriving(masters, 1)
            task.cancel()
            await arriving(masters, 2)  # the vote, and what gives it up
            with pytest.raises(asyncio.CancelledError):
                await task
            await arriving(masters, 0)
            await until(lambda: not any(master.debts.perhaps_here for master in masters.all))  # noqa: B023
            assert three.is_free()
            done = [done_of(three.at(number).client, KEYS.session) for number in range(3)]
            assert done == [b""] * 3, "what gives a vote up found none, and expects it still"
