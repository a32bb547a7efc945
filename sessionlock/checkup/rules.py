"""What the state of a server means for sessions and locks: each rule finds one kind of trouble. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from ..transport.advice import FORBIDDEN, NO_LUA, SCRIPTS_CHECKED, UNKNOWN, advised
from ..transport.clients import ClientKind
from .findings import UNNAMED, WRITES, Capabilities, Finding, dotted
from .settings import SETTINGS_RULES

__all__ = ["OLDEST", "findings_about"]

OLDEST = (5, 0)
CLOCK_FAR_OFF = 10.0  # seconds
NEARLY_FULL = 0.9

WITHOUT_SCRIPTS: Mapping[ClientKind, str] = {
    "single": "; mode='optimistic' works without",
    "sentinel": "; mode='optimistic' works without",
    "cluster": "; in a Cluster nothing works without",
    "quorum": "",
}
TRY = "Run your own tests against it"
OTHERS = {
    "Dragonfly": ("it runs scripts with declared keys only, as ours are, and has no functions", TRY),
    "KeyDB": (
        "it has no functions; with active-replica several masters would grant one lock",
        "Leave active-replica off",
    ),
    "Garnet": ("its scripts may not publish in all versions, and it has no functions", TRY),
    "Kvrocks": (
        "its data lie on disk, so each call takes longer; it calls itself Redis 4.0.0, which does not count",
        TRY,
    ),
}
# What it would mean that a field is not as it should be, which is not known.
WHAT_IF = (
    ("scripts", "whether scripts are permitted", "without scripts no lock works"),
    ("slots", "slots of the cluster", "sessions whose slots nobody serves cannot be reached"),
    ("role", "role", "a replica takes no writes"),
    ("eviction", "eviction policy", "if it evicts, sessions and locks vanish when the memory is full"),
    ("rdb", "snapshots", "if nothing is written to disk, all sessions end when it restarts"),
    ("aof", "append-only file", "without one a crash loses what was saved lately"),
    ("fsync", "appendfsync", "with no, a crash of the machine loses half a minute of saves"),
    ("replicas", "replicas", "if there are some, a failover loses what they had not received"),
    ("min_replicas_to_write", "min-replicas-to-write", "with 0, a master that was cut off goes on accepting saves"),
)

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
        why, advice = OTHERS.get(found.server, ("another server's scripts, expiry and pub/sub may differ", TRY))
        yield Finding(
            "warn",
            "other-server",
            f"{found.title} is neither Redis nor Valkey, which sessionlock is tested with",
            why,
            advice,
        )


def _sold(found: Capabilities) -> Iterator[Finding]:
    if found.several_masters:
        yield Finding(
            "refuse",
            "active-active",
            f"this is one of several masters ({found.several_masters})",
            "each grants a lock that the others learn of later: two requests hold it at once, and a save is lost",
            "Keep locks and sessions where there is one master",
        )
    elif found.service is not None:
        yield Finding("info", "service", f"this is {found.service.name}", found.service.why, found.service.advice)


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
    pushed = found.trial.get("SPUBLISH" if found.client == "cluster" and found.sharded_pubsub else "PUBLISH", "")
    if any(NO_LUA.search(said) for said in found.trial.values()):
        yield Finding(
            "refuse",
            "lua",
            f"{found.title} has no Lua",
            "a lock is taken and given back by scripts, and they are written in it",
            "Load its Lua module (libvalkeylua.so, a package of its own in some distributions)"
            if found.server == "Valkey"
            else "Switch it on where the server is started (Garnet: --lua)",
        )
    elif any(SCRIPTS_CHECKED.search(said) for said in found.trial.values()):
        yield Finding(
            "refuse",
            "scripts-checked",
            "a proxy reads scripts before it lets them pass, and refuses ours",
            "it wants each key literally as KEYS[i]; a lock is taken and given back by scripts that name their keys",
            "Set script_check_enable 0 at the service, or take an instance that is no cluster",
        )
    elif found.scripts is False:
        yield Finding(
            "refuse",
            "scripts",
            "scripts are not permitted here",
            "a lock is taken and given back by scripts, with or without a session",
            "Permit EVALSHA and EVAL (ACL SETUSER <user> +eval +evalsha), under these names"
            + WITHOUT_SCRIPTS[found.client],
        )
    elif FORBIDDEN.search(pushed):
        yield Finding(
            "refuse",
            "push",
            "this user may not PUBLISH to the guard's channels",
            "the script that gives a lock back tells the next waiter so, and would fail",
            "Permit it: ACL SETUSER <user> +publish +subscribe +spublish +ssubscribe &<prefix>:*",
        )
    elif pushed:
        yield Finding(
            "warn",
            "no-push",
            "scripts may not publish here",
            f"who waits is not told of its turn, and looks for it up to once a second ({pushed})",
            "Where requests of one session often wait for each other take another server",
        )
    forbidden = [name for name in ("TIME", "HGETALL", *WRITES) if FORBIDDEN.search(found.trial.get(name, ""))]
    if forbidden:
        yield Finding(
            "refuse",
            "keys",
            f"this user may not use {', '.join(forbidden)} on the guard's keys",
            "locks and sessions are stored under them, by scripts that use these commands",
            "Permit it: `sessionlock doctor --acl` prints the rule",
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


def _too_few(found: Capabilities) -> Iterator[Finding]:
    needed, good = found.min_replicas_to_write, found.good_replicas
    # Where CONFIG tells nothing: that they are counted says that at least one is wanted.
    if good is not None and good < (1 if needed is None else needed) and found.role not in ("slave", "replica"):
        wanted = "" if needed is None else f"{needed} "
        yield Finding(
            "warn",
            "too-few-replicas",
            f"{good} of the {wanted}replicas of min-replicas-to-write are there",
            "the server refuses every write (NOREPLICAS)",
            "See why the replicas are away, or set min-replicas-to-write 0 where there are to be none",
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
    if found.min_replicas_to_write == 0 and not (found.service and found.service.keeps_all):
        yield Finding(
            "warn",
            "split-brain",
            "there may be a failover, and min-replicas-to-write is 0",
            "a master that was cut off and replaced goes on accepting locks and saves, which are lost afterwards",
            "Where the service lets nobody set it, durability=Replicated(replicas=1) tells of each save whether a"
            " replica has it"
            if found.service
            else "Set min-replicas-to-write 1 and min-replicas-max-lag 1 (or a few seconds) on every server",
        )


def _unable_to_wait(found: Capabilities) -> Iterator[Finding]:
    wanted = found.durability
    if wanted is None:
        return
    command = str(wanted.command[0])
    said = found.trial.get(f"{command} of saves", "")
    if said:
        then = (
            "each request would end with NotDurable" if wanted.required else "session.saved.enough is False each time"
        )
        yield Finding(
            "refuse" if wanted.required else "warn",
            "durability",
            f"saves cannot wait by {command} here ({said})",
            f"durability=Replicated(...) was asked for: each save is stored, how far it came is not known, and {then}",
            "Let this user do that (ACL SETUSER <user> +wait +waitaof), set appendonly yes for aof=True, or leave"
            " durability out where the server has no such command",
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


def _unknown(found: Capabilities) -> Iterator[Finding]:
    idle = {"fsync"} if not found.aof else {"rdb"}  # of no interest then
    if found.client == "quorum":  # it may forget, and is to have no replicas
        idle |= {"rdb", "aof", "replicas", "min_replicas_to_write"}
    if found.client != "cluster":
        idle |= {"slots"}
    hidden = [(name, why) for field, name, why in WHAT_IF if getattr(found, field) is None and field not in idle]
    if found.service is not None and found.service.may_have_several_masters and not found.several_masters:
        hidden.append(("whether it is Active-Active", "several masters would grant one lock to several holders"))
    if any(reason.startswith("CONFIG GET:") for reason in found.because) and not found.settings:
        hidden.append(("timeouts and limits", "small ones cut off waiters, or requests with a large session"))
    if not hidden or found.server == "fakeredis" or found.loading:
        return
    yield Finding(
        "info",
        "unknown",
        f"not known: {', '.join(name for name, _ in hidden)}"
        + (f" ({'; '.join(found.because)})" if found.because else ""),
        "; ".join(why for _, why in hidden),
        _how_to_know(found),
    )


def _how_to_know(found: Capabilities) -> str:
    if found.service:
        return f"See what {found.service.name} says about it"
    asked = [reason.partition(":")[0] for reason in found.because if not FORBIDDEN.search(reason)]
    if found.because and len(asked) == len(found.because) and "EVAL" in asked:
        return advised(found.because[-1], otherwise="look again when it answers")
    commands = ["INFO", "CONFIG GET"]
    if found.client == "cluster" and found.slots is None:
        commands.append("CLUSTER INFO")
    rule = " ".join(f"+{name.lower().replace(' ', '|')}" for name in commands)
    return f"Permit {', '.join(commands)} (ACL SETUSER <user> {rule}), or ask whoever runs the server"


_RULES: tuple[Rule, ...] = (
    _old,
    _foreign,
    _sold,
    _not_a_master,
    _clustered,
    _forbidden,
    _evicting,
    _full,
    _unlasting,
    _too_few,
    _splitting,
    _unable_to_wait,
    _small_things,
    *SETTINGS_RULES,
    _unknown,
)
