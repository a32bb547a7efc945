"""JSON through the standard library: the default codec, and the judge of every other one.

Values that JSON carries as they stand take a short path: one look at the types, then the C encoder. Whatever
that path is not sure of (a tag, an escape, a float that is not finite, an error) is done again by the careful
path, which is exact and says what is wrong and where.
"""

from __future__ import annotations

import json.encoder
from collections.abc import Callable
from json.encoder import encode_basestring
from json.scanner import make_scanner
from typing import Any, NoReturn

from ..errors import CodecError
from .tags import MAX_DEPTH, PLAIN_TYPES, BadPart, check_depth, from_wire, is_plain, to_wire

__all__ = ["JsonCodec"]

_LONGEST_PATH_SHOWN = 200
_SHORTEST_TOO_DEEP = 2 * MAX_DEPTH  # fewer characters than this cannot be nested too deep
_ROOM = MAX_DEPTH - 1


class JsonCodec:
    """One value as compact JSON in UTF-8, exactly or not at all.

    A top-level int is stored as its bare digits, so HINCRBY works on the field as it stands. What JSON has no
    word for is tagged, see ``sessionlock.codec_tags``. Equal values have equal encodings.
    """

    name = "json"

    def encode(self, key: str, value: object) -> bytes:
        """Return the bytes of ``value``. Raises CodecError for what would not come back exactly."""
        kind = type(value)
        try:
            if kind is str:
                return encode_basestring(value).encode()  # type: ignore[arg-type]
            if kind is int:
                return str(value).encode()
            if is_plain(value, _ROOM, PLAIN_TYPES):
                text = _dump(value)
                if '"~' not in text:
                    return text.encode()
        except (ValueError, TypeError, RuntimeError):
            pass  # the careful path says which part it was
        return _encode_carefully(key, value)

    def decode(self, key: str, data: bytes) -> object:
        """Return the value that was encoded as ``data``. Raises CodecError for anything else."""
        try:
            text = data.decode()
            if '"~' not in text and "\\u" not in text:
                if len(text) >= _SHORTEST_TOO_DEEP:
                    check_depth(data)
                value, end = _scan(text, 0)
                if end == len(text):
                    return value
        except (ValueError, StopIteration, RecursionError, AttributeError, BadPart):
            pass  # the careful path says which part it was
        return _decode_carefully(key, data)


def _encode_carefully(key: str, value: object) -> bytes:
    path = None
    try:
        return _dump(to_wire(value, _dump)).encode()
    except BadPart as bad:
        path, reason = bad.path(key), bad.reason
    except RecursionError:
        reason = "the call stack has no room left to look into it"
    except (ValueError, TypeError, RuntimeError) as exc:
        reason = f"{type(exc).__name__} while it was looked into (did another thread change it?)"
    # Raised here, not above: nothing of the value hangs on the error as its context.
    raise CodecError(f"{_shown(path or key)} cannot be stored: {reason}", key=key, path=path or key)


def _decode_carefully(key: str, data: bytes) -> object:
    path = None
    try:
        if not isinstance(data, bytes):
            raise BadPart(f"it must be bytes, not {type(data).__name__} (is decode_responses set?)")
        text = data.decode()
        check_depth(data)
        return from_wire(_decoder.decode(text))
    except BadPart as bad:
        path, reason = bad.path(key), bad.reason
    except UnicodeDecodeError as exc:
        reason = f"it is not UTF-8 (byte {exc.start} of {len(data)})"
    except json.JSONDecodeError as exc:
        reason = f"it is not JSON, or not all of it ({exc.msg} at character {exc.pos} of {len(exc.doc)})"
    except ValueError:
        reason = "it holds an int with more digits than this interpreter converts (see sys.set_int_max_str_digits)"
    except RecursionError:
        reason = "the call stack has no room left to look into it"
    raise CodecError(f"stored field {_shown(path or key)} cannot be read: {reason}", key=key, path=path or key)


def _shown(path: str) -> str:
    if len(path) <= _LONGEST_PATH_SHOWN:
        return path
    half = _LONGEST_PATH_SHOWN // 2
    return f"{path[:half]}…{path[-half:]}"


def _refuse(value: object) -> NoReturn:
    raise ValueError("not plain")


def _dumper() -> Callable[[object], str]:
    """Return a function that writes plain values as compact JSON.

    ``JSONEncoder.encode`` builds a new C encoder for every value, which costs more than a small value itself;
    so one C encoder is kept, where the interpreter has it and it works as expected.
    """
    whole = json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":"), default=_refuse
    )
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    try:
        chunks = make(None, _refuse, encode_basestring, None, ":", ",", False, False, False)
        sample = {"a": [1, 2.5, "é", None, True]}
        if "".join(chunks(sample, 0)) == whole.encode(sample):
            return lambda value: "".join(chunks(value, 0))
    except TypeError:
        pass  # no C encoder here, or another signature
    return whole.encode


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadPart("an object in it has the same name twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if value - value:  # inf - inf is nan, and true
        raise BadPart("a number in it is too large for a float")
    return value


def _no_constant(text: str) -> NoReturn:
    raise BadPart(f"JSON has no {text}")


_dump = _dumper()
_decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_no_constant)
_scan: Callable[[str, int], tuple[object, int]] = make_scanner(_decoder)  # type: ignore[arg-type]
