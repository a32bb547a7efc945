"""``@session_locked``: a view that runs within its session's lock, async or sync, in any framework."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .blocking import guard as blocking
from .default import default_guard
from .errors import ConfigurationError
from .guard import SessionGuard
from .lock.arguments import this_kind
from .lock.options import ViewOptions
from .views.session_id import SidFrom, cookie, header
from .views.wrap import Decorator, Locks, locked_view

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["cookie", "header", "session_locked"]


def session_locked(
    sid_from: SidFrom,
    *,
    guard: SessionGuard | blocking.SessionGuard | None = None,
    **options: Unpack[ViewOptions],
) -> Decorator:
    """Run a view within its session's lock, and pass it the session::

        @session_locked(cookie("session_id"))
        async def add_to_cart(request, session):
            session.setdefault("cart", []).append("A")
            return JSONResponse(session["cart"])

    ``sid_from``: :func:`cookie`, :func:`header`, or any callable that is called as the view is and returns the session
    id (an async one, for async views). ``guard``: the one of :func:`sessionlock.configure` unless given; a sync view
    uses its blocking face (:mod:`sessionlock.blocking`).

    The view gets the session in the parameter that is annotated :class:`sessionlock.Session` (or
    :class:`sessionlock.blocking.Session`), else in the one called ``session``; frameworks do not see that parameter.
    Who has the session already may call the view with ``session=...``: then nothing is locked again.

    What changed is saved when the view returns, before the framework sends the answer; when it raises (an abort or a
    redirect that is raised, too) nothing is saved, unless ``save_on_error``. A streamed answer goes out after that,
    without the lock. ``mode``, ``wait``, ``lease``, ``label``, ``session``: as :meth:`SessionGuard.session_lock`.

    With :func:`cookie` a new visitor gets an empty session; if the view puts something in, it is stored under an id of
    its own, and the answer sets the cookie. An id that nobody gave out is never adopted from a cookie. (There is nobody
    to lock such a session against: its ``lease`` is None.) The answer also sets the cookie after ``regenerate()`` and,
    where it can, whenever the lock was held, so that the cookie lives as long as the session; after ``destroy()`` it
    takes the cookie away. A cookie that the view itself has set stays. In Flask and Quart every answer can carry one.
    Elsewhere the view returns a response object, or in FastAPI has a parameter for one (``response: Response``).

    ``missing="reject"`` raises for whoever has no session yet; the default where the id does not come from
    :func:`cookie`. ``"create"`` is for ids that the application itself chose.

    Below other decorators of the framework (``@app.get``), on functions, methods, static and class methods, or on a
    class: then on each method of its own that is named like an HTTP verb.

    Raises (when decorating):
        ConfigurationError: a generator, or not a view.
    Raises (when called):
        SessionNotFound: the request carries no session id, or there is no such session, and none may begin; or the id
        was replaced by a newer one. ConfigurationError: the cookie has to be set, and the answer cannot carry it; what
        the view changed is not saved. Otherwise as :meth:`SessionGuard.session_lock`.
    """

    if guard is not None:
        this_kind("guard", guard, (SessionGuard, blocking.SessionGuard), "a SessionGuard")

    def for_async() -> SessionGuard:
        if isinstance(guard, blocking.SessionGuard):
            raise ConfigurationError("an async view needs a sessionlock.SessionGuard, not the one for threads")
        return guard or default_guard()

    def for_sync() -> blocking.SessionGuard:
        return guard if isinstance(guard, blocking.SessionGuard) else blocking.blocking_guard(guard or default_guard())

    return partial(locked_view, locks=Locks(sid_from, options, for_async, for_sync))
