"""Applications of Flask in the test's own process, and many tabs of one browser that ask them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from sessionlock.blocking import SessionGuard as BlockingGuard
from sessionlock.blocking.portal import portal
from sessionlock.integrations.flask.extension import SessionLock

__all__ = ["WAIT", "asked", "close", "guard_of", "guarded", "holding", "in_threads", "sid_of", "together"]

WAIT = 20.0


def guarded(url: str, **config: Any) -> Flask:
    """An application that tells its errors; ``config`` as ``app.config`` has it."""
    app = Flask("shop")
    app.testing = True
    app.secret_key = "for extensions that sign something"
    app.config.update({"SESSION_LOCK_URL": url, "SESSION_LOCK_WAIT": WAIT, **config})
    SessionLock(app)
    return app


def close(app: Flask) -> None:
    portal().call(app.session_interface.guard.aclose)  # type: ignore[attr-defined]


@contextmanager
def guard_of(app: Flask) -> Iterator[BlockingGuard]:
    """What another node would see."""
    guard = BlockingGuard(app.session_interface.guard)  # type: ignore[attr-defined]
    try:
        yield guard
    finally:
        guard.close()


@contextmanager
def holding(app: Flask, sid: str) -> Iterator[None]:
    """Another tab's request holds the lock."""
    inside, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with guard_of(app) as guard, guard.session_lock(sid, missing="reject"):
            inside.set()
            go_on.wait(WAIT)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert inside.wait(WAIT)
        yield
    finally:
        go_on.set()
        holder.join(WAIT)


def sid_of(client: FlaskClient) -> str:
    cookie = client.get_cookie("session")
    assert cookie is not None
    return cookie.value


def asked(app: Flask, sid: str, path: str, method: str = "GET", **options: Any) -> TestResponse:
    """By a browser that came with that session."""
    client = app.test_client()
    client.set_cookie("session", sid)
    return client.open(path, method=method, buffered=True, **options)  # a stream belongs to its thread


def together(app: Flask, sid: str, paths: Sequence[str], method: str = "GET", **options: Any) -> list[TestResponse]:
    """All at once, each in a thread, in the order of ``paths``."""
    answers: list[TestResponse | None] = [None] * len(paths)

    def ask(number: int) -> None:
        answers[number] = asked(app, sid, paths[number], method, **options)

    in_threads([partial(ask, number) for number in range(len(paths))])
    told = [answer for answer in answers if answer is not None]
    assert len(told) == len(paths)
    return told


def in_threads(steps: Sequence[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=step) for step in steps]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
