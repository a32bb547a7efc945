"""A guard looks at its server once, beside its requests; an unfit one is refused with the reason."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import anyio
import pytest
import redis.asyncio

from sessionlock import LeasePolicy, Quorum, QuorumNotReached, RedisUnavailable, ScriptsForbidden, SessionGuard
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.embedded import find_server
from sessionlock.lock.one_store import OneStore
from sessionlock.protocol.keys import keys_for
from tests.harness.cluster import Cluster
from tests.harness.commands import CommandCounter, as_user, connect
from tests.harness.faulty import FaultyServer
from tests.harness.polling import eventually

pytestmark = pytest.mark.anyio

OwnServer = Callable[..., FaultyServer]


async def looked(guard: SessionGuard) -> None:
    store = guard.runtime().topology
    assert isinstance(store, OneStore)
    await eventually(lambda: store.vetting.checkup.known() is not None, "the server was looked at")


async def test_once_per_process_and_then_never_again(redis_url: str) -> None:
    async with SessionGuard.from_url(redis_url, check=True) as guard:
        async with guard.session_lock("s"):
            pass
        await looked(guard)
        with CommandCounter(redis_url) as ran:
            for _ in range(3):
                async with guard.session_lock("s"):
                    pass
            async with SessionGuard.from_url(redis_url, check=True) as another, another.session_lock("s"):
                pass
        assert (ran["info"], ran["eval"], ran["config|get"], ran.script_calls) == (0, 0, 0, 8)


def test_once_for_all_event_loops(redis_url: str) -> None:
    """One after the other, as ``asyncio.run`` makes them, each for one request; and another thread's."""

    async def request() -> None:
        async with SessionGuard.from_url(redis_url, check=True) as guard, guard.session_lock("s"):
            pass

    with CommandCounter(redis_url) as ran:
        for _ in range(20):
            asyncio.run(request())
        with BlockingGuard(SessionGuard.from_url(redis_url, check=True)) as blocking, blocking.session_lock("s"):
            pass
    assert ran["info"] == 1


async def test_not_at_all(redis_url: str) -> None:
    with CommandCounter(redis_url) as ran:
        async with SessionGuard.from_url(redis_url, check=False) as guard, guard.session_lock("s"):
            pass
        assert (ran["info"], ran["config|get"], ran["waitaof"]) == (0, 0, 0)


async def test_it_needs_no_connection_of_its_own(own_server: OwnServer) -> None:
    own = own_server()
    async with SessionGuard.from_url(own.unix_url, check=True) as guard:
        async with guard.session_lock("s"):
            pass
        await looked(guard)
        with connect(own.unix_url) as client:
            assert len(client.client_list()) == 2  # the guard's, and this one


async def test_warnings_are_logged_once(own_server: OwnServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "sessionlock")
    own = own_server(config={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})
    for _ in range(2):
        async with SessionGuard.from_url(own.unix_url, check=True) as guard:
            async with guard.session_lock("s"):
                pass
            await eventually(lambda: len(caplog.records) >= 1, "it is logged")
    assert len(caplog.records) == 1
    assert "allkeys-lru" in caplog.messages[0]


async def test_ready_is_who_may_all_that_is_needed(own_server: OwnServer) -> None:
    """Told before the first request, whose handler would run in vain; once, for nothing is asked again."""
    own = own_server()
    if own.version < (7,):
        pytest.skip("rules for channels, and how scripts obey them, as they are from 7.0 on")
    url = own.unix_url.replace("unix://", "unix://app:p@")
    with connect(own.unix_url) as raw:
        for rule, fit in (("-del", False), ("+del", True)):  # a prefix is looked at anew
            raw.execute_command("ACL", "SETUSER", "app", "on", ">p", "~*", "&*", "+@all", rule)
            async with SessionGuard.from_url(url, check=True, prefix="fit" if fit else "unfit") as guard:
                if fit:
                    assert await guard.ready()
                    with CommandCounter(own.unix_url) as ran:
                        assert await guard.ready()
                    assert ran["info"] == 0
                else:
                    with pytest.raises(RedisUnavailable, match="may not use DEL"):
                        await guard.ready()
        raw.execute_command("ACL", "SETUSER", "app", "-@scripting")
        async with SessionGuard.from_url(url, check=True, prefix="third") as guard:
            assert await guard.ready()  # for the modes without a lock


async def test_the_first_requests_wait_for_the_look(own_server: OwnServer) -> None:
    """What their handlers work out would be lost at the save."""
    own = own_server()
    if own.version < (6, 0):
        pytest.skip("there are no users before 6.0")
    url = as_user(own.unix_url, "-del")

    async def request(guard: SessionGuard, sid: str) -> None:
        with pytest.raises(RedisUnavailable, match="may not use DEL"):
            async with guard.session_lock(sid):
                raise AssertionError("entered")

    async with SessionGuard.from_url(url, check=True) as guard:
        await asyncio.gather(*(request(guard, f"s{n}") for n in range(5)))


