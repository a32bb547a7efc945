"""What a server's answers mean, without a server: a table of answers and the findings that follow."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from fnmatch import fnmatch
from typing import Any

import hiredis
import pytest
from redis.exceptions import NoPermissionError

from sessionlock import RedisUnavailable, ScriptsForbidden
from sessionlock.checkup import capabilities
from sessionlock.checkup.capabilities import Checkup
from sessionlock.checkup.findings import Capabilities
from sessionlock.checkup.probe import Ask, Server, judge, probe
from sessionlock.transport.clients import client_kind, server_name

pytestmark = pytest.mark.anyio

INFO = {
    "redis_version": "7.2.4",
    "redis_mode": "standalone",
    "role": "master",
    "connected_slaves": "0",
    "used_memory": "1000000",
    "maxmemory": "0",
    "maxmemory_policy": "noeviction",
    "aof_enabled": "1",
    "loading": "0",
    "rdb_last_bgsave_status": "ok",
    "aof_last_write_status": "ok",
    "cluster_enabled": "0",
}
CONFIG = {
    "save": "3600 1",
    "appendfsync": "everysec",
    "min-replicas-to-write": "0",
    "min-replicas-max-lag": "10",
    "maxmemory": "0",
    "maxmemory-policy": "noeviction",
}
TRIAL = dict.fromkeys(
    ("EVAL", "EVALSHA", "TIME", "HGETALL", *capabilities.WRITES, "PUBLISH", "SPUBLISH", "WAITAOF"), ""
)
NO_KEY = "ERR ACL failure in script: No permissions to access a key"
NO_CHANNEL = "ERR The user executing the script can't publish to the channel mentioned in the command"
NO_EVAL = "NOPERM User x has no permissions to run the 'eval' command"


def seen(
    info: Mapping[str, str] | None = None,
    config: Mapping[str, str] | None = None,
    trial: Mapping[str, str] | None = None,
    **more: Any,
) -> Capabilities:
    """A server without a fault, except for what is given."""
    return judge({**INFO, **(info or {})}, {**CONFIG, **(config or {})}, trial={**TRIAL, **(trial or {})}, **more)


def test_a_server_without_a_fault() -> None:
    found = seen()
    assert found.findings == ()
    assert found.refusal() is None
    assert found.unknown == ("maxclients", "clock")
    assert (found.title, found.scripts, found.sharded_pubsub, found.waitaof) == ("Redis 7.2.4", True, True, True)
    assert (found.rdb, found.aof, found.fsync, found.cluster) == (True, True, "everysec", False)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        pytest.param({"info": {"redis_version": "4.0.14"}}, {"version": "refuse"}, id="redis-4"),
        pytest.param(
            {"trial": {"ZPOPMIN": "ERR Unknown Redis command called from script"}},
            {"version": "refuse"},
            id="old",
        ),
        pytest.param({"info": {"redis_version": "5.0.0"}}, {"resp2": "info"}, id="redis-5"),
        pytest.param({"info": {"redis_version": "6.0.0"}}, {}, id="redis-6"),
        pytest.param({"info": {"dragonfly_version": "df-v1.40.1"}}, {"other-server": "warn"}, id="dragonfly"),
        pytest.param({"info": {"role": "slave"}}, {"replica": "refuse"}, id="replica"),
        pytest.param({"info": {"redis_mode": "sentinel"}}, {"sentinel": "refuse"}, id="sentinel"),
        pytest.param(
            {"info": {"cluster_enabled": "1", "connected_slaves": "1"}},
            {"cluster": "refuse", "split-brain": "warn"},
            id="cluster-single-client",
        ),
        pytest.param(
            {"info": {"cluster_enabled": "1"}, "config": {"min-replicas-to-write": "1"}, "client": "cluster"},
            {"unknown": "info"},
            id="cluster-cluster-client",
        ),
        pytest.param(
            {"info": {"connected_slaves": "1"}, "client": "quorum"}, {"quorum-replicas": "warn"}, id="quorum-replica"
        ),
        pytest.param(
            {"info": {"aof_enabled": "0"}, "config": {"save": ""}, "client": "quorum"}, {}, id="quorum-in-memory"
        ),
        pytest.param({"info": {"cluster_enabled": "1"}, "client": "quorum"}, {"cluster": "refuse"}, id="quorum-node"),
        pytest.param({"trial": {"EVAL": NO_EVAL, "EVALSHA": NO_EVAL}}, {"scripts": "refuse"}, id="no-scripts"),
        pytest.param({"trial": {"EVALSHA": NO_EVAL}}, {"scripts": "refuse"}, id="no-evalsha"),
        pytest.param(
            {"trial": {"EVAL": NO_EVAL, "EVALSHA": NO_EVAL, "FCALL": "", "FUNCTION LOAD": ""}}, {}, id="functions-only"
        ),
        pytest.param(
            {"trial": {"EVAL": NO_EVAL, "FCALL": "", "FUNCTION LOAD": NO_EVAL}},
            {"scripts": "refuse"},
            id="functions-that-cannot-be-loaded",
        ),
        pytest.param({"trial": {"PUBLISH": NO_CHANNEL}}, {"push": "refuse"}, id="no-channel"),
        pytest.param({"trial": {"DEL": NO_KEY, "HDEL": NO_KEY}}, {"keys": "refuse"}, id="no-keys"),
        pytest.param(
            {"info": {"maxmemory": "9000000", "maxmemory_policy": "allkeys-lru"}}, {"eviction": "warn"}, id="allkeys"
        ),
        pytest.param(
            {"info": {"maxmemory": "9000000", "maxmemory_policy": "volatile-ttl"}}, {"eviction": "warn"}, id="volatile"
        ),
        pytest.param({"info": {"maxmemory_policy": "volatile-lru"}}, {"eviction": "info"}, id="evicts-without-limit"),
        pytest.param({"info": {"maxmemory": "1000000"}}, {"maxmemory": "warn"}, id="full"),
        pytest.param({"info": {"maxmemory": "1100000"}}, {"maxmemory": "warn"}, id="nearly-full"),
        pytest.param({"info": {"maxmemory": "2000000"}}, {}, id="half-full"),
        pytest.param(
            {"info": {"aof_enabled": "0"}, "config": {"save": ""}}, {"persistence": "info"}, id="nothing-saved"
        ),
        pytest.param({"info": {"aof_enabled": "0"}}, {}, id="snapshots-only"),
        pytest.param(
            {
                "info": {"aof_enabled": "0", "connected_slaves": "1"},
                "config": {"save": "", "min-replicas-to-write": "1"},
            },
            {"persistence": "warn"},
            id="nothing-saved-and-replicas",
        ),
        pytest.param({"info": {"rdb_last_bgsave_status": "err"}}, {"write-errors": "warn"}, id="disk-full"),
        pytest.param({"info": {"connected_slaves": "2"}}, {"split-brain": "warn"}, id="replicas-unguarded"),
        pytest.param({"client": "sentinel"}, {"split-brain": "warn"}, id="sentinel-unguarded"),
        pytest.param(
            {
                "info": {"connected_slaves": "2", "min_slaves_good_slaves": "2"},
                "config": {"min-replicas-to-write": "1"},
            },
            {},
            id="replicas-guarded",
        ),
        pytest.param(
            {
                "info": {"connected_slaves": "2"},
                "config": {"min-replicas-to-write": "1", "min-replicas-max-lag": "0"},
            },
            {"split-brain": "warn"},
            id="a-lag-of-0-switches-it-off",
        ),
        pytest.param(
            {
                "info": {"connected_slaves": "1", "min_slaves_good_slaves": "0"},
                "config": {"min-replicas-to-write": "1"},
            },
            {"too-few-replicas": "warn"},
            id="replicas-away",
        ),
        pytest.param({"info": {"loading": "1"}}, {"loading": "info"}, id="loading"),
        pytest.param({"clock_offset": -3600.0}, {"clock": "info"}, id="clock"),
        pytest.param({"clock_offset": 0.2}, {}, id="clock-right"),
    ],
)
def test_findings(changed: dict[str, Any], expected: dict[str, str]) -> None:
    found = seen(**changed)
    assert {finding.code: finding.level for finding in found.findings} == expected
    assert (found.refusal() is not None) == ("refuse" in expected.values())
    for finding in found.findings:
        assert finding.why
        assert finding.advice


@pytest.mark.parametrize(
    ("info", "hello", "title"),
    [
        ({"redis_version": "8.2.3"}, {}, "Redis 8.2.3"),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, {}, "Valkey 9.1.2"),
        ({"redis_version": "6.3.4", "executable": "/usr/bin/keydb-server"}, {}, "KeyDB 6.3.4"),
        ({"redis_version": "7.4.0", "dragonfly_version": "df-v1.40.1"}, {}, "Dragonfly 1.40.1"),
        ({}, {"server": "valkey", "version": "8.0.1"}, "Valkey 8.0.1"),
        ({}, {"server": "redis", "version": "7.0.15"}, "Redis 7.0.15"),
        ({}, {"server": "fakeredis", "version": "2.40.0"}, "fakeredis 2.40.0"),
        ({}, {}, "a server of unknown version"),
    ],
)
def test_who_it_is(info: dict[str, str], hello: dict[str, str], title: str) -> None:
    """Forks tell Redis' version, too; where INFO is forbidden HELLO tells."""
    assert judge(info, {}, hello=hello).title == title


