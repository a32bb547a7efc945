"""What an application must not write: each line is an error, for mypy as for pyright.

Never run. An ignored line that is no error is one itself, so :mod:`tests.typing.test_as_written` sees every line that
a type checker lets pass.
"""

from __future__ import annotations

from sessionlock import Session, SessionGuard, blocking, configure, cookie, session_lock, session_locked

URL = "redis://localhost:6379/0"


def guards(guard: SessionGuard) -> None:
    SessionGuard.from_url(URL, prefx="app")  # type: ignore[call-arg]
    SessionGuard.from_url(URL, wait="long")  # type: ignore[arg-type]
    SessionGuard.from_url(URL, commit_by="force")  # type: ignore[arg-type]
    configure(URL, patience=5)  # type: ignore[call-overload]
    configure(guard, wait=5)  # type: ignore[call-overload]
    blocking.SessionGuard(guard, retry=2)  # type: ignore[call-arg]
    blocking.SessionGuard.from_url(URL, session={"idle": 60})  # type: ignore[arg-type]
    blocking.configure(URL, check="yes")  # type: ignore[call-overload]


async def blocks(guard: SessionGuard) -> None:
    guard.session_lock("sid", mod="read")  # type: ignore[call-overload]
    guard.session_lock("sid", mode="write")  # type: ignore[call-overload]
    guard.session_lock("sid", missing="ignore")  # type: ignore[call-overload]
    guard.session_lock("sid", "other", mode="read")  # type: ignore[call-overload]
    guard.session_lock(sid="sid")  # type: ignore[call-overload]
    session_lock("sid", wait="long")  # type: ignore[call-overload]
    session_lock("sid", "other", expected_version=3)  # type: ignore[call-overload]
    async with guard.session_lock("sid") as session:
        session.incr("n") + 1  # type: ignore[operator]
        session.lease.check()  # type: ignore[union-attr]
    with guard.session_lock("sid"):  # type: ignore[attr-defined]
        pass


def in_threads(guard: blocking.SessionGuard) -> None:
    guard.session_lock("sid", mode="write")  # type: ignore[call-overload]
    guard.session_lock("sid", "other", codec=None)  # type: ignore[call-overload]
    blocking.session_lock("sid", missing=True)  # type: ignore[call-overload]


session_locked(cookie("s"), wait="long")  # type: ignore[arg-type]
session_locked(cookie("s"), missng="create")  # type: ignore[call-arg]
session_locked("s")  # type: ignore[arg-type]
blocking.session_locked(cookie("s"), mode="write")  # type: ignore[arg-type]
cookie("s", samesite="Lax")  # type: ignore[arg-type]


@session_locked(cookie("s"))
async def view(request: int, session: Session) -> int:
    return request


_ = view(1, session=1)  # type: ignore[call-arg]
_ = view("1")  # type: ignore[arg-type]
