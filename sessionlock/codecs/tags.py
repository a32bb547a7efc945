"""The wire format of one value: JSON, plus tags for what JSON has no word for.

A tag is an object with exactly one name, and that name begins with ``~``:

====================  =======================================================================
Python                JSON
====================  =======================================================================
tuple                 ``{"~tuple": [...]}``
set                   ``{"~set": [...]}``, elements sorted by their encoded form
frozenset             ``{"~fset": [...]}``, the same
bytes                 ``{"~bytes": "<standard base64, padded>"}``
UUID                  ``{"~uuid": "<lower case, hyphens>"}`` (its ``is_safe`` is not kept)
Decimal               ``{"~dec": "1.10"}``, the exact digits; also ``NaN``, ``Infinity``, ``-0``
timedelta             ``{"~td": 1500000}``, whole microseconds
date                  ``{"~date": "2024-02-29"}``
time                  ``{"~time": "12:00:00.000001"}``
datetime              ``{"~dt": "2024-02-29T12:00:00+01:00"}``
====================  =======================================================================

A time or datetime is its ``isoformat()``. With a ``ZoneInfo`` it is the wall time followed by the zone,
``2024-10-27T02:30:00[Europe/Berlin]``; ``fold=1`` is written ``[fold=1]`` at the end. Other kinds of
``tzinfo`` are refused, named ``timezone`` objects too: their names would be lost.

A dict that only looks like a tag, one name that begins with ``~``, gets one more ``~`` in front and loses it
again when read: ``{"~dt": 1}`` is stored as ``{"~~dt": 1}``. Dicts with several names need no escape.

Everything round-trips exactly, type for type, or is refused. So subclasses (enums, named tuples,
``OrderedDict``, ``IntEnum``) are refused: their type would be lost. The order of a dict is part of its value.
On reading, a tag must be written as it is written here, so that equal values have equal encodings.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Context, Decimal
from json.encoder import encode_basestring_ascii
from typing import Any, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

__all__ = ["MAX_DEPTH", "PLAIN_TYPES", "BadPart", "check_depth", "from_wire", "is_plain", "to_wire"]

MAX_DEPTH = 100
"""How many JSON arrays and objects may be open at once; a tag counts as one.

The same for every JSON engine, and far below each one's own limit and the interpreter's recursion limit.
"""

PLAIN_TYPES: frozenset[type] = frozenset({str, int, float, bool, type(None)})
"""What JSON carries as it stands, apart from list and dict."""

_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH} levels"
_INT_BITS_ALWAYS_CONVERTED = 2048  # 617 digits; an interpreter's limit may be set no lower than 640
_DECIMAL_CONTEXT = Context(capitals=1)  # str() would ask the thread's context for its capitals
_MICROSECOND = timedelta(microseconds=1)

_Wall = TypeVar("_Wall", datetime, time)


class BadPart(Exception):
    """A part of a value that cannot cross; ``trail`` grows outwards as the error leaves the containers."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.trail: list[str] = []

    def path(self, key: str) -> str:
        """Return where the part is, as ``cart[3].price``."""
        root = key if key.isprintable() else encode_basestring_ascii(key)
        return root + "".join(reversed(self.trail))


def is_plain(value: object, room: int, scalars: frozenset[type]) -> bool:
    """Tell whether ``value`` is made only of ``list``, ``dict`` with str names, and ``scalars``.

    Exact types count, subclasses do not. ``room`` is how many levels may follow below this one. Without
    ``float`` in ``scalars`` only those floats pass that every JSON engine writes in the same way. False means
    no more than: look closely.
    """
    kind = type(value)
    if kind is dict:
        for name, item in value.items():  # type: ignore[attr-defined]
            if type(name) is not str:
                return False
            if type(item) not in scalars and (not room or not is_plain(item, room - 1, scalars)):
                return False
        return True
    if kind is list:
        for item in value:  # type: ignore[attr-defined]
            if type(item) not in scalars and (not room or not is_plain(item, room - 1, scalars)):
                return False
        return True
    if kind is float:
        return float in scalars or value == 0.0 or 1e-4 <= abs(value) < 1e16  # type: ignore[arg-type]
    return kind in scalars


# --- writing ---------------------------------------------------------------------------------------------


