"""When the kernel is asked whose a client's socket is: one look answers all that wonder, and looks cost little.

A look reads tables that are as long as this host has connections. Where a session is hot each of its requests waits
long enough to wonder, so what one look costs decides how long it is until the next.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple

from .sockets import Look, Peer, is_on_this_host

__all__ = ["SHARE", "Looks", "found_out"]

SHARE = 0.03  # of one processor: what the looks of a process may take
MOST_PAUSE = 5.0  # seconds until the next look, however dear they are: a call to oneself does not wait for its limit

Found = asyncio.Future[bool]


class _Asked(NamedTuple):
    peer: Peer
    pid: int
    stands: Callable[[], bool]
    loop: asyncio.AbstractEventLoop


class Looks:
    """Of one process, whichever of its event loops ask."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._asked: dict[Found, _Asked] = {}
        self._are_made = False
        self._not_before = 0.0

    async def found_out(self, peer: Peer, pid: int, stands: Callable[[], bool]) -> bool:
        """Whether the client ``peer`` is a socket of the process ``pid``. An error is no.

        ``stands``: whether it still matters, asked in another thread right before the look.
        """
        loop = asyncio.get_running_loop()
        found: Found = loop.create_future()
        with self._changed:
            self._asked[found] = _Asked(peer, pid, stands, loop)
            begin, self._are_made = not self._are_made, True
        try:
            if begin:
                # A thread of its own: those of the loop's executor may all be occupied by calls that wait.
                threading.Thread(target=self._make, name="sessionlock-self-call", daemon=True).start()
            return await found
        except RuntimeError:  # this process may have no more of them
            self._end()
            return False
        finally:
            with self._changed:
                self._asked.pop(found, None)
                if not self._asked:
                    self._changed.notify()

    def _end(self) -> None:
        """No thread looks; whoever asked is told no."""
        with self._changed:
            asked, self._asked, self._are_made = self._asked, {}, False
        for found, question in asked.items():
            _tell(found, question, False)

    def _make(self) -> None:
        """Look, until nobody asks any more."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._asked, self._not_before - time.monotonic())
                if not self._asked:
                    self._are_made = False
                    return
                asked, self._asked = self._asked, {}
            began = time.thread_time()
            _answer(asked)
            pause = min(MOST_PAUSE, (time.thread_time() - began) / SHARE)
            self._not_before = time.monotonic() + pause


def _answer(asked: dict[Found, _Asked]) -> None:
    look = Look()
    for found, question in asked.items():
        answer = False
        with suppress(Exception):
            answer = (
                not found.done()
                and question.stands()
                and is_on_this_host(question.peer)
                and look.is_of_process(question.peer, question.pid)
            )
        _tell(found, question, answer)


def _tell(found: Found, question: _Asked, answer: bool) -> None:
    def tell() -> None:
        if not found.done():
            found.set_result(answer)

    with suppress(RuntimeError):  # the loop has been closed
        question.loop.call_soon_threadsafe(tell)


_looks = Looks()
found_out: Callable[[Peer, int, Callable[[], bool]], Coroutine[Any, Any, bool]] = _looks.found_out

if hasattr(os, "register_at_fork"):
    # The child has none of its parent's threads.
    os.register_at_fork(after_in_child=_looks.__init__)  # type: ignore[misc]
