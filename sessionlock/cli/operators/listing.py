"""``sessionlock locks`` and ``sessions``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from ...operate import Board, LocksSeen, LockState, Operator, SessionsCounted
from ..printed import print_json
from ..tables import Page, print_page
from ..terminal import Progress, style_of
from ..units import count, duration, share, size
from .asking import answered_user, ask
from .rows import MORE, as_json, found, locks_json, locks_table, looked_at, sessions_table
from .screen import screen

__all__ = ["run_locks", "run_sessions"]

LOOK = 1.0  # seconds


def run_locks(arguments: argparse.Namespace) -> int:
    """Print who holds a lock, and how many wait."""
    seen = ask(arguments, partial(_find, arguments))
    page, locks = _locks_page(arguments, seen)
    if arguments.json:
        print_json("locks", **locks_json(seen, locks))
    else:
        print_page(page)
    return 0


async def _find(arguments: argparse.Namespace, operator: Operator) -> LocksSeen:
    """All locks. On a terminal what was found is seen after a second, and more of it after every further one."""
    if arguments.json or not style_of(sys.stdout).live:
        return await operator.locks(within=arguments.within, most=arguments.most)
    board, began_at = Board(operator, arguments.most), time.monotonic()
    try:
        with ExitStack() as stack:
            put = None
            while True:
                seen = (await board.look(LOOK)).locks
                if seen.share >= 1 or (arguments.within and time.monotonic() - began_at > arguments.within):
                    return seen
                put = put or stack.enter_context(screen())
                put(_locks_page(arguments, seen)[0])
    finally:
        await board.aclose()


def _locks_page(arguments: argparse.Namespace, seen: LocksSeen) -> tuple[Page, list[LockState]]:
    locks = seen.longest_queues if arguments.queues else seen.longest_held + seen.queues_of_nobody
    head = f"{found(seen, len(seen.longest_held), seen.waiting)}; {looked_at(seen.share, seen.keys)} looked at"
    title = "longest queues" if arguments.queues else "longest held"
    shown = locks[: arguments.limit]
    return Page([head], [locks_table(title, shown)], _more(len(locks) - len(shown), seen.full)), locks


def run_sessions(arguments: argparse.Namespace) -> int:
    """Print how many sessions there are, how large and how old; or those of a user."""
    if arguments.user is not None:
        return _of_user(arguments)
    with _searching() as on_step:
        counted = ask(
            arguments,
            lambda operator: operator.count(within=arguments.within, sample=arguments.sample, on_step=on_step),
        )
    if arguments.json:
        print_json("sessions", **_as_json(counted, arguments.limit))
        return 0
    largest = counted.largest[: arguments.limit]
    title = "largest of all" if counted.sampled == counted.records and counted.share == 1 else "largest of the sample"
    print_page(Page(list(_about(counted)), [sessions_table(title, largest)] if largest else []))
    return 0


def _of_user(arguments: argparse.Namespace) -> int:
    user = answered_user(arguments)
    states = ask(arguments, lambda operator: operator.sessions_of(user))
    if arguments.json:
        print_json("sessions", user=states[0].user if states else None, sessions=[as_json(state) for state in states])
    else:
        print_page(Page([count(len(states), "session") + " of this user"], [sessions_table("youngest first", states)]))
    return 0 if states else 1


def _about(counted: SessionsCounted) -> Iterator[str]:
    exact = counted.share == 1 and counted.sampled == counted.records
    about = "" if exact else "about "
    yield f"sessions  {about}{counted.live:,} live"
    yield f"beside    {about}{counted.destroyed:,} ended a short while ago, {about}{counted.shells:,} hold a fence only"
    if counted.bytes is not None:
        sizes = counted.sizes
        yield f"memory    {about}{size(counted.bytes)}"
        most = f"95 % up to {size(_part(sizes, 0.95))}, largest {size(sizes[-1])}"
        yield f"size      median {size(_part(sizes, 0.5))}, {most}"
    if ages := counted.ages:
        yield f"age       median {duration(_part(ages, 0.5))}, oldest {duration(ages[-1])}"
    yield f"by        {looked_at(counted.share, counted.keys)}, a sample of {counted.sampled:,}"


@contextmanager
def _searching() -> Iterator[Callable[[float], object]]:
    """How far the search has come, where somebody sees that."""
    progress = Progress(sys.stderr, style_of(sys.stderr))
    try:
        yield lambda part: progress.doing(f"{share(part)} of all keys")
    finally:
        progress.clear()


def _more(number: int, unseen: bool) -> list[str]:
    lines = [f"and {number:,} more; --limit shows them"] if number else []
    return [*lines, f"{MORE}; --most N looks at more"] if unseen else lines


def _part(ordered: Sequence[float], part: float) -> float:
    return ordered[round(part * (len(ordered) - 1))]


def _as_json(counted: SessionsCounted, limit: int) -> dict[str, Any]:
    sizes, ages = counted.sizes, counted.ages
    return {
        "share": counted.share,
        "keys": counted.keys,
        "records": counted.records,
        "sampled": counted.sampled,
        "live": counted.live,
        "destroyed": counted.destroyed,
        "shells": counted.shells,
        "bytes": counted.bytes,
        "sizes": {"median": _part(sizes, 0.5), "p95": _part(sizes, 0.95), "largest": sizes[-1]} if sizes else None,
        "ages": {"median": _part(ages, 0.5), "oldest": ages[-1]} if ages else None,
        "largest": [asdict(state) for state in counted.largest[:limit]],
    }