def test_what_is_unknown_is_told_with_what_it_would_mean_and_is_no_error() -> None:
    found = judge({}, {}, because=("INFO: NOPERM",))
    (unknown,) = found.findings
    assert (unknown.code, unknown.level) == ("unknown", "info")
    assert "eviction policy" in unknown.what
    assert "INFO: NOPERM" in unknown.what
    assert "vanish when the memory is full" in unknown.why
    assert "+config|get" in unknown.advice
    assert found.refusal() is None
    assert {"version", "role", "eviction policy", "snapshots", "min-replicas-to-write", "clock"} <= set(found.unknown)
    assert found.because == ("INFO: NOPERM",)


def test_without_config_info_still_tells_whether_min_replicas_is_set() -> None:
    info = {**INFO, "connected_slaves": "1"}
    assert judge(info, {}).min_replicas_to_write == 0
    assert judge({**info, "min_slaves_good_slaves": "1"}, {}).min_replicas_to_write is None


def test_without_info_a_refused_write_tells_that_it_is_a_replica() -> None:
    found = judge({}, {}, trial={**TRIAL, "DEL": "READONLY You can't write against a read only replica."})
    assert [finding.code for finding in found.findings] == ["replica", "unknown"]


def test_the_kind_of_refusal() -> None:
    """Without scripts the modes without a lock still work, and their engine must be told so by the error's type."""
    assert type(seen(trial={"EVAL": NO_EVAL}).refusal()) is ScriptsForbidden
    assert type(seen(trial={"PUBLISH": NO_CHANNEL}).refusal()) is ScriptsForbidden
    refusal = seen({"role": "slave"}, trial={"EVAL": NO_EVAL}).refusal()
    assert type(refusal) is RedisUnavailable
    assert refusal.refused
    assert "replica" in str(refusal)


