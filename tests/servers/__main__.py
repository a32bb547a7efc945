"""``python -m tests.servers``: see the package."""

from __future__ import annotations

import argparse
import os
import sys

from .cache import ServerNotHad, cached, provide
from .flavours import add_arguments as flavours_arguments
from .flavours import run as run_flavours
from .matrix import add_arguments as matrix_arguments
from .matrix import run as run_matrix
from .pythons import PYTHONS, provide_python
from .recipes import RECIPES


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 1 when a server could not be had or a cell is red."""
    options = _parser().parse_args(arguments)
    try:
        status: int = options.do(options)
    except ServerNotHad as why:
        print(f"{getattr(options, 'name', 'servers')}: {why}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description="Servers of many versions for tests.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="the servers, where each comes from, which are cached")
    listing.set_defaults(do=_list)

    fetching = commands.add_parser("fetch", help="bring servers into the cache")
    which = fetching.add_mutually_exclusive_group(required=True)
    which.add_argument("names", nargs="*", default=[], metavar="NAME")
    which.add_argument("--all", action="store_true")
    fetching.set_defaults(do=_fetch)

    path = commands.add_parser("path", help="print the program's path; fetch it if need be")
    path.add_argument("name", metavar="NAME")
    path.set_defaults(do=_path)

    running = commands.add_parser("run", help="become the server: run NAME -- ARGUMENTS")
    running.add_argument("name", metavar="NAME")
    running.add_argument("arguments", nargs=argparse.REMAINDER)
    running.set_defaults(do=_run)

    python = commands.add_parser("python", help="print an interpreter's path; fetch it if need be")
    python.add_argument("name", metavar="VERSION", choices=list(PYTHONS))
    python.set_defaults(do=_python)

    matrix = commands.add_parser("matrix", help="run the tests that meet the server on each; print a table")
    matrix_arguments(matrix)
    matrix.set_defaults(do=run_matrix)

    flavours = commands.add_parser(
        "flavours", help="run the conformance suite behind the rules of servers that are sold"
    )
    flavours_arguments(flavours)
    flavours.set_defaults(do=run_flavours)
    return parser


def _list(options: argparse.Namespace) -> int:
    rows = [("name", "version", "cached", "had from")]
    for name, recipe in RECIPES.items():
        there = cached(name)
        rows.append((name, there.version if there else recipe.version, "yes" if there else "no", str(recipe)))
    for row in rows:
        print("{:<10}{:<9}{:<8}{}".format(*row))
    return 0


def _fetch(options: argparse.Namespace) -> int:
    missing = 0
    for name in RECIPES if options.all else options.names:
        try:
            there = provide(name)
        except ServerNotHad as why:
            missing += 1
            print(f"{name}: not to be had: {why}", file=sys.stderr)
        else:
            print(f"{name}: {there.version} at {there.path}", flush=True)
    return 1 if missing else 0


def _path(options: argparse.Namespace) -> int:
    print(provide(options.name).path)
    return 0


def _python(options: argparse.Namespace) -> int:
    print(provide_python(options.name))
    return 0


def _run(options: argparse.Namespace) -> int:
    program = provide(options.name).path
    given = options.arguments[1:] if options.arguments[:1] == ["--"] else options.arguments
    os.execv(program, [str(program), *given])


if __name__ == "__main__":
    sys.exit(main())
