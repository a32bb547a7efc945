"""How one value of a session becomes the bytes of one Redis hash field, and back."""

from .base import (
    MAX_DEPTH,
    Codec,
    FernetCodec,
    JsonCodec,
    MsgspecCodec,
    OrjsonCodec,
    Sealing,
    default_codec,
    keeps_counters,
)

__all__ = [
    "MAX_DEPTH",
    "Codec",
    "FernetCodec",
    "JsonCodec",
    "MsgspecCodec",
    "OrjsonCodec",
    "Sealing",
    "default_codec",
    "keeps_counters",
]
