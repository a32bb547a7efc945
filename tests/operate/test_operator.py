"""What an operator sees of locks and sessions is what there is; what he does has its effect and no other."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable

import pytest
from cryptography.fernet import Fernet
from redis.asyncio import Redis

from sessionlock import (
    CodecError,
    ConfigurationError,
    LeaseLost,
    RedisUnavailable,
    SessionDestroyed,
    SessionGuard,
    SessionPolicy,
)
from sessionlock.codecs.base import default_codec
from sessionlock.codecs.fernet import FernetCodec
from sessionlock.operate import Board, Operator
from sessionlock.protocol.keys import keys_for, keys_of_record, new_sid, user_digest, user_key
from tests.harness.cluster import Cluster
from tests.harness.commands import connect
from tests.harness.deployments import MakeGuard
from tests.harness.faulty import FaultyServer
from tests.harness.quorums import Place
from tests.operate.queueing import waiting

pytestmark = pytest.mark.anyio

SID = "a-session-that-is-looked-at"
DIGEST = keys_for("sl", SID).digest


@pytest.fixture
async def operator(redis_url: str) -> AsyncIterator[Operator]:
    async with Operator.from_url(redis_url) as operator:
        yield operator


async def test_holder_and_waiters_are_told(operator: Operator, node: MakeGuard) -> None:
    async with node(label="n1").session_lock(SID, label="POST /cart") as session:
        async with waiting(node, SID, label="GET /"):
            [lock] = (await operator.locks()).locks
        assert session.lease is not None
        assert (lock.digest, lock.queue, lock.fence) == (DIGEST, 1, session.lease.fencing_token)
        assert lock.holder is not None
        assert (lock.holder.node, lock.holder.route) == ("n1", "POST /cart")
        assert lock.holder.token == session.lease.token
        assert (lock.holder.held_for or -1) >= 0
        assert 0 < (lock.holder.lease_left or 0) <= 10
        assert [(one.node, one.route) for one in lock.waiters] == [("n2", "GET /")]
        assert 0 < lock.longest_wait <= (lock.holder.held_for or 0)


async def test_locks_are_sorted_by_what_matters(operator: Operator, node: MakeGuard, redis_url: str) -> None:
    """Longest held first; longest queue first; a lock of a foreign client is seen, and says nothing of itself."""
    guard, sids = node(), [new_sid() for _ in range(3)]
    async with guard.session_lock(sids[0]), guard.session_lock(sids[1]), waiting(node, sids[1], label="GET /"):
        with connect(redis_url) as client:
            client.set(guard.lock_key(sids[2]), "theirs", px=5000)
        locks = await operator.locks()
        digests = [keys_for("sl", sid).digest for sid in sids]
        assert [lock.digest for lock in locks.longest_held] == [digests[2], digests[0], digests[1]]
        assert [lock.digest for lock in locks.longest_queues] == [digests[1]]
        foreign = locks.longest_held[0].holder
        assert foreign is not None
        assert (foreign.token, foreign.node, foreign.held_for) == ("theirs", "", None)
        assert locks.share == 1.0
        assert locks.keys >= 6


async def test_a_search_that_ends_early_tells_how_far_it_came(operator: Operator, redis_url: str) -> None:
    with connect(redis_url) as client:
        client.mset({f"other:{number}": "" for number in range(3000)})
    locks = await operator.locks(within=0)
    assert not locks.locks
    assert 0 < locks.share < 1
    assert (await operator.locks()).share == 1.0


async def test_nothing_of_another_application_is_taken_for_a_session(operator: Operator, redis_url: str) -> None:
    with connect(redis_url) as client:
        client.hset("sl:{tooshort}:session", "a", "b")
        client.hset(f"other:{{{DIGEST}}}:session", "a", "b")
        client.set(f"sl:{{{DIGEST}}}:session", "no hash")
        client.set(f"sl:{{{DIGEST}}}:lock", "held", px=5000)
    assert not (await operator.locks()).locks
    counted = await operator.count()
    assert counted.records == 1
    assert counted.live == 0


async def test_sessions_are_counted_and_weighed(operator: Operator, guard: SessionGuard, redis_url: str) -> None:
    for number in range(20):
        await guard.create({"n": number, "text": "x" * 100 * number})
    gone = await guard.create({"n": 0})
    await guard.destroy(gone.sid)
    async with guard.lock("a lock leaves a shell"):
        pass
    counted = await operator.count(sample=1000)
    assert (counted.live, counted.destroyed, counted.shells) == (20, 1, 1)
    assert counted.sizes[0] < 1500 < counted.sizes[-1] == counted.largest[0].bytes
    assert counted.bytes == sum(counted.sizes)
    assert all(0 <= age < 60 for age in counted.ages)
    assert len(counted.ages) == 20
    assert {state.keys for state in counted.largest} == {2}
    part = await operator.count(sample=5)
    assert part.sampled == 5
    assert part.records == 22


async def test_one_session_is_inspected(operator: Operator, guard: SessionGuard) -> None:
    session = await guard.create({"n": 1, "#own": 2}, session=SessionPolicy(idle=600, absolute=1000))
    await guard.bind(session.sid, "ada")
    seen = await operator.inspect(operator.digest(session.sid))
    assert seen.known
    assert seen.session.exists
    assert not seen.session.destroyed
    assert (seen.session.keys, seen.session.user) == (2, user_digest("ada"))
    assert 590 < (seen.session.expires_in or 0) <= 600
    assert 990 < (seen.session.ends_in or 0) <= 1000
    assert seen.lock.holder is None
    assert not (await operator.inspect(DIGEST)).known


async def test_a_session_is_named_by_digest_key_or_id(operator: Operator) -> None:
    assert {operator.digest(name) for name in (SID, DIGEST, f"sl:{{{DIGEST}}}:lock")} == {DIGEST}
    assert operator.digest(DIGEST, is_id=True) != DIGEST
    for wrong in ("", DIGEST.upper(), "*" * 14, SID):
        with pytest.raises(ConfigurationError, match="14 characters"):
            await operator.inspect(wrong)


async def test_keys_are_told_and_values_on_demand(operator: Operator, guard: SessionGuard) -> None:
    data = {"#own": 1, "cart": ["A"], **{f"k{number}": "x" * number for number in range(300)}}
    digest = (await guard.create(data)).digest
    fields = await operator.fields(digest)
    assert [field.key for field in fields] == sorted(data)
    assert {field.key: field.bytes for field in fields}["k10"] == len('"xxxxxxxxxx"')
    assert await operator.values(digest, ["#own", "cart", "not there"]) == {"#own": 1, "cart": ["A"]}


async def test_values_are_read_by_the_guards_codec(redis_url: str, node: MakeGuard) -> None:
    codec = FernetCodec(default_codec(), Fernet.generate_key())
    guard = node(codec=codec, prefix="shop")
    digest = (await guard.create({"secret": "s"})).digest
    async with Operator.of(guard) as operator:
        assert await operator.values(digest, ["secret"]) == {"secret": "s"}
    async with Operator.from_url(redis_url, prefix="shop") as without:
        with pytest.raises(CodecError):
            await without.values(digest, ["secret"])


async def test_a_users_sessions_end_together(operator: Operator, guard: SessionGuard) -> None:
    theirs = [await guard.create({"n": number}) for number in range(3)]
    other = await guard.create({})
    for session in theirs:
        await guard.bind(session.sid, "ada")
    assert {state.digest for state in await operator.sessions_of("ada")} == {session.digest for session in theirs}
    assert await operator.sessions_of("nobody") == ()
    assert await operator.destroy_all("ada") == 3
    assert await guard.sessions_of("ada") == []
    with pytest.raises(SessionDestroyed):
        await guard.read(theirs[0].sid)
    assert await guard.read(other.sid) is not None


async def test_a_stale_entry_of_the_index_is_nobodys_session(
    operator: Operator, guard: SessionGuard, redis_url: str
) -> None:
    """Who was bound before is not logged out with whom the session belongs to no more."""
    session = await guard.create({})
    await guard.bind(session.sid, "grace")
    with connect(redis_url) as client:
        client.zadd(user_key("sl", user_digest("ada")), {session.digest: 0})
    assert await operator.sessions_of("ada") == ()
    assert await operator.destroy_all("ada") == 0
    assert len(await operator.sessions_of("grace")) == 1


async def test_release_takes_the_lock_from_whom_was_seen(operator: Operator, guard: SessionGuard) -> None:
    with pytest.raises(LeaseLost):
        async with guard.session_lock(SID) as session:
            session["n"] = 1
            holder = (await operator.inspect(DIGEST)).lock.holder
            assert holder is not None
            assert not await operator.release(DIGEST, "somebody else")
            assert await operator.release(DIGEST, holder.token)
            assert not await operator.release(DIGEST, holder.token)
    assert not (await operator.locks()).locks


async def test_a_cluster_is_seen_as_one(cluster: Cluster, node: MakeGuard) -> None:
    """Locks at all masters, and each session at its own."""
    guard = node(cluster.url, label="n1")
    sids = [new_sid() for _ in range(12)]
    digests = {guard.keys_of(sid).digest for sid in sids}
    assert len({cluster.master_of(guard.keys_of(sid).lock).name for sid in sids}) > 1
    async with Operator.from_url(cluster.url) as operator, guard.session_lock(sids[0]), guard.session_lock(sids[1]):
        for sid in sids[2:]:
            await guard.create({"n": 1}, sid=sid)
            await guard.bind(sid, "ada")
        async with waiting(node, sids[1], cluster.url, label="GET /"):
            locks = await operator.locks()
        assert {lock.digest for lock in locks.locks} == {guard.keys_of(sid).digest for sid in sids[:2]}
        assert [lock.digest for lock in locks.longest_queues] == [guard.keys_of(sids[1]).digest]
        assert {state.digest for state in (await operator.count()).sample} == digests
        assert len(await operator.sessions_of("ada")) == 10
        assert await operator.destroy_all("ada") == 10


async def test_what_a_slot_on_its_way_holds_is_seen(cluster: Cluster, node: MakeGuard) -> None:
    """A key that has gone ahead of its slot is asked for where it is, and one that is nowhere is nowhere."""
    guard, sid = node(cluster.url), new_sid()
    keys = guard.keys_of(sid)
    async with Operator.from_url(cluster.url) as operator:
        await guard.create({"n": 1}, sid=sid)
        await guard.bind(sid, "ada")
        slot, source = cluster.raw_for(keys.session).cluster("KEYSLOT", keys.session), cluster.master_of(keys.session)
        to = next(one for one in cluster.masters if one is not source)
        await cluster.begin_migration(slot, to)
        try:
            for moved in (False, True):
                if moved:
                    cluster.move_keys(slot, source, to)
                seen = await operator.inspect(keys.digest)
                assert seen.session.exists
                assert seen.lock.holder is None
                assert [state.digest for state in await operator.sessions_of("ada")] == [keys.digest]
                assert [field.key for field in await operator.fields(keys.digest)] == ["n"]
                assert await operator.values(keys.digest, ["n"]) == {"n": 1}
                assert keys.digest in {state.digest for state in (await operator.count()).sample}
        finally:
            await cluster.finish_migration(slot, source, to)
        assert (await operator.inspect(keys.digest)).session.exists  # it is MOVED now
        assert await operator.destroy_all("ada") == 1


async def test_a_node_of_a_cluster_is_not_taken_for_all_of_it(cluster: Cluster, node: MakeGuard) -> None:
    """To find nothing would be a false all-clear: by redis:// what other nodes have is not to be seen."""
    guard, sid = node(cluster.url), new_sid()
    keys = guard.keys_of(sid)
    await guard.create({"n": 1}, sid=sid)
    other = next(one for one in cluster.masters if one is not cluster.master_of(keys.session))
    async with Operator.from_url(other.tcp_url) as operator:
        for look in (operator.inspect, operator.fields, lambda digest: operator.values(digest, ["n"])):
            with pytest.raises(RedisUnavailable, match=r"use redis\+cluster://"):
                await look(keys.digest)
        for states in (operator.lock_states, operator.session_states):
            with pytest.raises(RedisUnavailable, match=r"use redis\+cluster://"):
                await states([keys.digest])
        for search in (operator.locks, operator.count):
            with pytest.raises(RedisUnavailable, match=r"use redis\+cluster://"):
                await search()


