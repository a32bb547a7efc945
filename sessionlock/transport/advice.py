"""What Redis, and the way to it, say when something is wrong: known here and nowhere else, with what to do about it.

Used by every call, by the look at a server, by outages, quorums and ``sessionlock doctor``. Words of all versions and
forks, as a server sends them (``NOPERM …``) and as redis-py passes them on (without the first word).
"""

from __future__ import annotations

import re

__all__ = [
    "FORBIDDEN",
    "FULL",
    "KEY_FORBIDDEN",
    "LOADED_ALREADY",
    "NOTHING_NOW",
    "NOT_FOUND",
    "NOT_HERE",
    "NOT_LET_IN",
    "NOT_LOADED",
    "NOT_NOW",
    "NOT_NOW_BEHIND",
    "NO_FUNCTIONS",
    "NO_LUA",
    "NO_RESP3",
    "NO_SCRIPTS",
    "ONE_SLOT",
    "PLIGHTS",
    "SCRIPTS_CHECKED",
    "UNKNOWN",
    "advice_about",
    "advised",
    "passes",
    "with_advice",
]

# --- kinds of answers that code decides by

# What is between says that the server behind it was not reached, or limits how much is asked: proxies (Envoy,
# twemproxy, predixy) and services. Each has words of its own, and none a code. Not what stays so: what is
# too large, and the end of what a plan allows in a day or a month.
_IN_BETWEEN = (
    r"(?:[A-Z]+ )?(?!.*(?:script|protocol error: |syntax| size\b|unknown command|max (?:\w+ )?requests? limit))"
    r"(?:.*\b)?"
    r"(?:upstream|no (?:healthy|route to|server|available)|server (?:connection|closed|is busy|overloaded)"
    r"|connection (?:refused|reset|timed out|closed|lost|aborted)|broken pipe|operation timed out"
    r"|(?:host|network) is (?:down|unreachable)|disconnected|(?:failed|unable) to connect|could ?n[o']t connect"
    r"|max (?:[\w-]+ ){1,6}(?:exceeded|reached)|rate limit|too many (?:requests|connections)|throttl"
    r"|backend conn|deliver request fail|slot\S* is not ready|temporarily|try again|service unavailable)"
)
# "Not now": a server that loads its data set, a master being replaced, a slot being moved, a proxy without its server.
NOT_NOW = re.compile(r"^(LOADING|TRYAGAIN|MASTERDOWN|CLUSTERDOWN|READONLY|BUSY|UNBLOCKED|NOREPLICAS) ")
NOT_NOW_BEHIND = re.compile(
    rf"^(?!NOPERM|NOAUTH|WRONGPASS|DENIED|OOM|MISCONF|NOSCRIPT|MOVED|ASK|CROSSSLOT|WRONGTYPE|EXECABORT)(?i:{_IN_BETWEEN})"
)
# Those that hold for everything that is asked. The rest is about writes, or about one slot of a Cluster.
NOTHING_NOW = re.compile(r"^(LOADING|MASTERDOWN|BUSY|CLUSTERDOWN (?!Hash slot))")
# Those of a server that is the wrong one to ask again.
NOT_HERE = re.compile(r"^(READONLY|MASTERDOWN|UNBLOCKED)")
# There is a cluster behind what looks like one server: what a call names must be of one slot.
ONE_SLOT = re.compile(r"^CROSSSLOT|must (?:be )?in (?:the )?same slot", re.IGNORECASE)
# A server reads no long command of somebody whom it does not know.
NOT_LET_IN = re.compile(r"^(NOAUTH|WRONGPASS|DENIED)\b|unauthenticated (multi)?bulk")
# redis-py takes a server that does not know HELLO for a lost connection.
NO_RESP3 = re.compile(r"unknown command\W+HELLO|NOPROTO|unsupported protocol version", re.IGNORECASE)
# The user may not run scripts, or the administrator has given these commands other names. What a script itself meets
# is another matter.
_RUN = r"(?:evalsha|eval|script|fcall|function)(?:_ro)?\b"
_REFUSED = "not (?:allowed|available|support|permitted)|disabled|denied|blocked|forbidden"
# A server that has the commands, but no Lua: Valkey without its module, Garnet as it is when nobody asks for it.
NO_LUA = re.compile(
    r"could not find scripting engine|Engine '?lua'? not found|Lua scripting support disabled", re.IGNORECASE
)
_UNNAMED = r"^ERR unknown command\.?$"  # of servers that do not say which; of whoever asks for a script it is that
# A proxy that reads scripts, and takes keys only where they stand literally as KEYS[i].
SCRIPTS_CHECKED = re.compile(r"bad lua script for redis cluster", re.IGNORECASE)
NO_SCRIPTS = re.compile(
    rf"^NOPERM .*?\b(?:run|execute|use|access)\W+(?:the\W+)?{_RUN}|^ERR (?:unknown|unsupported) command\W+{_RUN}"
    rf"|^ERR (?:command\W+)?{_RUN}.*(?:{_REFUSED})|^ERR (?:this )?command is (?:{_REFUSED})\W+{_RUN}"
    rf"|{_UNNAMED}|^ERR .*(?:{NO_LUA.pattern})|^ERR {SCRIPTS_CHECKED.pattern}",
    re.IGNORECASE,
)
# Before Redis 7.0, behind some proxies, in fakeredis; and where ACLs permit scripts, but no functions.
NO_FUNCTIONS = re.compile(
    rf"^(?:ERR|NOPERM) (?=.*\bfcall\b).*(?:unknown|unsupported|permission|{_REFUSED})|{_UNNAMED}",
    re.IGNORECASE | re.DOTALL,
)
NOT_FOUND = "ERR Function not found"
NOT_LOADED = "NOSCRIPT"
LOADED_ALREADY = "already exists"
# A function is not even begun then. A script is, up to its first write, so that it tells what was done already and
# can give a lock up.
PLIGHTS = ("OOM ", "MISCONF ", "NOREPLICAS ")
# Those that a server may be in for long. Who begins something had better be told at once, and has lost nothing; for
# whoever brings what was worked out it is "not now".
FULL = ("OOM ", "MISCONF ")
# Once more for a command that a script calls.
FORBIDDEN = re.compile(r"NOPERM|ACL failure|no permissions|user executing the script can't", re.IGNORECASE)
KEY_FORBIDDEN = re.compile(
    r"permissions to access (?:a|one of the) keys?|keys? mentioned in the command", re.IGNORECASE
)
UNKNOWN = re.compile(
    rf"unknown (redis )?(sub)?command|unsupported command|not supported|command is (?:{_REFUSED})", re.IGNORECASE
)

