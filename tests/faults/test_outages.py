"""Redis is down: the first call takes its time, the rest fails at once, the log has two lines, and it is soon back."""

from __future__ import annotations

import asyncio
import logging
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from redis.exceptions import ResponseError

from sessionlock import RedisUnavailable, Replicated, SessionGuard
from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.protocol.keys import keys_for
from sessionlock.quorum.config import Quorum
from sessionlock.transport.outages import Circuit, is_outage
from sessionlock.transport.route import NotNow
from tests.harness.cluster import Cluster
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer
from tests.harness.proxy import FaultyProxy
from tests.harness.scripts import calls_of, load_scripts
from tests.harness.stored import Stored

pytestmark = [pytest.mark.anyio, pytest.mark.deadline(180)]

OwnServer = Callable[..., FaultyServer]
MakeGuard = Callable[..., SessionGuard]
RETRY_FOR = 0.6  # short, for the sake of these tests
AT_ONCE = 0.3  # seconds: half of that, for busy machines; it is a millisecond


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """What the log shows at the default level."""
    seen: list[logging.LogRecord] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = seen.append  # type: ignore[method-assign,assignment]
    handler.addFilter(lambda record: record.name != "pottery")  # it tells of every try
    logging.getLogger().addHandler(handler)
    yield seen
    logging.getLogger().removeHandler(handler)


async def use(guard: SessionGuard, sid: str = "s") -> float:
    """Lock, change and save a session; how many seconds that took, also when it is refused."""
    began = time.monotonic()
    try:
        async with guard.session_lock(sid) as session:
            session["n"] = session.get("n", 0) + 1
    except RedisUnavailable as error:
        error.took = time.monotonic() - began  # type: ignore[attr-defined]
        raise
    return time.monotonic() - began


async def refused(guard: SessionGuard, sid: str = "s") -> RedisUnavailable:
    with pytest.raises(RedisUnavailable) as met:
        await use(guard, sid)
    return met.value


async def back(guard: SessionGuard, sid: str = "s", within: float = 5.0) -> float:
    """Seconds until the session can be used again."""
    began = time.monotonic()
    while True:
        try:
            await use(guard, sid)
            return time.monotonic() - began
        except RedisUnavailable:
            assert time.monotonic() - began < within
            await asyncio.sleep(0.02)


def down(server: FaultyServer, how: str) -> Callable[[], Any]:
    """Take it down; returns what brings it back."""
    if how == "paused":
        server.pause()
        return server.resume
    server.kill()
    return server.restart


@pytest.mark.parametrize("how", ["killed", "paused"])
@pytest.mark.parametrize("commit_by", ["script", "watch"])
async def test_an_outage(
    own_server: OwnServer, node: MakeGuard, how: str, commit_by: str, lines: list[logging.LogRecord]
) -> None:
    """In every way of saving. ``watch`` goes by redis-py's client, and knows of outages nevertheless."""
    server = own_server(tcp=True)
    guard = node(server.tcp_url, retry_for=RETRY_FOR, reply_within=0.3, commit_by=commit_by)

    async def once() -> None:
        if commit_by == "script":
            await use(guard)
        else:
            async with guard.session_lock("s", mode="optimistic") as session:
                session["n"] = 1

    async def times(count: int) -> list[float]:
        took = []
        for _ in range(count):
            began = time.monotonic()
            with pytest.raises(RedisUnavailable):
                await once()
            took.append(time.monotonic() - began)
        return took

    await once()
    bring_back = down(server, how)
    (first,) = await times(1)
    assert RETRY_FOR * 0.5 < first < RETRY_FOR * 3
    later = await times(20)
    assert statistics.median(later) < 0.05
    assert max(later) < AT_ONCE
    (begun,) = lines
    assert begun.name == "sessionlock"
    assert begun.levelno == logging.ERROR
    assert str(server.port) in begun.getMessage()
    await asyncio.to_thread(bring_back)
    began = time.monotonic()
    while True:
        try:
            await once()
            break
        except RedisUnavailable:
            await asyncio.sleep(0.02)
    assert time.monotonic() - began < 1.5
    _, ended = lines
    assert "is back after" in ended.getMessage()
    assert ended.levelno == logging.ERROR


