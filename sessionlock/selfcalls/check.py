"""An application that calls itself with its visitor's cookie would wait for its own answer: refuse it while it waits.

The request that waits has a client; that client is a socket; and if this socket belongs to the process which holds the
session, then the holder is calling. Nobody is asked but the kernel, and only once a request has waited for a while.
"""

from __future__ import annotations

import os
from functools import partial

from ..errors import ReentrantLock
from ..lock.holders import held_by_us, node_name
from ..lock.request import LockRequest, OnWait, Question
from ..protocol.replies import Holder
from .looks import found_out
from .sockets import Client, Peer

__all__ = ["calls_itself", "process_of", "refusing"]

WAY_OUT = "Call release() on its session first, call without the session cookie, or use a safe method"


def calls_itself(name: str, holder: str) -> ReentrantLock:
    """The error for a request for the session ``name`` that ``holder``, who has it, waits for."""
    return ReentrantLock(
        f"session {name} is held by {holder}, which calls its own application with the same session: each would wait"
        f" for the other. {WAY_OUT}"
    )


def refusing(client: Client | None) -> OnWait | None:
    """For :meth:`Block.when_waiting`: ReentrantLock if the client of a request is the holder's process.

    What the holder's process calls for other reasons than to answer the holding request is refused, too; where that is
    meant, as by a test's client in the server's process, the environment says ``SESSIONLOCK_SELF_CALLS=wait``.
    """
    wait = os.environ.get("SESSIONLOCK_SELF_CALLS") == "wait"
    return None if client is None or wait else partial(_suspect, client)


def _suspect(client: Client, request: LockRequest, holder: Holder) -> Question | None:
    """What is to be found out, if the wait lasts: nothing where the holder is elsewhere, or the client not known."""
    token = held_by_us(request.keys, holder.label)
    pid = os.getpid() if token is not None else process_of(holder)
    peer = _known(client) if pid is not None else None
    return None if pid is None or peer is None else partial(_refuse, request, holder, token, pid, peer)


async def _refuse(request: LockRequest, holder: Holder, token: str | None, pid: int, peer: Peer) -> None:
    def stands() -> bool:
        """Else that hold has ended meanwhile: it did not wait for this request."""
        return token is None or held_by_us(request.keys, holder.label) == token

    if stands() and await found_out(peer, pid, stands):
        raise calls_itself(request.digest, f"the very process that made this request ({holder.label})")


def _known(client: Client) -> Peer | None:
    """What a server tells of a client in a way of its own must not end a request that could as well wait."""
    try:
        return client()
    except Exception:
        return None


def process_of(holder: Holder) -> int | None:
    """The sibling of this process that holds the session; None when it cannot be told, or is on another host."""
    host, _, pid = holder.label.split(" ", 1)[0].rpartition(":")
    if host != node_name().rpartition(":")[0] or not pid.isdecimal() or int(pid) == os.getpid():
        return None
    return int(pid)
