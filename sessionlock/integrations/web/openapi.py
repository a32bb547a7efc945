"""What a session may answer instead of a view, for an API's description in OpenAPI."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from .problems import JSON, Problems
from .rules import RoutePolicy

__all__ = ["described"]

_SCHEMA = {
    "title": "Problem",
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_RETRY_AFTER = {"Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}}}
TRY_AGAIN = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)


def described(problems: Problems, policy: RoutePolicy, *, takes_lock: bool = False) -> dict[str, dict[str, Any]]:
    """OpenAPI's response objects by status, for a route with this policy; none where it has no session.
    ``takes_lock``: it does by itself, whatever its policy.
    """
    if policy.mode == "off" and not takes_lock:
        return {}
    possible = problems.possible(changes=takes_lock or policy.mode != "read")
    return {
        str(status): {
            "description": " Or: ".join(details),
            "content": {JSON: {"schema": _SCHEMA}},
            **({"headers": _RETRY_AFTER} if status in TRY_AGAIN else {}),
        }
        for status, details in sorted(possible.items())
    }
