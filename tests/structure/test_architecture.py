"""``docs/architecture.md`` is the map: what it names is there, and what it tells to read first is short."""

from __future__ import annotations

import re

from tests.harness import ROOT

PAGE = ROOT / "docs" / "architecture.md"
LINES_TODAY = 1_200  # to be the 1,000 that the page promises


def test_what_to_read_first_is_short() -> None:
    first = re.findall(r"^\d\. \[.*?\]\((.*?)\)", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(first) == 5
    lines = sum(len((PAGE.parent / path).read_text(encoding="utf-8").splitlines()) for path in first)
    assert lines <= LINES_TODAY


def test_its_links_lead_somewhere() -> None:
    for path in re.findall(r"\]\(([^)#:]+)\)", PAGE.read_text(encoding="utf-8")):
        assert (PAGE.parent / path).exists(), path
