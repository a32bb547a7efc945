"""A real Redis Cluster on loopback, private to the test, and what can befall it.

with Cluster() as cluster:                          # 3 masters, each with a replica; about 2 s
    guard = SessionGuard.from_url(cluster.url)
    master = cluster.master_of(key)
    cluster.kill(master)                            # SIGKILL
    await cluster.promoted(master)                  # its replica has taken over, and all know
    cluster.restart(master)
    await cluster.settled()

Faults (``kill``, ``pause``, ``resume``, ``restart``) are quick and block; what takes its time is awaited, so that
guards in the test's own event loop go on living. Nothing here needs redis-cli, and any server from 5.0 on will do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import redis
from redis.crc import key_slot

from sessionlock.embedded import EmbeddedServer
from tests.harness.choice import in_chosen_protocol
from tests.harness.placed import Group, PlacedServer, start_all
from tests.harness.polling import eventually, until
from tests.harness.switchboard import Switchboard

if TYPE_CHECKING:
    pass

__all__ = ["SLOTS", "Cluster", "Node", "slot_of"]

SLOTS = 16384
FORMED_WITHIN = 30.0
FAILED_OVER_WITHIN = 20.0


def slot_of(key: str | bytes) -> int:
    return key_slot(key.encode() if isinstance(key, str) else key)


@dataclass(frozen=True)
class View:
    """One line of CLUSTER NODES: what a node says of another, or of itself."""

    id: str
    flags: frozenset[str]
    master_id: str
    epoch: int
    slots: frozenset[int]

    @classmethod
    def parse(cls, line: str) -> View:
        id_, _, flags, master_id, _, _, epoch, _, *ranges = line.split()
        slots: set[int] = set()
        for part in ranges:
            if not part.startswith("["):  # those are slots on their way
                first, _, last = part.partition("-")
                slots.update(range(int(first), int(last or first) + 1))
        return cls(id_, frozenset(flags.split(",")), master_id, int(epoch), frozenset(slots))

    @property
    def is_master(self) -> bool:
        return "master" in self.flags

    @property
    def is_well(self) -> bool:
        return not self.flags & {"fail", "fail?", "handshake", "noaddr"}


class Node(PlacedServer):
    """One server of the cluster. ``announced``: the port by which clients and other nodes know it."""

    announced: int

    @property
    def raw(self) -> redis.Redis:
        client = super().raw
        for command in ("CLUSTER NODES", "CLUSTER INFO"):
            client.set_response_callback(command, bytes)  # read here, alike with every version of redis-py
        return client

    @property
    def id(self) -> str:
        return str(self.ask("CLUSTER MYID"), "ascii")

    @property
    def known(self) -> list[View]:
        """How it sees the cluster. The first one is itself."""
        told: bytes = self.ask("CLUSTER NODES")
        views = [View.parse(line) for line in told.decode().splitlines()]
        return sorted(views, key=lambda view: "myself" not in view.flags)

    @property
    def itself(self) -> View:
        return self.known[0]

    @property
    def state(self) -> str:
        told: bytes = self.ask("CLUSTER INFO")
        return dict(line.split(":") for line in told.decode().split())["cluster_state"]


class Cluster(Group):
    """``masters`` masters with ``replicas`` replicas each.

    ``node_timeout_ms``: the servers' cluster-node-timeout. ``config``: further lines for all of them.
    ``partitionable``: all connections to nodes go through a :class:`Switchboard`, so that :meth:`isolate` works.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 1,
        *,
        node_timeout_ms: int = 1000,
        config: Mapping[str, str] | None = None,
        partitionable: bool = False,
    ) -> None:
        self._masters = masters
        super().__init__()
        self._config = {
            "cluster-enabled": "yes",
            "cluster-node-timeout": str(node_timeout_ms),
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
            **(config or {}),
        }
        self._remembered: dict[str, tuple[str, frozenset[int]]] = {}
        self._switchboard = self._stack.enter_context(Switchboard()) if partitionable else None
        self.nodes = [self._node(f"node {number}") for number in range(masters * (1 + replicas))]

    def _node(self, name: str) -> Node:
        if self._switchboard is None:
            node = Node(name, config=self._config)
            node.announced = node.port
            return node
        door, bus = self._switchboard.door(name), self._switchboard.door(name)
        announce = {
            "cluster-announce-ip": "127.0.0.1",
            "cluster-announce-port": str(door.port),
            "cluster-announce-bus-port": str(bus.port),
        }
        node = Node(name, config={**self._config, **announce})
        node.announced = door.port
        door.leads_to(node.port)
        bus.leads_to(node.port + 10_000)
        return node

    # --- its life

    @property
    def _members(self) -> Sequence[EmbeddedServer]:
        return self.nodes

    def _form(self) -> None:
        """All slots are served, and all replicas are online."""
        start_all(self.nodes)
        masters, replicas = self.nodes[: self._masters], self.nodes[self._masters :]
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
        for number, master in enumerate(masters):
            first, end = SLOTS * number // len(masters), SLOTS * (number + 1) // len(masters)
            master.ask("CLUSTER ADDSLOTS", *range(first, end))
        for place, node in enumerate(self.nodes):
            for other in self.nodes[place + 1 :]:
                node.ask("CLUSTER MEET", "127.0.0.1", *self._address(other))
        until(lambda: all(self._knows_all(node) for node in self.nodes), "all nodes know each other", FORMED_WITHIN)
        for number, replica in enumerate(replicas):
            replica.ask("CLUSTER REPLICATE", masters[number % len(masters)].id)
        until(lambda: self.is_settled, "all slots are served, all replicas online", FORMED_WITHIN)

    def _address(self, node: Node) -> tuple[int, int]:
        bus = node.port + 10_000 if self._switchboard is None else self._switchboard.doors_of(node.name)[1].port
        return node.announced, bus

    def _knows_all(self, node: Node) -> bool:
        known = node.known
        return len(known) == len(self.nodes) and all(view.is_well for view in known)

    # --- where it is

    @property
    def startup_nodes(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", node.announced) for node in self.nodes]

    @property
    def url(self) -> str:
        return in_chosen_protocol("redis+cluster://" + ",".join(f"{host}:{port}" for host, port in self.startup_nodes))

    # --- who is what now

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.standing == "running"]

    @property
    def masters(self) -> list[Node]:
        """The running nodes that serve slots, as they say themselves."""
        return [node for node in self.running if node.itself.is_master and node.itself.slots]

    def master_of(self, key: str | bytes) -> Node:
        """The running node that serves the key; of two that claim it, the one elected later.

        Raises:
            LookupError: nobody does now.
        """
        slot = slot_of(key)
        claims = [(node.itself.epoch, node) for node in self.masters if slot in node.itself.slots]
        if not claims:
            raise LookupError(f"no running node serves slot {slot}")
        return max(claims, key=lambda claim: claim[0])[1]

    def replica_of(self, master: Node) -> Node:
        """A running replica of ``master`` (which may be dead).

        Raises:
            LookupError: it has none.
        """
        for node in self.running:
            view = node.itself
            if not view.is_master and view.master_id == self._id(master):
                return node
        raise LookupError(f"{master} has no running replica")

    def _remember(self) -> None:
        """What each node is and serves, while it can still be asked."""
        for node in self.running:
            self._remembered[node.name] = node.id, node.itself.slots

    def _id(self, node: Node) -> str:
        if node.name not in self._remembered:
            self._remember()
        return self._remembered[node.name][0]

    def raw(self, node: Node) -> redis.Redis:
        return node.raw

    def raw_for(self, key: str | bytes) -> redis.Redis:
        """A blocking client of the key's master of now; it follows nobody to another node."""
        return self.master_of(key).raw

    # --- faults

    def kill(self, node: Node) -> None:
        self._remember()
        node.kill()

    def pause(self, node: Node) -> None:
        self._remember()
        node.pause()

    def resume(self, node: Node) -> None:
        node.resume()

    def restart(self, node: Node) -> None:
        """After ``kill``: it knows the cluster still, its data it has to get from its master of now."""
        node.restart()

    def isolate(self, *nodes: Node, clients: tuple[int, ...] = ()) -> None:
        """Nothing passes between these nodes, with the client processes of these ids, and all others.

        Nothing is lost either: what was on its way arrives after :meth:`heal`, as with TCP.
        """
        assert self._switchboard is not None, "only a partitionable cluster can be cut in two"
        self._remember()
        self._switchboard.part({node.name: node.pid for node in nodes}, clients)

    def heal(self) -> None:
        assert self._switchboard is not None
        self._switchboard.heal()

    # --- changes by command

    async def failover(self, replica: Node) -> None:
        """CLUSTER FAILOVER: replica and master change places with nothing lost; return when all know."""
        self._remember()
        old = next(node for node in self.nodes if self._id(node) == replica.itself.master_id)
        replica.ask("CLUSTER FAILOVER")
        await self.promoted(old)

    async def promoted(self, old: Node, within: float = FAILED_OVER_WITHIN) -> Node:
        """Return who serves the slots of ``old`` instead of it, when every running node but ``old`` knows."""
        slots = self._remembered[old.name][1]
        found: list[Node] = []

        def all_know() -> bool:
            found[:] = [node for node in self.masters if node is not old and node.itself.slots & slots]
            if not found:
                return False
            new_id, one = self._id(found[0]), min(slots)
            return all(_owner(node, one) == new_id for node in self.running if node is not old)

        await eventually(all_know, f"another node serves the slots of {old}", within)
        return found[0]

    async def begin_migration(self, slot: int, to: Node) -> Node:
        """Open the slot at both ends: from now on its master answers ASK for what is not there (any more).

        Returns the master it migrates from. Nothing is moved yet: :meth:`move_keys`, :meth:`finish_migration`.
        """
        source = next(node for node in self.masters if slot in node.itself.slots)
        to.ask("CLUSTER SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER SETSLOT", slot, "MIGRATING", to.id)
        return source

    def move_keys(self, slot: int, source: Node, to: Node) -> int:
        """MIGRATE the keys that are in the slot now; return how many that were."""
        moved = 0
        while keys := source.ask("CLUSTER GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", to.port, "", 0, 5000, "KEYS", *keys)
            moved += len(keys)
        return moved

    async def finish_migration(self, slot: int, source: Node, to: Node) -> int:
        """Move what is left and give the slot away; return when every running node knows."""
        moved = self.move_keys(slot, source, to)
        to_id = to.id
        for master in (to, source, *(node for node in self.masters if node not in (to, source))):
            master.ask("CLUSTER SETSLOT", slot, "NODE", to_id)
        await eventually(
            lambda: all(_owner(node, slot) == to_id for node in self.running), f"all know that {to} serves slot {slot}"
        )
        return moved

    async def migrate_slot(self, slot: int, to: Node) -> int:
        """A live migration, as redis-cli does it; return how many keys were moved."""
        source = await self.begin_migration(slot, to)
        return await self.finish_migration(slot, source, to)

    # --- health

    @property
    def is_settled(self) -> bool:
        """Every node that runs is well and knows it, every replica is online, and all say the same."""
        running = self.running
        ids = {self._id(node) for node in running}
        owners = {tuple(sorted((view.id, view.slots) for view in node.known if view.slots)) for node in running}
        return (
            len(owners) == 1
            and all(node.state == "ok" for node in running)
            and all(view.is_well for node in running for view in node.known if view.id in ids)
            and all(_is_online(node) for node in running if not node.itself.is_master)
        )

    async def settled(self, within: float = FORMED_WITHIN) -> None:
        await eventually(lambda: self.is_settled, f"the cluster settles: {self.nodes}", within)


def _owner(node: Node, slot: int) -> str | None:
    """Who serves the slot, as this node sees it."""
    return next((view.id for view in node.known if slot in view.slots), None)


def _is_online(replica: Node) -> bool:
    told = replica.info("replication")
    return told["role"] == "slave" and told["master_link_status"] == "up"
