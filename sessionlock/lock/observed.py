"""What a guard that has observers tells them of waits; and the trace that others see of who holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from .. import observe
from ..clock import monotonic
from ..errors import LockNotAcquired, SessionLockError, WaitTimedOut
from ..observe import Observers
from ..protocol.labels import told_apart, with_trace
from ..protocol.replies import Granted, Holder
from .request import LockRequest, OnWait
from .topology import Acquiring

if TYPE_CHECKING:
    from .runtime import Runtime

__all__ = ["acquire_observed", "tell_handed_over", "tell_queued", "tell_refused"]

E = TypeVar("E", bound=Exception)


async def acquire_observed(
    runtime: Runtime, observer: Observers, request: LockRequest, on_wait: OnWait | None
) -> tuple[LockRequest, Acquiring, Granted]:
    """What was asked for, with the trace in its label; by which acquisition; and the grant.

    Raises as :meth:`.Acquiring.run` does.
    """
    session, label = request.keys.digest, request.label
    if observe.LockAsked in observer.hears:
        observer(observe.LockAsked(session, label))
    began = monotonic()
    acquisition: Acquiring | None = None
    try:
        runtime.holders.check(request)
        trace = observer.traceparent()
        if trace:
            request = request.labelled(with_trace(label, trace))
        acquisition = runtime.topology.acquisition(runtime, request, on_wait)
        granted = await acquisition.run()
    except BaseException as error:
        over = (session, label, monotonic() - began, *_waited_for(acquisition, error))
        if isinstance(error, WaitTimedOut):
            observer(observe.LockTimedOut(*over, error))
        elif isinstance(error, SessionLockError):
            observer(observe.LockRefused(*over, error))
        else:
            observer(observe.LockAbandoned(*over))
        raise
    holder = acquisition.waits_for
    who, theirs = (None, "") if holder is None else (holder.label, holder.trace)
    observer(observe.LockGranted(session, label, monotonic() - began, who, theirs, granted.fence))
    return request, acquisition, granted


def _waited_for(acquisition: Acquiring | None, error: BaseException) -> tuple[str | None, str]:
    holder = None if acquisition is None else acquisition.waits_for
    if holder is not None:
        return holder.label, holder.trace
    return (error.holder if isinstance(error, LockNotAcquired) else None), ""


def tell_queued(observer: Observers, request: LockRequest, ticket: str, ahead: int, holder: Holder | None) -> None:
    """``request``: as it is asked for, with a trace in its label perhaps."""
    who, trace = (None, "") if holder is None else (holder.label, holder.trace)
    observer(observe.LockQueued(request.digest, told_apart(request.label)[0], int(ticket), ahead, who, trace))


def tell_handed_over(observer: Observers, request: LockRequest) -> None:
    """``request`` as above."""
    observer(observe.LockHandedOver(request.digest, told_apart(request.label)[0]))


def tell_refused(observer: Observers | None, request: LockRequest, error: E) -> E:
    """Why nothing was saved under the lock; returns it."""
    if observer is not None and isinstance(error, SessionLockError):
        observer(observe.ChangesRefused(request.digest, request.label, error))
    return error
