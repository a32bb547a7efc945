"""What Redis says when something is wrong comes with what to do, wherever it is met: in any call, and in ``doctor``."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import hiredis
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from sessionlock import RedisUnavailable, ScriptsForbidden, SessionGuard
from sessionlock.cli import main
from sessionlock.embedded import find_server
from sessionlock.protocol.keys import keys_for
from sessionlock.transport.advice import advice_about
from sessionlock.transport.route import meant
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer

OwnServer = Callable[..., FaultyServer]

WORDS = [
    ("unknown command `HELLO`, with args beginning with: `3`,", "protocol=2"),
    ("NOAUTH Authentication required.", "redis://user:password@"),
    ("Authentication required.", "redis://:password@"),
    ("ERR Protocol error: unauthenticated multibulk length", "wants a password"),
    ("ERR Protocol error: unauthenticated bulk length", "wants a password"),
    ("WRONGPASS invalid username-password pair or user is disabled.", "password is wrong"),
    ("invalid username-password pair or user is disabled.", "password is wrong"),
    ("invalid password", "password is wrong"),
    ("wrong number of arguments for 'auth' command", "knows no users"),
    ("AUTH <password> called without any password configured for the default user", "has no password"),
    ("ERR Client sent AUTH, but no password is set", "has no password"),
    ("DENIED Redis is running in protected mode because protected mode is enabled", "requirepass"),
    ("ERR max number of clients reached", "maxclients"),
    ("NOPERM this user has no permissions to run the 'evalsha' command or its subcommand", "+eval +evalsha"),
    ("NOPERM User app has no permissions to run the 'eval' command", "mode='optimistic'"),
    ("NOPERM User app has no permissions to run the 'script|load' command", "+script|load"),
    ("NOPERM User app has no permissions to run the 'fcall' command", "+eval +evalsha"),
    ("ERR unknown command 'EVALSHA', with args beginning with: 'abc'", "do not rename"),
    ("ERR unknown command `EVAL`, with args beginning with: `x`", "do not rename"),
    ("NOPERM User app has no permissions to run the 'publish' command", "+publish"),
    ("User app has no permissions to run the 'hget' command", "+hget"),
    ("NOPERM No permissions to access a key", "~<prefix>:*"),
    ("NOPERM this user has no permissions to access one of the keys used as arguments", "~<prefix>:*"),
    ("ERR ACL failure in script: No permissions to access a key script: abc, on @user_script:1.", "~<prefix>:*"),
    ("The user executing the script can't access at least one of the keys mentioned in the command", "~<prefix>:*"),
    ("NOPERM No permissions to access a channel", "&<prefix>:*"),
    ("NOPERM this user has no permissions to access one of the channels used as arguments", "&<prefix>:*"),
    ("ERR The user executing the script can't publish to the channel mentioned in the command", "&<prefix>:*"),
    ("MOVED 866 127.0.0.1:7001", "redis+cluster://"),
    ("ERR Protocol error: invalid bulk length", "proto-max-bulk-len"),
    ("ERR max request size exceeded. Limit: 1048576 bytes", "SessionPolicy.max_session"),
    ("NOPROTO unsupported protocol version", "protocol=2"),
    ("ERR Could not find scripting engine 'lua'", "Lua module"),
    ("ERR This instance has Lua scripting support disabled", "--lua"),
    ("ERR bad lua script for redis cluster, all the keys", "script_check_enable 0"),
    ("ERR Command is not available: 'EVAL'. See the documentation", "permit them"),
    ("All slots are not covered after query all startup_nodes. 10 of 16384 covered", "belong to no node"),
    ("CROSSSLOT Keys in request don't hash to the same slot", "redis+cluster://"),
    ("ERR SELECT is not allowed in cluster mode", "redis+cluster://"),
    ("ERR This instance has cluster support disabled", "redis://host:port"),
    ("READONLY You can't write against a read only replica.", "replica"),
    ("You can't write against a read only replica.", "master"),
    ("LOADING Redis is loading the dataset in memory", "wait"),
    ("BUSY Redis is busy running a script.", "SCRIPT KILL"),
    ("MASTERDOWN Link with MASTER is down", "failover"),
    ("CLUSTERDOWN The cluster is down", "failover"),
    ("MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.", "disk"),
    ("OOM command not allowed when used memory > 'maxmemory'.", "maxmemory"),
    ("NOREPLICAS Not enough good replicas to write.", "min-replicas-to-write"),
    ("WRONGTYPE Operation against a key holding the wrong kind of value", "prefix="),
    ("Please provide at least one reachable node: Cluster mode is not enabled on this node", "use redis://"),
    ("TRYAGAIN Multiple keys request during rehashing of slot", "on their way"),
    ("the server '/nosuch' is not usable: there is no such file", ""),
    ("ERR DB index is out of range", "database"),
    ("ERR invalid DB index", "database"),
    ("ERR unknown command 'HGETALL', with args", "renamed"),
    ("Error 111 connecting to localhost:1. Connect call failed ('127.0.0.1', 1).", "check host and port"),
    ("Error Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] ...", "is running"),
    ("Error 111 connecting to /run/redis. Connection refused.", "is running"),
    ("Error 2 connecting to /run/redis. No such file or directory.", "path"),
    ("Error 13 connecting to /run/redis. Permission denied.", "unixsocketperm"),
    ("No master found for 'shop' : <redis.asyncio.client.Redis(...)> - network:ConnectionError", "sentinels"),
    ("Error -2 connecting to nowhere.invalid:6379. Name or service not known.", "name of the host"),
    ("Error 1 connecting to h:1. [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1)", "redis://"),
    ("Error 1 connecting to h:1. [SSL: RECORD_LAYER_FAILURE] record layer failure", "redis://"),
    ("Error 1 connecting to h:1. [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed", "ssl_ca_certs"),
    ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate has expired (_ssl.c:1)", "renew"),
    ("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: Hostname mismatch, certificate is not", "name"),
    ("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required", "ssl_certfile"),
    ("[Errno 2] No such file or directory", "ssl_ca_certs"),
    ("upstream failure", "what stands between"),
    ("ERR Connection refused", "what stands between"),
    ("ERR max requests per second limit exceeded", "its limits"),
    ("no connection within 2 s", "rediss://"),
    ('not the Redis protocol: Protocol error, got "H" as reply type byte', "check the port"),
    ("the connection was lost: closed by the server", ""),
    ("ERR user_script:12: attempt to index a nil value", ""),
]


@pytest.mark.parametrize(("said", "advice"), WORDS)
def test_advice(said: str, advice: str) -> None:
    given = advice_about(RedisError(said))
    assert advice in given
    assert bool(advice) == bool(given)
    assert "{" not in given


@pytest.mark.parametrize(
    "said",
    [
        "ERR max request size exceeded. Limit: 1048576 bytes",
        "ERR user_script:12: no upstream value",
        "ERR unknown command 'upstream'",
        "NOPERM this user has no permissions to run the 'hget' command, try again",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "ERR Protocol error: invalid bulk length, connection closed",
        "ERR Command is not available: 'EVAL'. See the documentation",
    ],
)
def test_what_stays_is_not_repeated(said: str) -> None:
    """What stands between has words for what passes; they are not looked for in what does not."""
    error = hiredis.ReplyError(said)
    assert meant(error) is error


def test_what_broke_the_connection_is_no_reply() -> None:
    error = RedisConnectionError("Error while reading: Connection reset by peer")
    assert meant(error) is error


def test_a_connection_that_is_cut_off_as_it_is_opened() -> None:
    """By a server that expects TLS, as a rule; one that is open is cut off by a server that ends."""
    for said in ("Connection closed by server.", "[Errno 104] Connection reset by peer", "Connection lost"):
        assert "rediss://" in advice_about(said, connecting=True)
        assert advice_about(said) == ""


# --- met in calls


async def by_lock(guard: SessionGuard) -> None:
    async with guard.session_lock("s") as session:
        session["n"] = 1


async def by_reading(guard: SessionGuard) -> None:
    await guard.read("s")


async def by_user(guard: SessionGuard) -> None:
    await guard.sessions_of("user")


async def by_readiness(guard: SessionGuard) -> None:
    await guard.ready()


async def by_look(guard: SessionGuard) -> None:
    await guard.capabilities()


Call = Callable[[SessionGuard], Awaitable[None]]
CALLS: list[Call] = [by_lock, by_reading, by_user, by_readiness, by_look]


async def met(url: str, call: Call, **options: Any) -> RedisUnavailable:
    async with SessionGuard.from_url(url, retry_for=0.3, reply_within=0.3, **options) as guard:
        with pytest.raises(RedisUnavailable) as caught:
            await call(guard)
    return caught.value


def examined(url: str, capsys: pytest.CaptureFixture[str]) -> str:
    main(["doctor", url, "--json"])
    told = json.loads(capsys.readouterr().out)
    findings = [finding for node in told["nodes"].values() for finding in node["findings"]]
    return f"{told['failed']} {findings}"


@pytest.mark.anyio
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("login", "advice"), [("", "wants a password"), (":wrong@", "password is wrong")])
async def test_no_or_a_wrong_password(own_server: OwnServer, call: Call, login: str, advice: str) -> None:
    server = own_server(tcp=True, config={"requirepass": "right"})
    error = await met(server.tcp_url.replace("redis://", f"redis://{login}"), call)
    assert advice in str(error)
    assert "wrong@" not in str(error)


def test_doctor_without_a_password(own_server: OwnServer, capsys: pytest.CaptureFixture[str]) -> None:
    server = own_server(tcp=True, config={"requirepass": "right"})
    assert "wants a password" in examined(server.tcp_url, capsys)


@pytest.mark.anyio
@pytest.mark.parametrize("renamed", ["EVALSHA", "EVAL"])
async def test_scripts_under_another_name(own_server: OwnServer, renamed: str) -> None:
    """From the first call on, by the look at the server or without it; without scripts WATCH does it."""
    version = find_server().version
    if version < (6,):
        pytest.skip("this harness renames from 6.0 on")
    names = [renamed, *(["FCALL"] if version >= (7,) else [])]
    server = own_server(config={f"rename-command {name}": f"secret{name}" for name in names})
    for check, advice in ((True, "under these names"), (False, "do not rename these commands")):
        error = await met(server.unix_url, by_lock, check=check)
        assert type(error) is ScriptsForbidden
        assert error.refused
        assert advice in str(error)
    async with SessionGuard.from_url(server.unix_url) as guard:
        async with guard.session_lock("s", mode="optimistic") as session:
            session["n"] = 1
        assert (await guard.read("s"))["n"] == 1


@pytest.mark.anyio
async def test_another_applications_key(own_server: OwnServer) -> None:
    server = own_server()
    with connect(server.unix_url) as direct:
        direct.set(keys_for("sl", "s").session, "x")
    assert "prefix=" in str(await met(server.unix_url, by_lock))


@pytest.mark.anyio
async def test_a_full_server(own_server: OwnServer) -> None:
    server = own_server()
    with connect(server.unix_url) as direct:
        direct.config_set("maxmemory", "1")
    assert "raise maxmemory" in str(await met(server.unix_url, by_lock))


@pytest.mark.anyio
@pytest.mark.parametrize("missing", [("~other:*", "+@all", "&*"), ("~*", "&*", "+@all", "-publish", "-evalsha")])
async def test_what_a_user_may_not_do(own_server: OwnServer, missing: tuple[str, ...]) -> None:
    server = own_server()
    if server.version < (6, 2):
        pytest.skip("there are no permissions on channels before 6.2")
    functions = ["-fcall"] if server.version >= (7,) and "-evalsha" in missing else []
    with connect(server.unix_url) as direct:
        direct.execute_command("ACL", "SETUSER", "app", "on", ">p", *missing, *functions)
    url = server.unix_url.replace("unix://", "unix://app:p@")
    assert "ACL SETUSER <user>" in str(await met(url, by_lock))


@pytest.mark.anyio
async def test_too_many_connections(own_server: OwnServer) -> None:
    server = own_server()
    with connect(server.unix_url) as direct:
        direct.config_set("maxclients", "1")
        assert "maxclients" in str(await met(server.unix_url, by_lock))


@asynccontextmanager
async def says(words: bytes) -> AsyncIterator[str]:
    """A server that says so to whoever comes, and hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(words)
        await writer.drain()
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (b"-DENIED Redis is running in protected mode because protected mode is enabled\r\n", "protected mode"),
        (b"-ERR max number of clients reached\r\n", "maxclients"),
        (b"", "rediss://"),
    ],
)
async def test_a_server_that_hangs_up(words: bytes, advice: str) -> None:
    async with says(words) as url:
        assert advice in str(await met(url, by_lock, check=False))
        assert advice in str(await met(url, by_readiness, check=False))


@pytest.mark.anyio
async def test_tls_at_a_port_that_has_none(server: FaultyServer) -> None:
    said = str(await met(server.tcp_url.replace("redis://", "rediss://"), by_lock, check=False))
    assert "redis://" in said.replace("rediss://", "")
