"""``sessionlock top``: what happens to the locks, live."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from typing import Any

from ...errors import RedisUnavailable
from ...operate import Board, Operator, View
from ..failure import one_line
from ..printed import print_json
from ..tables import Column, Page, Table, print_page
from ..terminal import style_of
from ..units import duration
from .asking import ask
from .rows import MORE, as_json, found, locks_table, looked_at
from .screen import screen

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
    with _putting(arguments) as put:

        async def watch(operator: Operator) -> None:
            board, done, within, last = Board(operator), 0, FIRST_LOOK, _Last(arguments, operator.name, put)
            try:
                while looks is None or done < looks:
                    if done:
                        await asyncio.sleep(arguments.every)
                    try:
                        last.show(await board.look(within))
                    except RedisUnavailable as error:
                        if not last.seen or done + 1 == looks:
                            raise
                        last.show_failure(str(error))
                    done, within = done + 1, min(FIRST_LOOK, arguments.every)
            finally:
                await board.aclose()

        try:
            ask(arguments, watch)
        except KeyboardInterrupt:
            pass
    return 0


class _Last:
    """The last look that was answered. A server that is away is waited for: that is when one wants to look."""

    def __init__(self, arguments: argparse.Namespace, where: str, put: Callable[[Page], None]) -> None:
        self.seen: bool = False
        self._json: bool = arguments.json
        self._limit: int = arguments.limit
        self._where = where
        self._put = put
        self._page = Page()
        self._at = ""

    def show(self, view: View) -> None:
        self.seen, self._at = True, time.strftime("%H:%M:%S")
        if self._json:
            print_json("top", **as_lines(view, self._where))
            return
        self._page = page_of(view, self._where, self._limit)
        self._put(self._page)

    def show_failure(self, why: str) -> None:
        if self._json:
            print_json("top", server=self._where, failed=why)
            return
        self._put(replace(self._page, head=[f"no answer since {self._at}: {one_line(why)}", *self._page.head]))


def page_of(view: View, where: str, limit: int) -> Page:
    """``limit``: rows of each table."""
    locks = view.locks
    queues, held = locks.longest_queues[:limit], locks.longest_held[:limit]
    head = [
        found(locks, view.held, view.waiting),
        f"{where}, {looked_at(view.share, locks.keys)} looked at, {time.strftime('%H:%M:%S')}",
    ]
    hot = [
        (one.digest, f"{one.waiting:,}", f"{one.saves:.1f}" if one.saves else "-", "yes" if one.held else "no")
        for one in view.hot[:limit]
    ]
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
        [f"{MORE}; sessionlock locks --most N looks at more"] if locks.full else [],
    )


def as_lines(view: View, where: str) -> dict[str, Any]:
    locks = view.locks
    return {
        "server": where,
        "share": locks.share,
        "keys": locks.keys,
        "full": locks.full,
        "held": view.held,
        "waiting": view.waiting,
        "hottest": [asdict(one) for one in view.hot],
        "routes": [asdict(one) for one in view.routes],
        "locks": [as_json(lock) for lock in locks.locks],
    }


def _putting(arguments: argparse.Namespace) -> AbstractContextManager[Callable[[Page], None]]:
    """What puts a look where it is seen: over the last one, on a terminal."""
    if style_of(sys.stdout).live and arguments.looks != 1:
        return screen()
    return nullcontext(print_page)
