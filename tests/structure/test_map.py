"""What docs/architecture.md says of the tree is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
DOCUMENTS = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")))
LINES = 1_000
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def reading_set() -> list[Path]:
    """The files of the numbered list at its beginning."""
    return [
        (ARCHITECTURE.parent / target).resolve()
        for line in ARCHITECTURE.read_text(encoding="utf-8").splitlines()
        if re.match(r"\d\. \[`", line)
        for target in LINK.findall(line)
    ]


def test_how_it_works_can_be_read_in_an_hour() -> None:
    files = reading_set()
    assert len(files) == 5
    lines = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert sum(lines.values()) <= LINES, f"move what is not on the way of a request out of them: {lines}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    targets = [target for target in LINK.findall(document.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_every_folder_is_on_the_map() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    folders = {path.parent.name for path in (ROOT / "sessionlock").glob("*/__init__.py")}
    assert {folder for folder in folders if f"  {folder}/ " not in text} == set()
