"""Values as a framework's own session takes them, where the core's codec is exact or refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...codecs.base import Codec, Sealing
from ...errors import CodecError

__all__ = ["for_framework"]

AS_WRITTEN = "sessionlock:as-written"  # the only name of an object that holds what the framework wrote, word for word
Dumps = Callable[[Any], str]
Loads = Callable[[str], Any]


def for_framework(codec: Codec, dumps: Dumps, loads: Loads) -> Codec:
    """``codec``, which beside what it stores exactly takes all that the framework's serializer takes.

    ``dumps`` and ``loads`` are that serializer's, for one value. What comes back is then what the framework's own
    session would give back: an int that was a dict's key as str, a plain dict for a subclass of it. Only what
    ``dumps`` refuses, too, is a :class:`~sessionlock.CodecError`, with the framework's error as its cause.
    """
    if isinstance(codec, Sealing):
        return _SealingForFramework(codec, _ForFramework(codec.inner, dumps, loads))
    return _ForFramework(codec, dumps, loads)


class _ForFramework:
    def __init__(self, codec: Codec, dumps: Dumps, loads: Loads) -> None:
        self._codec = codec
        self._dumps = dumps
        self._loads = loads

    @property
    def name(self) -> str:
        return self._codec.name

    def encode(self, key: str, value: object) -> bytes:
        try:
            return self._codec.encode(key, value)
        except CodecError as exact:
            return self._as_the_framework_does(key, value, exact)

    def _as_the_framework_does(self, key: str, value: object, exact: CodecError) -> bytes:
        try:
            written = self._dumps(value)
            plain = self._loads(written)
        except Exception as refused:
            raise exact from refused
        try:
            return self._codec.encode(key, plain)
        except CodecError:
            return self._codec.encode(key, {AS_WRITTEN: written})  # NaN, say

    def decode(self, key: str, data: bytes) -> object:
        value = self._codec.decode(key, data)
        if type(value) is dict and len(value) == 1 and type(value.get(AS_WRITTEN)) is str:
            return self._loads(value[AS_WRITTEN])
        return value


class _SealingForFramework:
    """The same for a codec whose bytes differ each time: values are compared by what is sealed."""

    def __init__(self, sealing: Sealing, inner: _ForFramework) -> None:
        self._sealing = sealing
        self.inner: Codec = inner

    @property
    def name(self) -> str:
        return f"sealed {self.inner.name}"

    def seal(self, key: str, data: bytes) -> bytes:
        return self._sealing.seal(key, data)

    def unseal(self, key: str, data: bytes) -> bytes:
        return self._sealing.unseal(key, data)

    def encode(self, key: str, value: object) -> bytes:
        return self.seal(key, self.inner.encode(key, value))

    def decode(self, key: str, data: bytes) -> object:
        return self.inner.decode(key, self.unseal(key, data))
