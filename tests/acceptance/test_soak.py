"""A few seconds of the soak; ``python -m tests.soak`` runs the whole minute."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sessionlock

pytestmark = [pytest.mark.server, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_five_seconds_of_the_soak() -> None:
    """4 processes, mixed modes: every acknowledged counter step, cart item and flash message is there, once."""
    paths = (Path(sessionlock.__file__).parent.parent, ROOT)
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--seconds", "5", "--processes", "4", "--sessions", "6"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "\n0 violations\n" in said
    for mode in ("lock", "lock, immediate", "optimistic", "last_write_wins", "transaction", "incr", "incr in lock"):
        assert f"  {mode}: done " in said, said
