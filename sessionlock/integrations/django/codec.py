"""What Django's serializer takes without a word, taken here too."""

from __future__ import annotations

from typing import Any

from ...codecs.base import Codec
from ..web.values import for_framework

__all__ = ["django_codec"]


def django_codec(codec: Codec, serializer: Any) -> Codec:
    """``codec``, which beside what it stores exactly takes what ``serializer`` (``SESSION_SERIALIZER``'s class) takes.

    ``mark_safe("x")`` and a ``TextChoices`` member come back as str, a dict's int keys as str, NaN as NaN: as in every
    session of Django. Only what the serializer refuses, too, is an error.
    """

    def dumps(value: Any) -> str:
        written: bytes = serializer().dumps(value)
        return written.decode("latin-1")

    def loads(written: str) -> Any:
        return serializer().loads(written.encode("latin-1"))

    return for_framework(codec, dumps, loads)
