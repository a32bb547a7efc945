"""Captures of real applications (``tests/audit/record.py`` made them): found is what a checker counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sessionlock.audit.detector import Detector
from sessionlock.audit.verdict import Verdict

CAPTURES = Path(__file__).parent / "captures"
COUNTED: dict[str, dict[str, int]] = json.loads((CAPTURES / "counted.json").read_text())
LOSES = [name for name, counted in COUNTED.items() if any(counted.values())]
FORMS = {
    "aiohttp-session": "JSON",
    "django": "pickle",
    "django-asgi": "pickle",
    "django-rolling": "pickle",
    "express": "JSON",
    "express-rolling": "JSON",
    "flask-session": "msgpack",
    "litestar": "JSON",
    "php": "PHP",
    "starsessions": "JSON",
}


def replayed(name: str) -> Verdict:
    detector = Detector()
    for line in (CAPTURES / f"{name}.monitor").read_bytes().splitlines():
        detector.feed(line)
    return detector.finish()


def test_every_capture_was_counted() -> None:
    assert {path.stem for path in CAPTURES.glob("*.monitor")} == COUNTED.keys()
    assert set(LOSES) == FORMS.keys()


@pytest.mark.parametrize("name", LOSES)
def test_found_is_what_was_counted(name: str) -> None:
    """Those that came back are not lost in the end."""
    verdict = replayed(name)
    found = {field.rpartition(".")[2]: of.sure + of.likely - of.came_back for field, of in verdict.tally.fields.items()}
    # Of numbers that requests on one connection have counted, which one had read which is not always to be told.
    near = 1 if name.startswith("express") else 0
    assert found.keys() == COUNTED[name].keys()
    assert all(abs(found[field] - count) <= near * (field == "visits") for field, count in COUNTED[name].items()), found
    # Where one connection serves all requests, and a session is wanted all the time, nothing is sure.
    assert verdict.told == ("likely" if name == "express-rolling" else "loses")
    assert (verdict.strange, verdict.locks_seen) == (0, 0)
    assert FORMS[name] in verdict.tally.forms


@pytest.mark.parametrize("name", sorted(COUNTED.keys() - set(LOSES)))
def test_nothing_is_found_where_nothing_was_lost(name: str) -> None:
    """Under PHP's lock; under ours, in every mode."""
    verdict = replayed(name)
    assert (verdict.told, verdict.lost) == ("none", 0)
    assert verdict.tally.judged >= 1
    assert verdict.locks_seen >= 1
