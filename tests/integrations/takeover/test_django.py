"""A Django site is switched over, from each of Django's own session engines."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import import_path

BACKENDS = "django.contrib.sessions.backends"


@pytest.mark.parametrize("engine", ["db", "cache", "cached_db", "file", "signed_cookies"])
def test_switching_over(engine: str, redis_url: str, tmp_path: Path) -> None:
    """Nobody is logged out, a logout is not undone; and old nodes may go on beside new ones."""
    command = [sys.executable, "-m", "tests.harness.django_takeover", f"{BACKENDS}.{engine}", redis_url, str(tmp_path)]
    path = import_path(os.environ.get("PYTHONPATH", ""))
    ended = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, ""), ended.stdout + ended.stderr
