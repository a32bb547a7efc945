"""What a server can do and how it is set up, and what that means for sessions and locks.

:func:`judge` decides from answers alone; :func:`probe` asks for them; :class:`Checkup` does it once per server and
process, beside the requests, and remembers. What an ACL does not let us find out is listed, not guessed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TypeAlias

from ..clock import monotonic
from ..policies import Replicated
from ..transport.clients import ClientKind
from .findings import OF_SCRIPTS, WRITES, Capabilities, Finding
from .probe import Ask, Server, judge, probe
from .settings import findings_among

__all__ = [
    "WRITES",
    "Ask",
    "Capabilities",
    "Checkup",
    "Everyone",
    "Finding",
    "judge",
    "probe",
]

log: logging.Logger = logging.getLogger("sessionlock")

KNOWN_FOR = 300.0  # seconds for which what was found out about a server counts for this process' other event loops
REFUSED_FOR = 5.0  # seconds after which a refused server is looked at again: a failover or an operator may have helped
BEGUN_FOR = 10.0  # seconds after which another event loop looks, too, if one that began to has not found out anything

# How to ask each of several servers, by their names, for as long as it is entered.
Everyone = Callable[[], AbstractAsyncContextManager[Mapping[str, Server]]]

# What this process knows, by server, kind of client, prefix and durability: whichever of its event loops found out. A
# loop may end amid its look; a process may have hundreds of loops, one after the other (``asyncio.run``) or at once.
_Key: TypeAlias = "tuple[str, ClientKind, str, Replicated | None]"
_known: dict[_Key, tuple[float, Capabilities]] = {}
_begun: dict[_Key, float] = {}
_told: set[tuple[str, str]] = set()


class Checkup:
    """One look at a server, or none when this process knows that server already.

    ``server`` names it (:func:`.server_name`). Findings are logged once per process and server. ``everyone``, in the
    place of ``ask``: the masters that are one store or one quorum together. They are looked at all at once, and one
    that does not answer is done without. ``durability``: what saves wait for.
    """

    def __init__(
        self,
        ask: Ask | None,
        server: str,
        *,
        client: ClientKind = "single",
        prefix: str = "sl",
        everyone: Everyone | None = None,
        durability: Replicated | None = None,
    ) -> None:
        self._durability = durability
        self._server = server
        self._client: ClientKind = client
        self._prefix = prefix
        self._everyone = everyone or (lambda: nullcontext({} if ask is None else {server: Server(ask)}))

    def known(self) -> Capabilities | None:
        """What this process found out about the server a short while ago, fit or not; asks nothing."""
        at, found = _known.get(self._key, (0.0, None))
        if found is None:
            return None
        return found if monotonic() - at <= (KNOWN_FOR if found.refusal() is None else REFUSED_FOR) else None

    def begin(self) -> bool:
        """Whether it is time for a look, of this event loop: nothing is known, and no other one is looking."""
        now = monotonic()
        if self.known() is not None or now - _begun.get(self._key, -BEGUN_FOR) < BEGUN_FOR:
            return False
        _begun[self._key] = now
        return True

    async def run(self) -> Capabilities:
        """Ask, whatever is known, remember, and log.

        Of several masters one that is fit speaks for all: only where none is fit are calls refused.

        Raises:
            whatever ``ask`` raises for a lost connection; then nothing is known, and nothing refused.
        """
        try:
            found = await self._probed()
        except Exception:
            _begun.pop(self._key, None)  # no answer now; the next call tries again
            raise
        _begun.pop(self._key, None)
        _known[self._key] = (monotonic(), found)
        return found

    async def _probed(self) -> Capabilities:
        async with self._everyone() as servers:
            answers = await asyncio.gather(
                *(
                    probe(ask, client=self._client, prefix=self._prefix, tag=tag, durability=self._durability)
                    for ask, tag in servers.values()
                ),
                return_exceptions=True,
            )
        seen: dict[str, Capabilities] = {}
        silent: dict[str, BaseException] = {}
        for name, answer in zip(servers, answers, strict=True):
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
    def _key(self) -> _Key:
        return (self._server, self._client, self._prefix, self._durability)


def tell(seen: Mapping[str, Capabilities]) -> None:
    """Log what is worth knowing, each finding once per process and server; what several share, in one line."""
    levels = {"refuse": logging.ERROR, "warn": logging.WARNING, "info": logging.INFO}
    about: dict[Finding, list[str]] = {}
    for server, found in seen.items():
        for finding in found.findings:
            if _is_news(server, finding.code):
                about.setdefault(finding, []).append(server)
    for finding in findings_among(seen):
        if _is_news(" ".join(seen), finding.code):
            about[finding] = list(seen)
    for finding, servers in about.items():
        # Whoever takes no lock needs no script; a lock that is asked for is refused, and that is loud.
        spared = finding.code in OF_SCRIPTS and all(seen[name].client in ("single", "sentinel") for name in servers)
        level = levels["warn" if spared and finding.level == "refuse" else finding.level]
        log.log(level, "%s: %s", ", ".join(servers), finding)


def _is_news(server: str, code: str) -> bool:
    if (server, code) in _told:
        return False
    _told.add((server, code))
    return True
