"""What every framework's shop answers, and what its session holds afterwards: one table for all of them.

A new framework's shop is done when :mod:`tests.acceptance.test_shop_contract` is green for it; the tests of two workers
then run on it as on the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ALL_SHOPS", "STREAMING_SHOPS", "Row"]

A_PID = object()
"""As a body: the answer names the process that made it."""


class Row(NamedTuple):
    """One request of a visitor, who keeps the cookie. Rows follow one another."""

    ask: str
    body: Any
    """The JSON that is answered; ``A_PID``; or text that is in it."""
    stored: dict[str, Any] | None
    """The session afterwards; None: there is none, and no cookie was set."""
    status: int = 200
    gate: str = ""
    """Opened before: a handler that waits for it goes on at once."""


ALL_SHOPS = (
    Row("GET /pid", A_PID, None),
    Row("GET /cart", [], None),
    Row("POST /add?item=a", A_PID, {"cart": ["a"]}),
    Row("GET /add?item=b", A_PID, {"cart": ["a", "b"]}),
    Row("POST /brief?item=c", A_PID, {"cart": ["a", "b", "c"]}),
    Row("GET /cart", ["a", "b", "c"], {"cart": ["a", "b", "c"]}),
    Row("GET /count", A_PID, {"cart": ["a", "b", "c"], "number": 1}),
    Row("GET /count", A_PID, {"cart": ["a", "b", "c"], "number": 2}),
    Row("POST /hold?gate=held", A_PID, {"cart": ["a", "b", "c"], "number": 2, "held": "held"}, gate="held"),
    Row(
        "POST /call?method=GET&path=/cart",
        {"status": 200, "body": ["a", "b", "c"]},
        {"cart": ["a", "b", "c"], "number": 2, "held": "held", "called": True},
    ),
    Row("GET /nothing-of-the-kind", None, {"cart": ["a", "b", "c"], "number": 2, "held": "held", "called": True}, 404),
)
STREAMING_SHOPS = (
    Row("POST /add?item=a", A_PID, {"cart": ["a"]}),
    Row("POST /events?gate=streamed&every=0.01", "", {"cart": ["a"], "streamed": True}, gate="streamed"),
    Row("GET /poll?gate=polled", A_PID, {"cart": ["a"], "streamed": True}, gate="polled"),
    Row("POST /poll?gate=polled", A_PID, {"cart": ["a"], "streamed": True}, gate="polled"),
)
