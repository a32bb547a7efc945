"""What type checkers see of a view that ``@session_locked`` decorated: what the framework calls it with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sessionlock

pytestmark = pytest.mark.server

VIEWS = """
from sessionlock import Session, cookie, session_locked

locked = session_locked(cookie("s"))

@locked
async def request_and_session(request, session): return 1

@locked
async def only_request(request): return 1

@locked
async def three(request, session, item): return 1

@locked
async def annotated(request: int, session: Session) -> int: return 1

@locked
async def session_first(session: Session, x: int) -> int: return 1

@locked
async def only_session(session: Session) -> int: return 1

class View:
    @locked
    async def get(self, request, session): return 1

    @locked
    async def post(self, request: int, session: Session) -> int: return 1

reveal_type(request_and_session)
reveal_type(only_request)
reveal_type(three)
reveal_type(annotated)
reveal_type(session_first)
reveal_type(only_session)
reveal_type(View().get)
reveal_type(View().post)
"""
BARE = ["(Any)", "(Any)", "(Any, item: Unknown)", "(int)", "(x: int)", "()", "(Any)", "(int)"]


def run(module: str, *words: str, folder: Path) -> str:
    (folder / "views.py").write_text(VIEWS)
    # An editable install is found by a hook, which type checkers do not run.
    found = {**os.environ, "PYTHONPATH": str(Path(sessionlock.__file__).parents[1])}
    command = [sys.executable, "-m", module, *words, "views.py"]
    done = subprocess.run(command, cwd=folder, env=found, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_pyright(tmp_path: Path) -> None:
    pytest.importorskip("basedpyright")
    said = run("basedpyright", "--pythonpath", sys.executable, folder=tmp_path)
    assert re.findall(r'Type of "[\w().]+" is "(\(.*?\)) -> ', said) == BARE, said


def test_mypy(tmp_path: Path) -> None:
    """What is not annotated, mypy does not look at; what is, comes out without its session."""
    said = run("mypy", "--check-untyped-defs", folder=tmp_path)
    seen = [re.sub(r" -> .*", "", line) for line in re.findall(r'Revealed type is "def (.*)"', said)]
    assert "error" not in said, said
    assert [seen[place] for place in (3, 4, 5, 7)] == ["(int)", "(x: int)", "()", "(int)"], said
