"""How many instructions a cycle costs, at the server and at the client: times wander with the machine, these do not.

Counted by valgrind (callgrind) in user space, of redis-server and of the whole Python process; each side is counted
while the other one runs as usual. The session is small (4 keys, 130 bytes) unless a row says otherwise.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.commands import Options, main
from benchmarks.contenders import (
    GUARDED,
    GUARDED_ALL,
    GUARDED_READ,
    POTTERY,
    REDIS_PY_LOCK,
    UNGUARDED,
    available,
    contender,
)
from benchmarks.report import Claim, Plot, Report
from benchmarks.stage import Worker, named, workers
from sessionlock.embedded import EmbeddedServer, ServerBinary, find_server

SMALL: dict[str, Any] = {"cart": [1, 2, 3], "user": 1, "count": 0, "pad": "x" * 80}
WIDE: dict[str, Any] = {"count": 0, **{f"key{number}": number for number in range(199)}}
WARM_UP = 40  # cycles
START_WITHIN = 120.0  # seconds, of a server that valgrind slows down


@dataclass(frozen=True)
class Kind:
    """A way to do cycles: so many ``tasks`` at once on one ``session``."""

    name: str
    contender: str
    session: dict[str, Any] = field(default_factory=lambda: SMALL)
    tasks: int = 1


ONE, WAITERS_32, WAITERS_64 = "sessionlock", "sessionlock, 32 waiters", "sessionlock, 64 waiters"
KINDS = (
    Kind(UNGUARDED, UNGUARDED),
    Kind(ONE, GUARDED),
    Kind("sessionlock, all keys read", GUARDED_ALL),
    Kind("sessionlock, one key read, none changed", GUARDED_READ),
    Kind(WAITERS_32, GUARDED, tasks=32),
    Kind(WAITERS_64, GUARDED, tasks=64),
    Kind(REDIS_PY_LOCK, REDIS_PY_LOCK),
    Kind(POTTERY, POTTERY),
    Kind("unguarded, 200 keys", UNGUARDED, WIDE),
    Kind("sessionlock, 200 keys, one changed", GUARDED, WIDE),
)


def run(options: Options) -> Report:
    """Count it; see the module.

    Raises:
        RuntimeError: there is no valgrind.
    """
    missing = [name for name in ("valgrind", "callgrind_control") if shutil.which(name) is None]
    if missing:
        raise RuntimeError(f"not on PATH: {', '.join(missing)}")
    kinds = [kind for kind in KINDS if available(kind.contender)]
    binary = find_server()
    with ExitStack() as stack:
        counting = stack.enter_context(_counting())
        start = stack.enter_context(workers())
        options_of: Any = {"tcp": True, "config": {"hz": "1"}, "start_within": START_WITHIN}
        counted_server = stack.enter_context(EmbeddedServer(counting.server(binary), **options_of))
        server = stack.enter_context(EmbeddedServer(tcp=True))
        usual_client = start(_work, counted_server.url)
        counted_client = start(_work, server.url, python=str(counting.python()))
        with ThreadPoolExecutor(2) as pool:  # a busy machine makes no difference
            sides = [
                pool.submit(_counted, counting, pid, worker, kinds, options.counted)
                for pid, worker in ((counted_server.pid, usual_client), (counted_client.pid, counted_client))
            ]
            at_server, at_client = (side.result() for side in sides)
    return _report(at_server, at_client, f"{options.counted} cycles each; {named(binary)}")


class Counting:
    """Programs that run under callgrind, and what it counted. Its files are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def server(self, binary: ServerBinary) -> ServerBinary:
        """The same server, counted."""
        return ServerBinary(self._script("server", binary.path), binary.flavour, binary.version, binary.source)

    def python(self) -> Path:
        """This interpreter, counted; hashes are not random, so that each run does the same."""
        return self._script("python", Path(os.path.realpath(sys.executable)), "PYTHONHASHSEED=0")

    def _script(self, name: str, program: Path, variable: str = "") -> Path:
        """A program that becomes the other one under callgrind, by the same process id."""
        script = self._folder / name
        command = ["valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={self._folder}/%p"]
        script.write_text(f'#!/bin/sh\n{variable} exec {shlex.join(command)} -q {shlex.quote(str(program))} "$@"\n')
        script.chmod(0o700)
        return script

    def of(self, pid: int, work: Callable[[], object]) -> int:
        """How many instructions the process executes during ``work``."""
        self._tell("-z", pid)
        work()
        before = self._dumps(pid)
        self._tell("-d", pid)
        (dump,) = self._dumps(pid) - before
        counted = re.search(r"^summary: (\d+)$", dump.read_text(), re.MULTILINE)
        assert counted is not None, f"no sum in what callgrind wrote: {dump}"
        return int(counted[1])

    def _dumps(self, pid: int) -> set[Path]:
        return set(self._folder.glob(f"{pid}.*"))

    def _tell(self, what: str, pid: int) -> None:
        subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True, timeout=60)


