"""What single settings of a server mean for sessions and locks, and its load: rules as in :mod:`.rules`. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from .findings import Capabilities, Finding

__all__ = ["ALL_SLOTS", "SETTINGS_RULES", "findings_among", "findings_of_sentinels"]

MB = 2**20
SMALL_BUFFER = MB  # bytes of a subscriber's output; pushes with sessions of 64 KiB and more go through it
SHORT_TIMEOUT = 300  # seconds
SHORT_SCRIPTS = 100  # ms
SMALL_BULK = 16 * MB
HASTY = 1000  # ms
FEW_CLIENTS = 128
SMALL_FOR_ALL = 64 * MB
NEARLY_ALL = 0.9
FAR, VERY_FAR = 0.005, 0.05  # seconds there and back
CLOCKS_APART = 1.0  # seconds between masters
ALL_SLOTS = 16384


def _evicted(found: Capabilities) -> Iterator[Finding]:
    if found.evicted:
        yield Finding(
            "warn",
            "evicted",
            f"{found.evicted} keys have been evicted since the server was started",
            "its memory was full; sessions and locks may be among them",
            "Set maxmemory-policy noeviction, and raise maxmemory or give sessions a server of their own",
        )


def _fsync(found: Capabilities) -> Iterator[Finding]:
    if found.aof and found.fsync == "always":
        yield Finding(
            "info",
            "fsync",
            "appendfsync is always",
            "each save waits for the disk, and with it all other calls of this server",
            "Where a second of sessions may be lost in a crash, everysec is enough",
        )
    elif found.aof and found.fsync == "no":
        yield Finding(
            "info",
            "fsync",
            "appendfsync is no",
            "the system decides when saves are written to the disk; a crash of the machine loses half a minute of them",
            "Set appendfsync everysec where that matters",
        )


def _connections(found: Capabilities) -> Iterator[Finding]:
    idle = _number(found.settings, "timeout")
    if idle and idle < SHORT_TIMEOUT:
        yield Finding(
            "info",
            "timeout",
            f"the server closes connections that were idle for {idle} s (timeout)",
            "the first request after a pause connects anew, which takes it some milliseconds",
            f"Set timeout 0, or {SHORT_TIMEOUT} and more",
        )
    if _number(found.settings, "tcp-keepalive") == 0:
        yield Finding(
            "info",
            "tcp-keepalive",
            "tcp-keepalive is 0",
            "the server does not notice a node that vanished without a word, and hands locks on to it: each costs the"
            " time of a claim",
            "Set tcp-keepalive 60",
        )
    yield from _output(found)
    limit = _output_limit(found, "pubsub")
    if limit is not None and 0 < limit < SMALL_BUFFER:
        yield Finding(
            "warn",
            "pubsub-buffer",
            f"subscribers are cut off when {limit} bytes wait for them (client-output-buffer-limit pubsub)",
            "grants travel to waiters with their sessions; who is cut off looks for its turn, up to a second later",
            f"Set client-output-buffer-limit 'pubsub 32mb 8mb 60', or push_limit below {limit} bytes",
        )
    clients, most = found.clients, found.maxclients
    if most is not None and 0 < most < FEW_CLIENTS:
        room = "" if clients is None else f" beside the {clients} that there are"
        yield Finding(
            "info",
            "few-clients",
            f"at most {most} clients may be connected",
            f"each process needs two connections: there is room for {max(0, most - (clients or 0)) // 2} of them{room}",
            "Count two for each worker process of each node, and once more while a new version is rolled out",
        )
    if clients is not None and most and clients >= NEARLY_ALL * most:
        yield Finding(
            "warn",
            "maxclients",
            f"{clients} of at most {most} clients are connected",
            "a node that starts now may not get its two connections",
            "Raise maxclients, and see in CLIENT LIST who leaves connections open",
        )


def _output(found: Capabilities) -> Iterator[Finding]:
    limit = _output_limit(found, "normal")
    if limit is not None and 0 < limit < SMALL_BULK:
        yield Finding(
            "warn",
            "reply-size",
            f"the server closes a connection when {limit} bytes of replies wait for it"
            " (client-output-buffer-limit normal)",
            "a session that is larger is saved, and can never be loaded again: its reply closes the connection, and"
            " with it the calls of other requests",
            f"Set client-output-buffer-limit 'normal 0 0 0', as it is by default, or SessionPolicy.max_session below"
            f" {limit} bytes",
        )
    limit = _of_all_clients(found)
    if limit is not None and 0 < limit < SMALL_FOR_ALL:
        yield Finding(
            "warn",
            "client-memory",
            f"the server closes connections when those of all clients use {limit} bytes (maxmemory-clients)",
            "the one with the largest request or reply is closed: large sessions cannot be saved or loaded, and other"
            " requests' calls on it are lost and repeated",
            f"Set maxmemory-clients {SMALL_FOR_ALL} at least, or 0, or a smaller SessionPolicy.max_session",
        )


def _of_all_clients(found: Capabilities) -> int | None:
    """In bytes; it may be given in percent of maxmemory."""
    text = found.settings.get("maxmemory-clients", "")
    if text.endswith("%") and text[:-1].isdecimal():
        return int(text[:-1]) * (found.maxmemory or 0) // 100
    return _number(found.settings, "maxmemory-clients")


def _scripts(found: Capabilities) -> Iterator[Finding]:
    limit = _number(found.settings, "lua-time-limit")
    if limit is not None and 0 < limit < SHORT_SCRIPTS:
        yield Finding(
            "warn",
            "script-time",
            f"after {limit} ms of one script the server answers BUSY to all (lua-time-limit, busy-reply-threshold)",
            "a save of many keys, or a busy machine, makes others' calls fail and be repeated",
            "Set busy-reply-threshold 5000, as it is by default",
        )
    for name in ("proto-max-bulk-len", "client-query-buffer-limit"):
        largest = _number(found.settings, name)
        if largest is not None and largest < SMALL_BULK:
            yield Finding(
                "warn",
                "request-size",
                f"the server takes no request above {largest} bytes ({name})",
                "a save that is larger closes the connection, and with it the calls of other requests",
                f"Set {name} {SMALL_BULK} at least, or SessionPolicy.max_session below it",
            )
    if found.settings.get("notify-keyspace-events"):
        yield Finding(
            "info",
            "notify",
            f"notify-keyspace-events is {found.settings['notify-keyspace-events']!r}",
            "each write of a lock or a session is published too, which the server pays for",
            "Switch off what nobody listens to",
        )


def _uncovered(found: Capabilities) -> Iterator[Finding]:
    if found.mode == "cluster" and found.slots is not None and found.slots < ALL_SLOTS:
        yield Finding(
            "warn",
            "slots",
            f"{ALL_SLOTS - found.slots} of the {ALL_SLOTS} slots of this cluster belong to no node",
            "sessions whose slots they are cannot be reached; by default the cluster answers nobody (CLUSTERDOWN)",
            "Give the slots to a node (redis-cli --cluster fix), or bring the node back that had them",
        )
    elif found.slots is not None and found.slots_served is not None and found.slots_served < found.slots:
        yield Finding(
            "warn",
            "slots",
            f"{found.slots - found.slots_served} of the {ALL_SLOTS} slots of this cluster are of nodes that do not"
            " answer",
            "sessions whose slots they are cannot be reached until a replica takes over",
            "Bring the node back, or give each master a replica",
        )
    if found.cluster_state not in (None, "ok"):
        yield Finding(
            "warn",
            "cluster-down",
            f"the cluster is down (cluster_state:{found.cluster_state})",
            "it answers nobody (CLUSTERDOWN)",
            "Look at the logs of its nodes; with cluster-require-full-coverage no it serves the slots that it has",
        )


def _far_away(found: Capabilities) -> Iterator[Finding]:
    took = found.round_trip
    if took is not None and took > FAR:
        yield Finding(
            "warn" if took > VERY_FAR else "info",
            "latency",
            f"a round trip to the server takes {took * 1000:.1f} ms",
            "a request under the lock takes two of them, and each that waits for it takes them, too",
            "Put the application and its Redis into one zone",
        )


SETTINGS_RULES: tuple[Callable[[Capabilities], Iterator[Finding]], ...] = (
    _evicted,
    _fsync,
    _connections,
    _scripts,
    _uncovered,
    _far_away,
)


def findings_among(seen: Mapping[str, Capabilities]) -> Iterator[Finding]:
    """What shows only where several servers are looked at."""
    yield from _same_server(seen)
    clocks = {name: found.clock_offset for name, found in seen.items() if found.clock_offset is not None}
    if not clocks:
        return
    ahead, behind = max(clocks, key=lambda name: clocks[name]), min(clocks, key=lambda name: clocks[name])
    apart = clocks[ahead] - clocks[behind]
    if apart > CLOCKS_APART:
        yield Finding(
            "warn",
            "clocks-apart",
            f"the clock of {ahead} is {apart:.1f} s ahead of that of {behind}",
            "fencing tokens grow with the clock: masters of a quorum need another round to agree on one, and after a"
            " failover that lost all state they might be smaller than before",
            "Let NTP set them all",
        )


def findings_of_sentinels(master: Mapping[str, str]) -> Iterator[Finding]:
    """``master``: fields of SENTINEL MASTER, as one of the sentinels tells them."""
    after, others = _number(master, "down-after-milliseconds"), _number(master, "num-other-sentinels")
    if after is not None and after <= HASTY:
        yield Finding(
            "warn",
            "hasty-sentinels",
            f"sentinels take a master for down after {after} ms (down-after-milliseconds)",
            "they may replace a master that runs and was slow for a moment; what it acknowledges meanwhile is lost",
            "Set down-after-milliseconds 2000 or more",
        )
    if others is not None and others < 2:
        yield Finding(
            "info",
            "few-sentinels",
            f"there {'is one sentinel' if others == 0 else 'are two sentinels'}",
            "a failover needs a majority of them: where one is down as well, nobody replaces the master",
            "Have three sentinels or more, each on a machine of its own",
        )


def _same_server(seen: Mapping[str, Capabilities]) -> Iterator[Finding]:
    masters = {name: found for name, found in seen.items() if found.client == "quorum"}
    known: dict[str, str] = {}
    for name, found in masters.items():
        if found.run_id is None:
            continue
        other = known.setdefault(found.run_id, name)
        if other != name:
            yield Finding(
                "warn",
                "same-server",
                f"{other} and {name} are one server",
                "they fail together: a quorum outlives a minority of its masters, and these may be a majority at once",
                "Name masters that know nothing of each other, each a server of its own",
            )


def _number(settings: Mapping[str, str], name: str) -> int | None:
    text = settings.get(name, "")
    return int(text) if text.isdecimal() else None


def _output_limit(found: Capabilities, kind: str) -> int | None:
    """``normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60``: the lower of its two limits."""
    words = found.settings.get("client-output-buffer-limit", "").split()
    if kind not in words:
        return None
    limits = [int(word) for word in words[words.index(kind) + 1 :][:2] if word.isdecimal() and word != "0"]
    return min(limits, default=0)
