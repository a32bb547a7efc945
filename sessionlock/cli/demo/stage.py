"""Where the demo plays: which Redis, what it counts, and what must be gone when the demo is over."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ...embedded.server import shared_server
from ...errors import ConfigurationError, EmbeddedServerUnavailable
from ...guard import SessionGuard
from ...policies import SessionPolicy
from ...protocol.keys import keys_for
from ...urls import client_from_url
from ..failure import Failure, one_line, without_secrets
from .plays import IDLE, PLAYS, RETRY_FOR
from .ways import Unguarded

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Counts", "Stage", "server_for"]

ANSWERS_WITHIN = 5.0  # seconds
SCRIPT_CALLS = ("eval", "evalsha")
SHARED = ("redis", "rediss", "unix")


@dataclass(frozen=True, slots=True)
class Counts:
    """What the server says it ran during a run: calls by command, and how long they kept it busy in seconds."""

    calls: Mapping[str, int] = field(default_factory=dict)
    busy: Mapping[str, float] = field(default_factory=dict)

    def of(self, *commands: str) -> int:
        return sum(self.calls.get(command, 0) for command in commands)

    def busy_with(self, *commands: str) -> float:
        return sum(self.busy.get(command, 0.0) for command in commands)

    def __sub__(self, before: Counts) -> Counts:
        calls = {name: count - before.calls.get(name, 0) for name, count in self.calls.items()}
        busy = {name: time - before.busy.get(name, 0.0) for name, time in self.busy.items()}
        return Counts({name: count for name, count in calls.items() if count > 0}, busy)


def server_for(url: str | None) -> tuple[str, str | None]:
    """The URL for node processes, and, when it is a private server of this process, what that is.

    Raises:
        Failure: there is no private server, or the URL is not one that several processes can share.
    """
    if url is None or urlsplit(url).scheme == "embedded":
        try:
            server = shared_server()
        except EmbeddedServerUnavailable as error:
            raise Failure(str(error)) from None
        return server.unix_url, str(server.binary)
    if urlsplit(url).scheme not in SHARED:
        shown = ", ".join(f"{scheme}://" for scheme in SHARED)
        raise Failure(f"the demo needs a Redis that several processes reach ({shown}), not {without_secrets(url)!r}")
    return url, None


class Stage:
    """The demo's sessions in one Redis, under a random prefix; an async context manager that deletes them.

    Raises (on entry):
        Failure: Redis cannot be reached.
    """

    def __init__(self, url: str, private: str | None) -> None:
        self.url = url
        self.prefix = f"sl-demo-{secrets.token_hex(6)}"
        self.sids = {name: secrets.token_urlsafe(16) for name in (*PLAYS, "alone")}
        self.server = private or ""
        self.private = private is not None
        self._nodes = 0
        try:
            self._client: Redis = client_from_url(url)
        except ConfigurationError as error:
            raise Failure(str(error)) from None
        self._unguarded = Unguarded(self._client, self.prefix)
        self._guard = SessionGuard(
            self._client, prefix=self.prefix, session=SessionPolicy(idle=IDLE), retry_for=RETRY_FOR
        )

    async def __aenter__(self) -> Self:
        try:
            await self._greet()
        except BaseException:
            await self._client.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with anyio.move_on_after(ANSWERS_WITHIN, shield=True):
            try:
                await self._delete_all()
            except (RedisError, OSError):
                if error is None:
                    raise  # else: Redis went away, which is told already; the sessions expire by themselves
            finally:
                await self._guard.aclose()
                await self._client.aclose()

    async def _greet(self) -> None:
        shown = without_secrets(self.url)
        try:
            with anyio.fail_after(ANSWERS_WITHIN):
                await self._client.ping()
        except TimeoutError:
            raise Failure(f"Redis at {shown} did not answer within {ANSWERS_WITHIN:g} s") from None
        except (RedisError, OSError) as error:
            raise Failure(f"Redis at {shown} cannot be used: {one_line(error)}") from None
        if not self.private:
            self.server = f"{await self._flavour()} at {shown}"

    async def _flavour(self) -> str:
        try:
            about = await self._client.info("server")
        except RedisError:
            return "a server"  # an ACL may forbid INFO
        if "valkey_version" in about:
            return f"Valkey {about['valkey_version']}"
        return f"Redis {about.get('redis_version', '(version unknown)')}"

    async def set_up(self, nodes: int) -> None:
        """Store the sessions that both runs start from."""
        self._nodes = nodes
        for play in PLAYS.values():
            await self._unguarded.store(self.sids[play.name], play.new_session())
            await self._guard.create(play.new_session(), sid=self.sids[play.name])
        alone = PLAYS["counter"].new_session()
        await self._unguarded.store(self.sids["alone"], alone)
        await self._guard.create(alone, sid=self.sids["alone"])

    async def what_is_left(self, which: str) -> dict[str, Any]:
        """What the sessions hold after a run, by play."""
        left = {}
        for play in PLAYS.values():
            sid = self.sids[play.name]
            session = await (self._guard.read(sid) if which == "guarded" else self._unguarded.load(sid))
            left[play.name] = play.left(session)
        return left

    async def counts(self) -> Counts | None:
        """The server's own totals; None where it does not tell."""
        try:
            stats: dict[str, dict[str, Any]] = await self._client.info("commandstats")
        except RedisError:
            return None
        named = {name.removeprefix("cmdstat_").lower(): of for name, of in stats.items()}
        return Counts(
            {name: int(of["calls"]) for name, of in named.items()},
            {name: of["usec"] / 1e6 for name, of in named.items()},
        )

    async def _delete_all(self) -> None:
        guarded = [*self.sids.values(), *(f"{self.sids['alone']}-{node}" for node in range(self._nodes))]
        async with self._client.pipeline(transaction=False) as pipeline:
            for sid in guarded:
                for key in keys_for(self.prefix, sid).all:
                    pipeline.delete(key)
            for sid in self.sids.values():
                pipeline.delete(self._unguarded.key(sid))
            await pipeline.execute()
