"""Taking one visitor's old session over, and exchanging changes with nodes that still run the old session layer."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ...codecs.base import Codec, Sealing
from ...errors import InvalidSessionId, LockNotAcquired, SessionConflict, SessionNotFound
from ...guard import SessionGuard
from ...policies import SessionPolicy
from ...session.beside import Beside
from ...session.mapping import Session

__all__ = ["Old", "Origin", "TakeOver"]

log: logging.Logger = logging.getLogger("sessionlock.web")
A_MONTH = 31 * 86_400.0


@dataclass(frozen=True, slots=True)
class Old:
    """An old session. ``sid``: the id under which it goes on here; ``seconds`` that it would have lived, if known."""

    sid: str
    data: Mapping[str, Any]
    seconds: float | None = None


class Origin(Protocol):
    """Where old sessions are. ``cookie``: the name of their cookie, None for that of the new ones.

    ``write_back``: old nodes still run: exchange changes with them. What these methods raise fails the request.
    """

    cookie: str | None
    write_back: bool

    async def load(self, value: str) -> Old | None:
        """The session that belongs to a cookie's ``value``, None if there is none."""

    async def store(self, sid: str, data: Mapping[str, Any], seconds: float) -> None:
        """Let old nodes find ``data`` by a cookie that holds ``sid``. Only with ``write_back``."""

    async def end(self, value: str) -> None:
        """The visitor logged out."""

    async def aclose(self) -> None:
        """Close the connections of this event loop."""


class TakeOver:
    """What a request does about its visitor's old session. ``value``: of the old cookie."""

    def __init__(
        self, origin: Origin, guard: SessionGuard, value: str, policy: SessionPolicy, codec: Codec | None
    ) -> None:
        self.origin = origin
        self._guard = guard
        self._value = value
        self._policy = policy
        self._codec = codec or guard.codec

    async def take(self) -> str | None:
        """Take the old session over if there is one and nobody has yet; its id here, whoever did it.

        The store makes a record only if there is none of that id, so of several nodes one does it. A mark outlives the
        record: an old session is not taken a second time after a logout; then there is no session of that id.

        Raises:
            RedisUnavailable, CodecError, SessionTooLarge; what the origin raises.
        """
        old = await self.origin.load(self._value)
        if old is None:
            return None
        try:
            beside = Beside(self._guard, old.sid)
        except InvalidSessionId:
            return None
        if await beside.exists("taken"):
            return old.sid  # perhaps by another request of this visitor, a moment ago
        life = max(self._policy.idle, old.seconds or A_MONTH)
        policy = self._policy if old.seconds is None else replace(self._policy, idle=max(old.seconds, 1.0))
        try:
            await self._guard.create(old.data, sid=old.sid, session=policy, codec=self._codec)
            log.info("an old session was taken over as %s", beside.digest)
        except SessionConflict:
            pass  # another node was faster, or it has just been ended
        await beside.set("taken", 1, 2 * life)
        if self.origin.write_back:
            await self._remember(beside, self._encoded(old.data))
        return old.sid

    async def exchange(self, sid: str, *, moved: bool = False) -> None:
        """Bring in what old nodes have changed since this was done last, and tell them what has changed here.

        Under the session's lock, so that new nodes do it one after the other. A key that both sides changed keeps what
        it has here. A session that is gone there was ended there: it ends here. ``moved``: it has a new id, which is
        not known there yet.
        """
        beside = Beside(self._guard, sid)
        try:
            async with self._guard.session_lock(
                sid, missing="reject", session=self._policy, codec=self._codec, label="take-over"
            ) as session:
                await self._exchange(session, beside, moved)
        except (SessionNotFound, LockNotAcquired) as error:
            log.info("nothing was exchanged with the old sessions: %s", error)

    async def _exchange(self, session: Session, beside: Beside, moved: bool) -> None:
        base, old = await self._agreed(beside), None if moved else await self.origin.load(session.sid)
        if old is None and base is not None and not moved:
            await session.destroy()
            return
        base, there = base or {}, {} if old is None else old.data
        theirs, ours = base if old is None else self._encoded(there), self._encoded(dict(session))
        for key in theirs.keys() | base.keys():
            if theirs.get(key) == base.get(key) or ours.get(key) != base.get(key):
                continue
            if key in there:
                session[key] = there[key]
            else:
                session.pop(key, None)
        now = self._encoded(dict(session))
        if old is None or now != theirs or now != base:
            await self.origin.store(session.sid, dict(session), self._policy.idle)
            await self._remember(beside, now)

    async def differs(self, sid: str) -> bool:
        """Whether an old node has changed the session, or ended it, since the last exchange."""
        base, old = await self._agreed(Beside(self._guard, sid)), await self.origin.load(sid)
        return base is not None and (old is None or self._encoded(old.data) != base)

    async def end(self) -> None:
        """The session was ended here."""
        await self.origin.end(self._value)

    def _encoded(self, data: Mapping[str, Any]) -> dict[str, str]:
        """Comparable: a codec that seals gives other bytes each time, so what is sealed counts."""
        codec = self._codec.inner if isinstance(self._codec, Sealing) else self._codec
        return {key: codec.encode(key, value).decode("latin-1") for key, value in data.items()}

    async def _agreed(self, beside: Beside) -> dict[str, str] | None:
        """What both sides had after the last exchange; None: there was none."""
        found = await beside.get("mirror")
        return None if found is None else json.loads(self._opened(found))

    async def _remember(self, beside: Beside, content: Mapping[str, str]) -> None:
        """What both sides agree in, to tell later who changed what."""
        sealed = self._sealed(json.dumps(content).encode())
        await beside.set("mirror", sealed, max(self._policy.idle, A_MONTH))

    def _sealed(self, data: bytes) -> bytes:
        return self._codec.seal("mirror", data) if isinstance(self._codec, Sealing) else data

    def _opened(self, data: bytes) -> bytes:
        return self._codec.unseal("mirror", data) if isinstance(self._codec, Sealing) else data
