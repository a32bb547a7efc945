"""The examples run as they stand, each on a private server of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sessionlock

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


def run(example: str, *arguments: str) -> str:
    """Run it as a user would, warnings being errors; what it prints."""
    env = {**os.environ, "PYTHONPATH": str(Path(sessionlock.__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "examples" / example), *arguments],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout


LOST = "unguarded     1 of 2 products, 1 of 2 messages, 5 + 1 + 1 = 6"


@pytest.mark.server
def test_three_losses() -> None:
    said = run("three_losses.py", "embedded://").splitlines()
    assert said[0] == LOST
    assert [line.split()[0] for line in said[1:]] == ["locked", "optimistic", "transaction"]
    for line in said[1:]:
        assert line.split(maxsplit=1)[1] == "2 of 2 products, 2 of 2 messages, 5 + 1 + 1 = 7"


def test_three_losses_on_another_server(redis_url: str) -> None:
    assert run("three_losses.py", redis_url).startswith(LOST)


def test_the_guarantees_link_to_what_exists() -> None:
    """Files that the text on guarantees names are there."""
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:tests|examples|docs|sessionlock)/[\w/.]+)`", text)
    assert named
    for name in named:
        assert (ROOT / name).exists(), name
