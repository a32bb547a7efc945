"""The command that runs a call's script. No I/O."""

from __future__ import annotations

from typing import Any

from .calls import Call
from .scripts import SCRIPTS

__all__ = ["in_full"]


def in_full(call: Call[Any]) -> tuple[Any, ...]:
    """For whatever server, also one that has restarted. How else a script is run is in :mod:`..transport.scripting`."""
    keys = call.redis_keys
    return ("EVAL", SCRIPTS[call.script].text, len(keys), *keys, *call.words())
