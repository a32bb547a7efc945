"""Headers of an application's answer, where we add to them or put an answer of ours in its place."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["stays", "varies_by_cookie"]

# Headers that tell of a body, or of a target, which is not sent where another answer takes its place. All others stay:
# CORS, security, cookies, trace ids.
_OF_THE_BODY = frozenset(
    {
        "accept-ranges",
        "age",
        "allow",
        "cache-control",
        "digest",
        "etag",
        "expires",
        "last-modified",
        "link",
        "location",
        "pragma",
        "refresh",
        "repr-digest",
        "retry-after",
        "trailer",
        "transfer-encoding",
        "x-accel-buffering",
        "x-accel-redirect",
        "x-sendfile",
    }
)


def stays(header: str) -> bool:
    """Whether a header of the application's answer stays on an answer of ours that takes its place."""
    name = header.lower()
    about_content = name.startswith("content-") and not name.startswith("content-security-policy")
    return not about_content and name not in _OF_THE_BODY


def varies_by_cookie(vary: Iterable[str]) -> bool:
    """Whether an answer with these ``Vary`` headers tells caches already that it depends on cookies."""
    named = ",".join(vary).lower()
    return "cookie" in named or "*" in named
