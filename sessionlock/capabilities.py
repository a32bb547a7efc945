"""What a server can do and how it is set up, and what that means for sessions and locks.

:func:`judge` decides from answers alone; :func:`probe` asks for them; :class:`Checkup` does it once per server and
process, beside the requests, and remembers. What an ACL does not let us find out is listed, not guessed.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any

from .capabilities_found import WRITES, Capabilities, ClientKind, Finding
from .capabilities_probe import Ask, judge, probe
from .errors import SessionLockError

__all__ = [
    "WRITES",
    "Ask",
    "Capabilities",
    "Checkup",
    "ClientKind",
    "Finding",
    "client_kind",
    "judge",
    "probe",
    "server_name",
    "unreachable_advice",
]

log = logging.getLogger("sessionlock")

KNOWN_FOR = 300.0  # seconds for which what was found out about a server counts for this process' other event loops
REFUSED_FOR = 5.0  # seconds after which a refused server is looked at again: a failover or an operator may have helped

_known: dict[tuple[str, ClientKind, str], tuple[float, Capabilities]] = {}
_told: set[tuple[str, str]] = set()


class Checkup:
    """One look at a server for one event loop, or none when this process knows that server already.

    ``server`` names it (:func:`server_name`). Findings are logged once per process and server.
    """

    def __init__(self, ask: Ask, server: str, *, client: ClientKind = "single", prefix: str = "sl") -> None:
        self._ask = ask
        self._server = server
        self._client: ClientKind = client
        self._prefix = prefix
        self._refused_until = 0.0
        self.found: Capabilities | None = None

    def known(self) -> Capabilities | None:
        """What this process found out about the server a short while ago; asks nothing."""
        at, found = _known.get(self._key, (0.0, None))
        if found is None or time.monotonic() - at > KNOWN_FOR:
            return None
        self.found = found
        return found

    async def run(self) -> Capabilities:
        """Ask, whatever is known, remember, and log.

        Raises:
            whatever ``ask`` raises for a lost connection; then nothing is known, and nothing refused.
        """
        found = await probe(self._ask, client=self._client, prefix=self._prefix)
        self.found = found
        if found.refusal() is None:
            _known[self._key] = (time.monotonic(), found)
            self._refused_until = 0.0
        else:
            _known.pop(self._key, None)
            self._refused_until = time.monotonic() + REFUSED_FOR
        tell(found, self._server)
        return found

    @property
    def due(self) -> bool:
        """Whether nothing is known, or a refusal has become old and should be looked at again."""
        return self.found is None or (self._refused_until > 0 and time.monotonic() > self._refused_until)

    def refusal(self) -> SessionLockError | None:
        """The error for the next call; None when the server is fit, not known yet, or due to be looked at again."""
        if self.found is None or time.monotonic() > self._refused_until:
            return None
        return self.found.refusal()

    @property
    def _key(self) -> tuple[str, ClientKind, str]:
        return (self._server, self._client, self._prefix)


def tell(found: Capabilities, server: str) -> None:
    """Log what is worth knowing, each finding once per process and server."""
    levels = {"refuse": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO}
    for finding in found.findings:
        if (server, finding.code) not in _told:
            _told.add((server, finding.code))
            log.log(levels[finding.level], "%s: %s", server, finding)
    if found.unknown and found.because and (server, "unknown") not in _told:
        _told.add((server, "unknown"))
        log.info("%s: unknown: %s (%s)", server, ", ".join(found.unknown), "; ".join(found.because))


def client_kind(client: Any) -> ClientKind:
    """What sort of ``redis.asyncio`` client this is, by its names: none of them needs to be imported."""
    if hasattr(client, "get_primaries"):
        return "cluster"
    pool = getattr(client, "connection_pool", None)
    return "sentinel" if hasattr(pool, "sentinel_manager") else "single"


def server_name(client: Any) -> str:
    """Where a ``redis.asyncio`` client connects to and as whom, without its password."""
    pool: Any = getattr(client, "connection_pool", None)
    options = getattr(pool, "connection_kwargs", None) or getattr(client, "connection_kwargs", {})
    where = options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}"
    kind = client_kind(client)
    if kind == "cluster":
        where = "cluster " + ",".join(sorted(client.nodes_manager.startup_nodes))
    elif kind == "sentinel":
        where = f"sentinel {pool.service_name} {_sentinels(pool)}"
    user = options.get("username")
    return f"{user}@{where}" if user else str(where)


def _sentinels(pool: Any) -> str:
    clients = getattr(pool.sentinel_manager, "sentinels", ())
    return ",".join(sorted(server_name(sentinel) for sentinel in clients))


def unreachable_advice(error: BaseException) -> str:
    """What to do about a connection that failed; "" when the error says it all."""
    text = str(error)
    if re.search(r"unknown command\W+HELLO", text, re.IGNORECASE):
        return "this server speaks RESP2 only (Redis before 6.0): put protocol=2 into the URL (?protocol=2)"
    if re.search(r"NOAUTH|WRONGPASS|invalid username-password|invalid password", text, re.IGNORECASE):
        return "give the right user and password in the URL: redis://user:password@host:port/0"
    if re.search(r"\bMOVED\b", text):
        return "this is a node of a Redis Cluster: use redis+cluster://host:port"
    return ""
