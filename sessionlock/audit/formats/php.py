"""PHP's ``serialize()``, and its session format: ``name|`` before each serialized value."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["read_php"]

_DEEPEST = 64
_MOST = 20_000  # values
_NAME = re.compile(rb"([^|;{}]{1,200})\|")
_NUMBER = re.compile(rb"[-+0-9.eEINFA]{1,40}")
_FIRST = re.compile(rb"[aObidsNCE][:;]")


class _Malformed(ValueError):
    pass


def read_php(raw: bytes) -> Any:
    """None: it is nothing of PHP's. A string that is serialized itself is bytes: often another session is in it.

    Raises:
        ValueError: it looks so, and is not whole.
    """
    if raw[:2] in (b"a:", b"O:") and raw[-1:] == b"}":
        value, end = _Reader(raw).value(0)
        return value if end == len(raw) else None
    if raw[:2] == b"s:" and raw[-2:] == b'";':
        text, end = _Reader(raw).quoted(2)
        return text if end == len(raw) - 1 else None
    name = _NAME.match(raw)
    if name is None or _FIRST.match(raw, name.end()) is None:
        return None
    session: dict[str, Any] = {}
    reader, end = _Reader(raw), 0
    while end < len(raw):
        name = _NAME.match(raw, end)
        if name is None:
            raise _Malformed
        session[_text(name[1])], end = reader.value(name.end())
    return session


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._left = _MOST

    def value(self, begin: int, depth: int = 0) -> tuple[Any, int]:
        """The value that begins there, and where it ends."""
        kind, raw = self._raw[begin : begin + 1], self._raw
        self._left -= 1
        if depth > _DEEPEST or self._left < 0:
            raise _Malformed
        if kind == b"N":
            return None, self._past(b"N;", begin)
        begin = self._past(b":", begin + 1)
        if kind in (b"i", b"d", b"b", b"r", b"R"):
            number = _NUMBER.match(raw, begin)
            if number is None:
                raise _Malformed
            return _number(kind, number[0]), self._past(b";", number.end())
        if kind in (b"s", b"E"):  # a string; an enum's case
            text, end = self.quoted(begin)
            return _text(text), self._past(b";", end)
        if kind == b"a":
            return self._pairs(begin, depth)
        if kind in (b"O", b"C"):
            name, end = self.quoted(begin)
            end = self._past(b":", end)
            if kind == b"C":  # a class that writes itself, in its own way
                length, end = self._length(end)
                end = self._past(b"{", end)
                return {"class": _text(name), "data": raw[end : end + length]}, self._past(b"}", end + length)
            state, end = self._pairs(end, depth)
            return {"class": _text(name), "state": state}, end
        raise _Malformed

    def _pairs(self, begin: int, depth: int) -> tuple[dict[str, Any] | list[Any], int]:
        count, end = self._length(begin)
        end = self._past(b"{", end)
        keys: list[Any] = []
        values: list[Any] = []
        for _ in range(count):
            key, end = self.value(end, depth + 1)
            value, end = self.value(end, depth + 1)
            keys.append(key)
            values.append(value)
        end = self._past(b"}", end)
        if keys == list(range(count)) and keys:
            return values, end
        return {str(key): value for key, value in zip(keys, values, strict=True)}, end

    def _length(self, begin: int) -> tuple[int, int]:
        """``3:``, and where it ends."""
        end = self._raw.find(b":", begin, begin + 12)
        digits = self._raw[begin:end]
        if end < 0 or not digits.isdigit():
            raise _Malformed
        return int(digits), end + 1

    def quoted(self, begin: int) -> tuple[bytes, int]:
        """A text behind ``s:``, and where it ends."""
        length, begin = self._length(begin)
        begin = self._past(b'"', begin)
        return self._raw[begin : begin + length], self._past(b'"', begin + length)

    def _past(self, what: bytes, at: int) -> int:
        if not self._raw.startswith(what, at):
            raise _Malformed
        return at + len(what)


def _number(kind: bytes, digits: bytes) -> Any:
    if kind == b"b":
        return digits == b"1"
    if kind in (b"r", b"R"):
        return f"reference {digits.decode()}"
    return int(digits) if kind == b"i" else float(digits)


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace").replace("\0", "")
