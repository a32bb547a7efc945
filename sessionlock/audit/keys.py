"""Names of keys: which are meant, and what of them may be told."""

from __future__ import annotations

import re

from .lines import plain

__all__ = ["family_of", "matching", "tells_nobody"]

_FAMILY = re.compile(
    r"(?::\d{1,3}:)?[A-Za-z][A-Za-z._-]{0,38}:|:\d{1,3}:django\.contrib\.sessions\.cache(?:d_db)?|PHPREDIS_SESSION:"
)
_WORDS = {
    *("s", "sess", "session", "sessions", "sid", "web", "app", "cart", "carts", "basket", "user", "users", "auth"),
    *("login", "token", "cache", "cached", "db", "store", "data", "state", "express", "koa", "node", "next", "nuxt"),
    *("django", "contrib", "flask", "quart", "starlette", "fastapi", "litestar", "aiohttp", "tornado", "pyramid"),
    *("beaker", "php", "phpredis", "laravel", "symfony", "spring", "shiro", "tomcat", "asp", "net", "rack", "rails"),
    *("sinatra", "sl", "sessionlock", "tabs", "queue", "lock", "rate", "limit"),
}
_ENOUGH = 10  # keys that begin so: it is no person's name, then
_BETWEEN_WORDS = re.compile(r"[^A-Za-z]+")


def family_of(key: bytes) -> str:
    """What many keys of one application begin with, without anything of an id; "" where nothing can be said. ``key``:
    as ``MONITOR`` escaped it.
    """
    match = _FAMILY.match(plain(key).decode(errors="replace"))
    return "" if match is None else match[0]


def tells_nobody(family: str, keys: int) -> bool:
    """Whether that is an application's word, and not the name of somebody whose few keys begin with it."""
    words = {word.lower() for word in _BETWEEN_WORDS.split(family) if word}
    return keys >= _ENOUGH or words <= _WORDS


def matching(pattern: str) -> re.Pattern[bytes]:
    """``*``, ``?``, ``[a-z]``, ``[^a]`` and ``\\``, as ``SCAN … MATCH`` and ``KEYS`` have them."""
    raw, place, parts = pattern.encode(errors="surrogateescape"), 0, []
    while place < len(raw):
        letter = raw[place : place + 1]
        end = raw.find(b"]", place + 1)
        if letter == b"*":
            parts.append(b".*")
        elif letter == b"?":
            parts.append(b".")
        elif letter == b"[" and end > place + 1:
            inner = raw[place + 1 : end]
            said = re.sub(rb"([\\\[\]&~|^])", rb"\\\1", inner.removeprefix(b"^"))
            parts.append(b"[" + (b"^" if inner[:1] == b"^" else b"") + said + b"]")
            place = end
        else:
            if letter == b"\\" and place + 1 < len(raw):
                place += 1
            parts.append(re.escape(raw[place : place + 1]))
        place += 1
    try:
        return re.compile(b"".join(parts), re.DOTALL)
    except re.error:  # [z-a]
        return re.compile(re.escape(raw), re.DOTALL)
