"""``sessionlock demo``: the three losses of concurrent sessions, unguarded and guarded, side by side."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import secrets
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
from redis.asyncio import Redis
from redis.exceptions import RedisError

from ...embedded.server import shared_server
from ...errors import ConfigurationError, EmbeddedServerUnavailable, SessionLockError
from ...guard import SessionGuard
from ...policies import SessionPolicy
from ...protocol.keys import keys_for
from ...urls import client_from_url
from ..failure import Failure, one_line, without_secrets
from ..printed import print_json
from ..terminal import Progress, Style, style_of
from .node import LINE_LIMIT, Job
from .report import Counts, Fifo, Figures, Report, Spread, fifo, figures_of
from .scenarios import CLIENTS, IDLE, PAUSE, RETRY_FOR, SCENARIOS, Served, Unguarded

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from typing_extensions import Self

__all__ = ["run_demo"]

ROOT = str(Path(__file__).resolve().parents[3])  # where a node finds this very package, installed or not
NODE = ("-m", "sessionlock.cli.demo.node")
ANSWERS_WITHIN = 5.0  # seconds
GOES_WITHIN = 3.0  # seconds for a node to give its locks back; then it is killed
SHARED = ("redis", "rediss", "unix")
GOODBYE = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def run_demo(arguments: argparse.Namespace) -> int:
    """Play, show, and return the exit status.

    Raises:
        Failure: there is no Redis to play on, or it went away.
    """
    out = sys.stderr if arguments.json else sys.stdout
    style = style_of(out)
    progress = Progress(None if arguments.json and not style.live else out, style)
    try:
        return asyncio.run(_until_signalled(_run(arguments, progress, style), progress))
    except BrokenPipeError:
        raise  # our own output's, not Redis'
    except (SessionLockError, RedisError, OSError) as error:
        raise Failure(f"the demo could not go on: {one_line(error)}") from None


async def _run(arguments: argparse.Namespace, progress: Progress, style: Style) -> int:
    url, private = await asyncio.to_thread(_server_for, arguments.url)
    seed = random.SystemRandom().randrange(1_000_000) if arguments.seed is None else arguments.seed
    async with Stage(url, private) as stage:
        if not arguments.json:
            print(_heading(stage, arguments.nodes, arguments.requests, style), flush=True)
        report = await _play(stage, arguments.nodes, arguments.requests, seed, progress)
    if arguments.json:
        print_json("demo", indent=2, **report.as_json())
    else:
        print("\n" + report.as_text(style))
    return 0 if report.guarded.sound else 1


def _heading(stage: Stage, nodes: int, requests: int, style: Style) -> str:
    return f"""{style.bold("sessionlock demo")}: concurrent requests of one session, on several nodes

  server     {stage.server}{" (private, ends with this demo)" if stage.private else ""}
  nodes      {nodes} process{"es" if nodes != 1 else ""}
  sessions   {len(SCENARIOS)}: a cart, flash messages, a counter
  requests   {requests:,} to each session, up to {nodes * CLIENTS} of them at once
  handlers   the same in both runs, with a pause of {PAUSE * 1000:g} ms between load and save