@pytest.mark.slow
async def test_an_unfit_server_is_refused_but_what_was_begun_ends(
    own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All slots of a cluster on one node: it would even work, until the first resharding. The look took too long for
    the first request to wait for it.
    """
    monkeypatch.setattr("sessionlock.transport.executor.LOOK_WITHIN", 0.0)
    own = own_server(tcp=True, config={"cluster-enabled": "yes"})
    with connect(own.unix_url) as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
        await eventually(lambda: client.cluster("info")["cluster_state"] == "ok", "the cluster is up")
    async with SessionGuard.from_url(own.tcp_url, check=True) as guard:
        async with guard.session_lock("s") as session:
            session["n"] = 1
            await looked(guard)
        with pytest.raises(RedisUnavailable, match=r"redis\+cluster://") as refused:
            async with guard.session_lock("s"):
                pass
        assert refused.value.refused


async def test_scripts_forbidden_leaves_the_modes_without_a_lock(own_server: OwnServer) -> None:
    own = own_server()
    if own.version < (6, 0):
        pytest.skip("there are no users before 6.0")
    async with SessionGuard.from_url(as_user(own.unix_url, "-@scripting"), check=True) as guard:
        for _ in range(2):
            async with guard.session_lock("s", mode="optimistic") as session:
                session["n"] = session.get("n", 0) + 1
            await looked(guard)
        assert (await guard.read("s"))["n"] == 2
        with pytest.raises(ScriptsForbidden):
            async with guard.session_lock("s"):
                pass


async def test_scripts_under_another_name_where_there_are_functions(own_server: OwnServer) -> None:
    own = own_server(config={"rename-command EVALSHA": "secret"} if find_server().version >= (7,) else None)
    if own.version < (7,):
        pytest.skip("there are no functions before 7.0")
    async with SessionGuard.from_url(own.unix_url, check=True) as guard:
        for _ in range(2):
            async with guard.session_lock("s") as session:
                session["n"] = 1
            await looked(guard)
        assert (await guard.capabilities()).scripts


async def test_a_hung_server_delays_nothing(own_server: OwnServer) -> None:
    """The look waits for its answer in the background; closing the guard does not wait for it."""
    own = own_server()
    guard = SessionGuard.from_url(own.unix_url, check=True, reply_within=5.0, lease=LeasePolicy(ttl=10))
    async with guard.session_lock("s"):
        pass
    own.pause()
    try:
        with anyio.fail_after(1.5):
            await guard.aclose()
    finally:
        own.resume()


async def test_every_master_of_a_cluster(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """One master evicts sessions; whichever is asked first, that one is named."""
    caplog.set_level(logging.WARNING, "sessionlock")
    odd = cluster.masters[1]
    odd.raw.config_set("maxmemory-policy", "allkeys-lru")
    odd.raw.config_set("maxmemory", "100mb")
    try:
        async with SessionGuard.from_url(cluster.url, check=True) as guard:
            async with guard.session_lock("s"):
                pass
            await looked(guard)
    finally:
        odd.raw.config_set("maxmemory-policy", "noeviction")
        odd.raw.config_set("maxmemory", "0")
    (warning,) = [message for message in caplog.messages if "allkeys-lru" in message]
    assert warning.startswith(f"cluster master 127.0.0.1:{odd.port}: ")
    (shared,) = [message for message in caplog.messages if "min-replicas-to-write" in message]
    assert all(f":{master.port}" in shared for master in cluster.masters)


@pytest.mark.slow
async def test_a_hung_master_of_a_cluster(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """The sessions of the others are served meanwhile; the hung one is named when it has not answered in time."""
    hung = cluster.masters[0]
    sid = next(sid for sid in map(str, range(100)) if cluster.master_of(keys_for("sl", sid).lock) is not hung)
    async with SessionGuard.from_url(cluster.url, check=True, reply_within=1.0, wait=0.5) as guard:
        async with guard.session_lock(sid):  # the map is known, so that nobody asks the hung one for it
            pass
        await looked(guard)
        cluster.pause(hung)
        try:
            looking = asyncio.create_task(guard.capabilities())
            with anyio.fail_after(0.9):
                async with guard.session_lock(sid) as session:
                    session["n"] = 1
            assert not looking.done()
            await looking
        finally:
            cluster.resume(hung)
    assert any(f"{hung.port}: not looked at" in message for message in caplog.messages)


async def test_every_master_of_a_quorum(
    own_server: OwnServer, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One evicts locks, one is down: requests go on, and the log names both, once per process."""
    caplog.set_level(logging.WARNING, "sessionlock")
    odd = own_server(tcp=True, config={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})
    urls = {"red": odd.tcp_url, "blue": own_server(tcp=True).tcp_url, "down": "redis://127.0.0.1:1"}
    for _ in range(2):
        quorum = Quorum(urls, rejoin_after=0)
        async with SessionGuard.from_url(redis_url, quorum=quorum, check=True) as guard:
            async with guard.session_lock("s") as session:
                session["n"] = 1
            await eventually(lambda: len(caplog.records) >= 2, "they are looked at")
    down, evicts = sorted(caplog.messages)
    assert evicts.startswith("quorum master red: the eviction policy is allkeys-lru")
    assert "another holder" in evicts
    assert down.startswith("quorum master down: not looked at")
    with connect(odd.tcp_url) as client:
        await eventually(lambda: len(client.client_list()) == 1, "the look keeps no connection")


@pytest.mark.parametrize("missing", ["-evalsha", "-@scripting"])
async def test_masters_of_a_quorum_that_permit_no_scripts(
    own_server: OwnServer, redis_url: str, caplog: pytest.LogCaptureFixture, missing: str
) -> None:
    """The log names the rule, although no election is won, and so the store is never asked."""
    urls = {}
    for name in ("red", "blue", "green"):
        own = own_server(tcp=True)
        if own.version < (6, 0):
            pytest.skip("there are no users before 6.0")
        channels = ["allchannels"] if own.version >= (6, 2) else []
        with connect(own.unix_url) as client:
            client.execute_command("ACL", "SETUSER", "app", "on", ">p", "~*", "+@all", *channels, missing)
            if own.version >= (7, 0):
                client.execute_command("ACL", "SETUSER", "app", "-fcall")
        urls[name] = own.tcp_url.replace("redis://", "redis://app:p@")
    async with SessionGuard.from_url(redis_url, quorum=Quorum(urls, rejoin_after=0), check=True) as guard:
        with pytest.raises(QuorumNotReached, match="NOPERM"):
            async with guard.lock("s", wait=0.2):
                pass
        await eventually(lambda: bool(caplog.records), "they are looked at")
    (told,) = caplog.messages
    assert told.startswith("quorum master red, quorum master blue, quorum master green: scripts are not permitted here")
    assert told.endswith("Permit EVALSHA and EVAL (ACL SETUSER <user> +eval +evalsha), under these names")


async def test_a_hung_master_of_a_quorum_delays_nothing(own_server: OwnServer, redis_url: str) -> None:
    masters = [own_server(tcp=True) for _ in range(3)]
    masters[0].pause()
    try:
        quorum = Quorum(*(master.tcp_url for master in masters), rejoin_after=0, reply_within=5.0)
        guard = SessionGuard.from_url(redis_url, quorum=quorum, check=True)
        with anyio.fail_after(1.5):
            async with guard.session_lock("s") as session:
                session["n"] = 1
            await guard.aclose()
    finally:
        masters[0].resume()


@pytest.mark.slow
async def test_a_client_that_insists_on_resp3(own_server: OwnServer) -> None:
    """Redis 5 does not know HELLO: refused at once, with what to do, whatever is tried first."""
    own = own_server(config={"rename-command HELLO": '""'} if find_server().version >= (6,) else None)
    client = redis.asyncio.Redis.from_url(own.unix_url, protocol=3)
    async with client, SessionGuard(client, check=True, retry_for=60) as guard:
        with anyio.fail_after(10):
            with pytest.raises(RedisUnavailable, match="protocol=2"):
                async with guard.session_lock("s"):
                    pass
            with pytest.raises(RedisUnavailable, match="protocol=2"):
                await guard.read("s")
            with pytest.raises(RedisUnavailable, match="protocol=2"):
                await guard.capabilities()
            async with SessionGuard(client, commit_by="watch", retry_for=60) as watching:
                with pytest.raises(RedisUnavailable, match="protocol=2"):
                    await watching.read("s")
    plain = redis.asyncio.Redis.from_url(own.unix_url, protocol=2)
    async with plain, SessionGuard(plain, check=True) as guard, guard.session_lock("s") as session:
        session["n"] = 1


@pytest.mark.slow
async def test_capabilities_are_public(redis_url: str, server: FaultyServer) -> None:
    async with SessionGuard.from_url(redis_url) as guard:
        found = await guard.capabilities()
    assert found.version == server.version
    async with SessionGuard(redis.asyncio.Redis(port=1), retry_for=0.1) as guard:
        with pytest.raises(RedisUnavailable):
            await guard.capabilities()
