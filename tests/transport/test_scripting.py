"""Scripts as functions, by their hashes, in full: whatever a server takes, has forgotten, or does not permit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from importlib import resources
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hiredis import ReplyError
from redis import Redis

from sessionlock import LeasePolicy, Quorum, RedisUnavailable, SessionDestroyed, SessionGuard, SessionPolicy
from sessionlock.embedded import find_server
from sessionlock.protocol.calls import Acquire, Call, Release, Renew
from sessionlock.protocol.changes import Change
from sessionlock.protocol.keys import keys_for
from sessionlock.protocol.scripts import LIBRARY, SCRIPTS
from sessionlock.transport.cluster import slot_of
from sessionlock.transport.scripting import Scripting, by_function
from sessionlock.transport.wire import pack
from tests.harness.cluster import Cluster
from tests.harness.commands import CommandCounter, connect
from tests.harness.deployments import MakeGuard
from tests.harness.faulty import FaultyServer
from tests.harness.polling import eventually
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of, forget_scripts, load_scripts
from tests.harness.stored import Look, Stored

pytestmark = [pytest.mark.anyio, pytest.mark.server]

OwnServer = Callable[..., FaultyServer]
VERSION = find_server().version
functions = pytest.mark.skipif(VERSION < (7, 0), reason="functions came with Redis 7.0")
SOME = keys_for("sl", "s")
LUA = resources.files("sessionlock.protocol") / "lua"


@pytest.fixture
async def make() -> AsyncIterator[Callable[..., SessionGuard]]:
    """``make(url, **options)``: a guard that prepares nothing at its server."""
    async with AsyncExitStack() as stack:

        def guard(url: str, **options: Any) -> SessionGuard:
            made = SessionGuard.from_url(url, **options)
            stack.push_async_callback(made.aclose)
            return made

        yield guard


async def add_one(guard: SessionGuard, sid: str = "s") -> None:
    async with guard.session_lock(sid) as session:
        session["n"] = session.get("n", 0) + 1


def count_of(url: str, sid: str = "s") -> Any:
    with Stored(url, sid) as stored:
        return stored.data.get("n")


# --- the library


@functions
def test_the_library_has_every_script(redis_url: str) -> None:
    with connect(redis_url) as client:
        client.function_load(LIBRARY)
        (told,) = client.execute_command("FUNCTION", "LIST")
    library = dict(zip(told[::2], told[1::2], strict=True))
    names = {dict(zip(one[::2], one[1::2], strict=True))[b"name"].decode() for one in library[b"functions"]}
    assert names == {script.function for script in SCRIPTS.values()}


def test_no_part_hides_a_name_of_another() -> None:
    """In the library all parts stand in one scope, so that a name which two of them give would mean the later one's."""
    seen: dict[str, str] = {}
    for path in sorted(LUA.iterdir(), key=lambda path: path.name):
        if path.name.startswith("_"):
            found = re.findall(r"^local (?:function )?(\w+(?:, \w+)*)", path.read_text(encoding="utf-8"), re.MULTILINE)
            for name in (name for names in found for name in names.split(", ")):
                assert seen.setdefault(name, path.name) == path.name, f"{name}: {seen[name]} and {path.name}"
                assert name not in SCRIPTS, f"{name} of {path.name} is a script's, too"
    assert len(seen) > 20


@functions
async def test_another_version_stands_beside_it(redis_url: str, make: Callable[..., SessionGuard]) -> None:
    version = SCRIPTS["acquire"].function.split("_")[1]
    with connect(redis_url) as client:
        client.function_load(LIBRARY.replace(version, "0" * len(version)))
        await add_one(make(redis_url))
        assert len(client.execute_command("FUNCTION", "LIST")) == 2
    assert count_of(redis_url) == 1


# --- loaded when it is missed


@functions
async def test_many_first_calls_load_it_once(redis_url: str, make: Callable[..., SessionGuard]) -> None:
    guard = make(redis_url)
    with CommandCounter(redis_url) as ran:
        await asyncio.gather(*(add_one(guard, f"s{number}") for number in range(50)))
        await add_one(guard, "s0")
    assert (ran["function|load"], ran["evalsha"], ran["eval"]) == (1, 0, 0)
    assert (count_of(redis_url, "s0"), count_of(redis_url, "s49")) == (2, 1)


