"""The conformance suite behind the rules of servers as they are sold; and the table of them in docs/servers.md."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.harness.flavours import FLAVOUR_VARIABLE, FLAVOURS, Flavour

from .table import put_into

__all__ = ["add_arguments", "run", "table_of_flavours"]

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "servers.md"


def table_of_flavours() -> str:
    """For docs/servers.md."""
    lines = [
        "| server | what it refuses or does otherwise | lock | waiter is told | without lock | limit, and what to do |"
    ]
    lines.append("|---|---|---|---|---|---|")
    for flavour in FLAVOURS.values():
        limit = ". ".join(text[0].upper() + text[1:] for text in (flavour.limit, flavour.advice) if text) or "–"
        marks = [_mark(flavour.lock), _mark(flavour.pushes and flavour.lock), _mark(flavour.unlocked)]
        lines.append(f"| {' | '.join([flavour.title, flavour.rules, *marks, limit])} |")
    return "\n".join([*lines, ""])


def _mark(works: bool) -> str:
    return "yes" if works else "**no**"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all that lock: {', '.join(_that_lock())}")
    parser.add_argument("--write", action="store_true", help="only put the table of flavours into docs/servers.md")


def run(options: argparse.Namespace) -> int:
    """Returns the exit status: 1 when a flavour is red."""
    if options.write:
        put_into(DOCS, table_of_flavours(), "flavours")
        return 0
    unknown = sorted(set(options.names) - set(FLAVOURS))
    if unknown:
        print(f"no such flavour: {', '.join(unknown)}", file=sys.stderr)
        return 1
    red = [name for name in options.names or _that_lock() if not _green(name)]
    print(f"red: {', '.join(red)}" if red else "all green")
    return 1 if red else 0


def _that_lock() -> list[str]:
    return [name for name, flavour in FLAVOURS.items() if flavour.lock]


def _green(name: str) -> bool:
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "tests/conformance",
            "-p",
            "no:cacheprovider",
            *_left_out(FLAVOURS[name]),
        ],
        cwd=ROOT,
        env={**os.environ, FLAVOUR_VARIABLE: name},
        capture_output=True,
        text=True,
        check=False,
    )
    summary = re.search(r"^\d+ (?:passed|failed).*", done.stdout, re.MULTILINE)
    print(f"{name:24}{summary[0] if summary else done.stdout[-2000:]} ({time.monotonic() - began:.0f} s)", flush=True)
    if done.returncode:
        print("\n".join(re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)), flush=True)
    return done.returncode == 0


def _left_out(flavour: Flavour) -> list[str]:
    return [argument for test in flavour.left_out for argument in ("--deselect", f"tests/conformance/{test}")]
