"""Whom each wait was for is known, over two nodes; how much that costs is what ``benchmarks.observing`` counts."""

from __future__ import annotations

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the SDK is in the extra `test`")

from benchmarks import attribution
from benchmarks.commands import Options


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.server
def test_waits_are_put_down_to_who_held_the_lock() -> None:
    report = attribution.run(Options(cycles=8))
    facts = report.facts
    assert facts["waits"] > 100
    assert facts["put down to the other node"] > 0
    assert all(claim.met for claim in report.claims), report.text()