def to_wire(value: object, dump: Callable[[object], str], room: int = MAX_DEPTH) -> object:
    """Return ``value`` as a tree of plain JSON values, tagged where needed.

    ``dump`` writes a plain tree as JSON text (sets are sorted by it); ``room`` is how many containers may
    still be opened. Raises BadPart.
    """
    kind = type(value)
    if kind in PLAIN_TYPES:
        _check_scalar(value)
        return value
    if room <= 0:
        raise BadPart(f"{_TOO_DEEP}, or contains itself")
    if kind is list:
        return _write_items(value, dump, room - 1)
    if kind is dict:
        return _write_dict(value, dump, room - 1)  # type: ignore[arg-type]
    if kind in _COLLECTIONS:
        if room <= 1:
            raise BadPart(_TOO_DEEP)
        if kind is tuple:
            return {"~tuple": _write_items(value, dump, room - 2)}
        return {_COLLECTIONS[kind]: sorted(_write_items(value, dump, room - 2, indexed=False), key=dump)}
    entry = _SCALAR_TAGS.get(kind)
    if entry is None:
        raise BadPart(_unknown(kind))
    tag, write = entry
    return {tag: write(value)}


def _write_items(items: Any, dump: Callable[[object], str], room: int, *, indexed: bool = True) -> list[object]:
    out = []
    for index, item in enumerate(items):
        try:
            out.append(to_wire(item, dump, room))
        except BadPart as bad:
            bad.trail.append(f"[{index}]" if indexed else "{}")
            raise
    return out


def _write_dict(value: dict[object, object], dump: Callable[[object], str], room: int) -> dict[str, object]:
    out: dict[str, object] = {}
    for name, item in value.items():
        if type(name) is not str:
            raise BadPart(f"a dict's keys must be str, not {_type_name(type(name))}")
        try:
            _check_scalar(name)
            out[name] = to_wire(item, dump, room)
        except BadPart as bad:
            bad.trail.append(_step(name))
            raise
    if len(out) == 1:
        [(only, item)] = out.items()
        if only[:1] == "~":
            return {f"~{only}": item}
    return out


def _check_scalar(value: object) -> None:
    if type(value) is str:
        if not value.isascii():
            _check_text(value)
    elif type(value) is float:
        if not math.isfinite(value):
            raise BadPart(f"JSON has no {value!r}")
    elif type(value) is int and value.bit_length() > _INT_BITS_ALWAYS_CONVERTED:
        try:
            str(value)
        except ValueError:
            bits = value.bit_length()
        else:
            return
        raise BadPart(
            f"an int of {bits} bits has more digits than this interpreter converts (see sys.set_int_max_str_digits)"
        )


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        start = exc.start
    else:
        return
    raise BadPart(f"a str with a lone surrogate (U+{ord(text[start]):04X} at index {start}) is not valid text")


def _step(name: str) -> str:
    return f".{name}" if name.isidentifier() else f"[{encode_basestring_ascii(name)}]"


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _unknown(kind: type) -> str:
    for base in (*PLAIN_TYPES, list, dict, *_COLLECTIONS, *_SCALAR_TAGS):
        if issubclass(kind, base):
            return (
                f"{_type_name(kind)} is a subclass of {base.__name__} and would not come back as one;"
                f" convert it to {base.__name__}"
            )
    return f"a value of type {_type_name(kind)} cannot be stored; convert it to a plain value"


def _write_wall(value: datetime | time) -> str:
    """Write a time or datetime: isoformat, with the zone in brackets when it is a ZoneInfo."""
    zone = value.tzinfo
    suffix = "[fold=1]" if value.fold else ""
    value = value.replace(fold=0)
    if type(zone) is ZoneInfo:
        if zone.key is None:
            raise BadPart("a ZoneInfo without a key cannot be stored")
        return f"{value.replace(tzinfo=None).isoformat()}[{zone.key}]{suffix}"
    if zone is not None:
        if type(zone) is not timezone:
            raise BadPart(f"a tzinfo of type {_type_name(type(zone))} cannot be stored; use ZoneInfo or timezone")
        if zone.tzname(None) != timezone(zone.utcoffset(None)).tzname(None):
            raise BadPart("a timezone with a name of its own cannot be stored; use ZoneInfo")
    return value.isoformat() + suffix


# --- reading ---------------------------------------------------------------------------------------------


def from_wire(node: object) -> object:
    """Return the value that ``to_wire`` turned into ``node``. Raises BadPart, also for an unknown tag."""
    if type(node) is list:
        return _read_items(node)
    if type(node) is dict:
        if len(node) == 1:
            [(name, content)] = node.items()
            if name[:2] == "~~":
                return _read_dict({name[1:]: content})
            if name[:1] == "~":
                return _read_tag(name, content)
        return _read_dict(node)
    if type(node) is str:
        _check_text(node)
    return node


def _read_items(nodes: list[object]) -> list[object]:
    out = []
    for index, node in enumerate(nodes):
        try:
            out.append(from_wire(node))
        except BadPart as bad:
            bad.trail.append(f"[{index}]")
            raise
    return out


def _read_dict(node: dict[str, object]) -> dict[str, object]:
    out = {}
    for name, item in node.items():
        try:
            _check_text(name)
            out[name] = from_wire(item)
        except BadPart as bad:
            bad.trail.append(_step(name))
            raise
    return out


