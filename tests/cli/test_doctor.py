"""``sessionlock doctor`` and the probe beneath it, on real servers that are set up in every good and bad way."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio

from sessionlock.checkup.findings import Capabilities
from sessionlock.checkup.permissions import rule_for
from sessionlock.checkup.probe import probe
from sessionlock.cli import doctor, main
from sessionlock.cli.examination import Examination
from sessionlock.cli.nodes import close_all
from tests.harness import import_path
from tests.harness.cluster import Cluster
from tests.harness.commands import CommandCounter, as_user, connect
from tests.harness.faulty import FaultyServer
from tests.harness.polling import until
from tests.harness.sentinels import Sentinels

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]
OwnServer = Callable[..., FaultyServer]
Examine = Callable[..., tuple[int, dict[str, Any]]]
MOST_COMMANDS = 15


@pytest.fixture
def examine(capsys: pytest.CaptureFixture[str]) -> Examine:
    """``examine(url)``: the exit status and what ``--json`` printed."""

    def run(url: str, *more: str) -> tuple[int, dict[str, Any]]:
        status = main(["doctor", url, "--json", *more])
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return status, told

    return run


def codes(told: dict[str, Any]) -> dict[str, str]:
    """Finding → level, over all nodes; but for Redis 5's RESP2, which is there or not with the chosen server."""
    findings = [finding for node in told["nodes"].values() for finding in node["findings"]]
    return {finding["code"]: finding["level"] for finding in findings if finding["code"] != "resp2"}


def levels(found: Capabilities) -> dict[str, str]:
    """As :func:`codes`, of one server."""
    return {finding.code: finding.level for finding in found.findings if finding.code != "resp2"}


async def probed(url: str, **options: Any) -> Capabilities:
    async with redis.asyncio.Redis.from_url(url, protocol=2) as client:
        return await probe(client.execute_command, **options)


# --- what it says and with which status


def test_a_fine_server(examine: Examine, redis_url: str, server: FaultyServer) -> None:
    status, told = examine(redis_url)
    assert (status, told["verdict"]) == (0, "fine")
    assert (told["schema"], told["command"]) == (1, "doctor")
    (node,) = told["nodes"].values()
    assert tuple(node["version"]) == server.version
    assert node["server"].lower() == server.binary.flavour
    assert node["unknown"] == []
    assert [(step["name"], step["ok"]) for step in told["tried"]] == [
        ("lock", True),
        ("push", True),
        ("cycle", True),
        ("nothing left", True),
    ]


def test_it_leaves_nothing_behind(examine: Examine, redis_url: str) -> None:
    with connect(redis_url) as client:
        client.set("mine", "untouched")
        examine(redis_url)
        assert client.keys("*") == [b"mine"]


