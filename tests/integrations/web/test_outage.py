"""Redis is gone for a while under a steady stream of requests, with all defaults, by HTTP.

How many milliseconds it takes is for ``python -m benchmarks.outage`` to measure, on a quiet machine.
"""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.outage import played
from benchmarks.report import median

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.mark.parametrize(("site", "how"), [("starlette", "hangs"), ("flask", "killed")])
def test_requests_in_an_outage(site: str, how: str) -> None:
    seen = asyncio.run(played(site, how, seconds=7.0, rate=25.0))
    assert seen.odd == [], "neither hung, nor a 500"
    assert seen.first.took < 7, "5 s are meant, and this machine may be busy"
    assert len(seen.later) >= 20
    assert median(answer.took for answer in seen.later) < 1.0, "milliseconds are meant: not the seconds of the first"
    assert seen.back < 3, "1 s is meant"
    begun, ended = seen.lines
    assert "cannot be used" in begun
    assert "is back after" in ended
