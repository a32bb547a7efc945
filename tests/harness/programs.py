"""A program of a few lines, run by a new Python on the very package that is tested here."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.harness import import_path

__all__ = ["run_program"]


def run_program(*words: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """``run_program("-c", text, url)``; its status is for the test to judge."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PYTHONPATH": import_path()},
    )
