"""What these commands take on the command line. Imports nothing that takes long."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from ..address import add_prefix, add_url
from ..numbers import at_least, seconds

__all__ = ["COMMANDS", "add_commands", "command"]

# What each is for, in short and in full.
COMMANDS = {
    "top": (
        "live: longest queues, longest held locks, hottest sessions, waits by route",
        "Look at the locks again and again, and show which sessions are waited for, how long they are held, and which"
        " routes wait. Ends with Ctrl-C; where the output is no terminal, after one look. It searches all keys in small"
        " steps, so the first looks may not know all. Exit status: 0, or 2 no answer.",
    ),
    "locks": (
        "who holds a lock now, and how many wait",
        "List the held locks of all sessions, those held longest first. Searches all keys, in small steps."
        " Exit status: 0, or 2 no answer.",
    ),
    "sessions": (
        "how many sessions there are, how large and how old; or those of a user",
        "Count the sessions, in small steps over all keys, and weigh a random sample of them; or with --user list those"
        " that were bound to a user. Exit status: 0; 1 that user has none; 2 no answer.",
    ),
    "inspect": (
        "who holds a session, for how long already, and who waits",
        "Show who holds a session, who waits, and what its record is. Changes nothing. Exit status: 0; 1 there is no"
        " such session and no holder; 2 no answer.",
    ),
    "release": (
        "take the lock from a holder that hangs",
        "Take a session's lock from the holder that `sessionlock inspect` showed (--token), or after a question from"
        " whoever holds it now; the next waiter gets it and the late save of that holder is refused. Exit status: 0"
        " released; 1 that token does not hold the lock any more, nobody does, or you said no; 2 no answer.",
    ),
    "logout": (
        "end a session, or all of a user",
        "End a session at once, whoever holds its lock: its visitor has to log in again, a late save is refused. With"
        " --user all sessions that were bound to that user. Asks before. Exit status: 0 ended; 1 there was none, or you"
        " said no; 2 no answer.",
    ),
}
NAMED = "its digest, as logs and messages have it; one of its keys in Redis; or its id. - reads it from standard input"


def add_commands(added: dict[str, argparse.ArgumentParser]) -> None:
    """``added``: their parsers, by name."""
    for name in COMMANDS:
        add_url(added[name])
        add_prefix(added[name])
        one = "of a quorum's masters, whose store --url is then; once for each"
        added[name].add_argument("--master", action="append", default=[], dest="masters", metavar="URL", help=one)
        added[name].add_argument("--json", action="store_true", help="print JSON instead, see docs/cli.md")

    option = added["top"].add_argument
    option("--every", type=seconds, default=2.0, metavar="SECONDS", help="between two looks (default: 2)")
    option("--looks", type=at_least(1), metavar="N", help="end after so many looks")
    option("--once", action="store_const", const=1, dest="looks", help="end after one look")
    _add_limit(added["top"], 10)

    option = added["locks"].add_argument
    option("--queues", action="store_true", help="only those that somebody waits for, the longest queues first")
    option("--within", type=seconds, metavar="SECONDS", help="search no longer than that")
    most = "end the search after so many sessions that are held or waited for (default: 10,000)"
    option("--most", type=at_least(1), default=10_000, metavar="N", help=most)
    _add_limit(added["locks"], 20)

    option = added["sessions"].add_argument
    option("--user", metavar="USER", help="only those bound to this user; - reads it from standard input")
    option("--within", type=seconds, metavar="SECONDS", help="search no longer than that, and tell how far it came")
    option("--sample", type=at_least(1), default=1000, metavar="N", help="sessions that are weighed (default: 1000)")
    _add_limit(added["sessions"], 5)

    for name in ("inspect", "release", "logout"):
        optional: dict[str, Any] = {"nargs": "?"} if name == "logout" else {}
        added[name].add_argument("session", metavar="SESSION", help=NAMED, **optional)
        added[name].add_argument("--id", action="store_true", help="it is the id, also if it looks like a digest")
    option = added["inspect"].add_argument
    option("--keys", action="store_true", help="list the keys of the session and the sizes of their values")
    option("--value", action="append", default=[], metavar="KEY", help="show the value of this key; may be repeated")
    added["release"].add_argument("--token", help="the holder's token, as `sessionlock inspect` shows it")
    added["logout"].add_argument("--user", metavar="USER", help="all sessions that were bound to this user")
    for name in ("release", "logout"):
        added[name].add_argument("--yes", action="store_true", help="do not ask")


def command(name: str) -> Callable[[argparse.Namespace], int]:
    """What carries it out, imported late."""
    if name == "top":
        from .top import run_top

        return run_top
    if name in ("locks", "sessions"):
        from . import listing

        return listing.run_locks if name == "locks" else listing.run_sessions
    from . import one

    return {"inspect": one.run_inspect, "release": one.run_release, "logout": one.run_logout}[name]


def _add_limit(parser: argparse.ArgumentParser, usual: int) -> None:
    parser.add_argument(
        "--limit", type=at_least(1), default=usual, metavar="N", help=f"rows of a table (default: {usual})"
    )
