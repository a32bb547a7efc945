"""``sessionlock doctor --probe``: one line and an exit status, for whoever starts and stops nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sessionlock.checkup.permissions import rule_for
from sessionlock.cli import main
from tests.harness.cluster import Cluster
from tests.harness.commands import CommandCounter, connect
from tests.harness.faulty import FaultyServer
from tests.harness.polling import until

OwnServer = Callable[..., FaultyServer]
Probe = Callable[..., tuple[int, str]]


@pytest.fixture
def probe(capsys: pytest.CaptureFixture[str]) -> Probe:
    def run(url: str, *more: str) -> tuple[int, str]:
        status = main(["doctor", url, "--probe", *more])
        said = capsys.readouterr()
        assert said.err == ""
        return status, said.out

    return run


def test_ready(probe: Probe, redis_url: str, server: FaultyServer) -> None:
    status, line = probe(redis_url)
    assert status == 0
    assert line.startswith(f"ready: {server.binary.flavour.title()} ")
    assert line.count("\n") == 1
    status, text = probe(redis_url, "--json")
    told: dict[str, Any] = json.loads(text)
    assert (status, told["state"], told["why"]) == (0, "ready", "")
    assert (told["schema"], told["command"]) == (1, "doctor --probe")
    assert told["milliseconds"] > 0


def test_it_only_reads(probe: Probe, redis_url: str) -> None:
    """Its one write is to a key that there is not, and changes nothing."""
    with connect(redis_url) as client:
        changes = client.info("persistence")["rdb_changes_since_last_save"]
    with CommandCounter(redis_url) as ran:
        probe(redis_url)
    assert set(ran.counts) <= {
        "ping",
        "info",
        "role",
        "cluster|info",
        "cluster",
        "config|get",
        "config",
        "client|setinfo",
        "client",
        "set",
    }
    assert (ran["info"], ran["set"]) == (1, 1)
    with connect(redis_url) as client:
        assert client.info("persistence")["rdb_changes_since_last_save"] == changes
        assert client.dbsize() == 0


def test_not_ready(probe: Probe, own_server: OwnServer) -> None:
    """A replica; a master that takes no writes, and takes them again."""
    own = own_server()
    status, line = probe(own_server(config={"replicaof": "127.0.0.1 1"}).unix_url)
    assert status == 2
    assert "this server is a replica" in line
    with connect(own.unix_url) as client:
        client.config_set("min-replicas-to-write", 1)
        status, line = probe(own.unix_url)
        assert status == 2
        assert "it takes no writes (NOREPLICAS" in line
        client.config_set("min-replicas-to-write", 0)
        client.config_set("maxmemory", 1)
        status, line = probe(own.unix_url)
        assert status == 2
        assert "takes no writes" in line
        client.config_set("maxmemory", 0)
        assert probe(own.unix_url)[0] == 0
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", "100mb")
        status, line = probe(own.unix_url)
        assert status == 0
        assert "(warnings: eviction" in line


def test_nobody_there_and_nobody_answering(probe: Probe, own_server: OwnServer) -> None:
    status, line = probe("redis://:geheim@localhost:1/0")
    assert status == 2
    assert line.startswith("not ready: redis://localhost:1/0: ")
    assert "geheim" not in line
    own = own_server()
    own.pause()
    status, line = probe(own.unix_url, "--within", "0.2")
    own.resume()
    assert (status, line.rstrip().endswith("no answer within 0.2 s")) == (2, True)


def test_who_may_not_see_is_not_told_that_all_is_well(probe: Probe, own_server: OwnServer) -> None:
    """ROLE is enough; it is in the rule that ``--acl`` prints."""
    own = own_server()
    if own.version < (7,):
        pytest.skip("rules as they are from 7.0 on")
    url = own.unix_url.replace("unix://", "unix://app:p@")
    with connect(own.unix_url) as client:
        client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">p", *rule_for("lock").words())
        status, line = probe(url)
        assert (status, line.split(":")[0]) == (0, "ready")
        for full in ("maxmemory", "min-replicas-to-write"):
            client.config_set(full, 1)
            assert probe(url)[0] == 2
            client.config_set(full, 0)
        client.execute_command("ACL", "SETUSER", "app", "-role")
        status, line = probe(url)
        assert (status, line.split(":")[0]) == (1, "unknown")
        assert "whether it is a master is not known" in line
        client.execute_command("ACL", "SETUSER", "app", "+role", "-set")
        status, line = probe(url)
        assert (status, line.split(":")[0]) == (1, "unknown")
        assert "whether it takes writes is not known" in line


def test_a_failed_snapshot_stops_nobody_who_may_write(probe: Probe, own_server: OwnServer) -> None:
    """... unless the server is told to refuse writes then, and that is asked of the server itself."""
    own = own_server(config={"save": "3600 1", "stop-writes-on-bgsave-error": "no"})
    with connect(own.unix_url) as client:
        where = client.config_get("dir", "dbfilename") if own.version >= (7,) else client.config_get("d*")
        (Path(where["dir"]) / where["dbfilename"]).mkdir()  # so that no file can have that name
        client.set("key", "value")
        client.bgsave()
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the snapshot failed")
        status, line = probe(own.unix_url)
        assert (status, line.split(":")[0]) == (0, "ready")
        assert "(warnings: write-errors" in line
        client.config_set("stop-writes-on-bgsave-error", "yes")
        status, line = probe(own.unix_url)
        assert status == 2
        assert "MISCONF" in line or "persist" in line


def test_masters_of_a_quorum_count(probe: Probe, own_server: OwnServer, redis_url: str) -> None:
    def ask(*masters: str) -> tuple[int, str]:
        return probe(redis_url, *(word for url in masters for word in ("--master", url)))

    one, other, down = own_server().unix_url, own_server().unix_url, "redis://localhost:1/0"
    status, line = ask(one, other, down)
    assert status == 0
    assert "2 of the 3 masters of the quorum are ready, 2 are needed (redis://localhost:1/0: " in line
    status, line = ask(one, down, "redis://localhost:2/0")
    assert status == 2
    assert "1 of the 3 masters" in line


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_time_that_makes_no_sense(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "redis://localhost:1", "--probe", "--within", seconds])
    assert ended.value.code == 2
    assert "--within" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cluster(probe: Probe, shared_cluster: Any) -> None:
    assert probe(shared_cluster.url)[0] == 0


@pytest.mark.slow
@pytest.mark.server
def test_a_cluster_with_a_master_that_is_down(probe: Probe, capsys: pytest.CaptureFixture[str]) -> None:
    """Hung, then dead and noticed: never ready; doctor tells of the others, and of the whole."""
    with Cluster(masters=3, replicas=0) as cluster:
        url = cluster.url
        assert probe(url)[0] == 0
        lost, *others = cluster.masters
        cluster.pause(lost)
        status, line = probe(url, "--within", "1.5")
        cluster.resume(lost)
        assert status == 2
        assert "no answer within 1.5 s" in line or "the cluster is down" in line
        assert url.partition("://")[2] in line  # all hosts
        cluster.kill(lost)
        until(lambda: {node.state for node in others} == {"fail"}, "it is noticed")
        status, line = probe(url)
        assert status == 2
        assert "the cluster is down" in line
        assert main(["doctor", url, "--json"]) == 2
    told = json.loads(capsys.readouterr().out)
    assert (told["verdict"], len(told["nodes"])) == ("refused", len(others))
    assert (told["tried"], told["failed"]) == ([], None)  # it is known that nothing would work
    assert {"cluster-down", "slots", "silent"} <= {one["code"] for one in told["findings"]}
