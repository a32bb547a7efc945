"""``sessionlock top``: what happens to the locks, live."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from ...operate import Board, Operator, View
from ..tables import Column, Page, Table, lines_of, print_page, rich_page, spelled_page
from ..terminal import style_of, width_of
from ..units import count, duration
from .asking import ask, print_json
from .rows import as_json, locks_table, looked_at

__all__ = ["page_of", "run_top"]

FIRST_LOOK = 1.0  # seconds of it
HOT = (
    Column("session"),
    Column("waiting", right=True),
    Column("saves/s", right=True),
    Column("held", rank=1),
)
ROUTES = (
    Column("route", cut=True),
    Column("waiting", right=True),
    Column("longest", rank=1, right=True),
    Column("mean", rank=2, right=True),
    Column("waited for", right=True),
)


def run_top(arguments: argparse.Namespace) -> int:
    """Print looks, one after the other, until Ctrl-C or as many as are wanted."""
    looks = arguments.looks or (None if sys.stdout.isatty() or arguments.json else 1)
    with _screen(arguments) as put:

        async def watch(operator: Operator) -> None:
            board, done, within = Board(operator), 0, FIRST_LOOK
            try:
                while looks is None or done < looks:
                    if done:
                        await asyncio.sleep(arguments.every)
                    view = await board.look(within)
                    done, within = done + 1, min(FIRST_LOOK, arguments.every)
                    put(view, operator.name)
            finally:
                await board.aclose()

        try:
            ask(arguments, watch)
        except KeyboardInterrupt:
            pass
    return 0


def page_of(view: View, where: str, limit: int) -> Page:
    """``limit``: rows of each table."""
    locks = view.locks
    queues, held = locks.longest_queues[:limit], locks.longest_held[:limit]
    head = [
        f"{count(view.held, 'lock')} held, {count(view.waiting, 'request')} waiting",
        f"{where}, {looked_at(view.share, locks.keys)} looked at, {time.strftime('%H:%M:%S')}",
    ]
    hot = [(one.digest, f"{one.queue:,}", f"{one.saves:.1f}", "yes" if one.held else "no") for one in view.hot[:limit]]
    routes = [
        (
            one.route or "(unknown)",
            f"{one.waiting:,}",
            duration(one.longest) if one.waiting else "-",
            duration(one.mean) if one.waiting else "-",
            f"{one.blocking:,}",
        )
        for one in view.routes[:limit]
    ]
    return Page(
        head,
        [
            locks_table("longest queues", queues),
            locks_table("longest held", held),
            Table("hottest sessions", HOT, hot),
            Table("waits by route", ROUTES, routes),
        ],
    )


def as_lines(view: View, where: str) -> dict[str, Any]:
    locks = view.locks
    return {
        "server": where,
        "share": locks.share,
        "keys": locks.keys,
        "held": view.held,
        "waiting": view.waiting,
        "hottest": [asdict(one) for one in view.hot],
        "routes": [asdict(one) for one in view.routes],
        "locks": [as_json(lock) for lock in locks.locks],
    }


@contextmanager
def _screen(arguments: argparse.Namespace) -> Iterator[Callable[[View, str], None]]:
    """What puts a look where it is seen: over the last one, on a terminal."""
    out, limit = sys.stdout, arguments.limit
    if arguments.json:
        yield lambda view, where: print_json("top", **as_lines(view, where))
        return
    if not style_of(out).live or arguments.looks == 1:
        yield lambda view, where: print_page(page_of(view, where, limit))
        return
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        yield lambda view, where: _over(page_of(view, where, limit))
        return
    console = Console(file=out, highlight=False)
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda view, where: live.update(
            rich_page(spelled_page(page_of(view, where, limit), out), width_of(out)), refresh=True
        )


def _over(page: Page) -> None:
    out = sys.stdout
    lines = "\n".join(lines_of(spelled_page(page, out), width_of(out), style_of(out)))
    out.write(f"\x1b[H\x1b[2J{lines}\n")
    out.flush()
