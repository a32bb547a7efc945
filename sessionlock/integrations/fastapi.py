"""FastAPI: the session as a dependency, locked for the path operations that ask for it and no others.

::

    app.add_middleware(SessionLockMiddleware, guard="redis://localhost:6379/0", mode="read")

    @app.post("/cart")
    async def add(item: str, session: LockedSession): ...
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from inspect import signature
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from starlette.exceptions import HTTPException

from ..errors import ConfigurationError
from ..session.mapping import Session
from .asgi.exchange import RUN, conflict
from .asgi.middleware import SessionLockMiddleware, visit_of
from .settings.options import FaceOptions, FaceSettings
from .web.naming import METHODS
from .web.openapi import described
from .web.request_session import RunAgain

__all__ = ["LockedSession", "SessionLockMiddleware", "describe_problems", "locked_session"]


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


def describe_problems(app: FastAPI) -> None:
    """Put into ``app.openapi()`` what a session may answer (409, 413, 429, 503, or what ``problems=`` makes of them),
    at each path operation that uses one: by the middleware's rules, or by :data:`LockedSession`. What an operation
    declares for such a status itself stays. Call it once, after ``add_middleware``.

    Raises:
        ConfigurationError: there is no :class:`SessionLockMiddleware`, or an option of it makes no sense.
    """
    face = _face_of(app)
    make = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            locked = set(_locked(app.routes))
            for path, operations in make().get("paths", {}).items():
                for method in METHODS & {word.upper() for word in operations}:
                    takes_lock = (path, method) in locked
                    answers = described(face.problems, face.rules.policy_for(method, path), takes_lock=takes_lock)
                    operation = operations[method.lower()]
                    operation["responses"] = {**answers, **operation.get("responses", {})}
        return make()

    app.openapi = openapi  # type: ignore[method-assign]


def _face_of(app: FastAPI) -> FaceSettings:
    for middleware in app.user_middleware:
        if isinstance(middleware.cls, type) and issubclass(middleware.cls, SessionLockMiddleware):
            options = {name: value for name, value in middleware.kwargs.items() if name in FaceOptions.__annotations__}
            return FaceSettings.of(options)
    raise ConfigurationError("describe_problems(app) comes after app.add_middleware(SessionLockMiddleware, ...)")


def _locked(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Path and method of each operation that asks for :data:`LockedSession`. Later versions of FastAPI keep the routes
    of an included router below it, and make others of them, with its prefix.
    """
    for route in routes:
        included = getattr(route, "effective_candidates", None)
        if included is not None:
            yield from _locked(included())
        elif getattr(route, "dependant", None) is not None and _depends_on(route.dependant, locked_session):
            for method in getattr(route, "methods", None) or ():
                yield route.path_format, method


def _depends_on(dependant: Any, wanted: object) -> bool:
    return dependant.call is wanted or any(_depends_on(one, wanted) for one in dependant.dependencies)
