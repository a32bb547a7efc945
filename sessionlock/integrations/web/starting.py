"""What a face does as its application starts."""

from __future__ import annotations

import logging

from ...errors import RedisUnavailable, SessionLockError
from ...guard import SessionGuard

__all__ = ["look_at_start"]

log: logging.Logger = logging.getLogger("sessionlock.web")


async def look_at_start(guard: SessionGuard) -> None:
    """Whether sessions can be used is in the log before the first visitor comes. It never raises: an application may
    start before its store does.
    """
    try:
        await guard.ready()
    except RedisUnavailable as error:
        log.debug("not ready: %s", error)  # an outage begins, of which the guard itself tells
    except SessionLockError as error:
        log.error("sessions cannot be used: %s", error)