@functions
async def test_who_comes_second_finds_it_there(redis_url: str, make: Callable[..., SessionGuard]) -> None:
    """Both miss it, both load it; the one who is told that it exists goes on as the other one."""
    nodes = [make(redis_url) for _ in range(5)]
    for guard in nodes:
        await guard.ready()
    with CommandCounter(redis_url) as ran:
        await asyncio.gather(*(add_one(guard, f"s{number}") for number, guard in enumerate(nodes)))
        await asyncio.gather(*(add_one(guard, f"s{number}") for number, guard in enumerate(nodes)))
    assert (ran["evalsha"], ran["eval"]) == (0, 0)
    assert [count_of(redis_url, f"s{number}") for number in range(5)] == [2] * 5


@functions
async def test_forgotten_between_loading_and_calling(redis_url: str, make: Callable[..., SessionGuard]) -> None:
    """Whoever empties the server all the time holds nobody up: then the script goes in full."""
    guard = make(redis_url)
    await guard.ready()
    route = guard.runtime().executor.route  # type: ignore[attr-defined]
    wire = await route.link.wire()
    send = wire.send

    def forgetful(packed: bytes, *answered: Any, soon: bool = False) -> None:
        send(packed, *answered, soon=soon)
        if b"\r\nLOAD\r\n" in packed:
            wire.call(("FUNCTION", "FLUSH"))

    wire.send = forgetful
    with CommandCounter(redis_url) as ran:
        await add_one(guard)
    assert ran["eval"] == 2
    assert count_of(redis_url) == 1


async def test_scripts_by_their_hashes_are_forgotten(own_server: OwnServer, make: Callable[..., SessionGuard]) -> None:
    """On a server without functions, as all were before 7.0."""
    server = own_server(config={} if VERSION < (7, 0) else {"rename-command": "FCALL ''"})
    guard = make(server.unix_url)
    with connect(server.unix_url) as client, CommandCounter(server.unix_url) as ran:
        for _ in range(3):
            await add_one(guard)
        assert (ran["evalsha"], ran["eval"], ran["fcall"], ran["function|load"]) == (6, 2, 0, 0)
        async with guard.session_lock("s") as session:
            session["n"] += 1
            client.script_flush()
    assert count_of(server.unix_url) == 4


# --- not permitted


@functions
@pytest.mark.parametrize(
    ("lacks", "loaded", "by"),
    [
        pytest.param("-fcall", True, "evalsha", id="to-call"),
        pytest.param("-fcall", False, "evalsha", id="to-call-what-is-not-there"),
        pytest.param("-function|load", False, "evalsha", id="to-load"),
        pytest.param("-function|load", True, "fcall", id="to-load-what-is-there"),
    ],
)
async def test_functions_that_are_not_permitted(
    own_server: OwnServer, make: Callable[..., SessionGuard], lacks: str, loaded: bool, by: str
) -> None:
    server = own_server()
    with connect(server.unix_url) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">p", "~*", "allchannels", "+@all", lacks)
        load_scripts(client)
        if not loaded:
            client.function_flush()
    guard = make(f"unix://app:p@{server.unix_url.removeprefix('unix://')}")
    await add_one(guard)
    with CommandCounter(server.unix_url) as ran:
        await add_one(guard)
        await add_one(guard)
    assert (ran[by], ran.script_calls, ran["function|load"]) == (4, 4, 0)
    assert count_of(server.unix_url) == 3


# --- out of memory


@pytest.fixture
def full(own_server: OwnServer) -> Iterator[tuple[FaultyServer, Redis]]:
    """A server that takes nothing new from ``config_set("maxmemory", 1)`` on."""
    server = own_server(tcp=True)
    with connect(server.unix_url) as client:
        yield server, client


@pytest.mark.parametrize("known", [True, False], ids=["loaded", "not-loaded"])
async def test_what_ends_something_works_without_memory(
    full: tuple[FaultyServer, Redis], make: Callable[..., SessionGuard], known: bool
) -> None:
    """Leases are renewed and locks given up, also where the library is not there and cannot be loaded."""
    server, client = full
    guard = make(server.unix_url, lease=LeasePolicy(ttl=0.5))
    await guard.create({"n": 1}, sid="s")
    with Stored(server.unix_url, "s") as stored:
        async with guard.session_lock("s") as session:
            assert session["n"] == 1
            client.config_set("maxmemory", 1)
            if not known:
                forget_scripts(client)
            lease = session.lease
            assert lease is not None
            end = lease.trusted_until
            await eventually(lambda: lease.trusted_until > end, "it is renewed")
        assert stored.free
        client.config_set("maxmemory", 0)
        with pytest.raises(SessionDestroyed):
            async with guard.session_lock("s"):
                client.config_set("maxmemory", 1)
                assert await guard.destroy("s")
        assert stored.free


