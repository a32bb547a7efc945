"""Values as applications put them into sessions: subclasses of what JSON knows."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Any

__all__ = ["Colour", "Items", "Level", "Token"]


class Colour(str, Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Token(dict[str, Any]):
    """As OAuth libraries have it: Authlib's OAuth2Token."""


class Items(list[Any]):
    pass
