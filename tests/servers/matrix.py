"""The matrix: the tests that meet the server, on each server and Python; its result as a table.

Each Python gets one tox environment, with the wheel installed; the servers follow each other in it. ``cell.txt`` beside
this file says which tests those are.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from .cache import ServerNotHad, provide
from .recipes import RECIPES

__all__ = ["add_arguments", "run"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass
class Cell:
    """What came of one server on one Python."""

    server: str
    version: str
    python: str
    passed: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    trouble: str = ""
    """Why there is no result, where there is none."""

    @property
    def green(self) -> bool:
        return not self.failed and not self.trouble

    def __str__(self) -> str:
        if self.trouble:
            return "no result"
        counts = f"{self.passed} passed"
        if self.failed:
            counts = f"**{len(self.failed)} failed**, {counts}"
        return f"{counts}, {self.skipped.total()} skipped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m tests.servers matrix``."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="servers; all of them when none is named")
    parser.add_argument(
        "--python", action="append", metavar="3.X", help="a Python version, by tox; again for more; else this one"
    )
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time (default: 2)")
    parser.add_argument("--output", type=Path, help="write the table there, too")


def run(options: argparse.Namespace) -> int:
    """Run the cells and print the table; 1 if one is not green.

    Raises:
        ServerNotHad: a name that is no server's, or tox cannot make an environment.
    """
    names: Sequence[str] = options.names or list(RECIPES)
    if options.python:
        interpreters = {version: _by_tox(version) for version in options.python}
    else:
        interpreters = {".".join(map(str, sys.version_info[:2])): [sys.executable, "-m", "pytest"]}

    def one(of: tuple[str, str]) -> Cell:
        cell = _cell(*of, interpreters[of[0]])
        print(
            f"{cell.server} {cell.version}, Python {cell.python}: {cell.trouble or cell}", file=sys.stderr, flush=True
        )
        return cell

    with ThreadPoolExecutor(options.jobs) as pool:
        cells = list(pool.map(one, ((python, name) for python in interpreters for name in names)))
    table = _report(cells)
    print(table)
    if options.output:
        options.output.write_text(table, encoding="utf-8")
    return 0 if all(cell.green for cell in cells) else 1


def _by_tox(version: str) -> list[str]:
    """The pytest of that Python's environment, made anew, with the wheel of this checkout installed."""
    environment = f"py{version.replace('.', '')}"
    tox = [sys.executable, "-m", "tox"]
    made = subprocess.run(
        [*tox, "run", "-e", environment, "--notest", "--skip-missing-interpreters", "false"],
        cwd=ROOT,
        stdout=sys.stderr,
        check=False,
    )
    if made.returncode != 0:
        raise ServerNotHad(f"tox could not make the environment {environment}")
    asked = [*tox, "config", "-q", "-e", environment, "-k", "env_bin_dir"]
    said = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = re.search(r"^env_bin_dir = (.+)$", said, re.MULTILINE)
    assert found is not None, said
    return [f"{found[1]}/pytest"]


def _cell(python: str, name: str, pytest: list[str]) -> Cell:
    try:
        server = provide(name)
    except ServerNotHad as why:
        return Cell(name, "", python, trouble=f"not to be had: {why}")
    cell = Cell(name, server.version, python)
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "result.xml"
        done = subprocess.run(
            [*pytest, f"@{HERE / 'cell.txt'}", "-p", "no:cacheprovider", f"--junitxml={told}"],
            cwd=ROOT,
            env={**os.environ, "SESSIONLOCK_TEST_SERVER": name},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        if done.returncode not in (0, 1) or not told.exists():
            said = done.stdout.decode(errors="replace").strip()[-2000:]
            cell.trouble = f"pytest ended with status {done.returncode}: {said}"
        else:
            _read(told, cell)
    return cell


def _read(told: Path, cell: Cell) -> None:
    for suite in ElementTree.parse(told).iter("testsuite"):
        cell.seconds += float(suite.get("time", 0))
    for case in ElementTree.parse(told).iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            cell.failed.append(f"{case.get('classname')}.{case.get('name')}")
        elif skipped is not None:
            cell.skipped[skipped.get("message", "")] += 1
        else:
            cell.passed += 1


# --- the table


def _report(cells: Sequence[Cell]) -> str:
    pythons = list(dict.fromkeys(cell.python for cell in cells))
    arguments = "".join(f" --python {python}" for python in pythons)
    lines = [
        "# The tests on every server",
        "",
        f"What `python -m tests.servers matrix{arguments} --output docs/matrix.md` printed: on each server the tests",
        "that meet it (`tests/servers/cell.txt`). How the servers are had: `python -m tests.servers list`.",
        "",
        _row(["server", *(f"Python {python}" for python in pythons), "seconds"]),
        _row(["---"] * (len(pythons) + 2)),
    ]
    for name in dict.fromkeys(cell.server for cell in cells):
        row = [cell for cell in cells if cell.server == name]
        title = f"{RECIPES[name].flavour.capitalize()} {row[0].version or RECIPES[name].version} (`{name}`)"
        lines.append(_row([title, *map(str, row), " / ".join(f"{cell.seconds:.0f}" for cell in row)]))
    lines += ["", *_skips(cells), *_reds(cells)]
    return "\n".join(lines)


def _skips(cells: Iterable[Cell]) -> list[str]:
    """Each reason for a skip, and the servers that it holds for."""
    reasons: dict[str, dict[str, int]] = {}
    for cell in cells:
        for reason, count in cell.skipped.items():
            reasons.setdefault(reason, {})[cell.server] = count
    if not reasons:
        return []
    lines = ["Skipped, and why:", ""]
    everywhere = len({cell.server for cell in cells})
    for reason, counts in reasons.items():
        where = "everywhere" if len(counts) == everywhere else ", ".join(counts)
        fewest, most = min(counts.values()), max(counts.values())
        lines.append(f"- {where}: {reason} (tests: {fewest if fewest == most else f'{fewest} to {most}'})")
    return [*lines, ""]


def _reds(cells: Iterable[Cell]) -> list[str]:
    red = [cell for cell in cells if not cell.green]
    if not red:
        return ["Every cell is green.", ""]
    lines = ["Red:", ""]
    for cell in red:
        what = cell.trouble or ", ".join(f"`{name}`" for name in cell.failed)
        lines.append(f"- {cell.server}, Python {cell.python}: {what}")
    return [*lines, ""]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
