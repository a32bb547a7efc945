"""An application that calls itself with its visitor's cookie would wait for its own answer: refuse it while it waits.

The request that waits has a client; that client is a socket; and if this socket belongs to the process which holds the
session, then the holder is calling. Nobody is asked but the kernel, and only once a request has waited for a while.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial

from .acquisition import OnWait, Wanted
from .errors import ReentrantLock
from .keys import SessionKeys
from .peers import Client, is_of_process, is_on_this_host
from .protocol import Holder
from .runtime import held_here, node_name

__all__ = ["calls_itself", "holding_process", "refusing"]

WAY_OUT = "Call release() on its session first, call without the session cookie, or use a safe method"


def calls_itself(name: str, holder: str) -> ReentrantLock:
    """The error for a request for the session ``name`` that ``holder``, who has it, waits for."""
    return ReentrantLock(
        f"session {name} is held by {holder}, which calls its own application with the same session: each would wait"
        f" for the other. {WAY_OUT}"
    )


def refusing(client: Client | None) -> OnWait | None:
    """For :attr:`SessionContext.on_wait`: raises ReentrantLock if the client of a request is the holder's process.

    What the holder's process calls for other reasons than to answer the holding request is refused, too.
    """
    return None if client is None else partial(_refuse, client)


async def _refuse(client: Client, wanted: Wanted, holder: Holder) -> None:
    pid, peer = holding_process(wanted.keys, holder), client()
    if pid is None or peer is None or not is_on_this_host(peer):
        return
    if await asyncio.to_thread(is_of_process, peer, pid):
        raise calls_itself(wanted.name, f"the very process that made this request ({holder.label})")


def holding_process(keys: SessionKeys, holder: Holder) -> int | None:
    """The process of this host that holds the session; None when it cannot be told, or is another host's."""
    if held_here(keys, holder.label):
        return os.getpid()
    host, _, pid = holder.label.split(" ", 1)[0].rpartition(":")
    if host != node_name().rpartition(":")[0] or not pid.isdecimal() or int(pid) == os.getpid():
        return None
    return int(pid)
