"""The matrix: the tests that meet the server, on each server and Python; its result as a table.

tox.ini says which cells there are, and tox makes an environment for each Python and redis-py, with the wheel
installed; the servers follow each other in it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .cache import ServerNotHad
from .cells import ROOT, Cell, Column, run_cell
from .pythons import PYTHONS, provide_python
from .recipes import RECIPES
from .table import put_into, report, short_table

__all__ = ["add_arguments", "run"]

_TOX = [sys.executable, "-m", "tox"]
_Todo = list[tuple[str, Column]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m tests.servers matrix``."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="servers; all of them when none is named")
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--python", action="append", metavar="3.X", help="by tox, with this Python; again for more; else with this one"
    )
    which.add_argument("--all", action="store_true", help="by tox, all its cells, with each Python that is to be had")
    parser.add_argument("--jobs", type=int, default=3, help="cells at a time; they mostly wait (default: 3)")
    parser.add_argument("--only", action="append", default=[], metavar="PATH", help="these tests; again for more")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="results and logs; what is green there is not run")
    parser.add_argument("--write", action="store_true", help="a table that is green goes into docs/servers.md, too")


def run(options: argparse.Namespace) -> int:
    """Run the cells and print the table; 1 if one is not green.

    Raises:
        ServerNotHad: a name that is no server's, or tox cannot make an environment.
    """
    unknown = set(options.names) - set(RECIPES)
    if unknown:
        raise ServerNotHad(f"there is no server called {', '.join(unknown)}; there are: {', '.join(RECIPES)}")
    notes: list[str] = []
    if options.python or options.all:
        todo = [(server, column) for server, column in _cells_of_tox(options.python) if _wanted(server, options.names)]
        interpreters = _by_tox({column.environment: column.python for _, column in todo}, notes)
        if notes and not options.all:
            raise ServerNotHad("; ".join(notes))
    else:
        here = Column(".".join(map(str, sys.version_info[:2])))
        todo = [(server, here) for server in options.names or RECIPES]
        interpreters = {here.environment: [sys.executable, "-m", "pytest"]}

    cells = _run_all(todo, interpreters, options)
    table = report(cells, _command(options), notes)
    print(table)
    green = all(cell.green for cell in cells)
    if options.write and green:
        put_into(ROOT / "docs" / "servers.md", short_table(cells))
    elif options.write:
        print("docs/servers.md is left as it is: only a table that is green in every cell is published")
    return 0 if green else 1


def _run_all(todo: _Todo, interpreters: Mapping[str, list[str]], options: argparse.Namespace) -> list[Cell]:
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)

    def one(of: tuple[str, Column]) -> Cell:
        server, column = of
        cell = run_cell(server, column, interpreters[column.environment], options.keep, options.only)
        print(f"{cell.said}{cell.name}: {cell.trouble or cell} ({cell.seconds:.0f} s)", file=sys.stderr, flush=True)
        return cell

    with ThreadPoolExecutor(options.jobs) as pool:
        return list(pool.map(one, (of for of in todo if of[1].environment in interpreters)))


def _wanted(name: str, names: Sequence[str]) -> bool:
    return not names or name in names


def _command(options: argparse.Namespace) -> str:
    words = [*options.names, *(f"--python {version}" for version in options.python or ())]
    words += [f"--only {path}" for path in options.only]
    return " ".join(["python -m tests.servers matrix", *words, *(["--all"] if options.all else [])])


# --- tox


def _cells_of_tox(pythons: Sequence[str] | None) -> _Todo:
    """Those that tox.ini labels ``matrix``, of these Pythons or of all."""
    todo: _Todo = []
    for name in _tox("list", "-m", "matrix", "--no-desc", "-q").split():
        python, server, *factors = name.split("-")
        column = Column(f"{python[2]}.{python[3:]}", tuple(factors))
        if not pythons or column.python in pythons:
            todo.append((server, column))
    absent = set(pythons or ()) - {column.python for _, column in todo}
    if absent:
        raise ServerNotHad(f"tox.ini has no cell for Python {', '.join(sorted(absent))}")
    return todo


def _by_tox(environments: Mapping[str, str], notes: list[str]) -> dict[str, list[str]]:
    """The pytest of each environment, made anew with the wheel of this checkout; a note for each that cannot be."""
    made: dict[str, list[str]] = {}
    known: list[Path] = []
    for version in sorted(set(environments.values()) & set(PYTHONS)):
        if shutil.which(f"python{version}") is None:
            try:
                known.append(provide_python(version))
            except ServerNotHad as why:
                notes.append(f"Python {version} is not to be had here: {why}")
    if known:
        os.environ["TOX_DISCOVER"] = ":".join(map(str, known))  # for every call of tox
    for environment, version in environments.items():
        done = subprocess.run(
            [*_TOX, "run", "-e", environment, "--notest", "--skip-missing-interpreters", "false"],
            cwd=ROOT,
            stdout=sys.stderr,
            check=False,
        )
        if done.returncode == 0:
            made[environment] = [f"{_bin_of(environment)}/pytest"]
        else:
            notes.append(f"Python {version}: tox could not make the environment {environment}")
    return made


def _bin_of(environment: str) -> str:
    said = _tox("config", "-q", "-e", environment, "-k", "env_bin_dir")
    found = re.search(r"^env_bin_dir = (.+)$", said, re.MULTILINE)
    assert found is not None, said
    return found[1]


def _tox(*arguments: str) -> str:
    done = subprocess.run([*_TOX, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerNotHad(f"tox {arguments[0]} failed: {done.stderr.strip()[-500:]}")
    return done.stdout
