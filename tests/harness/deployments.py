"""What the tests of real deployments share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from sessionlock import Session, SessionGuard
from sessionlock.protocol.keys import keys_for

__all__ = ["LONG", "LONG_SECONDS", "SID", "SIDS", "MakeGuard", "Tell", "fence_of", "lock_of"]

SID = "s"
SIDS = ("one", "two", "three")  # for the processes that count
LONG_SECONDS = 60.0

Tell = Callable[[str], None]
MakeGuard = Callable[..., SessionGuard]

LONG = pytest.mark.skipif(
    "SESSIONLOCK_LONG" not in os.environ, reason="a minute of faults for each: set SESSIONLOCK_LONG=1 to have it"
)


def lock_of(sid: str) -> bytes:
    """The key of the session's lock: where that is, all of the session is."""
    return keys_for("sl", sid).lock


def fence_of(session: Session) -> int:
    assert session.lease is not None
    return session.lease.fencing_token
