"""Which sessions a user has: an index beside the records, in a slot of its own, that can always be built anew.

The record says whose it is (``#user``); the index is a sorted set of record names by when they were entered. An entry
is written before its record and checked against it when read, so a crash in between leaves a stale entry, never a
missing one. Sessions that expire leave theirs behind: with each entry some old ones are looked at, so that these do not
pile up.
"""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from typing import Any

from redis.exceptions import RedisError

from ..errors import RedisUnavailable, SessionLockError
from ..policies import SessionPolicy
from ..protocol.keys import RECORD, SessionKeys, keys_of_record, user_digest, user_key
from ..protocol.record_calls import Bind
from ..protocol.replies import Refused, Snapshot, refusal
from ..transport.advice import with_advice
from ..transport.calling import Executor
from ..transport.route import LOST
from ..transport.tasks import within

__all__ = ["UserIndex", "leave_index"]

LOOKED_AT = 2  # old entries, with each that is written: the dead become fewer, however many they were


async def leave_index(client: Any, keys: SessionKeys, user: str) -> None:
    """A session of the user with this digest was destroyed. An entry that stays is found stale when it is read."""
    with suppress(RedisError, *LOST):
        await client.execute_command("ZREM", user_key(keys.prefix, user), keys.digest)


class UserIndex:
    """``client`` runs the few plain commands that need no script."""

    def __init__(
        self, client: Any, executor: Executor, prefix: str, policy: SessionPolicy, reply_within: float
    ) -> None:
        self._client = client
        self._reply_within = reply_within
        self._executor = executor
        self._prefix = prefix
        self._policy = policy

    async def bind(self, keys: SessionKeys, user: str) -> None:
        """Raises :class:`~sessionlock.SessionNotFound`, :class:`~sessionlock.SessionDestroyed`."""
        await self._bind(keys, user_digest(user) if user else "")

    def overdue(self, snapshot: Snapshot) -> bool:
        """Whether a bound session that was just loaded should be entered again: the index, too, has a TTL."""
        indexed = snapshot.fields.get(b"#indexed")
        return indexed is not None and time.time() - int(indexed) / 1e6 > self._policy.idle / 2

    async def enter_again(self, keys: SessionKeys, snapshot: Snapshot) -> None:
        """Renew the entry of a bound session; a session that is gone meanwhile needs none."""
        try:
            await self._bind(keys, _text(snapshot.fields[b"#user"]))
        except SessionLockError:
            return

    async def _bind(self, keys: SessionKeys, digest: str) -> None:
        if digest:
            await self._enter(digest, keys.digest)
        outcome = await self._executor.run(Bind(keys, digest))
        refused = isinstance(outcome, Refused)
        previous = digest if isinstance(outcome, Refused) else outcome.previous
        if previous and (refused or previous != digest):
            await self._command("ZREM", user_key(self._prefix, previous), keys.digest)
        if isinstance(outcome, Refused):
            raise refusal(keys.digest, outcome.kind)

    async def records(self, user: str) -> list[SessionKeys]:
        """The records that are this user's now; stale entries are removed."""
        digest = user_digest(user)
        index = user_key(self._prefix, digest)
        names = await self._command("ZRANGE", index, 0, -1)
        return [keys_of_record(self._prefix, _text(name)) for name in names if await self._is_kept(digest, name)]

    async def _is_kept(self, user: str, name: Any) -> bool:
        """Whether the record of an entry is this user's now; one that is not is stale, and removed."""
        kept = await self._user_of(keys_of_record(self._prefix, _text(name)).session) == user
        if not kept:
            await self._command("ZREM", user_key(self._prefix, user), name)
        return kept

    async def _user_of(self, record: bytes) -> str:
        """The digest of a record's user; "" when it is bound to nobody, or is no record of ours."""
        kind = _text(await self._command("TYPE", record))
        return _text(await self._command("HGET", record, "#user")) if kind == "hash" else ""

    async def repair(self) -> int:
        """Enter every bound record; returns how many there are."""
        entries = 0
        ours = re.compile(re.escape(f"{self._prefix}:{{") + f"({RECORD})" + r"\}:session")
        async for key in self._client.scan_iter(match=f"{_literal(self._prefix)}:{{*}}:session", count=500):
            match = ours.fullmatch(_text(key))
            user = await self._user_of(key) if match is not None else ""
            if match is not None and user:
                await self._renew_index(user)
                await self._enter(user, match[1])
                entries += 1
        return entries

    async def _renew_index(self, user: str) -> None:
        index = user_key(self._prefix, user)
        if _text(await self._command("TYPE", index)) not in ("zset", "none"):
            await self._command("DEL", index)

    async def _enter(self, user: str, record: str) -> None:
        index, now = user_key(self._prefix, user), int(time.time())
        await self._command("ZADD", index, now, record)
        # A session that is loaded at all is entered again after half its idle time.
        await self._command("PEXPIRE", index, 2 * self._policy.idle_ms)
        # No clock decides what is removed, it only says where to look.
        long_ago = now - self._policy.idle
        for name in await self._command("ZRANGEBYSCORE", index, "-inf", long_ago, "LIMIT", 0, LOOKED_AT):
            if await self._is_kept(user, name):
                await self._command("ZADD", index, "XX", now, name)

    async def _command(self, *words: Any) -> Any:
        def asked() -> Any:
            return within(self._client.execute_command(*words), self._reply_within)

        try:
            return await self._executor.elsewise(words[1], asked)
        except (RedisError, asyncio.TimeoutError, *LOST) as error:
            raise RedisUnavailable(
                with_advice(f"Redis did not carry out {words[0]} on the index of users: {error}", error)
            ) from error


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value or ""


def _literal(prefix: str) -> str:
    """``prefix`` for a MATCH pattern, where some characters would stand for others."""
    return re.sub(r"([\\*?\[\]^-])", r"\\\1", prefix)