async def test_whoever_can_be_logged_out_is(cluster: Cluster, node: MakeGuard) -> None:
    """Where the slot of one is on its way, the others are not left alone for that; and what remains is said."""
    guard, sids = node(cluster.url), [new_sid() for _ in range(5)]
    for sid in sids:
        await guard.create({"n": 1}, sid=sid)
        await guard.bind(sid, "ada")
    async with Operator.from_url(cluster.url, reply_within=1.0) as operator:
        stuck = (await operator.sessions_of("ada"))[0]  # the first that is ended
        keys = keys_of_record("sl", stuck.digest)
        slot, source = cluster.raw_for(keys.session).cluster("KEYSLOT", keys.session), cluster.master_of(keys.session)
        to = next(one for one in cluster.masters if one is not source)
        source.raw.set(keys.lock, "somebody's", px=600_000)
        await cluster.begin_migration(slot, to)
        try:
            source.ask("MIGRATE", "127.0.0.1", to.port, keys.session, 0, 5000)
            with pytest.raises(RedisUnavailable, match=r"4 of 5 sessions were ended, 1 may live on: .*TRYAGAIN"):
                await operator.destroy_all("ada")
        finally:
            await cluster.finish_migration(slot, source, to)
        assert await operator.destroy_all("ada") == 1


