"""The data under the lock."""

from __future__ import annotations

import pytest

__all__ = ["MODES"]

MODES = pytest.mark.parametrize("mode", ["lock", "optimistic", "last_write_wins"])
