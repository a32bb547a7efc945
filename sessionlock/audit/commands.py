"""What a command does to keys, as far as an audit cares: who reads what, who writes what.

Words stay as the server escaped them (:mod:`.lines`), but for numbers and options.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from .lines import plain

__all__ = ["CALL_SCRIPTS", "WHOLE", "Act", "acts_of"]

WHOLE = b""  # the one part of a record that is a string
CALL_SCRIPTS = {b"EVAL", b"EVALSHA", b"EVAL_RO", b"EVALSHA_RO", b"FCALL", b"FCALL_RO"}
_ROOT_PATHS = (b"$", b".", b"")
_TOP_LEVEL = re.compile(rb"\$?\.?([A-Za-z_][\w-]*)|\$?\[(?:'|\\\")([^'\"\\]+)(?:'|\\\")\]")

What = Literal["read", "put", "drop", "add", "unknown", "extend"]


@dataclass(frozen=True, slots=True)
class Act:
    """``read``: ``parts`` (None: all). ``put``: ``values``, in place of everything where ``whole``, else of ``parts``
    and of what stood there in theirs. ``drop``: the key, or ``parts`` of it. ``add``: a number to the one value.
    ``unknown``: changed, nobody knows how. ``extend``: its life.

    ``only``: ``nx`` and ``xx`` where it has to be absent or there, ``if`` where the server compares. ``lasts``: in
    seconds; None: for ever, or it is not said. ``keeps``: as long as what was there.
    """

    key: bytes
    what: What
    parts: tuple[bytes, ...] | None = None
    values: dict[bytes, bytes] = field(default_factory=dict)
    whole: bool = False
    only: str = ""
    lasts: float | None = None
    keeps: bool = False


def acts_of(words: Sequence[bytes]) -> Iterable[Act]:
    """In order; nothing where it is none of ours, or is not complete."""
    known = _COMMANDS.get(words[0].upper())
    if known is None:
        return ()
    try:
        return tuple(known(words))
    except (IndexError, ValueError, OverflowError):
        return ()  # the server refused it, too


# --- strings


def _get(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "read")


def _getex(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "read")
    option = words[2].upper() if len(words) > 2 else b""
    if option in _UNITS:
        yield Act(words[1], "extend", lasts=float(words[3]) * _UNITS[option])
    elif option:
        yield Act(words[1], "extend", lasts=math.inf)


def _getdel(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "read")
    yield Act(words[1], "drop")


def _mget(words: Sequence[bytes]) -> Iterator[Act]:
    return (Act(key, "read") for key in words[1:])


_UNITS = {b"EX": 1.0, b"PX": 1e-3}


def _set(words: Sequence[bytes]) -> Iterator[Act]:
    only, lasts, keeps = "", None, False
    options = iter(words[3:])
    for word in options:
        option = word.upper()
        if option in (b"NX", b"XX"):
            only = option.decode().lower()
        elif option in _UNITS:
            lasts = float(next(options, b"")) * _UNITS[option]
        elif option in (b"EXAT", b"PXAT"):
            next(options, b"")
        elif option == b"KEEPTTL":
            keeps = True
        elif option.startswith(b"IF"):
            only = "if"
            next(options, b"")
    yield Act(words[1], "put", values={WHOLE: words[2]}, whole=True, only=only, lasts=lasts, keeps=keeps)


def _setex(words: Sequence[bytes]) -> Iterator[Act]:
    unit = 1e-3 if words[0].upper() == b"PSETEX" else 1.0
    yield Act(words[1], "put", values={WHOLE: words[3]}, whole=True, lasts=float(words[2]) * unit)


def _setnx(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "put", values={WHOLE: words[2]}, whole=True, only="nx")


def _getset(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "put", values={WHOLE: words[2]}, whole=True)


def _mset(words: Sequence[bytes]) -> Iterator[Act]:
    only = "nx" if words[0].upper() == b"MSETNX" else ""
    for key, value in zip(words[1::2], words[2::2], strict=True):
        yield Act(key, "put", values={WHOLE: value}, whole=True, only=only)


def _incr(words: Sequence[bytes]) -> Iterator[Act]:
    name = words[0].upper()
    by = int(words[2]) if name.endswith(b"BY") else 1
    yield Act(words[1], "add", values={WHOLE: b"%d" % (-by if name.startswith(b"DECR") else by)})


# --- any type


def _drop(words: Sequence[bytes]) -> Iterator[Act]:
    return (Act(key, "drop") for key in words[1:])


def _rename(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "drop")
    yield Act(words[2], "unknown")


def _unknown(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "unknown")


def _unknown_second(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[2], "unknown")


def _expire(words: Sequence[bytes]) -> Iterator[Act]:
    unit = 1e-3 if words[0].upper() == b"PEXPIRE" else 1.0
    yield Act(words[1], "extend", lasts=float(words[2]) * unit)


def _expire_at(words: Sequence[bytes]) -> Iterator[Act]:
    """At a time, which is taken for a far one; or never."""
    yield Act(words[1], "extend", lasts=math.inf)


# --- hashes


def _hgetall(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "read")


def _hmget(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "read", parts=tuple(words[2:]))


def _hset(words: Sequence[bytes]) -> Iterator[Act]:
    only = "nx" if words[0].upper() == b"HSETNX" else ""
    values = dict(zip(words[2::2], words[3::2], strict=True))
    yield Act(words[1], "put", values=values, only=only)


def _hdel(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "drop", parts=tuple(words[2:]))


def _hincrby(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "add", values={words[2]: b"%d" % int(words[3])})


def _hincrbyfloat(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "unknown", parts=(words[2],))


def _fields(words: Sequence[bytes]) -> Sequence[bytes]:
    """What follows ``FIELDS n``."""
    return words[[word.upper() for word in words].index(b"FIELDS") + 2 :]


def _hgetex(words: Sequence[bytes]) -> Iterator[Act]:
    yield Act(words[1], "read", parts=tuple(_fields(words)))


def _hgetdel(words: Sequence[bytes]) -> Iterator[Act]:
    parts = tuple(_fields(words))
    yield Act(words[1], "read", parts=parts)
    yield Act(words[1], "drop", parts=parts)


def _hsetex(words: Sequence[bytes]) -> Iterator[Act]:
    pairs = _fields(words)
    yield Act(words[1], "put", values=dict(zip(pairs[::2], pairs[1::2], strict=True)))


# --- JSON documents: a part for each top-level key


def _json_get(words: Sequence[bytes]) -> Iterator[Act]:
    paths = [word for word in words[2:] if word[:1] in (b"$", b".")]
    tops = [_top_level(path) for path in paths]
    yield Act(words[1], "read", parts=None if not tops or None in tops else tuple(top for top in tops if top))


def _json_mget(words: Sequence[bytes]) -> Iterator[Act]:
    top = _top_level(words[-1])
    return (Act(key, "read", parts=None if top is None else (top,)) for key in words[1:-1])


def _json_set(words: Sequence[bytes]) -> Iterator[Act]:
    key, path, value = words[1:4]
    only = words[4].decode().lower() if len(words) > 4 else ""
    if path in _ROOT_PATHS:
        document = json.loads(plain(value))
        if isinstance(document, dict):
            values = {_escaped(name): _escaped(json.dumps(inner)) for name, inner in document.items()}
            yield Act(key, "put", values=values, whole=True, only=only)
        else:
            yield Act(key, "put", values={WHOLE: value}, whole=True, only=only)
        return
    top = _top_level(path)
    if top is None:
        yield Act(key, "unknown")  # deeper, or many places at once
    else:
        yield Act(key, "put", values={top: value}, only=only)


def _json_del(words: Sequence[bytes]) -> Iterator[Act]:
    top = _top_level(words[2]) if len(words) > 2 and words[2] not in _ROOT_PATHS else None
    yield Act(words[1], "drop", parts=None if top is None else (top,))


def _top_level(path: bytes) -> bytes | None:
    match = _TOP_LEVEL.fullmatch(path)
    return None if match is None else match[1] or match[2]


def _escaped(name: str) -> bytes:
    return name.encode(errors="surrogatepass").replace(b"\\", b"\\\\")


_COMMANDS: dict[bytes, Callable[[Sequence[bytes]], Iterator[Act]]] = {
    **dict.fromkeys((b"GET", b"SUBSTR", b"GETRANGE"), _get),
    b"GETEX": _getex,
    b"GETDEL": _getdel,
    b"GETSET": _getset,
    b"MGET": _mget,
    b"SET": _set,
    b"SETEX": _setex,
    b"PSETEX": _setex,
    b"SETNX": _setnx,
    b"MSET": _mset,
    b"MSETNX": _mset,
    **dict.fromkeys((b"INCR", b"DECR", b"INCRBY", b"DECRBY"), _incr),
    **dict.fromkeys((b"INCRBYFLOAT", b"APPEND", b"SETRANGE", b"SETBIT", b"BITFIELD", b"RESTORE", b"DELEX"), _unknown),
    **dict.fromkeys((b"DEL", b"UNLINK"), _drop),
    b"RENAME": _rename,
    b"RENAMENX": _rename,
    b"COPY": _unknown_second,
    b"BITOP": _unknown_second,
    b"EXPIRE": _expire,
    b"PEXPIRE": _expire,
    **dict.fromkeys((b"EXPIREAT", b"PEXPIREAT", b"PERSIST"), _expire_at),
    b"HGETALL": _hgetall,
    b"HVALS": _hgetall,
    b"HSCAN": _hgetall,
    b"HGET": _hmget,
    b"HMGET": _hmget,
    b"HSET": _hset,
    b"HMSET": _hset,
    b"HSETNX": _hset,
    b"HDEL": _hdel,
    b"HINCRBY": _hincrby,
    b"HINCRBYFLOAT": _hincrbyfloat,
    b"HGETEX": _hgetex,
    b"HGETDEL": _hgetdel,
    b"HSETEX": _hsetex,
    b"JSON.GET": _json_get,
    b"JSON.MGET": _json_mget,
    b"JSON.SET": _json_set,
    b"JSON.DEL": _json_del,
    b"JSON.FORGET": _json_del,
    **dict.fromkeys(
        (
            *(b"JSON.MERGE", b"JSON.NUMINCRBY", b"JSON.NUMMULTBY", b"JSON.STRAPPEND", b"JSON.ARRAPPEND"),
            *(b"JSON.ARRINSERT", b"JSON.ARRPOP", b"JSON.ARRTRIM", b"JSON.CLEAR", b"JSON.TOGGLE"),
        ),
        _unknown,
    ),
}
