"""The parent's side of the node processes: start them, tell them what to do, leave none behind."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio

from ..failure import Failure, one_line
from .node import LINE_LIMIT, Job

__all__ = ["NODE", "Fleet"]

NODE = ("-m", "sessionlock.cli.demo.node")
GOES_WITHIN = 3.0  # seconds for a node to give its locks back; then it is killed


class Fleet:
    """All node processes of one demo; an async context manager."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = jobs
        self._nodes: list[_Node] = []

    async def __aenter__(self) -> Fleet:
        try:
            for job in self._jobs:
                self._nodes.append(await _Node.start(job))
            await _all(node.answer("ready") for node in self._nodes)
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def run(
        self, which: str, *, nodes: int | None = None, progress: Callable[[int], None] = lambda _: None
    ) -> list[dict[str, Any]]:
        """Let the nodes (or the first few) do one run, all at once; ``progress`` hears how many requests are done.

        Raises:
            Failure: a node could not go on.
        """
        asked = self._nodes[:nodes]
        done = [0] * len(asked)

        def listener(place: int) -> Callable[[int], None]:
            def hear(count: int) -> None:
                done[place] = count
                progress(sum(done))

            return hear

        for node in asked:
            node.tell({"run": which})
        return await _all(node.answer("served", listener(place)) for place, node in enumerate(asked))

    async def _stop(self) -> None:
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*(node.stop() for node in self._nodes))


class _Node:
    def __init__(self, process: asyncio.subprocess.Process, number: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._number = number
        self._in, self._out = process.stdin, process.stdout
        self._said = asyncio.ensure_future(process.stderr.read())

    @classmethod
    async def start(cls, job: Job) -> _Node:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *NODE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            env={**os.environ, "PYTHONPATH": _python_path()},
            start_new_session=True,  # Ctrl-C is the parent's business: it ends the nodes in good order
        )
        node = cls(process, job.node)
        node.tell(asdict(job))  # not as an argument: the url may hold a password, and ps shows arguments
        return node

    def tell(self, what: dict[str, Any]) -> None:
        self._in.write(json.dumps(what).encode() + b"\n")

    async def answer(self, awaited: str, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
        """The next answer that has the key ``awaited``."""
        while line := await self._out.readline():
            said: dict[str, Any] = json.loads(line)
            if awaited in said:
                return said
            if "error" in said:
                raise Failure(f"node {self._number} stopped: {said['error']}")
            progress(said.get("done", 0))
        status = await self._process.wait()
        last = (await self._said).decode(errors="replace").strip().splitlines()[-1:]
        raise Failure(f"node {self._number} ended unexpectedly (status {status}) {one_line(' '.join(last))}")

    async def stop(self) -> None:
        self._in.close()
        drained = asyncio.ensure_future(self._drained())
        await asyncio.wait([drained], timeout=GOES_WITHIN)
        if not drained.done():
            self._process.kill()
        await drained

    async def _drained(self) -> None:
        """Read on to the end: a node that still writes must not wait for us."""
        while await self._out.read(65_536):
            pass
        await self._said
        await self._process.wait()


async def _all(work: Iterable[Coroutine[Any, Any, dict[str, Any]]]) -> list[dict[str, Any]]:
    """All results; when one fails or the caller is cancelled, the others have ended, too, when this returns."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _python_path() -> str:
    """So that a node finds this very package, installed or not."""
    root = str(Path(__file__).resolve().parents[3])
    return os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
