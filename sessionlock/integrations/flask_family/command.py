"""``flask sessionlock top``, ``locks`` …, and ``quart sessionlock``: the command line for one application."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import click

from .application import EXTENSION

__all__ = ["add_command"]


def add_command(app: Any) -> None:
    """Which Redis, prefix and codec is said by the application; all else is as the command ``sessionlock`` has it."""
    known = weakref.ref(app)  # an application must not be kept by a cycle

    @click.command("sessionlock", add_help_option=False, context_settings={"ignore_unknown_options": True})
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    @click.pass_context
    def sessionlock(context: click.Context, words: tuple[str, ...]) -> None:
        """Who holds a session's lock, who waits, how many sessions there are."""
        from ...cli import main  # only when it is called
        from ...cli.place import Place

        of = known()
        assert of is not None
        hooks = of.extensions[EXTENSION]
        sys.exit(main(words, place=Place(lambda: hooks.kept(of), hooks.url_of(of)), program=context.command_path))

    app.cli.add_command(sessionlock)