async def test_a_guard_that_nobody_else_keeps(redis_url: str) -> None:
    """The operator keeps it: what it opened would end with it, and every act be cancelled."""
    async with Operator.of(SessionGuard.from_url(redis_url)) as operator:
        gc.collect()
        assert await operator.release(DIGEST, "nobody's") is False
        assert await operator.destroy(DIGEST) is False


async def test_a_quorums_locks_are_told_by_its_masters(three: Place) -> None:
    """Never "nobody" because the store does not know; one master that is away hides none of them."""
    guard = three.guard(label="n1")
    async with guard.lock(SID, label="nightly"), Operator.of(guard) as operator:
        holder = (await operator.inspect(DIGEST)).lock.holder
        assert holder is not None
        assert (holder.node, holder.route) == ("n1", "nightly")
        [lock] = (await operator.locks()).locks
        assert lock.digest == DIGEST
        assert lock.holder is not None
        assert lock.holder.token == holder.token
        three.masters[0].kill()  # most of them are enough
        assert [lock.digest for lock in (await operator.locks()).locks] == [DIGEST]
        assert [lock.digest for lock in (await Board(operator).look()).locks.locks] == [DIGEST]
        async with Operator.from_url(three.masters[1].tcp_url) as master:
            assert [lock.digest for lock in (await master.locks()).locks] == [DIGEST]