# --- probing


class Answering:
    """Answers as a server would; ``raises`` as redis-py does, else error objects as our own connection returns them."""

    def __init__(
        self,
        forbidden: tuple[str, ...] = (),
        *,
        raises: bool = False,
        mapped: bool = False,
        clock: float = 1_700_000_000,
    ) -> None:
        self.forbidden = forbidden
        self.clock = int(clock)
        self.raises = raises
        self.mapped = mapped
        self.asked: list[tuple[Any, ...]] = []

    async def __call__(self, *words: Any) -> Any:
        self.asked.append(words)
        if words[0] in self.forbidden:
            text = f"this user has no permissions to run the '{words[0].lower()}' command"
            if self.raises:
                raise NoPermissionError(text)
            return hiredis.ReplyError(f"NOPERM {text}")
        if words[0] == "INFO":
            lines = "".join(f"{name}:{value}\r\n" for name, value in INFO.items())
            return dict(INFO) if self.mapped else f"# Server\r\n{lines}".encode()
        if words[0] == "CONFIG":
            pairs = {name: value for name, value in CONFIG.items() if fnmatch(name, words[2])}
            return pairs if self.mapped else [word.encode() for pair in pairs.items() for word in pair]
        if words[0] == "EVAL":
            return [word.encode() for name, said in TRIAL.items() if name[0] != "E" for word in (name, said)]
        if words[0] == "EVALSHA":
            return hiredis.ReplyError("NOSCRIPT No matching script.")
        return [b"%d" % self.clock, b"0"] if words[0] == "TIME" else []


