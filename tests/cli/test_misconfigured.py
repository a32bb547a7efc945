"""Servers that are set up wrongly on purpose: ``sessionlock doctor`` finds each fault, and says what to do about it."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
import redis

from sessionlock.checkup.probe import judge
from sessionlock.checkup.settings import findings_among
from sessionlock.cli import doctor, main
from sessionlock.cli.nodes import unverified
from sessionlock.urls import client_from_url
from tests.harness.commands import connect
from tests.harness.faulty import FaultyServer
from tests.harness.flavours import Flavour, RestrictedServer
from tests.harness.sentinels import Sentinels

OwnServer = Callable[..., FaultyServer]
Examine = Callable[..., dict[str, Any]]


OLD = Flavour("", "", info={"redis_version": "4.0.14", "valkey_version": None}, hello={"server": "redis"})


class Planted(NamedTuple):
    """``settings``: by CONFIG SET. ``advice``: words of what is to be done about it."""

    settings: dict[str, Any]
    level: str
    advice: str


PLANTED: dict[str, Planted] = {
    "eviction": Planted({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "warn", "noeviction"),
    "eviction of keys that expire": Planted(
        {"maxmemory": "100mb", "maxmemory-policy": "volatile-ttl"}, "warn", "noeviction"
    ),
    "maxmemory": Planted({"maxmemory": "1mb"}, "warn", "Raise maxmemory"),
    "persistence": Planted({"save": "", "appendonly": "no"}, "info", "appendonly yes"),
    "fsync": Planted({"appendonly": "yes", "appendfsync": "always"}, "info", "everysec"),
    "fsync by the system": Planted({"appendonly": "yes", "appendfsync": "no"}, "info", "everysec"),
    "timeout": Planted({"timeout": 10}, "info", "timeout 0"),
    "tcp-keepalive": Planted({"tcp-keepalive": 0}, "info", "tcp-keepalive 60"),
    "pubsub-buffer": Planted({"client-output-buffer-limit": "pubsub 65536 65536 1"}, "warn", "pubsub 32mb"),
    "script-time": Planted({"lua-time-limit": 10}, "warn", "busy-reply-threshold"),
    "request-size": Planted({"proto-max-bulk-len": 1024 * 1024}, "warn", "proto-max-bulk-len"),
    "request-size of a client": Planted(
        {"client-query-buffer-limit": 1024 * 1024}, "warn", "client-query-buffer-limit"
    ),
    "reply-size": Planted({"client-output-buffer-limit": "normal 1048576 0 0"}, "warn", "'normal 0 0 0'"),
    "notify": Planted({"notify-keyspace-events": "KEA"}, "info", "Switch off"),
    "too-few-replicas": Planted({"min-replicas-to-write": 1}, "warn", "replicas are away"),
    "maxclients": Planted({"maxclients": 40}, "warn", "CLIENT LIST"),
}


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CYCLES", 1)
    monkeypatch.setattr(doctor, "WARM_UP", 0)


@pytest.fixture(scope="module")
def spare() -> Iterator[FaultyServer]:
    """A server whose settings are changed, and put back."""
    with FaultyServer(tcp=True) as server:
        yield server


@pytest.fixture
def raw(spare: FaultyServer) -> Iterator[redis.Redis]:
    with connect(spare.unix_url) as client:
        client.flushall()
        client.config_resetstat()
        yield client


@pytest.fixture
def examine(capsys: pytest.CaptureFixture[str]) -> Examine:
    """What ``doctor --json`` printed, with its exit status."""

    def run(url: str, *more: str) -> dict[str, Any]:
        status = main(["doctor", url, "--json", *more])
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return {**told, "status": status}

    return run


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Where nobody listens, and nobody can meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def finding(told: dict[str, Any], code: str, *, across: bool = False) -> dict[str, str]:
    """``across``: one that shows where several servers are looked at. At the top stand all, with their servers."""
    places = [] if across else told["nodes"].values()
    found = [one for place in places for one in place["findings"] if one["code"] == code]
    at_the_top = [one for one in told["findings"] if one["code"] == code]
    assert not found or set(told["nodes"]) & set(at_the_top[0]["nodes"])
    found = found or at_the_top
    assert found, f"not found: {code}; but {told['nodes'] or told['failed']}"
    one: dict[str, str] = found[0]
    return one


@pytest.mark.server
@pytest.mark.parametrize("fault", PLANTED)
def test_a_setting(spare: FaultyServer, raw: redis.Redis, examine: Examine, fault: str) -> None:
    code, planted = fault.partition(" ")[0], PLANTED[fault]
    before = {name: raw.config_get(name)[name] or "" for name in planted.settings}
    with ExitStack() as stack:
        for _ in range(36 if code == "maxclients" else 0):
            stack.enter_context(connect(spare.unix_url)).ping()
        try:
            for name, value in planted.settings.items():
                raw.config_set(name, value)
            told = examine(spare.unix_url)
        finally:
            for name, value in before.items():
                raw.config_set(name, value)
    found = finding(told, code)
    assert found["level"] == planted.level
    assert planted.advice in found["advice"]
    assert found["why"]
    refuses_writes = told["failed"] or code == "too-few-replicas"  # nothing can be tried out
    assert told["status"] == (1 if planted.level == "warn" else 0) or refuses_writes
    assert code not in [
        one["code"] for node in examine(spare.unix_url)["nodes"].values() for one in node["findings"]
    ] or (
        code == "persistence"  # as the tests start servers
    )


@pytest.mark.server
def test_keys_were_evicted(spare: FaultyServer, raw: redis.Redis, examine: Examine) -> None:
    before = raw.config_get("maxmemory*")
    raw.config_set("maxmemory-policy", "allkeys-lru")
    raw.config_set("maxmemory", raw.info("memory")["used_memory"] + 500_000)
    for number in range(1000):
        raw.set(f"key {number}", b"x" * 2_000)
    for name in ("maxmemory", "maxmemory-policy"):
        raw.config_set(name, before[name] or "")
    assert raw.info("stats")["evicted_keys"] > 0
    assert finding(examine(spare.unix_url), "evicted")["level"] == "warn"


@pytest.mark.server
@pytest.mark.parametrize(
    ("path", "says"),
    [("/99", "give a database that the server has"), ("?socket_timeout=abc", "socket_timeout")],
    ids=["a database that there is not", "a bad option"],
)
def test_an_address(spare: FaultyServer, path: str, says: str, examine: Examine) -> None:
    told = examine(spare.tcp_url.partition("/0")[0] + path)
    assert (told["status"], told["verdict"]) == (2, "unreachable")
    assert says in told["failed"]


@pytest.mark.server
def test_a_password(spare: FaultyServer, raw: redis.Redis, examine: Examine) -> None:
    raw.config_set("requirepass", "geheim")
    try:
        forgotten, wrong = examine(spare.tcp_url), examine(spare.tcp_url.replace("redis://", "redis://:falsch@"))
    finally:
        raw.execute_command("AUTH", "geheim")  # type: ignore[no-untyped-call]
        raw.config_set("requirepass", "")
    assert "the server wants a password" in forgotten["failed"]
    assert "password is wrong" in wrong["failed"]
    assert "falsch" not in str(wrong)


@pytest.mark.server
@pytest.mark.parametrize(
    ("rules", "code"), [("~other:* &*", "keys"), ("~* resetchannels", "push"), ("~* &* -@scripting", "scripts")]
)
def test_a_user_who_may_too_little(
    spare: FaultyServer, raw: redis.Redis, examine: Examine, rules: str, code: str
) -> None:
    if spare.version < (7,):
        pytest.skip("rules for channels, and how scripts obey them, as they are from 7.0 on")
    raw.execute_command("ACL", "SETUSER", "app", "reset", "on", ">p", "+@all", *rules.split())  # type: ignore[no-untyped-call]
    told = examine(spare.unix_url.replace("unix://", "unix://app:p@"))
    assert (told["status"], finding(told, code)["level"]) == (2, "refuse")


# --- servers that are something else


@pytest.mark.server
def test_commands_of_other_names(own_server: OwnServer, examine: Examine) -> None:
    config = {"rename-command EVAL": "secret1"}
    told = examine(own_server(config=config).unix_url)
    if told["verdict"] == "refused":  # before 7.0 there are no functions
        assert finding(told, "scripts")["level"] == "refuse"
    else:
        assert told["tried"]
        assert all(step["ok"] for step in told["tried"])


@pytest.mark.server
def test_a_cluster_with_slots_of_nobody(own_server: OwnServer, examine: Examine) -> None:
    own = own_server(tcp=True, config={"cluster-enabled": "yes"})
    with connect(own.unix_url) as client:
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 9999) if own.version >= (7,) else client.execute_command(
            "CLUSTER", "ADDSLOTS", *range(10_000)
        )
        by_one_server = examine(own.tcp_url)
        by_cluster = examine(own.tcp_url.replace("redis://", "redis+cluster://").partition("/0")[0])
        a_database = examine(own.tcp_url.partition("/0")[0] + "/3")
    assert finding(by_one_server, "cluster")["level"] == "refuse"
    assert "6384 of the 16384 slots" in finding(by_one_server, "slots")["what"]
    assert by_cluster["status"] == 2
    assert "some slots of this cluster belong to no node" in by_cluster["failed"]
    assert any(words in a_database["failed"] for words in ("redis+cluster://", "the number at the end of the URL"))


@pytest.mark.server
def test_a_replica_of_nothing(own_server: OwnServer, examine: Examine) -> None:
    told = examine(own_server(config={"replicaof": "127.0.0.1 1"}).unix_url)
    assert (told["status"], finding(told, "replica")["level"]) == (2, "refuse")


@pytest.mark.server
@pytest.mark.parametrize(
    ("flavour", "code", "level"),
    [
        (OLD, "version", "refuse"),
        (Flavour("", "", delay=0.02), "latency", "info"),
    ],
    ids=["an old version", "a far server"],
)
def test_behind_a_proxy(spare: FaultyServer, examine: Examine, flavour: Flavour, code: str, level: str) -> None:
    if spare.version < (6,) and code == "version":
        pytest.skip("it has no HELLO that would tell another version")
    with RestrictedServer(flavour, str(spare.socket_path)) as restricted:
        assert finding(examine(restricted.url), code)["level"] == level


@pytest.mark.slow
@pytest.mark.server
def test_a_sentinel_and_a_service_that_it_does_not_know(examine: Examine) -> None:
    with Sentinels(replicas=1, watchers=1, down_after_ms=60_000) as sentinels:
        host, port = sentinels.addresses[0]
        assert finding(examine(f"redis://{host}:{port}"), "sentinel")["level"] == "refuse"
        told = examine(f"redis+sentinel://{host}:{port}/other")
        assert "the service's name" in told["failed"]


@pytest.mark.parametrize(("limit", "warned"), [("1048576", True), ("5%", True), ("0", False), ("268435456", False)])
def test_memory_of_all_clients(limit: str, warned: bool) -> None:
    found = judge({"maxmemory": "104857600"}, {"maxmemory-clients": limit})
    assert ("client-memory" in {one.code for one in found.of_level("warn")}) is warned


def test_a_server_on_another_continent() -> None:
    (far,) = judge({}, {}, round_trip=0.09).of_level("warn")
    assert (far.code, far.what) == ("latency", "a round trip to the server takes 90.0 ms")


@pytest.mark.server
def test_masters_of_a_quorum(spare: FaultyServer, own_server: OwnServer, examine: Examine, closed_port: int) -> None:
    """A clock that is ahead, a master that evicts locks, one that is down: a majority of them works."""
    own = own_server(tcp=True, config={"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"})
    with RestrictedServer(Flavour("", "", clock=3600), str(spare.socket_path)) as ahead:
        masters = [own.tcp_url, ahead.url, f"redis://127.0.0.1:{closed_port}/0"]
        told = examine(own_server(tcp=True).tcp_url, *(word for url in masters for word in ("--master", url)))
    assert "3600" in finding(told, "clocks-apart", across=True)["what"]
    assert "so that another holder gets them" in finding(told, "eviction")["why"]
    steps = {step["name"]: step for step in told["tried"]}
    assert "nobody listens there" in finding(told, "silent", across=True)["advice"].lower()
    assert [name for name, step in steps.items() if step["ok"]] == ["lock", "push", "cycle", "nothing left"]
    assert (told["status"], told["verdict"]) == (1, "warnings")


@pytest.mark.server
def test_masters_that_are_one_server(spare: FaultyServer, own_server: OwnServer, examine: Examine) -> None:
    one, other = spare.tcp_url, spare.tcp_url.partition("/0")[0].replace("127.0.0.1", "localhost") + "/1"
    masters = [one, other, own_server(tcp=True).tcp_url, own_server(tcp=True).tcp_url]
    told = examine(spare.unix_url, *(word for url in masters for word in ("--master", url)))
    same = finding(told, "same-server", across=True)
    assert "are one server" in same["what"]
    assert "outlive as many failures" in finding(told, "even-quorum", across=True)["why"]
    assert told["status"] == 1


@pytest.mark.server
def test_few_connections(spare: FaultyServer, raw: redis.Redis, examine: Examine) -> None:
    """Two for each process are soon too many. Where there is none left for a push, that is why none came."""
    before = raw.config_get("maxclients")["maxclients"]
    raw.config_set("maxclients", 20)
    try:
        few = examine(spare.unix_url)
        raw.config_set("maxclients", 4)  # ours, the doctor's, those of its two guards
        none_left = examine(spare.unix_url)
    finally:
        raw.config_set("maxclients", before or "10000")
    assert (few["status"], finding(few, "few-clients")["level"]) == (0, "info")
    assert "at most 20 clients" in finding(few, "few-clients")["what"]
    (push,) = [step for step in none_left["tried"] if step["name"] == "push"]
    assert not push["ok"]
    assert push["why"].startswith("SUBSCRIBE failed: ")
    assert "maxclients" in push["advice"]


@pytest.mark.parametrize(
    ("url", "doubtful"), [("rediss://h?ssl_cert_reqs=none", True), ("rediss://h", False), ("redis://h", False)]
)
def test_a_certificate_that_nobody_looks_at(url: str, doubtful: bool) -> None:
    assert [found.code for found in unverified(client_from_url(url))] == ["unverified"] * doubtful


def test_clocks_of_masters_that_are_apart() -> None:
    seen = {name: judge({}, {}, clock_offset=offset) for name, offset in (("a", 0.1), ("b", -3.0), ("c", 0.0))}
    (apart,) = findings_among(seen)
    assert (apart.code, apart.level) == ("clocks-apart", "warn")
    assert "the clock of a is 3.1 s ahead of that of b" in apart.what
    assert not list(findings_among({"a": seen["a"], "c": seen["c"]}))
