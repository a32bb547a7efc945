"""The same wire format, byte for byte, through orjson or msgspec.

These engines are faster, and laxer: one of them reads a large int as a float, both write NaN as null, take
the last of two equal names, and spell some floats in their own way. So they are given only what they
certainly treat as the standard library does; everything else goes to JsonCodec. Nodes with different engines
can share sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from .json import JsonCodec
from .tags import MAX_DEPTH, PLAIN_TYPES, BadPart, check_depth, is_plain

__all__ = ["MsgspecCodec", "OrjsonCodec"]

_ROOM = MAX_DEPTH - 1
_SHORTEST_TOO_DEEP = 2 * MAX_DEPTH
_SAME_EVERYWHERE = PLAIN_TYPES - {float}


class _EngineCodec:
    """A JSON engine for the values that are beyond doubt, JsonCodec for the others."""

    def __init__(
        self, dumps: Callable[[object], bytes], loads: Callable[[str], object], *errors: type[Exception]
    ) -> None:
        self._dumps = dumps
        self._loads = loads
        # RuntimeError: nested too deep for the stack. AttributeError: no bytes. OverflowError: a large int.
        self._errors: tuple[type[Exception], ...] = (
            *(TypeError, ValueError, OverflowError, RuntimeError, AttributeError, BadPart),
            *errors,
        )
        self._json = JsonCodec()

    def encode(self, key: str, value: object) -> bytes:
        """Return the bytes of ``value``. Raises CodecError for what would not come back exactly."""
        try:
            if is_plain(value, _ROOM, _SAME_EVERYWHERE):
                data = self._dumps(value)
                if data.find(b'"~') < 0:
                    return data
        except self._errors:
            pass  # JsonCodec says which part it was, or can do it
        return self._json.encode(key, value)

    def decode(self, key: str, data: bytes) -> object:
        """Return the value that was encoded as ``data``. Raises CodecError for anything else."""
        try:
            text = data.decode()
            if '"~' not in text and "\\u" not in text:
                if len(text) >= _SHORTEST_TOO_DEEP:
                    check_depth(data)
                value = self._loads(text)
                # Every entry of an object has one colon: if there are no more colons, no entry is missing.
                if _count_entries(value) == (text.count(":") if "{" in text else 0):
                    return value
        except self._errors:
            pass  # JsonCodec says which part it was, or can do it
        return self._json.decode(key, data)


def _count_entries(value: object) -> int:
    """Return how many entries the dicts in ``value`` have together; never right (-1) for a doubtful float."""
    kind = type(value)
    items: Any
    if kind is dict:
        items = value.values()  # type: ignore[attr-defined]
        count = len(value)  # type: ignore[arg-type]
    elif kind is list:
        items = value
        count = 0
    else:
        return -1 if kind is float and _may_be_an_int(value) else 0  # type: ignore[arg-type]
    for item in items:
        kind = type(item)
        if kind is str or kind is int:
            continue
        if kind is dict or kind is list:
            inner = _count_entries(item)
            if inner < 0:
                return -1
            count += inner
        elif kind is float and _may_be_an_int(item):
            return -1
    return count


def _may_be_an_int(value: float) -> bool:
    """Tell whether an engine may have made this float from an int of more than 64 bits."""
    return not -9.2e18 < value < 9.2e18


class OrjsonCodec(_EngineCodec):
    """JsonCodec's format through orjson. Raises ImportError when orjson is not installed."""

    name = "orjson"

    def __init__(self) -> None:
        orjson = _engine("orjson")
        super().__init__(orjson.dumps, orjson.loads)  # its errors are a TypeError and a ValueError


class MsgspecCodec(_EngineCodec):
    """JsonCodec's format through msgspec. Raises ImportError when msgspec is not installed."""

    name = "msgspec"

    def __init__(self) -> None:
        msgspec = _engine("msgspec")
        engine = import_module("msgspec.json")
        super().__init__(engine.Encoder().encode, engine.Decoder().decode, msgspec.MsgspecError)


def _engine(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as exc:
        raise ImportError(f'{name} is not installed; pip install "sessionlock[{name}]" brings it') from exc
