"""What a server can do and how it is set up, and what that means for sessions and locks.

:func:`judge` decides from answers alone; :func:`probe` asks for them; :class:`Checkup` does it once per server and
process, beside the requests, and remembers. What an ACL does not let us find out is listed, not guessed.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

from ..errors import SessionLockError
from .findings import WRITES, Capabilities, ClientKind, Finding
from .probe import Ask, judge, probe

__all__ = [
    "WRITES",
    "Ask",
    "Capabilities",
    "Checkup",
    "ClientKind",
    "Everyone",
    "Finding",
    "client_kind",
    "judge",
    "probe",
    "server_name",
    "unreachable_advice",
    "with_advice",
]

log = logging.getLogger("sessionlock")

KNOWN_FOR = 300.0  # seconds for which what was found out about a server counts for this process' other event loops
REFUSED_FOR = 5.0  # seconds after which a refused server is looked at again: a failover or an operator may have helped

# How to ask each of several servers, by their names, for as long as it is entered.
Everyone = Callable[[], AbstractAsyncContextManager[Mapping[str, Ask]]]

_known: dict[tuple[str, ClientKind, str], tuple[float, Capabilities]] = {}
_told: set[tuple[str, str]] = set()


class Checkup:
    """One look at a server for one event loop, or none when this process knows that server already.

    ``server`` names it (:func:`server_name`). Findings are logged once per process and server. ``everyone``, in the
    place of ``ask``: the masters that are one store or one quorum together. They are looked at all at once, and one
    that does not answer is done without.
    """

    def __init__(
        self,
        ask: Ask | None,
        server: str,
        *,
        client: ClientKind = "single",
        prefix: str = "sl",
        everyone: Everyone | None = None,
    ) -> None:
        self._server = server
        self._client: ClientKind = client
        self._prefix = prefix
        self._everyone = everyone or (lambda: nullcontext({} if ask is None else {server: ask}))
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

        Of several masters one that is fit speaks for all: only where none is fit are calls refused.

        Raises:
            whatever ``ask`` raises for a lost connection; then nothing is known, and nothing refused.
        """
        found = await self._probed()
        self.found = found
        if found.refusal() is None:
            _known[self._key] = (time.monotonic(), found)
            self._refused_until = 0.0
        else:
            _known.pop(self._key, None)
            self._refused_until = time.monotonic() + REFUSED_FOR
        return found

    async def _probed(self) -> Capabilities:
        async with self._everyone() as asks:
            answers = await asyncio.gather(
                *(probe(ask, client=self._client, prefix=self._prefix) for ask in asks.values()), return_exceptions=True
            )
        seen: dict[str, Capabilities] = {}
        silent: dict[str, BaseException] = {}
        for name, answer in zip(asks, answers, strict=True):
            if isinstance(answer, BaseException):
                silent[name] = answer
            else:
                seen[name] = answer
        if not seen:
            raise next(iter(silent.values()))
        tell(seen)
        for name, error in silent.items():
            if _is_news(name, "silent"):
                log.warning("%s: not looked at, for it did not answer: %s", name, error)
        return min(seen.values(), key=lambda found: found.refusal() is not None)

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


def tell(seen: Mapping[str, Capabilities]) -> None:
    """Log what is worth knowing, each finding once per process and server; what several share, in one line."""
    levels = {"refuse": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO}
    about: dict[Finding, list[str]] = {}
    for server, found in seen.items():
        for finding in found.findings:
            if _is_news(server, finding.code):
                about.setdefault(finding, []).append(server)
    for finding, servers in about.items():
        log.log(levels[finding.level], "%s: %s", ", ".join(servers), finding)
    for server, found in seen.items():
        if found.unknown and found.because and _is_news(server, "unknown"):
            log.info("%s: unknown: %s (%s)", server, ", ".join(found.unknown), "; ".join(found.because))


def _is_news(server: str, code: str) -> bool:
    if (server, code) in _told:
        return False
    _told.add((server, code))
    return True


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


_ADVICE = (
    (
        r"unknown command\W+HELLO",
        "this server speaks RESP2 only (Redis before 6.0): put protocol=2 into the URL (?protocol=2)",
    ),
    (
        "NOAUTH|WRONGPASS|invalid username-password|invalid password|authentication required",
        "give the right user and password in the URL: redis://user:password@host:port/0",
    ),
    ("called without any password", "this server has no password: take it out of the URL, or set one at the server"),
    ("DB index is out of range", "give a database that the server has: the number at the end of the URL"),
    (
        "no (connection|answer) within",
        "the server hangs, or the way to it does: look at its load and log, at firewalls between, and whether the URL"
        " should be rediss:// (TLS)",
    ),
    (r"\bMOVED\b", "this is a node of a Redis Cluster: use redis+cluster://host:port"),
    (
        "no master found for",
        "none of these sentinels told of a master: check their hosts and ports, that they run, and the service's name",
    ),
    (
        "connect call failed|connection refused",
        "nobody listens there: check host and port, that the server is running, and that it listens at this address"
        " (bind) and port (its tls-port is for rediss://, its port for redis://)",
    ),
    (r"connecting to /.*no such file", "check the path of the socket, and that the server is running"),
    (
        "name or service not known|nodename nor servname|name resolution|no address associated|getaddrinfo failed",
        "check the name of the host",
    ),
    ("WRONG_VERSION_NUMBER|record layer failure", "this port is not for TLS: use redis://, or the server's tls-port"),
    (
        "CERTIFICATE_VERIFY_FAILED",
        "name the authority that signed the server's certificate in the URL (?ssl_ca_certs=/path/to/ca.pem)",
    ),
)


def unreachable_advice(error: BaseException) -> str:
    """What to do about a connection that failed; "" when the error says it all."""
    return next((advice for said, advice in _ADVICE if re.search(said, str(error), re.IGNORECASE)), "")


def with_advice(said: str, error: BaseException) -> str:
    """What is said about a connection that failed, with what to do about it."""
    advice = unreachable_advice(error)
    return f"{said}; {advice}" if advice else said
