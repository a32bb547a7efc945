"""Our scripts at a server of the tests: known to it, forgotten, counted; and how a call is told on the wire."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from redis import ResponseError

from sessionlock.protocol.scripts import LIBRARY, SCRIPTS, script

__all__ = ["COMMANDS", "calls_of", "forget_scripts", "load_scripts", "script_calls"]

COMMANDS = frozenset({"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"})


def calls_of(name: str) -> re.Pattern[bytes]:
    """What only requests of this script contain, whether it is called as a function or by its hash."""
    named = script(name)
    return re.compile(b"\r\n(?:%b|%b)\r\n" % (named.function.encode(), named.sha.encode()))


def load_scripts(client: Any) -> None:
    """``client``: a blocking one. From now on each call is one command, and :func:`calls_of` tells it."""
    for named in SCRIPTS.values():
        client.script_load(named.text)
    with suppress(ResponseError):  # before Redis 7.0, or there already
        client.function_load(LIBRARY)


def forget_scripts(client: Any) -> None:
    client.script_flush()
    with suppress(ResponseError):  # before Redis 7.0
        client.function_flush()


def script_calls(client: Any) -> int:
    """How many scripts and functions the server was asked to run."""
    stats = client.info("commandstats")
    return sum(int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in COMMANDS)
