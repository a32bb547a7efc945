"""Errors of the session as HTTP answers, which tell a client what to do and nobody a secret, and as lines in the log.

A browser gets a small page, everybody else problem details (RFC 9457).
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from http import HTTPStatus

from ...errors import (
    ConfigurationError,
    LeaseLost,
    LockNotAcquired,
    NotDurable,
    QueueFull,
    RedisUnavailable,
    ReentrantLock,
    SessionConflict,
    SessionLockError,
    SessionNotFound,
    SessionTooLarge,
)

__all__ = ["HTML", "JSON", "Problem", "Problems", "may_still_read", "prefers_html", "tell"]

log: logging.Logger = logging.getLogger("sessionlock.web")

HTML = "text/html; charset=utf-8"
JSON = "application/problem+json"

BUSY = "Another request of this session is still being handled. Try again in a moment."
FULL = "Too many requests of this session are waiting already. Try again in a moment."
DOWN = "The session store cannot be reached. Try again in a moment."
CHANGED = "Another request changed this session meanwhile; nothing of this request was saved in it. Try again."
LOST = "This request took so long that its session was given to another; nothing was saved in it. Try again."
NESTED = (
    "This request was made while handling another request that holds the same session and waits for the answer:"
    " neither could ever go on. Make it without the session cookie, or pass on what it needs."
)
CANNOT = "The session cannot be used."
LARGE = "The session would become too large; nothing was saved in it."
ENDED = "The session was ended meanwhile; nothing of this request was saved in it."

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
# No styles but what any policy for content may refuse without harm; colours are the browser's, light or dark.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>body{{font:1.1rem/1.5 system-ui,sans-serif;max-width:34rem;margin:15vh auto;padding:0 1.5rem}}</style>
</head>
<body>
<h1>{title}</h1>
<p>{detail}</p>{again}
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """An HTTP answer. ``retry_after``: seconds, None for no such header.

    ``body`` None: made of the rest, as a page for ``text/html``, else as RFC 9457 JSON.
    """

    status: int
    detail: str
    retry_after: int | None = None
    title: str = ""
    type: str = "about:blank"
    content_type: str = JSON
    body: bytes | None = None

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        title = self.title or _phrase(self.status)
        if self.content_type.startswith("text/html"):
            again = "" if self.retry_after is None else f"\n<p>You can try again in {_in_words(self.retry_after)}.</p>"
            return _PAGE.format(title=escape(title), detail=escape(self.detail), again=again).encode()
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

    def answer(self, error: SessionLockError, accept: str | None = None) -> Problem | None:
        """The answer to a request that met ``error``; None for a mistake in the program, which is a 500.

        ``accept``: what the request says in its header of that name; a page where it prefers HTML.
        """
        problem = self._usual(error, HTML if prefers_html(accept) else JSON)
        if problem is None or self.change is None:
            return problem
        return self.change(error, problem)

    def possible(self, *, changes: bool) -> dict[int, list[str]]:
        """The statuses of what a request may meet, and what each may mean, for an API's description. ``changes``:
        whether it may change its session; else it only reads. What :attr:`change` makes of them is not known.
        """
        found: dict[int, list[str]] = {}
        statuses = self.statuses or {}
        for kind, usual, _, detail in _ANSWERS:
            if changes or kind is RedisUnavailable:
                own = next((statuses[one] for one in kind.__mro__ if one in statuses), usual)
                found.setdefault(own, []).append(detail)
        for kind, own in statuses.items():
            if changes or issubclass(kind, RedisUnavailable):
                meaning = next((detail for known, _, _, detail in _ANSWERS if issubclass(kind, known)), CANNOT)
                if meaning not in found.setdefault(own, []):
                    found[own].append(meaning)
        return found

    def _usual(self, error: SessionLockError, content_type: str) -> Problem | None:
        statuses = self.statuses or {}
        own = next((statuses[kind] for kind in type(error).__mro__ if kind in statuses), None)
        for kind, status, again, detail in _ANSWERS:
            if isinstance(error, kind):
                if isinstance(error, SessionTooLarge) and error.keys:
                    detail = f"{detail} Too large: {error.keys[0][:80]!r}."
                return Problem(own or status, detail, self.retry_after if again else None, content_type=content_type)
        return Problem(own, CANNOT, content_type=content_type) if own is not None else None


def may_still_read(failure: SessionLockError) -> bool:
    """The error's page may greet the user by name; it must not wait for the lock once more."""
    return isinstance(failure, (LockNotAcquired, ReentrantLock))


def prefers_html(accept: str | None) -> bool:
    """Whether an ``Accept`` header would rather have HTML than JSON. Who takes anything gets JSON: it is no browser."""
    html = json_ = (0.0, 0, 0)
    for place, (kind, quality) in enumerate(_ranges(accept or "")):
        if kind in ("text/html", "application/xhtml+xml", "text/*"):
            html = max(html, (quality, _exactness(kind), -place))
        elif kind in ("application/problem+json", "application/json", "application/*"):
            json_ = max(json_, (quality, _exactness(kind), -place))
        elif kind == "*/*":
            json_ = max(json_, (quality, 0, -place))
    return html[0] > 0 and html > json_


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Media types, in lower case, and how much each is wanted; what cannot be read is left out."""
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        told = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        try:
            quality = float(told)
        except ValueError:
            continue
        if kind and 0 <= quality <= 1:
            yield kind, quality


def _exactness(kind: str) -> int:
    return 1 if kind.endswith("/*") else 2


# --- the log


def tell(error: SessionLockError, label: str) -> None:
    """Log at WARNING what a request met, once a request. ``label``: its route, as :func:`.naming.label_of` makes it.

    With the session's digest, the holder, and the keys, where they are known; never a value. An outage is told by the
    executor, when it begins and when it ends, and not again by each of its requests.
    """
    if isinstance(error, RedisUnavailable) and not isinstance(error, NotDurable):
        log.debug("%s: %s: %s", label, type(error).__name__, error)
        return
    facts = {
        "session": error.digest,
        "holder": getattr(error, "holder", None),
        "keys": tuple(key[:80] for key in getattr(error, "keys", ())[:10]) or None,
    }
    told = str(error)
    more = [f"{name}: {value}" for name, value in facts.items() if value and not _tells(told, value)]
    if more:
        told = f"{told} ({'; '.join(more)})"
    # Collectors of errors group by what is not filled in yet.
    log.warning(f"%s: {type(error).__name__}: %s", label, told, extra={"route": label, **facts})


def _tells(message: str, fact: str | tuple[str, ...]) -> bool:
    return fact in message if isinstance(fact, str) else all(repr(key) in message for key in fact)


def _in_words(seconds: float) -> str:
    if seconds < 90:
        whole = max(1, math.ceil(seconds))
        return f"{whole} second{'s' * (whole != 1)}"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} minutes"


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