async def test_it_ends_without_any_call(own_server: OwnServer, node: MakeGuard, lines: list[logging.LogRecord]) -> None:
    """The look is nobody's request."""
    server = own_server()
    guard = node(server.url, retry_for=0.1)
    await use(guard)
    server.kill()
    await refused(guard)
    await asyncio.to_thread(server.restart)
    for _ in range(200):
        if len(lines) == 2:
            break
        await asyncio.sleep(0.01)
    assert [line.getMessage().split(" ")[3:5] for line in lines] == [["cannot", "be"], ["is", "back"]]
    assert await use(guard) < AT_ONCE


@pytest.mark.slow
async def test_those_who_wait_when_it_is_known_do_not_wait_on(own_server: OwnServer, node: MakeGuard) -> None:
    """Many calls at once: all end with the first of them, not each after its own time."""
    server = own_server()
    guard = node(server.url, retry_for=1.0, reply_within=0.4)
    await use(guard)
    server.pause()
    began = time.monotonic()
    late = []
    for number in range(10):
        late.append(asyncio.ensure_future(refused(guard, f"s{number}")))
        await asyncio.sleep(0.09)
    await asyncio.gather(*late)
    assert time.monotonic() - began < 1.6
    server.resume()


@pytest.mark.slow
async def test_a_short_interruption_is_none(
    redis_url: str, node: MakeGuard, lines: list[logging.LogRecord], own_server: OwnServer
) -> None:
    """A restart within ``retry_for``: every request is repeated and succeeds, and nobody is told."""
    server = own_server(config={"appendonly": "yes", "appendfsync": "always"})
    guard = node(server.url)
    await use(guard)
    server.kill()
    using = [asyncio.ensure_future(use(guard, f"s{number}")) for number in range(5)]
    await asyncio.sleep(0.3)
    await asyncio.to_thread(server.restart)
    await asyncio.gather(*using)
    assert not lines


@pytest.mark.parametrize("login", ["", ":wrong-secret@", "nobody:wrong-secret@"])
@pytest.mark.parametrize("protocol", ["", "?protocol=2"])
async def test_not_let_in(
    own_server: OwnServer, node: MakeGuard, login: str, protocol: str, lines: list[logging.LogRecord]
) -> None:
    """No password, or a wrong one: known at the first answer, told with advice and without the password."""
    server = own_server(tcp=True, config={"requirepass": "right-secret"})
    guard = node(f"redis://{login}127.0.0.1:{server.port}/0{protocol}")
    for _ in range(5):
        error = await refused(guard)
        assert error.took < 1.0  # type: ignore[attr-defined]
    (line,) = lines
    assert "redis://user:password@host" in line.getMessage()
    assert "secret" not in line.getMessage() + str(error)
    with connect(f"redis://:right-secret@127.0.0.1:{server.port}/0") as client:
        if login.startswith("nobody"):
            client.acl_setuser("nobody", enabled=True, passwords="+wrong-secret", commands=["+@all"], keys="*")
            client.execute_command("ACL", "SETUSER", "nobody", "&*")
        else:
            client.config_set("requirepass", login.strip(":@"))
    await back(guard)
    assert len(lines) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis://127.0.0.1:1", "nobody listens there"),
        ("redis://no-such-host.invalid", "check the name of the host"),
        ("unix:///nowhere/redis.sock", "check the path of the socket"),
        ("redis+cluster://127.0.0.1:1", ""),
        ("redis+sentinel://127.0.0.1:1/mymaster", ""),
    ],
)
async def test_never_reached(node: MakeGuard, url: str, advice: str, lines: list[logging.LogRecord]) -> None:
    """At start-up: ``ready()`` tells at once, and so does the log; requests then need not find out by themselves."""
    guard = node(url)
    began = time.monotonic()
    with pytest.raises(RedisUnavailable):
        await guard.ready()
    assert time.monotonic() - began < 1.5
    (line,) = lines
    assert advice in line.getMessage()
    assert (await refused(guard)).took < AT_ONCE  # type: ignore[attr-defined]
    with pytest.raises(RedisUnavailable):
        await guard.ready()
    assert len(lines) == 1


