"""What a guard that has an observer tells it of locks."""

from __future__ import annotations

from .. import observe
from ..clock import monotonic
from ..errors import SessionLockError, WaitTimedOut
from ..observe import Observer
from ..protocol.replies import Granted
from .holders import Holders
from .request import LockRequest
from .topology import Acquiring

__all__ = ["acquire_observed"]


async def acquire_observed(
    observer: Observer, request: LockRequest, holders: Holders, acquisition: Acquiring
) -> Granted:
    session, label = request.digest, request.label
    observer(observe.LockAsked(session, label))
    began = monotonic()
    try:
        holders.check(request)
        granted = await acquisition.run()
    except WaitTimedOut as error:
        observer(observe.LockTimedOut(session, label, monotonic() - began, error))
        raise
    except SessionLockError as error:
        observer(observe.LockRefused(session, label, error))
        raise
    except BaseException:
        observer(observe.LockAbandoned(session, label, monotonic() - began))
        raise
    observer(observe.LockGranted(session, label, monotonic() - began, granted.fence))
    return granted
