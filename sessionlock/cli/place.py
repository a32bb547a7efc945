"""Where a framework's application keeps its sessions, for its own commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..codecs.base import Codec
    from ..guard import SessionGuard

__all__ = ["Place"]


@dataclass(frozen=True, slots=True)
class Place:
    """``kept``: makes the application's guard, or has it; and the codec for values, where it is not the guard's.
    ``url``: what the guard is made of; None: that is not known. ``user_of``: what a session is bound to, of how one
    names a user. ``masters``: URLs of its quorum's, as far as it says them so.
    """

    kept: Callable[[], tuple[SessionGuard, Codec | None]]
    url: str | None = None
    user_of: Callable[[str], str] = str
    masters: tuple[str, ...] = ()