# --- what to do, by the first of these that was said; "{}" is what the pattern's group matched

_ADVICE = (
    # Who asks
    (
        NO_RESP3.pattern,
        "this server speaks RESP2 only (Redis before 6.0): give its client protocol=2 (?protocol=2 in an URL)",
    ),
    (
        "NOAUTH|unauthenticated (?:multi)?bulk|authentication required",
        "the server wants a password: give it in the URL, redis://user:password@host:port/0 or redis://:password@host:port/0",
    ),
    (
        "WRONGPASS|invalid username-password|invalid password|wrong number of arguments for 'auth'",
        "user or password is wrong: redis://user:password@host:port/0, or redis://:password@… where there is no user."
        " Redis before 6.0 knows no users",
    ),
    (
        "called without any password|no password is set",
        "this server has no password: take it out of the URL, or set one at the server",
    ),
    (
        "running in protected mode|^DENIED",
        "set a password at the server (requirepass, or ACL SETUSER) and give it in the URL, or let it listen at the"
        " addresses that your application uses only (bind)",
    ),
    (
        "max number of clients|max clients|maxclients",
        "the server has as many connections as it may: raise its maxclients, and look at CLIENT LIST for what leaves"
        " them open. A guard needs two for each process; make one and keep it",
    ),
    (
        r"max (?:\w+ )?requests? limit",
        "the requests of the service's plan are used up: take a larger one",
    ),
    # What that user may do
    (
        NO_LUA.pattern,
        "this server has no Lua, in which a lock's scripts are written: load Valkey's Lua module (a package of its own"
        " in some distributions), or start Garnet with --lua; mode='optimistic' works without",
    ),
    (
        SCRIPTS_CHECKED.pattern,
        "this proxy reads scripts before it lets them pass: set script_check_enable 0 at the service;"
        " mode='optimistic' works without",
    ),
    (
        NO_SCRIPTS.pattern,
        "a lock is taken and given back by scripts: permit them (ACL SETUSER <user> +eval +evalsha +script|load), and"
        " do not rename these commands; mode='optimistic' works without",
    ),
    (
        r"channels?\b.*(?:used as arguments|mentioned in the command)|permissions to access a channel",
        "permit the guard's channels: ACL SETUSER <user> +publish +subscribe +spublish +ssubscribe &<prefix>:*",
    ),
    (
        KEY_FORBIDDEN.pattern,
        "permit the guard's keys: ACL SETUSER <user> ~<prefix>:*",
    ),
    (
        r"permissions? to (?:run|execute|use|access)\W+(?:the\W+)?'?([\w|]+)",
        "permit that command: ACL SETUSER <user> +{}",
    ),
    (
        FORBIDDEN.pattern,
        "permit it: ACL SETUSER <user> ~<prefix>:* &<prefix>:* +@read +@write +@scripting +time +publish +subscribe",
    ),
    (
        r"\bWAIT(?:AOF)?\b",
        "durability=Replicated(...) needs this command: saves are stored all the same, and how far they came is not"
        " known. Take durability away, or a server that has it (aof=True: Redis 7.2 and newer, with appendonly yes)",
    ),
    # Which server that is
    (
        r"\b(?:MOVED|ASK) \d|SELECT is not allowed in cluster mode|CROSSSLOT",
        "this is a node of a Redis Cluster: use redis+cluster://host:port, or a RedisCluster client",
    ),
    (
        "slots are not covered",
        "some slots of this cluster belong to no node: give them to one (redis-cli --cluster fix), or bring the node"
        " back that had them",
    ),
    (
        "cluster support disabled|cluster mode is not enabled|CLUSTER command.*disabled",
        "this is no Redis Cluster: use redis://host:port",
    ),
    (
        r"READONLY|read only replica",
        "this server is a replica: connect to the master, or by redis+sentinel:// or redis+cluster://, which find it",
    ),
    (
        r"no master found for '[^']*'$",
        "these sentinels answer, but hold no master of that name for up: check the service's name; where a failover is"
        " under way it is over soon",
    ),
    (
        "no master found for",
        "none of these sentinels told of a master: check their hosts and ports, that they run, and the service's name",
    ),
    (
        r"DB index is out of range|invalid DB index",
        "give a database that the server has: the number at the end of the URL",
    ),
    (
        r"unknown (?:redis )?command\W+(?:called from.*|(\w+))",
        "the server is too old, or its administrator has renamed or switched off that command: sessionlock doctor tells"
        " what is missing",
    ),
    # How it fares
    (r"LOADING|loading the dataset", "it is reading its data after a start: wait until it has"),
    (r"^BUSY\b|busy running a script", "a script of another application runs too long: SCRIPT KILL ends it"),
    (
        "MASTERDOWN|CLUSTERDOWN|cluster is down",
        "no master serves this now: look whether a failover is under way, and at the logs of the servers",
    ),
    (
        "TRYAGAIN|during rehashing of slot",
        "keys of this slot are on their way to another node: try again in a moment, or see whether a move of slots has"
        " stopped half way (redis-cli --cluster check)",
    ),
    (
        "MISCONF|persist to disk|errors writing to the AOF",
        "the server cannot write to its disk and takes no writes: free space there, see its log (INFO persistence)",
    ),
    (
        r"\bOOM\b|used memory > 'maxmemory'",
        "the server's memory is full: raise maxmemory, or shorten SessionPolicy.idle; what is given back is let in",
    ),
    (
        "NOREPLICAS|not enough good replicas",
        "fewer replicas than min-replicas-to-write are there: see why they are away",
    ),
    (
        "WRONGTYPE|wrong kind of value",
        "another application uses a key of the guard's: give the guard a prefix of its own (prefix=), or another"
        " database",
    ),
    # The way there
    (
        "each time that this was sent",
        "a limit of the server closes connections over what is asked or answered, while others are served: see"
        " client-output-buffer-limit normal, maxmemory-clients, client-query-buffer-limit and proto-max-bulk-len there,"
        " and keep the session smaller (SessionPolicy.max_session)",
    ),
    (
        rf"^ERR {_IN_BETWEEN}|^(?:upstream|no (?:upstream|healthy)) ",
        "what stands between (a proxy, or the service) did not reach the server behind it, or limits how much is asked:"
        " see its log and its limits",
    ),
    (
        "no (?:connection|answer) within",
        "the server hangs, or the way to it does: look at its load and log, at firewalls between, and whether there is"
        " TLS at that port (rediss://) or not (redis://)",
    ),
    (
        "connect call failed|connection refused",
        "nobody listens there: check host and port, that the server is running, and that it listens at this address"
        " (bind) and port (its tls-port is for rediss://, its port for redis://)",
    ),
    (r"connecting to /.*no such file", "check the path of the socket, and that the server is running"),
    (r"connecting to /.*permission denied", "this process may not use that socket: see unixsocketperm, or its group"),
    (
        "name or service not known|nodename nor servname|name resolution|no address associated|getaddrinfo failed",
        "check the name of the host",
    ),
    (
        "WRONG_VERSION_NUMBER|record layer failure|UNEXPECTED_EOF",
        "this port is not for TLS: use redis://, or the server's tls-port",
    ),
    (
        "hostname mismatch|ip address mismatch|doesn't match|not valid for",
        "the server's certificate is for another name: use the host's name that stands in it",
    ),
    (
        "certificate has expired|certificate is not yet valid",
        "renew the server's certificate; if it is good, look at this machine's clock",
    ),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "name the authority that signed the server's certificate in the URL (?ssl_ca_certs=/path/to/ca.pem)",
    ),
    (
        "CERTIFICATE_REQUIRED|HANDSHAKE_FAILURE|BAD_CERTIFICATE|UNKNOWN_CA",
        "the server wants to see a certificate of yours: give it in the URL (?ssl_certfile=…&ssl_keyfile=…)",
    ),
    (
        r"\[Errno 2\] no such file|\[SSL\] PEM lib|no certificate or crl found",
        "check the files of ssl_ca_certs, ssl_certfile and ssl_keyfile",
    ),
    (
        "invalid (?:multi)?bulk length|max request size|request (?:is )?too large",
        "the server takes no request as large as this one: raise its proto-max-bulk-len, or lower"
        " SessionPolicy.max_session, so that it is refused before anything is sent",
    ),
    (
        "not the Redis protocol|invalid response|protocol error",
        "something else than Redis listens there: check the port",
    ),
)
# How redis-py names a Sentinel that was asked in vain: by all settings of its client.
_CLIENT = re.compile(r"<redis\.asyncio\.client\.(Redis)\(.*?\bhost=([^,)>]+),port=(\d+).*?\)>\)>\)>")
# Of a connection that was never open: what else closes one is a server that ends.
_CUT_OFF = "reset by peer|closed by (?:the )?server|broken pipe|connection (?:was )?lost|incomplete"
_WHILE_CONNECTING = (
    "if the server expects TLS at that port, use rediss://; else it may have reached its maxclients, or be in protected"
    " mode (which a password ends): its log tells; a proxy may do so at commands that it does not know (twemproxy)"
)