async def test_ready(own_server: OwnServer, node: MakeGuard, lines: list[logging.LogRecord]) -> None:
    """One bad answer in good times is told to who asked, and begins nothing."""
    server = own_server()
    guard = node(server.url, retry_for=RETRY_FOR)
    assert await guard.ready() is True
    server.pause()
    began = time.monotonic()
    with pytest.raises(RedisUnavailable, match=r"no answer within 0\.1 s"):
        await guard.ready(timeout=0.1)
    assert time.monotonic() - began < 1
    assert not lines
    server.resume()
    assert await guard.ready()


def test_ready_for_threads(own_server: OwnServer) -> None:
    server = own_server()
    with BlockingGuard.from_url(server.url) as guard:
        assert guard.ready() is True
        server.kill()
        with pytest.raises(RedisUnavailable):
            guard.ready(timeout=0.5)


async def test_ready_of_a_quorum(own_server: OwnServer, node: MakeGuard) -> None:
    store, *masters = [own_server() for _ in range(4)]
    guard = node(store.url, quorum=Quorum(*(master.url for master in masters), rejoin_after=0))
    assert await guard.ready()
    masters[0].kill()
    assert await guard.ready()
    masters[1].kill()
    with pytest.raises(RedisUnavailable, match="majority"):
        await guard.ready()


@pytest.mark.slow
async def test_a_dead_master_of_a_cluster_stops_no_other(
    cluster: Cluster, node: MakeGuard, lines: list[logging.LogRecord]
) -> None:
    dead = cluster.masters[0]
    sids = [f"s{number}" for number in range(60)]
    there = [sid for sid in sids if cluster.master_of(keys_for("sl", sid).lock) is dead]
    others = [sid for sid in sids if sid not in there]
    guard = node(cluster.url, retry_for=0.4, reply_within=0.3)
    for sid in sids:
        await use(guard, sid)
    cluster.pause(dead)
    try:
        await refused(guard, there[0])
        (line,) = lines
        assert f":{dead.port}" in line.getMessage()
        for sid in there[1:]:
            assert (await refused(guard, sid)).took < AT_ONCE  # type: ignore[attr-defined]
        for sid in others:
            await use(guard, sid)
        assert await guard.ready()
        assert len(lines) == 1
    finally:
        cluster.resume(dead)
    for sid in there:
        await back(guard, sid, within=20)
    # A replica may take over just then, which is another short outage; each one ends.
    assert len(lines) % 2 == 0
    for begun, ended in zip(lines[::2], lines[1::2], strict=True):
        assert "cannot be used" in begun.getMessage()
        assert "is back" in ended.getMessage()


@asynccontextmanager
async def a_proxy(server: FaultyServer) -> Any:
    async with FaultyProxy(server.tcp_url) as proxy:
        yield proxy


async def test_what_was_sent_is_unknown_and_what_was_not_is_told(own_server: OwnServer, node: MakeGuard) -> None:
    server = own_server(tcp=True)
    with connect(server.tcp_url) as client:
        load_scripts(client)
    async with a_proxy(server) as proxy:
        guard = node(proxy.url, retry_for=0.3)
        async with guard.session_lock("s") as session:
            session["n"] = 1
            dropped = proxy.drop_next_reply(calls_of("release"))
            proxy.refuse()
            with pytest.raises(RedisUnavailable, match="whether it took effect is unknown") as met:
                await session.release()
            await dropped.wait()
        assert not met.value.unsent
        with Stored(server.tcp_url, "s") as stored:
            assert stored.data == {"n": 1}
        error = await refused(guard, "other")
        assert error.unsent
        assert "nothing was sent" in str(error)
        proxy.accept()
        await back(guard)


async def test_what_was_granted_unheard_is_given_up_when_redis_is_back(own_server: OwnServer, node: MakeGuard) -> None:
    """Else the session would be locked for the rest of its lease, by nobody."""
    server = own_server(tcp=True)
    with connect(server.tcp_url) as client:
        load_scripts(client)
    async with a_proxy(server) as proxy:
        guard = node(proxy.url, retry_for=0.2)
        dropped = proxy.drop_next_reply(calls_of("acquire"))
        using = asyncio.ensure_future(refused(guard))
        await dropped.wait()
        proxy.refuse()
        await using
        with Stored(server.tcp_url, "s") as stored:
            assert not stored.free
            proxy.accept()
            await stored.until(lambda s: s.free)


