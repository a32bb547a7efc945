"""One cell of the matrix: the tests that meet the server, on one server, by one Python and redis-py.

By one Python all of them (``cell.txt``); by the others, which meet the same servers, those of the lock itself
(``cell_short.txt``).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from .cache import ServerNotHad, provide

__all__ = ["ROOT", "THOROUGH", "Cell", "Column", "run_cell"]

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
_PROTOCOLS = {"resp2": "2", "resp3": "3"}
THOROUGH = "3.11"  # as in tox.ini


@dataclass(frozen=True, order=True)
class Column:
    """What the servers are met by: a Python, and what differs from the default there, by the names of tox's factors."""

    python: str
    factors: tuple[str, ...] = ()

    @property
    def environment(self) -> str:
        """tox's, in which it runs: the protocol asks for none of its own."""
        return "-".join(
            [f"py{self.python.replace('.', '')}", *(name for name in self.factors if name not in _PROTOCOLS)]
        )

    @property
    def protocol(self) -> str | None:
        return next((number for name, number in _PROTOCOLS.items() if name in self.factors), None)

    @property
    def tests(self) -> Path:
        """pytest's arguments."""
        return HERE / ("cell.txt" if self.python == THOROUGH else "cell_short.txt")

    def __str__(self) -> str:
        return ", ".join([f"Python {self.python}", *(_SAID.get(name, name) for name in self.factors)])


_SAID = {"oldredispy": "oldest redis-py", "resp2": "RESP2", "resp3": "RESP3"}


@dataclass
class Cell:
    """What came of one server in one column."""

    server: str
    version: str
    column: Column
    passed: int = 0
    seconds: float = 0.0
    failed: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    trouble: str = ""
    """Why there is no result, where there is none."""
    said: str = ""
    """The end of what pytest printed, when it is red."""

    @property
    def green(self) -> bool:
        return not self.failed and not self.trouble

    @property
    def name(self) -> str:
        """As tox has it."""
        return "-".join([f"py{self.column.python.replace('.', '')}", self.server, *self.column.factors])

    def __str__(self) -> str:
        if self.trouble:
            return "no result"
        counts = f"{self.passed} passed"
        if self.failed:
            counts = f"**{len(self.failed)} failed**, {counts}"
        return f"{counts}, {self.skipped.total()} skipped"


def run_cell(
    server: str, column: Column, pytest: Sequence[str], keep: Path | None = None, only: Sequence[str] = ()
) -> Cell:
    """Run it, or take it from the folder ``keep`` where the same tests of the same code were green before.

    ``only``: instead of the column's tests; those that are marked ``once`` are left out.
    """
    tests = [*only, "-m", "not once"] if only else [f"@{column.tests}"]
    try:
        cell = Cell(server, provide(server).version, column)
    except ServerNotHad as why:
        return Cell(server, "", column, trouble=f"not to be had: {why}")
    if keep is None:
        with tempfile.TemporaryDirectory() as folder:
            _run(cell, [*pytest, *tests], Path(folder))
        return cell
    kept = keep / f"{cell.name}.json"
    if kept.exists():
        before = json.loads(kept.read_text())
        if before["of"] == [_what_is_tested(), *tests] and before["version"] == cell.version:
            return Cell(**{**before["cell"], "column": column, "skipped": Counter(before["cell"]["skipped"])})
    _run(cell, [*pytest, *tests], keep)
    if cell.green:
        told = {"of": [_what_is_tested(), *tests], "version": cell.version, "cell": {**vars(cell), "column": None}}
        kept.write_text(json.dumps(told), encoding="utf-8")
    return cell


def _run(cell: Cell, pytest: Sequence[str], folder: Path) -> None:
    told, log = folder / f"{cell.name}.xml", folder / f"{cell.name}.log"
    chosen = {"SESSIONLOCK_TEST_SERVER": cell.server}
    if cell.column.protocol:
        chosen["SESSIONLOCK_TEST_PROTOCOL"] = cell.column.protocol
    told.unlink(missing_ok=True)
    with log.open("wb") as output:
        done = subprocess.run(
            [*pytest, "-p", "no:cacheprovider", f"--junitxml={told}"],
            cwd=ROOT,
            env={**os.environ, **chosen},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode not in (0, 1) or not told.exists():
        cell.trouble = f"pytest ended with status {done.returncode}"
    else:
        _read(told, cell)
    if not cell.green:
        cell.said = log.read_text(encoding="utf-8", errors="replace")[-20_000:]


def _read(told: Path, cell: Cell) -> None:
    root = ElementTree.parse(told).getroot()
    for suite in root.iter("testsuite"):
        cell.seconds += float(suite.get("time", 0))
    for case in root.iter("testcase"):
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            cell.failed.append(f"{case.get('classname')}.{case.get('name')}")
        elif skipped is not None:
            cell.skipped[skipped.get("message", "")] += 1
        else:
            cell.passed += 1


@cache
def _what_is_tested() -> str:
    """Names the code and the tests as they are now."""
    seen = hashlib.sha256()
    folders = [path for folder in ("sessionlock", "tests") for path in (ROOT / folder).glob("**/*")]
    files = [path for path in folders if path.suffix in (".py", ".lua") and path.parent.name != "servers"]
    for path in sorted([*files, *HERE.glob("cell*.txt"), ROOT / "setup.cfg"]):
        seen.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return seen.hexdigest()
