"""What a block is to the session inside it, and to those who open it."""

from __future__ import annotations

from ..errors import ConfigurationError

__all__ = ["used_twice"]


def used_twice() -> ConfigurationError:
    """The error for a block that is entered again, by the same task or another."""
    return ConfigurationError("a lock context is for one use; call session_lock() again for the next")
