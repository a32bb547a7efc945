"""What type checkers see of a face's options and decorators: mistakes are found, right ones are not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sessionlock

pytestmark = pytest.mark.server

PROGRAM = """
from aiohttp import web
from flask import Flask
from quart import Quart
from starlette.applications import Starlette

from sessionlock.integrations.aiohttp import setup
from sessionlock.integrations.asgi import SessionLockMiddleware
from sessionlock.integrations.django import locks_session as locks_view
from sessionlock.integrations.flask import SessionLock, locks_session, session_policy
from sessionlock.integrations.quart import SessionLock as QuartLock

SessionLock(Flask("x"), "memory://", wait=3, mode="lock", routes={"/a": "read"})
QuartLock(Quart("x"), guard="memory://", lease=5, identity=["who"])
setup(web.Application(), cookie="sid", save_on_error=True)
Starlette().add_middleware(SessionLockMiddleware, guard="memory://", on_conflict="answer", body_limit=0)

@locks_session
def plain(item: int) -> str: return ""

@locks_view(wait=1, lease=3)
def with_options(item: int) -> str: return ""

@session_policy("read", on_conflict="answer")
def by_policy(item: int) -> str: return ""

reveal_type(plain)
reveal_type(with_options)
reveal_type(by_policy)
"""
MISTAKES = """
SessionLock(Flask("x"), wiat=3)
QuartLock(Quart("x"), wait="3")
setup(web.Application(), mode="locked")
Starlette().add_middleware(SessionLockMiddleware, lease="5")
locks_session(wiat=1)
session_policy(on_conflict="twice")
"""


@pytest.mark.parametrize("checker", [("mypy",), ("basedpyright", "--pythonpath", sys.executable)], ids=lambda c: c[0])
def test_options_and_decorators(checker: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip(checker[0])
    (tmp_path / "program.py").write_text(PROGRAM + MISTAKES)
    # An editable install is found by a hook, which type checkers do not run.
    found = {**os.environ, "PYTHONPATH": str(Path(sessionlock.__file__).parents[1])}
    command = [sys.executable, "-m", *checker, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=found, capture_output=True, text=True, timeout=240)
    said = done.stdout + done.stderr
    assert len(re.findall(r"\(item: int\) -> str", said)) == 3, said
    first = PROGRAM.count("\n") + 2
    wrong = {int(line) for line in re.findall(r"program\.py:(\d+)(?::\d+)?(?::| -) error", said)}
    assert wrong == set(range(first, first + MISTAKES.count("\n") - 1)), said