@contextmanager
def _counting() -> Iterator[Counting]:
    with tempfile.TemporaryDirectory() as folder:
        yield Counting(Path(folder))


def _counted(counting: Counting, pid: int, worker: Worker, kinds: list[Kind], cycles: int) -> dict[str, int]:
    """Instructions per cycle; what the orders themselves cost is taken off."""
    found = {}
    for kind in kinds:
        worker.ask(kind)
        each = max(1, cycles // kind.tasks)
        idle = counting.of(pid, partial(worker.ask, 0))
        found[kind.name] = (counting.of(pid, partial(worker.ask, each)) - idle) // (each * kind.tasks)
    return found


def _work(connection: Connection, url: str) -> None:
    """Worker: told a :class:`Kind`, it makes ready; told a number, each task does so many cycles of it."""

    async def serve() -> None:
        sid = secrets.token_hex(16)
        one = None
        kind = KINDS[0]

        async def task(cycles: int) -> None:
            assert one is not None
            for _ in range(cycles):
                await one.cycle(sid)

        connection.send("ready")
        try:
            # Nothing else is to run in this process meanwhile, so blocking the loop is meant.
            while True:
                order = connection.recv()
                if isinstance(order, Kind):
                    if one is not None:
                        await one.remove(sid)
                        await one.close()
                    kind, sid = order, secrets.token_hex(16)
                    one = contender(kind.contender, url, kind.tasks, slow=True)
                    await one.put(sid, kind.session)
                    order = max(1, WARM_UP // kind.tasks)
                    gc.collect()
                    gc.freeze()  # collecting what was imported is no cycle's fault
                await asyncio.gather(*(task(order) for _ in range(kind.tasks)))
                connection.send("done")
        except EOFError:
            if one is not None:
                await one.close()

    asyncio.run(serve())


def _report(at_server: dict[str, int], at_client: dict[str, int], how: str) -> Report:
    both = {name: at_server[name] + at_client[name] for name in at_server}
    return Report(
        "instructions",
        "Instructions of a cycle",
        how,
        ["cycle", "server", "of unguarded", "client", "of unguarded", "both", "of unguarded"],
        [
            [
                name,
                *(
                    cell
                    for side in (at_server, at_client, both)
                    for cell in (f"{side[name]:,}", f"{side[name] / side[UNGUARDED]:.2f}")
                ),
            ]
            for name in at_server
        ],
        [
            Claim("server, instructions of an uncontended cycle", "<= 170000", at_server[ONE]),
            Claim("server, instructions of a cycle with 32 waiters", "<= 260000", at_server[WAITERS_32]),
            Claim("client, instructions of an uncontended cycle", "<= 400000", at_client[ONE]),
            Claim("both, uncontended cycle / unguarded GET+SET", "<= 1", both[ONE] / both[UNGUARDED]),
        ],
        notes=[
            f"the session has {len(SMALL)} keys and {len(json.dumps(SMALL))} bytes of JSON, unless it says otherwise",
            "32 and 64 waiters: tasks of one process that each ask again as soon as they are done",
        ],
        facts={
            f"{side}: {name}": count
            for side, counts in (("server", at_server), ("client", at_client))
            for name, count in counts.items()
        },
        plots=[
            Plot(
                "instructions-server", "Instructions of a cycle at the server", "", "instructions", bars=dict(at_server)
            ),
            Plot(
                "instructions-client", "Instructions of a cycle at the client", "", "instructions", bars=dict(at_client)
            ),
        ],
    )


if __name__ == "__main__":
    raise SystemExit(main(__doc__, run))
