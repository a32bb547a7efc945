"""The scenarios with hundreds of thousands of states: minutes that a change of the protocol is worth, not every run."""

from __future__ import annotations

import os

import pytest

__all__ = ["LARGE_ONLY"]

LARGE_ONLY = [
    pytest.mark.slow,
    pytest.mark.once,
    pytest.mark.skipif("SESSIONLOCK_LONG" not in os.environ, reason="half a minute each: set SESSIONLOCK_LONG=1"),
]
