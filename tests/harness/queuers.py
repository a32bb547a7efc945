"""A process whose requests queue for one session and write down when each got its turn.

Told on standard input how many requests shall queue, it prints, as each is granted, ``[fencing token, token]``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING

from sessionlock import SessionGuard, WaitPolicy
from tests.harness.children import PATIENCE, Child

if TYPE_CHECKING:
    from typing_extensions import Self


class Queuer(Child):
    """The test's side of one such process."""

    def __init__(self, url: str, sid: str) -> None:
        self._words = (url, sid)

    async def __aenter__(self) -> Self:
        self._start(__file__, *self._words)
        with self._killed_unless_ready():
            assert json.loads(await self._line()) == "ready"
        return self

    def queue(self, count: int) -> None:
        """Let ``count`` requests ask for the session, all at once."""
        self._say(str(count))

    async def granted(self, count: int) -> list[tuple[int, str]]:
        """The next ``count`` grants: fencing token and token."""
        lines = [json.loads(await self._line()) for _ in range(count)]
        return [(fence, token) for fence, token in lines]


def tell(words: object) -> None:
    print(json.dumps(words), flush=True)


async def request(guard: SessionGuard, sid: str) -> None:
    async with guard.session_lock(sid) as session:
        assert session.lease is not None
        tell([session.lease.fencing_token, session.lease.token])


async def main(url: str, sid: str) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    requests: list[asyncio.Task[None]] = []
    async with SessionGuard.from_url(url, wait=WaitPolicy.seconds(PATIENCE, max_waiters=1000)) as guard:
        tell("ready")
        while line := await lines.readline():
            requests += [asyncio.create_task(request(guard, sid)) for _ in range(int(line))]


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