def passes(said: str, *, saves: bool = False) -> bool:
    """Whether what a server, or something before it, said may be otherwise a moment later. ``saves``: it was said to a
    call that brings what was worked out.
    """
    told = NOT_NOW.match(said) or NOT_NOW_BEHIND.match(said)
    return told is not None or (saves and said.startswith(FULL))


def advice_about(error: BaseException | str, *, connecting: bool = False) -> str:
    """What to do about that error, or those words; "" when they say it all.

    ``connecting``: it came before there was a connection.
    """
    said = str(error)
    for pattern, advice in _ADVICE:
        match = re.search(pattern, said, re.IGNORECASE)
        if match is not None:
            return advice.format(*(group or "" for group in match.groups()))
    return _WHILE_CONNECTING if connecting and re.search(_CUT_OFF, said, re.IGNORECASE) else ""


def advised(error: BaseException | str, *, connecting: bool = False, otherwise: str = "") -> str:
    """As :func:`advice_about`, or ``otherwise``; as a sentence, without its stop."""
    advice = advice_about(error, connecting=connecting) or otherwise
    return advice[:1].upper() + advice[1:]


def with_advice(said: str, error: BaseException | str, *, connecting: bool = False, otherwise: str = "") -> str:
    """What is said about an error, with what to do about it (or ``otherwise``)."""
    said = _CLIENT.sub(r"\2:\3", said)
    advice = advice_about(error, connecting=connecting) or otherwise
    return f"{said}; {advice}" if advice else said