def test_the_page_is_for_people(redis_url: str) -> None:
    """A real process, without a terminal: no colours, why and what to do, nothing on standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "sessionlock", "doctor", redis_url],
        cwd=ROOT,
        env={"PYTHONIOENCODING": "ascii:replace", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    for expected in ("eviction policy noeviction", "GET + SET", "no lock, no queue", "  why  ", "  do   ", "\nfine\n"):
        assert expected in done.stdout


@pytest.mark.parametrize("columns", ["40", "60", "100", "300"])
def test_narrow_ascii_and_coloured(redis_url: str, columns: str) -> None:
    """As a terminal or a build log may be: no traceback, no line that it would break, colours where forced."""
    done = subprocess.run(
        [sys.executable, "-m", "sessionlock", "doctor", redis_url],
        env={"PYTHONIOENCODING": "ascii", "COLUMNS": columns, "FORCE_COLOR": "1", "PYTHONPATH": import_path()},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b[1;32mfine\x1b[0m" in done.stdout
    assert " x GET + SET" in " ".join(done.stdout.split())
    longest = max(len(re.sub(r"\x1b\[[0-9;]*m", "", line)) for line in done.stdout.splitlines()[1:])
    assert longest <= min(100, int(columns))


def test_nobody_there(examine: Examine, capsys: pytest.CaptureFixture[str]) -> None:
    status, told = examine("redis://:geheim@localhost:1/0")
    assert (status, told["verdict"], told["nodes"]) == (2, "unreachable", {})
    assert main(["doctor", "redis://:geheim@localhost:1/0"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("sessionlock: redis://localhost:1/0: ")
    assert "geheim" not in said.err


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Where nobody listens, and nobody can meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.slow
@pytest.mark.server
@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("redis://127.0.0.1:{}/0", "check host and port, that the server is running"),
        ("rediss://127.0.0.1:{}/0", "tls-port"),
        ("redis+cluster://127.0.0.1:{}", "check host and port"),
        ("redis+sentinel://127.0.0.1:{}/shop", "none of these sentinels told of a master"),
        ("unix:///nowhere/redis.sock", "check the path"),
    ],
)
def test_what_to_check_where_nobody_answers(examine: Examine, closed_port: int, url: str, advice: str) -> None:
    status, told = examine(url.format(closed_port))
    assert (status, told["verdict"]) == (2, "unreachable")
    assert advice in told["failed"]


def test_tls_where_there_is_none(examine: Examine, server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ANSWERS_WITHIN", 0.2)
    _, told = examine(server.tcp_url.replace("redis://", "rediss://"))
    assert told["failed"].startswith("no answer within 0.2 s; ")
    assert told["failed"].endswith("whether there is TLS at that port (rediss://) or not (redis://)")


def test_no_tls_where_it_is_expected(examine: Examine) -> None:
    """Such a server hangs up at the first bytes that are none of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            client, _ = server.accept()
            client.recv(1)
            client.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        _, told = examine(f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        thread.join()
    assert "; if the server expects TLS at that port, use rediss://" in told["failed"]


@pytest.mark.parametrize("url", ["nix://here", "redis://localhost:99999/0"])
def test_an_url_that_makes_no_sense(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", url]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_hung_server(own_server: OwnServer, examine: Examine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "ANSWERS_WITHIN", 0.2)
    own = own_server()
    own.pause()
    status, told = examine(own.unix_url)
    own.resume()
    assert status == 2
    assert told["failed"].startswith("no answer within 0.2 s; the server hangs")


def test_memory(examine: Examine) -> None:
    status, told = examine("memory://doctor")
    assert (status, codes(told)) == (0, {"memory": "info"})


# --- settings


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("noeviction", {}), ("allkeys-lru", {"eviction": "warn"}), ("volatile-ttl", {"eviction": "warn"})],
)
def test_eviction(own_server: OwnServer, examine: Examine, policy: str, expected: dict[str, str]) -> None:
    config = {"maxmemory": "100mb", "maxmemory-policy": policy, "appendonly": "yes"}
    status, told = examine(own_server(config=config).unix_url)
    assert (status, codes(told)) == (len(expected), expected)


async def test_a_full_server(own_server: OwnServer) -> None:
    found = await probed(own_server(config={"maxmemory": "100kb", "appendonly": "yes"}).unix_url)
    assert levels(found) == {"maxmemory": "warn"}
    assert "all of maxmemory" in found.of_level("warn")[0].what


async def test_persistence(own_server: OwnServer) -> None:
    lasting = await probed(own_server(config={"appendonly": "yes", "appendfsync": "always", "save": "900 1"}).unix_url)
    assert (lasting.rdb, lasting.aof, lasting.fsync, levels(lasting)) == (True, True, "always", {"fsync": "info"})
    fleeting = await probed(own_server().unix_url)
    assert (fleeting.rdb, fleeting.aof, fleeting.fsync) == (False, False, "")
    assert levels(fleeting) == {"persistence": "info"}


