"""A process whose requests queue for one session and write down when each got its turn.

Told on standard input how many requests shall queue, it prints, as each is granted, ``[fencing token, token]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from sessionlock import SessionGuard, WaitPolicy
from tests.harness import import_path

if TYPE_CHECKING:
    from typing_extensions import Self

PATIENCE = 15.0


class Queuer:
    """The test's side of one such process."""

    def __init__(self, url: str, sid: str) -> None:
        self._words = (url, sid)
        self._process: subprocess.Popen[bytes]

    async def __aenter__(self) -> Self:
        self._process = subprocess.Popen(  # noqa: ASYNC220  (it returns at once)
            [sys.executable, __file__, *self._words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": import_path()},
        )
        try:
            assert await self._line() == "ready"
        except BaseException:
            self._kill()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._kill()

    def queue(self, count: int) -> None:
        """Let ``count`` requests ask for the session, all at once."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(f"{count}\n".encode())
        stdin.flush()

    async def granted(self, count: int) -> list[tuple[int, str]]:
        """The next ``count`` grants: fencing token and token."""
        lines = [await self._line() for _ in range(count)]
        return [(fence, token) for fence, token in lines]

    async def _line(self) -> Any:
        stdout = self._process.stdout
        assert stdout is not None
        with anyio.fail_after(PATIENCE):
            line = await anyio.to_thread.run_sync(stdout.readline, abandon_on_cancel=True)
        assert line, "the process ended"
        return json.loads(line)

    def _kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                pass  # what it was told last it never read


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
