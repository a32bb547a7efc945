"""``manage.py sessionlock top``, ``locks``, ``sessions``, …: the command line, for the sessions of this project."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from .....cli import main
from .....cli.place import Place
from ... import settings
from ...homes import new_guard

__all__ = ["Command"]


class Command(BaseCommand):  # type: ignore[misc]
    """Which Redis, prefix and codec is said by the settings; all else is as the command ``sessionlock`` has it."""

    help = "Who holds a session's lock, who waits, how many sessions there are; see manage.py sessionlock --help."
    requires_system_checks: Sequence[str] = ()

    def run_from_argv(self, argv: list[str]) -> None:
        """The words are the command line's own, its ``--help`` and ``--version`` too."""
        sys.exit(main(argv[2:], place=_place(), program="manage.py sessionlock"))

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("words", nargs="*", help="as for sessionlock")

    def handle(self, *args: Any, **options: Any) -> None:
        """For ``call_command("sessionlock", "locks")``."""
        status = main(options["words"], place=_place(), program="manage.py sessionlock")
        if status:
            raise CommandError(f"sessionlock ended with status {status}", returncode=status)


def _place() -> Place:
    return Place(lambda: (new_guard(), None), settings.current().url)
