"""``@session_locked``: a view that runs within its session's lock, async or sync, in any framework."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from typing import Any

from . import blocking
from .default import default_guard
from .errors import ConfigurationError
from .guard import Missing, Mode, SessionGuard
from .policies import LeasePolicy, SessionPolicy, WaitPolicy
from .session import Session
from .sources import SidFrom, cookie, header
from .views import Decorator, Locks, locked_view

__all__ = ["cookie", "header", "session_locked"]


def session_locked(
    sid_from: SidFrom,
    *,
    guard: SessionGuard | blocking.SessionGuard | None = None,
    mode: Mode = "lock",
    wait: WaitPolicy | float | None = None,
    lease: LeasePolicy | None = None,
    missing: Missing = "reject",
    name: str | None = None,
    session: SessionPolicy | None = None,
    save_on_error: bool = False,
) -> Decorator:
    """Run a view within its session's lock, and pass it the session::

        @session_locked(cookie("session_id"))
        async def add_to_cart(request, session):
            session["cart"].append("A")

    ``sid_from``: :func:`cookie`, :func:`header`, or any callable that is called as the view is and returns the session
    id (an async one, for async views). ``guard``: the one of :func:`sessionlock.configure` unless given; a sync view
    uses its blocking face (:mod:`sessionlock.blocking`).

    The view gets the session in the parameter that is annotated :class:`sessionlock.Session` (or
    :class:`sessionlock.blocking.Session`), else in the one called ``session``; frameworks do not see that parameter.
    Who has the session already may call the view with ``session=...``: then nothing is locked again.

    What changed is saved when the view returns, before the framework sends the answer; when it raises (an abort or a
    redirect that is raised, too) nothing is saved, unless ``save_on_error``. A streamed answer goes out after that,
    without the lock. ``missing="reject"``: an id that nobody gave out is not adopted from a cookie; ``"create"`` is for
    ids that the application itself chose. ``mode``, ``wait``, ``lease``, ``name``, ``session``: as
    :meth:`SessionGuard.session_lock`.

    Below other decorators of the framework (``@app.get``), on functions, methods, static and class methods, or on a
    class: then on each method of its own that is named like an HTTP verb.

    Raises (when decorating):
        ConfigurationError: a generator, or not a view.
    Raises (when called):
        SessionNotFound: the request carries no session id, or there is no such session. Otherwise as
        :meth:`SessionGuard.session_lock`.
    """
    options: dict[str, Any] = {
        "mode": mode,
        "wait": wait,
        "lease": lease,
        "missing": missing,
        "name": name,
        "session": session,
        "save_on_error": save_on_error,
    }

    def for_async(sid: str) -> AbstractAsyncContextManager[Session, None]:
        if isinstance(guard, blocking.SessionGuard):
            raise ConfigurationError("an async view needs a sessionlock.SessionGuard, not the one for threads")
        return (guard or default_guard()).session_lock(sid, **options)

    def for_sync(sid: str) -> AbstractContextManager[blocking.Session, None]:
        if isinstance(guard, blocking.SessionGuard):
            return guard.session_lock(sid, **options)
        return blocking.blocking_guard(guard or default_guard()).session_lock(sid, **options)

    return partial(locked_view, locks=Locks(sid_from, for_async, for_sync))
