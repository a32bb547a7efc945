"""``sessionlock doctor --probe``: one line and an exit status, for whoever starts and stops nodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sessionlock.cli import main
from tests.harness.commands import CommandCounter, connect
from tests.harness.faulty import FaultyServer

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
    assert told["milliseconds"] > 0


def test_it_only_reads(probe: Probe, redis_url: str) -> None:
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
    }
    assert ran["info"] == 1


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
        assert "replicas of min-replicas-to-write" in line
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
        client.execute_command("ACL", "SETUSER", "app", "reset", "on", ">p", "+ping", "+role")
        status, line = probe(url)
        assert (status, line.split(":")[0]) == (0, "ready")
        client.execute_command("ACL", "SETUSER", "app", "-role")
        status, line = probe(url)
        assert (status, line.split(":")[0]) == (1, "unknown")
        assert "whether it is a master is not known" in line


@pytest.mark.slow
def test_a_cluster(probe: Probe, shared_cluster: Any) -> None:
    assert probe(shared_cluster.url)[0] == 0