async def test_a_save_that_finds_no_memory(full: tuple[FaultyServer, Redis], make: Callable[..., SessionGuard]) -> None:
    """It is refused, and the lock is given up all the same."""
    server, client = full
    guard = make(server.unix_url)
    await guard.create({"n": 1}, sid="s")
    with pytest.raises(RedisUnavailable, match="OOM") as met:
        async with guard.session_lock("s") as session:
            session["n"] = 2
            client.config_set("maxmemory", 1)
    assert met.value.refused
    with Stored(server.unix_url, "s") as stored:
        assert stored.free
        assert stored.data == {"n": 1}


async def test_a_save_that_took_the_last_memory(
    full: tuple[FaultyServer, Redis], make: Callable[..., SessionGuard]
) -> None:
    """Its reply is lost, and repeating it finds no memory: it is told that it was done, not that it was refused."""
    server, client = full
    load_scripts(client)
    async with FaultyProxy(server.tcp_url) as proxy:
        guard = make(proxy.url)
        await guard.create({"n": 1}, sid="s")
        proxy.delay(0.05)
        async with guard.session_lock("s") as session:
            session["n"] = 2
            lost = proxy.drop_next_reply(calls_of("release"))
            leaving = asyncio.ensure_future(session.release())
            await lost.wait()
            client.config_set("maxmemory", 1)
            await leaving
        assert session.version == 2
    assert count_of(server.unix_url) == 2


# --- other ways to a server


@functions
async def test_a_cluster_node_that_has_no_functions(cluster: Cluster, node: MakeGuard, stored: Look) -> None:
    """A slot moves to a node that was added: it is given the library when the first call is sent there."""
    keys = keys_for("sl", "s")
    guard = node(cluster.url)
    await add_one(guard)
    source = cluster.master_of(keys.lock)
    added = next(master for master in cluster.masters if master is not source)
    added.raw.function_flush()
    await cluster.migrate_slot(slot_of(keys), added)
    try:
        await add_one(guard)
        assert len(added.raw.function_list()) == 1
        assert cluster.raw_for(keys.session).hget(keys.session, "n") == b"2"
    finally:
        await cluster.migrate_slot(slot_of(keys), source)


@functions
async def test_masters_that_forget_functions(own_server: OwnServer, redis_url: str) -> None:
    masters = [own_server(tcp=True) for _ in range(3)]
    quorum = Quorum(*(master.tcp_url for master in masters), rejoin_after=0)
    async with SessionGuard.from_url(redis_url, quorum=quorum) as guard:
        for _ in range(5):
            for master in masters:
                with connect(master.unix_url) as client:
                    client.function_flush()
            async with guard.session_lock("s", wait=5) as session:
                session["n"] = session.get("n", 0) + 1
                for master in masters:
                    with connect(master.unix_url) as client:
                        client.function_flush()
        for master in masters:
            with connect(master.unix_url) as client:
                assert "cmdstat_fcall" in client.info("commandstats")
                assert "cmdstat_evalsha" not in client.info("commandstats")
    assert count_of(redis_url) == 5


# --- packing

CHANGES = [Change("s", b"k" * size, "ä".encode() * size, "=" + "b" * size) for size in (1, 200, 1000)]


@pytest.mark.parametrize(
    "call",
    [
        Acquire(SOME, "token", LeasePolicy(), None, label="Knoten Löwe " + "ö" * 300),
        Release(SOME, "token", 1, "low", "", SessionPolicy()),
        Release(SOME, "token", 2**53, "low", "", SessionPolicy(), CHANGES),
        Release(SOME, "token", 1, "low", "", SessionPolicy(), CHANGES * 100),
        Renew([(SOME, "token", 1000)]),
    ],
    ids=["not ASCII", "no change", "changes", "more words than are counted", "two keys"],
)
def test_a_call_is_sent_as_hiredis_packs_it(call: Call[Any]) -> None:
    keys = call.redis_keys
    assert by_function(call) == pack("FCALL", SCRIPTS[call.script].function, len(keys), *keys, *call.words())


def test_a_server_without_functions_is_not_asked_again_by_each_connection() -> None:
    """The next one goes by hash at once; one to another server asks."""
    scripting, wire = Scripting(), SimpleNamespace(address=("old", 6379))
    first = scripting.way
    by_hash = scripting.instead(cast(Any, wire), first, ReplyError("ERR unknown command `FCALL`, with args beginning"))
    assert by_hash not in (None, first)
    for address, way in ((("old", 6379), by_hash), (("new", 6379), first), (None, first)):
        scripting.begin_anew(address)
        assert scripting.way is way, address
