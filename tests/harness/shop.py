"""The shop of examples/ as its user starts it: a process that has ended, with all it started, when the block has."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0  # seconds


class Shop:
    """``url``: of the switch. ``nodes``: process ids by name."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.nodes: dict[str, int] = {}
        self.url = ""

    def read_greeting(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if node := re.match(r"node (\w+): process (\d+)", line):
                self.nodes[node[1]] = int(node[2])
            if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                self.url = address[0]
                return
        raise AssertionError("the shop did not open")

    def close(self, how: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """End it as its user does; the status, and what it and its nodes said on standard error."""
        self.process.send_signal(how)
        _, said = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, said


@contextmanager
def opened(*arguments: str) -> Iterator[Shop]:
    """``python -m examples.shop``, warnings being errors. A block that ends well ends it well, too."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "examples.shop", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        shop = Shop(process)
        try:
            shop.read_greeting()
            yield shop
        finally:
            if process.poll() is None:
                process.kill()  # its nodes and its server end by themselves then
                process.communicate()


def alive(pid: int) -> bool:
    """Whether that process still runs."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def family(pid: int) -> list[int]:
    """All descendants of a process that run now."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue  # it ended while we looked
        children.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(folder.name))
    found, todo = [], [pid]
    while todo:
        todo = [child for parent in todo for child in children.get(parent, [])]
        found += todo
    return found


def all_gone(pids: list[int]) -> bool:
    """Whether they end within the test's patience."""
    deadline = time.monotonic() + PATIENCE
    while any(map(alive, pids)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
