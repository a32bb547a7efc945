"""``SESSION_SERIALIZER``: which one it is, and a codec that stores what a project's own one writes."""

from __future__ import annotations

import base64
import pickletools
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.module_loading import import_string

from ...codecs.base import Codec, Sealing
from ...errors import CodecError
from .codec import django_codec

__all__ = ["DEFAULT", "codec_for", "serializer_named"]

DEFAULT = "django.contrib.sessions.serializers.JSONSerializer"
TEXT, BYTES = "sessionlock:serialized", "sessionlock:serialized-base64"
PICKLED = b"\x80"  # with which every pickle since protocol 2 begins
BY_CODEC, BY_SERIALIZER = b"=", b"!"


def serializer_named(path: str, *, may_pickle: bool) -> Any:
    """The class that ``SESSION_SERIALIZER`` names, tried out.

    Raises:
        django.core.exceptions.ImproperlyConfigured: it is none, or pickles although nobody said that this is wanted.
    """
    try:
        serializer = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(f"SESSION_SERIALIZER = {path!r} cannot be imported: {error}") from None
    said = {"some": "value"}
    try:
        written = serializer().dumps(said)
        back = serializer().loads(written)
    except Exception as error:
        raise ImproperlyConfigured(f"SESSION_SERIALIZER = {path!r} cannot store {said}: {error!r}") from error
    if not isinstance(written, bytes) or back != said:
        raise ImproperlyConfigured(
            f"SESSION_SERIALIZER = {path!r} must have dumps(), which makes bytes of a dict, and loads(), which makes"
            " that dict of them"
        )
    if not may_pickle and _is_pickle(written):
        raise ImproperlyConfigured(
            f"SESSION_SERIALIZER = {path!r} pickles: whoever can write to Redis can run code here. If nobody else can,"
            " say SESSION_LOCK_PICKLE = True; else use Django's JSONSerializer"
        )
    return serializer


def _is_pickle(written: bytes) -> bool:
    """Read by its opcodes, and not run: what is sealed may begin like one by chance."""
    if not written.startswith(PICKLED):
        return False
    try:
        return any(code.name == "STOP" for code, _, _ in pickletools.genops(written))
    except ValueError:
        return False


def codec_for(codec: Codec, path: str, serializer: Any) -> Codec:
    """``codec``, so that what is stored comes back as ``serializer``, which is called ``path``, gives it back.

    With Django's own, values are stored exactly where ``codec`` can. Another one is there for a reason (it seals, say,
    or knows classes of the project), so each value is stored as it writes it.
    """
    if path == DEFAULT:
        return django_codec(codec, serializer)
    return _AsWritten(codec, path, serializer)


class _AsWritten:
    """Each field holds ``{"sessionlock:serialized": …}``: what the serializer made of ``{key: value}``.

    A serializer may write the same value in another way each time, so this is a codec that seals, and what is compared
    are encodings of its ``inner``.
    """

    def __init__(self, codec: Codec, path: str, serializer: Any) -> None:
        self._outer = codec
        self._writer = _Writer(path, serializer)
        exact = codec.inner if isinstance(codec, Sealing) else codec
        self.name = f"{path.rpartition('.')[2]} in {codec.name}"
        self.inner: Codec = _Compared(exact, self._writer)

    def encode(self, key: str, value: object) -> bytes:
        return self._stored(key, self._writer.dumps(key, value))

    def decode(self, key: str, data: bytes) -> object:
        found = self._outer.decode(key, data)
        written = _written_in(found)
        return found if written is None else self._writer.loads(key, written)  # stored before this serializer was set

    def seal(self, key: str, data: bytes) -> bytes:
        if data[:1] == BY_SERIALIZER:
            return self._stored(key, data[1:])
        return self._stored(key, self._writer.dumps(key, self.inner.decode(key, data)))

    def unseal(self, key: str, data: bytes) -> bytes:
        return self.inner.encode(key, self.decode(key, data))

    def _stored(self, key: str, written: bytes) -> bytes:
        try:
            shown = {TEXT: written.decode()}
        except UnicodeDecodeError:
            shown = {BYTES: base64.b64encode(written).decode()}
        return self._outer.encode(key, shown)


class _Compared:
    """Encodings that are never stored: equal for equal values, as far as the exact codec knows them."""

    def __init__(self, exact: Codec, writer: _Writer) -> None:
        self._exact = exact
        self._writer = writer
        self.name = f"{exact.name}, compared"

    def encode(self, key: str, value: object) -> bytes:
        try:
            return BY_CODEC + self._exact.encode(key, value)
        except CodecError:
            return BY_SERIALIZER + self._writer.dumps(key, value)

    def decode(self, key: str, data: bytes) -> object:
        if data[:1] == BY_SERIALIZER:
            return self._writer.loads(key, data[1:])
        return self._exact.decode(key, data[1:])


class _Writer:
    """The serializer, for one key and its value."""

    def __init__(self, path: str, serializer: Any) -> None:
        self._path = path
        self._serializer = serializer

    def dumps(self, key: str, value: object) -> bytes:
        try:
            written: bytes = self._serializer().dumps({key: value})
        except Exception as error:
            raise CodecError(f"{self._path} refuses {key!r}: {error!r}", key=key, path=key) from error
        return written

    def loads(self, key: str, written: bytes) -> object:
        try:
            (value,) = self._serializer().loads(written).values()
        except Exception as error:
            raise CodecError(
                f"stored field {key!r} cannot be read by {self._path}: {error!r}", key=key, path=key
            ) from error
        return value


def _written_in(found: object) -> bytes | None:
    if type(found) is not dict or len(found) != 1:
        return None
    ((name, written),) = found.items()
    if name == TEXT:
        return str(written).encode()
    return base64.b64decode(written) if name == BYTES else None