@pytest.mark.slow
async def test_what_a_hung_server_does_late_locks_nobody_out(
    own_server: OwnServer, node: MakeGuard, lines: list[logging.LogRecord]
) -> None:
    """It goes on where it was: what was sent to it before it was given up is granted then, to nobody."""
    server = own_server(tcp=True)
    guard = node(server.tcp_url, retry_for=0.5, reply_within=0.3)
    sids = [f"s{number}" for number in range(20)]
    await use(guard, "held")
    held = guard.session_lock("held")
    session = await held.__aenter__()
    session["n"] = 1
    server.pause()
    await asyncio.gather(*(refused(guard, sid) for sid in sids))
    with pytest.raises(RedisUnavailable):
        await held.__aexit__(None, None, None)
    await asyncio.sleep(0.6)  # longer than a call is repeated
    server.resume()
    await back(guard, "other")
    began = time.monotonic()
    await asyncio.gather(*(use(guard, sid) for sid in [*sids, "held"]))
    assert time.monotonic() - began < 2, "a lease is 10 s"
    assert len(lines) == 2, "what waited for the end begins no outage of its own"


async def test_a_holder_in_an_outage(own_server: OwnServer, node: MakeGuard) -> None:
    """Its save is refused at once and truthfully; a lease that outlives the outage is renewed again."""
    server = own_server(config={"appendonly": "yes", "appendfsync": "always"})
    guard = node(server.url, retry_for=0.2)
    await use(guard, "other")
    async with guard.session_lock("s") as kept:
        kept["n"] = 1
        async with guard.session_lock("lost") as lost:
            lost["n"] = 1
            server.kill()
            await refused(guard, "other")
            began = time.monotonic()
            with pytest.raises(RedisUnavailable, match="nothing was sent"):
                await lost.release()
            assert time.monotonic() - began < AT_ONCE
            await asyncio.to_thread(server.restart)
            await back(guard, "other")
        await kept.save()
    with Stored(server.url, "s") as stored:
        assert stored.data == {"n": 1}


async def test_saves_that_wait_for_the_disk(own_server: OwnServer, node: MakeGuard) -> None:
    server = own_server(config={"appendonly": "yes"})
    guard = node(server.url, retry_for=0.3, durability=Replicated(replicas=0, aof=True, within=0.2))
    if server.version < (7, 2):
        pytest.skip("WAITAOF is of Redis 7.2")
    await use(guard)
    server.kill()
    assert (await refused(guard)).took < 2  # type: ignore[attr-defined]
    assert (await refused(guard)).took < AT_ONCE  # type: ignore[attr-defined]
    await asyncio.to_thread(server.restart)
    await back(guard)


@pytest.mark.slow
async def test_users_are_not_waited_for_either(own_server: OwnServer, node: MakeGuard) -> None:
    server = own_server()
    guard = node(server.url, retry_for=0.2, reply_within=0.3)
    await use(guard)
    server.pause()
    await refused(guard)
    began = time.monotonic()
    for _ in range(10):
        with pytest.raises(RedisUnavailable, match="nothing was sent"):
            await guard.sessions_of("ann")
    assert time.monotonic() - began < 1.5, "each of them would wait for an answer, 0.3 s"
    server.resume()


