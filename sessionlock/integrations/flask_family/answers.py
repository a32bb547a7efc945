"""Another answer in the place of one that is ready."""

from __future__ import annotations

from typing import Any

from ..web.headers import stays

__all__ = ["become"]


def become(response: Any, other: Any) -> None:
    """Let the response that the framework holds say what ``other`` says.

    What the application's hooks have put into its headers stays (CORS, cookies), except what tells of its body.
    """
    close = getattr(response.response, "close", None)
    if close is not None and hasattr(response, "call_on_close"):
        response.call_on_close(close)
    before, varies, after = response.headers, response.vary, other.headers
    kept = [(name, value) for name, value in before if name.lower() == "set-cookie" or name not in after]
    response.direct_passthrough = False
    response.status = other.status
    response.headers = after
    response.response = other.response
    response.headers.extend((name, value) for name, value in kept if stays(name))
    response.vary.update(varies)
