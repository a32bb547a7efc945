"""The lock on a majority of independent masters, with real servers that are killed, paused and restarted empty."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import anyio
import pytest
import redis.asyncio

from sessionlock import LeaseLost, LeasePolicy, Quorum, QuorumNotReached, SessionGuard, StaleFencingToken, WaitTimedOut
from sessionlock.protocol.keys import keys_for
from tests.harness.choice import by_default
from tests.harness.cluster import Cluster
from tests.harness.commands import CommandCounter, connect
from tests.harness.proxy import FaultyProxy
from tests.harness.quorums import KEYS, QUICK, SID, Place, count, until
from tests.harness.scripts import calls_of

pytestmark = pytest.mark.anyio

FORGOTTEN = LeasePolicy(ttl=3.0, renew=False, on_lost="flag")
Waited = Callable[[Callable[[], bool]], Any]


class TestOneAtATime:
    async def test_a_cycle(self, three: Place) -> None:
        """The lock is at the masters and at the store under one token, and at the end nowhere."""
        guard = three.guard()
        async with guard.session_lock(SID) as session:
            session["n"] = 1
            assert session.lease is not None
            assert three.holders() == [session.lease.token] * 3
            assert three.stored.lock == session.lease.token
            assert 9 < session.lease.remaining() <= 10
        await until(three.is_free)
        assert three.stored.data == {"n": 1}

    async def test_counting(self, three: Place) -> None:
        """Two nodes, eight tasks each: nothing is lost, fences grow."""
        guards = [three.guard(), three.guard()]
        done = await asyncio.gather(*(count(guard, 10, wait=15) for guard in guards for _ in range(8)))
        assert sum(done) == 160
        assert three.stored.data == {"n": 160}
        await until(three.is_free)

    async def test_a_waiter_is_pushed_its_votes(self, three: Place) -> None:
        """Not by looking: the policy would have it look in a minute."""
        from tenacity import stop_after_delay, wait_fixed

        from sessionlock import WaitPolicy

        patient = WaitPolicy(stop=stop_after_delay(15), wait=wait_fixed(60))
        first, second = three.guard(), three.guard(lease=LeasePolicy(ttl=30, claim=20))
        async with first.session_lock(SID) as session:
            session["n"] = 1
            waiting = asyncio.create_task(count(second, 1, wait=patient))
            await until(lambda: all(len(three.at(number).waiting) == 1 for number in range(3)))
        before = time.monotonic()
        assert await waiting == 1
        assert time.monotonic() - before < 5
        assert three.stored.data == {"n": 2}

    async def test_who_does_not_wait(self, three: Place) -> None:
        """Is told who holds it, and leaves nothing."""
        first, second = three.guard(label="node-1"), three.guard()
        async with first.session_lock(SID):
            with pytest.raises(WaitTimedOut) as caught:
                async with second.session_lock(SID, wait=0):
                    pass
            assert caught.value.holder == "node-1"
            assert [three.at(number).waiting for number in range(3)] == [[]] * 3

    async def test_a_long_body(self, three: Place) -> None:
        """Renewed at the masters and at the store."""
        guard, other = three.guard(lease=QUICK), three.guard(lease=QUICK)
        async with guard.session_lock(SID) as session:
            began = time.monotonic()
            while time.monotonic() < began + 2.5:
                with pytest.raises(WaitTimedOut):
                    async with other.session_lock(SID, wait=0.2):
                        pass
                assert session.lease is not None
                assert session.lease.remaining() > 0
            session["n"] = 1
        assert three.stored.data == {"n": 1}

    async def test_only_the_lock(self, three: Place) -> None:
        async with three.guard().lock("name") as first:
            pass
        async with three.guard().lock("name") as second:
            assert second.fencing_token > first.fencing_token


class TestRoundTrips:
    async def test_uncontended(self, three: Place) -> None:
        """Each master: one script call to acquire, one to release; the store: install and release."""
        guard = three.guard()
        await count(guard, 3)
        await until(three.is_free)
        with ExitStack() as stack:
            at_masters = [stack.enter_context(CommandCounter(master.unix_url)) for master in three.masters]
            at_store = stack.enter_context(CommandCounter(three.store.unix_url))
            async with guard.session_lock(SID) as session:
                await until(lambda: [ran.script_calls for ran in at_masters] == [1] * 3)
                assert at_store.script_calls == 1
                session["n"] = 7
            assert at_store.script_calls == 2
            await until(lambda: [ran.script_calls for ran in at_masters] == [2] * 3)
            for _ in range(20):
                async with guard.session_lock(SID):
                    pass
            await until(lambda: [ran.script_calls for ran in at_masters] == [42] * 3)
            assert at_store.script_calls == 42
            assert {ran[name] for ran in at_masters for name in ("eval", "ping", "set")} == {0, 21}, "the scripts' own"


class TestMastersThatFail:
    async def test_two_of_five_killed(self, five: Place) -> None:
        """While they are counting; all that is acknowledged is there."""
        guards = [five.guard(), five.guard()]
        counting = [asyncio.create_task(count(guard, 40, wait=10)) for guard in guards for _ in range(3)]
        await until(lambda: five.stored.version > 20)
        five.masters[0].kill()
        five.masters[3].kill()
        done = sum(await asyncio.gather(*counting))
        assert five.stored.data == {"n": done}
        assert done >= 200

    async def test_three_of_five_killed(self, five: Place) -> None:
        """No majority: refused, with what each one said, and soon."""
        guard = five.guard(retry_for=0.3)
        await count(guard, 1)
        for number in (0, 2, 4):
            five.masters[number].kill()
        with pytest.raises(QuorumNotReached, match="fewer than 3 of 5 masters") as caught:
            async with guard.session_lock(SID, wait=5):
                pass
        answers = caught.value.answers
        assert len(answers) == 5
        assert sum("cannot be reached" in said for said in answers.values()) == 3
        assert set(answers) == {f"127.0.0.1:{master.port}/0" for master in five.masters}
        await until(lambda: five.is_free([1, 3]))
        five.masters[0].start()
        assert await count(five.guard(), 1, wait=10) == 1

    async def test_one_hangs(self, five: Place) -> None:
        """Nobody waits for it, also when they contend."""
        guards = [five.guard(), five.guard()]
        await asyncio.gather(*(count(guard, 2, wait=10) for guard in guards))
        five.masters[1].pause()
        try:
            began = time.monotonic()
            async with guards[0].session_lock(SID):
                pass
            assert time.monotonic() - began < 0.4, "reply_within is 0.5 s"
            done = await asyncio.gather(*(count(guard, 5, wait=15) for guard in guards for _ in range(4)))
            assert sum(done) == 40
            assert five.stored.data == {"n": 44}
        finally:
            five.masters[1].resume()
        await until(five.is_free)

    @pytest.mark.slow
    @pytest.mark.once
    async def test_calls_to_one_that_hangs_do_not_pile_up(self, three: Place) -> None:
        guard = three.guard()
        await count(guard, 1)
        executor: Any = guard.runtime().executor
        hung = executor.masters.all[2]
        three.masters[2].pause()
        try:
            owed = 0
            began = time.monotonic()
            while time.monotonic() < began + 1.5:
                assert await count(guard, 1) == 1
                owed = owed or (not hung.available and len(hung.debts.owed))
            openings = [task for task in asyncio.all_tasks() if "Connection._open" in repr(task)]
            assert len(openings) <= 4
            assert 0 < len(hung.debts.owed) == owed, "nothing more was asked of it"
        finally:
            three.masters[2].resume()
        await until(three.is_free, within=5)  # sooner than its leases end
        await until(lambda: not hung.debts.perhaps_here)

    @pytest.mark.slow
    @pytest.mark.once
    async def test_one_restarted_empty(self, three: Place) -> None:
        """It may have granted this lock before it forgot: it has no say until all such leases have ended."""
        await until(lambda: three.uptime(0) >= 4)
        async with three.held_by_the_last_two(three.guard(lease=FORGOTTEN)) as session:
            session["n"] = 1
            three.masters[2].kill()
            three.masters[2].restart(empty=True)
            newcomer = three.guard(three.quorum(rejoin_after="auto"), lease=FORGOTTEN, retry_for=60)
            with pytest.raises(WaitTimedOut):
                async with newcomer.session_lock(SID, wait=1):
                    raise AssertionError("two at once")
            assert session.lease is not None
            assert session.lease.remaining() > 0
        await until(lambda: three.at(1).lock is None)
        three.masters[1].pause()
        with pytest.raises(QuorumNotReached) as caught:
            async with three.guard(three.quorum(rejoin_after=60), retry_for=0.2).session_lock(SID, wait=2):
                pass
        said = list(caught.value.answers.values())
        assert [said[0].startswith("restarted"), "takes part again in" in said[2]] == [True, True]
        # In its time it votes again.
        assert await count(newcomer, 1, wait=15) == 1
        three.masters[1].resume()

    async def test_that_test_can_fail(self, three: Place) -> None:
        """Where a master that forgot is believed at once, two hold the lock; the store still lets only one save."""
        with pytest.raises(StaleFencingToken):
            async with three.held_by_the_last_two(three.guard(lease=FORGOTTEN)) as session:
                session["n"] = "old"
                three.masters[2].kill()
                three.masters[2].restart(empty=True)
                async with three.guard(three.quorum(rejoin_after=0)).session_lock(SID, wait=1) as other:
                    other["n"] = "new"
                    assert session.lease is not None
                    assert session.lease.remaining() > 0
        assert three.stored.data == {"n": "new"}


class TestWhatIsLeftBehind:
    async def test_a_minority_is_given_back(self, three: Place) -> None:
        """Another client has a majority by plain locks: what we got at the third is free again."""
        guard = three.guard(lease=QUICK)
        for number in (0, 1):
            with connect(three.masters[number].unix_url) as raw:
                raw.set(KEYS.lock, "foreign", px=60_000)
        with pytest.raises(WaitTimedOut) as caught:
            async with guard.session_lock(SID, wait=0.5):
                pass
        assert caught.value.holder == "another client"
        await until(lambda: three.at(2).free)
        assert [stored.waiting for stored in map(three.at, range(3))] == [[]] * 3
        with pytest.raises(WaitTimedOut):
            async with guard.session_lock(SID, wait=0):
                pass
        await until(lambda: three.at(2).free)

    async def test_split_votes(self, three: Place) -> None:
        """With one master dead, many at once: each round somebody gets both others, nothing comes to a standstill."""
        three.masters[2].kill()
        guards = [three.guard() for _ in range(4)]
        began = time.monotonic()
        done = await asyncio.gather(*(count(guard, 5, wait=20) for guard in guards for _ in range(2)))
        assert sum(done) == 40
        assert time.monotonic() - began < 15
        assert three.stored.data == {"n": 40}
        await until(lambda: three.is_free([0, 1]))

    @pytest.mark.slow
    @pytest.mark.parametrize("after", [0.0, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.02])
    async def test_cancelled_while_acquiring(self, three: Place, after: float) -> None:
        guard = three.guard()
        for warm in (False, True):
            if warm:
                await count(guard, 1)
            with anyio.move_on_after(after):
                async with guard.session_lock(SID):
                    await asyncio.sleep(after)
            await until(three.is_free, within=3)

    async def test_cancelled_while_waiting(self, three: Place) -> None:
        guard, other = three.guard(), three.guard()
        async with other.session_lock(SID):
            waiting = asyncio.create_task(count(guard, 1, wait=10))
            await until(lambda: all(len(three.at(number).waiting) == 1 for number in range(3)))
            waiting.cancel()
            await until(lambda: all(three.at(number).waiting == [] for number in range(3)))
        await until(three.is_free)

    @pytest.mark.slow
    async def test_a_master_that_hung_settles_later(self, three: Place) -> None:
        """What it was asked before it hung is undone when it is back, not after the lease."""
        guard = three.guard(lease=LeasePolicy(ttl=60))
        await count(guard, 1)
        three.masters[0].pause()
        await count(guard, 1)
        three.masters[0].resume()
        await until(lambda: three.at(0).free)
        three.masters[0].pause()
        for _ in range(40):
            await count(guard, 1)
            await asyncio.sleep(0.02)
        three.masters[0].resume()

        def settled() -> bool:
            return three.at(0).free

        deadline = time.monotonic() + 10
        while not settled():
            assert time.monotonic() < deadline
            await count(guard, 1)
            await asyncio.sleep(0.05)

    @pytest.mark.slow
    async def test_a_master_that_hung_settles_by_itself(self, three: Place) -> None:
        """It was asked for its vote, and given up; nobody asks anything any more. What it grants when it is back is
        given back nevertheless, not after the lease."""
        guard = three.guard(lease=LeasePolicy(ttl=60))
        await count(guard, 1)
        await until(three.is_free)
        executor: Any = guard.runtime().executor
        three.masters[0].pause()
        async with guard.session_lock(SID):
            await until(lambda: not executor.masters.all[0].available)
        three.masters[0].resume()
        await until(lambda: three.at(0).free)


class TestOthers:
    @pytest.mark.slow
    async def test_a_foreign_client_on_a_majority(self, three: Place) -> None:
        """Plain SET NX PX on the same key: excludes us until it lets go, and is excluded by us."""
        guard = three.guard()
        raws = [connect(master.unix_url) for master in three.masters]
        try:
            assert [raw.set(KEYS.lock, "foreign", nx=True, px=1_000) for raw in raws[:2]] == [True, True]
            began = time.monotonic()
            async with guard.session_lock(SID, wait=10):
                assert 0.9 < time.monotonic() - began < 2
                assert [raw.set(KEYS.lock, "foreign", nx=True, px=1_000) for raw in raws].count(True) == 0
        finally:
            for raw in raws:
                raw.close()

    async def test_on_a_minority_it_does_not_matter(self, three: Place) -> None:
        with connect(three.masters[1].unix_url) as raw:
            raw.set(KEYS.lock, "foreign", px=60_000)
            assert await count(three.guard(), 1, wait=1) == 1
            assert raw.get(KEYS.lock) == b"foreign"


class TestLateHolders:
    async def test_a_late_save(self, three: Place) -> None:
        """Its locks were lost and somebody else has loaded since: refused, with both fences."""
        lease = LeasePolicy(ttl=5, on_lost="flag", renew=False)
        old, new = three.guard(lease=lease), three.guard()
        with pytest.raises(StaleFencingToken) as caught:
            async with old.session_lock(SID) as session:
                session["n"] = "old"
                for master in three.masters:
                    with connect(master.unix_url) as raw:
                        raw.delete(KEYS.lock)
                async with new.session_lock(SID) as other:
                    other["n"] = "new"
        assert caught.value.current > caught.value.ours
        assert three.stored.data == {"n": "new"}

    @pytest.mark.slow
    async def test_a_late_load(self, three: Place) -> None:
        """It had a majority, was held up on its way to the store, and a later holder was there first."""
        new = three.guard()
        async with FaultyProxy(three.store.tcp_url) as proxy:
            quick = LeasePolicy(ttl=0.4, claim=0.4, renew=False, on_lost="flag")
            late = SessionGuard.from_url(proxy.url, quorum=three.quorum(), lease=quick)
            async with late:
                held_up = proxy.hold_requests(calls_of("install"))
                waiting = asyncio.create_task(count(late, 1, wait=10))
                await held_up.wait()
                token = three.holders()[0]
                assert token is not None
                await until(lambda: token not in three.holders())
                async with new.session_lock(SID) as session:
                    session["n"] = 10
                    fence = three.stored.fence
                    assert await proxy.let_go() == 1
                    # Refused by the store, it queues again, under another name.
                    await until(lambda: len(three.at(0).waiting) == 1)
                    assert token not in three.at(0).waiting
                    assert session.lease is not None
                    assert three.stored.lock == session.lease.token
                    assert three.stored.fence == fence
                assert await waiting == 1
        assert three.stored.data == {"n": 11}

    @pytest.mark.slow
    @pytest.mark.parametrize("ahead", [1, 2])
    async def test_clocks_set_back(self, three: Place, ahead: int) -> None:
        """The store saw counters an hour ahead: of one master, which the others outvote; of two, and that is told."""
        guard = three.guard()
        await count(guard, 1)
        with connect(three.store.unix_url) as raw:
            seen = {}
            for one in str(raw.hget(KEYS.session, "#vector"), "ascii").split():
                name, _, counter = one.partition(":")
                seen[name] = int(counter)
            names = [master.name for master in guard.runtime().executor.masters.all]  # type: ignore[attr-defined]
            for name in names[:ahead]:
                seen[name] = seen.get(name, three.at(0).fence) + 3_600_000_000
            raw.hset(KEYS.session, "#vector", " ".join(f"{name}:{counter}" for name, counter in seen.items()))
        if ahead == 1:
            assert await count(guard, 5, wait=5) == 5
            return
        with CommandCounter(three.masters[0].unix_url) as ran, pytest.raises(WaitTimedOut, match="clock was"):
            async with guard.session_lock(SID, wait=0.5):
                pass
        assert ran.script_calls < 300
        await until(three.is_free)

    @pytest.mark.slow
    async def test_a_master_that_cannot_be_connected(self, three: Place) -> None:
        """What the application's own part of connecting raises is that master's silence, and ends no wait."""

        class Broken(redis.CredentialProvider):
            def get_credentials(self) -> Any:
                raise RuntimeError("no token today")

        clients = [redis.asyncio.Redis.from_url(master.tcp_url) for master in three.masters]
        for client in clients[:2]:
            client.connection_pool.connection_kwargs["credential_provider"] = Broken()
        guard = three.guard(Quorum(clients, rejoin_after=0), retry_for=0.3)
        with pytest.raises(QuorumNotReached, match="no token today"):
            async with guard.session_lock(SID, wait=5):
                pass
        await guard.aclose()
        for client in clients:
            await client.aclose()

    async def test_force_release(self, three: Place) -> None:
        """Once, though the masters hear of it later than the store; they are free, and the late save is refused."""
        holder, admin, next_one = three.guard(label="holder"), three.guard(), three.guard()
        with pytest.raises(LeaseLost):
            async with holder.session_lock(SID, lease=LeasePolicy(on_lost="flag")) as session:
                session["n"] = 1
                seen = await admin.inspect(SID)
                assert seen.holder is not None
                assert seen.holder.label == "holder"
                token = seen.holder.token
                assert await admin.force_release(SID, token)
                assert sum(await asyncio.gather(*(admin.force_release(SID, token) for _ in range(10)))) == 0
                assert await count(next_one, 1, wait=1) == 1
        assert three.stored.data == {"n": 1}

    async def test_force_release_of_a_foreign_lock(self, three: Place) -> None:
        admin = three.guard()
        for master in three.masters:
            with connect(master.unix_url) as raw:
                raw.set(KEYS.lock, "foreign", px=60_000)
        seen = await admin.inspect(SID)
        assert seen.holder is not None
        assert (seen.holder.token, seen.holder.age) == ("foreign", None)
        assert await admin.force_release(SID, "foreign")
        assert await count(admin, 1, wait=1) == 1

    async def test_inspect_shows_the_waiters(self, three: Place) -> None:
        first, second, third = (three.guard(label=f"node-{number}") for number in range(3))
        async with first.session_lock(SID):
            waiting = asyncio.create_task(count(second, 1, wait=10))
            await until(lambda: all(len(three.at(number).waiting) == 1 for number in range(3)))
            more = asyncio.create_task(count(third, 1, wait=10))
            await until(lambda: all(len(three.at(number).waiting) == 2 for number in range(3)))
            assert (await first.inspect(SID)).waiters == ("node-1", "node-2")
        assert await waiting + await more == 2


class TestRenewal:
    async def test_a_majority_that_is_gone(self, three: Place) -> None:
        """Two masters forget the lock: the lease is lost at the next renewal."""
        guard = three.guard(lease=QUICK)
        with pytest.raises(LeaseLost):
            async with guard.session_lock(SID):
                for number in (0, 1):
                    with connect(three.masters[number].unix_url) as raw:
                        raw.delete(KEYS.lock)
                await asyncio.sleep(5)
                raise AssertionError("not told")

    @pytest.mark.slow
    async def test_a_minority_that_is_gone(self, three: Place) -> None:
        """One dead and nothing lost; with a second one dead it cannot be renewed any more."""
        guard = three.guard(lease=QUICK)
        began = time.monotonic()
        with pytest.raises(LeaseLost):
            async with guard.session_lock(SID):
                three.masters[0].kill()
                await asyncio.sleep(1.5)
                began = time.monotonic()
                three.masters[1].kill()
                await asyncio.sleep(5)
                raise AssertionError("not told")
        assert time.monotonic() - began < 1.5

    @pytest.mark.slow
    async def test_many_leases_at_once(self, three: Place) -> None:
        """One that was lost does not take the others with it."""
        guard = three.guard(lease=QUICK)
        lost: list[str] = []

        async def hold(sid: str) -> None:
            try:
                async with guard.session_lock(sid):
                    await asyncio.sleep(2)
            except LeaseLost:
                lost.append(sid)

        holding = [asyncio.create_task(hold(f"s{number}")) for number in range(5)]
        keys = keys_for("sl", "s3")
        for master in three.masters[:2]:
            with connect(master.unix_url) as raw:
                await until(lambda: raw.get(keys.lock) is not None)
                raw.delete(keys.lock)
        await asyncio.gather(*holding)
        assert lost == ["s3"]


class TestTheStore:
    async def test_may_be_a_cluster(self, three: Place, cluster: Cluster) -> None:
        """Its script's keys lie in one slot; each session where its slot is."""
        sids = [f"session {number}" for number in range(6)]
        guards = [SessionGuard.from_url(cluster.url, quorum=three.quorum()) for _ in range(2)]
        for guard in guards:
            three.guards.push_async_callback(guard.aclose)

        async def add(guard: SessionGuard, sid: str) -> None:
            for _ in range(3):
                async with guard.session_lock(sid, wait=15) as session:
                    session["n"] = session.get("n", 0) + 1

        await asyncio.gather(*(add(guard, sid) for guard in guards for sid in sids))
        assert [(await guards[0].read(sid))["n"] for sid in sids] == [6] * 6

    async def test_cannot_be_a_master(self, three: Place) -> None:
        with pytest.raises(ValueError, match="cannot be a master"):
            SessionGuard.from_url(three.masters[0].tcp_url, quorum=three.quorum())


