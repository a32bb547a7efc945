"""``durability=Replicated(...)``: WAIT follows each save on the same trip, a shortfall is told or raised."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sessionlock import ConfigurationError, NotDurable, RedisUnavailable, Replicated, SessionGuard
from tests.harness.commands import CommandCounter, as_user, connect
from tests.harness.faulty import FaultyServer
from tests.harness.polling import eventually
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of, load_scripts

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(180)]
OwnServer = Callable[..., FaultyServer]


@pytest.fixture
async def pair(own_server: OwnServer) -> tuple[FaultyServer, FaultyServer]:
    """A master and a replica that follows it."""
    master, replica = own_server(tcp=True, config={"repl-diskless-sync-delay": "0"}), own_server(tcp=True)
    with connect(replica.unix_url) as client:
        client.replicaof("127.0.0.1", master.port)
        await eventually(lambda: client.info("replication")["master_link_status"] == "up", "the replica follows")
    with connect(master.unix_url) as client:
        await eventually(lambda: client.info("replication")["connected_slaves"] == 1, "the master knows it")
    return master, replica


async def test_every_kind_of_save_waits(pair: tuple[FaultyServer, FaultyServer]) -> None:
    master, _ = pair
    async with SessionGuard.from_url(master.tcp_url, durability=Replicated(replicas=1, within=10.0)) as guard:
        async with guard.session_lock("s") as session:
            session["n"] = 1
        assert session.saved is not None
        assert (session.saved.replicas, session.saved.enough, session.saved.on_disk) == (1, True, None)
        async with guard.session_lock("s", mode="optimistic") as session:
            session["n"] += 1
        assert session.saved is not None
        assert session.saved.enough
        created = await guard.create({"n": 1})
        assert created.saved is not None
        assert created.saved.enough


@pytest.mark.slow
async def test_it_travels_with_the_save(pair: tuple[FaultyServer, FaultyServer]) -> None:
    """One WAIT per save, none for a request that changed nothing."""
    master, _ = pair
    async with SessionGuard.from_url(master.tcp_url, durability=Replicated(replicas=1, within=10.0)) as guard:
        async with guard.session_lock("s") as session:
            session["n"] = 0
        with CommandCounter(master.unix_url) as ran:
            for _ in range(5):
                async with guard.session_lock("s") as session:
                    session["n"] += 1
            async with guard.session_lock("s"):
                pass
        assert (ran.script_calls, ran["wait"]) == (12, 5)


@pytest.mark.slow
async def test_a_shortfall_is_told(pair: tuple[FaultyServer, FaultyServer]) -> None:
    master, replica = pair
    async with SessionGuard.from_url(master.tcp_url, durability=Replicated(replicas=1, within=0.1)) as guard:
        replica.pause()
        try:
            async with guard.session_lock("s") as session:
                session["n"] = 1
        finally:
            replica.resume()
        assert session.saved is not None
        assert (session.saved.replicas, session.saved.enough) == (0, False)
        assert (await guard.read("s"))["n"] == 1


@pytest.mark.slow
async def test_a_shortfall_is_raised_where_safety_is_required(pair: tuple[FaultyServer, FaultyServer]) -> None:
    master, _ = pair
    wait = Replicated(replicas=2, within=0.5, required=True)
    async with SessionGuard.from_url(master.tcp_url, durability=wait) as guard:
        with pytest.raises(NotDurable, match=r"[01] of 2 replicas") as told:
            async with guard.session_lock("s") as session:
                session["n"] = 1
        assert told.value.safety is session.saved
        assert (await guard.read("s"))["n"] == 1
        assert (await guard.inspect("s")).holder is None
        with pytest.raises(NotDurable):
            await guard.create({"n": 1})


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["lock", "optimistic"])
async def test_a_new_id_is_judged_as_well(pair: tuple[FaultyServer, FaultyServer], mode: Any) -> None:
    """It is known all the same: the browser must be told, for the session answers to nothing else soon."""
    master, _ = pair
    wait = Replicated(replicas=2, within=0.2, required=True)
    async with (
        SessionGuard.from_url(master.tcp_url) as plain,
        SessionGuard.from_url(master.tcp_url, durability=wait) as guard,
    ):
        await plain.create({"n": 1}, sid="s")
        async with guard.session_lock("s", mode=mode) as session:
            with pytest.raises(NotDurable) as told:
                await session.regenerate()
        assert told.value.safety is session.saved
        assert session.sid != "s"
        assert (await plain.read(session.sid))["n"] == 1


async def in_passing(guard: SessionGuard) -> None:
    async with guard.session_lock("s") as session:
        session["n"] = 2
        await session.save()
        raise AssertionError("it was not durable")


async def at_the_end(guard: SessionGuard) -> None:
    async with guard.session_lock("s") as session:
        session["n"] = 2


async def without_a_lock(guard: SessionGuard) -> None:
    async with guard.session_lock("s", mode="optimistic") as session:
        session["n"] = 2


SAVES: dict[str, Callable[[SessionGuard], Awaitable[Any]]] = {
    "release": at_the_end,
    "save": in_passing,
    "commit": without_a_lock,
    "create": lambda guard: guard.create({"n": 2}, sid="another"),
    "incr": lambda guard: guard.incr("s", "n"),
    "destroy": lambda guard: guard.destroy("s"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAVES)
async def test_a_repeated_save_is_judged_as_well(pair: tuple[FaultyServer, FaultyServer], name: str) -> None:
    """Its reply was lost, so it is repeated on another connection, which has written nothing itself: WAIT must not say
    there that all is well while the replica hangs."""
    master, replica = pair
    wait = Replicated(replicas=1, within=0.1, required=True)
    async with FaultyProxy(master.tcp_url) as proxy, SessionGuard.from_url(master.tcp_url) as other:
        await other.create({"n": 1}, sid="s")
        async with SessionGuard.from_url(proxy.url, durability=wait) as guard:
            dropped = proxy.drop_next_reply(calls_of(name))
            with connect(master.unix_url) as client:
                load_scripts(client)
            replica.pause()
            try:
                with pytest.raises(NotDurable):
                    await SAVES[name](guard)
            finally:
                replica.resume()
            await dropped.wait()


@pytest.mark.parametrize("required", [False, True])
async def test_where_nobody_may_wait(own_server: OwnServer, required: bool, caplog: pytest.LogCaptureFixture) -> None:
    """The save is done: a request fails for the shortfall, where that is to be so, and not as one that was refused."""
    own = own_server()
    if own.version < (6, 2):
        pytest.skip("there are no users before 6.0, and no channels in rules before 6.2")
    url = as_user(own.unix_url, "&*", "-wait")

    async def save(n: int) -> Any:
        async with guard.session_lock("s") as session:
            session["n"] = n
        return session.saved

    async with SessionGuard.from_url(url, durability=Replicated(replicas=1, required=required)) as guard:
        for n in (1, 2):
            if required:
                with pytest.raises(NotDurable, match="was saved"):
                    await save(n)
            else:
                assert not (await save(n)).enough
            assert (await guard.read("s"))["n"] == n
    told = [record.getMessage() for record in caplog.records if "refuses" in record.getMessage()]
    assert len(told) == 1
    assert "+wait" in told[0]


async def test_on_disk(own_server: OwnServer) -> None:
    own = own_server(tcp=True, config={"appendonly": "yes"})
    if own.version < (7, 2):
        wait = Replicated(replicas=0, aof=True)
        async with SessionGuard.from_url(own.tcp_url, durability=wait) as guard, guard.session_lock("s") as session:
            session["n"] = 1
        assert session.saved is not None
        assert (session.saved.on_disk, session.saved.enough) == (False, False)
        return
    async with SessionGuard.from_url(own.tcp_url, durability=Replicated(replicas=0, aof=True, within=3)) as guard:
        async with guard.session_lock("s") as session:
            session["n"] = 1
        assert session.saved is not None
        assert (session.saved.on_disk, session.saved.enough) == (True, True)


@pytest.mark.parametrize("senseless", [{"replicas": 0}, {"replicas": -1}, {"replicas": True}, {"within": 0}])
def test_what_makes_no_sense_is_refused(senseless: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        Replicated(**senseless)  # type: ignore[arg-type]


async def test_it_is_known_from_the_look_at_the_server(own_server: OwnServer) -> None:
    """Required, it is refused before any handler runs; else it is a warning. Who asked for nothing hears nothing."""
    server = own_server()
    if server.version < (6, 2):
        pytest.skip("users with channels are of Redis 6.2")
    url = as_user(server.unix_url, "&*", "-wait")
    for durability, levels in ((Replicated(required=True), ["refuse"]), (Replicated(), ["warn"]), (None, [])):
        async with SessionGuard.from_url(url, durability=durability, check=True) as guard:
            found = await guard.capabilities()
            assert [finding.level for finding in found.findings if finding.code == "durability"] == levels
            if durability is not None and durability.required:
                with pytest.raises(RedisUnavailable, match="saves cannot wait by WAIT here"):
                    async with guard.session_lock("s"):
                        raise AssertionError("entered")
