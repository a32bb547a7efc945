"""One line of ``MONITOR``: when, which database, who, and the words of the command.

::

    1795892448.347854 [0 127.0.0.1:49198] "SET" "k" "a\\"\\x00"
    +1795892448.348289 [0 lua] "get" "k"

What a line's words mean is known only after :func:`plain`: until then they are as the server escaped them. That is
always the same way, so escaped words are equal when the words are, and most are never looked into.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["SCRIPT", "Line", "parse", "plain"]

SCRIPT = b"lua"  # who sent it, where a script did
# In front of the time: "+" on the wire, and what a log keeper writes before each line that ends with a space.
_LINE = re.compile(rb'(?:.{0,200} )?\+?(\d{1,12}\.\d{1,9}) \[(\d{1,9}) (.{1,200}?)\] "')
_WORD = re.compile(rb'"([^"\\]*(?:\\.[^"\\]*)*)"(?: |$)', re.DOTALL)
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|.)", re.DOTALL)
_LETTERS = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"a": b"\a", b"b": b"\b"}


class Line(NamedTuple):
    """``at``: the server's clock, in seconds. ``who``: an address, ``lua``, or ``unix:`` and a path. ``words``: as the
    server escaped them.
    """

    at: float
    database: bytes
    who: bytes
    words: list[bytes]


def parse(line: bytes) -> Line | None:
    """None: this is no line of ``MONITOR``, or not a whole one."""
    line = line.rstrip(b"\r\n")
    head = _LINE.match(line)
    if head is None:
        return None
    begin = head.end() - 1
    words = []
    while begin < len(line):
        word = _WORD.match(line, begin)
        if word is None:
            return None
        words.append(word[1])
        begin = word.end()
    return Line(float(head[1]), head[2], head[3], words)


def plain(word: bytes) -> bytes:
    """The word without the server's escapes."""
    if b"\\" not in word:
        return word
    try:  # they are Python's, too, and this is fast
        return word.decode("unicode_escape").encode("latin-1")
    except (UnicodeError, DeprecationWarning):  # it was cut off, or is no server's
        return _ESCAPE.sub(_unescaped, word)


def _unescaped(match: re.Match[bytes]) -> bytes:
    escape = match[1]
    if len(escape) == 3:
        return bytes((int(escape[1:], 16),))
    return _LETTERS.get(escape, escape)
