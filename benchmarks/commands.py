"""The command line that all benchmarks share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

from benchmarks.report import Report

__all__ = ["Options", "main", "options_from", "parser"]


@dataclass(frozen=True)
class Options:
    """How much is run, and where. ``seconds`` per contender in all; ``cycles`` per contender and round."""

    url: str | None = None
    unix: bool = False
    rounds: int = 60
    cycles: int = 50
    seconds: float = 5.0
    waiters: int = 64
    sessions: int = 128


_HELP = {
    "rounds": "rounds of the uncontended benchmark",
    "cycles": "cycles per contender and round of the uncontended benchmark",
    "seconds": "seconds per contender of the concurrent benchmarks, in several short turns",
    "waiters": "tasks that want the hot session, over two processes",
    "sessions": "sessions of one process",
}


def parser(about: str | None) -> argparse.ArgumentParser:
    """Options that every benchmark takes; those that do not concern it are ignored."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--url", help="a Redis whose data may be harmed; without it a private server is started")
    made.add_argument("--unix", action="store_true", help="reach the private server over its unix socket, not TCP")
    defaults = Options()
    for name, text in _HELP.items():
        default = getattr(defaults, name)
        made.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default {default})")
    made.add_argument("--json", action="store_true", help="print everything as JSON")
    return made


def options_from(arguments: argparse.Namespace) -> Options:
    return Options(**{field.name: getattr(arguments, field.name) for field in fields(Options)})


def main(about: str | None, run: Callable[[Options], Report], argv: Sequence[str] | None = None) -> int:
    """Run one benchmark and print it. The status is 1 only when sessionlock lost an update."""
    arguments = parser(about).parse_args(argv)
    report = run(options_from(arguments))
    print(json.dumps(report.as_dict(), indent=1) if arguments.json else report.text())
    return 1 if report.lost else 0
