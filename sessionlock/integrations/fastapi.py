"""FastAPI: the session as a dependency, locked for the path operations that ask for it and no others.

::

    app.add_middleware(SessionLockMiddleware, guard="redis://localhost:6379/0", mode="read")

    @app.post("/cart")
    async def add(item: str, session: LockedSession): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from inspect import signature
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from ..errors import ConfigurationError
from ..session.mapping import Session
from .asgi.exchange import RUN, conflict
from .asgi.middleware import SessionLockMiddleware, visit_of
from .web.request_session import RunAgain

__all__ = ["LockedSession", "SessionLockMiddleware", "locked_session"]


async def locked_session(request: Request) -> AsyncIterator[Session]:
    """``Depends(locked_session, scope="function")``: locked and loaded; saved and released as the function returns.

    Works whatever mode the middleware gives the route. A request that holds the lock already goes on with it, until the
    answer begins. Without ``scope="function"`` the middleware saves and releases then, too.

    Raises:
        ConfigurationError: there is no :class:`SessionLockMiddleware`, or its rules switch it off for this route.
    """
    visit = visit_of(request.scope)
    if visit is None:
        raise ConfigurationError("locked_session needs app.add_middleware(SessionLockMiddleware, ...) on this route")
    if visit.session.lease is not None and visit.session.is_open:
        yield visit.session  # until the answer begins, as for every request of this mode
        return
    answer: HTTPException | None = None
    try:
        async with visit.locked() as session:
            try:
                yield session
            except HTTPException as error:
                if error.status_code >= 500:
                    raise
                answer = error  # like any other answer: only a 5xx saves nothing
    except RunAgain:
        request.scope[RUN].abandon()
        raise conflict() from None
    if answer is not None:
        raise answer


# FastAPI before 0.121 has no such argument, and leaves dependencies before the answer (to 0.117) or after it. Then the
# middleware saves and releases as the answer begins.
_IN_TIME: dict[str, Any] = {"scope": "function"} if "scope" in signature(Depends).parameters else {}

LockedSession = Annotated[Session, Depends(locked_session, **_IN_TIME)]
"""For a path operation's parameter: its session, locked. ``request.session`` is the same one, as a dict."""
