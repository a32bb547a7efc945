"""``sessionlock inspect`` and ``release``: see who holds a session, and take it from a holder that hangs."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import TypeVar

from ..errors import EmbeddedServerUnavailable, SessionLockError
from ..guard import SessionGuard
from ..lock.inspection import SessionInfo
from .failure import Failure, one_line

__all__ = ["run_inspect", "run_release"]

T = TypeVar("T")
ANSWERS_WITHIN = 2.0  # seconds


def run_inspect(arguments: argparse.Namespace) -> int:
    """Print who holds and who waits. The session id is never printed: only the digest that its keys have."""
    sid = _sid(arguments)
    info = _with_guard(arguments, lambda guard: guard.inspect(sid))
    if arguments.json:
        print(json.dumps(asdict(info), indent=2))
    else:
        print("\n".join(f"{label:<11}{text}" for label, text in _lines(info)))
    return 0 if info.exists or info.holder is not None or info.destroyed else 1


def run_release(arguments: argparse.Namespace) -> int:
    """Take the lock from the holder with that token, if it is still the holder."""
    sid = _sid(arguments)
    if _with_guard(arguments, lambda guard: guard.force_release(sid, arguments.token)):
        print("released; the next waiter has the lock, and that holder's late save will be refused")
        return 0
    print("nothing was released: that token does not hold the lock any more", file=sys.stderr)
    return 1


def _sid(arguments: argparse.Namespace) -> str:
    sid: str = arguments.sid
    return sys.stdin.readline().rstrip("\n") if sid == "-" else sid


def _with_guard(arguments: argparse.Namespace, ask: Callable[[SessionGuard], Awaitable[T]]) -> T:
    async def asking() -> T:
        async with SessionGuard.from_url(
            arguments.url, prefix=arguments.prefix, retry_for=ANSWERS_WITHIN, reply_within=ANSWERS_WITHIN
        ) as guard:
            return await ask(guard)

    quiet, log = logging.NullHandler(), logging.getLogger("sessionlock")
    log.addHandler(quiet)  # an outage is one line here, and that is ours
    try:
        return asyncio.run(asking())
    except (SessionLockError, EmbeddedServerUnavailable) as error:
        raise Failure(str(error)) from None
    finally:
        log.removeHandler(quiet)


def _lines(info: SessionInfo) -> Iterator[tuple[str, str]]:
    yield "session", info.name
    yield "record", _record(info)
    holder = info.holder
    if holder is None:
        yield "held by", "nobody"
    else:
        since = "for an unknown time" if holder.age is None else f"for {duration(holder.age)}"
        ends = "without an end" if holder.remaining is None else f"lease ends in {duration(holder.remaining)}"
        yield "held by", f"{one_line(holder.label)}, {since}, {ends}"
        yield "token", one_line(holder.token)
    yield "fence", str(info.fencing_token) if info.fencing_token else "none yet"
    yield "waiters", str(len(info.waiters)) if info.waiters else "none"
    for place, label in enumerate(info.waiters, 1):
        yield "", f"{place}. {one_line(label)}"
    if info.riders:
        yield "", f"and {info.riders} in the holder's process"


def _record(info: SessionInfo) -> str:
    if info.destroyed:
        return "destroyed; its id stays refused for a while"
    if not info.exists:
        return "none"
    expires = "never expires" if info.expires_in is None else f"expires in {duration(info.expires_in)}"
    return f"version {info.version}, {expires}"


def duration(seconds: float) -> str:
    """Two units at the most: ``13 d 4 h``, ``2 min 5 s``, ``0.42 s``."""
    if seconds < 60:
        return f"{seconds:.2f} s"
    whole = int(seconds)
    for size, name, part, small in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {name}" + (f" {rest} {small}" if rest else "")
    raise AssertionError("unreachable")
