"""A page that is written over by the next one, on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..tables import Page, lines_of, rich_page, spelled_page
from ..terminal import style_of, width_of

__all__ = ["screen"]


@contextmanager
def screen() -> Iterator[Callable[[Page], None]]:
    """What puts a page there. By rich on a screen of its own, which is gone afterwards; else over what was there."""
    out = sys.stdout
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        yield _over
        return
    console = Console(file=out, highlight=False)
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda page: live.update(rich_page(spelled_page(page, out), width_of(out)), refresh=True)


def _over(page: Page) -> None:
    out = sys.stdout
    lines = "\n".join(lines_of(spelled_page(page, out), width_of(out), style_of(out)))
    out.write(f"\x1b[H\x1b[2J{lines}\n")
    out.flush()
