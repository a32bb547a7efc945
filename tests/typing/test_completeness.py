"""How much of what the package exports has types that a checker of a user's can tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.harness import import_path

pytestmark = [pytest.mark.server, pytest.mark.slow]

FLOOR = 0.85  # it may only rise


def test_exported_types_are_known() -> None:
    pytest.importorskip("basedpyright")
    command = ["--pythonpath", sys.executable, "--verifytypes", "sessionlock", "--ignoreexternal", "--outputjson"]
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": import_path()},
    )
    assert json.loads(done.stdout)["typeCompleteness"]["completenessScore"] >= FLOOR
