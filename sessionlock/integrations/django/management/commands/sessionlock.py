"""``manage.py sessionlock top``, ``locks``, ``sessions``, …: the command line, for the sessions of this project."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from .....cli import main
from .....cli.place import Place
from ... import settings
from ...admin import primary_key_of
from ...homes import new_guard

__all__ = ["Command"]

PROGRAM = "manage.py sessionlock"


class Command(BaseCommand):  # type: ignore[misc]
    """Which Redis, prefix and codec is said by the settings; all else is as the command ``sessionlock`` has it."""

    help = "Who holds a session's lock, who waits, how many sessions there are; see manage.py sessionlock --help."
    requires_system_checks: Sequence[str] = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """The words are the command line's own, its ``--help`` and ``--version`` too."""
        sys.exit(main(_without_djangos(argv[2:]), place=_place(), program=PROGRAM))

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """For ``manage.py help sessionlock``."""
        with suppress(SystemExit):
            main(["--help"], program=PROGRAM)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("words", nargs=argparse.REMAINDER, help="as for sessionlock")

    def handle(self, *args: Any, **options: Any) -> None:
        """For ``call_command("sessionlock", "locks")``."""
        status = main(_without_djangos(options["words"]), place=_place(), program=PROGRAM)
        if status:
            raise CommandError(f"sessionlock ended with status {status}", returncode=status)


def _place() -> Place:
    said = settings.current()
    quorum = said.options.get("quorum")
    masters = () if quorum is None else quorum.masters.values()
    return Place(
        lambda: (new_guard(), None),
        said.url,
        primary_key_of,
        tuple(master for master in masters if isinstance(master, str)),
    )


def _without_djangos(words: Sequence[str]) -> list[str]:
    """What is left when the options that all commands of Django take are out; it has obeyed most of them already."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--settings", "--pythonpath"):
        parser.add_argument(name)
    parser.add_argument("-v", "--verbosity")
    for name in ("--traceback", "--skip-checks", "--no-color", "--force-color"):
        parser.add_argument(name, action="store_true")
    theirs, ours = parser.parse_known_args(words)
    if theirs.no_color:
        os.environ["NO_COLOR"] = "1"
    if theirs.force_color:
        os.environ["FORCE_COLOR"] = "1"
    return ours
