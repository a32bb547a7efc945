"""What Django's JSON serializer takes without a word, taken here too: subclasses of plain types."""

from __future__ import annotations

from ...codec import Codec, default_codec
from ...errors import CodecError

__all__ = ["DjangoCodec"]


class DjangoCodec:
    """The default codec, for which ``mark_safe("x")`` and a ``TextChoices`` member are str, an ``IntegerChoices`` int.

    They come back as what they are based on, as in every session of Django. All else that would not come back as it
    was is an error here too.
    """

    name = "json"

    def __init__(self) -> None:
        self._inner: Codec = default_codec()

    def encode(self, key: str, value: object) -> bytes:
        try:
            return self._inner.encode(key, value)
        except CodecError:
            return self._inner.encode(key, _plain(value, set()))

    def decode(self, key: str, data: bytes) -> object:
        return self._inner.decode(key, data)


def _plain(value: object, within: set[int]) -> object:
    """``value`` made of plain types; what is nothing of the kind, or contains itself, stays as it is."""
    if isinstance(value, bool) or id(value) in within:
        return value
    if isinstance(value, str):
        return str.__str__(value)  # str(value) is what the subclass wants to be shown as
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    inside = within | {id(value)}
    if isinstance(value, dict):
        return {_plain(name, inside): _plain(item, inside) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, inside) for item in value]
    if isinstance(value, tuple):
        return tuple(_plain(item, inside) for item in value)
    return value
