"""The words of the check-up: what was found out about a server, and what is worth knowing of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from ..errors import RedisUnavailable, ScriptsForbidden, SessionLockError
from ..policies import Replicated
from ..transport.clients import ClientKind
from .services import Service

__all__ = ["OF_SCRIPTS", "UNNAMED", "WRITES", "Capabilities", "Finding", "Level", "dotted", "without_locks"]

Level = Literal["refuse", "warn", "info"]

UNNAMED = "a server"
OF_SCRIPTS = ("scripts", "scripts-checked", "lua", "push")  # codes of findings that are about scripts alone
WRITES = ("DEL", "PEXPIRE", "HDEL", "ZREM", "ZPOPMIN")  # what the trial script does to keys, besides reading them


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
    ``trial``: command → what Redis said against it, "" when it worked. ``settings``: of CONFIG GET, as they stand.
    ``service``: as what it is sold, where that shows; ``several_masters``: which kind of several masters it is one of,
    "" where none shows. ``evicted``: keys, since it was started. Of a Cluster: ``slots`` that some node has,
    ``slots_served``: those of them whose node answers the others, ``cluster_state`` as that server sees it.
    ``written``: what it says against a write, "" nothing, None: that was not tried. ``run_id``: of that process.
    ``durability``: what the guard's saves wait for, where it was asked for that.
    ``round_trip``: seconds of a PING, where that was measured.
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
    settings: Mapping[str, str] = field(default_factory=dict)
    service: Service | None = None
    several_masters: str = ""
    evicted: int | None = None
    clients: int | None = None
    maxclients: int | None = None
    slots: int | None = None
    slots_served: int | None = None
    cluster_state: str | None = None
    written: str | None = None
    durability: Replicated | None = None
    run_id: str | None = None
    round_trip: float | None = None
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
        return f"{self.server} {dotted(self.version)}" if self.version else f"{self.server} of unknown version"

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
        only_locks = all(finding.code in OF_SCRIPTS for finding in refused)
        kind = ScriptsForbidden if only_locks else RedisUnavailable
        return kind("; ".join(map(str, refused)), refused=True)


def without_locks(found: Capabilities) -> Capabilities:
    """As it is for an application that takes no lock: what is about scripts alone is worth a note then."""
    if found.client not in ("single", "sentinel"):
        return found
    return replace(
        found,
        findings=tuple(
            replace(one, level="info") if one.level == "refuse" and one.code in OF_SCRIPTS else one
            for one in found.findings
        ),
    )


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
