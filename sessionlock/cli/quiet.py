"""What the library says beside its answers: to a command it is said once more, in the page or the one line of it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quietly"]


@contextmanager
def quietly() -> Iterator[None]:
    """No log lines, but where the application that the command is of has set up logging; no warning of ``memory://``."""
    from ..urls import MemoryStoreWarning  # late: `--version` needs no Redis client

    quiet, log = logging.NullHandler(), logging.getLogger("sessionlock")
    log.addHandler(quiet)  # else Python prints them by itself
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MemoryStoreWarning)
            yield
    finally:
        log.removeHandler(quiet)
