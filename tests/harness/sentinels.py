"""A real master with replicas and three Sentinels on loopback, private to the test, and what can befall it.

with Sentinels() as sentinels:
    guard = SessionGuard.from_url(sentinels.url)
    old = sentinels.pause_master()                  # SIGSTOP
    new = await sentinels.new_master()              # elected, and all Sentinels that run say so
    sentinels.resume(old)                           # a second master, until the Sentinels notice
    await sentinels.settled()
"""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from sessionlock.embedded import EmbeddedServer, EmbeddedServerFailed, ServerBinary, find_server
from tests.harness.choice import in_chosen_protocol
from tests.harness.placed import Group, PlacedServer, free_port, start_all
from tests.harness.polling import eventually, until

if TYPE_CHECKING:
    from collections.abc import Mapping


__all__ = ["NAME", "Sentinels"]

NAME = "mymaster"
FORMED_WITHIN = 20.0
FAILED_OVER_WITHIN = 20.0
STARTS = 4  # of the Sentinels, each time on other ports
# Longer than the second after which a Sentinel pings a server for the first time. As short as that, it takes the master
# that it has just elected for down, the others' votes against the dead one still count, and it elects another: two
# masters for ten seconds, without a fault of ours.
DOWN_AFTER_MS = 2000

# What a Sentinel is started as: the same program with one word more.
_AS_SENTINEL = """\
#!/bin/sh
exec '{server}' "$@" --sentinel
"""