def _read_tag(tag: str, content: object) -> object:
    if tag in _COLLECTION_READERS:
        if type(content) is not list:
            raise BadPart(f"the content of {tag} is not an array")
        return _read_collection(tag, _read_items(content))
    entry = _SCALAR_READERS.get(tag)
    if entry is None:
        raise BadPart(f"unknown tag {_shortened(tag)}")
    kind, read, write = entry
    if type(content) is not kind:
        raise BadPart(f"the content of {tag} is of the wrong type")
    try:
        value = read(content)
        # One way to write a value: else equal values would have different encodings.
        exact = write(value) == content
    except (ValueError, ArithmeticError, LookupError, OSError):
        exact = False
    if not exact:
        raise BadPart(f"the content of {tag} is not as this library writes it, or means nothing here")
    return value


def _read_collection(tag: str, items: list[object]) -> object:
    try:
        value = _COLLECTION_READERS[tag](items)
    except TypeError:
        raise BadPart(f"an element of {tag} cannot be in a set") from None
    if len(value) != len(items):
        raise BadPart(f"{tag} holds the same element twice")
    return value


def _shortened(name: str) -> str:
    return encode_basestring_ascii(name if len(name) <= 40 else name[:39] + "…")


_WALL = re.compile(r"([^\[\]]+)(?:\[([^\[\]=]+)\])?(\[fold=1\])?")


def _read_wall(text: str, parse: Callable[[str], _Wall]) -> _Wall:
    found = _WALL.fullmatch(text)
    if found is None:
        raise ValueError("not a time")
    wall, zone, fold = found.groups()
    value = parse(wall)
    if zone:
        value = value.replace(tzinfo=ZoneInfo(zone))
    return value.replace(fold=1) if fold else value


# The classes as they are when this is imported: one that replaces them in a test is refused, not mistaken.
_COLLECTIONS: dict[type, str] = {tuple: "~tuple", set: "~set", frozenset: "~fset"}
_COLLECTION_READERS: dict[str, Callable[[list[object]], Any]] = {
    "~tuple": tuple,
    "~set": set,
    "~fset": frozenset,
}
_SCALAR_TAGS: dict[type, tuple[str, Callable[[Any], object]]] = {
    datetime: ("~dt", _write_wall),
    date: ("~date", date.isoformat),
    time: ("~time", _write_wall),
    timedelta: ("~td", lambda value: value // _MICROSECOND),
    UUID: ("~uuid", str),
    Decimal: ("~dec", _DECIMAL_CONTEXT.to_sci_string),
    bytes: ("~bytes", lambda value: base64.b64encode(value).decode()),
}
_SCALAR_READERS: dict[str, tuple[type, Callable[[Any], object], Callable[[Any], object]]] = {
    "~dt": (str, lambda text: _read_wall(text, datetime.fromisoformat), _write_wall),
    "~date": (str, date.fromisoformat, date.isoformat),
    "~time": (str, lambda text: _read_wall(text, time.fromisoformat), _write_wall),
    "~td": (int, lambda count: timedelta(microseconds=count), _SCALAR_TAGS[timedelta][1]),
    "~uuid": (str, UUID, str),
    "~dec": (str, Decimal, _DECIMAL_CONTEXT.to_sci_string),
    "~bytes": (str, lambda text: base64.b64decode(text, validate=True), _SCALAR_TAGS[bytes][1]),
}


# --- depth -----------------------------------------------------------------------------------------------

_ONLY_BRACKETS = bytes.maketrans(b"{}", b"[]")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))
# The closing quote is optional, so that text without one costs no search from every quote in it.
_STRINGS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)


def check_depth(data: bytes) -> None:
    """Raise BadPart when ``data`` opens more than MAX_DEPTH arrays and objects at once.

    Asked *before* a parser sees the data: a parser that recurses may take the process with it.
    """
    if data.count(b"[") + data.count(b"{") <= MAX_DEPTH:
        return
    if data.find(b"\\") < 0:
        brackets = data.translate(_ONLY_BRACKETS, _NOT_STRUCTURE).replace(b'""', b"")
    if data.find(b"\\") >= 0 or b'"' in brackets:  # some string holds brackets, or may
        brackets = _STRINGS.sub(b"", data).translate(_ONLY_BRACKETS, _NOT_STRUCTURE)
    levels = 0
    while levels < MAX_DEPTH:
        # Each pass takes away the innermost level everywhere.
        outer = brackets.replace(b"[]", b"")
        if len(outer) == len(brackets):
            break
        brackets = outer
        levels += 1
    # What is left is deeper still, or was never closed.
    if levels + brackets.count(b"[") > MAX_DEPTH:
        raise BadPart(_TOO_DEEP)
