"""From the bytes of a stored session to what is in it."""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from . import php, pickled

__all__ = ["LARGEST", "Stored", "read_value"]

LARGEST = 1 << 19  # bytes that are looked into, and that a compressed value may become
_WRAPPINGS = 4  # a signed envelope around base64 around zlib around JSON
_SIGNED = re.compile(rb"(\.?)([A-Za-z0-9_-]+={0,2}):[A-Za-z0-9]{1,12}:[A-Za-z0-9_-]{20,90}")
_ITSDANGEROUS = re.compile(rb"(\.?)([A-Za-z0-9_-]+={0,2})\.[A-Za-z0-9_-]{4,12}\.[A-Za-z0-9_-]{20,90}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{16,}={0,2}|[A-Za-z0-9_-]{16,}={0,2}")
_SEALED = re.compile(r"[A-Za-z0-9+/=_.:-]{40,}")
_SEALED_IN = {
    *("payload", "data", "value", "session", "content", "contents", "body", "blob", "state", "d", "enc", "encrypted"),
    *("ciphertext", "cipher", "ct"),
}
_AROUND_SEALED = 6  # fields: a version, an initialisation vector, a tag, …
_LONGEST_WORD = 16
_JAVA_NUMBER = re.compile(rb"\xac\xed\x00\x05sr\x00.java\.lang\.(?:Long|Integer).*", re.DOTALL)
_OLD_DJANGO = re.compile(rb"[0-9a-f]{40}:|[0-9a-f]{64}:")


class Stored(NamedTuple):
    """``form``: what it is written in. ``value``: what is in it, None where ``readable`` is False."""

    form: str
    value: Any = None
    readable: bool = True


def read_value(raw: bytes, *, part: bool = False) -> Stored:
    """Never raises: what cannot be read is not ``readable``. ``part``: of a record, so that it may be a text."""
    if len(raw) > LARGEST:
        return Stored("large", readable=False)
    content = _read(raw, _WRAPPINGS) or Stored("bytes", readable=False)
    if isinstance(content.value, (str, bytes)) and not part:
        # A whole session that is one text: nobody has assigned that, and nobody can look into it.
        return Stored(f"{content.form} of a text", readable=False)
    return content


def _read(raw: bytes, wrappings: int) -> Stored | None:
    for reader in (_pickle, _json, _php, _msgpack, _java):
        try:
            content = reader(raw)
        except Exception:  # a stranger's bytes: whatever is wrong with them, they are not written in that
            continue
        if content is not None:
            return _opened(content, wrappings) if content.readable else content
    if not wrappings:
        return None
    for form, unwrap in _ENVELOPES:
        try:
            inner = unwrap(raw)
        except (ValueError, binascii.Error, zlib.error):
            continue
        content = None if inner is None else _read(inner, wrappings - 1)
        # Almost any word is base64 of something: only what holds a session counts.
        if content is not None and (isinstance(content.value, dict) or not content.readable):
            return content._replace(form=f"{form}, {content.form}")
    return None


def _opened(content: Stored, wrappings: int) -> Stored:
    """With what is written in its strings: a session that is stored twice over, or a field that holds one."""
    value = content.value
    if isinstance(value, (str, bytes)):
        inner = _read(_as_bytes(value), wrappings - 1) if wrappings else None
        if inner is None or (inner.readable and not isinstance(inner.value, (dict, list))):
            return content
        return inner._replace(form=f"{content.form}, {inner.form}")
    if not isinstance(value, dict):
        return content
    if _is_sealed(value):
        return Stored(f"{content.form} around what is encrypted", readable=False)
    if not wrappings:
        return content
    opened = {name: _field(inner, wrappings) for name, inner in value.items()}
    return content._replace(value=opened)


def _field(value: Any, wrappings: int) -> Any:
    if not isinstance(value, (str, bytes)) or len(value) < 2:
        return value
    inner = _read(_as_bytes(value), wrappings - 1)
    held = isinstance(inner.value, (dict, list)) if inner is not None else False
    return inner.value if inner is not None and held else value


def _as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode(errors="surrogatepass")


def _is_sealed(value: dict[Any, Any]) -> bool:
    """Whether all of it is one field that nobody can look into, and what has to stand beside such a field."""
    sealed = [
        name
        for name, inner in value.items()
        if isinstance(inner, str) and str(name).lower() in _SEALED_IN and _SEALED.fullmatch(inner)
    ]
    if len(sealed) != 1 or len(value) > _AROUND_SEALED or _read(value[sealed[0]].encode(), 2) is not None:
        return False
    return all(
        name in sealed or inner is None or isinstance(inner, (int, float)) or _is_word(inner)
        for name, inner in value.items()
    )


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and (
        len(value) <= _LONGEST_WORD or _SEALED.fullmatch(value.ljust(40, "=")) is not None
    )


# --- what values are written in


def _pickle(raw: bytes) -> Stored | None:
    if raw[:1] == b"\x80" and raw[1:2] in b"\x02\x03\x04\x05" and raw[-1:] == b".":
        return Stored("pickle", pickled.read_pickle(raw))
    return None


def _json(raw: bytes) -> Stored | None:
    # json.loads would take UTF-16, and what other formats begin with is told sooner here.
    if raw[:1] in b'{["-0123456789tfn \n\t' and raw:
        return Stored("JSON", json.loads(raw.decode()))
    return None


def _php(raw: bytes) -> Stored | None:
    value = php.read_php(raw)
    return None if value is None else Stored("PHP", value)


def _msgpack(raw: bytes) -> Stored | None:
    if not raw or not (0x80 <= raw[0] <= 0x8F or raw[0] in (0xDE, 0xDF)):
        return None  # sessions are maps; any other byte would be a number of msgpack's
    if find_spec("msgspec") is None:
        return Stored("msgpack (to look into it: pip install 'sessionlock[msgspec]')", readable=False)
    return Stored("msgpack", import_module("msgspec.msgpack").decode(raw))


def _java(raw: bytes) -> Stored | None:
    """A number as Java's own serialization writes it: Spring keeps times so."""
    if _JAVA_NUMBER.fullmatch(raw) is None:
        return None
    width = 8 if b"java.lang.Long" in raw else 4
    return Stored("Java", int.from_bytes(raw[-width:], "big", signed=True))


# --- what is around them


def _signed(raw: bytes, pattern: re.Pattern[bytes] = _SIGNED) -> bytes | None:
    match = pattern.fullmatch(raw)
    if match is None:
        return None
    inner = base64.urlsafe_b64decode(match[2] + b"=" * (-len(match[2]) % 4))
    return _inflated(inner) if match[1] else inner


def _signed_cookie(raw: bytes) -> bytes | None:
    return _signed(raw, _ITSDANGEROUS)


def _base64(raw: bytes) -> bytes | None:
    if _BASE64.fullmatch(raw) is None:
        return None
    inner = base64.b64decode(raw.translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(raw) % 4))
    old = _OLD_DJANGO.match(inner)
    return inner[old.end() :] if old is not None else inner


def _compressed(raw: bytes) -> bytes | None:
    return _inflated(raw) if raw[:1] == b"\x78" or raw[:2] == b"\x1f\x8b" else None


def _inflated(raw: bytes) -> bytes:
    """zlib's or gzip's; what becomes too large is cut off, and then nobody can read it."""
    return zlib.decompressobj(wbits=32 + zlib.MAX_WBITS).decompress(raw, LARGEST)


_ENVELOPES: tuple[tuple[str, Callable[[bytes], bytes | None]], ...] = (
    ("signed", _signed),
    ("signed", _signed_cookie),
    ("compressed", _compressed),
    ("base64", _base64),
)