class Sentinels(Group):
    """One master, ``replicas`` replicas, ``watchers`` Sentinels of which a majority decides.

    ``down_after_ms`` and ``failover_timeout_ms``: the Sentinels' settings of that name. ``min_replicas_to_write``:
    the servers refuse writes while fewer replicas have been heard of within the last second; 0 turns that off.
    """

    def __init__(
        self,
        replicas: int = 2,
        watchers: int = 3,
        *,
        down_after_ms: int = DOWN_AFTER_MS,
        failover_timeout_ms: int = 3000,
        min_replicas_to_write: int = 0,
        config: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        first = PlacedServer("server 0", config=_server_config(min_replicas_to_write, config))
        following = {**_server_config(min_replicas_to_write, config), "replicaof": f"127.0.0.1 {first.port}"}
        self.servers = [
            first,
            *(PlacedServer(f"server {number}", config=following) for number in range(1, replicas + 1)),
        ]
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="sessionlock-sentinel-"))
        program = _sentinel_program(Path(folder))
        self._make_sentinels = partial(self._watchers, watchers, program, down_after_ms, failover_timeout_ms)
        self.sentinels = self._make_sentinels()
        self._last_master = first

    def _watchers(
        self, count: int, program: ServerBinary, down_after_ms: int, failover_timeout_ms: int
    ) -> list[PlacedServer]:
        """They are told of each other, which they would find out within two seconds; the master tells the replicas."""
        ports = [free_port() for _ in range(count)]
        ids = [secrets.token_hex(20) for _ in range(count)]
        shared = {
            f"sentinel monitor {NAME} 127.0.0.1 {self.servers[0].port}": str(count // 2 + 1),
            f"sentinel down-after-milliseconds {NAME}": str(down_after_ms),
            f"sentinel failover-timeout {NAME}": str(failover_timeout_ms),
        }
        watchers: list[PlacedServer] = []
        for port, id_ in zip(ports, ids, strict=True):
            others = {
                f"sentinel known-sentinel {NAME} 127.0.0.1 {other_port}": other
                for other_port, other in zip(ports, ids, strict=True)
                if other != id_
            }
            config = {"sentinel myid": id_, **shared, **others}
            watchers.append(_Watcher(f"sentinel {len(watchers)}", config=config, port=port, binary=program))
        return watchers

    # --- its life

    @property
    def _members(self) -> Sequence[EmbeddedServer]:
        return (*self.servers, *self.sentinels)

    def _form(self) -> None:
        """The replicas are online, and all Sentinels know all of them."""
        start_all(self.servers)
        until(lambda: self._all_online, "all replicas are online", FORMED_WITHIN)
        self._start_sentinels()
        until(lambda: self.is_settled, "all Sentinels see all servers and each other", FORMED_WITHIN)

    def _start_sentinels(self) -> None:
        """Anew, on other ports, where somebody took one since it was chosen: each knows the others by theirs."""
        for _ in range(STARTS - 1):
            try:
                return start_all(self.sentinels)
            except EmbeddedServerFailed:
                for sentinel in self.sentinels:
                    sentinel.stop()
                self.sentinels = self._make_sentinels()
                for sentinel in self.sentinels:
                    self._stack.callback(sentinel.stop)
        return start_all(self.sentinels)

    # --- who is what now

    @property
    def url(self) -> str:
        addresses = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return in_chosen_protocol(f"redis+sentinel://{addresses}/{NAME}")

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Of the Sentinels, as ``redis.sentinel.Sentinel`` takes them."""
        return [("127.0.0.1", sentinel.port) for sentinel in self.sentinels]

    @property
    def running(self) -> list[PlacedServer]:
        return [server for server in self.servers if server.standing == "running"]

    @property
    def master(self) -> PlacedServer:
        """Who is the master as the Sentinels say, whether it runs or not. If they differ, as the last told one says."""
        named = self._named
        return named[0] if named else self._last_master

    @property
    def replicas(self) -> list[PlacedServer]:
        """The running servers that are replicas, as they say themselves."""
        return [server for server in self.running if server.info("replication")["role"] == "slave"]

    @property
    def _named(self) -> list[PlacedServer]:
        """The master's name by each Sentinel that runs."""
        return [self._told_by(sentinel) for sentinel in self.sentinels if sentinel.standing == "running"]

    def _told_by(self, sentinel: PlacedServer) -> PlacedServer:
        told: Any = sentinel.ask("SENTINEL GET-MASTER-ADDR-BY-NAME", NAME)
        port = int(told[1])
        return next(server for server in self.servers if server.port == port)

    def raw(self, server: PlacedServer) -> redis.Redis:
        return server.raw

    # --- faults

    def kill_master(self) -> PlacedServer:
        self._last_master = self.master
        self._last_master.kill()
        return self._last_master

    def pause_master(self) -> PlacedServer:
        self._last_master = self.master
        self._last_master.pause()
        return self._last_master

    def resume(self, server: PlacedServer) -> None:
        server.resume()

    def restart(self, server: PlacedServer) -> None:
        """It comes back as what its configuration said at first; the Sentinels see to the rest."""
        server.restart()

    async def new_master(self, old: PlacedServer | None = None, within: float = FAILED_OVER_WITHIN) -> PlacedServer:
        """Return another master than ``old`` (by default the one killed or paused last).

        It says itself that it is one, and every Sentinel that runs names it.
        """
        before = old or self._last_master
        found: list[PlacedServer] = []

        def all_say_so() -> bool:
            named = set(self._named)
            if len(named) != 1 or before in named:
                return False
            found[:] = named
            return found[0].info("replication")["role"] == "master"

        await eventually(all_say_so, f"another master than {before} is elected", within)
        return found[0]

    # --- health

    @property
    def _all_online(self) -> bool:
        masters = [server for server in self.running if server.info("replication")["role"] == "master"]
        if len(masters) != 1:
            return False
        told = masters[0].info("replication")
        online = [name for name in told if name.startswith("slave") and "online" in told[name]]
        return len(online) == len(self.running) - 1

    @property
    def is_settled(self) -> bool:
        """One master, the others its replicas and online, and every Sentinel that runs sees it so."""
        if not self._all_online or len(set(self._named)) != 1:
            return False
        return all(self._sees_all(sentinel) for sentinel in self.sentinels if sentinel.standing == "running")

    def _sees_all(self, sentinel: PlacedServer) -> bool:
        master = _of_pairs(sentinel.ask("SENTINEL MASTER", NAME))
        if master["flags"] != "master" or int(master["num-other-sentinels"]) != len(self.sentinels) - 1:
            return False
        replicas = [_of_pairs(told) for told in sentinel.ask("SENTINEL REPLICAS", NAME)]
        well = [told for told in replicas if told["flags"] == "slave" and told["master-link-status"] == "ok"]
        if len(well) < len(self.running) - 1:
            return False
        return bytes(sentinel.ask("SENTINEL CKQUORUM", NAME)).startswith(b"OK")

    async def settled(self, within: float = 40.0) -> None:
        """A server that came back is a replica ten seconds later at the earliest: so long Sentinels look at it."""
        await eventually(lambda: self.is_settled, f"the Sentinels settle: {self.servers}", within)


class _Watcher(PlacedServer):
    """A Sentinel. Its replies are read here, alike with every version of redis-py."""

    @property
    def raw(self) -> redis.Redis:
        client = super().raw
        for word in ("MASTER", "REPLICAS", "CKQUORUM", "GET-MASTER-ADDR-BY-NAME"):
            client.set_response_callback(f"SENTINEL {word}", _as_it_is)
        return client


def _server_config(min_replicas_to_write: int, more: Mapping[str, str] | None) -> dict[str, str]:
    config = {"repl-diskless-sync-delay": "0", "min-replicas-max-lag": "1", **(more or {})}
    config["min-replicas-to-write"] = str(min_replicas_to_write)
    return config


def _sentinel_program(folder: Path) -> ServerBinary:
    server = find_server()
    program = folder / "sentinel"
    program.write_text(_AS_SENTINEL.format(server=server.path))
    program.chmod(0o700)
    return replace(server, path=program)


def _as_it_is(reply: Any, **_: Any) -> Any:
    return reply


def _of_pairs(flat: list[bytes]) -> dict[str, str]:
    words = [bytes(word).decode() for word in flat]
    return dict(zip(words[::2], words[1::2], strict=True))