async def test_a_refusal_is_told_once_and_stops_nothing_else(
    own_server: OwnServer, node: MakeGuard, lines: list[logging.LogRecord]
) -> None:
    """Out of memory: reading goes on, writing is refused by Redis each time, and there is one line."""
    server = own_server()
    guard = node(server.url)
    await use(guard)
    with connect(server.url) as client:
        client.config_set("maxmemory", 1)
    for _ in range(5):
        error = await refused(guard)
        assert error.refused
    (line,) = lines
    assert "OOM" in line.getMessage()
    assert line.levelno == logging.ERROR
    with connect(server.url) as client:
        client.config_set("maxmemory", 0)
    await use(guard)


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (ConnectionRefusedError(), True),
        (NotNow("LOADING Redis is loading the dataset in memory"), True),
        (NotNow("MASTERDOWN Link with MASTER is down"), True),
        (NotNow("BUSY Redis is busy running a script"), True),
        (NotNow("CLUSTERDOWN The cluster is down"), True),
        (NotNow("CLUSTERDOWN Hash slot not served"), False),
        (NotNow("TRYAGAIN Multiple keys request during rehashing of slot"), False),
        (NotNow("READONLY You can't write against a read only replica."), False),
        (NotNow("NOREPLICAS Not enough good replicas to write."), False),
        (ResponseError("NOAUTH Authentication required."), True),
        (ResponseError("OOM command not allowed when used memory > 'maxmemory'."), False),
        (ResponseError("NOPERM this user has no permissions"), False),
    ],
)
def test_what_is_about_the_whole_server(error: Exception, outage: bool) -> None:
    assert is_outage(error) is outage


@pytest.mark.slow
async def test_closing_in_an_outage_leaves_nothing_running(own_server: OwnServer) -> None:
    server = own_server()
    async with SessionGuard.from_url(server.url, retry_for=0.1) as guard:
        await use(guard)
        server.pause()
        await refused(guard)
        circuit: Circuit = guard.runtime().executor.circuit  # type: ignore[attr-defined]
        trouble = circuit.any_open()
        assert trouble is not None
    assert not circuit.troubles
    assert trouble.timer is None or trouble.timer.cancelled()
    assert trouble.knocking is None or trouble.knocking.done()
    server.resume()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["native", "pottery"])
async def test_masters_of_a_quorum(
    own_server: OwnServer, node: MakeGuard, engine: Any, lines: list[logging.LogRecord]
) -> None:
    """A majority of them is gone: told as an outage, and in it nobody waits for long."""
    store, *masters = [own_server() for _ in range(4)]
    quorum = Quorum(*(master.url for master in masters), rejoin_after=0, engine=engine)
    guard = node(store.url, quorum=quorum, retry_for=0.5)
    await use(guard)
    for master in masters[:2]:
        master.kill()
    await refused(guard)
    later = [(await refused(guard)).took for _ in range(10)]  # type: ignore[attr-defined]
    assert statistics.median(later) < 0.25
    (line,) = lines
    assert "masters have a say" in line.getMessage()
    for master in masters[:2]:
        await asyncio.to_thread(master.restart)
    assert await back(guard) < 4
    assert "is back after" in lines[-1].getMessage()
    assert len(lines) == 2


@pytest.mark.slow
@pytest.mark.server
async def test_a_call_that_the_server_hangs_up_on_is_no_outage(
    own_server: OwnServer, node: MakeGuard, lines: list[logging.LogRecord]
) -> None:
    """A limit of the server's closes the connection over one large session. Others are served, and nobody is told of an
    outage; who asks for that session is told why, and what to do."""
    own = own_server(config={"client-output-buffer-limit": "normal 100000 0 0"})
    guard = node(own.unix_url, retry_for=RETRY_FOR)
    async with guard.session_lock("large") as session:
        session["text"] = "x" * 200_000
    asking = asyncio.ensure_future(refused(guard, "large"))
    served = 0
    while not asking.done():
        await use(guard)
        served += 1
    error = asking.result()
    assert served > 1
    assert "client-output-buffer-limit normal" in str(error)
    assert "try again" not in str(error)
    assert [line.levelname for line in lines] == ["ERROR"]
    assert "refuses: the connection was lost" in lines[0].getMessage()


def test_a_command_says_it_in_one_line() -> None:
    words = [sys.executable, "-m", "sessionlock", "inspect", "--url", "redis://127.0.0.1:1", "s"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr


async def test_nobody_asks_what_a_server_is_that_is_down(own_server: OwnServer, node: MakeGuard) -> None:
    """A call that is refused starts nothing beside it."""
    server = own_server()
    guard = node(server.url, retry_for=0.1, check=True)
    server.kill()
    await refused(guard)
    await asyncio.sleep(0.1)
    before = len(asyncio.all_tasks())
    for _ in range(20):
        await refused(guard)
    assert len(asyncio.all_tasks()) <= before + 1  # the look for it
