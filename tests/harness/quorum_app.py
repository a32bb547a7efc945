"""A WSGI application whose guard has a quorum, used before the workers are forked.

For gunicorn: ``tests.harness.quorum_app:served()``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from sessionlock import Quorum
from sessionlock.blocking import SessionGuard

__all__ = ["served"]


def served() -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    quorum = Quorum(os.environ["QUORUM"].split(","), rejoin_after=0)
    guard = SessionGuard.from_url(os.environ["STORE"], quorum=quorum, wait=30)

    def add() -> None:
        with guard.session_lock("counted") as session:
            session["n"] = session.get("n", 0) + 1

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        add()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [str(os.getpid()).encode()]

    add()
    return application