async def test_a_replica_is_refused_and_its_master_warned_of(own_server: OwnServer) -> None:
    master = own_server(tcp=True, config={"repl-diskless-sync-delay": "0"})
    replica = own_server(tcp=True, config={"replicaof": f"127.0.0.1 {master.port}"})
    with connect(master.unix_url) as client:
        until(lambda: client.info("replication")["connected_slaves"] == 1, "the replica is there")
        found = await probed(replica.tcp_url)
        assert [finding.code for finding in found.of_level("refuse")] == ["replica"]
        found = await probed(master.tcp_url)
        assert levels(found) == {"persistence": "warn", "split-brain": "warn"}
        client.config_set("min-replicas-to-write", 1)
        client.config_set("min-replicas-max-lag", 10)
        until(lambda: client.info("replication").get("min_slaves_good_slaves") == 1, "the replica counts")
        found = await probed(master.tcp_url)
        assert (found.replicas, found.min_replicas_to_write, found.good_replicas) == (1, 1, 1)
        assert [finding.code for finding in found.of_level("warn")] == ["persistence"]
        client.config_set("min-replicas-to-write", 2)
        found = await probed(master.tcp_url)
        assert "too-few-replicas" in [finding.code for finding in found.of_level("warn")]


def test_a_master_without_its_replicas_does_not_work(own_server: OwnServer, examine: Examine) -> None:
    """It refuses every write: a warning of that alone would say that it works. Nothing is tried in vain."""
    status, told = examine(own_server(config={"min-replicas-to-write": "1"}).unix_url)
    assert (status, told["verdict"], told["tried"], told["failed"]) == (2, "refused", [], None)


def test_a_replica_by_doctor(own_server: OwnServer, examine: Examine) -> None:
    """Refused before anything is tried out there."""
    master = own_server(tcp=True)
    status, told = examine(own_server(config={"replicaof": f"127.0.0.1 {master.port}"}).unix_url)
    assert (status, told["verdict"], told["tried"]) == (2, "refused", [])


# --- permissions


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        pytest.param(["+@all", "~sl:*", "&sl:*"], {"persistence": "info"}, id="what-we-need"),
        pytest.param(["+@all", "-eval", "~*", "&*"], {"persistence": "info"}, id="functions-without-eval"),
        pytest.param(
            ["+@all", "-eval", "-fcall", "~*", "&*"], {"scripts": "refuse", "persistence": "info"}, id="no-eval"
        ),
        pytest.param(
            ["+@all", "-eval", "-function", "~*", "&*"],
            {"scripts": "refuse", "persistence": "info"},
            id="functions-that-cannot-be-loaded",
        ),
        pytest.param(
            ["+@all", "-@scripting", "~*", "&*"], {"scripts": "refuse", "persistence": "info"}, id="no-scripts"
        ),
        pytest.param(["+@all", "~sl:*", "resetchannels"], {"push": "refuse", "persistence": "info"}, id="no-channels"),
        pytest.param(
            ["+@all", "~other:*", "&*"], {"keys": "refuse", "persistence": "info", "unknown": "info"}, id="other-keys"
        ),
        pytest.param(["+@all", "-info", "-config", "~*", "&*"], {"unknown": "info"}, id="no-info-no-config"),
    ],
)
async def test_acl(own_server: OwnServer, rules: list[str], expected: dict[str, str]) -> None:
    own = own_server()
    if own.version < (7, 0):
        pytest.skip("rules for channels, and how scripts obey them, as they are from 7.0 on")
    with connect(own.unix_url) as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">secret", *rules)
    found = await probed(own.unix_url.replace("unix://", "unix://app:secret@"))
    assert levels(found) == expected


def test_what_an_acl_hides_is_listed(own_server: OwnServer, examine: Examine) -> None:
    """All works; whether all is fine is not known, and not said."""
    own = own_server()
    if own.version < (7, 0):
        pytest.skip("rules for channels, and how scripts obey them, as they are from 7.0 on")
    with connect(own.unix_url) as client:
        client.execute_command(
            "ACL", "SETUSER", "app", "on", ">secret", "~sl:*", "&sl:*",
            "+@read", "+@write", "+@scripting", "+@connection", "+@pubsub", "+time",
        )  # fmt: skip
    status, told = examine(own.unix_url.replace("unix://", "unix://app:secret@"))
    assert (status, told["verdict"]) == (1, "unknown")
    assert all(step["ok"] for step in told["tried"])
    (node,) = told["nodes"].values()
    assert {"replicas", "eviction policy", "snapshots"} <= set(node["unknown"])
    assert [reason.split(":")[0] for reason in node["because"]] == ["INFO", "CONFIG GET"]


