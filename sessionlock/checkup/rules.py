"""What the state of a server means for sessions and locks: each rule finds one kind of trouble. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..transport.advice import FORBIDDEN, UNKNOWN
from .findings import UNNAMED, WRITES, Capabilities, Finding, dotted

__all__ = ["OLDEST", "findings_about"]

OLDEST = (5, 0)
CLOCK_FAR_OFF = 10.0  # seconds
NEARLY_FULL = 0.9

Rule = Callable[[Capabilities], Iterator[Finding]]


def findings_about(found: Capabilities) -> tuple[Finding, ...]:
    """What is worth knowing, the worst first."""
    findings = [finding for rule in _RULES for finding in rule(found)]
    order = ("refuse", "warn", "info")
    return tuple(sorted(findings, key=lambda finding: order.index(finding.level)))


def _old(found: Capabilities) -> Iterator[Finding]:
    known_old = found.server in ("Redis", "KeyDB") and found.version is not None and found.version < OLDEST
    if known_old or UNKNOWN.search(found.trial.get("ZPOPMIN", "")):
        yield Finding(
            "refuse",
            "version",
            f"{found.title} is too old",
            "the scripts need ZPOPMIN and the replication of scripts by their effects",
            f"Use Redis {dotted(OLDEST)} or newer, or Valkey",
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
            "Name a master in its place"
            if found.client == "quorum"
            else "Connect to the master, or use redis+sentinel:// or redis+cluster://, which find it",
        )


def _clustered(found: Capabilities) -> Iterator[Finding]:
    if found.client == "quorum":
        if found.mode == "cluster":
            yield Finding(
                "refuse",
                "cluster",
                "this server is a node of a Redis Cluster",
                "it serves a part of the locks only, and the cluster may put a replica in its place",
                "Name servers that know nothing of each other",
            )
    elif found.mode == "cluster" and found.client != "cluster":
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
            "Permit EVALSHA and EVAL (ACL SETUSER <user> +eval +evalsha), under these names"
            + ("" if found.client == "quorum" else "; mode='optimistic' works without"),
        )
    elif FORBIDDEN.search(found.trial.get("PUBLISH", "")):
        yield Finding(
            "refuse",
            "push",
            "this user may not PUBLISH to the guard's channels",
            "the script that gives a lock back tells the next waiter so, and would fail",
            "Permit it: ACL SETUSER <user> +publish +subscribe &<prefix>:push:*",
        )
    forbidden = [name for name in ("TIME", "HGETALL", *WRITES) if FORBIDDEN.search(found.trial.get(name, ""))]
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
    if found.client == "quorum":
        lost = "locks that are held, so that another holder gets them, too"
    else:
        lost = "sessions of users who are logged in, locks that are held"
    which = "any key" if policy.startswith("allkeys") else "any key that expires, and all of ours do"
    unlimited = found.maxmemory == 0
    yield Finding(
        "info" if unlimited else "warn",
        "eviction",
        f"the eviction policy is {policy}" + (" (without a memory limit nothing is evicted yet)" if unlimited else ""),
        f"when the memory is full, {which} may vanish: {lost}."
        " Late saves stay refused, because fencing tokens go on by time",
        "Set maxmemory-policy noeviction on a server of its own for sessions and locks",
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
    if found.client == "quorum":
        return  # that a master may forget is what Quorum.rejoin_after is for
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
    if found.client == "quorum":
        if found.replicas:
            yield Finding(
                "warn",
                "quorum-replicas",
                f"this master of a quorum has replicas ({found.replicas})",
                "one that is promoted may not know of the locks that its master granted, and votes at once",
                "Let nothing promote it; a quorum goes on without a minority of its masters",
            )
        return
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
