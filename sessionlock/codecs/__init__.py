"""How one value of a session becomes the bytes of one Redis hash field, and back."""

from .base import Codec, Sealing, default_codec, keeps_counters
from .fast import MsgspecCodec, OrjsonCodec
from .fernet import FernetCodec
from .json import JsonCodec
from .tags import MAX_DEPTH

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
