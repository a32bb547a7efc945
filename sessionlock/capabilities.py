"""What a server can do and how it is set up, and what that means for sessions and locks.

:func:`judge` decides from answers alone; :func:`probe` asks for them; :class:`Checkup` does it once per server and
process, beside the requests, and remembers. What an ACL does not let us find out is listed, not guessed.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import hiredis
from redis.exceptions import ResponseError

from .errors import RedisUnavailable, ScriptsForbidden, SessionLockError

__all__ = [
    "Ask",
    "Capabilities",
    "Checkup",
    "ClientKind",
    "Finding",
    "client_kind",
    "judge",
    "probe",
    "server_name",
    "unreachable_advice",
]

log = logging.getLogger("sessionlock")

# Runs one plain command. An error that Redis replies is returned or raised; a lost connection is raised.
Ask = Callable[..., Awaitable[Any]]
ClientKind = Literal["single", "sentinel", "cluster"]
Level = Literal["refuse", "warn", "info"]

OLDEST = (5, 0)
UNNAMED = "a server"
CLOCK_FAR_OFF = 10.0  # seconds
NEARLY_FULL = 0.9
KNOWN_FOR = 300.0  # seconds for which what was found out about a server counts for this process' other event loops
REFUSED_FOR = 5.0  # seconds after which a refused server is looked at again: a failover or an operator may have helped
SETTINGS = ("save", "appendfsync", "min-replicas-*", "maxmemory", "maxmemory-policy")

# What our scripts do, tried on names that nobody uses: nothing is changed. Without KEYS any node of a cluster runs it.
TRIAL = """
local key = ARGV[1]
local said = {}
for _, words in ipairs({
  {'TIME'}, {'HGETALL', key}, {'DEL', key}, {'PEXPIRE', key, 1}, {'HDEL', key, 'x'}, {'ZREM', key, 'x'},
  {'ZPOPMIN', key}, {'PUBLISH', ARGV[2], ''}, {'SPUBLISH', ARGV[3], ''},
}) do
  local reply = redis.pcall(unpack(words))
  said[#said + 1] = words[1]
  said[#said + 1] = type(reply) == 'table' and reply.err or ''
end
return said
"""
WRITES = ("DEL", "PEXPIRE", "HDEL", "ZREM", "ZPOPMIN")
TRIAL_SHA = hashlib.sha1(TRIAL.encode(), usedforsecurity=False).hexdigest()

# Servers word it differently, and once more for a command that a script calls.
_FORBIDDEN = re.compile(r"NOPERM|ACL failure|has no permissions|user executing the script can't", re.IGNORECASE)
_UNKNOWN = re.compile(r"unknown (redis )?(sub)?command|unsupported command|not supported", re.IGNORECASE)
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
    "rdb": "snapshots",
    "aof": "append-only file",
    "clock_offset": "clock",
}
_OTHER_NAMES = {"keydb": "KeyDB", "valkey": "Valkey", "redict": "Redict", "dragonfly": "Dragonfly", "garnet": "Garnet"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth knowing. ``code`` stays the same over releases; the other three are sentences for people.

    ``level``: ``"refuse"`` sessionlock does not work here, ``"warn"`` a promise is weaker than it looks, ``"info"``.
    """

    level: Level
    code: str
    what: str
    why: str
    advice: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}. {self.advice}"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a server is. None in a field: could not be found out.

    ``unknown`` names, for people, what could not be found out, and ``because`` has the server's words about it: an ACL
    that forbids INFO or CONFIG is no error.

    ``maxmemory`` and ``used_memory`` in bytes (0: no limit). ``fsync`` is ``appendfsync`` when there is an
    append-only file, else "". ``clock_offset``: seconds by which the server's clock is ahead of ours.
    ``trial``: command → what Redis said against it, "" when it worked.
    """

    server: str
    version: tuple[int, ...] | None
    role: str | None
    mode: str | None
    client: ClientKind
    protocol: int | None
    scripts: bool | None
    sharded_pubsub: bool | None
    waitaof: bool | None
    replicas: int | None
    min_replicas_to_write: int | None
    min_replicas_max_lag: int | None
    good_replicas: int | None
    eviction: str | None
    maxmemory: int | None
    used_memory: int | None
    rdb: bool | None
    aof: bool | None
    fsync: str | None
    write_errors: tuple[str, ...]
    loading: bool
    clock_offset: float | None
    trial: Mapping[str, str]
    because: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def cluster(self) -> bool | None:
        """Whether the server runs in cluster mode."""
        return None if self.mode is None else self.mode == "cluster"

    @property
    def title(self) -> str:
        """``Redis 7.0.15``."""
        return f"{self.server} {_dotted(self.version)}" if self.version else f"{self.server} of unknown version"

    def of_level(self, level: Level) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == level)

    def refusal(self) -> SessionLockError | None:
        """The error to raise instead of using this server; None when it can be used.

        :class:`ScriptsForbidden` when only locks are impossible (the modes without a lock work by WATCH), else
        :class:`RedisUnavailable`.
        """
        refused = self.of_level("refuse")
        if not refused:
            return None
        only_locks = all(finding.code in ("scripts", "push") for finding in refused)
        error = (ScriptsForbidden if only_locks else RedisUnavailable)("; ".join(map(str, refused)))
        error.refused = True
        return error


# --- asking


async def probe(ask: Ask, *, client: ClientKind = "single", prefix: str = "sl") -> Capabilities:
    """Ask a server with about a dozen plain commands, one after the other; nothing is changed.

    ``client``: what the guard was given. ``prefix``: the guard's, so that permissions on its names are tried.

    Raises:
        whatever ``ask`` raises for a lost connection.
    """
    because: list[str] = []
    hello = _pairs(await _answer(ask, "HELLO"))
    said = await _answer(ask, "INFO")
    info = _parsed_info(said)
    if isinstance(said, Exception):
        because.append(f"INFO: {_short(said)}")
    config: dict[str, str] = {}
    for setting in SETTINGS:
        said = await _answer(ask, "CONFIG", "GET", setting)
        config.update(_pairs(said))
        if isinstance(said, Exception):
            because.append(f"CONFIG GET: {_short(said)}")
            break
    trial = await _try(ask, prefix)
    offset = await _clock_offset(ask)
    return judge(info, config, hello=hello, trial=trial, clock_offset=offset, because=tuple(because), client=client)


async def _try(ask: Ask, prefix: str) -> dict[str, str]:
    names = (f"{prefix}:{{probe}}:lock", f"{prefix}:push:probe", f"{prefix}:push:{{probe}}")
    said = await _answer(ask, "EVAL", TRIAL, 0, *names)
    trial = {"EVAL": _objection(said)}
    if isinstance(said, (list, tuple)):
        trial.update(_pairs(said))
    said = await _answer(ask, "EVALSHA", TRIAL_SHA, 0, *names)
    trial["EVALSHA"] = "" if _text(said).startswith("NOSCRIPT") else _objection(said)
    trial["WAITAOF"] = _objection(await _answer(ask, "WAITAOF", 0, 0, 1))
    return trial


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


def _pairs(said: Any) -> dict[str, str]:
    """A reply of names and values, in whichever shape protocol and client give it."""
    if isinstance(said, Mapping):
        return {_text(name): _text(value) for name, value in said.items()}
    if isinstance(said, (list, tuple)):
        return {_text(name): _text(value) for name, value in zip(said[::2], said[1::2], strict=False)}
    return {}


def _parsed_info(said: Any) -> dict[str, str]:
    if isinstance(said, Mapping):
        return _pairs(said)
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
) -> Capabilities:
    """What the answers mean. Each may be empty: what it would have told is then unknown, which is no error.

    ``info`` and ``config``: fields of INFO and CONFIG GET. ``hello``: those of HELLO (Redis 6), which any user may
    ask. ``trial``: command → objection, "" for none. ``because``: why some of it is missing, in the server's words.
    """
    greeting, tried = hello or {}, trial or {}
    server, version = _identity(info, greeting)
    aof = _flag(info.get("aof_enabled"))
    found = Capabilities(
        server=server,
        version=version,
        role=info.get("role") or greeting.get("role") or ("replica" if _says(tried, "READONLY", "read only") else None),
        mode=_mode(info, greeting),
        client=client,
        protocol=_number(greeting.get("proto")),
        scripts=_permitted(tried, "EVAL", "EVALSHA"),
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
        because=because,
    )
    found = replace(found, unknown=tuple(name for field, name in _NAMES.items() if getattr(found, field) is None))
    findings = [finding for rule in _RULES for finding in rule(found)]
    order = ("refuse", "warn", "info")
    return replace(found, findings=tuple(sorted(findings, key=lambda finding: order.index(finding.level))))


def _identity(info: Mapping[str, str], hello: Mapping[str, str]) -> tuple[str, tuple[int, ...] | None]:
    # Forks tell Redis' version, too, for the sake of clients that ask no further.
    for fork in ("valkey", "dragonfly", "redict", "garnet"):
        if f"{fork}_version" in info:
            return _OTHER_NAMES[fork], _version(info[f"{fork}_version"])
    greeted = hello.get("server", "")
    version = _version(info.get("redis_version") or hello.get("version", ""))
    if "mvcc_depth" in info or "keydb" in info.get("executable", ""):
        return "KeyDB", version
    if greeted in ("", "redis"):
        return ("Redis" if greeted or version else UNNAMED), version
    return _OTHER_NAMES.get(greeted, greeted), version


def _version(text: str) -> tuple[int, ...] | None:
    match = re.search(r"\d+(?:\.\d+)*", text)
    return tuple(map(int, match[0].split("."))) if match else None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


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


def _permitted(trial: Mapping[str, str], *commands: str) -> bool | None:
    if any(_FORBIDDEN.search(trial.get(name, "")) or _UNKNOWN.search(trial.get(name, "")) for name in commands):
        return False
    return True if all(trial.get(name) == "" for name in commands) else None


def _there(said: str | None, version: tuple[int, ...] | None, server: str, since: tuple[int, ...]) -> bool | None:
    """Whether a command exists and may be used: by trying it, else by the version where that tells."""
    if said is not None:
        return not (_FORBIDDEN.search(said) or _UNKNOWN.search(said))
    return version >= since if version is not None and server in ("Redis", "Valkey") else None


Rule = Callable[[Capabilities], Iterator[Finding]]


def _old(found: Capabilities) -> Iterator[Finding]:
    known_old = found.server in ("Redis", "KeyDB") and found.version is not None and found.version < OLDEST
    if known_old or _UNKNOWN.search(found.trial.get("ZPOPMIN", "")):
        yield Finding(
            "refuse",
            "version",
            f"{found.title} is too old",
            "the scripts need ZPOPMIN and the replication of scripts by their effects",
            f"Use Redis {_dotted(OLDEST)} or newer, or Valkey",
        )


def _foreign(found: Capabilities) -> Iterator[Finding]:
    if found.server == "fakeredis":
        yield Finding(
            "info",
            "memory",
            "this is fakeredis",
            "sessions live in this process alone and end with it",
            "Use it for quick tests only",
        )
    elif found.server not in ("Redis", "Valkey", UNNAMED):
        yield Finding(
            "warn",
            "other-server",
            f"{found.title} is neither Redis nor Valkey",
            "sessionlock is tested with these two; another server's scripts, expiry and pub/sub may differ",
            "Run `sessionlock doctor` and your own tests against it",
        )


def _not_a_master(found: Capabilities) -> Iterator[Finding]:
    if found.mode == "sentinel" or found.role == "sentinel":
        yield Finding(
            "refuse",
            "sentinel",
            "this is a Sentinel, not a Redis server",
            "it keeps no data; it tells where the master is",
            "Use redis+sentinel://, or a client made by Sentinel.master_for()",
        )
    elif found.role in ("slave", "replica"):
        yield Finding(
            "refuse",
            "replica",
            "this server is a replica",
            "locks and sessions are written, and a replica takes no writes (or loses them)",
            "Connect to the master, or use redis+sentinel:// or redis+cluster://, which find it",
        )


def _clustered(found: Capabilities) -> Iterator[Finding]:
    if found.mode == "cluster" and found.client != "cluster":
        yield Finding(
            "refuse",
            "cluster",
            "this server is a node of a Redis Cluster, but the client is one for a single server",
            "it holds a part of the sessions only; the others would fail with MOVED",
            "Use redis+cluster://host:port, or give SessionGuard a RedisCluster client",
        )


def _forbidden(found: Capabilities) -> Iterator[Finding]:
    if found.mode == "sentinel":
        return
    if found.scripts is False:
        yield Finding(
            "refuse",
            "scripts",
            "scripts are not permitted here",
            "a lock is taken and given back by scripts, with or without a session",
            "Permit EVALSHA and EVAL (ACL SETUSER <user> +eval +evalsha); mode='optimistic' works without",
        )
    elif _FORBIDDEN.search(found.trial.get("PUBLISH", "")):
        yield Finding(
            "refuse",
            "push",
            "this user may not PUBLISH to the guard's channels",
            "the script that gives a lock back tells the next waiter so, and would fail",
            "Permit it: ACL SETUSER <user> +publish +subscribe &<prefix>:push:*",
        )
    forbidden = [name for name in ("TIME", "HGETALL", *WRITES) if _FORBIDDEN.search(found.trial.get(name, ""))]
    if forbidden:
        yield Finding(
            "refuse",
            "keys",
            f"this user may not use {', '.join(forbidden)} on the guard's keys",
            "locks and sessions are stored under them, by scripts that use these commands",
            "Permit it: ACL SETUSER <user> ~<prefix>:* +@read +@write +@scripting +time +publish +subscribe",
        )


def _evicting(found: Capabilities) -> Iterator[Finding]:
    policy = found.eviction
    if policy is None or policy == "noeviction":
        return
    which = "any key" if policy.startswith("allkeys") else "any key that expires, and all of ours do"
    unlimited = found.maxmemory == 0
    yield Finding(
        "info" if unlimited else "warn",
        "eviction",
        f"the eviction policy is {policy}" + (" (without a memory limit nothing is evicted yet)" if unlimited else ""),
        f"when the memory is full, {which} may vanish: sessions of users who are logged in, locks that are held."
        " Late saves stay refused, because fencing tokens go on by time",
        "Set maxmemory-policy noeviction on a server of its own for sessions",
    )


def _full(found: Capabilities) -> Iterator[Finding]:
    limit, used = found.maxmemory, found.used_memory
    if not limit or used is None or used < NEARLY_FULL * limit:
        return
    reached = used >= limit
    yield Finding(
        "warn",
        "maxmemory",
        f"{'all' if reached else f'{used / limit:.0%}'} of maxmemory is used",
        "with noeviction every new session and lock is refused when it is reached; else sessions are evicted",
        "Raise maxmemory, or shorten SessionPolicy.idle",
    )


def _unlasting(found: Capabilities) -> Iterator[Finding]:
    for name in found.write_errors:
        yield Finding(
            "warn",
            "write-errors",
            f"{name} is an error",
            "the server could not write its data to disk, and may refuse writes until it can",
            "See the server's log",
        )
    if found.rdb is False and found.aof is False and found.server != "fakeredis":
        wiped = bool(found.replicas)
        yield Finding(
            "warn" if wiped else "info",
            "persistence",
            "nothing is written to disk",
            "after a restart all sessions are gone"
            + ("; a master that restarts empty at once empties its replicas, too" if wiped else ""),
            "Where that matters set appendonly yes",
        )


def _splitting(found: Capabilities) -> Iterator[Finding]:
    replicated = bool(found.replicas) or found.client != "single" or found.mode == "cluster"
    if found.role in ("slave", "replica") or not replicated:
        return
    needed = found.min_replicas_to_write
    if needed == 0:
        yield Finding(
            "warn",
            "split-brain",
            "there may be a failover, and min-replicas-to-write is 0",
            "a master that was cut off and replaced goes on accepting locks and saves, which are lost afterwards",
            "Set min-replicas-to-write 1 and min-replicas-max-lag 1 (or a few seconds) on every server",
        )
    good = found.good_replicas
    if needed and good is not None and good < needed:
        yield Finding(
            "warn",
            "too-few-replicas",
            f"{good} of the {needed} replicas of min-replicas-to-write are there",
            "the server refuses every write (NOREPLICAS)",
            "See why the replicas are away",
        )


def _small_things(found: Capabilities) -> Iterator[Finding]:
    if found.loading:
        yield Finding(
            "info",
            "loading",
            "the server is still loading its data",
            "it answers nothing else until that is done",
            "Wait for it",
        )
    if found.server == "Redis" and found.version is not None and OLDEST <= found.version < (6, 0):
        yield Finding(
            "info",
            "resp2",
            f"{found.title} speaks RESP2 only",
            "from redis-py 8.0 on a client asks for RESP3 unless told otherwise, and then cannot connect",
            "Give protocol=2 to a client that you make yourself; for an URL that is done",
        )
    if found.clock_offset is not None and abs(found.clock_offset) > CLOCK_FAR_OFF:
        ahead = "ahead of" if found.clock_offset > 0 else "behind"
        yield Finding(
            "info",
            "clock",
            f"the server's clock is {abs(found.clock_offset):.0f} s {ahead} this machine's",
            "nothing here compares the two, but fencing tokens follow the server's clock when all state was lost",
            "Let NTP set both",
        )


_RULES: tuple[Rule, ...] = (
    _old,
    _foreign,
    _not_a_master,
    _clustered,
    _forbidden,
    _evicting,
    _full,
    _unlasting,
    _splitting,
    _small_things,
)


# --- once per process and server

_known: dict[tuple[str, ClientKind, str], tuple[float, Capabilities]] = {}
_told: set[tuple[str, str]] = set()


class Checkup:
    """One look at a server for one event loop, or none when this process knows that server already.

    ``server`` names it (:func:`server_name`). Findings are logged once per process and server.
    """

    def __init__(self, ask: Ask, server: str, *, client: ClientKind = "single", prefix: str = "sl") -> None:
        self._ask = ask
        self._server = server
        self._client: ClientKind = client
        self._prefix = prefix
        self._refused_until = 0.0
        self.found: Capabilities | None = None

    def known(self) -> Capabilities | None:
        """What this process found out about the server a short while ago; asks nothing."""
        at, found = _known.get(self._key, (0.0, None))
        if found is None or time.monotonic() - at > KNOWN_FOR:
            return None
        self.found = found
        return found

    async def run(self) -> Capabilities:
        """Ask, whatever is known, remember, and log.

        Raises:
            whatever ``ask`` raises for a lost connection; then nothing is known, and nothing refused.
        """
        found = await probe(self._ask, client=self._client, prefix=self._prefix)
        self.found = found
        if found.refusal() is None:
            _known[self._key] = (time.monotonic(), found)
            self._refused_until = 0.0
        else:
            _known.pop(self._key, None)
            self._refused_until = time.monotonic() + REFUSED_FOR
        tell(found, self._server)
        return found

    @property
    def due(self) -> bool:
        """Whether nothing is known, or a refusal has become old and should be looked at again."""
        return self.found is None or (self._refused_until > 0 and time.monotonic() > self._refused_until)

    def refusal(self) -> SessionLockError | None:
        """The error for the next call; None when the server is fit, not known yet, or due to be looked at again."""
        if self.found is None or time.monotonic() > self._refused_until:
            return None
        return self.found.refusal()

    @property
    def _key(self) -> tuple[str, ClientKind, str]:
        return (self._server, self._client, self._prefix)


def tell(found: Capabilities, server: str) -> None:
    """Log what is worth knowing, each finding once per process and server."""
    levels = {"refuse": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO}
    for finding in found.findings:
        if (server, finding.code) not in _told:
            _told.add((server, finding.code))
            log.log(levels[finding.level], "%s: %s", server, finding)
    if found.unknown and found.because and (server, "unknown") not in _told:
        _told.add((server, "unknown"))
        log.info("%s: unknown: %s (%s)", server, ", ".join(found.unknown), "; ".join(found.because))


def client_kind(client: Any) -> ClientKind:
    """What sort of ``redis.asyncio`` client this is, by its names: none of them needs to be imported."""
    if hasattr(client, "get_primaries"):
        return "cluster"
    pool = getattr(client, "connection_pool", None)
    return "sentinel" if hasattr(pool, "sentinel_manager") else "single"


def server_name(client: Any) -> str:
    """Where a ``redis.asyncio`` client connects to and as whom, without its password."""
    pool: Any = getattr(client, "connection_pool", None)
    options = getattr(pool, "connection_kwargs", None) or getattr(client, "connection_kwargs", {})
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    kind = client_kind(client)
    if kind == "cluster":
        where = "cluster " + ",".join(sorted(client.nodes_manager.startup_nodes))
    elif kind == "sentinel":
        where = f"sentinel {pool.service_name} {_sentinels(pool)}"
    user = options.get("username")
    return f"{user}@{where}" if user else str(where)


def _sentinels(pool: Any) -> str:
    clients = getattr(pool.sentinel_manager, "sentinels", ())
    return ",".join(sorted(server_name(sentinel) for sentinel in clients))


def unreachable_advice(error: BaseException) -> str:
    """What to do about a connection that failed; "" when the error says it all."""
    text = str(error)
    if re.search(r"unknown command\W+HELLO", text, re.IGNORECASE):
        return "this server speaks RESP2 only (Redis before 6.0): put protocol=2 into the URL (?protocol=2)"
    if re.search(r"NOAUTH|WRONGPASS|invalid username-password|invalid password", text, re.IGNORECASE):
        return "give the right user and password in the URL: redis://user:password@host:port/0"
    if re.search(r"\bMOVED\b", text):
        return "this is a node of a Redis Cluster: use redis+cluster://host:port"
    return ""