def test_for_an_application_that_takes_no_lock(own_server: OwnServer, examine: Examine) -> None:
    """The rule of such a user permits no script; that is no fault of its server."""
    own = own_server()
    if own.version < (7,):
        pytest.skip("rules name channels from 6.2 on; before 7.0 what a script may is another matter")
    with connect(own.unix_url) as client:
        rule = rule_for("optimistic").words()
        client.execute_command("ACL", "SETUSER", "app", "on", ">p", *rule, "+info", "+config|get", "+del")
        url = own.unix_url.replace("unix://", "unix://app:p@")
        status, told = examine(url)
        assert (status, told["verdict"]) == (2, "refused")
        status, told = examine(url, "--mode", "optimistic")
        assert (status, told["verdict"]) == (0, "fine")
        assert [(step["name"], step["ok"]) for step in told["tried"]] == [("cycle", True)]
        assert client.dbsize() == 0


async def test_without_scripts_it_says_what_works(own_server: OwnServer, capsys: pytest.CaptureFixture[str]) -> None:
    own = own_server()
    if own.version < (6, 0):
        pytest.skip("there are no users before 6.0")
    found = await probed(as_user(own.unix_url, "-@scripting"))
    assert "mode='optimistic' works without" in str(found.refusal())


# --- topologies


async def test_a_node_of_a_cluster_needs_a_cluster_client(own_server: OwnServer) -> None:
    own = own_server(tcp=True, config={"cluster-enabled": "yes"})
    found = await probed(own.tcp_url)
    assert [finding.code for finding in found.of_level("refuse")] == ["cluster"]
    assert "redis+cluster://" in str(found.refusal())
    assert (await probed(own.tcp_url, client="cluster")).refusal() is None


async def test_every_master_of_a_cluster_is_examined(cluster: Cluster) -> None:
    """Scripts are tried on all of them although our names lie on one."""
    host, port = cluster.startup_nodes[0]
    seen = Examination("cluster")
    client: Any = redis.asyncio.RedisCluster(host=host, port=port, protocol=2)
    try:
        await doctor._probe_all(client, "sl", seen)
    finally:
        await close_all(client)
    assert len(seen.nodes) == len(cluster.masters)
    for found in seen.nodes.values():
        assert (found.cluster, found.scripts, found.refusal()) == (True, True, None)
    assert "split-brain" in {finding.code for finding in seen.findings}
    assert all(len(nodes) == len(cluster.masters) for nodes in seen.findings.values())


@pytest.mark.slow
@pytest.mark.server
async def test_a_sentinel_is_no_server_for_sessions() -> None:
    with Sentinels(replicas=1, watchers=1, down_after_ms=60_000) as sentinels:
        host, port = sentinels.addresses[0]
        found = await probed(f"redis://{host}:{port}")
        assert [finding.code for finding in found.of_level("refuse")] == ["sentinel"]
        found = await probed(sentinels.master.tcp_url, client="sentinel")
        assert "split-brain" in [finding.code for finding in found.of_level("warn")]


# --- what it costs


async def test_the_probe_is_few_commands_and_writes_nothing(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url, protocol=2) as client:
        await client.ping()
        with CommandCounter(redis_url) as ran:
            await probe(client.execute_command)
            top_level = sum(ran[name] for name in ("hello", "config|get", "config", "eval", "evalsha", "waitaof"))
        assert top_level <= MOST_COMMANDS
        for write in ("set", "hset", "zadd", "lpush", "script|load"):
            assert ran[write] == 0
        assert await client.dbsize() == 0


def test_the_address_is_given_as_to_every_command(
    examine: Examine,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By itself, as an option, in a file, in the environment: so that ps need not show a password."""
    file = tmp_path / "url"
    file.write_text(f"{redis_url}\n")
    assert main(["doctor", "--probe", "--url", redis_url]) == 0
    assert main(["doctor", "--probe", "--url-file", str(file)]) == 0
    monkeypatch.setenv("SESSION_LOCK_URL", redis_url)
    assert main(["doctor", "--probe"]) == 0
    assert capsys.readouterr().out.count("ready: ") == 3
