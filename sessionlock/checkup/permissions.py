"""What a Redis user must be permitted, and no more: a rule for each use. No I/O.

The commands of the scripts are those that stand in them: a server checks what a script calls as well. One older than
7.0 knows no functions, one older than 6.2 no channels in rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["ALONGSIDE", "CONNECTING", "IN_SCRIPTS", "OF_A_USER", "OPERATING", "PURPOSES", "Purpose", "Rule", "rule_for"]

Purpose = Literal["lock", "optimistic", "quorum master", "quorum store"]
PURPOSES: Mapping[Purpose, str] = {
    "lock": "locks and sessions, in every mode (scripts)",
    "optimistic": "sessions without a lock and without scripts (optimistic, last_write_wins, merge, read; by WATCH)",
    "quorum master": "a master of a quorum: locks alone (scripts)",
    "quorum store": "the store of a quorum: sessions (scripts)",
}

# What every script may call.
IN_SCRIPTS = (
    *("hdel", "hexists", "hget", "hgetall", "hincrby", "hkeys", "hlen", "hmget", "hset", "hstrlen"),
    *("zadd", "zcard", "zpopmin", "zrange", "zrank", "zrem", "zscore"),
    *("del", "exists", "get", "pexpire", "pttl", "set", "time", "unlink"),
)
PUSHING = ("publish", "pubsub|numsub", "subscribe")
PUSHING_IN_CLUSTER = ("spublish", "pubsub|shardnumsub", "ssubscribe", "sunsubscribe")
BY_FUNCTION = ("fcall", "function|load")
BY_TEXT = ("eval", "evalsha")
OF_A_USER = (
    "del",
    "hget",
    "pexpire",
    "type",
    "zadd",
    "zrange",
    "zrangebyscore",
    "zrem",
)  # an index of sessions, outside of scripts
WITH_WATCH = (
    *("exists", "hdel", "hget", "hgetall", "hset", "pexpire", "pttl", "time"),
    *("exec", "multi", "unwatch", "watch"),
)

CONNECTING = ("ping", "role")
"""By which a connection shows that it lives, and leads to a master."""
OPERATING = "looking at all locks and sessions (sessionlock top, locks, sessions)"
ALONGSIDE: Mapping[str, tuple[str, ...]] = {
    "doctor and the look at the server see more": ("cluster|info", "config|get", "hello", "info", "waitaof"),
    "durability=Replicated(...)": ("wait", "waitaof"),
    "guard.repair_index()": ("scan",),
    OPERATING: ("dbsize", "hkeys", "hstrlen", "memory|usage", "scan"),
    "redis-py names itself in CLIENT LIST": ("client|setinfo", "client|setname"),
}


def literal(text: str) -> str:
    """As a pattern of Redis' that nothing else matches."""
    return "".join(f"\\{char}" if char in "\\*?[" else char for char in text)


@dataclass(frozen=True)
class Rule:
    """``commands`` in lower case, a subcommand behind a bar."""

    commands: tuple[str, ...]
    prefix: str

    def words(self, *, channels: bool = True) -> list[str]:
        """As ``ACL SETUSER`` takes them, behind a user's name and password. ``channels``: Redis 6.2 and newer."""
        names = f"{literal(self.prefix)}:*"
        heard = ["resetchannels", f"&{names}"] if channels else []
        return ["resetkeys", f"~{names}", *heard, "-@all", *(f"+{command}" for command in self.commands)]

    def without(self, command: str) -> Rule:
        return Rule(tuple(one for one in self.commands if one != command), self.prefix)


def rule_for(
    purpose: Purpose, prefix: str = "sl", *, functions: bool = True, cluster: bool = False, sharded: bool = True
) -> Rule:
    """What is enough for that. ``functions``: scripts run as functions (Redis 7.0 and newer), else by their text.
    ``sharded``: a Cluster's pushes are (Redis 7.0 and newer).
    """
    if purpose == "optimistic":
        wanted = {"ping", *WITH_WATCH}
    else:
        ways = BY_FUNCTION if functions else BY_TEXT
        heard = PUSHING_IN_CLUSTER if cluster and sharded else PUSHING
        wanted = {*CONNECTING, *IN_SCRIPTS, *ways, *heard}
        if purpose == "quorum master":
            wanted |= {"info"} if functions else {"info", "script|load"}
        else:
            wanted |= set(OF_A_USER)
    if cluster:
        wanted |= {"asking", "cluster|slots", "command"}
    return Rule(tuple(sorted(wanted)), prefix)