@pytest.mark.parametrize("raises", [True, False])
@pytest.mark.parametrize("mapped", [True, False])
async def test_probe_understands_every_shape(raises: bool, mapped: bool) -> None:
    """Raw replies and those that redis-py has parsed, errors raised and returned."""
    found = await probe(Answering(raises=raises, mapped=mapped))
    assert [finding.code for finding in found.findings] == ["clock"]
    assert (found.scripts, found.eviction, found.rdb, found.min_replicas_to_write) == (True, "noeviction", True, 0)
    forbidden = await probe(Answering(("INFO", "CONFIG", "TIME"), raises=raises, mapped=mapped))
    assert forbidden.refusal() is None
    assert len(forbidden.because) == 2
    assert {"version", "eviction policy", "snapshots", "clock"} <= set(forbidden.unknown)


async def test_probe_writes_nothing_but_names_of_its_own() -> None:
    ask = Answering()
    await probe(ask, prefix="shop")
    assert {words[0] for words in ask.asked} == {
        "HELLO",
        "INFO",
        "CLUSTER",
        "CONFIG",
        "EVAL",
        "EVALSHA",
        "FCALL",
        "FUNCTION",
        "WAITAOF",
        "TIME",
    }
    (evaluated,) = (words for words in ask.asked if words[0] == "EVAL")
    assert all(name.startswith("shop:") for name in evaluated[3:])


async def test_a_lost_connection_is_not_a_judgement() -> None:
    async def ask(*words: Any) -> Any:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await probe(ask)


# --- once per process and server


async def test_a_server_is_looked_at_once_per_process() -> None:
    ask = Answering()
    first, second = Checkup(ask, "a:1"), Checkup(ask, "a:1")
    assert first.known() is None
    found = await first.run()
    assert second.known() is found
    assert not second.begin()
    assert Checkup(ask, "b:1").known() is None
    assert Checkup(ask, "a:1", client="cluster").known() is None


async def test_findings_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sessionlock")
    ask: Ask = Answering(("EVAL", "CONFIG"))
    for _ in range(2):
        await Checkup(ask, "a:1").run()
    assert [(record.levelname, record.name) for record in caplog.records] == [
        ("WARNING", "sessionlock"),  # who takes no lock needs no script
        ("INFO", "sessionlock"),
        ("INFO", "sessionlock"),
    ]
    assert "scripts are not permitted" in caplog.messages[0]
    assert "not known: appendfsync" in caplog.messages[2]
    await Checkup(ask, "b:1").run()
    assert len(caplog.records) == 6


