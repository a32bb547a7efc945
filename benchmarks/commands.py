"""The command line that all benchmarks share."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.report import Report
from benchmarks.stage import choose_server

__all__ = ["QUICK", "Options", "main", "options_from", "parser"]


@dataclass(frozen=True)
class Options:
    """How much is run. ``curves``: also the crowds of which nothing is claimed."""

    rounds: int = 60
    cycles: int = 50
    seconds: float = 5.0
    waiters: int = 64
    sessions: int = 128
    counted: int = 200
    repeats: int = 10
    curves: bool = True


_HELP = {
    "rounds": "rounds of benchmarks whose contenders take turns",
    "cycles": "cycles per contender and round",
    "seconds": "seconds per contender of the concurrent benchmarks, in several short turns",
    "waiters": "tasks that want the hot session, over two processes",
    "sessions": "sessions of one process",
    "counted": "cycles whose instructions are counted",
    "repeats": "how often what takes a second or more is done",
}
QUICK = {"rounds": 20, "cycles": 50, "seconds": 2.5, "counted": 128, "repeats": 4}


def parser(about: str | None) -> argparse.ArgumentParser:
    """Options that every benchmark takes; those that do not concern it are ignored."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--server",
        action="append",
        metavar="NAME",
        help="a server by its name in `python -m tests.servers list`; found: the one that the library would take",
    )
    made.add_argument("--quick", action="store_true", help=f"less of everything: {QUICK}")
    for name, text in _HELP.items():
        default = getattr(Options(), name)
        made.add_argument(f"--{name}", type=type(default), help=f"{text} (default {default})")
    made.add_argument("--no-curves", action="store_true", help="only the crowds of which something is claimed")
    made.add_argument("--json", action="store_true", help="print everything as JSON")
    return made


def options_from(arguments: argparse.Namespace) -> Options:
    chosen = {name: given for name in _HELP if (given := getattr(arguments, name)) is not None}
    return Options(**{**(QUICK if arguments.quick else {}), **chosen}, curves=not arguments.no_curves)


def main(about: str | None, run: Callable[[Options], Report], argv: Sequence[str] | None = None) -> int:
    """Run one benchmark and print it. The status is 1 only when sessionlock lost an update."""
    arguments = parser(about).parse_args(argv)
    lost = 0
    for name in arguments.server or ("found",):
        binary = choose_server(name)
        print(f"{binary} ...", file=sys.stderr, flush=True)
        report = run(options_from(arguments))
        print(json.dumps(report.as_dict(), indent=1) if arguments.json else report.text())
        lost += report.lost
    return 1 if lost else 0
