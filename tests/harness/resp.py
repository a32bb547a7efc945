"""Where one RESP value ends: enough of the protocol to tell requests, replies and pushes apart on a wire."""

from __future__ import annotations

_AGGREGATES = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2, ord("|"): 2}
_BULKS = frozenset(b"$=!")
_ATTRIBUTE = ord("|")

# The first element of what a subscribed connection receives. In RESP2 these are arrays like any reply.
MESSAGES = frozenset({b"message", b"pmessage", b"smessage"})
CONFIRMATIONS = frozenset(
    {b"subscribe", b"psubscribe", b"ssubscribe", b"unsubscribe", b"punsubscribe", b"sunsubscribe"}
)


class Frames:
    """Cuts a stream of bytes into whole values."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def rest(self) -> bytes:
        """What has arrived of the next value."""
        return bytes(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """Add what arrived; return the values that are complete now."""
        self._rest += data
        frames: list[bytes] = []
        start = 0
        while start < len(self._rest):
            end = value_end(self._rest, start)
            if end is None:
                break
            frames.append(bytes(self._rest[start:end]))
            start = end
        del self._rest[:start]
        return frames


def value_end(data: bytes | bytearray, start: int) -> int | None:
    """The index after the value that begins at ``start``, or None while it is incomplete.

    A line that is no RESP type is a value of its own, as an inline command is. An attribute belongs to the value that
    follows it.
    """
    wanted = 1
    while wanted:
        line_end = data.find(b"\r\n", start)
        if line_end < 0:
            return None
        kind = data[start]
        if kind in _AGGREGATES:
            wanted += max(int(data[start + 1 : line_end]), 0) * _AGGREGATES[kind]
            if kind == _ATTRIBUTE:
                wanted += 1
            start = line_end + 2
        elif kind in _BULKS:
            length = int(data[start + 1 : line_end])
            start = line_end + 2 + (length + 2 if length >= 0 else 0)
        else:
            start = line_end + 2
        if start > len(data):
            return None
        wanted -= 1
    return start


def head(frame: bytes) -> bytes:
    """The first word of an array, push or inline command, in lower case: a command's name, a push's kind."""
    if frame[:1] in (b"*", b">"):
        lines = frame.split(b"\r\n", 3)
        return lines[2].lower() if len(lines) > 2 else b""
    words = frame.split(None, 1)
    return words[0].lower() if words else b""


def is_push(frame: bytes, subscribed: bool) -> bool:
    """Whether a frame from the server answers no request: a RESP3 push, or RESP2's form of one, once subscribed."""
    if frame[:1] == b">":
        return True
    return subscribed and frame[:1] == b"*" and head(frame) in MESSAGES | CONFIRMATIONS
