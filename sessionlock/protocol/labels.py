"""What others see of a holder or waiter: a label, "node route", in which its trace may travel. No I/O.

The trace stands behind the label in the holder's record, " traceparent=00-...": as W3C Trace Context has it. Who knows
nothing of it sees one word more.
"""

from __future__ import annotations

import re

__all__ = ["told_apart", "with_trace"]

_TRACE = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_MARK = " traceparent="


def with_trace(label: str, trace: str) -> str:
    """``trace``: a W3C ``traceparent``; "": there is none."""
    return f"{label}{_MARK}{trace}" if trace else label


def told_apart(said: str) -> tuple[str, str]:
    """The label for people, and the trace, "" where there is none."""
    label, mark, trace = said.rpartition(_MARK)
    return (label, trace) if mark and _TRACE.fullmatch(trace) else (said, "")
