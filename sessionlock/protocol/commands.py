"""The command that runs a call's script. No I/O."""

from __future__ import annotations

from typing import Any

from .calls import Call
from .scripts import SCRIPTS

__all__ = ["by_function", "by_hash", "in_full"]


def by_function(call: Call[Any]) -> tuple[Any, ...]:
    """For a server that has the library of functions; else it answers "not found"."""
    keys = call.redis_keys
    return ("FCALL", SCRIPTS[call.script].function, len(keys), *keys, *call.words())


def by_hash(call: Call[Any]) -> tuple[Any, ...]:
    """For a server that has seen the script before; else it answers NOSCRIPT."""
    keys = call.redis_keys
    return ("EVALSHA", SCRIPTS[call.script].sha, len(keys), *keys, *call.words())


def in_full(call: Call[Any]) -> tuple[Any, ...]:
    """For a server that has not, or has restarted since."""
    keys = call.redis_keys
    return ("EVAL", SCRIPTS[call.script].text, len(keys), *keys, *call.words())
