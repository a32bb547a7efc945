"""Errors of the session as HTTP answers (RFC 9457), which tell a client what to do and nobody a secret."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from ..errors import (
    ConfigurationError,
    LeaseLost,
    LockNotAcquired,
    QueueFull,
    RedisUnavailable,
    ReentrantLock,
    SessionConflict,
    SessionLockError,
    SessionNotFound,
    SessionTooLarge,
)

__all__ = ["Problem", "Problems"]

BUSY = "Another request of this session is still being handled. Try again in a moment."
FULL = "Too many requests of this session are waiting already. Try again in a moment."
DOWN = "The session store cannot be reached. Try again in a moment."
CHANGED = "Another request changed this session meanwhile; nothing of this request was saved in it. Try again."
ENDED = "This session was ended meanwhile; nothing of this request was saved in it. Log in again, or begin anew."
LOST = "This request took so long that its session was given to another; nothing was saved in it. Try again."
NESTED = (
    "This request was made while handling another request that holds the same session and waits for the answer:"
    " neither could ever go on. Make it without the session cookie, or pass on what it needs."
)
LARGE = "The session would become too large; nothing was saved in it."

# First match wins, so an error stands before those that it is a kind of.
_ANSWERS: tuple[tuple[type[SessionLockError], int, bool, str], ...] = (
    (QueueFull, 429, True, FULL),
    (LockNotAcquired, 503, True, BUSY),
    (RedisUnavailable, 503, True, DOWN),
    (SessionConflict, 409, False, CHANGED),
    (SessionNotFound, 409, False, ENDED),
    (LeaseLost, 409, False, LOST),
    (ReentrantLock, 409, False, NESTED),
    (SessionTooLarge, 413, False, LARGE),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """An HTTP answer. ``retry_after``: seconds, None for no such header. ``body`` None: RFC 9457 JSON of the rest."""

    status: int
    detail: str
    retry_after: int | None = None
    title: str = ""
    type: str = "about:blank"
    content_type: str = "application/problem+json"
    body: bytes | None = None

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        title = self.title or _phrase(self.status)
        told = {"type": self.type, "title": title, "status": self.status, "detail": self.detail}
        return json.dumps(told, separators=(",", ":")).encode()

    def headers(self) -> list[tuple[str, str]]:
        """All of the answer's headers, content-length included."""
        headers = [
            ("content-type", self.content_type),
            ("content-length", str(len(self.content()))),
            ("cache-control", "no-store"),
        ]
        if self.retry_after is not None:
            headers.append(("retry-after", str(self.retry_after)))
        return headers


@dataclass(frozen=True, slots=True)
class Problems:
    """Which error becomes which answer.

    ``statuses``: other status codes, per error class (``{WaitTimedOut: 423}``; the most special class that is named
    counts). ``retry_after``: seconds told to the client. ``change``: a function ``(error, problem) -> problem`` that
    may return another answer, a page of your own say, or None to let the error through to the framework.
    """

    statuses: Mapping[type[SessionLockError], int] | None = None
    retry_after: int = 1
    change: Callable[[SessionLockError, Problem], Problem | None] | None = None

    def __post_init__(self) -> None:
        for kind, status in (self.statuses or {}).items():
            if not 400 <= status <= 599:
                raise ConfigurationError(f"{kind.__name__} must become a status from 400 to 599, not {status!r}")

    def answer(self, error: SessionLockError) -> Problem | None:
        """The answer to a request that met ``error``; None for a mistake in the program, which is a 500."""
        problem = self._usual(error)
        if problem is None or self.change is None:
            return problem
        return self.change(error, problem)

    def _usual(self, error: SessionLockError) -> Problem | None:
        own = (
            next((self.statuses[kind] for kind in type(error).__mro__ if kind in self.statuses), None)
            if (self.statuses)
            else None
        )
        for kind, status, again, detail in _ANSWERS:
            if isinstance(error, kind):
                return Problem(own or status, detail, self.retry_after if again else None)
        return Problem(own, "The session cannot be used.") if own is not None else None


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