async def test_a_refusal_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator may have helped meanwhile: no process keeps refusing for ever."""
    ask = Answering(("EVAL",))
    checkup = Checkup(ask, "a:1")
    assert checkup.begin()
    await checkup.run()
    known = checkup.known()
    assert known is not None
    assert isinstance(known.refusal(), ScriptsForbidden)
    assert not checkup.begin()
    monkeypatch.setattr(capabilities, "REFUSED_FOR", -1.0)
    assert checkup.known() is None
    assert checkup.begin()
    ask.forbidden = ()
    assert (await checkup.run()).refusal() is None
    assert not checkup.begin()


async def test_only_one_looks_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another event loop waits for what the first finds out; but not for ever, for that one may have ended."""
    first, second = Checkup(silent, "a:1"), Checkup(silent, "a:1")
    assert first.begin()
    assert not second.begin()
    with monkeypatch.context() as later:
        later.setattr(capabilities, "BEGUN_FOR", -1.0)
        assert second.begin()
    with pytest.raises(ConnectionResetError):
        await second.run()
    assert first.begin()  # there was no answer: the next call tries again


def at_once(asks: Mapping[str, Ask]) -> Checkup:
    return Checkup(
        None, "all", client="cluster", everyone=lambda: nullcontext({name: Server(ask) for name, ask in asks.items()})
    )


async def silent(*words: Any) -> Any:
    raise ConnectionResetError("gone")


async def test_several_masters_are_looked_at_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """What some share is told in one line, one that is down is named; the next look tells nothing twice."""
    asks: dict[str, Ask] = {"m1": Answering(("EVAL",)), "m2": silent, "m3": Answering(("EVAL",)), "m4": Answering()}
    caplog.set_level(logging.WARNING, "sessionlock")
    for _ in range(2):
        found = await at_once(asks).run()
    refused, split, missing = caplog.messages
    assert refused.startswith("m1, m3: scripts are not permitted")
    assert split.startswith("m1, m3, m4: there may be a failover")
    assert missing == "m2: not looked at, for it did not answer: gone"
    assert found.refusal() is None, "m4 is fit: sessions there can be served"


async def test_masters_whose_clocks_are_apart(caplog: pytest.LogCaptureFixture) -> None:
    """It shows in no answer of one alone."""
    caplog.set_level(logging.WARNING, "sessionlock")
    now = time.time()
    await at_once({"m1": Answering(clock=now), "m2": Answering(clock=now - 60)}).run()
    assert any("the clock of m1 is 60.0 s ahead of that of m2" in message for message in caplog.messages)


async def test_masters_that_are_all_unfit_are_refused() -> None:
    checkup = at_once({"m1": Answering(("EVAL",)), "m2": silent, "m3": Answering(("EVAL",))})
    assert isinstance((await checkup.run()).refusal(), ScriptsForbidden)


async def test_masters_that_are_all_silent_are_not_judged() -> None:
    checkup = at_once({"m1": silent, "m2": silent})
    with pytest.raises(ConnectionResetError):
        await checkup.run()
    assert checkup.known() is None


async def test_names_of_servers_and_clients() -> None:
    redis_asyncio = pytest.importorskip("redis.asyncio")
    url = "redis://anna:secret@localhost:6390/2"
    client = redis_asyncio.Redis.from_url(url)
    assert server_name(client) == "anna@localhost:6390"
    assert client_kind(client) == "single"
    assert server_name(redis_asyncio.Redis(unix_socket_path="/run/redis")) == "/run/redis"
    sentinel = pytest.importorskip("redis.asyncio.sentinel").Sentinel([("localhost", 1)])
    shop, other = sentinel.master_for("shop"), sentinel.master_for("other")
    assert client_kind(shop) == "sentinel"
    assert server_name(shop) != server_name(other)
    clusters = [redis_asyncio.RedisCluster(host="localhost", port=port, username="anna") for port in (1, 2)]
    assert client_kind(clusters[0]) == "cluster"
    first, second = map(server_name, clusters)
    assert first.startswith("anna@cluster ")
    assert first != second
