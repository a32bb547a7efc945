"""What sessions cost, carried to many of them: computed from what was measured, and from assumptions that are shown."""

from __future__ import annotations

import math
from dataclasses import dataclass

from benchmarks.report import shown, table
from benchmarks.results import Results

__all__ = ["assumptions", "carried", "checked", "costs", "limits"]

SESSIONS = 1_000_000
NODES = 100
PROCESSES = 8  # on a node
SECONDS_BETWEEN = 60  # from one request of a session to its next
PEAK = 3  # times as many requests as on average
WAITING = 0.01  # of the requests, at one moment in the queue or holding a lock
LOAD = 0.5  # of what a shard can do at most: above that, waits grow
SHARD_MEMORY = 8e9  # bytes
FRAGMENTED = 1.5  # times what the keys take
NETWORK = 125e6  # bytes a second and direction: 1 Gbit/s
MAX_CLIENTS = 10_000  # Redis' own default
PER_PROCESS = 2  # connections to each shard: calls, and pushes while somebody waits


@dataclass(frozen=True)
class Costs:
    """Of one cycle: seconds of processor, bytes. Of a session, a lock, a waiter: bytes at Redis."""

    server: float
    client: float
    received: float
    sent: float
    session: float
    lock: float
    waiter: float

    @classmethod
    def measured(cls, results: Results) -> Costs:
        """On the largest Cluster that was measured.

        Raises:
            LookupError: what it is made of was not measured.
        """
        shards, memory = results.first("shards").facts, results.first("memory").facts
        of = "sessionlock on 3"
        return cls(
            shards[f"busy: {of}"],
            shards[f"client: {of}"],
            shards[f"received: {of}"],
            shards[f"sent: {of}"],
            memory["a session, Redis"],
            memory["a held lock, Redis"],
            memory["a waiter, Redis"],
        )


def costs(results: Results) -> str:
    """The cost model: what one of each takes."""
    cost, instructions = Costs.measured(results), results.first("instructions").facts
    hot = results.first("hot_session").facts
    rows = [
        ["cycle: instructions of Redis", f"{instructions['server: sessionlock']:,.0f}"],
        ["the same, 64 waiters", f"{instructions['server: sessionlock, 64 waiters']:,.0f}"],
        ["cycle: instructions of the process", f"{instructions['client: sessionlock']:,.0f}"],
        ["cycle: processor of Redis, with the kernel's part", f"{cost.server * 1e6:.0f} µs"],
        ["cycle: processor of the process, with the kernel's part", f"{cost.client * 1e6:.0f} µs"],
        ["cycle: to Redis", f"{cost.received:,.0f} bytes"],
        ["cycle: from Redis", f"{cost.sent:,.0f} bytes"],
        ["connections of a process to each shard", f"1, and {PER_PROCESS - 1} for pushes while somebody waits"],
        ["a session at Redis", f"{cost.session:,.0f} bytes"],
        ["a held lock at Redis, beside its session", f"{cost.lock:,.0f} bytes"],
        ["a waiter at Redis", f"{cost.waiter:,.0f} bytes"],
        ["one session, 64 waiters on 2 processes", f"at most {hot['cycles/s of 64 on 2']:,.0f} cycles/s"],
    ]
    return table(["what", "costs"], rows)


def checked(results: Results) -> str:
    """Whether what one shard costs is what each of several does."""
    facts = results.first("shards").facts
    parts = []
    for shards in (2, 3):
        of = f"sessionlock on {shards}"
        busy, sent = (facts[f"{what}: {of}"] / facts[f"{what}: sessionlock on 1"] for what in ("busy", "sent"))
        parts.append(
            f"On {shards} shards a cycle took {busy:.2f} times the processor time of Redis that it took on one, and"
            f" {sent:.2f} times the bytes; the busiest shard had {facts[f'share: {of}']:.2f} times an even share."
        )
    return " ".join(parts)


def assumptions(results: Results) -> str:
    """What is not measured but assumed."""
    return table(
        ["assumed", "value"],
        [
            ["living sessions", f"{SESSIONS:,}"],
            ["nodes, processes on each", f"{NODES}, {PROCESSES}"],
            ["a session's request comes every", f"{SECONDS_BETWEEN} s"],
            ["at the peak", f"{PEAK} times as many: {_rate():,.0f} cycles/s"],
            ["requests that hold a lock or wait at one moment", f"{WAITING:.0%} of those sessions"],
            ["a shard is used to", f"{LOAD:.0%}"],
            ["memory of a shard", f"{SHARD_MEMORY / 1e9:g} GB, of which keys can take 1/{FRAGMENTED:g}"],
            ["network of a shard", f"{NETWORK / 1e6:g} MB/s in each direction"],
            ["connections of a shard", f"{MAX_CLIENTS:,} (maxclients)"],
        ],
    )


def limits(results: Results) -> str:
    """Where one shard ends, the nearest end first."""
    found = sorted(_ends(Costs.measured(results)), key=lambda end: end.at / end.needed)
    return table(
        ["one shard's", "ends at", "needed", "shards"],
        [[end.what, f"{shown(end.at)} {end.unit}", f"{shown(end.needed)} {end.unit}", end.shards] for end in found],
    )


def carried(results: Results) -> str:
    """What it comes to, in words."""
    cost = Costs.measured(results)
    ends = _ends(cost)
    first = min(ends, key=lambda end: end.at / end.needed)
    shards = max(end.count for end in ends if end.shared)
    clients = cost.client * _rate()
    return (
        f"{SESSIONS:,} sessions on {NODES} nodes need {shards} shards. What ends first is the {first.what}. The nodes"
        f" spend {shown(clients)} processors on sessions, {100 * clients / NODES:.1f} % of one each."
    )


@dataclass(frozen=True)
class End:
    """``at`` so much of it one shard ends. ``shared``: more shards give more of it."""

    what: str
    unit: str
    at: float
    needed: float
    shared: bool = True

    @property
    def count(self) -> int:
        return math.ceil(self.needed / self.at)

    @property
    def shards(self) -> str:
        return str(self.count) if self.shared else "not a matter of shards"


def _ends(cost: Costs) -> list[End]:
    rate = _rate()
    of_a_session = (cost.session + WAITING * (cost.lock + cost.waiter)) * FRAGMENTED
    return [
        End("processor", "cycles/s", LOAD / cost.server, rate),
        End("network, to Redis", "cycles/s", LOAD * NETWORK / cost.received, rate),
        End("network, from Redis", "cycles/s", LOAD * NETWORK / cost.sent, rate),
        End("memory", "sessions", SHARD_MEMORY / of_a_session, SESSIONS),
        End("connections", "processes", MAX_CLIENTS / PER_PROCESS, NODES * PROCESSES, shared=False),
    ]


def _rate() -> float:
    return SESSIONS / SECONDS_BETWEEN * PEAK
