"""How a script is run at one server: as a function where it has those and permits them, else by its hash.

::

    FCALL ──"not found"──▶ FUNCTION LOAD, FCALL ──"not found"──▶ EVAL
      └──no such command, not permitted──▶ EVALSHA (from then on) ──NOSCRIPT──▶ EVAL

A server forgets functions with FUNCTION FLUSH, and scripts whenever it starts; a failover may lead to one that has
neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis

from ..clock import monotonic
from ..protocol.calls import Call
from ..protocol.commands import in_full as words_in_full
from ..protocol.scripts import LIBRARY, SCRIPTS, script
from .advice import LOADED_ALREADY, NO_FUNCTIONS, NOT_FOUND, NOT_LOADED, PLIGHTS
from .wire import Wire, pack

__all__ = ["Packing", "Scripting", "Way", "behind"]

Way = Callable[[Call[Any]], bytes]  # packs the command that runs a call

# How a command of so many words begins, behind its name and a session's keys; and a word of so many bytes.
MOST_COUNTED = 256
COUNTS = [b"*%d\r\n" % (8 + count) for count in range(MOST_COUNTED)]
SIZES = [b"$%d\r\n" % size for size in range(MOST_COUNTED)]
REFUSED_FOR = 300.0  # seconds for which a server that refused functions is not asked again, by new connections either
LOAD = pack("FUNCTION", "LOAD", LIBRARY)


def _command(command: str, names: dict[str, str]) -> Way:
    """What is the same in all calls of a script, and in all about a session, is packed beforehand."""
    heads = {name: _without_count(pack(command, named, 5)) for name, named in names.items()}

    def packed(call: Call[Any]) -> bytes:
        words, name = call.words(), call.script
        if not call.of_one or not words:
            keys = call.redis_keys
            return pack(command, names[name], len(keys), *keys, *words)
        count = len(words)
        parts = [COUNTS[count] if count < MOST_COUNTED else b"*%d\r\n" % (8 + count), heads[name], call.keys.sent]
        for word in words:  # as pack() has it, in half the time
            raw = word if isinstance(word, bytes) else str(word).encode()
            size = len(raw)
            parts += (SIZES[size] if size < MOST_COUNTED else b"$%d\r\n" % size, raw, b"\r\n")
        return b"".join(parts)

    return packed


def _without_count(packed: bytes) -> bytes:
    return packed[packed.index(b"$") :]


by_function: Way = _command("FCALL", {name: script.function for name, script in SCRIPTS.items()})
by_hash: Way = _command("EVALSHA", {name: script.sha for name, script in SCRIPTS.items()})


def behind(call: Call[Any]) -> bytes | None:
    """The command that is sent right behind it."""
    words = call.behind()
    if words is None:
        return None
    return call.keys.read if words == ("HGETALL", call.keys.session) else pack(*words)


def in_full(call: Call[Any]) -> bytes:
    return pack(*words_in_full(call))


def once_loaded(call: Call[Any]) -> bytes:
    """By its function, for the second time: it was not found, and is being loaded."""
    return by_function(call)


class Scripting:
    """For the connections to one server."""

    def __init__(self) -> None:
        self.way: Way = by_function
        """In which a call is tried first."""
        self._loading: Wire | None = None
        self._refused: tuple[object, float] = (None, 0.0)  # where functions were, and until when that counts

    @property
    def command(self) -> str:
        return "FCALL" if self.way is by_function else "EVALSHA"

    def begin_anew(self, address: object = None) -> None:
        """A new connection may lead to another server, or to one that was changed. ``address``: of the server, if what
        was refused there a short while ago need not be tried again.
        """
        where, until = self._refused
        self.way = by_hash if address is not None and where == address and monotonic() < until else by_function
        self._loading = None

    def probe(self, wire: Wire, key: str) -> asyncio.Future[Any]:
        """Ask a new connection whether the library is there. The answer is for :meth:`prepare`. ``key``: one that the
        user may use; nothing is done to it, but some servers run nothing without a key.
        """
        self.begin_anew()
        return wire.call(("FCALL", script("renew").function, 1, key))  # of no lease

    async def prepare(self, wire: Wire, answer: Any) -> bool:
        """Before its first call: load the library if it is not there. Returns whether there are functions."""
        if isinstance(answer, hiredis.ReplyError) and str(answer).startswith(NOT_FOUND):
            self._loaded(await wire.call(("FUNCTION", "LOAD", LIBRARY)))
        elif isinstance(answer, hiredis.ReplyError) and NO_FUNCTIONS.match(str(answer)):
            self.way = by_hash
        return self.way is by_function

    def way_of(self, refusal: Exception) -> Way:
        """In which way a call was tried first, that was refused so."""
        text = str(refusal)
        if text.startswith(NOT_LOADED):
            return by_hash
        return by_function if text.startswith(NOT_FOUND) or NO_FUNCTIONS.match(text) else self.way

    def instead(self, wire: Wire, way: Way, refusal: Exception) -> Way | None:
        """The way to try now that this one was refused; None: the refusal is the answer.

        Whatever has to be loaded for it is on its way before this returns.
        """
        text = str(refusal)
        if way is by_hash:
            return in_full if text.startswith(NOT_LOADED) else None
        if way is in_full:
            return None
        if text.startswith(NOT_FOUND):
            return in_full if way is once_loaded else self._load(wire)
        if NO_FUNCTIONS.match(text):
            self.way = by_hash
            self._refused = wire.address, monotonic() + REFUSED_FOR
            return by_hash
        return by_hash if text.startswith(PLIGHTS) else None

    def _load(self, wire: Wire) -> Way:
        if self.way is by_hash:
            return by_hash  # loading was tried, and refused
        if self._loading is not wire:
            self._loading = wire
            wire.send(LOAD, self._loaded)
        return once_loaded

    def _loaded(self, reply: Any) -> None:
        # After those have had their turn whose "not found" came with this.
        asyncio.get_running_loop().call_soon(self._load_is_over)
        if isinstance(reply, hiredis.ReplyError) and LOADED_ALREADY not in str(reply):
            self.way = by_hash

    def _load_is_over(self) -> None:
        self._loading = None


class Packing:
    """A call as it is sent to several servers, packed once for all that take it in the same way."""

    def __init__(self, call: Call[Any]) -> None:
        self._call = call
        self._packed: dict[Way, bytes] = {}

    def by(self, way: Way) -> bytes:
        packed = self._packed.get(way)
        if packed is None:
            packed = self._packed[way] = way(self._call)
        return packed
