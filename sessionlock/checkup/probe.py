"""Asks a server what it is, and what its answers say: see :mod:`sessionlock.checkup.capabilities`."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import hiredis
from redis.exceptions import AskError, AuthenticationError, ResponseError

from ..policies import Replicated
from ..transport.advice import FORBIDDEN, KEY_FORBIDDEN, NO_LUA, NOT_LET_IN, SCRIPTS_CHECKED, UNKNOWN
from ..transport.clients import ClientKind
from .findings import UNNAMED, WRITES, Capabilities
from .rules import findings_about
from .services import several_masters, sold_as

__all__ = ["Ask", "Server", "glance", "judge", "pairs_of", "probe", "tags_of", "words_of_glance"]

# Runs one plain command. An error that Redis replies is returned or raised; a lost connection is raised.
Ask = Callable[..., Awaitable[Any]]
Owner = TypeVar("Owner")


class Server(NamedTuple):
    """How to ask one server. ``tag``: of the names that it is asked about; in a Cluster they lie in a slot of its."""

    ask: Ask
    tag: str = "probe"


def tags_of(owners: Collection[Owner], owner_of: Callable[[bytes], Owner | None]) -> dict[Owner, str]:
    """For each master of a Cluster a hash tag in one of its slots. One that serves next to none may have none."""
    found: dict[Owner, str] = {}
    for number in range(MOST_TAGS):
        tag = f"probe{number}"
        owner = owner_of(tag.encode())
        if owner is not None and owner in owners:
            found.setdefault(owner, tag)
            if len(found) == len(owners):
                break
    return found


# One by one: before Redis 7.0 there is no other way, but for those that a pattern stands for.
SETTINGS = (
    "save",
    "appendfsync",
    "min-replicas-*",
    "max*",  # maxclients, maxmemory, maxmemory-policy
    "timeout",
    "tcp-keepalive",
    "client-output-buffer-limit",
    "lua-time-limit",
    "notify-keyspace-events",
    "proto-max-bulk-len",
    "client-query-buffer-limit",
)

MOST_TAGS = 1000  # that are tried

# What our scripts do, tried on names that nobody uses: nothing is changed. The key is declared: some servers run no
# script without one, and none that uses another.
TRIAL = """
local key = KEYS[1]
local said = {}
for _, words in ipairs({
  {'TIME'}, {'HGETALL', key}, {'DEL', key}, {'PEXPIRE', key, 1}, {'HDEL', key, 'x'}, {'ZREM', key, 'x'},
  {'ZPOPMIN', key}, {'PUBLISH', ARGV[1], ''}, {'SPUBLISH', ARGV[2], ''},
}) do
  local reply = redis.pcall(unpack(words))
  said[#said + 1] = words[1]
  said[#said + 1] = type(reply) == 'table' and reply.err or ''
end
return said
"""
TRIAL_SHA = hashlib.sha1(TRIAL.encode(), usedforsecurity=False).hexdigest()

# What is worth telling when it is not known: field → name.
_NAMES = {
    "version": "version",
    "role": "role",
    "mode": "cluster mode",
    "scripts": "whether scripts are permitted",
    "sharded_pubsub": "sharded pub/sub",
    "waitaof": "WAITAOF",
    "replicas": "replicas",
    "min_replicas_to_write": "min-replicas-to-write",
    "eviction": "eviction policy",
    "maxmemory": "maxmemory",
    "used_memory": "memory in use",
    "maxclients": "maxclients",
    "rdb": "snapshots",
    "aof": "append-only file",
    "clock_offset": "clock",
}
_OTHER_NAMES = {
    "keydb": "KeyDB",
    "valkey": "Valkey",
    "redict": "Redict",
    "dragonfly": "Dragonfly",
    "garnet": "Garnet",
    "kvrocks": "Kvrocks",
}


async def probe(
    ask: Ask,
    *,
    client: ClientKind = "single",
    prefix: str = "sl",
    tag: str = "probe",
    host: str = "",
    round_trip: float | None = None,
    durability: Replicated | None = None,
) -> Capabilities:
    """Ask a server with some twenty plain commands, all at once: one round trip, so that it is done even in an event
    loop that ends after one request. Nothing is changed.

    ``client``: what the guard was given. ``prefix``: the guard's, so that permissions on its names are tried.
    ``tag``: as of :class:`Server`. ``host``: its name, by which services are known. ``round_trip``: in seconds.
    ``durability``: what the guard's saves wait for.

    Raises:
        redis.exceptions.AuthenticationError: the server wants to know who asks. Whatever ``ask`` raises for a lost
            connection.
    """
    hello, info, slots, trial, waited, offset, *settings = await asyncio.gather(
        _answer(ask, "HELLO"),
        _answer(ask, "INFO"),
        _answer(ask, "CLUSTER", "INFO"),
        _try(ask, prefix, tag),
        _try_to_wait(ask, durability),
        _clock_offset(ask),
        *(_answer(ask, "CONFIG", "GET", setting) for setting in SETTINGS),
    )
    if NOT_LET_IN.search(_objection(info)):
        raise AuthenticationError(_text(info))
    refused = {
        "INFO": info,
        "CONFIG GET": next((said for said in settings if isinstance(said, Exception)), None),
        "CLUSTER INFO": slots if client == "cluster" else None,
        "EVAL": ResponseError(trial["EVAL"]) if trial.get("EVAL") and _scripts(trial) is None else None,
    }
    return judge(
        _parsed_info(info),
        dict(pair for said in settings for pair in pairs_of(said).items()),
        hello=pairs_of(hello),
        trial={**trial, **waited},
        clock_offset=offset,
        durability=durability,
        because=tuple(f"{asked}: {_short(said)}" for asked, said in refused.items() if isinstance(said, Exception)),
        client=client,
        slots=_parsed_info(slots),
        host=host,
        round_trip=round_trip,
    )


def words_of_glance(prefix: str = "sl", tag: str = "probe") -> tuple[tuple[str, ...], ...]:
    """Commands that tell which server it is and whether it takes writes. Nothing of it changes anything: the last one
    is a write to a key that there is not, and only where there is one (XX). A server that takes none refuses it.
    """
    write = ("SET", f"{prefix}:{{{tag}}}:lock", "", "XX", "PX", "1")
    return (("INFO",), ("ROLE",), ("CLUSTER", "INFO"), ("CONFIG", "GET", "min-replicas-*"), write)


def glance(
    info: Any, role: Any, slots: Any, replicas: Any, written: Any, *, client: ClientKind = "single"
) -> Capabilities:
    """What the replies to :func:`words_of_glance` tell, or the errors: whether a server takes writes now."""
    refused = {"INFO": info, "ROLE": role, "SET": written, **({"CLUSTER INFO": slots} if client == "cluster" else {})}
    told = _parsed_info(info)
    if "role" not in told and isinstance(role, (list, tuple)) and role:
        told["role"] = _text(role[0])
    return judge(
        told,
        pairs_of(replicas),
        because=tuple(f"{name}: {_short(said)}" for name, said in refused.items() if isinstance(said, Exception)),
        client=client,
        slots=_parsed_info(slots),
        written=None if _tells_nothing(written) else _objection(written),
    )


def _tells_nothing(said: Any) -> bool:
    """Of a write that was tried: it is forbidden, or for another node of a Cluster."""
    if isinstance(said, AskError):
        return True
    text = _objection(said)
    return bool(FORBIDDEN.search(text) or KEY_FORBIDDEN.search(text) or UNKNOWN.search(text))


async def _try(ask: Ask, prefix: str, tag: str) -> dict[str, str]:
    key = f"{prefix}:{{{tag}}}:lock"
    names = (1, key, f"{prefix}:push:probe", f"{prefix}:{{{tag}}}:push:probe")
    said, by_hash, waited, called, loaded = await asyncio.gather(
        _answer(ask, "EVAL", TRIAL, *names),
        _answer(ask, "EVALSHA", TRIAL_SHA, *names),
        _answer(ask, "WAITAOF", 0, 0, 1),
        _answer(ask, "FCALL", "sessionlock_probe", 1, key),  # there is none
        _answer(ask, "FUNCTION", "LOAD", ""),  # nor is this one
    )
    if KEY_FORBIDDEN.search(_objection(said)):
        # Scripts are not what is forbidden: with the names of keys the server does not even begin one.
        return dict.fromkeys(("HGETALL", *WRITES), _text(said))
    trial = {"EVAL": _objection(said)}
    if isinstance(said, (list, tuple)):
        trial.update(pairs_of(said))
    trial["EVALSHA"] = "" if "No matching script" in _text(by_hash) else _objection(by_hash)
    trial["WAITAOF"] = _objection(waited)
    for name, answer in (("FCALL", called), ("FUNCTION LOAD", loaded)):
        if isinstance(answer, Exception):
            text = _text(answer)
            trial[name] = text if FORBIDDEN.search(text) or UNKNOWN.search(text) else ""
    return trial


async def _try_to_wait(ask: Ask, durability: Replicated | None) -> dict[str, str]:
    """The command by which saves are to wait, for nothing that takes time."""
    if durability is None:
        return {}
    words = ("WAITAOF", 1, 0, 1) if durability.aof else ("WAIT", 0, 1)
    return {f"{words[0]} of saves": _objection(await _answer(ask, *words))}


async def _clock_offset(ask: Ask) -> float | None:
    before = time.time()
    said = await _answer(ask, "TIME")
    after = time.time()
    if isinstance(said, Exception):
        return None
    return int(said[0]) + int(said[1]) / 1e6 - (before + after) / 2


async def _answer(ask: Ask, *words: Any) -> Any:
    try:
        return await ask(*words)
    except (ResponseError, hiredis.ReplyError) as error:
        return error


def _objection(said: Any) -> str:
    return _text(said) if isinstance(said, Exception) else ""


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:120]


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def pairs_of(said: Any) -> dict[str, str]:
    """A reply of names and values, in whichever shape protocol and client give it."""
    if isinstance(said, Mapping):
        return {_text(name): _text(value) for name, value in said.items()}
    if isinstance(said, (list, tuple)):
        return {_text(name): _text(value) for name, value in zip(said[::2], said[1::2], strict=False)}
    return {}


def _parsed_info(said: Any) -> dict[str, str]:
    if isinstance(said, Mapping):
        return pairs_of(said)
    if not isinstance(said, (bytes, str)):
        return {}
    lines = (line.partition(":") for line in _text(said).splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in lines if colon}


# --- judging


def judge(
    info: Mapping[str, str],
    config: Mapping[str, str],
    *,
    hello: Mapping[str, str] | None = None,
    trial: Mapping[str, str] | None = None,
    clock_offset: float | None = None,
    because: tuple[str, ...] = (),
    client: ClientKind = "single",
    slots: Mapping[str, str] | None = None,
    host: str = "",
    round_trip: float | None = None,
    written: str | None = None,
    durability: Replicated | None = None,
) -> Capabilities:
    """What the answers mean. Each may be empty: what it would have told is then unknown, which is no error.

    ``info`` and ``config``: fields of INFO and CONFIG GET. ``hello``: those of HELLO (Redis 6), which any user may
    ask. ``trial``: command → objection, "" for none. ``because``: why some of it is missing, in the server's words.
    ``slots``: fields of CLUSTER INFO. ``host``, ``round_trip``, ``durability``: as of :func:`probe`. ``written``: as of
    :class:`.Capabilities`.
    """
    greeting, tried, cluster = hello or {}, trial or {}, slots or {}
    server, version = _identity(info, greeting)
    aof = _flag(info.get("aof_enabled"))
    found = Capabilities(
        server=server,
        version=version,
        role=info.get("role") or greeting.get("role") or ("replica" if _says(tried, "READONLY", "read only") else None),
        mode=_mode(info, greeting),
        client=client,
        protocol=_number(greeting.get("proto")),
        scripts=_scripts(tried),
        sharded_pubsub=_there(tried.get("SPUBLISH"), version, server, (7, 0)),
        waitaof=_there(tried.get("WAITAOF"), version, server, (7, 2)),
        replicas=_number(info.get("connected_slaves")),
        min_replicas_to_write=_min_replicas(info, config),
        min_replicas_max_lag=_number(config.get("min-replicas-max-lag")),
        good_replicas=_number(info.get("min_slaves_good_slaves")),
        eviction=info.get("maxmemory_policy") or config.get("maxmemory-policy"),
        maxmemory=_number(info.get("maxmemory") or config.get("maxmemory")),
        used_memory=_number(info.get("used_memory")),
        rdb=bool(config["save"].strip()) if "save" in config else None,
        aof=aof,
        fsync="" if aof is False else config.get("appendfsync") if aof else None,
        write_errors=tuple(
            name
            for name in ("rdb_last_bgsave_status", "aof_last_write_status")
            if info.get(name, "ok") not in ("ok", "")
        ),
        loading=info.get("loading") == "1",
        clock_offset=clock_offset,
        trial=tried,
        settings=dict(config),
        service=sold_as(host, info, greeting),
        several_masters=several_masters(info, greeting),
        evicted=_number(info.get("evicted_keys")),
        clients=_number(info.get("connected_clients")),
        maxclients=_number(info.get("maxclients") or config.get("maxclients")),
        slots=_number(cluster.get("cluster_slots_assigned")),
        slots_served=_number(cluster.get("cluster_slots_ok")),
        cluster_state=cluster.get("cluster_state"),
        written=written,
        durability=durability,
        run_id=info.get("run_id"),
        round_trip=round_trip,
        because=because,
    )
    hidden = [name for field, name in _NAMES.items() if getattr(found, field) is None]
    hidden += ["slots of the cluster"] if client == "cluster" and found.slots is None else []
    found = replace(found, unknown=tuple(hidden))
    return replace(found, findings=findings_about(found))


def _identity(info: Mapping[str, str], hello: Mapping[str, str]) -> tuple[str, tuple[int, ...] | None]:
    # Forks tell Redis' version, too, for the sake of clients that ask no further.
    for fork in ("valkey", "dragonfly", "redict", "garnet", "kvrocks"):
        if f"{fork}_version" in info:
            return _OTHER_NAMES[fork], _version(info[f"{fork}_version"])
    greeted = hello.get("server", "")
    version = _version(info.get("redis_version") or hello.get("version", ""))
    if "mvcc_depth" in info or "keydb" in info.get("executable", "").rpartition("/")[2]:
        return "KeyDB", version
    if greeted in ("", "redis"):
        return ("Redis" if greeted or version else UNNAMED), version
    return _OTHER_NAMES.get(greeted, greeted), version


def _version(text: str) -> tuple[int, ...] | None:
    match = re.search(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else None


def _mode(info: Mapping[str, str], hello: Mapping[str, str]) -> str | None:
    if info.get("cluster_enabled") == "1":
        return "cluster"
    return info.get("redis_mode") or info.get("server_mode") or hello.get("mode")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d+", text) else None


def _flag(text: str | None) -> bool | None:
    return None if text is None else text == "1"


def _min_replicas(info: Mapping[str, str], config: Mapping[str, str]) -> int | None:
    configured = _number(config.get("min-replicas-to-write"))
    if configured is not None:
        # With a lag of 0 the server does not look at its replicas, however many it is told to want.
        return 0 if config.get("min-replicas-max-lag") == "0" else configured
    # Without CONFIG: the field is there when, and only when, something is configured.
    return 0 if "connected_slaves" in info and "min_slaves_good_slaves" not in info else None


def _says(trial: Mapping[str, str], *words: str) -> bool:
    return any(word in trial.get(command, "") for command in WRITES for word in words)


def _scripts(trial: Mapping[str, str]) -> bool | None:
    """By their text, or as functions: one of the ways is enough."""
    if any(NO_LUA.search(said) or SCRIPTS_CHECKED.search(said) for said in trial.values()):
        return False
    by_text = _permitted(trial, "EVAL", "EVALSHA")
    return True if by_text is False and _permitted(trial, "FCALL", "FUNCTION LOAD") else by_text


def _permitted(trial: Mapping[str, str], *commands: str) -> bool | None:
    if any(FORBIDDEN.search(trial.get(name, "")) or UNKNOWN.search(trial.get(name, "")) for name in commands):
        return False
    return True if all(trial.get(name) == "" for name in commands) else None


def _there(said: str | None, version: tuple[int, ...] | None, server: str, since: tuple[int, ...]) -> bool | None:
    """Whether a command exists and may be used: by trying it, else by the version where that tells."""
    if said is not None:
        return not (FORBIDDEN.search(said) or UNKNOWN.search(said))
    return version >= since if version is not None and server in ("Redis", "Valkey") else None
