"""How one top-level value of a session becomes the bytes of one Redis hash field, and back.

A codec is exact or loud: what it encodes comes back equal, of the same types and in the same order, and
everything else is a CodecError that names the key and the path of the offending part. It never answers with
an empty value for data that it cannot read. The bytes are data only: nothing here runs what it reads.

Two values are the same to this library when their encodings are the same, so encoding is deterministic (a
codec that seals, like FernetCodec, is compared by what it seals: see ``Sealing``).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from .json import JsonCodec

__all__ = ["Codec", "Sealing", "default_codec", "keeps_counters"]


class Codec(Protocol):
    """Encodes and decodes one field. Safe to share between tasks and threads."""

    @property
    def name(self) -> str:
        """What errors and diagnostics call this codec."""

    def encode(self, key: str, value: object) -> bytes:
        """Return the bytes to store for ``value``, equal for equal values.

        Raises CodecError when the value would not come back exactly.
        """

    def decode(self, key: str, data: bytes) -> object:
        """Return the value stored as ``data``, new with every call. Raises CodecError when it is not one."""


@runtime_checkable
class Sealing(Protocol):
    """A codec whose bytes differ every time: ``encode`` is ``seal`` of what ``inner`` encodes.

    To notice changes, keep and compare the encodings of ``inner``.
    """

    @property
    def inner(self) -> Codec:
        """The codec whose encodings are compared."""

    def seal(self, key: str, data: bytes) -> bytes:
        """Return the bytes to store for ``data``, which ``inner`` encoded."""

    def unseal(self, key: str, data: bytes) -> bytes:
        """Return what was sealed. Raises CodecError when it was changed or belongs to another key."""


_DEFAULT = JsonCodec()


def default_codec() -> Codec:
    """Return the codec that is used when none is given: JsonCodec."""
    return _DEFAULT


def keeps_counters(codec: Codec) -> bool:
    """Tell whether ``codec`` stores an int as its bare digits, so that Redis can count in the field."""
    return not isinstance(codec, Sealing) and codec.encode("n", -1) == b"-1"