async def test_a_client_that_decodes_is_as_good(redis_url: str, guard: SessionGuard) -> None:
    digest = (await guard.create({"n": 1})).digest
    client = Redis.from_url(redis_url, decode_responses=True, protocol=3)
    async with Operator(client) as operator, guard.session_lock(SID):
        assert await operator.values(digest, ["n"]) == {"n": 1}
        assert [lock.digest for lock in (await operator.locks()).locks] == [DIGEST]
        assert [field.key for field in await operator.fields(digest)] == ["n"]
    await client.aclose()


async def test_looking_needs_no_scripts_and_writes_nothing(redis_url: str, guard: SessionGuard) -> None:
    """A user who may only read sees everything; what he may not do is an error with what to do, never "nobody"."""
    with connect(redis_url) as client:
        client.acl_setuser("looker", enabled=True, passwords=["+pw"], keys=["sl:*"], commands=["+@read", "+time"])
        client.acl_setuser("blind", enabled=True, passwords=["+pw"], keys=["sl:*"], commands=["+scan", "+time"])
    try:
        async with guard.session_lock(SID) as session:
            session["n"] = 1
            for user, sees in (("looker", True), ("blind", False)):
                client_of = Redis.from_url(redis_url, username=user, password="pw")
                async with Operator(client_of) as operator:
                    if sees:
                        assert (await operator.inspect(DIGEST)).lock.holder is not None
                        assert len((await operator.locks()).locks) == 1
                        assert (await operator.count()).records == 1
                        with pytest.raises(RedisUnavailable, match="ACL SETUSER"):
                            await operator.release(DIGEST, "token")
                    else:
                        with pytest.raises(RedisUnavailable, match="permit that command"):
                            await operator.inspect(DIGEST)
                        with pytest.raises(RedisUnavailable, match="permit that command"):
                            await operator.locks()
                await client_of.aclose()
    finally:
        with connect(redis_url) as client:
            client.acl_deluser("looker", "blind")


async def test_a_server_with_a_password_tells_what_to_do(own_server: Callable[..., FaultyServer]) -> None:
    server = own_server(config={"requirepass": "s3cret"})
    async with Operator.from_url(server.unix_url) as operator:
        with pytest.raises(RedisUnavailable, match="the server wants a password"):
            await operator.locks()
