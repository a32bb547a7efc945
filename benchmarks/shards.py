"""A Cluster of 1, 2 and 3 masters: what a cycle costs the shards in processor time and bytes, and how evenly.

All of them share the processors of this machine, so how much they can do says nothing. What a cycle costs does: where
it is the same on one shard and on three, and each has its share, three can do three times as much. Each shard gets the
same moderate load: a busier one takes less for a cycle, since more calls come with one packet.
"""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass

from benchmarks.commands import Options, main
from benchmarks.contenders import GUARDED, UNGUARDED
from benchmarks.report import Claim, Plot, Report
from benchmarks.stage import Worker, named, workers
from benchmarks.turns import loop, lost, play
from tests.harness.cluster import Cluster, Node

SHARDS = (1, 2, 3)
PAUSE = 0.25  # seconds that a session rests between two requests
NAMES = (UNGUARDED, GUARDED)


@dataclass(frozen=True)
class Cost:
    """Of one cycle. ``busy``: seconds of processor at all shards; ``client`` at the client; ``share``: of the
    busiest shard, relative to a fair one.
    """

    busy: float
    client: float
    share: float
    sent: float
    received: float
    connections: int
    lost: int


def run(options: Options) -> Report:
    """Play it; see the module."""
    found: dict[tuple[int, str], Cost] = {}
    seconds = max(options.seconds, 4 * PAUSE)  # a request of each session, at least
    for shards in SHARDS:
        with Cluster(masters=shards, replicas=0) as cluster:
            where = named(cluster.nodes[0].binary)
            for name in NAMES:
                found[shards, name] = _cost(cluster, name, options.sessions * shards, seconds)
    one, most = found[SHARDS[0], GUARDED], found[SHARDS[-1], GUARDED]
    return Report(
        "shards",
        "Cluster shards",
        f"one process, {options.sessions / PAUSE:.0f} cycles/s a shard, {seconds:g} s; {where}, no replica",
        [
            "contender",
            "shards",
            "µs of the shards",
            "of unguarded",
            "µs of the client",
            "of unguarded",
            "busiest shard / fair share",
            "bytes to / from Redis",
            "connections",
        ],
        [
            [
                name,
                str(shards),
                f"{cost.busy * 1e6:.0f}",
                f"{cost.busy / found[shards, UNGUARDED].busy:.2f}",
                f"{cost.client * 1e6:.0f}",
                f"{cost.client / found[shards, UNGUARDED].client:.2f}",
                f"{cost.share:.2f}",
                f"{cost.received:.0f} / {cost.sent:.0f}",
                str(cost.connections),
            ]
            for (shards, name), cost in sorted(found.items(), key=lambda item: (item[0][1], item[0][0]))
        ],
        [Claim("processor time of Redis for a cycle, 3 shards / 1", "<= 1.15", most.busy / one.busy)],
        sum(cost.lost for cost in found.values()),
        ["µs: of a processor, user and system, for one cycle; connections: of one client process, to all shards"],
        {
            f"{what}: {name} on {shards}": value
            for (shards, name), cost in found.items()
            for what, value in vars(cost).items()
        },
        [
            Plot(
                "shards",
                "Processor time of Redis for a cycle, by the shards of the Cluster",
                "shards",
                "µs",
                {name: [(shards, found[shards, name].busy * 1e6) for shards in SHARDS] for name in NAMES},
                linear=True,
            )
        ],
    )


def _cost(cluster: Cluster, name: str, sessions: int, seconds: float) -> Cost:
    with workers() as start:
        sids = [secrets.token_hex(16) for _ in range(sessions)]
        worker: Worker = start(play, cluster.url, name, sids, sessions, True)
        loop([worker], seconds / 2)  # warm up
        before, client = [_used(node) for node in cluster.nodes], worker.seconds
        cycles = len(loop([worker], seconds, pause=PAUSE)[0])
        client = worker.seconds - client
        used = [now - then for now, then in zip(map(_used, cluster.nodes), before, strict=True)]
        busy = [of["busy"] for of in used]
        return Cost(
            sum(busy) / cycles,
            client / cycles,
            max(busy) * len(busy) / sum(busy),
            sum(of["sent"] for of in used) / cycles,
            sum(of["received"] for of in used) / cycles,
            sum(len(node.raw.client_list()) - 1 for node in cluster.nodes),
            lost([worker]),
        )


def _used(node: Node) -> Counter[str]:
    """Seconds of processor, and bytes, by what the server counts."""
    cpu, stats = node.raw.info("cpu"), node.raw.info("stats")
    return Counter(
        busy=cpu["used_cpu_user"] + cpu["used_cpu_sys"],
        sent=stats["total_net_output_bytes"],
        received=stats["total_net_input_bytes"],
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