class TestConfiguration:
    @pytest.mark.parametrize("masters", [[], ["redis://a"], ["redis://a", "redis://b"], ["redis://a"] * 3])
    def test_too_few(self, masters: list[str]) -> None:
        with pytest.raises(ValueError, match=r"3 to 15 independent|named twice"):
            SessionGuard.from_url("redis://store", quorum=Quorum(*masters))

    def test_names_do_not_depend_on_the_order(self) -> None:
        from sessionlock.quorum.config import master_name
        from sessionlock.urls import client_from_url

        urls = ["redis://a", "redis://b:7000/2", "unix:///c"]
        one, _ = Quorum(*urls).connected(client_from_url)
        other, _ = Quorum(list(reversed(urls))).connected(client_from_url)
        assert set(map(master_name, one.masters)) == set(map(master_name, other.masters))
        assert set(one.masters) == {"a:6379/0", "b:7000/2", "/c/0"}
        named, _ = Quorum({"one": urls[0], "two": urls[1], "three": urls[2]}).connected(client_from_url)
        assert set(named.masters) == {"one", "two", "three"}

    async def test_clients(self, three: Place) -> None:
        """Of the application's own, which the guard does not close."""
        clients = [redis.asyncio.Redis.from_url(master.tcp_url, **by_default(master)) for master in three.masters]
        guard = three.guard(Quorum(clients, rejoin_after=0))
        assert await count(guard, 1) == 1
        await guard.aclose()
        for client in clients:
            assert await client.ping()
            await client.aclose()
