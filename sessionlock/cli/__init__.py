"""The command line: ``sessionlock demo | doctor | audit | top | locks | sessions | inspect | release | logout``.

Exit status: 0 done; 1 the answer is no (the demo's guarded run lost something, there is no such session or holder);
2 wrong usage or no Redis to work with (``doctor``: or one that does not do); 130 after Ctrl-C, 143 after SIGTERM;
141 where nobody reads on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from ..version import __version__
from .address import add_prefix, add_url, chosen_prefix, given_url
from .ending import Ended, complain, open_streams, put_away_output, signals_end_it, what_failed
from .failure import Failure
from .numbers import between, seconds
from .operators import arguments as operators
from .place import Place
from .quiet import quietly

__all__ = ["main"]

# What each is for, in short and in full.
COMMANDS = {
    "demo": (
        "see what concurrent requests of one session lose, and that guarded ones lose nothing",
        "Node processes send concurrent requests to three sessions in one Redis (a cart, flash messages, a"
        " counter): first with plain GET and SET, then guarded. Shows what was lost and what it cost."
        " Exit status: 0 the guarded run lost nothing, 1 it lost something, 2 wrong usage or no Redis.",
    ),
    "doctor": (
        "what a Redis is and how it is set up, what that means for sessions, and whether all works there",
        "Look at a Redis (version, permissions, eviction, persistence, replicas, cluster), say what that means for"
        " sessions and locks and what to do about it; then lock, hand over and save one session of its own, and"
        " leave nothing behind. Exit status: 0 fine, 1 there are warnings, or things that this user may not see,"
        " 2 sessionlock does not work there, or no answer. With --probe: 0 ready, 1 not known, 2 not ready.",
    ),
    "audit": (
        "whether an application, of any language and framework, loses updates of its sessions",
        "Read what a Redis is told (MONITOR) for some seconds, or a capture of that (redis-cli MONITOR > FILE), and say"
        " which saves overwrote changes that they had not seen. MONITOR slows the server down while it runs. Nothing is"
        " written there, and no key's name or value is printed. Exit status: 0 nothing was lost, 1 something was,"
        " 2 wrong usage or nothing to read, 3 no key was read and saved.",
    ),
    **operators.COMMANDS,
}
DEMO_URL = (
    "a Redis of yours; the demo uses random names there and deletes them at its end (default: a private server process)"
)
AUDIT_SECONDS = "how long to read (default: 10; of a capture: all of it)"
DEMO_REQUESTS = "requests to each of the three sessions in each run (default: 1000)"


def main(argv: Sequence[str] | None = None, *, place: Place | None = None, program: str = "sessionlock") -> int:
    """Run one command and return its exit status. Wrong usage ends in argparse's ``SystemExit(2)``.

    ``place``: where an application keeps its sessions, for a framework's commands; ``program``: what was called.
    """
    open_streams()
    arguments = _parser(program).parse_args(argv)
    vars(arguments)["place"] = place
    try:
        with signals_end_it(), quietly():
            status = _command(arguments.command)(arguments)
            sys.stdout.flush()
    except Failure as failure:
        complain(str(failure))
        return 2
    except KeyboardInterrupt:
        complain("interrupted")
        return 130
    except Ended as end:
        return end.status
    except BrokenPipeError:
        put_away_output()  # whoever read us has left (`| head`)
        return 141
    except OSError as error:
        put_away_output()
        complain(what_failed(error))
        return 2
    return status


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    # Imported late: `--version` and wrong usage answer at once, and node processes do not load the parent's part.
    if name == "demo":
        from .demo.run import run_demo

        return run_demo
    if name == "doctor":
        return _doctor
    if name == "audit":
        from .audit.run import run_audit

        return run_audit
    return operators.command(name)


def _doctor(arguments: argparse.Namespace) -> int:
    """Of a project it looks at what the application uses."""
    place: Place | None = arguments.place
    masters = arguments.masters
    if place is not None and not masters and given_url(arguments) is None:
        masters = list(place.masters)
    vars(arguments).update(masters=masters, prefix=chosen_prefix(arguments))
    if arguments.acl:
        from .acl import print_rules

        return print_rules(arguments)
    if arguments.probe:
        from .readiness import run_probe

        return run_probe(arguments)
    from .doctor import run_doctor

    return run_doctor(arguments)


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="Two requests of one session, on any nodes: one at a time, nothing lost, two round trips.",
    )
    parser.add_argument("--version", action="version", version=f"sessionlock {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    added = {name: commands.add_parser(name, help=short, description=told) for name, (short, told) in COMMANDS.items()}

    option = added["demo"].add_argument
    option("--url", help=DEMO_URL)
    option("--nodes", type=between(1, 64), default=4, metavar="N", help="node processes (default: 4)")
    option("--requests", type=between(1, 20_000), default=1000, metavar="N", help=DEMO_REQUESTS)
    option("--seed", type=int, metavar="N", help="which requests deliver messages (default: random)")

    option = added["doctor"].add_argument
    option("address", nargs="?", metavar="URL", help="as --url")
    add_url(added["doctor"])
    one = "of a quorum's masters, whose store is URL then; once for each"
    option("--master", action="append", default=[], dest="masters", metavar="URL", help=one)
    option(
        "--probe", action="store_true", help="only whether it takes sessions now, in one line; reads, changes nothing"
    )
    option("--within", type=seconds, default=1.0, metavar="SECONDS", help="for --probe: how long to wait (default: 1)")
    mode = "which mode your application uses; optimistic: no locks, and no scripts needed (default: lock)"
    option("--mode", choices=("lock", "optimistic"), default="lock", help=mode)
    option("--acl", action="store_true", help="only print what a Redis user must be permitted; asks no server")

    option = added["audit"].add_argument
    what = "a Redis (all masters of a Cluster), a capture, or - for standard input (default: a Redis, said as below)"
    option("source", nargs="?", metavar="URL|FILE", help=what)
    add_url(added["audit"])
    option("--seconds", type=between(1, 3600), default=None, metavar="N", help=AUDIT_SECONDS)
    option("--match", metavar="PATTERN", help="only keys like that: 'session:*' (default: all)")
    option("--yes", action="store_true", help="do not ask before MONITOR begins")

    operators.add_commands(added)
    add_prefix(added["doctor"])
    for name in ("demo", "doctor", "audit"):
        added[name].add_argument("--json", action="store_true", help="print one JSON object instead")
    return parser
