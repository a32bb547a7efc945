"""What was measured, kept as JSON: the pages are made of it, and a benchmark that is run again replaces its own."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from benchmarks.report import Report

__all__ = ["RESULTS", "Results", "made_here"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results.json"


class Results:
    """Reports by benchmark, then by server."""

    def __init__(self, reports: dict[str, dict[str, Report]]) -> None:
        self._reports = reports

    @classmethod
    def load(cls, path: Path = RESULTS) -> Results:
        """What the file holds; nothing, where there is none."""
        told = json.loads(path.read_text()) if path.exists() else {}
        return cls({name: {server: Report.from_dict(one) for server, one in of.items()} for name, of in told.items()})

    def save(self, path: Path = RESULTS) -> None:
        told = {name: {server: one.as_dict() for server, one in of.items()} for name, of in self._reports.items()}
        path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")

    def put(self, server: str, report: Report) -> None:
        self._reports.setdefault(report.name, {})[server] = report

    def of(self, name: str) -> dict[str, Report]:
        """By server, in the order in which they were measured first; empty for a benchmark that was not run."""
        return self._reports.get(name, {})

    def first(self, name: str) -> Report:
        """Of the first server.

        Raises:
            LookupError: it was not run.
        """
        for report in self.of(name).values():
            return report
        raise LookupError(f"benchmark {name} was not run yet")

    @property
    def all(self) -> list[tuple[str, Report]]:
        """(server, report), benchmark by benchmark."""
        return [(server, report) for of in self._reports.values() for server, report in of.items()]


def made_here() -> str:
    """When, on what, and of which commit something is measured now."""
    changed = _git("status", "--porcelain", "--", "sessionlock", "benchmarks/*.py")
    return ", ".join(
        [
            f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
            f"commit {_git('rev-parse', '--short', 'HEAD') or 'unknown'}{' and changes' if changed else ''}",
            f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            f"Python {platform.python_version()}",
            f"redis-py {version('redis')}",
        ]
    )


def _git(*words: str) -> str:
    """What git says; nothing, outside of a checkout."""
    with suppress(OSError):
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
    return ""