"""


async def _play(stage: Stage, nodes: int, requests: int, seed: int, progress: Progress) -> Report:
    """Both runs, and what a session costs that nobody else uses."""
    progress.doing(f"starting {nodes} node processes")
    await stage.set_up(nodes)
    jobs = [Job(stage.url, stage.prefix, node, nodes, requests, seed, stage.sids) for node in range(nodes)]
    try:
        async with _started(jobs) as started:
            unguarded, _ = await _one_run("unguarded", started, stage, requests, progress)
            guarded, order = await _one_run("guarded", started, stage, requests, progress)
            progress.doing("measuring both ways without contention")
            served = _served(await _ask(started[:1], "alone"))
    finally:
        progress.clear()
    alone = {
        way: Spread.over(one.took - one.handled for one in served if bool(one.fence) is guarded_way)
        for way, guarded_way in (("unguarded", False), ("guarded", True))
    }
    parallel = nodes * CLIENTS
    return Report(stage.server, stage.private, nodes, requests, parallel, seed, unguarded, guarded, order, alone)


async def _one_run(
    which: str, started: list[NodeProcess], stage: Stage, requests: int, progress: Progress
) -> tuple[Figures, Fifo]:
    total = requests * len(SCENARIOS)
    before = await stage.counts()
    answers = await _ask(started, which, lambda done: progress.at(which, done, total))
    after = await stage.counts()
    left = await stage.what_is_left(which)
    served = _served(answers)
    # The nodes share one machine, hence one monotonic clock.
    seconds = max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers)
    progress.finished(which, len(served), total, seconds)
    refused: Counter[str] = Counter()
    for answer in answers:
        refused.update(answer["refused"])
    found = figures_of(which, served, left, refused=refused, seconds=seconds, before=before, after=after)
    return found, fifo(served, left)


def _served(answers: list[dict[str, Any]]) -> list[Served]:
    return [Served(*one) for answer in answers for one in answer["served"]]


async def _until_signalled(work: Coroutine[Any, Any, int], progress: Progress) -> int:
    """Ctrl-C and SIGTERM end ``work`` in good order; asking twice does not hurry it, it has deadlines of its own.

    A cancel scope, because it asks again and again: redis-py now and then swallows a cancellation.
    """
    loop = asyncio.get_running_loop()
    received: list[signal.Signals] = []
    with anyio.CancelScope() as scope:

        def stop(which: signal.Signals) -> None:
            received.append(which)
            scope.cancel()

        undo = [_on_signal(loop, which, stop) for which in GOODBYE]
        try:
            return await work
        except Exception:
            if not received:
                raise
        finally:
            for remove in undo:
                remove()
    progress.clear()
    print(f"sessionlock: {GOODBYE[received[0]]}", file=sys.stderr)
    return 128 + received[0]


def _on_signal(
    loop: asyncio.AbstractEventLoop, which: signal.Signals, stop: Callable[[signal.Signals], None]
) -> Callable[[], object]:
    try:
        loop.add_signal_handler(which, stop, which)
    except (ValueError, RuntimeError):
        return lambda: None  # not in the main thread, where signals are somebody else's business
    return lambda: loop.remove_signal_handler(which)


# --- the Redis


def _server_for(url: str | None) -> tuple[str, str]:
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
    return url, ""


class Stage:
    """The demo's sessions in one Redis, under a random prefix; an async context manager that deletes them.

    ``private``: what the server is, when it is this process' own.

    Raises (on entry):
        Failure: Redis cannot be reached.
    """

    def __init__(self, url: str, private: str) -> None:
        self.url = url
        self.server: str = private
        self.private: bool = bool(private)
        self.prefix: str = f"sl-demo-{secrets.token_hex(6)}"
        self.sids: dict[str, str] = {name: secrets.token_urlsafe(16) for name in (*SCENARIOS, "alone")}
        self._nodes = 0
        try:
            self._client: Redis = client_from_url(url)
        except ConfigurationError as error:
            raise Failure(str(error)) from None
        self._unguarded = Unguarded(self._client, self.prefix)
        session = SessionPolicy(idle=IDLE)
        self._guard = SessionGuard(self._client, prefix=self.prefix, session=session, retry_for=RETRY_FOR)

    async def __aenter__(self) -> Self:
        try:
            await self._greet()
        except BaseException:
            await self._client.aclose()
            raise
        return self

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
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
        begin = {name: scenario.new_session() for name, scenario in SCENARIOS.items()}
        for name, session in {**begin, "alone": begin["counter"]}.items():
            await self._unguarded.store(self.sids[name], session)
            await self._guard.create(session, sid=self.sids[name])

    async def what_is_left(self, which: str) -> dict[str, Any]:
        """What the sessions hold after a run, by scenario."""
        read = self._guard.read if which == "guarded" else self._unguarded.load
        return {name: scenario.left(await read(self.sids[name])) for name, scenario in SCENARIOS.items()}

    async def counts(self) -> Counts | None:
        """The server's own totals; None where it does not tell."""
        try:
            stats: dict[str, dict[str, Any]] = await self._client.info("commandstats")
        except RedisError:
            return None
        return {
            name.removeprefix("cmdstat_").lower(): (int(of["calls"]), of["usec"] / 1e6) for name, of in stats.items()
        }

    async def _delete_all(self) -> None:
        guarded = [*self.sids.values(), *(f"{self.sids['alone']}-{node}" for node in range(self._nodes))]
        async with self._client.pipeline(transaction=False) as pipeline:
            for sid in guarded:
                pipeline.delete(*keys_for(self.prefix, sid).all)
            for sid in self.sids.values():
                pipeline.delete(self._unguarded.key(sid))
            await pipeline.execute()


# --- the node processes


@asynccontextmanager
async def _started(jobs: list[Job]) -> AsyncIterator[list[NodeProcess]]:
    """All node processes of one demo, ready; none is left behind."""
    nodes: list[NodeProcess] = []
    try:
        for job in jobs:
            nodes.append(await NodeProcess.start(job))
        await _all(node.answer("ready") for node in nodes)
        yield nodes
    finally:
        with anyio.CancelScope(shield=True):
            await asyncio.gather(*(node.stop() for node in nodes))


async def _ask(
    nodes: list[NodeProcess], which: str, progress: Callable[[int], None] = lambda done: None
) -> list[dict[str, Any]]:
    """Let these nodes do one run, all at once; ``progress`` hears how many requests are done.

    Raises:
        Failure: a node could not go on.
    """
    done = [0] * len(nodes)

    def hear(place: int, count: int) -> None:
        done[place] = count
        progress(sum(done))

    for node in nodes:
        node.tell({"run": which})
    return await _all(node.answer("served", partial(hear, place)) for place, node in enumerate(nodes))


class NodeProcess:
    """The parent's side of a node."""

    def __init__(self, process: Process, number: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._process = process
        self._number = number
        self._in, self._out = process.stdin, process.stdout
        self._said = asyncio.ensure_future(process.stderr.read())

    @classmethod
    async def start(cls, job: Job) -> NodeProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *NODE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (ROOT, os.environ.get("PYTHONPATH"))))},
            start_new_session=True,  # Ctrl-C is the parent's business: it ends the nodes in good order
        )
        node = cls(process, job.node)
        node.tell(asdict(job))  # not as an argument: the url may hold a password, and ps shows arguments
        return node

    def tell(self, what: dict[str, Any]) -> None:
        self._in.write(json.dumps(what).encode() + b"\n")

    async def answer(self, awaited: str, progress: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
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
